"""A run that is killed in every phase of a step is the run that never stopped. The whole campaign: python -m tests.faults.kills."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.kills import ONE_THREAD, PHASES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("algo", "sampler", "kills", "async_steps"),
    [
        ("skpo", "hf", 2, 0),
        pytest.param("grpo", "hf", 10, 0, marks=pytest.mark.slow),
        pytest.param("grpo", "vllm", 5, 0, marks=pytest.mark.slow),
        pytest.param("grpo", "hf", 10, 1, marks=pytest.mark.slow),
        pytest.param("skpo", "vllm", 5, 1, marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_is_the_run_that_never_stopped(
    algo: str, sampler: str, kills: int, async_steps: int
) -> None:
    if sampler == "vllm":
        pytest.importorskip("vllm", reason="vLLM is not installed")
    arguments = ["--algo", algo, "--sampler", sampler, "--kills", str(kills), "--steps", str(6 + 3 * kills)]
    arguments += ["--async-steps", str(async_steps)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.kills", *arguments],
        cwd=ROOT,
        env=os.environ | ONE_THREAD | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "equal, bit for bit" in done.stdout and "DIFFERS" not in done.stdout
    hits = {phase: int(re.search(rf"{phase} (\d+)", done.stdout)[1]) for phase in PHASES}  # type: ignore[index]
    assert sum(hits.values()) >= kills or "between" in done.stdout
    if kills >= 2 * len(PHASES):
        assert all(hits.values()), hits
