"""What the command does about SIGTERM, and about threads that meet a full disk."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rlkit.errors import DISK_FULL_ERRORS


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """A scheduler's SIGTERM is Ctrl-C, whatever that means at the time: at once, or after the step with a checkpoint."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            raise KeyboardInterrupt  # a script's shell ignores Ctrl-C for what it starts with &
        signal.raise_signal(signal.SIGINT)

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread: whoever owns it decides about signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def quiet_threads() -> Iterator[None]:
    """A writer's thread (TensorBoard) that meets a full disk hands the error on to us: no need for its traceback too."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if getattr(args.exc_value, "errno", None) not in DISK_FULL_ERRORS:
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
