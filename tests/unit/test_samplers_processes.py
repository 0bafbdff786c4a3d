"""What servers and learners leave behind when they are killed: processes, shared memory, files of weights. Real processes, no vLLM."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

from rlkit.samplers.server_process import ServerProcess
from rlkit.samplers.transfer import FileTransfer
from tests.fakes import PATIENCE, ROOT, wait_for
from tests.processes import members_of, require_gone


def test_what_a_killed_server_leaves_in_shared_memory_is_removed(tmp_path: Path) -> None:
    code = (
        "import time; from multiprocessing.shared_memory import SharedMemory;"
        "held = SharedMemory(create=True, size=4096); print(held.name, flush=True); time.sleep(600)"
    )
    process = ServerProcess([sys.executable, "-c", code], dict(os.environ), tmp_path / "log")
    wait_for(lambda: bool(process.last_words()))
    name = Path("/dev/shm") / process.last_words().strip()
    assert name.exists()
    process.kill()
    assert not name.exists() and not process.alive()


def test_servers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    """kill -9 of a learner: nobody can end its servers but their keepers."""
    code = (
        "import sys, time; from pathlib import Path; from rlkit.samplers.server_process import ServerProcess;"
        "p = ServerProcess([sys.executable, '-c', 'import subprocess, sys, time; "
        'subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]); time.sleep(600)\'], {}, Path(sys.argv[1]));'
        "print(p.pid, flush=True); time.sleep(600)"
    )
    learner = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert learner.stdout is not None
    keeper = int(learner.stdout.readline())

    wait_for(lambda: len(members_of(keeper)) == 3)
    members = members_of(keeper)
    learner.kill()
    learner.wait()
    require_gone(members)


def test_a_server_ends_when_its_keeper_is_killed(tmp_path: Path) -> None:
    process = ServerProcess(
        [sys.executable, "-c", "import time; time.sleep(600)"], dict(os.environ), tmp_path / "log"
    )
    wait_for(lambda: len(members_of(process.pid)) == 2)
    members = members_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    require_gone(members, patience=PATIENCE)
    process.kill()


def test_files_of_a_killed_learner_are_swept(tmp_path: Path) -> None:
    left = tmp_path / "rlkit-weights-abc"
    left.mkdir()
    (left / "lock").touch()
    (left / "1.safetensors").touch()
    living = FileTransfer(folder=tmp_path)
    living.take({"a": torch.zeros(2)}, "x")
    assert not left.exists()
    other = FileTransfer(folder=tmp_path)
    other.take({"a": torch.zeros(2)}, "x")
    assert living.probe.exists(), "one that is in use stays"
    living.close()
    other.close()
    assert not list(tmp_path.glob("rlkit-weights-*"))
