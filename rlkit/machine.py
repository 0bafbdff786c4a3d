"""The device a run computes on and the disk it writes to: what there is, and what is free. GiB."""

import ctypes
import importlib
import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The device a run will compute on, and the disk it will write to.

    >>> Machine(device="cuda", name="H200", memory_gib=139.8, free_gib=139.2, disk_free_gib=900.0).device
    'cuda'
    """

    device: Literal["cuda", "cpu"]
    name: str
    memory_gib: float
    free_gib: float
    disk_free_gib: float


def this_machine(output_dir: str | None) -> Machine:
    """The first GPU, or this host; and the disk of the run folder."""
    import torch

    folder = Path(output_dir or "runs").absolute()
    while not folder.exists():
        folder = folder.parent
    disk = shutil.disk_usage(folder).free / GIB
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return Machine(
            device="cuda", name=name, memory_gib=total / GIB, free_gib=free / GIB, disk_free_gib=disk
        )
    total, free = host_memory()
    name = f"CPU, {os.cpu_count()} cores"
    return Machine(device="cpu", name=name, memory_gib=total / GIB, free_gib=free / GIB, disk_free_gib=disk)


def host_memory() -> tuple[int, int]:
    """Bytes of memory of this host, or of the container it runs in, and how many are free."""
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    if importlib.util.find_spec("psutil"):  # it counts what the page cache would give back
        free = int(importlib.import_module("psutil").virtual_memory().available)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:  # no control groups here
        limit = "max"
    if limit.isdecimal() and int(limit) < total:
        total, free = int(limit), min(free, int(limit))
    return total, free


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's names for them in mallopt(3)
_LARGEST_KEPT = 32 * 2**20  # bytes; glibc takes no more


def keep_freed_memory() -> bool:
    """Let this process keep memory that it frees, up to 32 MiB a piece, for its next allocation; whether this C library can.

    A step on a CPU frees its activations and allocates them anew in the next. glibc gives them back to the system in between, and
    every page is then faulted in and zeroed again, on the way of the step's own work. The peak stays what it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl, macOS
        return False
    kept_bytes = 2**31 - 1
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)) and bool(mallopt(_TRIM_THRESHOLD, kept_bytes))
