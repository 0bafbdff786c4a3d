"""The worker's end of a weight update, on any device: tensors from a file on this host, or over gloo from another one.

vLLM's own backends (nccl, ipc) need GPUs. This one follows the same four calls: `start_weight_update` takes the layers apart
(linear layers are repacked on a CPU, so nothing may be copied into them in place), `update_weights` loads, and
`finish_weight_update` puts them together again.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from .gloo import Link


@dataclass
class ReceiverInit(WeightTransferInitInfo):  # type: ignore[misc]  # vLLM is not typed for us
    """How tensors will come. gloo: where the learner waits, and how many processes meet there."""

    kind: Literal["file", "gloo"]
    host: str = ""
    port: int = 0
    world_size: int = 0
    seconds: float = 60.0


@dataclass
class ReceiverUpdate(WeightTransferUpdateInfo):  # type: ignore[misc]
    """file: its path. gloo: name, type and shape of each tensor, in the order in which they come."""

    path: str = ""
    names: list[str] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)
    shapes: list[list[int]] = field(default_factory=list)


class Receiver(WeightTransferEngine):  # type: ignore[misc]
    """One worker's; every rank of a tensor-parallel server reads the whole stream and keeps its part."""

    init_info_cls = ReceiverInit
    update_info_cls = ReceiverUpdate
    half_updated = False
    """Layers are apart: an update that began has not finished, and only a new process is whole again."""
    _link: Link | None = None

    def init_transfer_engine(self, init_info: ReceiverInit) -> None:
        self.shutdown()
        if init_info.kind == "gloo":
            rank = 1 + self.parallel_config.rank
            self._link = Link.join(
                init_info.host, init_info.port, rank, init_info.world_size, init_info.seconds
            )

    def start_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        self.half_updated = True
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))
        if torch.cuda.is_available():  # the base class asks for an accelerator, and a CPU is none
            torch.cuda.synchronize()

    def receive_weights(self, update_info: ReceiverUpdate) -> None:
        self.model.load_weights(self._stream(update_info))

    def finish_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)
        self.half_updated = False

    def shutdown(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def _stream(self, update: ReceiverUpdate) -> Iterator[tuple[str, Tensor]]:
        if update.path:
            from safetensors import safe_open

            with safe_open(update.path, "pt") as file:
                for name in file.keys():  # noqa: SIM118  # it is no dictionary
                    yield name, file.get_tensor(name)
            return
        if self._link is None:
            raise RuntimeError(
                "tensors were announced over gloo, and no link was opened (init_weight_transfer_engine)"
            )
        for name, dtype, shape in zip(update.names, update.dtypes, update.shapes, strict=True):
            tensor = torch.empty(shape, dtype=getattr(torch, dtype))
            self._link.broadcast(tensor)
            yield name, tensor
