"""How good is Monte-Carlo credit? Its signs and its size against the truth, by position and by K (docs/credit.md 1).

G answers to one prompt are cut at the same relative position; each of the G prefixes is continued N times. The mean reward of
those continuations is the prefix's value, and its advantage is that value against the group's:

    A_i = (V_i - mean_G V) / std_G V        what K continuations say        (papers.md 8.1)
    A_i = (r_i - mean_G r) / std_G r        what GRPO says at every position, from the answers' own rewards

What an estimate saw is never in the truth that it is held against: a block of K of the N continuations is compared with the other
N - K. Axes: G members, N continuations, B blocks, S steps, X trials.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NOTHING = 1e-9
"""An advantage smaller than this pushes nowhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How an estimate of a group's advantages compares with the truth, a mean over blocks."""

    sign: float
    """Share of the members whose advantage has the true sign. No push at all is wrong where the truth pushes."""
    all_signs: float
    """Share of the blocks in which every member's has."""
    error: float
    """Mean absolute error of the advantages."""
    value_error: float
    """Root mean square error of the values."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Unit:
    """One group of prefixes: a prompt's answers, cut at one relative position."""

    prompt_id: str
    position: float
    """Share of the answer that the prefix holds, in (0, 1)."""
    draws_GN: Floats
    """Rewards of the continuations."""
    outcomes_G: Floats
    """Rewards of the answers themselves."""

    @property
    def num_right(self) -> int:
        """Answers that were rewarded at all."""
        return int((self.outcomes_G > 0).sum())

    @property
    def mixed(self) -> bool:
        """Whether the answers' rewards differ: where they do not, nothing is trained."""
        return bool(np.ptp(self.outcomes_G) > NOTHING)


# -- advantages and their signs ----------------------------------------------------------------------------------------


def group_advantages(values: Floats) -> Floats:
    """Centred over the last axis, and divided by the population deviation there; 0 where all are equal.

    >>> group_advantages(np.array([1.0, 0.0, 0.0, 1.0])).tolist(), group_advantages(np.array([0.5, 0.5])).tolist()
    ([1.0, -1.0, -1.0, 1.0], [0.0, 0.0])
    """
    centred = values - values.mean(-1, keepdims=True)
    std = centred.std(-1, keepdims=True)
    return np.asarray(np.divide(centred, std, out=np.zeros_like(centred), where=std > NOTHING))


def signs(advantages: Floats) -> NDArray[np.int8]:
    """-1, 0 or 1."""
    return np.where(np.abs(advantages) > NOTHING, np.sign(advantages), 0.0).astype(np.int8)


def agreement(estimate_BG: Floats, truth_BG: Floats) -> Agreement:
    """Of values (not advantages) estimated in B ways, each against its own truth."""
    ours_BG, theirs_BG = group_advantages(estimate_BG), group_advantages(truth_BG)
    same_BG = signs(ours_BG) == signs(theirs_BG)
    return Agreement(
        sign=float(same_BG.mean()),
        all_signs=float(same_BG.all(-1).mean()),
        error=float(np.abs(ours_BG - theirs_BG).mean()),
        value_error=float(np.sqrt(((estimate_BG - truth_BG) ** 2).mean())),
    )


# -- measured ----------------------------------------------------------------------------------------------------------


def blocks(draws_GN: Floats, k: int) -> tuple[Floats, Floats]:
    """Means of each run of K continuations, and of all the others. [B, G] each, B = N // K

    >>> estimate, truth = blocks(np.array([[1.0, 0.0, 0.0, 0.0]]), 2)
    >>> estimate.tolist(), truth.tolist()
    ([[0.5], [0.0]], [[0.0], [0.5]])
    """
    num_draws = draws_GN.shape[1]
    if not 0 < k < num_draws:
        raise ValueError(f"K = {k} of {num_draws} continuations: expected at least 1, and fewer than all")
    num_blocks = num_draws // k
    sums_GB = draws_GN[:, : num_blocks * k].reshape(len(draws_GN), num_blocks, k).sum(-1)
    rest_GB = draws_GN.sum(1, keepdims=True) - sums_GB
    return np.asarray(sums_GB.T / k), np.asarray(rest_GB.T / (num_draws - k))


def monte_carlo(unit: Unit, k: int) -> Agreement:
    """Of advantages from K continuations of each prefix."""
    return agreement(*blocks(unit.draws_GN, k))


def broadcast(unit: Unit) -> Agreement:
    """Of GRPO's, which are the same at every position."""
    return agreement(unit.outcomes_G[None], unit.draws_GN.mean(1)[None])


