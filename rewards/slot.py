"""One place in the pool: a keeper, its judge, and the answers that the judge has been sent."""

import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import worker
from .desk import Asked
from .keeper import END, FORK, Errand
from .wire import Wire

START_SECONDS = 120.0
"""For an interpreter to start and to import what the verifier needs, on a machine that is busy."""
END_SECONDS = 5.0
"""For a killed judge to be gone; then its keeper is killed too."""
MAX_FRAME = 1 << 26
"""Bytes of one message from a process."""
_BYTES_PER_SECOND = 50e6
"""At which a long answer goes through a socket at least; its deadline begins later by as much."""
_PROGRAM = "import sys; sys.path[:] = {path!r}; from rlkit.rewards.keeper import serve; serve({fd}, {parent})"
_ONE_CORE = {
    name: "1"
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
}
"""As many processes as cores are already there; a thread pool in each would take their time and their memory limit."""

State = Literal["loading", "resting", "opening", "ready", "silent", "ending"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a pool asks of its processes (VerifierPool says what each means)."""

    workers: int
    timeout: float
    memory_limit: int
    recycle_after: int


@dataclass(slots=True, eq=False)
class Flight:
    """What was sent to a judge in one message: one answer, or a batch."""

    ticket: int
    asked: list[Asked]
    allowance: float
    """Seconds from its beginning to its deadline."""
    begun: float
    deadline: float

    def begin(self, now: float) -> None:
        """It is its turn: the clock runs from now."""
        self.begun, self.deadline = now, now + self.allowance


class Slot:
    """What one keeper is doing.

    loading   the keeper starts          resting   it has no judge
    opening   the judge starts           ready     it takes answers
    silent    its connection has ended   ending    it was killed, and its keeper cleans up
    """

    def __init__(self, errand: Errand, output: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            path = [os.path.abspath(entry) for entry in sys.path]
            program = _PROGRAM.format(path=path, fd=theirs.fileno(), parent=os.getpid())
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-c", program],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C in the terminal is not for it
                env=_ONE_CORE | os.environ,
            )
        self.folder = errand.rules.folder
        self.control = Wire(ours, MAX_FRAME)
        self.control.send(pickle.dumps(errand))
        self.state: State = "loading"
        self.deadline = time.monotonic() + START_SECONDS
        self.judge: Wire | None = None
        self.pid: int | None = None  # of the judge
        self.flights: deque[Flight] = deque()
        self.taken = 0  # answers that this judge was sent
        self.why = ""  # it was killed; "": it lives, or died by itself
        self.worn = False  # it is replaced when it has judged what it was sent
        self.pace: float | None = None  # seconds for one flight, lately

    def fork(self) -> Wire:
        """Ask for a judge; the pool's end of its connection."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self.control.sock, [FORK], [theirs.fileno()])
            except OSError:
                pass  # the keeper is dead, which its wire will tell
        self.judge, self.pid, self.taken = Wire(ours, MAX_FRAME), None, 0
        self.why, self.worn = "", False
        self.state, self.deadline = "opening", time.monotonic() + START_SECONDS
        return self.judge

    def send(self, ticket: int, asked: list[Asked], payload: bytes, timeout: float) -> Flight:
        assert self.judge is not None
        now = time.monotonic()
        allowance = timeout + len(payload) / _BYTES_PER_SECOND
        flight = Flight(ticket, asked, allowance, now, now + allowance)
        self.flights.append(flight)
        self.taken += len(asked)
        self.judge.send(worker.join_ticket(ticket, payload))
        return flight

    def end(self, why: str) -> None:
        """Kill the judge and all that it started; the keeper answers when that is done."""
        if self.state not in ("opening", "ready", "silent"):
            return
        self.why, self.state, self.deadline = why, "ending", time.monotonic() + END_SECONDS
        try:
            self.control.sock.send(END)
        except OSError:
            pass  # as above

    def dismiss(self) -> None:
        """Tell the keeper to end everything; `destroy` waits for it."""
        self.control.close()
        if self.judge is not None:
            self.judge.close()
        if self.state == "loading":
            _kill_group(self.process.pid)  # it may be deep in an import, and has started nothing

    def destroy(self, patience: float = END_SECONDS) -> int | None:
        """End the keeper and its judge; the keeper's exit code (None: the system does not let it end)."""
        self.dismiss()
        try:
            return self.process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            pass
        # Before it is waited for: until then nobody else can get its process id.
        for pid in (self.pid, self.process.pid):
            if pid is not None:
                _kill_group(pid)
        try:
            return self.process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            return None

    def bury(self) -> int | None:
        """After the keeper's own death: end what its judge left; the keeper's exit code."""
        code = self.destroy()
        if self.pid is not None:
            _kill_group(self.pid)
        _remove(Path(self.folder))
        return code


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # nobody is left in it


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
