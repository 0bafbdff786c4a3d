"""metrics.jsonl as columns, read on from where the last reading ended, while a run writes at it."""

import json
import threading
from array import array
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Records:
    """One number per step and name. Safe to use from several threads.

    What cannot be read is left out and counted: a line that is still being written is read when it is whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0
        """Lines that are no record."""
        self.last: dict[str, Any] = {}
        """The newest record."""
        self.length = 0
        self._columns: dict[str, tuple[array[float], array[float]]] = {}
        self._place = (0, 0)  # inode, and bytes read
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Read what was added. A file that was replaced, as --resume does, is read anew."""
        with self._lock:
            try:
                with self.path.open("rb") as file:
                    self._read(file)
            except OSError:  # not written yet, or gone: what is known stays
                return

    def names(self) -> list[str]:
        with self._lock:
            return sorted(self._columns)

    def get(self, name: str) -> tuple[Floats, Floats]:
        """Steps and finite values of a name; empty where it was never written."""
        with self._lock:
            steps, values = self._columns.get(name, (array("d"), array("d")))
            steps_T, values_T = np.array(steps), np.array(values)
        known_T = np.isfinite(values_T)
        return steps_T[known_T], values_T[known_T]

    def newest(self, name: str) -> float | None:
        """The last finite value of a name."""
        _, values_T = self.get(name)
        return float(values_T[-1]) if len(values_T) else None

    @property
    def step(self) -> int:
        return int(self.last.get("step", 0))

    def _read(self, file: Any) -> None:
        import os

        stat = os.fstat(file.fileno())
        inode, read = self._place
        if inode != stat.st_ino or stat.st_size < read:
            self._columns, self.last, self.length, self.damaged, read = {}, {}, 0, 0, 0
        file.seek(read)
        whole, newline, _ = file.read().rpartition(b"\n")
        for line in whole.split(b"\n") if newline else ():
            self._add(line)
        self._place = (stat.st_ino, read + len(whole) + len(newline))

    def _add(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            record = json.loads(line.decode("utf-8", "replace"))
            step = record["step"]
        except (ValueError, KeyError, TypeError, RecursionError):
            self.damaged += 1
            return
        if isinstance(step, bool) or not isinstance(step, int):
            self.damaged += 1
            return
        for name, value in record.items():
            if type(value) in (float, int) and name != "step":
                steps, values = self._columns.setdefault(name, (array("d"), array("d")))
                steps.append(step)
                values.append(value)
        self.last = record
        self.length += 1
