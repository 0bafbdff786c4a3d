"""The worker's end of a weight update, on any device: tensors from a file on this host, or over gloo from another one.

vLLM's own backends (nccl, ipc) need GPUs. This one follows the same four calls: `start_weight_update` takes the layers apart
(linear layers are repacked on a CPU, so nothing may be copied into them in place), `update_weights` loads, and
`finish_weight_update` puts them together again.

Adapters come without the weights that they change: those lie in a file, or were kept when they came over gloo.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from rlkit.adapted import from_tensors

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
    base_path: str = ""
    """file: what adapters are added to."""
    keep: bool = False
    """gloo: what adapters will be added to, later and until whole weights come; nothing is loaded yet."""
    scales: dict[str, float] = field(default_factory=dict)
    """The tensors are adapters, of these weights: each is `up @ down * scale` (transfer.py)."""
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
    _base: dict[str, Tensor] | None = None
    """What adapters over gloo are added to."""

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
        if update_info.keep:
            self._base = dict(self._stream(update_info))
        elif update_info.scales:
            self.model.load_weights(self._merged(update_info))
        else:
            self._base = None
            self.model.load_weights(self._stream(update_info))

    def finish_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)
        self.half_updated = False

    def shutdown(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def _merged(self, update: ReceiverUpdate) -> Iterator[tuple[str, Tensor]]:
        """Every weight of the base with its adapter added, one at a time, on the device where the model is."""
        changes = from_tensors(dict(self._stream(update)), update.scales)
        base: Iterable[tuple[str, Tensor]]
        if update.base_path:
            base = _read(update.base_path)
        elif self._base is not None:
            base = self._base.items()
        else:
            raise RuntimeError("adapters came, and never the weights that they change")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        for name, weight in base:
            change = changes.get(name)
            yield name, weight if change is None else change.added_to(weight.to(device)).to(weight.dtype)

    def _stream(self, update: ReceiverUpdate) -> Iterator[tuple[str, Tensor]]:
        if update.path:
            yield from _read(update.path)
            return
        if self._link is None:
            raise RuntimeError(
                "tensors were announced over gloo, and no link was opened (init_weight_transfer_engine)"
            )
        for name, dtype, shape in zip(update.names, update.dtypes, update.shapes, strict=True):
            tensor = torch.empty(shape, dtype=getattr(torch, dtype))
            self._link.broadcast(tensor)
            yield name, tensor


def _read(path: str) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118  # it is no dictionary
            yield name, file.get_tensor(name)
