"""The parent of one judging process at a time: loads the verifier once, forks a judge when the pool asks, and cleans up.

Why a process between pool and judge: a fork of a process that has sympy loaded takes milliseconds, a new interpreter a
second; a verifier that kills its parent does not kill the training; and whatever a judge leaves behind, processes that
detached themselves included, becomes a child of this one (PR_SET_CHILD_SUBREAPER), which ends it.
"""

import ctypes
import gc
import json
import os
import pickle
import runpy
import select
import shutil
import signal
import socket
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rlkit.types import AnyVerifier

from . import worker
from .contract import describe, warm_up
from .wire import read_frame, write_frame

FORK, END = b"F", b"E"
"""What the pool asks for, one byte each; FORK comes with the judge's end of a socket."""
_PDEATHSIG, _SUBREAPER = 1, 36
_LIBC = ctypes.CDLL(None)  # loaded before the forks, whose cost is that of every answer that hangs

inside = False
"""Whether this process is a keeper or a judge: a pool refuses to start in one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """What a keeper is sent first."""

    pickled: bytes
    """The verifier."""
    script: str | None
    """The user's script that defines it; None: it is importable."""
    preload: bool
    """Load it before the fork. False for verifiers that start threads, which a fork does not copy: each judge loads its own."""
    rules: worker.Rules


def serve(fd: int, parent: int) -> None:
    """Keep one judge for the pool in process `parent`, until the socket `fd` closes. Never returns."""
    global inside
    inside = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the pool's to handle
    end_with(parent, signal.SIGTERM)
    _linux(_SUBREAPER, 1)
    _be_first_to_go()
    os.set_inheritable(fd, False)
    control = socket.socket(fileno=fd)
    try:
        errand: Errand = pickle.loads(read_frame(control))
        verifier = _load(errand, control) if errand.preload else None
        _Keeper(control, errand, verifier).run()
    except (EOFError, ConnectionError):
        pass
    os._exit(0)


def _be_first_to_go() -> None:
    """When the system runs out of memory, this process and its judges end, and not the training."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        pass  # without /proc, the system chooses


def load_verifier(errand: Errand) -> AnyVerifier:
    """The verifier, warm. Raises whatever the user's code raises."""
    if errand.script is not None:
        _load_script(errand.script)
    verifier: AnyVerifier = pickle.loads(errand.pickled)
    warm_up(verifier)
    return verifier


def end_with(parent: int, how: signal.Signals) -> None:
    """Get signal `how` when the parent dies, even inside C code that would never look at the socket."""
    if sys.platform != "linux":
        return
    _linux(_PDEATHSIG, how)
    if os.getppid() != parent:
        os._exit(0)


def _linux(option: int, value: int) -> None:
    if sys.platform == "linux":
        _LIBC.prctl(option, value)


def _load(errand: Errand, control: socket.socket) -> AnyVerifier:
    try:
        verifier = load_verifier(errand)
    except Exception as error:  # importing users' code raises anything; the pool raises it as one sentence
        write_frame(control, json.dumps({"failed": describe(error)}).encode())
        os._exit(1)
    if len(os.listdir("/proc/self/task") if sys.platform == "linux" else ["one"]) > 1:
        write_frame(control, b'{"threads": true}')
        os._exit(0)
    return verifier


def _load_script(path: str) -> None:
    """Make the classes of the user's guarded script importable, by the name that multiprocessing gives it."""
    module = types.ModuleType("__mp_main__")
    module.__dict__.update(runpy.run_path(path, run_name="__mp_main__"))
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module


class _Keeper:
    """One judge at most; each is answered by exactly one `ended`, however it ends."""

    def __init__(self, control: socket.socket, errand: Errand, verifier: AnyVerifier | None) -> None:
        self._control, self._errand, self._verifier = control, errand, verifier
        self._judge: int | None = None  # its process id
        self._pipe = os.pipe()
        for fd in self._pipe:
            os.set_blocking(fd, False)
        self._orphaned = False

    def run(self) -> None:
        signal.signal(signal.SIGTERM, self._parent_died)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        gc.collect()
        gc.freeze()  # the judges share these pages for as long as nobody writes to them
        write_frame(self._control, b'{"ready": true}')
        control, pipe = self._control.fileno(), self._pipe[0]
        try:
            while not self._orphaned:
                ready, _, _ = select.select([control, pipe], [], [])
                if pipe in ready:
                    os.read(pipe, 4096)
                    self._reap()
                if control in ready and not self._obey():
                    break
        finally:
            self._end()
            shutil.rmtree(self._errand.rules.folder, ignore_errors=True)
            try:
                os.rmdir(os.path.dirname(self._errand.rules.folder))
            except OSError:
                pass  # other keepers are in it, or the pool was first

    def _parent_died(self, number: int, frame: object) -> None:
        self._orphaned = True

    def _obey(self) -> bool:
        """Do what the pool asks; False: it is gone."""
        command, fds, _, _ = socket.recv_fds(self._control, 1, 1)
        if command == FORK and fds:
            self._fork(fds[0])
        elif command == END and self._judge is not None:
            self._end()
        return bool(command)

    def _fork(self, fd: int) -> None:
        keeper = os.getpid()
        self._judge = os.fork()
        if self._judge == 0:
            self._become_judge(fd, keeper)
        os.close(fd)

    def _become_judge(self, fd: int, keeper: int) -> None:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            end_with(keeper, signal.SIGKILL)
            self._control.close()
            for pipe_end in self._pipe:
                os.close(pipe_end)
            load: Callable[[], AnyVerifier] = lambda: self._verifier or load_verifier(self._errand)  # noqa: E731
            worker.serve(socket.socket(fileno=fd), load, self._errand.rules)
        finally:
            os._exit(1)  # whatever it raised: a judge never runs the keeper's code

    def _reap(self) -> None:
        """Take note of children that have ended by themselves."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._judge:
                self._ended(status)

    def _end(self) -> None:
        if self._judge is not None:
            _kill(os.killpg, self._judge)
            _, status = os.waitpid(self._judge, 0)
            self._ended(status)

    def _ended(self, status: int) -> None:
        """After a judge: end what it started, remove what it wrote, tell the pool."""
        assert self._judge is not None
        _kill(
            os.killpg, self._judge
        )  # a group without members is no error, and its number is not given away before
        self._judge = None
        _end_children()
        for entry in Path(self._errand.rules.folder).glob("*"):
            shutil.rmtree(entry, ignore_errors=True)
        try:
            write_frame(self._control, json.dumps({"ended": os.waitstatus_to_exitcode(status)}).encode())
        except OSError:
            self._orphaned = True


def _end_children() -> None:
    """Kill children until there are none: those that the killed ones leave come to this process in turn."""
    while True:
        for pid in _children():
            _kill(os.kill, pid)
        try:
            pid, _ = os.waitpid(-1, 0 if _children() else os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return


def _children() -> list[int]:
    if sys.platform != "linux":
        return []
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        stats = ((path, path.read_text()) for path in Path("/proc").glob("[0-9]*/stat"))
        parents = {int(path.parent.name): int(text.rpartition(")")[2].split()[1]) for path, text in stats}
        return [pid for pid, parent in parents.items() if parent == os.getpid()]


def _kill(how: Callable[[int, int], None], number: int) -> None:
    try:
        how(number, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # it was first
