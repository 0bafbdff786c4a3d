"""Whether processes that somebody else started have ended."""

import time
from collections.abc import Sequence
from pathlib import Path


def require_gone(processes: Sequence[int], patience: float = 60.0) -> None:
    """Fails when one of them still runs after `patience` seconds. One that only waits to be reaped has ended: by whom and when
    an orphan is reaped is the machine's affair."""
    until = time.monotonic() + patience
    while alive := [p for p in processes if _runs(p)]:
        assert time.monotonic() < until, f"left behind: {alive}"
        time.sleep(0.05)


def members_of(group: int) -> list[int]:
    """The processes of a group that run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it ended just now
            continue
        if int(its) == group and state not in "ZX":
            found.append(int(stat.parent.name))
    return sorted(found)


def descendants(process: int) -> list[int]:
    """Children, their children and so on, the nearest first."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended just now
            continue
    found: list[int] = []
    grown = [process]
    while grown:
        grown = [child for child, parent in parents.items() if parent in grown]
        found += grown
    return found


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
