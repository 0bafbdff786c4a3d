"""Formula level: the same log-probabilities and entropies, float64, go into TRL's loss and into rlkit's.

TRL runs from the answers on (padding, rewards, advantages, correction, loss); one method is replaced, the one that would
ask a model. rlkit runs its credit, its batch and its loss.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from .cases import Case  # isort: skip
from .parity import ANSWERS, LONGEST, REWARDS, TEMPERATURE, Fed, Rewards, Side  # isort: skip
from .parity import collected, groups, told, trainer  # isort: skip

import torch
from torch import Tensor
from trl import GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from rlkit.algo_config import AlgoConfig
from rlkit.algos.base import Sampling
from rlkit.batch import Batch, TokenStats, make_minibatches
from rlkit.build import make_algorithm
from rlkit.learner.correction import importance_weights
from rlkit.metrics import values
from rlkit.types import Group

TABLES = ((0, 0.3), (1, 1.0), (2, 1e-3))
"""Seeds, and how far the log-probs have moved since the step began, nats: the last is for clips of 3e-4."""


@contextmanager
def float64() -> Iterator[None]:
    """Numbers that either side makes without naming a type are float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Tables:
    """What a model would have said of each answer's tokens: [N, C], N answers of at most C tokens."""

    def __init__(self, seed: int, spread: float, rewards: Rewards = REWARDS) -> None:
        self.rewards = rewards
        generator = torch.Generator().manual_seed(seed)
        shape = (ANSWERS, LONGEST)

        def noise() -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        self.old_NC = -3 * torch.rand(shape, generator=generator, dtype=torch.float64)
        self.logp_NC = self.old_NC + spread * noise()
        self.ref_NC = self.old_NC + 0.3 * noise()
        self.sampler_NC = self.old_NC + 0.1 * noise()
        self.entropy_NC = torch.rand(shape, generator=generator, dtype=torch.float64)

    def groups(self) -> list[Group]:
        return groups(self.sampler_NC.tolist(), self.rewards)

    def leaves(self) -> tuple[Tensor, Tensor]:
        """Present log-probs and entropies, for a gradient."""
        return self.logp_NC.clone().requires_grad_(), self.entropy_NC.clone().requires_grad_()


class _Given:
    """Goes before one of TRL's trainers: log-probs and entropies come from tables."""

    model: Any
    tables: Tables
    rows = slice(None)
    in_loss: tuple[Tensor, Tensor] | None = None
    """The leaves, while the loss is computed."""

    def _get_per_token_logps_and_entropies(
        self, model: Any, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor, None]:
        if self.in_loss is not None:
            logp_NC, entropy_NC = self.in_loss
            return logp_NC[self.rows], entropy_NC[self.rows], None
        table_NC = self.tables.old_NC if model is self.model else self.tables.ref_NC
        return table_NC, self.tables.entropy_NC, None


class Given(_Given, GRPOTrainer):  # type: ignore[misc]
    """GRPOTrainer."""


class GivenRloo(_Given, Fed):
    """RLOOTrainer."""


def theirs(
    case: Case,
    tables: Tables,
    made: Any,
    *,
    lent: list[float] | None = None,
    without: Sequence[str] = (),
) -> Side:
    """TRL's. lent: advantages in place of its own;  without: tensors that its loss is not given."""
    made.tables, made.in_loss, made.rows = tables, None, slice(None)
    with float64():
        inputs = collected(made, [r for group in tables.groups() for r in group.rollouts])
        if lent is not None:
            inputs["advantages"] = torch.tensor(lent)
        for name in without:
            del inputs[name]
        made.in_loss = leaves = tables.leaves()
        made._metrics["train"].clear()
        size = ANSWERS // case.micro_batches
        loss = torch.zeros(())
        for k, part in enumerate(split_tensor_dict(inputs, case.micro_batches)):
            made.rows = slice(k * size, (k + 1) * size)
            loss = loss + made._compute_loss(made.model, part)
    metrics = told(made)
    del metrics["entropy"]  # at this level it is what was put in
    return Side(
        advantages=inputs["advantages"].tolist(),
        loss=loss.item(),
        gradient=_gradient(loss, leaves),
        metrics=metrics if case.micro_batches == 1 else {},  # TRL logs means of the parts' means
    )


def ours(case: Case, tables: Tables) -> Side:
    """rlkit's."""
    algo = make_algorithm(case.cfg, Sampling(max_completion_length=LONGEST, temperature=TEMPERATURE))
    with float64():
        credits = algo.credit(tables.groups(), [])
        leaves = tables.leaves()
        loss, metrics = torch.zeros(()), {}
        for (batch,) in make_minibatches(credits, case.updates, 10**6, pad_id=0):
            part, metrics = algo.loss(*_stats(case.cfg, tables, batch, leaves))
            loss = loss + part
    return Side(
        advantages=[c.advantages[0] for c in credits],
        loss=loss.item(),
        gradient=_gradient(loss, leaves),
        metrics=values(metrics) if case.micro_batches == 1 else {},
    )


def _stats(
    cfg: AlgoConfig, tables: Tables, batch: Batch, leaves: tuple[Tensor, Tensor]
) -> tuple[Batch, TokenStats]:
    """What the learner would hand to the loss."""
    mask_BT = batch.mask_BT

    def of_batch(table_NC: Tensor) -> Tensor:
        return table_NC[batch.rows, : mask_BT.shape[1]].masked_fill(~mask_BT, 0.0)

    old_BT, entropy_BT = of_batch(tables.old_NC), of_batch(leaves[1])
    if cfg.importance_sampling_correction:
        weights_BT = importance_weights(
            old_BT - batch.sampler_logp_BT,
            mask_BT,
            cfg.importance_sampling_mode,
            cfg.importance_sampling_clip_max,
        )
        batch = replace(batch, adv_BT=batch.adv_BT * weights_BT)
    high_BT = None
    if cfg.top_entropy_quantile < 1:
        threshold = torch.quantile(entropy_BT.detach()[mask_BT].float(), 1 - cfg.top_entropy_quantile)
        high_BT = (entropy_BT >= threshold) & mask_BT
    return batch, TokenStats(
        logp_BT=of_batch(leaves[0]),
        old_logp_BT=old_BT,
        entropy_BT=entropy_BT,
        ref_logp_BT=of_batch(tables.ref_NC) if cfg.beta else None,
        high_entropy_BT=high_BT,
        num_high_entropy=batch.num_tokens if high_BT is None else int(high_BT.sum()),
    )


def _gradient(loss: Tensor, leaves: tuple[Tensor, Tensor]) -> Tensor:
    """By log-prob and by entropy, of every token."""
    grads = torch.autograd.grad(loss, leaves, materialize_grads=True)
    return torch.cat([g.flatten() for g in grads])


def both(case: Case, folder: Path) -> list[tuple[Side, Side]]:
    """rlkit's and TRL's GRPOTrainer's, for each of the tables."""
    made = trainer(Given, case, folder)
    out = []
    for seed, spread in TABLES:
        tables = Tables(seed, spread)
        mine = ours(case, tables)
        out.append((mine, theirs(case, tables, made, lent=mine.advantages if case.lent else None)))
    return out
