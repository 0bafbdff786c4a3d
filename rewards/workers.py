"""Verifier processes with a deadline that holds: one that hangs is killed and replaced, and one answer pays for it.

    VerifierPool     what callers see: score, stream, metrics
    crew.Crew        its thread: hands answers out, hears verdicts, watches clocks
    slot.Slot        one place: a keeper and its judge
    keeper, worker   the inside of these two processes

Why not concurrent.futures or multiprocessing.Pool: neither can kill the one process that hangs. Why fresh interpreters
and not forks of this process: it holds torch's and vLLM's threads and locks. Why not multiprocessing's spawn: it runs the
user's script again, and scripts without `if __name__ == "__main__":` would train inside their own workers.
"""

import itertools
import os
import pickle
import re
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from queue import Empty
from types import TracebackType

from rlkit.errors import ConfigError, RolloutError
from rlkit.types import AnyVerifier, Prompt, Score

from . import keeper
from .contract import (
    WHOLE_STEP,
    batch_size,
    concurrency,
    describe,
    gold_text,
    has_batch,
    judge,
    judge_batch,
    value_range,
    verifier_name,
)
from .crew import Crew
from .desk import Asked, Call, Verdicts
from .slot import Terms
from .tally import Tally

MEMORY_LIMIT = 2 << 30
"""Bytes that judging may take. sympy stays under a tenth of it."""
RECYCLE_AFTER = 10_000
"""Answers to one process: a verifier that leaks 10 kB with each has then lost 100 MB."""
_COMPARED_AHEAD = 4096
"""Answers that are judged together, at least, by what compares them."""
_WINDOW_CHARACTERS = 1 << 26
"""Of the answers that `stream` holds at once, at most."""
_WAKE_SECONDS = 0.5
_GUARD = re.compile(r"^if\s+__name__\s*==\s*['\"]__main__['\"]", re.MULTILINE)
_POOLS: "weakref.WeakSet[VerifierPool]" = weakref.WeakSet()


