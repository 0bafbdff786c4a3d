"""The pass before the first update: what it sees of each micro-batch, and the same for micro-batches that were cut anew."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlkit.batch import Batch

from . import room
from .shard import reshard

if TYPE_CHECKING:
    from .learner import Learner


@dataclass(frozen=True, slots=True, kw_only=True)
class First:
    """Of one micro-batch; nothing when there was no need of the pass.

    >>> First().old_BT is None
    True
    """

    old_BT: Tensor | None = None
    """Log-probs, nats."""
    high_BT: Tensor | None = None
    """bool: tokens of the mini-batch's top entropy quantile."""
    num_high: int = 0
    """How many those are, in the WHOLE mini-batch."""


@torch.no_grad()
def first_pass(learner: "Learner", mini: list[Batch]) -> tuple[list[Batch], list[First]]:
    """Log-probs before the first update, and which tokens' entropies are in the mini-batch's top quantile (TRL's rule).

    With the micro-batches that they were seen in: smaller ones than came when memory ran out.
    """
    mini = room.fitting(learner, mini)
    while True:
        seen: list[tuple[Tensor, Tensor]] = []
        short = False
        try:
            for batch in mini:
                seen.append(learner.policy(batch))
        except (RuntimeError, MemoryError) as error:
            short = room.again(learner, error)
            seen = []
        reshard(learner.policy)
        if not room.any_short(learner, short, mini, "a forward pass"):
            break
        mini = room.cut_anew(learner, mini)
    quantile = learner.algo.top_entropy_quantile
    if quantile >= 1 or not seen:
        return list(mini), [First(old_BT=logp_BT) for logp_BT, _ in seen]
    mine_N = torch.cat([e_BT[b.mask_BT] for b, (_, e_BT) in zip(mini, seen, strict=True)])
    entropy_N = torch.cat(learner.ranks.gather(mine_N.cpu()))
    threshold = float(torch.quantile(entropy_N, 1 - quantile))
    high = [(e_BT >= threshold) & b.mask_BT for b, (_, e_BT) in zip(mini, seen, strict=True)]
    count = int((entropy_N >= threshold).sum())
    return list(mini), [
        First(old_BT=logp_BT, high_BT=high_BT, num_high=count)
        for (logp_BT, _), high_BT in zip(seen, high, strict=True)
    ]


def moved_first(mini: Sequence[Batch], first: Sequence[First], smaller: Sequence[Batch]) -> list[First]:
    """`first` of the rows of `mini`, as the micro-batches `smaller` hold them."""
    rows = {i: (seen, b) for batch, seen in zip(mini, first, strict=True) for b, i in enumerate(batch.rows)}
    return [_of_rows([rows[i] for i in batch.rows], batch) for batch in smaller]


def _of_rows(rows: Sequence[tuple[First, int]], batch: Batch) -> First:
    def gathered(tensors: Sequence[Tensor | None], like: Tensor) -> Tensor | None:
        found = [t for t in tensors if t is not None]
        if len(found) < len(tensors) or not found:
            return None
        out = like.new_zeros(batch.mask_BT.shape)
        for b, (row_T, mask_T) in enumerate(zip(found, batch.mask_BT, strict=True)):
            length = int(mask_T.sum())
            out[b, :length] = row_T[:length]
        return out

    return First(
        old_BT=gathered([None if f.old_BT is None else f.old_BT[b] for f, b in rows], batch.weight_BT),
        high_BT=gathered([None if f.high_BT is None else f.high_BT[b] for f, b in rows], batch.mask_BT),
        num_high=rows[0][0].num_high if rows else 0,
    )
