"""Wait for a fact, not for a time: a loaded machine is slow, and a test must not care."""

import time
from collections.abc import Callable


def wait_until(fact: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether it comes true before the deadline."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if fact():
            return True
        time.sleep(0.02)
    return False
