"""New weights to one server: through a file that both see, or over gloo. vLLM's own senders for GPUs are in vllm_senders.py.

All of them speak vLLM's four calls (init, start, update, finish) and are held by the same four methods: `take` is told of new
weights, `bring` gives what was last taken to one server, in a thread of its own; what it raises makes that server lost.

Weights with adapters apart (rlkit.adapted) go as their base, once to each server, and then as the adapters alone; the server
adds them up (vllm_receiver.py). So it writes as fast as with whole weights, which vLLM's own LoRA requests would not.
"""

import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping, MutableSet
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from rlkit.adapted import AdaptedWeights, scales, to_tensors

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

    def bring(self, calls: WeightCalls, world_size: int) -> int:
        """Give them to one server of `world_size` processes; how many bytes it had not got before. Raises whatever went wrong."""
        ...

    def close(self) -> None: ...


ADAPTER_DTYPE = torch.float32
"""Whatever the servers' type: adapters are small, and rounded twice they would lose what a step learnt."""


def nbytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


class FileTransfer:
    """A safetensors file in a folder that only this user can open; in memory (/dev/shm) where it fits.

    All servers read the same file, so it is written once. It stays until the next one, for servers that join later. With
    adapters apart there are two: the base stays for good, and no server needs a copy of it.
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
        self._update: dict[str, Any] = {}
        """What servers are told to read."""
        self._files: dict[Path, int] = {}
        """Those of the current weights, and their bytes."""
        self._base: Mapping[str, Tensor] | None = None
        self._base_path: Path | None = None
        self._given_base: MutableSet[WeightCalls] = weakref.WeakSet()
        self._tag = ""
        self._count = 0
        self._remove = weakref.finalize(self, _remove, [])

    @property
    def probe(self) -> Path:
        """A file that exists where this transfer can be read."""
        return self._opened(0) / "lock"

    def take(self, weights: Mapping[str, Tensor], tag: str) -> None:
        before = self._files
        if isinstance(weights, AdaptedWeights):
            if self._base is not weights.base or self._base_path is None:
                self._base, self._base_path = weights.base, self._written(weights.base, self.dtype)
                self._given_base.clear()
            path = self._written(to_tensors(weights.changes), ADAPTER_DTYPE)
            self._update = {
                "path": str(path),
                "base_path": str(self._base_path),
                "scales": scales(weights.changes),
            }
            self._files = {path: path.stat().st_size, self._base_path: self._base_path.stat().st_size}
        else:
            self._base = self._base_path = None
            path = self._written(weights, self.dtype)
            self._update, self._files = {"path": str(path)}, {path: path.stat().st_size}
        self._tag = tag
        for old in before.keys() - self._files.keys():
            old.unlink(missing_ok=True)

    def bring(self, calls: WeightCalls, world_size: int) -> int:
        if not self._update:
            raise RuntimeError("no weights were taken yet")
        calls.init_weight_transfer_engine({"kind": "file"})
        calls.start_weight_update()
        calls.update_weights(self._update)
        calls.finish_weight_update(self._tag)
        known = self._base_path if calls in self._given_base else None
        if self._base_path is not None:
            self._given_base.add(calls)
        return sum(size for path, size in self._files.items() if path != known)

    def close(self) -> None:
        self._remove()

    def _written(self, weights: Mapping[str, Tensor], dtype: torch.dtype) -> Path:
        """A new file."""
        from safetensors.torch import save_file

        seen: set[int] = set()
        tensors: dict[str, Tensor] = {}
        for name, tensor in weights.items():
            tensor = tensor.detach().to("cpu", dtype).contiguous()
            # The format knows no tensor with two names (a tied output embedding), so the second gets a copy.
            tensors[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
            seen.add(tensor.data_ptr())
        self._count += 1
        path = self._opened(nbytes(tensors)) / f"{self._count}.safetensors"
        save_file(tensors, path)
        return path

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
        """The adapters alone when `_scales` says how much of them is added to the base."""
        self._scales: dict[str, float] = {}
        self._base: dict[str, Tensor] = {}
        self._base_of: Mapping[str, Tensor] | None = None
        self._given_base: MutableSet[WeightCalls] = weakref.WeakSet()
        self._tag = ""

    def take(self, weights: Mapping[str, Tensor], tag: str) -> None:
        """A copy, since servers that join later get these, whatever the learner does meanwhile."""
        if isinstance(weights, AdaptedWeights):
            if self._base_of is not weights.base:
                self._base_of, self._base = weights.base, _copied(weights.base, self._dtype)
                self._given_base.clear()
            self._weights = _copied(to_tensors(weights.changes), ADAPTER_DTYPE)
            self._scales = scales(weights.changes)
        else:
            self._weights, self._scales = _copied(weights, self._dtype), {}
            self._base, self._base_of = {}, None
        self._tag = tag

    def bring(self, calls: WeightCalls, world_size: int) -> int:
        weights, scales, tag, sent = self._weights, self._scales, self._tag, 0
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
            if scales and calls not in self._given_base:
                sent += _sent(link, calls, self._base, {"keep": True})
                self._given_base.add(calls)
            sent += _sent(link, calls, weights, {"scales": scales})
            calls.finish_weight_update(tag)
        finally:
            link.close()
        return sent * world_size

    def close(self) -> None:
        self._weights, self._base, self._base_of = {}, {}, None


def _copied(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: t.detach().to("cpu", dtype, copy=True).contiguous() for name, t in weights.items()}


def _sent(link: Link, calls: WeightCalls, tensors: Mapping[str, Tensor], more: Mapping[str, Any]) -> int:
    """Tensors over a link, announced by one `update_weights`; their bytes."""
    update = {
        "names": list(tensors),
        "dtypes": [str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()],
        "shapes": [list(tensor.shape) for tensor in tensors.values()],
        **more,
    }
    with Beside(lambda: calls.update_weights(update)) as received:
        for tensor in tensors.values():
            link.broadcast(tensor)
        received.result()
    return nbytes(tensors)
