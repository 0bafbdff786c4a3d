"""Verifier processes with a deadline that holds: a worker that hangs is killed and replaced, and one item pays for it.

Why not concurrent.futures or multiprocessing.Pool: neither can kill the one process that hangs. Why a fresh interpreter
and not a fork: the parent holds torch's and vLLM's threads and locks. Why not multiprocessing's spawn: it runs the
user's script again, and scripts without `if __name__ == "__main__":` would train inside their own workers.
"""

import os
import pickle
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType

from rlkit.errors import ConfigError, RolloutError
from rlkit.types import AnyVerifier, Prompt, Score

from . import worker
from .contract import check_score, describe, gold_text, judge, verifier_name

START_SECONDS = 120.0
"""For an interpreter to start and to import what the verifier needs, on a machine that is busy."""
MAX_FAILED_STARTS = 3
"""Workers in a row that may die before they judge anything."""
_PROGRAM = "import sys; sys.path[:] = {path!r}; from rlkit.rewards.worker import serve; serve({fd}, {parent})"
_GUARD = re.compile(r"^if\s+__name__\s*==\s*['\"]__main__['\"]", re.MULTILINE)


class _Worker:
    """One process and what it is doing: starting (no verdict yet possible), idle (no item) or judging an item."""

    def __init__(self, process: "subprocess.Popen[bytes]", connection: Connection) -> None:
        self.process = process
        self.connection = connection
        self.started = False
        self.judged = False
        self.item: int | None = None  # None: idle, or starting
        self.deadline = time.monotonic() + START_SECONDS

    def kill(self) -> int | None:
        """End the process and all it started; its exit code (None: the system does not let it end)."""
        # Before it is waited for: until then nobody else can get its process id.
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self.connection.close()
        try:
            return self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return None


class VerifierPool:
    """Scores many answers with one verifier in `workers` processes, each answer within `timeout` seconds.

    Workers start at the first call, stay warm between calls, and end with this process however it ends. Results come in
    the order of the items. Calls from several threads wait for each other. Fails with RolloutError only when no worker
    can start; whatever happens to one item is an error Score of that item.

    >>> from .exact import ExactVerifier
    >>> with VerifierPool(ExactVerifier(), workers=0, timeout=10.0) as pool:
    ...     pool.score([(Prompt(id="a", token_ids=[], reference="42"), "42")])[0].value
    1.0
    """

    timeouts: int
    """Items whose worker was killed at the deadline, since the pool was made."""
    crashes: int
    """Items whose worker died."""
    errors: int
    """Items whose verifier raised, or returned what is no verdict, or an error of its own."""

    def __init__(self, verifier: AnyVerifier, workers: int, timeout: float) -> None:
        if workers < 0:
            raise ConfigError(f"reward.workers = {workers}: expected 0 or more processes")
        if not timeout > 0:
            raise ConfigError(f"reward.timeout = {timeout}: expected a positive number of seconds")
        self.timeouts = self.crashes = self.errors = 0
        self._verifier = verifier
        self._workers = workers
        self._timeout = timeout
        self._lock = threading.Lock()
        self._crew: list[_Worker] = []
        self._failed_starts = 0
        self._starter: ThreadPoolExecutor | None = None  # None: nothing started yet
        if workers > 0:
            self._pickled = _pickle_verifier(verifier)
            weakref.finalize(self, _kill_all, self._crew, os.getpid())

    def __enter__(self) -> "VerifierPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, once a call in another thread is done. A later call starts new ones."""
        with self._lock:
            _kill_all(self._crew, os.getpid())
            if self._starter is not None:
                self._starter.shutdown()
                self._starter = None

    def __call__(self, prompt: Prompt, text: str) -> Score:
        """A pool is a verifier itself: one that cannot hang."""
        return self.score([(prompt, text)])[0]

    def gold_text(self, prompt: Prompt) -> str | None:
        return gold_text(self._verifier, prompt)

    def score(
        self, items: Sequence[tuple[Prompt, str]], progress: Callable[[int], None] | None = None
    ) -> list[Score]:
        """One Score per (prompt, answer), in order. `progress` is told how many are done, each time one is."""
        scores: dict[int, Score] = {}
        with self._lock:
            if self._workers == 0:
                for index, (prompt, text) in enumerate(items):
                    scores[index] = self._count(judge(self._verifier, prompt, text))
                    if progress is not None:
                        progress(len(scores))
            elif items:
                self._score(items, scores, progress)
        return [scores[index] for index in range(len(items))]

    def _score(
        self,
        items: Sequence[tuple[Prompt, str]],
        scores: dict[int, Score],
        progress: Callable[[int], None] | None,
    ) -> None:
        waiting = deque(range(len(items)))
        try:
            while len(scores) < len(items):
                self._hire(min(self._workers, len(items) - len(scores)))
                for member in list(self._crew):
                    if member.started and member.item is None and waiting:
                        self._assign(member, waiting, items)
                for member in self._await_any():
                    index = member.item
                    score = self._hear(member)
                    if score is not None and index is not None:
                        scores[index] = score
                        if progress is not None:
                            progress(len(scores))
        finally:
            # Left early (Ctrl-C, a failing progress): what they would answer belongs to no later call.
            for member in [member for member in self._crew if member.item is not None]:
                self._dismiss(member)

    def _hire(self, size: int) -> None:
        while len(self._crew) < size:
            if self._failed_starts >= MAX_FAILED_STARTS:
                failed, self._failed_starts = self._failed_starts, 0
                raise RolloutError(
                    f"{failed} verifier processes in a row died before they could judge anything; "
                    f"does {_name(self._verifier)} import here, and is there memory left? reward.workers = 0 shows its fault"
                )
            # Linux ends a child with the thread that started it, so one thread lives as long as the pool.
            if self._starter is None:
                self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="verifier-starter")
            self._crew.append(self._starter.submit(_start, self._pickled).result())

    def _assign(self, member: _Worker, waiting: "deque[int]", items: Sequence[tuple[Prompt, str]]) -> None:
        message = pickle.dumps(items[waiting[0]], protocol=pickle.HIGHEST_PROTOCOL)
        try:
            member.connection.send_bytes(message)
        except OSError:  # it died while idle, or does not read: not this item's fault
            self._dismiss(member)
            self._failed_starts += not member.judged
            return
        member.item = waiting.popleft()
        member.deadline = time.monotonic() + self._timeout

    def _await_any(self) -> list[_Worker]:
        """Workers that have something to say, or nothing left to say it in time."""
        expected = [member for member in self._crew if member.item is not None or not member.started]
        if not expected:
            return []
        patience = max(0.0, min(member.deadline for member in expected) - time.monotonic())
        heard = wait([member.connection for member in expected], patience)
        now = time.monotonic()
        # A verdict that lies ready counts, however late this process comes to read it.
        return [member for member in expected if member.connection in heard or member.deadline <= now]

    def _hear(self, member: _Worker) -> Score | None:
        """The verdict on the member's item; None: it was starting, and is ready now or gone."""
        try:
            message = member.connection.recv_bytes(worker.MAX_MESSAGE) if member.connection.poll() else None
        except (EOFError, OSError):
            return self._bury(member)
        if message is None:
            return self._overdue(member)
        if not member.started:
            self._greet(member, message)
            return None
        try:
            score = check_score(worker.decode(message), "the verifier process")
        except (ValueError, TypeError, KeyError, RolloutError):
            self._dismiss(member)
            self.crashes += 1
            return Score(
                None, reason="the verifier process sent what is no verdict; it was replaced", error=True
            )
        member.item = None
        member.judged = True
        self._failed_starts = 0
        return self._count(score)

    def _greet(self, member: _Worker, message: bytes) -> None:
        greeting = worker.decode_greeting(message)
        if greeting is None:
            member.started = True
            return
        self._dismiss(member)
        raise RolloutError(f"{_name(self._verifier)} cannot be loaded in a verifier process: {greeting}")

    def _overdue(self, member: _Worker) -> Score | None:
        self._dismiss(member)
        if not member.started:
            self._failed_starts += 1
            return None
        self.timeouts += 1
        return Score(None, reason=f"timed out after {self._timeout:g} s; its process was killed", error=True)

    def _bury(self, member: _Worker) -> Score | None:
        code = self._dismiss(member)
        if not member.started:
            self._failed_starts += 1
            return None
        self._failed_starts = 0
        self.crashes += 1
        return Score(None, reason=f"the verifier process {_ending(code)}; it was replaced", error=True)

    def _dismiss(self, member: _Worker) -> int | None:
        self._crew.remove(member)
        return member.kill()

    def _count(self, score: Score) -> Score:
        self.errors += score.error
        return score


