"""New weights to one server: through a file that both see, or over gloo. vLLM's own senders for GPUs are in vllm_senders.py.

All of them speak vLLM's four calls (init, start, update, finish) and are held by the same four methods: `take` is told of new
weights, `bring` gives what was last taken to one server, in a thread of its own; what it raises makes that server lost.
"""

import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from .beside import Beside
from .gloo import Link, listening
from .worker_http import WeightCalls

SHARED_MEMORY = Path("/dev/shm")
ROOM_FACTOR = 2.5
"""The file lies in memory when so many times its size is free there: for a moment the old and the new one exist."""
PREFIX = "rlkit-weights-"


class Transfer(Protocol):
    """How weights reach servers."""

    kind: str
    keeps_copy: bool
    """What was taken stays whole while the learner goes on; otherwise servers are brought up only while it waits for them."""

    def take(self, weights: Mapping[str, Tensor], tag: str) -> None:
        """These are the weights now, and what they are called."""
        ...

    def bring(self, calls: WeightCalls, world_size: int) -> None:
        """Give them to one server of `world_size` processes. Raises whatever went wrong."""
        ...

    def close(self) -> None: ...


class FileTransfer:
    """A safetensors file in a folder that only this user can open; in memory (/dev/shm) where it fits.

    All servers read the same file, so it is written once. It stays until the next one, for servers that join later.
    """

    kind = "file"
    keeps_copy = True

    def __init__(self, dtype: torch.dtype = torch.float32, folder: Path | None = None) -> None:
        """dtype: the servers' own, since a file of float32 for servers of bfloat16 would be twice as large
        folder: where files go; None: memory, or the disk's temporary folder where it does not fit
        """
        self.dtype, self._given = dtype, folder
        self._folder: Path | None = None
        self._lock: int | None = None
        self._path: Path | None = None
        self._tag = ""
        self._count = 0
        self._remove = weakref.finalize(self, _remove, [])

    @property
    def probe(self) -> Path:
        """A file that exists where this transfer can be read."""
        return self._opened(0) / "lock"

    def take(self, weights: Mapping[str, Tensor], tag: str) -> None:
        from safetensors.torch import save_file

        seen: set[int] = set()
        tensors: dict[str, Tensor] = {}
        for name, tensor in weights.items():
            tensor = tensor.detach().to("cpu", self.dtype).contiguous()
            # The format knows no tensor with two names (a tied output embedding), so the second gets a copy.
            tensors[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
            seen.add(tensor.data_ptr())
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        before, self._count = self._path, self._count + 1
        path = self._opened(size) / f"{self._count}.safetensors"
        save_file(tensors, path)
        self._path, self._tag = path, tag
        if before is not None:
            before.unlink(missing_ok=True)

    def bring(self, calls: WeightCalls, world_size: int) -> None:
        if self._path is None:
            raise RuntimeError("no weights were taken yet")
        calls.init_weight_transfer_engine({"kind": "file"})
        calls.start_weight_update()
        calls.update_weights({"path": str(self._path)})
        calls.finish_weight_update(self._tag)

    def close(self) -> None:
        self._remove()

    def _opened(self, size: int) -> Path:
        """The folder, made for files of this many bytes."""
        if self._folder is None:
            root = self._given or _root(size)
            sweep(root)
            self._folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))  # mode 0700
            self._lock = os.open(self._folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._remove.detach()
            self._remove = weakref.finalize(self, _remove, [self._folder], self._lock)
        return self._folder


def _root(size: int) -> Path:
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        free = 0
    return SHARED_MEMORY if free > ROOM_FACTOR * size and free > 0 else Path(tempfile.gettempdir())


def _remove(folders: list[Path], lock: int | None = None) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    if lock is not None:
        os.close(lock)


def sweep(root: Path) -> None:
    """Remove what runs left that were killed: in memory it would stay until the machine starts again.

    A folder is in use exactly as long as somebody holds the lock of its file `lock`.
    """
    for folder in root.glob(f"{PREFIX}*"):
        try:
            if folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / "lock", os.O_RDWR)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


class GlooTransfer:
    """Tensors over TCP, a group of the learner and one server for each update: a server that fails holds up no other."""

    kind = "gloo"
    keeps_copy = True

    def __init__(self, dtype: torch.dtype, host: str, seconds: float) -> None:
        """host: this machine's address as the servers see it;  seconds: for one tensor"""
        self._dtype, self._host, self._seconds = dtype, host, seconds
        self._weights: dict[str, Tensor] = {}
        self._tag = ""

    def take(self, weights: Mapping[str, Tensor], tag: str) -> None:
        """A copy, since servers that join later get these, whatever the learner does meanwhile."""
        self._weights = {
            name: tensor.detach().to("cpu", self._dtype, copy=True).contiguous()
            for name, tensor in weights.items()
        }
        self._tag = tag

    def bring(self, calls: WeightCalls, world_size: int) -> None:
        weights, tag = self._weights, self._tag
        waiting = listening(self._host)
        port = waiting.getsockname()[1]
        meeting = {
            "kind": "gloo",
            "host": self._host,
            "port": port,
            "world_size": 1 + world_size,
            "seconds": self._seconds,
        }
        with Beside(lambda: calls.init_weight_transfer_engine(meeting)) as joined:
            link = Link.host(waiting, 1 + world_size, self._seconds)
            joined.result()
        try:
            calls.start_weight_update()
            update = {
                "names": list(weights),
                "dtypes": [str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()],
                "shapes": [list(tensor.shape) for tensor in weights.values()],
            }
            with Beside(lambda: calls.update_weights(update)) as received:
                for tensor in weights.values():
                    link.broadcast(tensor)
                received.result()
            calls.finish_weight_update(tag)
        finally:
            link.close()

    def close(self) -> None:
        self._weights = {}
