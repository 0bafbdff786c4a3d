"""The adapters beside the real packages of other projects, fetched for this test; TRL's are in tests/unit/test_adapters.py.

Neither is a dependency of rlkit. verifiers 0.1.14, with its Rubric, and skyrl-gym run on what rlkit pins, so what they ask
for beside is left out but for one package each. verifiers 0.4.0, with its tasks, asks for another openai: it gets a place of its own.
"""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "verifiers": ["verifiers==0.1.14", "tenacity==9.2.1"],
    "skyrl_gym": ["skyrl-gym==0.4.0", "func_timeout==4.3.5"],
}


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_the_real_package_s_own_scores_are_the_adapter_s(tmp_path: Path, package: str) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path)]
    fetched = subprocess.run([*pip, *PACKAGES[package]], capture_output=True, text=True)
    if fetched.returncode != 0:
        pytest.skip(f"{package} cannot be fetched here: {fetched.stderr[-200:]}")
    done = subprocess.run(
        [sys.executable, "tests/peer_packages.py", package],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "equal"


@pytest.mark.slow
def test_a_task_of_verifiers_0_4_scores_as_it_says(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=120)
    python = str(tmp_path / "venv" / "bin" / "python")
    needed = [f"{name}=={version(name)}" for name in ("math-verify", "docstring-parser", "typeguard")]
    pip = [python, "-m", "pip", "install", "--quiet", "verifiers==0.4.0", *needed]
    fetched = subprocess.run(pip, capture_output=True, text=True)
    if fetched.returncode != 0:
        pytest.skip(f"verifiers 0.4.0 cannot be fetched here: {fetched.stderr[-200:]}")
    done = subprocess.run(
        [python, "tests/peer_packages.py", "task"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "equal"
