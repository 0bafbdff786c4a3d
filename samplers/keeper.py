"""Runs one command and takes everything it started down with it: when it ends, when it is told to, or when its parent is gone.

    python keeper.py PARENT COMMAND...

vLLM's server is a tree of processes that outlives a parent killed with -9, and its own root; killed, it leaves hundreds of
megabytes in /dev/shm. The keeper leads a process group of its own (its parent starts it in a new session), so it finds them all.
SIGTERM: let the command end by itself first. SIGUSR1: at once. Only the standard library: it starts at once.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

POLL_SECONDS = 0.1
GRACE_SECONDS = 5.0
"""For the command to end by itself after SIGTERM."""
LOOK_SECONDS = 5.0
"""Between two looks at which shared memory the processes hold: when they have ended, nobody can tell."""
PR_SET_PDEATHSIG = 1
SHARED_MEMORY = "/dev/shm/"
THEIRS = ("psm_", "sem.mp-")
"""Names that Python's multiprocessing makes up; other files in shared memory are somebody's on purpose."""


def main(parent: int, command: list[str]) -> None:
    asked: set[int] = set()

    def ask(signum: int, frame: FrameType | None) -> None:
        asked.add(signum)

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGUSR1, ask)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the parent's to judge
    keeper = os.getpid()
    child = subprocess.Popen(command, preexec_fn=lambda: end_with(keeper))
    held: set[str] = set()
    due = 0.0
    while child.poll() is None and not asked and os.getppid() == parent:
        if time.monotonic() > due:
            held |= shared_memory(members())
            due = time.monotonic() + LOOK_SECONDS
        time.sleep(POLL_SECONDS)
    held |= shared_memory(members())
    if child.poll() is None and signal.SIGUSR1 not in asked:
        child.terminate()
        until = time.monotonic() + GRACE_SECONDS
        while child.poll() is None and time.monotonic() < until and signal.SIGUSR1 not in asked:
            time.sleep(POLL_SECONDS)
    while left := members():
        for process in left:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(POLL_SECONDS / 4)
        child.poll()
    for name in held:
        Path(name).unlink(missing_ok=True)


def end_with(keeper: int) -> None:
    """Have Linux end this process when the keeper itself is killed: Ray does so to what an actor has started."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != keeper:  # it was killed before this was said
        os._exit(1)


def members() -> list[int]:
    """The other living processes of this group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it ended just now
            continue
        process = int(stat.parent.name)
        if int(group) == os.getpgrp() and process != os.getpid() and state not in "ZX":
            found.append(process)
    return found


def shared_memory(processes: list[int]) -> set[str]:
    """Files that multiprocessing has made in shared memory, and these processes have open."""
    found = set()
    for process in processes:
        try:
            lines = Path(f"/proc/{process}/maps").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            path = line[line.find("/") :] if "/" in line else ""
            if path.startswith(SHARED_MEMORY) and Path(path).name.startswith(THEIRS):
                found.add(path)
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
