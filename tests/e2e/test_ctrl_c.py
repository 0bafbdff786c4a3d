"""Ctrl-C and SIGTERM on real runs: the step is finished and kept, the person is told how to go on, nothing is left behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlkit.analysis.store import read_metrics
from rlkit.cli import main
from tests.bad_inputs import SMALL, STOPS
from tests.models import save_tiny_model
from tests.processes import require_gone

ROOT = Path(__file__).parents[2]
RUN = [*SMALL.split(), "--steps", "100000", "--no-rollouts"]
SENTENCES = {stop.what: stop.message for stop in STOPS}
PATIENCE = 100.0
"""Seconds for anything that is waited for, on a machine that is busy."""

REWARD = """
import time
from pathlib import Path

HERE = Path(__file__).parent  # a verifier judges in a folder of its own

def score(prompt, text):
    if (HERE / "hold").exists() and not text.startswith("\\\\boxed"):
        (HERE / "held").touch()
        time.sleep(600)
    return 1.0
"""
"""Once the file `hold` is there, every answer but the pre-flight's gold one takes for ever."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tiny_model(tmp_path / "model", seed=0, tied=True)
    (tmp_path / "reward.py").write_text(REWARD)
    (tmp_path / "slow_start.py").write_text("import time\nopen('started', 'w').close()\ntime.sleep(600)\n")
    return tmp_path


class Running:
    """`rlkit train` in a process group of its own, as a terminal starts it."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.log = folder / "log"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rlkit", "train", *args],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=self.log.open("w"),
            start_new_session=True,
        )

    def wait_for(self, what: str | Callable[[], bool]) -> None:
        """Until its log holds a text, or something is so."""
        is_so = what if callable(what) else lambda: what in self.log.read_text()
        until = time.monotonic() + PATIENCE
        while not is_so():
            assert self.process.poll() is None and time.monotonic() < until, self.log.read_text()
            time.sleep(0.02)

    def interrupt(self) -> None:
        """As Ctrl-C does: the whole group of the terminal gets it."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> tuple[int, str]:
        """Its exit code and its last line."""
        code = self.process.wait(PATIENCE)
        told = self.log.read_text()
        assert "Traceback" not in told, told
        return code, told.strip().split("\n")[-1]

    def children(self) -> list[int]:
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                _, parent = stat.read_text().rpartition(")")[2].split()[:2]
            except OSError:  # it ended just now
                continue
            if int(parent) == self.process.pid:
                found.append(int(stat.parent.name))
        return found


def said(line: str, what: str) -> bool:
    return re.fullmatch("rlkit: " + re.escape(SENTENCES[what]).replace(r"\.\.\.", ".*"), line) is not None


def last_step(run: Path) -> int:
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    return int(json.loads((newest / "rlkit/state.json").read_text())["step"])


def test_ctrl_c_keeps_the_step_and_the_run_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch):
    run = folder / "runs/a"
    steps = [0]
    for send in ("Ctrl-C", "SIGTERM"):
        new = [*RUN, "--output-dir", "runs/a"] if send == "Ctrl-C" else ["--resume", "runs/a"]
        running = Running(folder, *new)
        running.wait_for(lambda: (run / "metrics.jsonl").exists() and len(read_metrics(run)) > steps[-1])
        children = running.children()
        assert children, "the verifier's process"
        if send == "Ctrl-C":
            running.interrupt()
        else:
            running.process.terminate()
        code, line = running.end()
        assert code == 130 and said(line, "once, in a step"), line
        assert "stopping after this step, with a checkpoint" in running.log.read_text()
        require_gone(children)
        steps.append(last_step(run))
        assert steps[-1] == len(read_metrics(run)) > steps[-2]
        assert f"stopped after step {steps[-1]}; continue with `rlkit train --resume runs/a`" in line
    monkeypatch.chdir(folder)
    assert main(["train", "--resume", "runs/a", "--steps", str(steps[-1] + 1)]) == 0
    assert [row["step"] for row in read_metrics(run)] == list(range(1, steps[-1] + 2))


def test_a_second_ctrl_c_ends_the_run_at_once(folder: Path):
    args = [
        *RUN,
        "--reward",
        "reward.py:score",
        "--timeout",
        "1000",
        "--save-every",
        "1",
        "--output-dir",
        "runs/b",
    ]
    running = Running(folder, *args)
    running.wait_for("grpo 1/")
    (folder / "hold").touch()
    running.wait_for((folder / "held").exists)
    children = running.children()
    running.interrupt()
    running.wait_for("stopping after this step")
    assert running.process.poll() is None
    running.interrupt()
    code, line = running.end()
    assert code == 130 and said(line, "twice, after a checkpoint"), line
    require_gone(children)


def test_ctrl_c_before_the_first_step(folder: Path):
    (folder / "hold").touch()
    args = [*RUN, "--reward", "reward.py:score", "--timeout", "1000", "--output-dir", "runs/c"]
    running = Running(folder, *args)
    running.wait_for((folder / "held").exists)
    children = running.children()
    running.interrupt()
    code, line = running.end()
    assert code == 130 and said(line, "before the first step"), line
    require_gone(children)


def test_ctrl_c_while_it_starts(folder: Path):
    running = Running(folder, *RUN, "--algo", "slow_start.py:Algo")
    running.wait_for((folder / "started").exists)
    running.interrupt()
    code, line = running.end()
    assert (code, said(line, "while it starts")) == (130, True), line
    assert not (folder / "runs").exists()
