"""Whatever ends a command with real servers, at whatever time, no process of it is left: not its servers, not theirs, not Ray's."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes import ROOT
from tests.models import save_tiny_model
from tests.processes import require_gone

pytestmark = pytest.mark.slow

START_SECONDS = 900.0
"""For two servers to start, on a machine that is busy."""
END_SECONDS = 180.0
"""For a command to end once it is told to."""
MARK = "RLKIT_TESTS_MARK"
TRAIN = (
    "train --model model --data task:chain --data.pool 12 --reward tests.verdicts:Checksum --reward.workers 1 --num-generations 4 "
    "--show-every 0 --no-tensorboard --prompts-per-step 4 --max-completion-length 8 --eval-prompts 2 --max-prompt-length 64 "
    "--dtype float32 --steps 100000 --output-dir run --sampler.replicas 2 --sampler"
)
SERVE = (
    "serve --model model --dtype float32 --max-model-len 1024 --replicas 2 --announce servers.jsonl --port"
)
COMMANDS = {"vllm-server": f"{TRAIN} vllm-server", "ray": f"{TRAIN} ray", "serve": f"{SERVE} 0"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pytest.importorskip("vllm")
    save_tiny_model(tmp_path / "model", seed=0, tied=True)
    return tmp_path


@contextmanager
def running(folder: Path, words: str) -> Iterator[subprocess.Popen[bytes]]:
    """`rlkit WORDS`, as a terminal starts it. In the end nothing runs that has its mark, whoever its parent is by then."""
    if " ray" in words:
        pytest.importorskip("ray")
    given = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", MARK: str(folder)}
    process = subprocess.Popen(
        [sys.executable, "-m", "rlkit", *words.split()],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | given,
        stderr=(folder / "log").open("w"),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
        process.wait(END_SECONDS)
        require_gone(marked(folder), END_SECONDS)
        assert not marked(folder), "nor has anything been started since"
    finally:
        process.kill()
        for left in marked(folder):
            try:
                os.kill(left, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.wait()


def marked(folder: Path, *more: bytes) -> list[int]:
    """Processes that inherited the mark, and that have all of `more` in their environment."""
    wanted = (f"{MARK}={folder}".encode(), *more)
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            told = environ.read_bytes()
        except OSError:  # it ended just now
            continue
        if all(word in told for word in wanted):
            found.append(int(environ.parent.name))
    return sorted(found)


def until(is_so: Callable[[], bool], process: subprocess.Popen[bytes], folder: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while not is_so():
        assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()
        time.sleep(0.1)


def tell(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    """Ctrl-C goes to all whom the terminal started, other signals to the command alone."""
    if how == signal.SIGINT:
        os.killpg(process.pid, how)
    else:
        process.send_signal(how)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_is_ended_while_its_servers_start_leaves_nothing(
    command: str, how: signal.Signals, folder: Path
) -> None:
    with running(folder, COMMANDS[command]) as process:
        until(lambda: len(marked(folder, b"VLLM_API_KEY=")) >= 4, process, folder)  # two keepers, two servers
        tell(process, how)
    assert process.returncode == {"serve": 0}.get(command, 130) if how != signal.SIGKILL else -how
    assert "Traceback" not in (folder / "log").read_text()


@pytest.mark.parametrize(
    ("command", "how"),
    [
        ("vllm-server", signal.SIGINT),
        ("vllm-server", signal.SIGTERM),
        ("vllm-server", signal.SIGKILL),
        ("ray", signal.SIGINT),
        ("ray", signal.SIGTERM),
        ("ray", signal.SIGKILL),
        ("serve", signal.SIGINT),
        ("serve", signal.SIGKILL),
    ],
)
def test_a_command_that_is_ended_at_work_leaves_nothing(
    command: str, how: signal.Signals, folder: Path
) -> None:
    works = folder / ("servers.jsonl" if command == "serve" else "run/metrics.jsonl")
    with running(folder, COMMANDS[command]) as process:
        until(lambda: works.exists() and works.read_text() != "", process, folder)
        assert len(marked(folder, b"VLLM_API_KEY=")) >= 6, "two keepers, two API servers, two engines"
        tell(process, how)
    assert process.returncode == {"serve": 0}.get(command, 130) if how != signal.SIGKILL else -how
    assert "Traceback" not in (folder / "log").read_text()


@pytest.mark.parametrize("command", ["vllm-server", "ray"])
def test_a_run_whose_servers_do_not_come_in_time_leaves_nothing(command: str, folder: Path) -> None:
    with running(folder, f"{COMMANDS[command]} --sampler.start-timeout 5") as process:
        process.wait(START_SECONDS)
    told = (folder / "log").read_text()
    assert process.returncode == 3 and "Traceback" not in told, told
    assert "rollout servers are gone" in " ".join(told.split()), told


def test_rlkit_serve_ends_the_other_servers_when_one_cannot_start(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1] - 1  # of the first server; the next one's is taken
        with running(folder, f"{SERVE} {port}") as process:
            process.wait(START_SECONDS)
    told = (folder / "log").read_text()
    assert process.returncode == 2 and "server 2" in told and "times in a row" in told, told
