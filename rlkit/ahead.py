"""One thread beside the learner's, which does one thing at a time: the rollouts of a later step while this one trains."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

import torch

T = TypeVar("T")

END_SECONDS = 30.0
"""For what is under way to notice that it was interrupted; a verifier ends at its own deadline. Then the thread is left behind,
which ends with the process."""
END_SECONDS_OF_MANY = 5.0
"""The same where it may wait for another rank, which learns only afterwards that this one ends."""


class Ahead(Generic[T]):
    """The thread and its work. Between `with` and its end it may be asked to begin something; nothing runs after that.

    interrupt: makes work that is under way stop soon, from another thread
    split_cores: divide this process's threads of computation in two fixed halves, one for each side. Which side had how many would
        otherwise depend on who came first, and with it the last bits of sums.
    """

    def __init__(
        self, interrupt: Callable[[], None], *, split_cores: bool, end_seconds: float = END_SECONDS
    ) -> None:
        self._interrupt, self._end_seconds = interrupt, end_seconds
        self._threads = torch.get_num_threads()
        self._beside = max(1, self._threads // 2) if split_cores else 0
        self._asked: queue.SimpleQueue[tuple[Callable[[], T], Future[T]] | None] = queue.SimpleQueue()
        self._now: Future[T] | None = None  # None: nothing is under way
        self._thread: threading.Thread | None = None  # None: nothing was ever asked for
        self.ending = False
        """Whether what is under way should end: it looks here between two calls that cannot be interrupted."""

    def __enter__(self) -> "Ahead[T]":
        if self._beside:
            torch.set_num_threads(max(1, self._threads - self._beside))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.ending = True
        if self._beside:
            torch.set_num_threads(self._threads)
        if self._thread is None:
            return
        if self.under_way:
            self._interrupt()
        self._asked.put(None)
        self._thread.join(self._end_seconds)

    @property
    def under_way(self) -> bool:
        """Whether something was begun that has not ended."""
        return self._now is not None and not self._now.done()

    def begin(self, work: Callable[[], T]) -> None:
        """Begin it in the thread."""
        if self._now is not None:
            raise RuntimeError("something is under way, or its result was not taken")
        if self._thread is None:
            # A daemon, so that a sampler that never comes back does not hold up the end of the process.
            self._thread = threading.Thread(target=self._run, name="rlkit-rollouts", daemon=True)
            self._thread.start()
        self._now = Future()
        self._asked.put((work, self._now))

    def wait(self) -> None:
        """Until it has ended. An exception that a signal raises here leaves it under way."""
        if self._now is None:
            raise RuntimeError("nothing was begun")
        self._now.exception()

    def result(self) -> T:
        """What the work gave, once it is there. Raises what it raised."""
        self.wait()
        done, self._now = self._now, None
        assert done is not None
        return done.result()

    def _run(self) -> None:
        if self._beside:
            torch.set_num_threads(self._beside)  # of this thread, and of those that begin later
        while (asked := self._asked.get()) is not None:
            work, future = asked
            try:
                result = work()
            except (
                BaseException
            ) as error:  # raised again by `result`, in the thread that can do something about it
                future.set_exception(error)
            else:
                future.set_result(result)
