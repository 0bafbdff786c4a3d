"""A softmax policy over a few actions, and where an algorithm moves its probability (arXiv:2510.04028; docs/dynamics.md).

    pi = softmax(z)
    one sample    dz_u = eta A (1[u = v] - pi_u)                           v the sampled action (Lemma 1)
    one group     dz_u = eta/G [ sum_{i: o_i = u} A_i - pi_u sum_i A_i ]   Lemma 1, summed over the group
    expected      dz_u = eta pi_u [ A_u - sum_w pi_w A_w ]                 Lemma 1 under the policy (Theorem 1)

Ratios are 1, so that no clip acts. What a reward is worth (baseline, scale, weights of the signs) is a FamilyConfig, the one
that training reads. Axes: S runs, T steps (0 is the start), A actions, P groups of one update. All in float64.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlkit.algo_config import FamilyConfig
from rlkit.errors import ConfigError, require

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

SUM_TOLERANCE = 1e-6
"""Probabilities typed by hand may miss 1 by this much; then they are divided by their sum."""


@dataclass(frozen=True, slots=True)
class Bandit:
    """What each action pays, and how likely it is before the first update.

    >>> Bandit((0.8, 1.0, 0.0), (0.45, 0.05, 0.5)).roles
    Roles(high=(0,), low=(2,), optimal=(1,))
    """

    rewards: tuple[float, ...]
    p0: tuple[float, ...]

    def __post_init__(self) -> None:
        require(len(self.rewards) >= 2, "rewards", _listed(self.rewards), "two or more numbers")
        require(all(map(math.isfinite, self.rewards)), "rewards", _listed(self.rewards), "finite numbers")
        if len(self.p0) != len(self.rewards):
            raise ConfigError(
                f"p0 has {len(self.p0)} numbers ({_listed(self.p0)}) and rewards {len(self.rewards)} "
                f"({_listed(self.rewards)}): expected one probability for each action"
            )
        require(
            all(0 < p < 1 for p in self.p0),
            "p0",
            _listed(self.p0),
            "probabilities above 0 and below 1 (an action of probability 0 is never met)",
        )
        total = math.fsum(self.p0)
        if abs(total - 1) > SUM_TOLERANCE:
            raise ConfigError(f"p0 = {_listed(self.p0)}: sums to {total:.6g}, expected 1")

    @property
    def logits(self) -> Floats:
        """z with softmax(z) = p0. [A]"""
        return np.log(np.array(self.p0) / math.fsum(self.p0))

    @property
    def rewards_A(self) -> Floats:
        return np.array(self.rewards, dtype=np.float64)

    @property
    def roles(self) -> "Roles":
        """By reward: the best; above the first policy's mean but not the best; the others."""
        best, mean = max(self.rewards), math.fsum(p * r for p, r in zip(self.p0, self.rewards, strict=True))
        return Roles(
            high=tuple(a for a, r in enumerate(self.rewards) if mean < r < best),
            low=tuple(a for a, r in enumerate(self.rewards) if r <= mean and r < best),
            optimal=tuple(a for a, r in enumerate(self.rewards) if r == best),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Which actions play which part in the two stages."""

    high: tuple[int, ...]
    """Explored high-reward: better than the first policy's mean, not the best. Empty: nothing to exploit."""
    low: tuple[int, ...]
    """Low-reward: not better than that mean."""
    optimal: tuple[int, ...]
    """The best."""


def _listed(numbers: Sequence[float]) -> str:
    return ",".join(f"{x:g}" for x in numbers)


# -- one update --------------------------------------------------------------------------------------------------------


def softmax(logits_SA: Floats) -> Floats:
    """Probabilities over the last axis."""
    shifted = np.exp(logits_SA - logits_SA.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def sample_step(probs_A: Floats, action: int, advantage: float, rate: float) -> Floats:
    """Logit change by one sampled action (Lemma 1). [A], sums to 0.

    >>> sample_step(np.array([0.5, 0.3, 0.2]), 0, 1.0, 0.1).round(3).tolist()
    [0.05, -0.03, -0.02]
    """
    return np.asarray(rate * advantage * (np.eye(len(probs_A))[action] - probs_A))


def group_step(probs_SA: Floats, counts_SPA: Counts, advantages_SPA: Floats, rate: float) -> Floats:
    """Logit change by P groups of G samples each, mean over all P G samples. [S, A]

    counts_SPA: how often each action was sampled;  advantages_SPA: of a sample of that action
    """
    pull_SPA = counts_SPA * advantages_SPA
    pull_SA = pull_SPA.sum(-2)
    moved_SA = pull_SA - probs_SA * pull_SA.sum(-1, keepdims=True)
    return np.asarray(rate / counts_SPA[0].sum() * moved_SA)


def expected_step(probs_SA: Floats, advantages_SA: Floats, rate: float) -> Floats:
    """Logit change in expectation, when an action's advantage does not depend on its siblings (Theorem 1). [S, A]"""
    mean_S1 = (probs_SA * advantages_SA).sum(-1, keepdims=True)
    return np.asarray(rate * probs_SA * (advantages_SA - mean_S1))


# -- advantages --------------------------------------------------------------------------------------------------------


def expected_advantages(probs_SA: Floats, rewards_A: Floats, cfg: FamilyConfig) -> Floats:
    """Advantage of each action in a group without end: mean and deviation are the policy's own. [S, A]

    Batch and group, sample and population deviation are then the same.
    """
    used_A = 2 * rewards_A - 1 if cfg.signed_rewards else rewards_A
    mean_S1 = (probs_SA * used_A).sum(-1, keepdims=True)
    out_SA = used_A - mean_S1 if cfg.baseline != "none" else np.broadcast_to(used_A, probs_SA.shape)
    if cfg.scale_rewards != "none":
        std_S1 = np.sqrt((probs_SA * (used_A - mean_S1) ** 2).sum(-1, keepdims=True))
        out_SA = np.divide(out_SA, std_S1 + cfg.std_eps, out=np.zeros_like(out_SA), where=std_S1 > 0)
    return _signed(out_SA, cfg)


def group_advantages(counts_SPA: Counts, rewards_A: Floats, cfg: FamilyConfig) -> Floats:
    """Advantage of a sample of each action, given what its groups hold: rlkit/algos/ops.py on counts. [S, P, A]

    Values of actions that a group does not hold mean nothing; `group_step` multiplies them by 0.
    """
    used_A = 2 * rewards_A - 1 if cfg.signed_rewards else rewards_A
    out_SPA = _centred(counts_SPA, used_A, cfg)
    if cfg.scale_rewards != "none":
        over = (-1,) if cfg.scale_rewards == "group" else (-2, -1)
        values = (
            out_SPA if cfg.scale_rewards == "batch_advantages" else np.broadcast_to(used_A, out_SPA.shape)
        )
        std = _deviation(counts_SPA, values, over, cfg.scale_std == "sample")
        out_SPA = np.divide(out_SPA, std + cfg.std_eps, out=np.zeros_like(out_SPA), where=std > 0)
    return _signed(out_SPA, cfg)


def _centred(counts_SPA: Counts, used_A: Floats, cfg: FamilyConfig) -> Floats:
    if cfg.baseline == "none":
        return np.broadcast_to(used_A, counts_SPA.shape).copy()
    over = (-2, -1) if cfg.baseline == "batch" else (-1,)
    number = counts_SPA.sum(over, keepdims=True)
    total = (counts_SPA * used_A).sum(over, keepdims=True)
    if cfg.baseline == "leave_one_out":
        out_SPA = used_A - (total - used_A) / (number - 1)
    else:
        out_SPA = used_A - total / number
    # Equal rewards have nothing to be compared with; a rounded mean would say otherwise.
    silent = _spread(counts_SPA, used_A, over) == 0
    return np.where(silent, 0.0, np.broadcast_to(out_SPA, counts_SPA.shape))


def _deviation(counts_SPA: Counts, values_SPA: Floats, over: tuple[int, ...], sample: bool) -> Floats:
    number = counts_SPA.sum(over, keepdims=True)
    mean = (counts_SPA * values_SPA).sum(over, keepdims=True) / number
    square = (counts_SPA * (values_SPA - mean) ** 2).sum(over, keepdims=True)
    std = np.sqrt(square / np.maximum(number - sample, 1))
    return np.where(_spread(counts_SPA, values_SPA, over) > 0, std, 0.0)


def _spread(counts_SPA: Counts, values: Floats, over: tuple[int, ...]) -> Floats:
    """Greatest minus least of the values that were sampled."""
    seen = counts_SPA > 0
    most = np.where(seen, values, -np.inf).max(over, keepdims=True)
    return np.asarray(most - np.where(seen, values, np.inf).min(over, keepdims=True))


def _signed(advantages: Floats, cfg: FamilyConfig) -> Floats:
    return np.asarray(advantages * np.where(advantages > 0, cfg.positive_weight, cfg.negative_weight))


# -- a whole run -------------------------------------------------------------------------------------------------------


def simulate_expected(
    bandit: Bandit,
    cfg: FamilyConfig,
    *,
    steps: int,
    rate: float,
    on_step: Callable[[int], None] | None = None,
) -> Floats:
    """The policy after 0 ... `steps` expected updates. [T = steps + 1, A]"""
    logits_A, rewards_A = bandit.logits, bandit.rewards_A
    probs_TA = np.empty((steps + 1, len(logits_A)))
    probs_TA[0] = softmax(logits_A)
    for t in range(1, steps + 1):
        probs_A = probs_TA[t - 1]
        logits_A = logits_A + expected_step(probs_A, expected_advantages(probs_A, rewards_A, cfg), rate)
        probs_TA[t] = softmax(logits_A)
        if on_step is not None:
            on_step(t)
    return probs_TA


def simulate_sampled(
    bandit: Bandit,
    cfg: FamilyConfig,
    *,
    steps: int,
    rate: float,
    runs: int,
    seed: int,
    groups: int = 1,
    on_step: Callable[[int], None] | None = None,
) -> Floats:
    """The same with sampled groups of cfg.num_generations, in independent runs. [S = runs, T, A]

    groups: of one update, all from the same policy; `batch` baselines and scales are over them
    """
    rng, rewards_A = np.random.default_rng(seed), bandit.rewards_A
    logits_SA = np.tile(bandit.logits, (runs, 1))
    probs_STA = np.empty((runs, steps + 1, len(rewards_A)))
    probs_STA[:, 0] = softmax(logits_SA)
    for t in range(1, steps + 1):
        probs_SA = probs_STA[:, t - 1]
        counts_SPA = rng.multinomial(cfg.num_generations, probs_SA[:, None, :], (runs, groups))
        logits_SA = logits_SA + group_step(
            probs_SA, counts_SPA, group_advantages(counts_SPA, rewards_A, cfg), rate
        )
        probs_STA[:, t] = softmax(logits_SA)
        if on_step is not None:
            on_step(t)
    return probs_STA


# -- what to read off a run --------------------------------------------------------------------------------------------


def entropy(probs: Floats) -> Floats:
    """Over the last axis, nats."""
    return np.asarray(-np.where(probs > 0, probs * np.log(np.maximum(probs, 1e-300)), 0.0).sum(-1))


def mass(probs: Floats, actions: Sequence[int]) -> Floats:
    """Probability of these actions together. [..., A] -> [...]"""
    return np.asarray(probs[..., list(actions)].sum(-1))


def pass_at_k(mass_of_right: Floats, k: int) -> Floats:
    """Chance that one of k samples is right.

    >>> pass_at_k(np.array([0.5]), 2).tolist()
    [0.75]
    """
    return np.asarray(-np.expm1(k * np.log1p(-np.minimum(mass_of_right, 1 - 1e-16))))


@dataclass(frozen=True, slots=True, kw_only=True)
class TurningPoints:
    """Steps at which the masses of a run turn; None: not in this run (or no action plays the part)."""

    t_min2: int | None
    """The optimal action stops losing."""
    t_max1: int | None
    """The high-reward action stops gaining: exploitation ends."""
    t_cross: int | None
    """The optimal action is the more likely of the two, from here to the end."""


def turning_points(high_T: Floats, optimal_T: Floats, least: float = 0.0) -> TurningPoints:
    """Of the exact masses of one run. A curve that ends at its extreme, or less than `least` from it, has not turned.

    least: 0 for expected updates; a sampled run jitters, and its highest point is rarely the last even where it does not turn

    >>> turning_points(np.array([0.5, 0.8, 0.7, 0.1]), np.array([0.1, 0.05, 0.2, 0.9]))
    TurningPoints(t_min2=1, t_max1=1, t_cross=3)
    """
    last = len(high_T) - 1
    lowest, highest = int(optimal_T.argmin()), int(high_T.argmax())
    behind = np.flatnonzero(optimal_T <= high_T)
    cross = int(behind[-1]) + 1 if len(behind) else 0
    return TurningPoints(
        t_min2=lowest if lowest < last and optimal_T[-1] - optimal_T[lowest] >= least else None,
        t_max1=highest if highest < last and high_T[highest] - high_T[-1] >= least else None,
        t_cross=cross if cross <= last else None,
    )


def drift_criterion(rewards: Sequence[float], probs_A: Floats, action: int) -> float:
    """A(action) = r_action - sum pi r: while it is positive, the action's logit rises in expectation.

    For three actions it changes sign at pi2 / pi3 = (r1 - r3) / (r2 - r1).

    >>> drift_criterion((0.8, 1.0, 0.0), np.array([0.5, 0.4, 0.1]), 0)  # 0.4 / 0.1 = 0.8 / 0.2
    0.0
    """
    return float(rewards[action] - np.dot(probs_A, rewards))
