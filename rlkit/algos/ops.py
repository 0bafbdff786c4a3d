"""The formulas the algorithms share: pure functions on tensors and lists, each with its source.

A "term" is one token's objective, [B, T], to be maximised; `loss_of` weighs, sums, negates and divides it.
"""

import hashlib
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from rlkit.algo_config import AlgoConfig
from rlkit.metrics import Tally


def seed_of(*parts: object) -> int:
    """A 48-bit seed from anything printable: the same in every process and on every platform.

    >>> seed_of(0, "step", 3) == seed_of(0, "step", 3), seed_of(0, "step", 3) == seed_of(0, "step", 4)
    (True, False)
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6])


def standard_deviation(values: Sequence[float], kind: str) -> float:
    """With n - 1 (`sample`, TRL's and torch's) or n (`population`); 0.0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    return statistics.stdev(values) if kind == "sample" else statistics.pstdev(values)


def group_advantages(rewards: Sequence[Sequence[float]], cfg: AlgoConfig) -> list[list[float]]:
    """(R - mean_G) / (std + eps) for every group (GRPO, arXiv:2402.03300 section 4.1; TRL's scale_rewards).

    A group of equal rewards, or of one, gets zeros: there is nothing to compare.

    >>> from rlkit.algo_config import SkpoConfig
    >>> [round(a, 3) for a in group_advantages([[1, 1, 1, 0, 0, 0, 0, 0]], SkpoConfig())[0][2:4]]
    [1.291, -0.775]
    """
    everything = [r for group in rewards for r in group]
    batch_std = standard_deviation(everything, cfg.scale_std)
    out = []
    for group in rewards:
        mean = statistics.fmean(group) if group else 0.0
        if len(set(group)) < 2:
            out.append(
                [0.0] * len(group)
            )  # exact: a mean of equal floats may differ from them in the last bit
            continue
        if cfg.scale_rewards == "none":
            scale = 1.0
        else:
            std = batch_std if cfg.scale_rewards == "batch" else standard_deviation(group, cfg.scale_std)
            scale = std + cfg.std_eps
        out.append([(r - mean) / scale for r in group])
    return out


def log_ratio(logp_BT: Tensor, old_logp_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """log(pi / pi_old), 0 outside the mask. Masked before any exp: 0 * inf is nan."""
    return (logp_BT - old_logp_BT).masked_fill(~mask_BT, 0.0)


def ppo_terms(ratio_BT: Tensor, adv_BT: Tensor, low: float, high: float) -> Tensor:
    """min(r A, clip(r, 1 - low, 1 + high) A) for each token (PPO, arXiv:1707.06347, eq. 7)."""
    return torch.minimum(ratio_BT * adv_BT, ratio_BT.clamp(1 - low, 1 + high) * adv_BT)


def cispo_terms(ratio_BT: Tensor, logp_BT: Tensor, adv_BT: Tensor, low: float, high: float) -> Tensor:
    """sg(clip(r, 1 - low, 1 + high)) A log pi (CISPO, arXiv:2506.13585; SKPO's J_II): clipped weight, no token dropped."""
    return ratio_BT.clamp(1 - low, 1 + high).detach() * adv_BT * logp_BT


def sequence_log_ratio(log_ratio_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """log s_i = mean_t log r_it on every token, its gradient passed through each token (GSPO, arXiv:2507.18071, eq. 7)."""
    lengths_B1 = mask_BT.sum(-1, keepdim=True).clamp(min=1)
    mean_B1 = (log_ratio_BT * mask_BT).sum(-1, keepdim=True) / lengths_B1
    return mean_B1.expand_as(log_ratio_BT).masked_fill(~mask_BT, 0.0)


def k3(logp_BT: Tensor, ref_logp_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """pi_ref / pi - log(pi_ref / pi) - 1, an unbiased estimate of KL(pi, pi_ref) per token (GRPO, eq. 4)."""
    delta_BT = (ref_logp_BT - logp_BT).masked_fill(~mask_BT, 0.0)
    return delta_BT.exp() - delta_BT - 1


def loss_of(term_BT: Tensor, weight_BT: Tensor, mask_BT: Tensor, denominator: float) -> Tensor:
    """-sum(weight * term) / denominator: a scalar. The denominator is the whole mini-batch's sum of shares."""
    return -(term_BT * weight_BT).masked_fill(~mask_BT, 0.0).sum() / denominator


def masked_tally(value_BT: Tensor, mask_BT: Tensor) -> Tally:
    """Sum and count of a [B, T] tensor over the mask, for a mean over all micro-batches."""
    return Tally(float(value_BT.detach()[mask_BT].double().sum()), float(mask_BT.sum()))


def clip_metrics(
    ratio_BT: Tensor, adv_BT: Tensor, mask_BT: Tensor, low: float, high: float
) -> dict[str, Tally]:
    """Share of tokens whose gradient the PPO clip stops: below 1 - low with A < 0, above 1 + high with A > 0 (TRL's names)."""
    is_low_BT = (ratio_BT < 1 - low) & (adv_BT < 0)
    is_high_BT = (ratio_BT > 1 + high) & (adv_BT > 0)
    return {
        "clip_ratio/low_mean": masked_tally(is_low_BT.float(), mask_BT),
        "clip_ratio/high_mean": masked_tally(is_high_BT.float(), mask_BT),
        "clip_ratio/region_mean": masked_tally((is_low_BT | is_high_BT).float(), mask_BT),
    }
