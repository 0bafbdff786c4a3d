"""The rooms of the house: links, packages, file sizes, and nothing that only one machine understands."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("rewards", "samplers", "analysis")
FOLDERS = {".ci", "analysis", "benchmarks", "docs", "examples", "rewards", "rlkit", "samplers", "tests"}
MOST_LINES = 600
TEXT = {"", ".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".json", ".jsonl", ".cfg", ".sh", ".html", ".csv"}
# ~/.cache means the same on every machine
MACHINE_PATH = re.compile(r"(?<![\w.])/(work|root|home|Users)/|~/(?=\w)")


def tracked() -> list[Path]:
    """Files that git knows; a link stands for itself."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.exists()]


def python_files() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py"]


def setuptools_table() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_a_folder_at_the_root_and_a_link_in_the_package(room: str):
    link = ROOT / "rlkit" / room
    assert link.is_symlink() and link.readlink() == Path("..") / room
    assert (ROOT / room).is_dir() and not (ROOT / room).is_symlink()


def test_every_sub_package_is_in_the_wheel():
    folders = {ROOT / "rlkit", *(path.parent for path in (ROOT / "rlkit").rglob("*.py"))}
    folders |= {
        ROOT / "rlkit" / path.parent.relative_to(ROOT)
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
    }
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    table = setuptools_table()
    assert set(table["packages"]) == packages, "pyproject.toml, [tool.setuptools] packages"
    assert table["package-dir"] == {"rlkit": "rlkit", **{f"rlkit.{room}": room for room in ROOMS}}
    assert all((folder / "__init__.py").exists() for folder in folders)


def test_no_room_is_imported_by_its_bare_name():
    """`import rewards` works by accident at the root, and loads every class twice."""
    wrong = []
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            wrong += [
                f"{path.relative_to(ROOT)}:{node.lineno}" for name in names if name.split(".")[0] in ROOMS
            ]
    assert not wrong, f"write `from rlkit.rewards import ...` in {wrong}"


def test_no_file_is_called_utils():
    found = [
        str(path.relative_to(ROOT))
        for path in python_files()
        if path.stem in ("utils", "util", "helpers", "misc")
    ]
    assert not found, f"name these after what they do: {found}"


def test_no_file_is_longer_than_one_story():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in python_files()}
    long = {name: lines for name, lines in lengths.items() if lines > MOST_LINES}
    assert not long, f"over {MOST_LINES} lines, to be split: {long}"


def test_no_text_names_a_place_on_one_machine():
    wrong = []
    for path in tracked():
        if path.is_symlink() or path.suffix not in TEXT:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
            if MACHINE_PATH.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not wrong, "\n".join(["", *wrong])


@pytest.mark.parametrize(
    "line", ["see /" + "work/x", "'/" + "root/.venv'", "/" + "home/me/models", "~/" + "models"]
)
def test_such_a_place_is_recognised(line: str):
    assert MACHINE_PATH.search(line)


@pytest.mark.parametrize("line", ["~/.cache/rlkit", "https://x.org/home/page", "runs/home/a", "a ~ b / c"])
def test_other_paths_are_left_alone(line: str):
    assert not MACHINE_PATH.search(line)


def test_the_folders_at_the_root_are_the_agreed_ones():
    found = {path.relative_to(ROOT).parts[0] for path in tracked() if path.parent != ROOT}
    assert found <= FOLDERS, f"a new folder at the root: {found - FOLDERS}"
