"""A model's weights under LoRA (arXiv:2106.09685): those that training began with, and the low-rank change of some of them.

Read as a mapping it is the merged state dict, made tensor by tensor. Whoever sends weights away sends `base` once, which
never changes, and `changes` each time: a thousandth of the bytes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LowRank:
    """What an adapter adds to one weight of shape [O, I]: up @ down * scale."""

    down_RI: Tensor
    up_OR: Tensor
    scale: float
    """alpha / rank"""

    @torch.no_grad()
    def added_to(self, weight_OI: Tensor) -> Tensor:
        """The merged weight in float32, on the weight's device, as peft computes it."""
        up_OR, down_RI = (t.to(weight_OI.device, torch.float32) for t in (self.up_OR, self.down_RI))
        return weight_OI.float() + (up_OR @ down_RI) * self.scale


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedWeights(Mapping[str, Tensor]):
    """`base` with `changes` to some of its names. The mapping's tensors are merged when they are asked for."""

    base: Mapping[str, Tensor]
    """The same object for the whole run, so that a sender knows that it was sent."""
    changes: Mapping[str, LowRank]

    def __getitem__(self, name: str) -> Tensor:
        weight, change = self.base[name], self.changes.get(name)
        return weight if change is None else change.added_to(weight).to(weight.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self.base)

    def __len__(self) -> int:
        return len(self.base)


def to_tensors(changes: Mapping[str, LowRank]) -> dict[str, Tensor]:
    """Changes as they travel, two tensors for each; `scales` go with them."""
    down = {f"{name}.down": change.down_RI for name, change in changes.items()}
    up = {f"{name}.up": change.up_OR for name, change in changes.items()}
    return down | up


def scales(changes: Mapping[str, LowRank]) -> dict[str, float]:
    return {name: change.scale for name, change in changes.items()}


def from_tensors(tensors: Mapping[str, Tensor], scales: Mapping[str, float]) -> dict[str, LowRank]:
    """What `to_tensors` took apart."""
    return {
        name: LowRank(tensors[f"{name}.down"], tensors[f"{name}.up"], scale) for name, scale in scales.items()
    }