def _start(pickled: tuple[bytes, str | None]) -> _Worker:
    """A new worker that has been sent its verifier and is loading it."""
    ours, theirs = socket.socketpair()
    with theirs:
        # A worker that does not read must not hold up this process for ever.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(START_SECONDS), 0))
        path = [os.path.abspath(entry) for entry in sys.path]
        program = _PROGRAM.format(path=path, fd=theirs.fileno(), parent=os.getpid())
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", program],
            stdin=subprocess.DEVNULL,
            stdout=2,  # what verifiers print is for people; the parent's stdout may be for programs
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C in the terminal is not for it, and its children end with it
        )
    member = _Worker(process, Connection(ours.detach()))
    try:
        member.connection.send_bytes(pickle.dumps(pickled))
    except OSError:
        pass  # it is dead already, which its silence will tell
    return member


def _kill_all(crew: list[_Worker], owner: int) -> None:
    if os.getpid() == owner:  # a forked child holds a copy of the crew, which is not its own
        while crew:
            crew.pop().kill()


def _pickle_verifier(verifier: AnyVerifier) -> tuple[bytes, str | None]:
    """The verifier for a worker, and the script that defines it, if it is the one that was started."""
    if worker.inside:
        raise RolloutError("a verifier process tried to start verifier processes of its own")
    try:
        pickled = pickle.dumps(verifier)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise RolloutError(
            f"{_name(verifier)} cannot go to a verifier process ({describe(error)}). "
            "Define it at the top of a module, without lambdas or open files in it; or set reward.workers = 0"
        ) from error
    if b"__main__" not in pickled:
        return pickled, None
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is None or not _GUARD.search(Path(script).read_text(encoding="utf-8")):
        raise RolloutError(
            f"{_name(verifier)} is defined in what was started ({script or 'an interactive session'}), which a verifier "
            "process cannot import without running it. Move it into a file of its own, or put what the script does "
            'under  if __name__ == "__main__":'
        )
    return pickled, os.path.abspath(script)


def _name(verifier: AnyVerifier) -> str:
    return f"the verifier {verifier_name(verifier)}"


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    hint = " (the system does this when memory runs out)" if -code == signal.SIGKILL else ""
    return f"was ended by {name}{hint}"
