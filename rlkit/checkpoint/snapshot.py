"""What a checkpoint holds, taken out of the live objects: afterwards they may change."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rlkit.types import State

if TYPE_CHECKING:
    from torch import Tensor

    from rlkit.ranks import Ranks


class Keeper(Protocol):
    """What a checkpoint needs of a learner."""

    updates: int
    ranks: "Ranks"

    @property
    def num_trained(self) -> int: ...
    def model_tensors(self) -> "Iterator[tuple[str, str, Tensor]]": ...
    def write_model(self, folder: Path, parts: "Mapping[str, dict[str, Tensor]]") -> None: ...
    def optimizer_tensors(self) -> dict[str, Any]: ...
    def load_optimizer_tensors(self, tensors: Mapping[str, Any], updates: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a run stands, apart from its weights.

    >>> Position(step=100, updates=100, sampled_tokens=51200, data={}, algo={}).step
    100
    """

    step: int
    """Steps done; the next one has this number."""
    updates: int
    """Optimizer steps done."""
    sampled_tokens: int
    data: State
    """JSON values."""
    algo: State
    """JSON values, and torch tensors as values of its dictionaries."""
    written: Mapping[str, int] = field(default_factory=dict)
    """How far the run's files had come: lines of each table, number of rollout files. Empty: it was not noted."""
    ahead: State = field(default_factory=dict)
    """What was sampled for later steps and not trained on yet, by their numbers (rlkit/drawn.py). JSON values and tensors, as above."""
    random: "Mapping[str, Tensor]" = field(default_factory=dict, compare=False)
    """This rank's global generators (randomness.py). Empty: they are left alone; one that is read back has none (`random_states`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What does not change while a run goes on.

    >>> About(config="steps = 100", versions={"torch": "2.13.0"}, place={"ranks": 1, "dtype": "float32"}).place["ranks"]
    1
    """

    config: str = ""
    """Its config.toml."""
    versions: Mapping[str, str] = field(default_factory=dict)
    place: Mapping[str, Any] = field(default_factory=dict)
    """Where it ran: ranks, device, dtype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A checkpoint in this host's memory."""

    position: Position
    about: About
    model: "Mapping[str, dict[str, Tensor]]"
    """Weights by part: "" is the model itself, then `adapter` and `reference`."""
    optimizer: "Mapping[str, Tensor]"
    random: "Mapping[str, Tensor]"
    """Global generators, as RANK|NAME."""


class Host:
    """Memory for snapshots, kept between them: fresh memory costs a page fault for every 4 KiB, which is half of the copy.

    Pinned where tensors come from a GPU.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def copy(self, name: str, tensor: "Tensor") -> "Tensor":
        import torch

        kept = self._kept.get(name)
        if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
            kept = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._kept[name] = kept
        kept.copy_(tensor, non_blocking=True)
        return kept


def snapshot(learner: Keeper, position: Position, about: About, host: Host | None) -> Snapshot | None:
    """Every rank calls it; what is divided is gathered; the rank that writes gets the result.

    host: copies everything, since the learner goes on; None: aliases of live tensors will do, since nobody does
    """
    import torch

    generators = learner.ranks.gather(dict(position.random))
    model: dict[str, dict[str, Tensor]] = {}
    for part, name, tensor in learner.model_tensors():
        if learner.ranks.main:
            kept = tensor.detach().float()
            place = f"{part}|{name}"
            model.setdefault(part, {})[name] = kept.cpu() if host is None else host.copy(place, kept)
    optimizer: dict[str, Tensor] = learner.optimizer_tensors()
    if not learner.ranks.main:
        return None
    if host is not None:
        optimizer = {name: host.copy(f"optimizer|{name}", tensor) for name, tensor in optimizer.items()}
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    random = {f"{rank}|{name}": t for rank, found in enumerate(generators) for name, t in found.items()}
    return Snapshot(position=position, about=about, model=model, optimizer=optimizer, random=random)
