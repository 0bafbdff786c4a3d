"""Who saves: here, or in a thread beside the steps that follow.

In a thread a step waits only until everything lies in this host's memory. Writing, checksums and fsync do not hold the
interpreter (safetensors and hashlib let go of it), so the next step goes on beside them; the next save waits for the last one.
"""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .snapshot import About, Host, Keeper, Position, Snapshot, snapshot
from .write import write

NICENESS = 10
"""Of the thread, on Linux: where all cores compute, the step goes first."""
COPY_ROOM = 1.2
"""Free memory that a copy must leave untouched, as a multiple of it: the step needs some, too."""


class Saver:
    """The checkpoints of one run, under `root`.

    saved_step: of the checkpoint that the run goes on from
    background: write in a thread. Where the host's memory does not hold a copy, the step waits all the same
    free_bytes: what this host has free, asked before the first copy;  say: where that is told
    """

    def __init__(
        self,
        root: Path,
        learner: Keeper,
        tokenizer: Any,
        *,
        keep: int,
        about: About | None = None,
        saved_step: int | None = None,
        background: bool = False,
        free_bytes: Callable[[], int] | None = None,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.root, self.learner, self.tokenizer, self.keep = root, learner, tokenizer, keep
        self.about, self._saved_step = about or About(), saved_step
        self._host = Host() if background else None
        self._free_bytes, self._say = free_bytes, say
        self._thread: threading.Thread | None = None  # None: nothing is being written
        self._failure: BaseException | None = None
        self.seconds = 0.0
        """What writing the last one took, from the snapshot to its name; 0: there was none yet."""

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """What is being written is finished, also where the run has failed; then its failure is the one to tell."""
        if kind is None:
            self.finish()
        elif self._thread is not None:
            self._thread.join()

    def save(self, position: Position, *, wait: bool = False) -> None:
        """Every rank calls it after a step. Raises RunError when this one, or the one before, cannot be written.

        wait: it is written when this returns, as it must be before the process ends
        """
        self.finish()
        if position.step == self._saved_step:
            return
        self._saved_step = position.step
        host = None if wait else self._host_with_room()
        began = time.monotonic()
        taken = snapshot(self.learner, position, self.about, host)
        if taken is None:  # not the rank that writes
            return
        if host is None:
            self._write(taken, began)
            self.finish()
            return
        self._thread = threading.Thread(target=self._beside, args=(taken, began), name="checkpoint")
        self._thread.start()

    def finish(self) -> None:
        """Wait for what is being written. Raises RunError when it could not be."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _beside(self, taken: Snapshot, began: float) -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        except (OSError, AttributeError):  # another system: then it competes with the step
            pass
        self._write(taken, began)

    def _write(self, taken: Snapshot, began: float) -> None:
        try:
            write(self.root, self.learner, self.tokenizer, taken, self.keep)
            self.seconds = time.monotonic() - began
        except BaseException as error:  # raised by `finish`, where the run can hear it
            self._failure = error

    def _host_with_room(self) -> Host | None:
        """Where to copy to; None for good when this host's memory would not hold a copy."""
        free_bytes, self._free_bytes = self._free_bytes, None
        if self._host is not None and free_bytes is not None:
            parameters: Any = sum(t.numel() for _, _, t in self.learner.model_tensors())
            # Float32 weights and two moments. Asked once: the memory is kept for the next copies.
            needed, free = (
                4 * parameters + 8 * self.learner.num_trained,
                self.learner.ranks.first(free_bytes()),
            )
            if needed * COPY_ROOM > free:
                self._host = None
                self._say(
                    f"checkpoints are written while the step waits: a copy beside it takes {needed / 2**30:.1f} GiB of this host's "
                    f"memory, and {free / 2**30:.1f} are free (--log.no-async-save says so at once)"
                )
        return self._host
