"""The formulas the algorithms share: pure functions on tensors and lists, each with its source.

A "term" is one token's objective, [B, T], to be maximised; `loss_of` weighs, sums, negates and divides it. The whole loss
is put together in objective.py.
"""

import hashlib
import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from rlkit.algo_config import AlgoConfig, Baseline
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


def centred(rewards: Sequence[Sequence[float]], baseline: Baseline) -> list[list[float]]:
    """Rewards, one list per group, minus what they are compared with.

    Equal rewards give exact zeros: a mean of equal floats may differ from them in the last bit. So does a group of one,
    which has nothing to be compared with.

    >>> centred([[1.0, 0.0, 0.5], [1.0, 1.0]], "leave_one_out")
    [[0.75, -0.75, 0.0], [0.0, 0.0]]
    """
    if baseline == "none":
        return [list(group) for group in rewards]
    if baseline == "batch":
        everything = [r for group in rewards for r in group]
        mean = statistics.fmean(everything) if len(set(everything)) > 1 else None
        return [[0.0 if mean is None else r - mean for r in group] for group in rewards]
    out = []
    for group in rewards:
        n, total = len(group), math.fsum(group)
        if len(set(group)) < 2:
            out.append([0.0] * n)
        elif baseline == "leave_one_out":
            out.append([r - (total - r) / (n - 1) for r in group])
        else:
            out.append([r - total / n for r in group])
    return out


def scaled(
    advantages: Sequence[Sequence[float]], rewards: Sequence[Sequence[float]], cfg: AlgoConfig
) -> list[list[float]]:
    """Centred rewards over (std + eps): of the group's rewards, the batch's, or the batch's centred ones (TRL's scale_rewards).

    The last is REINFORCE++'s (arXiv:2501.03262): their mean, which it subtracts too, is 0 whatever they were centred by.
    """
    if cfg.scale_rewards == "none":
        return [list(group) for group in advantages]
    if cfg.scale_rewards == "group":
        stds = [standard_deviation(group, cfg.scale_std) for group in rewards]
    else:
        spread = advantages if cfg.scale_rewards == "batch_advantages" else rewards
        stds = [standard_deviation([x for group in spread for x in group], cfg.scale_std)] * len(rewards)
    # Without spread there is nothing to scale, and eps alone would make mountains of rounding.
    return [
        [a / (std + cfg.std_eps) if std else 0.0 for a in group]
        for group, std in zip(advantages, stds, strict=True)
    ]


def group_advantages(rewards: Sequence[Sequence[float]], cfg: AlgoConfig) -> list[list[float]]:
    """(R - mean_G) / (std + eps) for every group (GRPO, arXiv:2402.03300 section 4.1).

    >>> from rlkit.algo_own import SkpoConfig
    >>> [round(a, 3) for a in group_advantages([[1, 1, 1, 0, 0, 0, 0, 0]], SkpoConfig())[0][2:4]]
    [1.291, -0.775]
    """
    return scaled(centred(rewards, "group"), rewards, cfg)


def overlong_punishment(length: int, longest: int, buffer: float) -> float:
    """0 up to (1 - buffer) of the longest answer, then linear to -1 at its end (DAPO, arXiv:2503.14476, eq. 13).

    >>> [overlong_punishment(n, 20480, 0.2) for n in (16384, 18432, 20480)]
    [0.0, -0.5, -1.0]
    """
    room = buffer * longest
    return max(-1.0, min(0.0, (longest - room - length) / room)) if room else 0.0


def log_ratio(logp_BT: Tensor, old_logp_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """log(pi / pi_old), 0 outside the mask. Masked before any exp: 0 * inf is nan."""
    return (logp_BT - old_logp_BT).masked_fill(~mask_BT, 0.0)


def ppo_terms(
    ratio_BT: Tensor, adv_BT: Tensor, low: float, high: float, delta: float | None = None
) -> Tensor:
    """min(r A, clip(r, 1 - low, 1 + high) A) for each token (PPO, arXiv:1707.06347, eq. 7).

    delta: bounds r in the first product too, so that a token of negative advantage stops pushing above it (two-sided clip,
    arXiv:2505.07291)
    """
    bounded_BT = ratio_BT if delta is None else ratio_BT.clamp(max=delta)
    return torch.minimum(bounded_BT * adv_BT, ratio_BT.clamp(1 - low, 1 + high) * adv_BT)


def cispo_terms(ratio_BT: Tensor, logp_BT: Tensor, adv_BT: Tensor, low: float, high: float) -> Tensor:
    """sg(clip(r, 1 - low, 1 + high)) A log pi (CISPO, arXiv:2506.13585; SKPO's J_II): clipped weight, no token dropped."""
    return ratio_BT.clamp(1 - low, 1 + high).detach() * adv_BT * logp_BT


def sapo_terms(ratio_BT: Tensor, adv_BT: Tensor, positive: float, negative: float) -> Tensor:
    """4/tau sigmoid(tau (r - 1)) A, tau by the sign of A (SAPO, arXiv:2511.20347): a gate of sech^2(tau (r - 1) / 2)."""
    tau_BT = torch.where(adv_BT > 0, positive, negative).to(ratio_BT.dtype)
    return torch.sigmoid(tau_BT * (ratio_BT - 1)) * (4 / tau_BT) * adv_BT


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
    """Share of tokens whose gradient the PPO clip stops: below 1 - low with A < 0, above 1 + high with A > 0 (TRL's names).

    low_min and high_max are over rollouts: the least and the greatest share of one.
    """
    is_low_BT = (ratio_BT < 1 - low) & (adv_BT < 0) & mask_BT
    is_high_BT = (ratio_BT > 1 + high) & (adv_BT > 0) & mask_BT
    metrics = {
        "clip_ratio/low_mean": masked_tally(is_low_BT.float(), mask_BT),
        "clip_ratio/high_mean": masked_tally(is_high_BT.float(), mask_BT),
        "clip_ratio/region_mean": masked_tally((is_low_BT | is_high_BT).float(), mask_BT),
    }
    lengths_B = mask_BT.sum(-1)
    rows = lengths_B > 0
    if rows.any():
        low_R = is_low_BT.sum(-1)[rows] / lengths_B[rows]
        high_R = is_high_BT.sum(-1)[rows] / lengths_B[rows]
        metrics["clip_ratio/low_min"] = Tally(float(low_R.min()), 1.0, "min")
        metrics["clip_ratio/high_max"] = Tally(float(high_R.max()), 1.0, "max")
    return metrics