class VerifierPool:
    """Scores many answers with one verifier in `workers` processes, each answer within `timeout` seconds.

    Processes start at the first call or with `begin`, stay warm between calls, and end with this process however it ends. Verdicts come
    in the order of the answers. Calls from several threads share the processes in turn. Fails with RolloutError only when
    no process can judge; whatever happens to one answer is an error Score of that answer.

    memory_limit: bytes that judging may add to a process, beyond what the verifier takes when it is loaded
    recycle_after: answers after which a process is replaced, so that a verifier that leaks does not grow without end

    >>> from .exact import ExactVerifier
    >>> with VerifierPool(ExactVerifier(), workers=0, timeout=10.0) as pool:
    ...     pool.score([(Prompt(id="a", token_ids=[], reference="42"), "42")])[0].value
    1.0
    """

    def __init__(
        self,
        verifier: AnyVerifier,
        workers: int,
        timeout: float,
        *,
        memory_limit: int = MEMORY_LIMIT,
        recycle_after: int = RECYCLE_AFTER,
    ) -> None:
        if workers < 0:
            raise ConfigError(f"reward.workers = {workers}: expected 0 or more processes")
        if not timeout > 0:
            raise ConfigError(f"reward.timeout = {timeout}: expected a positive number of seconds")
        if memory_limit <= 0:
            raise ConfigError(f"reward.memory_limit = {memory_limit}: expected a positive number of bytes")
        if recycle_after <= 0:
            raise ConfigError(
                f"reward.recycle_after = {recycle_after}: expected a positive number of answers"
            )
        value_range(verifier)  # what it declares wrongly is told here, and not once per answer
        self._verifier = verifier
        self._terms = Terms(
            workers=workers, timeout=timeout, memory_limit=memory_limit, recycle_after=recycle_after
        )
        self._ahead = max(4096, 4 * workers * concurrency(verifier) * batch_size(verifier))
        self._tally = Tally()
        self._lock = threading.Lock()
        self._crew: Crew | None = None  # None: nothing started yet
        if workers > 0:
            self._pickled, self._script = _pickle_verifier(verifier)
        _POOLS.add(self)

    @property
    def timeouts(self) -> int:
        """Answers that were not judged by their deadline, since the pool was made."""
        return self._tally.timeouts

    @property
    def crashes(self) -> int:
        """Answers whose process died."""
        return self._tally.crashes

    @property
    def errors(self) -> int:
        """Answers whose verifier raised, or returned what is no verdict, or an error of its own."""
        return self._tally.errors

    def metrics(self) -> dict[str, float]:
        """Speed and faults since the last call, under the names of metrics.jsonl."""
        return self._tally.metrics(self._terms.workers)

    def processes(self) -> list[int]:
        """Process ids of the judges that are ready."""
        crew = self._crew
        return [] if crew is None else [s.pid for s in crew.slots if s.pid is not None and s.state == "ready"]

    def __enter__(self) -> "VerifierPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def begin(self) -> None:
        """Start the processes beside what the caller does next; loading a verifier takes seconds."""
        if self._terms.workers:
            self._ready_crew().begin()

    def close(self) -> None:
        """End all processes; a call that another thread is in fails. A later call starts new ones."""
        with self._lock:
            crew, self._crew = self._crew, None
        if crew is not None:
            crew.stop()

    def __call__(self, prompt: Prompt, text: str) -> Score:
        """A pool is a verifier itself: one that cannot hang."""
        return self.score([(prompt, text)])[0]

    @property
    def value_range(self) -> tuple[float, float] | None:
        return value_range(self._verifier)

    def gold_text(self, prompt: Prompt) -> str | None:
        return gold_text(self._verifier, prompt)

    def score(
        self, items: Sequence[tuple[Prompt, str]], progress: Callable[[int], None] | None = None
    ) -> list[Score]:
        """One Score per (prompt, answer), in order. `progress` is told how many are done, each time one is."""
        scores: dict[int, Score] = {}
        for index, score in self._verdicts(items, ahead=len(items)):
            scores[index] = score
            if progress is not None:
                progress(len(scores))
        return [scores[index] for index in range(len(items))]

    def stream(self, items: Iterable[tuple[Prompt, str]], ahead: int | None = None) -> Iterator[Score]:
        """The Score of each answer, in order, while `items` is read no further than `ahead` answers before the one given out.

        ahead: None is enough that one answer that hangs keeps no process idle, and 64 Mi characters at most. Where answers to
            a prompt are compared, those that follow each other stay together, however many there are
        """
        if batch_size(self._verifier) >= WHOLE_STEP:
            for some in _whole_prompts(items, ahead or _COMPARED_AHEAD):
                yield from self.score(some)
            return
        early: dict[int, Score] = {}
        following = 0
        for index, score in self._verdicts(items, ahead=ahead or self._ahead, characters=_WINDOW_CHARACTERS):
            early[index] = score
            while following in early:
                yield early.pop(following)
                following += 1

    def _verdicts_here(self, items: Iterable[tuple[Prompt, str]]) -> Iterator[tuple[int, Score]]:
        """The same in this process: one answer at a time, or in the verifier's batches."""
        numbered = enumerate(items)
        while some := list(itertools.islice(numbered, batch_size(self._verifier))):
            began = time.monotonic()
            scores = _judged_here(self._verifier, [item for _, item in some])
            self._tally.judged(time.monotonic() - began, len(some))
            self._tally.errors += sum(score.error for score in scores)
            yield from zip([index for index, _ in some], scores, strict=True)

    def _verdicts(
        self, items: Iterable[tuple[Prompt, str]], ahead: int, characters: int | None = None
    ) -> Iterator[tuple[int, Score]]:
        """Verdicts with the index of their answer, as they come."""
        if self._terms.workers == 0:
            yield from self._verdicts_here(items)
            return
        source = enumerate(items)
        call = Call()
        crew = None
        window = _Window(ahead, characters)
        self._tally.opened()
        try:
            while True:
                more = window.fill(call, source)
                if window.empty:
                    return
                if crew is None:
                    crew = self._ready_crew()
                    crew.open(call)
                elif more:
                    crew.added()
                found = _heard(call)
                if isinstance(found, RolloutError):
                    raise found
                for index, score in found:
                    window.done(index)
                    yield index, score
        finally:
            self._tally.closed()
            if crew is not None:
                crew.left(call)

    def _ready_crew(self) -> Crew:
        with self._lock:
            if self._crew is None or not self._crew.alive:
                self._crew = Crew(self._verifier, self._pickled, self._script, self._terms, self._tally)
                weakref.finalize(self, self._crew.stop)
            return self._crew

    def _after_fork(self) -> None:
        """In a fork of the process that made the pool: let go of its processes, which are not ours; start our own when asked."""
        self._lock = threading.Lock()
        if self._crew is not None:
            self._crew.forget()
            self._crew = None


