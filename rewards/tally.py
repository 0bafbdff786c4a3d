"""What a pool counts: faults since it was made, and the speed since it was last asked."""

import threading
import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """Written by the pool's thread, read by anybody."""

    timeouts: int = 0
    """Answers that were not judged by their deadline."""
    crashes: int = 0
    """Answers whose process died."""
    errors: int = 0
    """Answers whose verifier raised, or returned what is no verdict, or an error of its own."""
    restarts: int = 0
    """Judging processes that ended: killed, dead, or replaced for their age."""
    _items: int = 0
    _judge_seconds: float = 0.0
    _sent: int = 0
    _queue_seconds: float = 0.0
    _open_seconds: float = 0.0
    _open_since: float = 0.0
    _num_open: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _told: dict[str, int] = field(default_factory=dict)

    def queued(self, seconds: float) -> None:
        """An answer was sent to a process after so long."""
        self._sent += 1
        self._queue_seconds += seconds

    def judged(self, seconds: float, items: int) -> None:
        """A process gave verdicts on so many answers, after so long."""
        self._items += items
        self._judge_seconds += seconds

    def opened(self) -> None:
        """A caller waits for verdicts."""
        with self._lock:
            if self._num_open == 0:
                self._open_since = time.monotonic()
            self._num_open += 1

    def closed(self) -> None:
        with self._lock:
            self._num_open -= 1
            if self._num_open == 0:
                self._open_seconds += time.monotonic() - self._open_since

    def metrics(self, workers: int) -> dict[str, float]:
        """The numbers of a step: since the last call, and reset by it."""
        with self._lock:
            if self._num_open:
                now = time.monotonic()
                self._open_seconds += now - self._open_since
                self._open_since = now
            counts = {"timeouts": self.timeouts, "crashes": self.crashes, "restarts": self.restarts}
            seconds, items = self._open_seconds, self._items
            numbers = {
                "verifier/items_per_second": items / seconds if seconds else 0.0,
                "verifier/queue_seconds": self._queue_seconds / self._sent if self._sent else 0.0,
                "verifier/judge_seconds": self._judge_seconds / items if items else 0.0,
                "verifier/busy": min(1.0, self._judge_seconds / (seconds * max(1, workers)))
                if seconds
                else 0.0,
            }
            for name, count in counts.items():
                numbers[f"verifier/{name}"] = float(count - self._told.get(name, 0))
            self._told = counts
            self._items = self._sent = 0
            self._judge_seconds = self._queue_seconds = self._open_seconds = 0.0
            return numbers
