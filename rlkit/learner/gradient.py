"""The gradient of one mini-batch: forward, the algorithm's loss and backward, one micro-batch after the other.

Each micro-batch's loss is divided by counts of the whole mini-batch, so the parts simply add up, over ranks too.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlkit.batch import Batch, TokenStats, nothing
from rlkit.metrics import Metrics, Tally

from . import lora, room
from .correction import corrected
from .first import First, moved_first
from .look import Floats
from .shard import is_copied, unsynced

if TYPE_CHECKING:
    from .learner import Learner

Loss = Callable[[Batch, TokenStats], tuple[Tensor, Metrics]]


def gradient(
    learner: "Learner",
    mini: list[Batch],
    first: list[First],
    loss: Loss,
    kept: dict[int, tuple[Floats, Floats]] | None,
) -> tuple[float, list[Metrics], list[Batch], list[First]]:
    """Forward and backward of a mini-batch: this rank's part of the loss, its tallies, and the micro-batches it took.

    When memory runs out on some rank, all of them begin again with smaller ones.
    """
    fitting = room.fitting(learner, mini)
    mini, first = fitting, first if fitting is mini else moved_first(mini, first, fitting)
    while True:
        total, tallies, short = 0.0, [], False
        try:
            # Copies meet at the end: a rank that waits in the middle of a backward pass could not be told of another's fault.
            with unsynced(learner.policy):
                for batch, seen in zip(mini, first, strict=True):
                    value, metrics = accumulate(learner, batch, seen, loss, kept)
                    total += value
                    tallies.append(metrics)
        except (RuntimeError, MemoryError) as error:
            short = room.again(learner, error)
        if not room.any_short(learner, short, mini, "a forward and backward pass"):
            break
        learner.optimizer.zero_grad()
        smaller = room.cut_anew(learner, mini)
        mini, first = smaller, moved_first(mini, first, smaller)
    if mini and is_copied(learner.policy):
        logp_BT, _ = learner.policy(nothing(learner.pad_id, learner.layout).to(learner.device))
        logp_BT.sum().backward()
    return total, tallies, mini, first


def accumulate(
    learner: "Learner",
    batch: Batch,
    seen: First,
    loss: Loss,
    kept: dict[int, tuple[Floats, Floats]] | None = None,
) -> tuple[float, Metrics]:
    """Forward and backward of one micro-batch: its part of the loss, and its tallies. `kept` is filled."""
    # First, because nothing is held for its backward; and on every rank, since a sharded model is read together.
    ref_BT = _reference_logp(learner, batch) if learner.algo.beta > 0 else None
    logp_BT, entropy_BT = learner.policy(batch, entropy_grad=learner.algo.entropy_coef != 0)
    if not batch.rows:  # a rank with nothing left to do joins the others' backward
        logp_BT.sum().backward()
        return 0.0, {}
    old_BT = logp_BT.detach() if seen.old_BT is None else seen.old_BT
    batch, metrics = corrected(batch, old_BT, learner.algo)
    stats = TokenStats(
        logp_BT=logp_BT,
        old_logp_BT=old_BT,
        entropy_BT=entropy_BT,
        ref_logp_BT=ref_BT,
        high_entropy_BT=seen.high_BT,
        num_high_entropy=batch.num_tokens if seen.high_BT is None else seen.num_high,
    )
    if kept is not None:
        lengths = batch.mask_BT.sum(-1).tolist()
        for i, length, logp_T, entropy_T in zip(
            batch.rows, lengths, logp_BT.detach().cpu(), entropy_BT.detach().cpu(), strict=True
        ):
            kept[i] = logp_T[:length].numpy(), entropy_T[:length].numpy()
    part, algo_metrics = loss(batch, stats)
    scaled: Any = part * learner.ranks.world  # DDP and FSDP2 divide by it
    scaled.backward()
    count = float(batch.mask_BT.sum())
    return float(part.detach()), {
        **metrics,
        **algo_metrics,
        "entropy": Tally(float(entropy_BT.detach()[batch.mask_BT].double().sum()), count),
    }


@torch.no_grad()
def _reference_logp(learner: "Learner", batch: Batch) -> Tensor:
    if learner.reference is None and not learner.cfg.lora_rank:
        raise ValueError("beta is above 0, and the learner was given no reference model")
    with lora.switched_off(learner.model) if learner.reference is None else nullcontext():
        logp_BT: Tensor = (learner.policy if learner.reference is None else learner.reference)(batch)[0]
    return logp_BT
