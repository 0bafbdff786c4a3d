"""A private gloo group between the learner and one server: no default process group is needed, or touched."""

import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import (
    PrefixStore,
    TCPStore,
)  # torch.distributed re-exports them, but not to mypy


def listening(host: str) -> socket.socket:
    """A socket on one address and any free port. torch would listen on all of the machine's addresses."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    waiting = socket.socket(family, socket.SOCK_STREAM)
    waiting.bind((host, 0))
    waiting.listen()
    return waiting


@dataclass(frozen=True, slots=True)
class Link:
    """Processes that met; rank 0 sends, all others receive."""

    store: Any
    group: Any

    @classmethod
    def host(cls, waiting: socket.socket, world_size: int, seconds: float) -> "Link":
        """Rank 0's end, at a socket from `listening`; it waits until all are there."""
        address, port = waiting.getsockname()[:2]
        # The store owns the descriptor from here on.
        store = TCPStore(
            address,
            port,
            world_size,
            True,
            timedelta(seconds=seconds),
            wait_for_workers=False,
            master_listen_fd=waiting.detach(),
            use_libuv=False,
        )
        return cls._meet(store, address, 0, world_size, seconds)

    @classmethod
    def join(cls, host: str, port: int, rank: int, world_size: int, seconds: float) -> "Link":
        store = TCPStore(
            host, port, world_size, False, timedelta(seconds=seconds), wait_for_workers=False, use_libuv=False
        )
        return cls._meet(store, _own_address(host, port), rank, world_size, seconds)

    @classmethod
    def _meet(cls, store: Any, address: str, rank: int, world_size: int, seconds: float) -> "Link":
        gloo: Any = dist.ProcessGroupGloo
        options = gloo._Options()
        options._devices = [gloo.create_device(hostname=address)]
        options._timeout = timedelta(seconds=seconds)
        return cls(store, gloo(PrefixStore("rlkit", store), rank, world_size, options))

    def broadcast(self, tensor: Tensor) -> None:
        """Rank 0's tensor into everybody's. Raises RuntimeError when one is gone or the deadline passes."""
        options = dist.BroadcastOptions()
        options.rootRank = 0
        options.rootTensor = 0
        self.group.broadcast([tensor], options).wait()

    def close(self) -> None:
        """Break it off: who still waits at the other end gets an error."""
        abort = getattr(self.group, "abort", None)
        if abort is not None:
            abort()


def _own_address(host: str, port: int) -> str:
    """This machine's address on the way to another."""
    with socket.create_connection((host, port)) as probe:
        address: str = probe.getsockname()[0]
        return address