def _whole_prompts(items: Iterable[tuple[Prompt, str]], least: int) -> Iterator[list[tuple[Prompt, str]]]:
    """The items in lists of at least so many, none of which ends between two answers to one prompt."""
    some: list[tuple[Prompt, str]] = []
    for prompt, text in items:
        if len(some) >= least and prompt.id != some[-1][0].id:
            yield some
            some = []
        some.append((prompt, text))
    if some:
        yield some


def _heard(call: Call) -> Verdicts:
    """What the pool says next. Wakes now and then: a wait without end would sleep through a Ctrl-C that another thread was given."""
    while True:
        try:
            return call.verdicts.get(timeout=_WAKE_SECONDS)
        except Empty:
            continue


class _Window:
    """The answers that were read and not yet given out."""

    def __init__(self, ahead: int, characters: int | None) -> None:
        self._ahead, self._characters = ahead, characters
        self._lengths: dict[int, int] = {}  # of the answers without a verdict
        self._first = 0  # before it, all have one
        self._next = 0
        self._held = 0

    @property
    def empty(self) -> bool:
        return not self._lengths

    def fill(self, call: Call, source: "Iterator[tuple[int, tuple[Prompt, str]]]") -> bool:
        """Read answers while there is room; whether there was one."""
        before = self._next
        while self._next - self._first < self._ahead and (
            self._characters is None or self._held < self._characters or not self._lengths
        ):
            try:
                index, (prompt, text) = next(source)
            except StopIteration:
                break
            self._lengths[index] = len(text)
            self._held += len(text)
            self._next = index + 1
            call.waiting.append(Asked(call, index, prompt, text, time.monotonic()))
        return self._next > before

    def done(self, index: int) -> None:
        self._held -= self._lengths.pop(index)
        while self._first < self._next and self._first not in self._lengths:
            self._first += 1


def _judged_here(verifier: AnyVerifier, items: list[tuple[Prompt, str]]) -> list[Score]:
    if len(items) == 1 or not has_batch(verifier):
        return [judge(verifier, prompt, text) for prompt, text in items]
    try:
        return judge_batch(verifier, items)
    except Exception:  # users' verifiers raise anything; asked again one by one, each answer says what it was
        return [judge(verifier, prompt, text) for prompt, text in items]


def _pickle_verifier(verifier: AnyVerifier) -> tuple[bytes, str | None]:
    """The verifier for a process, and the script that defines it, if it is the one that was started."""
    name = f"the verifier {verifier_name(verifier)}"
    if keeper.inside:
        raise RolloutError("a verifier process tried to start verifier processes of its own")
    try:
        pickled = pickle.dumps(verifier)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise RolloutError(
            f"{name} cannot go to a verifier process ({describe(error)}). "
            "Define it at the top of a module, without lambdas or open files in it; or set reward.workers = 0"
        ) from error
    if b"__main__" not in pickled:
        return pickled, None
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is None or not _GUARD.search(Path(script).read_text(encoding="utf-8")):
        raise RolloutError(
            f"{name} is defined in what was started ({script or 'an interactive session'}), which a verifier "
            "process cannot import without running it. Move it into a file of its own, or put what the script does "
            'under  if __name__ == "__main__":'
        )
    return pickled, os.path.abspath(script)


def _forget_all() -> None:
    for pool in list(_POOLS):
        pool._after_fork()


os.register_at_fork(after_in_child=_forget_all)
