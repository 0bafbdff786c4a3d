"""How a run is asked to stop: Ctrl-C by a person, a signal by a scheduler.

Ctrl-C                    the step ends and is saved; a second one ends the run at once, without
--log.save-on-signal      the same, but the job is killed `grace` seconds later. Half of them are the step's; one that has
                          not ended then is given up, unless its update has begun, and what is saved is the step before.
                          Given again, such a signal changes nothing: schedulers send several.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

AGAIN_SECONDS = 1.0
"""Until the alarm rings again: an exception that a signal raises inside a destructor or a callback from C is printed and lost."""


class GaveUp(BaseException):
    """Raised out of work that cannot end in time. No Exception: whoever catches all of those would go on with it."""


class Stop:
    """Whether this run was asked to stop. Signals are its own between `with` and its end.

    signals, grace: of a scheduler (LogConfig);  save_seconds: what the last checkpoint took to write
    may_give_up: off where other ranks would wait for the work given up
    """

    def __init__(
        self,
        say: Callable[[str], None],
        signals: Sequence[signal.Signals] = (),
        grace: float = 30.0,
        *,
        save_seconds: Callable[[], float] = lambda: 0.0,
        may_give_up: bool = True,
    ) -> None:
        self.asked = False
        self._say, self._signals, self._grace = say, tuple(signals), grace
        self._save_seconds, self._may_give_up = save_seconds, may_give_up
        self._inside = self._late = self._by_hand = self._by_scheduler = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        handlers = {signal.SIGINT: self._ctrl_c, **dict.fromkeys(self._signals, self._signalled)}
        if self._may_give_up and self._signals:
            handlers[signal.SIGALRM] = self._alarm
        try:
            for number, handler in handlers.items():
                self._before[number] = signal.signal(number, handler)
        except ValueError:  # not in the main thread: whoever owns it decides about signals
            self._before.clear()
        return self

    def __exit__(self, *_: object) -> None:
        if signal.SIGALRM in self._before:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def may_give_up(self) -> Iterator[None]:
        """Around work that leaves nothing behind. Raises GaveUp out of it when the time for it is over."""
        self._inside = True
        try:
            if self._late:
                raise GaveUp
            yield
        finally:
            self._inside = False

    @property
    def step_seconds(self) -> float:
        """Of the grace, what is left to the step: half, or less where saving took more than a quarter of it."""
        return max(0.01, self._grace - max(self._grace / 2, 2 * self._save_seconds()))

    def _ctrl_c(self, number: int, frame: FrameType | None) -> None:
        if self._by_hand:
            raise KeyboardInterrupt
        self.asked = self._by_hand = True
        self._say("stopping after this step, with a checkpoint (Ctrl-C again: at once, without)")

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self._by_scheduler:
            return
        self.asked = self._by_scheduler = True
        words = f"{signal.Signals(number).name}: stopping after this step, with a checkpoint"
        if self._may_give_up:
            seconds = self.step_seconds
            signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_SECONDS)
            words += f"; if its update has not begun in {seconds:.3g} s, without it"
        self._say(words)

    def _alarm(self, number: int, frame: FrameType | None) -> None:
        self._late = True
        if self._inside:
            raise GaveUp