def doubtful(unit: Unit) -> float:
    """Share of the members whose true sign the continuations do not tell: nearer to the group's mean than 1.96 standard errors."""
    mean_G = unit.draws_GN.mean(1)
    num_members, num_draws = unit.draws_GN.shape
    variance_G = unit.draws_GN.var(1) / num_draws
    # Of V_i - mean V: its own error counts for all but 1/G of it, the others' for their share of the mean.
    others_G = (variance_G.sum() - variance_G) / num_members**2
    error_G = np.sqrt(variance_G * (1 - 1 / num_members) ** 2 + others_G)
    return float((np.abs(mean_G - mean_G.mean()) <= 1.96 * error_G).mean())


# -- where the truth of a step is known --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCredit:
    """How a credit treats steps that are known to be right, and first slips. Shares in [0, 1]."""

    slips_down: float
    """Of the slips, those that are pushed down."""
    right_down: float
    """Of the right steps, those that are pushed down."""
    told_apart: float
    """Chance that a slip gets less than a right step, ties counted half (the area under the ROC curve)."""


def step_credit(credit: Floats, right_S: NDArray[np.bool_]) -> StepCredit:
    """Of credits [..., S] for S steps; leading axes are repetitions, averaged over.

    >>> step_credit(np.array([0.1, -0.4, 0.0, 0.3]), np.array([True, False, True, False]))
    StepCredit(slips_down=0.5, right_down=0.0, told_apart=0.5)
    """
    if not right_S.any() or right_S.all():
        raise ValueError(
            f"{len(right_S)} steps, {int(right_S.sum())} of them right: expected some of either kind"
        )
    good, slips = credit[..., right_S], credit[..., ~right_S]
    less = slips[..., :, None] - good[..., None, :]
    apart = (less < -NOTHING).mean() + 0.5 * (np.abs(less) <= NOTHING).mean()
    return StepCredit(
        slips_down=float((slips < -NOTHING).mean()),
        right_down=float((good < -NOTHING).mean()),
        told_apart=float(apart),
    )


def step_changes(before_SN: Floats, after_SN: Floats, k: int) -> Floats:
    """What each step adds to the value, as K continuations before and K after it say. [B, S], B = N // K"""
    num_blocks = before_SN.shape[1] // k
    shape = (len(before_SN), num_blocks, k)
    before_SB, after_SB = (x[:, : num_blocks * k].reshape(shape).mean(-1) for x in (before_SN, after_SN))
    return np.asarray((after_SB - before_SB).T)


# -- the paper's simulation (appendix A.2) -----------------------------------------------------------------------------


def simulated(
    spread: float, continuations: int, *, members: int = 8, groups: int = 4000, seed: int = 0
) -> Agreement:
    """Groups whose true success rates are N(0.5, spread), clipped, each rate estimated from N continuations.

    >>> one = simulated(0.2, 512)
    >>> round(one.all_signs, 1), round(one.sign, 2)
    (0.8, 0.97)
    """
    rng = np.random.default_rng(seed)
    rates_XG = rng.normal(0.5, spread, (groups, members)).clip(0, 1)
    return agreement(rng.binomial(continuations, rates_XG) / continuations, rates_XG)


def needed(low: float, high: float, confidence: float = 0.95) -> int:
    """Continuations of each of two prefixes with these success rates until the better one looks better with that chance.

    By the normal approximation: the difference of two means is wrong as often as z sigma / sqrt(N) is beyond it.

    >>> needed(0.55, 0.60)  # "hundreds of samples" (papers.md 8.1)
    528
    """
    from scipy.stats import norm

    z = float(norm.ppf(confidence))
    variance = low * (1 - low) + high * (1 - high)
    return int(np.ceil(z * z * variance / (high - low) ** 2))


# -- which groups are worth a closer look ------------------------------------------------------------------------------


def stratified(num_right: Sequence[int], positions: Sequence[float], members: int, count: int) -> list[int]:
    """Indices of `count` units spread over positions, mixed groups first: where all answers are alike there is nothing to tell.

    >>> stratified([4, 0, 3, 8], [0.25, 0.25, 0.75, 0.75], members=8, count=2)
    [0, 2]
    """
    by_position: dict[float, list[int]] = {}
    for i in sorted(range(len(num_right)), key=lambda i: (abs(2 * num_right[i] - members), i)):
        by_position.setdefault(positions[i], []).append(i)
    rounds = [indices for _, indices in sorted(by_position.items())]
    chosen = [i for level in range(len(num_right)) for indices in rounds for i in indices[level : level + 1]]
    return sorted(chosen[:count])
