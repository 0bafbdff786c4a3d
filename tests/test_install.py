"""The wheel holds every room, built from a checkout with its links, from an archive without, and from the sdist."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
ROOMS = ("rewards", "samplers", "analysis")
LINKS = [f"rlkit/{room}" for room in ROOMS]


def call(*args: object, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *map(str, args)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def copy_of_the_source(folder: Path, links: str) -> Path:
    """What a checkout or an archive holds, with the three links kept, dropped, or as zip leaves them: small text files."""
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("rlkit", *ROOMS):
        shutil.copytree(
            ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for link in LINKS:
        if links != "kept":
            (folder / link).unlink()
        if links == "text":
            (folder / link).write_text(f"../{Path(link).name}")
    return folder


def modules() -> set[str]:
    """All python files by their place in the installed package."""
    own = [path for path in (ROOT / "rlkit").rglob("*.py") if not any(p.is_symlink() for p in path.parents)]
    found = {path.relative_to(ROOT).as_posix() for path in own}
    return found | {
        f"rlkit/{p.relative_to(ROOT).as_posix()}" for room in ROOMS for p in (ROOT / room).rglob("*.py")
    }


def build_wheel(source: Path, folder: Path) -> Path:
    args = ("wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, source)
    call("-m", "pip", *args, cwd=folder.parent)
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if name.endswith(".py")} == modules()
    assert "rlkit/py.typed" in names
    tops = {name.split("/")[0] for name in names}
    assert {re.sub(r"^rlvrkit-.*\.dist-info$", "dist-info", top) for top in tops} == {"rlkit", "dist-info"}
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)


@pytest.mark.parametrize("links", ["kept", "text", "dropped"])
def test_the_wheel_holds_every_room(tmp_path: Path, links: str):
    check_wheel(build_wheel(copy_of_the_source(tmp_path / "source", links), tmp_path / "wheels"))


def test_an_installed_copy_imports_every_room(tmp_path: Path):
    """Not the checkout's: the rooms come from the folder pip installed to."""
    wheel = build_wheel(copy_of_the_source(tmp_path / "source", "dropped"), tmp_path / "wheels")
    site = tmp_path / "site"
    call("-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", site, wheel, cwd=tmp_path)
    program = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import rlkit, rlkit.rewards, rlkit.samplers, rlkit.analysis, rlkit.algos, rlkit.tasks\n"
        "from importlib.metadata import version\n"
        "rooms = [rlkit, rlkit.rewards, rlkit.samplers, rlkit.analysis, rlkit.algos, rlkit.tasks]\n"
        "print(rlkit.__version__ == version('rlvrkit'), *[room.__file__ for room in rooms], sep='\\n')\n"
    )
    same, *files = call("-I", "-c", program, cwd=tmp_path).split()
    assert same == "True"
    assert all(Path(file).is_relative_to(site) for file in files), files


def test_the_sdist_holds_every_room(tmp_path: Path):
    source = copy_of_the_source(tmp_path / "source", "kept")
    call("-c", "from setuptools import build_meta; build_meta.build_sdist('../dist')", cwd=source)
    (archive,) = (tmp_path / "dist").glob("rlvrkit-*.tar.gz")
    shutil.unpack_archive(archive, tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    check_wheel(build_wheel(unpacked, tmp_path / "wheels"))


def pinned(path: str) -> dict[str, str]:
    """Name -> version, of a list written by `make lock`."""
    lines = [
        line.split(" ;")[0] for line in (ROOT / path).read_text().splitlines() if not line.startswith("#")
    ]
    return {name: version for name, version in (line.split("==") for line in lines)}


def test_the_lists_for_a_machine_without_a_gpu_fit_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    run, test = pinned("requirements-cpu.txt"), pinned("requirements-cpu-test.txt")
    for wanted, versions in (
        (project["dependencies"] + extras["vllm-cpu"], run),
        (extras["test"], run | test),
    ):
        for requirement in map(Requirement, wanted):
            version = versions.get(canonicalize_name(requirement.name), "none")
            assert version != "none" and version in requirement.specifier, (
                f"{requirement}, listed: {version}; run `make lock`"
            )
    assert not run.keys() & test.keys()
    assert not {"torchvision", "torchaudio", "torchcodec"} & (run | test).keys()
    assert "triton" in test, "the lean install goes without"
