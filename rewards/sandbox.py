"""Programs that nobody trusts, run where they can compute and do nothing else.

    bwrap     bubblewrap: namespaces of their own (user, pid, network, ipc, uts, cgroup), a read-only system of /usr and the
              interpreter, a small private /tmp, no /proc, no environment; a filter of system calls; limits
    rlimits   the filter and the limits only: the program can read what this user can read. Chosen by name, never instead

What is started is one process and its threads: the filter lets it start no other. So its own limits are the limits of all
it does, and when it is gone nothing of it is left. Linux only; what the program is told and tells goes through memory
files and pipes, so there is no file to clean up either.
"""

import fcntl
import functools
import json
import os
import platform
import resource
import select
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlkit.errors import ConfigError, RolloutError

from .bubblewrap import HERE, bubblewrap, interpreter
from .inside import wire
from .seccomp import call_filter

Kind = Literal["bwrap", "rlimits"]
Ended = Literal["ok", "exit", "signal", "memory", "cpu", "wall", "output", "stopped"]
"""Of itself (`exit`: with an exit code that is not 0, as after an exception), at a limit, or because the other job was over."""

START_SECONDS = 30.0
"""For bubblewrap and the interpreter to come up, on a machine that is busy; the program's own time starts after that."""
INSTALL = (
    "install bubblewrap 0.7 or newer (Debian, Ubuntu: apt-get install bubblewrap; Fedora: dnf install bubblewrap; "
    "Arch: pacman -S bubblewrap), or choose --reward 'code(sandbox=\"rlimits\")', which limits time, memory, processes and "
    "the network but lets a program read every file that you can read and write where you can write"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one program may use.

    >>> Limits(wall=2.0).cpu
    10
    """

    wall: float = 10.0
    """Seconds from its start to its end."""
    cpu: int = 10
    """Seconds of all its threads together."""
    memory: int = 1024
    """MiB of address space, the interpreter's 30 included."""
    threads: int = 64
    """Threads at once. Does not bind when rlkit runs as root: there only memory and time do."""
    output: int = 4 << 20
    """Bytes of standard output, and as many of standard error; it is ended at the first byte more."""
    files: int = 16
    """MiB of its /tmp, and of any one file."""

    def as_rlimits(self) -> dict[str, int]:
        return {
            "CPU": self.cpu,
            "AS": self.memory << 20,
            "NPROC": self.threads,
            "FSIZE": self.files << 20,
            "NOFILE": 64,
            "STACK": 8 << 20,  # of a thread that asks for no other
            "CORE": 0,
            "MEMLOCK": 0,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What became of one program."""

    stdout: bytes
    stderr: bytes
    ended: Ended
    code: int | None
    """Its exit code; None: a signal or a limit ended it."""
    signal: int | None
    seconds: float
    """From ready to its end."""
    memory: float
    """MiB resident at its peak; or this process's own, when that is more (Linux counts from before the exec)."""
    status: bytes = b""
    """What the trusted code beside it reported (rewards/inside); nothing for a plain program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a sandbox is to do (rewards/inside/starter.py)."""

    kind: Literal["program", "subject", "tester"]
    fields: Mapping[str, Any]
    stdin: bytes = b""


def run(program: str, stdin: bytes, limits: Limits, kind: Kind = "bwrap") -> Ran:
    """Run a Python program as `python program.py < stdin`. Raises RolloutError when the sandbox itself fails."""
    return run_jobs([Job(kind="program", fields={"sources": [program]}, stdin=stdin)], limits, kind)[0]


def run_jobs(jobs: Sequence[Job], limits: Limits, kind: Kind = "bwrap") -> list[Ran]:
    """Run one job, or two that talk to each other (the first is ended when the second has ended)."""
    require_sandbox(kind)
    return _run_jobs(jobs, limits, kind)


@functools.cache
def require_sandbox(kind: Kind) -> None:
    """Raise ConfigError, saying what to do, unless a program can be run in this kind of sandbox on this machine."""
    if sys.platform != "linux":
        raise ConfigError(
            f"programs are run in Linux's namespaces, and this is {platform.system()}: run rlkit in a Linux container or "
            "virtual machine (neither kind of sandbox exists here: macOS does not hold a process to its memory)"
        )
    if kind == "bwrap" and shutil.which("bwrap") is None:
        raise ConfigError(f"bubblewrap, which runs the programs, is not installed: {INSTALL}")
    try:
        ran = _run_jobs(
            [Job(kind="program", fields={"sources": ["print(6 * 7)"]})], Limits(wall=START_SECONDS), kind
        )[0]
    except RolloutError as error:
        raise ConfigError(f"{error}. {_hint(str(error))}") from error
    if ran.stdout != b"42\n":
        said = last_line(ran.stderr) or f"it ended with {ran.ended}"
        raise ConfigError(f"the {kind} sandbox does not run a Python program here ({said}): {INSTALL}")


def _hint(error: str) -> str:
    if any(
        word in error for word in ("namespace", "uid map", "Operation not permitted", "Permission denied")
    ):
        return (
            "This kernel or container refuses user namespaces: on Ubuntu 24.04 `sysctl -w kernel.apparmor_restrict_"
            "unprivileged_userns=0` or an AppArmor profile for bwrap, in Docker `--security-opt seccomp=unconfined`, "
            f"allows them. Else {INSTALL}"
        )
    return f"Please {INSTALL}"


def _run_jobs(jobs: Sequence[Job], limits: Limits, kind: Kind) -> list[Ran]:
    there, back = (os.pipe(), os.pipe()) if len(jobs) == 2 else ((-1, -1), (-1, -1))
    ends = [(there[0], back[1]), (back[0], there[1])]
    started: list[_Started] = []
    try:
        for job, (from_fd, to_fd) in zip(jobs, ends, strict=False):
            started.append(_Started(job, limits, kind, from_fd, to_fd))
    except BaseException:
        for one in started:
            one.kill()
            one.finish()
        raise
    finally:
        _close(*(fd for fd in (*there, *back) if fd >= 0))
    try:
        _watch(started)
    finally:
        for one in started:
            one.kill()
        rans = [one.finish() for one in started]
    for one in started:
        one.require_ready()
    return rans


def _watch(started: "Sequence[_Started]") -> None:
    """Read what they write until the last of them has ended, or one of them meets a limit."""
    with selectors.DefaultSelector() as selector:
        for one in started:
            for name, fd in one.pipes.items():
                selector.register(fd, selectors.EVENT_READ, (one, name))
            selector.register(one.pidfd, selectors.EVENT_READ, (one, "end"))
        while not started[-1].over and all(one.ended is None for one in started):
            now = time.monotonic()
            running = [one for one in started if not one.over]
            for one in running:
                if one.deadline <= now:
                    one.ended = "wall"
            for key, _ in selector.select(max(0.0, min(one.deadline for one in running) - now)):
                one, name = key.data
                if name == "end":
                    one.over = True
                    selector.unregister(one.pidfd)
                elif not one.read(name):
                    selector.unregister(key.fd)


class _Started:
    """One sandbox that has been started: the pipes it writes to, and how to end it."""

    def __init__(self, job: Job, limits: Limits, kind: Kind, from_fd: int, to_fd: int) -> None:
        self.limits, self.kind = limits, kind
        self.ended: Ended | None = None  # the limit it met
        self.over = self._stopped = False
        self.deadline = time.monotonic() + START_SECONDS
        self._ready = self._done = 0.0
        self._init = -1  # pidfd of the first process inside
        self._folder = tempfile.TemporaryDirectory(prefix="rlkit-") if kind == "rlimits" else None
        pipes = {name: os.pipe() for name in ("stdout", "stderr", "status", "info")}
        self.pipes = {name: ends[0] for name, ends in pipes.items()}
        self._heard = {name: bytearray() for name in pipes}
        theirs = {name: ends[1] for name, ends in pipes.items()}
        fields = {**job.fields, "kind": job.kind, "limits": limits.as_rlimits()}
        if kind == "rlimits":
            fields["filter"] = call_filter(may_exec=False)
        ours = [*theirs.values()]
        try:
            for content in (wire.encode(fields, wire.no_handle), job.stdin, call_filter(may_exec=True)):
                ours.append(_memory_file(content))
            *_, job_fd, stdin, filter_fd = ours
            command = _python("/rlkit" if kind == "bwrap" else str(HERE))
            command += map(str, (job_fd, theirs["status"], from_fd, to_fd))
            if kind == "bwrap":
                reports = ["--seccomp", str(filter_fd), "--info-fd", str(theirs["info"]), "--"]
                command = [*bubblewrap(limits.files), *reports, *command]
            passed = (job_fd, filter_fd, theirs["status"], theirs["info"], from_fd, to_fd)
            self._process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=theirs["stdout"],
                stderr=theirs["stderr"],
                pass_fds=[fd for fd in passed if fd >= 0],
                env=ENVIRONMENT,
                cwd="/" if self._folder is None else self._folder.name,
                start_new_session=True,
            )
            self.pidfd = os.pidfd_open(self._process.pid)
        except BaseException:
            _close(*self.pipes.values())
            raise
        finally:
            _close(*ours)

    def read(self, name: str) -> bool:
        """Take in what lies in a pipe; False: it is closed."""
        chunk = os.read(self.pipes[name], 1 << 16)
        heard = self._heard[name]
        heard += chunk
        most = self.limits.output if name in ("stdout", "stderr") else MAX_STATUS
        if len(heard) > most:
            del heard[most:]
            self.ended = self.ended or "output"
        if name == "status" and chunk and not self._ready:
            self._ready = time.monotonic()
            self.deadline = self._ready + self.limits.wall
        if name == "info" and self._init < 0 and heard.rstrip().endswith(b"}"):
            try:
                self._init = os.pidfd_open(json.loads(heard)["child-pid"])
            except ProcessLookupError:  # it has ended already
                pass
        return bool(chunk)

    def kill(self) -> None:
        """End everything in the sandbox. The first process inside goes first: bubblewrap then sees all of it end."""
        if not self.over:
            self._stopped = True
            _kill(self.pidfd if self._init < 0 else self._init)

    def finish(self) -> Ran:
        """Wait for the end (`kill` first, where it may not come by itself), and tell what became of the program."""
        if not self.over and not _readable(self.pidfd, KILLED_SECONDS):
            _kill(self.pidfd)
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._done = time.monotonic()
        for name, fd in self.pipes.items():  # what was written last may not have been read yet
            while _readable(fd, 0) and self.read(name):
                pass
        _close(*self.pipes.values(), self.pidfd, *([self._init] if self._init >= 0 else []))
        if self._folder is not None:
            self._folder.cleanup()
        return self._ran(self._process.returncode, usage)

    def require_ready(self) -> None:
        """Raise RolloutError when the program was not reached, unless the other job was over before: it is not its fault."""
        if not self._ready and not (self._stopped and self.ended is None):
            said = last_line(bytes(self._heard["stderr"])) or f"exit code {self._process.returncode}"
            raise RolloutError(f"the {self.kind} sandbox did not start: {said}")

    def _ran(self, code: int, usage: resource.struct_rusage) -> Ran:
        number = -code if code < 0 else code - 128 if code > 128 else None
        stderr = bytes(self._heard["stderr"])
        ended = self.ended
        if ended is None:
            ended = "ok" if code == 0 else "exit" if number is None else "signal"
            spent = usage.ru_utime + usage.ru_stime
            # Nobody inside can send this signal; the two clocks differ where a machine is virtual and busy.
            if number == signal.SIGKILL and spent > 0.5 * self.limits.cpu:
                ended = "cpu"
            elif number == signal.SIGKILL and self._stopped:
                ended = "stopped"
            if code == 1 and b"MemoryError" in stderr[-200:]:
                ended = "memory"
        return Ran(
            stdout=bytes(self._heard["stdout"]),
            stderr=stderr,
            ended=ended,
            code=code if ended in ("ok", "exit", "memory") else None,
            signal=number if ended in ("signal", "cpu") else None,
            seconds=self._done - self._ready if self._ready else 0.0,
            memory=usage.ru_maxrss / 1024,
            status=bytes(self._heard["status"]),
        )


ENVIRONMENT = {"PYTHONHASHSEED": "0"}
"""All of it: nothing of this process's, and the same program prints its sets in the same order each time."""
MAX_STATUS = 1 << 20
"""Bytes of what the code beside a program reports."""
KILLED_SECONDS = 5.0
"""For a killed process to be gone."""


def _python(folder: str) -> list[str]:
    """The base interpreter, without site-packages, running rewards/inside/starter.py, which lies in `folder`/inside."""
    start = f"import sys; sys.path.insert(0, {folder!r}); from inside import starter; del sys.path[0]; starter.main()"
    return [interpreter(), "-P", "-s", "-S", "-B", "-X", "utf8", "-c", start]


def _memory_file(content: bytes) -> int:
    """A descriptor of a file that exists in memory only and that nobody can change or grow."""
    fd = os.memfd_create("rlkit", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def _kill(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:  # it has just ended
        pass


def _readable(fd: int, seconds: float) -> bool:
    return bool(select.select([fd], [], [], seconds)[0])


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


def last_line(text: bytes) -> str:
    lines = text[-4000:].decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else ""
