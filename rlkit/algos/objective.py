"""The loss of every shipped algorithm: surrogate terms, KL penalty and entropy bonus, in the order of TRL's GRPOTrainer.

    term  = surrogate(ratio, A), 0 where the token is not among those of high entropy or its answer is too far off-policy
    loss  = -sum( weight * (term - beta * KL) ) / denominator - entropy_coef * mean entropy

Which surrogate a token takes stands beside it (batch.surrogate_BT); how that surrogate is shaped is the algorithm's (Shape).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rlkit.algo_config import AlgoConfig, Level
from rlkit.algos.ops import (
    cispo_terms,
    clip_metrics,
    k3,
    log_ratio,
    loss_of,
    masked_tally,
    ppo_terms,
    sapo_terms,
    sequence_log_ratio,
)
from rlkit.batch import SURROGATES, Batch, TokenStats
from rlkit.metrics import Metrics, Tally
from rlkit.types import Surrogate


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How a ratio becomes a term. A surrogate reads what concerns it.

    >>> Shape(low=0.2, high=0.28).level
    'token'
    """

    low: float
    """Ratios below 1 - low are clipped (ppo, cispo)."""
    high: float
    """Ratios above 1 + high are clipped (ppo, cispo)."""
    level: Level = "token"
    """A ratio for each token, or the geometric mean of an answer's on all of them."""
    delta: float | None = None
    """The second upper bound (ppo)."""
    temperature_pos: float = 1.0
    """Temperature of the gate for tokens of positive advantage (sapo)."""
    temperature_neg: float = 1.05
    """The same for the others."""


def objective(
    batch: Batch, out: TokenStats, cfg: AlgoConfig, shapes: Mapping[Surrogate, Shape]
) -> tuple[Tensor, Metrics]:
    """The micro-batch's part of the loss, a scalar, and its tallies under TRL's names.

    shapes: one for each surrogate that the batch's tokens take. Raises ValueError for a token of another.
    """
    log_ratio_BT = log_ratio(out.logp_BT, out.old_logp_BT, batch.mask_BT)
    term_BT, ratio_BT = torch.zeros_like(log_ratio_BT), torch.ones_like(log_ratio_BT)
    left_BT = batch.mask_BT
    metrics: dict[str, Tally] = {}
    for name, shape in shapes.items():
        chosen_BT = batch.mask_BT & (batch.surrogate_BT == SURROGATES.index(name))
        left_BT = left_BT & ~chosen_BT
        level_BT = log_ratio_BT
        if shape.level == "sequence":
            level_BT = sequence_log_ratio(log_ratio_BT, batch.mask_BT)
        # Filled before exp, as everywhere: a token of another surrogate must not reach this one's gradient as 0 * inf.
        own_BT = level_BT.masked_fill(~chosen_BT, 0.0).exp()
        term_BT = torch.where(chosen_BT, _terms(name, own_BT, out.logp_BT, batch.adv_BT, shape), term_BT)
        ratio_BT = torch.where(chosen_BT, own_BT, ratio_BT)
        metrics |= _clip_metrics(name, own_BT.detach(), batch.adv_BT, chosen_BT, shape)
    if left_BT.any():
        other = SURROGATES[int(batch.surrogate_BT[left_BT][0])]
        raise ValueError(f"a token takes the surrogate {other!r}, but this loss has only {', '.join(shapes)}")
    term_BT = term_BT * _counted(batch, out, cfg)
    if out.ref_logp_BT is not None:
        kl_BT = k3(out.logp_BT, out.ref_logp_BT, batch.mask_BT)
        if cfg.use_bias_correction_kl:
            kl_BT = kl_BT * ratio_BT
        term_BT = term_BT - cfg.beta * kl_BT
        metrics["kl"] = masked_tally(kl_BT, batch.mask_BT)
    loss = loss_of(term_BT, batch.weight_BT, batch.mask_BT, batch.denominator)
    if cfg.entropy_coef:
        # Parts of one mini-batch add up to its loss: their counts are fractions that add up to 1.
        part = float(batch.mask_BT.sum()) / max(batch.num_tokens, 1)
        metrics["policy_loss"] = Tally(float(loss.detach()), part)
        loss = loss - cfg.entropy_coef * _entropy(batch, out)
    return loss, metrics


def _terms(name: Surrogate, ratio_BT: Tensor, logp_BT: Tensor, adv_BT: Tensor, shape: Shape) -> Tensor:
    if name == "ppo":
        return ppo_terms(ratio_BT, adv_BT, shape.low, shape.high, shape.delta)
    if name == "cispo":
        return cispo_terms(ratio_BT, logp_BT, adv_BT, shape.low, shape.high)
    if name == "sapo":
        return sapo_terms(ratio_BT, adv_BT, shape.temperature_pos, shape.temperature_neg)
    return adv_BT * logp_BT


def _clip_metrics(
    name: Surrogate, ratio_BT: Tensor, adv_BT: Tensor, mask_BT: Tensor, shape: Shape
) -> dict[str, Tally]:
    """How often the clip acts; an answer with one ratio is counted once."""
    if shape.level == "sequence":
        adv_BT = adv_BT.masked_fill(~mask_BT, 0.0).sum(-1, keepdim=True).expand_as(adv_BT)
        mask_BT = mask_BT & (mask_BT.cumsum(-1) == 1)
    if name == "ppo":
        return clip_metrics(ratio_BT, adv_BT, mask_BT, shape.low, shape.high)
    if name == "cispo":
        is_capped_BT = (ratio_BT > 1 + shape.high) & (adv_BT > 0)
        return {"cispo_clip_ratio": masked_tally(is_capped_BT.float(), mask_BT)}
    return {}


def _counted(batch: Batch, out: TokenStats, cfg: AlgoConfig) -> Tensor:
    """True on the tokens whose policy term counts, [B, T].

    Left out: tokens below the mini-batch's entropy quantile (arXiv:2506.01939), and answers of negative advantage whose mean
    log-prob has fallen by more than the threshold since they were sampled (DeepSeek-V3.2, eq. 9). Both as TRL.
    """
    counted_BT = batch.mask_BT if out.high_entropy_BT is None else out.high_entropy_BT
    if cfg.off_policy_mask_threshold is None:
        return counted_BT
    fall_BT = log_ratio(batch.sampler_logp_BT, out.logp_BT.detach(), batch.mask_BT)
    mean_B1 = fall_BT.sum(-1, keepdim=True) / batch.mask_BT.sum(-1, keepdim=True).clamp(min=1)
    return counted_BT & ((batch.adv_BT >= 0) | (mean_B1 <= cfg.off_policy_mask_threshold))


def _entropy(batch: Batch, out: TokenStats) -> Tensor:
    """This micro-batch's part of the mean entropy over the mini-batch's counted tokens, whatever the normaliser."""
    counted_BT = batch.mask_BT if out.high_entropy_BT is None else out.high_entropy_BT
    return out.entropy_BT.masked_fill(~counted_BT, 0.0).sum() / max(out.num_high_entropy, 1)
