"""Batches and token stats made by hand, in float64, for tests of what an algorithm minimises."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlkit.batch import Batch, TokenStats, make_minibatches
from rlkit.types import Credit, Surrogate
from tests.rollouts import rollout


def doubled(batch: Batch) -> Batch:
    """The same batch with float64 tensors."""
    tensors = {n: getattr(batch, n) for n in batch.__slots__ if n.endswith("_BT")}
    return replace(batch, **{n: t.double() for n, t in tensors.items() if t.dtype == torch.float32})


def batch_of(
    adv: Sequence[Sequence[float]],
    *,
    surrogate: Surrogate = "ppo",
    weight: float = 1.0,
    sampler: Sequence[Sequence[float]] | None = None,
) -> Batch:
    """One rollout for each row of advantages, shortest first; denominator 1."""
    credits = [
        Credit(
            rollout=rollout([50] * len(row), logprobs=None if sampler is None else sampler[i]),
            advantages=list(row),
            weight=weight,
            share=1 / len(adv),
            surrogate=surrogate,
        )
        for i, row in enumerate(adv)
    ]
    ((batch,),) = make_minibatches(credits, 1, 10**6, pad_id=0)
    assert batch.rows == list(range(len(adv)))
    return doubled(batch)


def padded(rows: Sequence[Sequence[float]], fill: float = 0.0) -> Tensor:
    """[B, T] float64."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], dtype=torch.float64)


def stats_of(ratio: Sequence[Sequence[float]], **changes: Any) -> tuple[Tensor, TokenStats]:
    """Old log-probs of -1 and present ones that make these ratios; the leaf to differentiate by comes first."""
    ratio_BT = padded(ratio, fill=1.0)
    old_BT = torch.full_like(ratio_BT, -1.0)
    logp_BT = (old_BT + ratio_BT.log()).requires_grad_()
    count = sum(len(row) for row in ratio)
    made = TokenStats(
        logp_BT=logp_BT, old_logp_BT=old_BT, entropy_BT=torch.zeros_like(old_BT), num_high_entropy=count
    )
    return logp_BT, replace(made, **changes)


def gradient(loss: Tensor, leaf: Tensor) -> list[list[float]]:
    """d loss / d leaf, as lists."""
    (found,) = torch.autograd.grad(loss, leaf, retain_graph=True, materialize_grads=True)
    return found.tolist()  # type: ignore[no-any-return]
