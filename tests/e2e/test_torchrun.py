"""`torchrun -m rlkit`: two processes make the run that one makes, end together, and only one of them writes and speaks."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlkit.analysis.store import read_metrics, read_rollouts
from rlkit.cli import main
from tests.models import save_tiny_model
from tests.unit.test_loop import CLOCK

ROOT = Path(__file__).parents[2]
PATIENCE = 200.0
"""Seconds for anything that is waited for, on a machine that is busy."""
SMALL = (
    "--data task:chain --data.pool 6 --reward tests.verdicts:Checksum --reward.workers 0 --num-generations 4 --sampler hf "
    "--learning-rate 1e-3 --micro-batch-tokens 150 --show-every 0 --no-tensorboard --prompts-per-step 4 "
    "--mini-batches 2 --max-completion-length 8 --seed 5"
).split()
OVERLAP = ["0", "1"]
"""--async-steps: without, and with the next step's rollouts in a thread beside the update."""
FOUR = ["--steps", "4", "--save-every", "2", "--eval-every", "2", "--eval-prompts", "3"]


class Torchrun:
    """`torchrun --nproc-per-node 2 -m rlkit ...` in `folder`."""

    def __init__(self, folder: Path, *args: str, **env: str) -> None:
        self.log = folder / "log"
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "2",
            "--master-port",
            "0",
        ]
        self.process = subprocess.Popen(
            [*command, "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "-m", "rlkit", *args],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | env,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_for(self, done: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE
        while not done():
            assert self.process.poll() is None and time.monotonic() < until, self.log.read_text()
            time.sleep(0.05)

    def rank(self, rank: int) -> int:
        """Its process id."""
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                found = path.read_bytes().split(b"\0")
                parent = int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it ended just now
                continue
            if f"RANK={rank}".encode() in found and parent == self.process.pid:
                return int(path.parent.name)
        raise AssertionError(f"no rank {rank}")

    def end(self) -> tuple[int, list[str]]:
        """The exit code, and what rlkit itself said in the end."""
        code = self.process.wait(PATIENCE)
        self.log_lines = self.log.read_text().splitlines()
        return code, [line for line in self.log_lines if line.startswith("rlkit: ")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tiny_model(tmp_path / "model", seed=3)
    (tmp_path / "sad.py").write_text(SAD)
    return tmp_path


def assert_same_run(one: Path, other: Path) -> None:
    """The same numbers and the same rollouts, as far as floats allow."""
    for a, b in zip(read_metrics(one), read_metrics(other), strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"read_tokens"}:  # prefixes are shared within a rank
            if not name.startswith(CLOCK):
                assert b[name] == pytest.approx(a[name], rel=1e-5, abs=1e-5), name
    for step in range(1, 5):
        rows = zip(read_rollouts(one, step), read_rollouts(other, step), strict=True)
        for a, b in rows:
            assert (a["token_ids"], a["score"]) == (b["token_ids"], b["score"])
    ours, theirs = ([json.loads(line) for line in (r / "evaluations.jsonl").open()] for r in (one, other))
    assert ours == theirs


@pytest.mark.parametrize(
    "extra",
    [
        [],
        pytest.param(["--shard", "fsdp2"], marks=pytest.mark.slow),
        pytest.param(["--shard", "fsdp2", "--lora-rank", "4", "--beta", "0.1"], marks=pytest.mark.slow),
        pytest.param(["--algo", "skpo", "--beta", "0.1"], marks=pytest.mark.slow),
        pytest.param(["--sampler", "vllm", "--max-prompt-length", "64"], marks=pytest.mark.slow),
        pytest.param(["--async-steps", "1"], marks=pytest.mark.slow),
        pytest.param(["--async-steps", "2", "--shard", "fsdp2", "--algo", "skpo"], marks=pytest.mark.slow),
        pytest.param(
            ["--async-steps", "1", "--sampler", "vllm", "--max-prompt-length", "64"], marks=pytest.mark.slow
        ),
    ],
    ids=["copied", "divided", "adapters", "skpo", "vllm", "overlapped", "overlapped skpo", "overlapped vllm"],
)
def test_a_run_of_two_processes_is_the_run_of_one(
    extra: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "vllm" in extra:
        pytest.importorskip("vllm", reason="vLLM is not installed")
    args = ["train", "--model", "model", *SMALL, *FOUR, *extra]
    running = Torchrun(folder, *args, "--output-dir", "two")
    monkeypatch.chdir(folder)
    alone = [a for a in args if a not in ("--shard", "fsdp2")]
    assert main([*alone, "--output-dir", "one"]) == 0
    code, said = running.end()
    assert (code, said) == (0, []), running.log.read_text()
    assert_same_run(folder / "one", folder / "two")
    assert sum("4 steps, " in line for line in running.log_lines) == 1, "one rank speaks"
    assert sorted(p.name for p in folder.iterdir()) == ["log", "model", "one", "sad.py", "two"]
    made = [
        sorted(p.relative_to(r).as_posix() for p in r.rglob("*")) for r in (folder / "one", folder / "two")
    ]
    assert made[0] == made[1]


@pytest.mark.slow
@pytest.mark.parametrize("async_steps", OVERLAP)
def test_a_resumed_run_of_two_processes_is_the_run_that_never_stopped(async_steps: str, folder: Path) -> None:
    args = ["train", "--model", "model", *SMALL, *FOUR, "--shard", "fsdp2", "--async-steps", async_steps]
    for run in (
        [*args, "--output-dir", "whole"],
        [*args, "--output-dir", "parts", "--steps", "2"],
        ["train", "--resume", "parts", "--steps", "4"],
    ):
        assert Torchrun(folder, *run).end()[0] == 0
    last = "checkpoints/step-000004"
    for file in ("model.safetensors", "rlkit/optimizer.safetensors"):
        whole, parts = (load_file(folder / run / last / file) for run in ("whole", "parts"))
        assert all(torch.equal(t, parts[n]) for n, t in whole.items())
    assert read_metrics(folder / "whole")[-1]["loss"] == read_metrics(folder / "parts")[-1]["loss"]
    ages = [line["staleness"] for line in read_metrics(folder / "parts")]
    assert ages == [min(2.0 * step, 2.0 * int(async_steps)) for step in range(4)], "two updates a step"


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 2])
def test_a_run_goes_on_with_another_number_of_processes(
    first: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps by so many, two more by the other number: the run of one process, as far as floats allow."""
    monkeypatch.chdir(folder)
    args = ["train", "--model", "model", *SMALL, *FOUR]
    assert main([*args, "--output-dir", "whole"]) == 0
    for ranks, turn in (
        (first, [*args, "--output-dir", "parts", "--steps", "2"]),
        (3 - first, ["train", "--resume", "parts", "--steps", "4"]),
    ):
        if ranks == 1:
            assert main(turn) == 0
        else:
            running = Torchrun(folder, *turn)
            assert running.end() == (0, []), running.log.read_text()
    assert_same_run(folder / "whole", folder / "parts")


SAD = """
import os
from rlkit.algo_presets import GrpoConfig
from rlkit.algos.family import Family
from rlkit.errors import RolloutError

class Algo(Family):
    Config = GrpoConfig
    def loss(self, batch, out):
        if os.environ["RANK"] == "1" and "SAD" in os.environ:
            raise RolloutError("rank 1 is sad")
        return super().loss(batch, out)
"""
"""An algorithm that fails on one rank, in the middle of what all do together."""


@pytest.mark.slow
@pytest.mark.parametrize("async_steps", OVERLAP)
def test_an_error_on_one_rank_ends_all_with_its_sentence(async_steps: str, folder: Path) -> None:
    began = time.monotonic()
    more = ["--algo", "sad.py:Algo", "--async-steps", async_steps, "--output-dir", "run"]
    running = Torchrun(folder, "train", "--model", "model", *SMALL, *more, SAD="1")
    code, said = running.end()
    assert code != 0 and said == ["rlkit: rank 1 is sad"], running.log.read_text()
    assert time.monotonic() - began < PATIENCE / 2, "nobody waits for a time-out"


ENDLESS = ["--steps", "100000", "--output-dir", "run"]


@pytest.mark.slow
@pytest.mark.parametrize("async_steps", OVERLAP)
def test_a_rank_that_is_killed_is_missed(async_steps: str, folder: Path) -> None:
    running = Torchrun(folder, "train", "--model", "model", *SMALL, *ENDLESS, "--async-steps", async_steps)
    running.wait_for(
        lambda: (folder / "run/metrics.jsonl").exists() and len(read_metrics(folder / "run")) > 1
    )
    os.kill(running.rank(1), signal.SIGKILL)
    code, said = running.end()
    assert code != 0 and len(said) <= 1
    assert all(line.startswith("rlkit: rank 0 of 2 lost another rank (") for line in said)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "async_steps"), [("torchrun", "0"), ("rank 0", "0"), ("rank 1", "0"), ("rank 1", "1")]
)
def test_a_signal_to_one_stops_all_after_the_same_step(to: str, async_steps: str, folder: Path) -> None:
    running = Torchrun(folder, "train", "--model", "model", *SMALL, *ENDLESS, "--async-steps", async_steps)
    running.wait_for(
        lambda: (folder / "run/metrics.jsonl").exists() and len(read_metrics(folder / "run")) > 1
    )
    os.kill(running.process.pid if to == "torchrun" else running.rank(int(to[-1])), signal.SIGINT)
    _, said = running.end()
    steps = len(read_metrics(folder / "run"))
    assert said == [f"rlkit: stopped after step {steps}; continue with `rlkit train --resume run`"], (
        running.log.read_text()
    )
    assert sorted(p.name for p in (folder / "run/checkpoints").iterdir()) == ["latest", f"step-{steps:06d}"]


def test_accelerates_own_settings_are_not_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert main(["train", "--model", "model", *SMALL]) == 2
    assert "divide the model with --learner.shard fsdp2" in capsys.readouterr().err
