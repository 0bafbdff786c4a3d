"""vLLM's own senders, nccl and ipc, for servers on GPUs. They follow vLLM 0.32's interface and have not been run on a GPU.

The sender drives the same four calls (`WeightCalls` has the names that vLLM's trainer side expects), so all that stands here is
which weights it sends. It names no version: that is said afterwards.
"""

import math
import threading
import weakref
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor
from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from rlkit.adapted import AdaptedWeights

from .servers import free_port
from .worker_http import WeightCalls


class DictSource(WeightSource):  # type: ignore[misc]  # vLLM is not typed for us
    """A state dict, tied names included, in the servers' type; each tensor is converted as it is sent, not all before."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.weights: Mapping[str, Tensor] = {}
        self._dtype = dtype

    def metadata(self) -> list[Any]:
        # The shapes of merged weights are those of what they are merged from, which costs nothing to look at.
        plain = self.weights.base if isinstance(self.weights, AdaptedWeights) else self.weights
        return [ParamMeta(name, self._dtype, tuple(tensor.shape)) for name, tensor in plain.items()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self.weights.items():
            yield name, tensor.detach().to("cuda", self._dtype)


class OfficialTransfer:
    """nccl (other GPUs) or ipc (the learner's own GPU), server by server, each with a group of its own: a server that dies in
    the middle of its update takes no other with it. A group is made once and used until its server is lost.

    It keeps no copy, which would be as large as the model: servers that come later get the weights while the learner waits.
    vLLM's receivers know no adapters, so weights with adapters are merged, each as it is sent.
    """

    keeps_copy = False

    def __init__(self, kind: str, dtype: torch.dtype, host: str, seconds: float) -> None:
        self.kind, self._host, self._seconds = kind, host, seconds
        self._source = DictSource(dtype)
        self._tag = ""
        self._senders: MutableMapping[WeightCalls, Any] = weakref.WeakKeyDictionary()
        self._one_at_a_time = (
            threading.Lock()
        )  # two communicators at work on one device may wait for each other

    def take(self, weights: Mapping[str, Tensor], tag: str) -> None:
        self._source.weights, self._tag = weights, tag

    def bring(self, calls: WeightCalls, world_size: int) -> int:
        with self._one_at_a_time:
            if calls not in self._senders:
                self._senders[calls] = self._met(calls, world_size)
            try:
                self._senders[calls].send_weights()
            except BaseException:
                del self._senders[calls]
                raise
            calls.update_weight_version(self._tag)
        size: int = sum(meta.dtype.itemsize * math.prod(meta.shape) for meta in self._source.metadata())
        return size * world_size

    def _met(self, calls: WeightCalls, world_size: int) -> Any:
        init = (
            IPCTrainerInitInfo(rank=0)
            if self.kind == "ipc"
            else NCCLTrainerInitInfo(
                rank=0,
                master_address=self._host,
                master_port=free_port(self._host),
                world_size=1 + world_size,
            )
        )
        client = calls if self.kind == "nccl" else _Pickled(calls)
        return WeightTransferTrainerFactory.trainer_init(init, client=client, source=self._source)

    def close(self) -> None:
        for sender in self._senders.values():
            sender.shutdown()
        self._senders.clear()
        self._source.weights = {}


class _Pickled:
    """The same calls, with handles of GPU memory as text."""

    def __init__(self, calls: WeightCalls) -> None:
        self._calls = calls
        self.init_weight_transfer_engine = calls.init_weight_transfer_engine
        self.start_weight_update = calls.start_weight_update
        self.finish_weight_update = calls.finish_weight_update

    def update_weights(self, update_info: Any) -> None:
        from vllm.distributed.weight_transfer.clients import _json_safe_update_payload

        self._calls.update_weights(_json_safe_update_payload(update_info))
