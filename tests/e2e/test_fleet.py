"""`rlkit train` with a fleet of servers: killed at random, all gone, started by the run. The servers are real processes; most
are the tests' own (tests/fake_server.py), which start in a moment."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from rlkit.analysis.store import read_metrics, read_rollouts
from rlkit.cli import main
from rlkit.samplers.servers import Address, announce
from tests.fakes import KEY, ROOT, Fakes, child_of, wait_for
from tests.models import save_tiny_model
from tests.processes import descendants, require_gone

SMALL = (
    "--model model --data task:chain --data.pool 12 --reward tests.verdicts:Checksum --reward.workers 0 --num-generations 4 "
    "--learning-rate 1e-3 --show-every 0 --no-tensorboard --prompts-per-step 4 --max-completion-length 8 --eval-prompts 2 "
    "--max-prompt-length 64 --dtype float32 --seed 5"
).split()
PATIENCE = 240.0
"""Seconds for anything that is waited for, on a machine that is busy."""
SERVERS = ["--sampler", "vllm-server", "--sampler.urls", "@servers.jsonl"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_tiny_model(tmp_path / "model", seed=0, tied=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start_fakes(folder: Path, replicas: int, **environment: str) -> Fakes:
    """Fake servers, as somebody else starts them, with the file that tells where they are."""
    fakes = Fakes(folder, folder / "model", 64, "weights of nobody", **environment)
    fakes.launch(replicas - 1)
    for number in range(replicas):
        announce(folder / "servers.jsonl", Address(fakes.start(number).url, KEY))
    return fakes


def port_of(fakes: Fakes, number: int) -> int:
    return int(fakes.now(number).url.rpartition(":")[2])


@pytest.mark.slow
def test_twenty_random_kills_in_thirty_steps_lose_and_double_nothing(folder: Path) -> None:
    fakes = start_fakes(folder, 3, FAKE_SECONDS="0.02")
    done = threading.Event()
    kills = 0

    def kill_at_random() -> None:
        """With the servers' own supervisor, who starts them again."""
        nonlocal kills
        chance = random.Random(3)
        while not done.wait(0.3 + chance.random()) and kills < 20:
            number = chance.randrange(3)
            if chance.random() < 0.25:
                os.kill(child_of(fakes.now(number)), signal.SIGSTOP)
            port = port_of(fakes, number)
            fakes.now(number).kill()
            fakes.start(number, port)
            kills += 1

    killer = threading.Thread(target=kill_at_random)
    killer.start()
    try:
        steps = 30
        command = ["train", *SMALL, *SERVERS, "--output-dir", "run", "--save-every", "100"]
        # On until both are done: thirty steps, and twenty kills.
        assert main([*command, "--steps", str(steps)]) == 0
        while kills < 20:
            steps += 10
            assert main(["train", "--resume", "run", "--steps", str(steps)]) == 0
    finally:
        done.set()
        killer.join()
        fakes.close()
    rows = read_metrics(folder / "run")
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    for step in range(1, steps + 1):
        groups = Counter(row["prompt_id"] for row in read_rollouts(folder / "run", step))
        assert len(groups) == 4 and set(groups.values()) == {4}, "four prompts, each answered four times"
    assert sum(row["sampler/lost"] for row in rows) >= 1
    versions = {
        (step, row["policy_version"])
        for step in range(1, steps + 1)
        for row in read_rollouts(folder / "run", step)
    }
    assert versions == {(step, step - 1) for step in range(1, steps + 1)}, "no rollout of older weights"


def test_when_all_servers_are_gone_the_run_keeps_its_last_step_and_goes_on_later(folder: Path) -> None:
    fakes = start_fakes(folder, 2, FAKE_SECONDS="0.02")
    log = folder / "log"
    command = [*SMALL, *SERVERS, "--steps", "1000", "--output-dir", "run", "--sampler.start-timeout", "8"]
    run = subprocess.Popen(
        [sys.executable, "-m", "rlkit", "train", *command],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=log.open("w"),
    )
    metrics = folder / "run/metrics.jsonl"
    try:
        wait_for(
            lambda: (
                run.poll() is not None or (metrics.exists() and len(metrics.read_text().splitlines()) >= 2)
            ),
            PATIENCE,
        )
        assert run.poll() is None, log.read_text()
        fakes.close()
        code = run.wait(PATIENCE)
    finally:
        run.kill()
        run.wait()
    told = log.read_text()
    assert code == 3 and "Traceback" not in told, told
    last = " ".join(told.strip().splitlines()).rpartition("rlkit: ")[2]
    assert "all 2 rollout servers are gone" in last, told
    assert "continue from the last checkpoint with `rlkit train --resume run`" in last, told
    (saved,) = (folder / "run/checkpoints").glob("step-*")
    step = int(json.loads((saved / "rlkit/state.json").read_text())["step"])
    assert step == len(read_metrics(folder / "run"))
    for number in (0, 1):
        fakes.start(number, port_of(fakes, number))
    try:
        more = ["--resume", "run", "--steps", str(step + 2), "--sampler.start-timeout", "60"]
        assert main(["train", *more]) == 0
    finally:
        fakes.close()
    assert [row["step"] for row in read_metrics(folder / "run")] == list(range(1, step + 3))


@pytest.mark.slow
def test_ctrl_c_ends_the_servers_that_the_run_started(folder: Path) -> None:
    pytest.importorskip("vllm")
    log = folder / "log"
    command = [*SMALL, "--sampler", "vllm-server", "--steps", "100000"]
    for number in (signal.SIGINT, signal.SIGKILL):
        run = subprocess.Popen(
            [sys.executable, "-m", "rlkit", "train", *command, "--output-dir", f"run-{number}"],
            env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
            stderr=log.open("w"),
            start_new_session=True,
        )
        metrics = folder / f"run-{number}/metrics.jsonl"
        until = time.monotonic() + 600
        while not (metrics.exists() and metrics.read_text()):
            assert run.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        servers = descendants(run.pid)
        assert len(servers) >= 3, "a keeper, an API server, an engine"
        os.killpg(run.pid, number)
        run.wait(120)
        require_gone(servers, patience=60)


@pytest.mark.slow
def test_rlkit_serve_keeps_its_servers_up_for_one_run_after_the_other(folder: Path) -> None:
    pytest.importorskip("vllm")
    log = folder / "serve.log"
    words = "serve --model model --dtype float32 --replicas 1 --port 0 --max-model-len 1024 --announce servers.jsonl"
    serving = subprocess.Popen(
        [sys.executable, "-m", "rlkit", *words.split()],
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        stderr=log.open("w"),
    )
    announced = folder / "servers.jsonl"
    try:
        until = time.monotonic() + 600
        while not announced.exists():
            assert serving.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        run = ["train", *SMALL, *SERVERS, "--steps", "2"]
        assert main([*run, "--output-dir", "one"]) == 0
        servers = descendants(serving.pid)
        os.kill(servers[1], signal.SIGKILL)  # the API server, below its keeper
        require_gone(servers, patience=60)
        assert main([*run, "--output-dir", "two"]) == 0, "the second run waits for the new one"
        answers = [[r["token_ids"] for r in read_rollouts(folder / name, 1)] for name in ("one", "two")]
        assert answers[0] == answers[1], "and starts from the same weights, whatever the first run left"
    finally:
        servers = descendants(serving.pid)
        serving.terminate()  # as a scheduler does; Ctrl-C is the same
        assert serving.wait(60) == 0
    require_gone(servers, patience=60)
