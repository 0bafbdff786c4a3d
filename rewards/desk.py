"""The callers' side of a pool: who waits for which verdicts, whose turn it is, and the way back."""

import socket
import time
from collections import deque
from dataclasses import dataclass, field
from queue import SimpleQueue

from rlkit.errors import RolloutError
from rlkit.types import Prompt, Score

BATCH_CHARACTERS = 1 << 24
"""Of the answers in one batch, at most."""

Verdicts = list[tuple[int, Score]] | RolloutError
"""What a caller is told: verdicts by the index of their answer, or why there will be none."""


@dataclass(slots=True, eq=False)
class Call:
    """One caller's answers that wait for a process. The caller appends, the pool's thread takes."""

    waiting: "deque[Asked]" = field(default_factory=deque)
    verdicts: "SimpleQueue[Verdicts]" = field(default_factory=SimpleQueue)
    """To the caller, in any order."""
    judged: list[tuple[int, Score]] = field(default_factory=list)
    """Not told yet."""
    dropped: bool = False
    """The caller has left; nothing more is judged for it."""


@dataclass(slots=True, eq=False)
class Asked:
    """One answer that is to be judged."""

    call: Call
    index: int
    prompt: Prompt
    text: str
    since: float
    """When it began to wait, on the monotonic clock."""
    alone: bool = False
    """It was in a batch, or among others in a process, that failed: it is judged by itself."""


class Desk:
    """Takes from all calls in turn, so that a long one holds up no short one."""

    def __init__(self) -> None:
        self._calls: deque[Call] = deque()
        self._inbox: SimpleQueue[Call] = SimpleQueue()
        self._hungry = False
        self.alarm, self._wake = socket.socketpair()
        for end in (self.alarm, self._wake):
            end.setblocking(False)

    # For callers, in any thread.

    def open(self, call: Call) -> None:
        self._inbox.put(call)
        self.wake()

    def added(self) -> None:
        """More answers wait in some call."""
        if self._hungry:
            self._hungry = False
            self.wake()

    def wake(self) -> None:
        try:
            self._wake.send(b"w")
        except OSError:
            pass  # it is full, so it wakes; or closed, so there is nobody to wake

    # For the pool's thread.

    def woken(self) -> None:
        self.alarm.recv(4096)

    def take_in(self) -> bool:
        """New callers, and those that have left; whether there was one of these."""
        while not self._inbox.empty():
            self._calls.append(self._inbox.get())
        left = [call for call in self._calls if call.dropped]
        for call in left:
            self._calls.remove(call)
            call.waiting.clear()
        return bool(left)

    def num_waiting(self) -> int:
        return sum(len(call.waiting) for call in self._calls)

    def next(self, batch_size: int, with_others: bool) -> list[Asked]:
        """The next answer, or batch of one caller. `with_others`: it will not be alone in its process. []: there is none."""
        self._hungry = True  # before looking: what is added after the look wakes the thread
        for _ in range(len(self._calls)):
            call = self._calls[0]
            self._calls.rotate(-1)
            if call.waiting and not (with_others and call.waiting[0].alone):
                return _taken(call, batch_size)
        return []

    def ask_again(self, asked: list[Asked], alone: bool) -> None:
        """Put answers back, before those that wait."""
        for one in reversed(asked):
            one.alone = one.alone or alone
            one.since = time.monotonic()
            if not one.call.dropped:
                one.call.waiting.appendleft(one)

    def verdict(self, asked: Asked, score: Score) -> None:
        asked.call.judged.append((asked.index, score))

    def deliver(self) -> None:
        """Tell the callers what was judged since."""
        for call in self._calls:
            if call.judged:
                judged, call.judged = call.judged, []
                call.verdicts.put(judged)

    def fail(self, error: RolloutError) -> None:
        """Nothing more is judged for those who call now."""
        self.take_in()
        self.deliver()
        for call in self._calls:
            call.dropped = True
            call.verdicts.put(error)
        self._calls.clear()

    def close(self) -> None:
        self.alarm.close()
        self._wake.close()


def _taken(call: Call, batch_size: int) -> list[Asked]:
    asked = [call.waiting.popleft()]
    size = len(asked[0].text)
    while len(asked) < batch_size and not asked[0].alone and call.waiting and not call.waiting[0].alone:
        size += len(call.waiting[0].text)
        if size > BATCH_CHARACTERS:
            break
        asked.append(call.waiting.popleft())
    return asked
