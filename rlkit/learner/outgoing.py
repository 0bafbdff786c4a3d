"""The weights on their way out: to samplers, and to the files of a checkpoint, whole whatever ranks and adapters hold of them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlkit.adapted import AdaptedWeights

from . import lora
from .shard import reshard, whole

if TYPE_CHECKING:
    from .learner import Learner

REFERENCE = "reference"
"""Of a checkpoint: the folder of a reference model that has been moved."""
SHARD_SIZE = 4 * 10**9
"""Bytes of a file of weights, at most; one tensor is never divided."""


def weights(learner: "Learner") -> Mapping[str, Tensor]:
    """Name -> tensor for a sampler, adapters merged; with tied embeddings `lm_head.weight` is there too (vLLM packs its own copy).

    Every rank calls it; each gets all of them, or only the first does and the others hold one at a time. Weights gathered or merged for this are in the sampler's type already.
    For samplers elsewhere adapters are apart (rlkit.adapted), so that they alone need be sent.
    """
    if learner.cfg.lora_rank and not learner.everywhere:
        return _adapted_weights(learner)
    copies = learner.autocast and (learner.cfg.lora_rank > 0 or learner.cfg.shard != "none")
    kept = learner.everywhere or learner.ranks.main
    return {n: t.to(torch.bfloat16) if copies else t for n, t in _whole_weights(learner) if kept}


def model_tensors(learner: "Learner") -> Iterator[tuple[str, str, Tensor]]:
    """Everything that `write_model` writes, as part, name, tensor; a tied weight once. Every rank goes through all of them.

    Some are gathered or merged for this, one at a time: keep a copy, not the tensor.
    """
    first: dict[int, str] = {}
    for name, tensor in learner.model.state_dict(keep_vars=True).items():
        first.setdefault(id(tensor), name)
    second = learner.model.state_dict(keep_vars=True).keys() - first.values()
    yield from (("", name, tensor) for name, tensor in _whole_weights(learner) if name not in second)
    if learner.cfg.lora_rank:
        yield from ((lora.FOLDER, name, tensor) for name, tensor in lora.tensors(learner.model, whole))
    if learner.algo.sync_ref_model and learner.reference is not None:
        reshard(learner.reference)
        moved: Mapping[str, Tensor] = learner.reference.model.state_dict()
        yield from ((REFERENCE, name, whole(tensor)) for name, tensor in moved.items())


def write_model(learner: "Learner", folder: Path, parts: Mapping[str, dict[str, Tensor]]) -> None:
    """What `model_tensors` gave as a folder that transformers and vLLM load as it is; in `adapter/` what peft loads, in
    `reference/` a moved reference. Reads no weight, so the learner may go on meanwhile."""
    learner.model.save_pretrained(folder, state_dict=dict(parts[""]), max_shard_size=SHARD_SIZE)
    if lora.FOLDER in parts:
        lora.save(learner.model, parts[lora.FOLDER], folder / lora.FOLDER)
    if REFERENCE in parts:
        model: Any = learner.reference.model
        model.save_pretrained(
            folder / REFERENCE, state_dict=dict(parts[REFERENCE]), max_shard_size=SHARD_SIZE
        )


def _adapted_weights(learner: "Learner") -> Mapping[str, Tensor]:
    """What training began with, gathered once, with the present adapters; nothing but on the first rank."""
    changes = lora.changes(learner.model, whole)
    if learner.unadapted is None:
        learner.unadapted = {}
        for name, part in lora.unadapted(learner.model):
            tensor = whole(part)
            if learner.ranks.main:
                gathered = learner.cfg.shard != "none"  # a copy, whose place is not on this rank's device
                half = torch.bfloat16 if learner.autocast else tensor.dtype
                learner.unadapted[name] = tensor.to("cpu" if gathered else tensor.device, half)
    return AdaptedWeights(learner.unadapted, changes) if learner.ranks.main else {}


def _whole_weights(learner: "Learner") -> Iterator[tuple[str, Tensor]]:
    if learner.cfg.lora_rank:
        return lora.merged(learner.model, whole)
    state: Mapping[str, Tensor] = learner.model.state_dict()
    return ((name, whole(tensor)) for name, tensor in state.items())
