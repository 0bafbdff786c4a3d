"""Whether processes that somebody else started have ended."""

import os
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


def listening(processes: Sequence[int]) -> set[str]:
    """The addresses on which these processes take connections, "loopback" for those that only this machine reaches."""
    inodes = set()
    for process in processes:
        for link in list(Path(f"/proc/{process}/fd").glob("*")):
            try:
                name = os.readlink(link)
            except OSError:  # it was closed just now
                continue
            if name.startswith("socket:["):
                inodes.add(name[8:-1])
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            address, state, inode = (line.split()[i] for i in (1, 3, 9))
            if state == "0A" and inode in inodes:
                found.add(LOOPBACK.get(address.rpartition(":")[0], address))
    return found


LOOPBACK = dict.fromkeys(
    ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"), "loopback"
)
"""127.0.0.1, the same as an address of version 6, and ::1."""


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
