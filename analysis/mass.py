"""Where probability goes when a policy is updated: pure functions on arrays, with the paper's words (docs/tracking.md).

    decisions   prefixes that several answers of one prompt share, and what each went on with
    roles       what a token is there: explored and good, explored and bad, or good and hardly tried
    predicted   how the logits should move (the group form of Lemma 1), to compare with how they did
    flow        where the probability went that an update took from the sampled token

Probabilities, not log-probabilities, unless a name says logp. N tokens, K candidates, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .roles import roles

Floats = NDArray[np.floating]
Ids = NDArray[np.integer]
Role = Literal["high", "low", "optimal", "other"]

SATURATED = 0.99
"""From here on a token takes almost no gradient: its factor 1 - p is below 0.01."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A prefix of one prompt's answers where at least two of them go on, and what they went on with.

    >>> decisions([[5, 7], [5, 8], [6]], [1.0, 0.0, 0.0], [[1.0, 1.0], [-0.5, -0.5], [-0.5]])[0]
    Decision(position=0, members=(0, 1, 2), tokens=(5, 6), counts=(2, 1), values=(0.5, 0.0), pulls=(0.5, -0.5), mean=0.3333333333333333)
    """

    position: int
    """Of the decided token in the completion."""
    members: tuple[int, ...]
    """The answers that share the prefix and go on behind it: indices into the group."""
    tokens: tuple[int, ...]
    """What they went on with, most frequent first, then by id."""
    counts: tuple[int, ...]
    values: tuple[float, ...]
    """Mean reward of the answers that went on with each token."""
    pulls: tuple[float, ...]
    """Sum of their advantages at this token."""
    mean: float
    """Mean reward of all members."""


def decisions(
    completions: Sequence[Sequence[int]], rewards: Sequence[float], advantages: Sequence[Sequence[float]]
) -> list[Decision]:
    """The first token's decision, and every later one at which the answers part; by position.

    completions: token ids of each answer;  advantages: one for each of its tokens
    """
    found: list[Decision] = []
    waiting = [(0, tuple(range(len(completions))))]
    while waiting:
        position, members = waiting.pop(0)
        went: dict[int, list[int]] = {}
        for i in members:
            if len(completions[i]) > position:
                went.setdefault(completions[i][position], []).append(i)
        here = tuple(i for i in members if len(completions[i]) > position)
        if len(here) < 2:
            continue
        if position == 0 or len(went) > 1:
            order = sorted(went, key=lambda token: (-len(went[token]), token))
            found.append(
                Decision(
                    position=position,
                    members=here,
                    tokens=tuple(order),
                    counts=tuple(len(went[t]) for t in order),
                    values=tuple(float(np.mean([rewards[i] for i in went[t]])) for t in order),
                    pulls=tuple(float(sum(advantages[i][position] for i in went[t])) for t in order),
                    mean=float(np.mean([rewards[i] for i in here])),
                )
            )
        waiting += [(position + 1, tuple(those)) for those in went.values() if len(those) > 1]
    return sorted(found, key=lambda d: (d.position, d.members))


def role_names(probs_K: Sequence[float], values_K: Sequence[float]) -> list[Role]:
    """The role of each candidate of one decision, by name (rlkit.analysis.roles says which is which).

    >>> role_names([0.45, 0.04, 0.51, 0.0], [0.8, 1.0, 0.0, 0.3])
    ['high', 'optimal', 'low', 'other']
    """
    masks = roles(np.asarray(probs_K, dtype=np.float64), np.asarray(values_K, dtype=np.float64))
    named: list[tuple[Role, NDArray[np.bool_]]] = [
        ("high", masks.high),
        ("low", masks.low),
        ("optimal", masks.optimal),
    ]
    return [next((name for name, mask_K in named if mask_K[k]), "other") for k in range(len(probs_K))]


def predicted_change(probs_K: Floats, pulls_K: Floats) -> Floats:
    """Change of log p that one step on these answers makes at one decision, up to its step size. [K]

    dz_v = pull_v - p_v sum(pull) (Lemma 1 summed over a group, docs/dynamics.md 1), and d log p_v = dz_v - sum_u p_u dz_u. The
    last sum runs over the K known tokens, so the tail beyond them is taken as still.

    >>> predicted_change(np.array([0.5, 0.3, 0.2]), np.array([1.0, 0.0, 0.0])).round(3).tolist()
    [0.38, -0.42, -0.32]
    """
    logits_K = pulls_K - probs_K * pulls_K.sum()
    change_K: Floats = logits_K - float(probs_K @ logits_K)
    return change_K


class Flow(NamedTuple):
    """What became of the probability of N sampled tokens, each [N]; the four sum to 0.

    >>> flow(np.array([7]), np.array([.6]), np.array([.4]), np.array([[7, 8, 9]]), np.array([[.6, .2, .1]]), np.array([[.4, .3, .15]]))
    Flow(sampled=array([-0.2]), runner_up=array([0.1]), others=array([0.05]), tail=array([0.05]))
    """

    sampled: Floats
    """Change of the sampled token's probability."""
    runner_up: Floats
    """Change of the likeliest other token's."""
    others: Floats
    """Change of the other known ones', together."""
    tail: Floats
    """Change of all that is not among the K likeliest."""


def flow(
    sampled_N: Ids,
    before_N: Floats,
    after_N: Floats,
    top_NK: Ids,
    top_before_NK: Floats,
    top_after_NK: Floats,
) -> Flow:
    """top_NK: the likeliest tokens before the update, likeliest first, with their probabilities before and after."""
    change_NK = top_after_NK - top_before_NK
    other_NK = top_NK != sampled_N[:, None]
    first_N = other_NK.argmax(-1)
    rows = np.arange(len(sampled_N))
    runner_N = np.where(other_NK.any(-1), change_NK[rows, first_N], 0.0)
    others_N = (change_NK * other_NK).sum(-1) - runner_N
    moved_N = after_N - before_N
    digits = 12  # of the sum's rounding, not of the measurement
    return Flow(
        moved_N.round(digits),
        runner_N.round(digits),
        others_N.round(digits),
        (-(moved_N + runner_N + others_N)).round(digits),
    )


def agreement(predicted_K: Floats, measured_K: Floats) -> tuple[float, float]:
    """(correlation, share of equal signs) of predicted and measured changes; nan where there is nothing to compare.

    >>> agreement(np.array([1.0, -1.0, 0.5]), np.array([0.2, -0.1, 0.1]))[1]
    1.0
    """
    signed = predicted_K != 0
    signs = (
        float((np.sign(predicted_K[signed]) == np.sign(measured_K[signed])).mean())
        if signed.any()
        else np.nan
    )
    if len(predicted_K) < 3 or predicted_K.std() == 0 or measured_K.std() == 0:
        return np.nan, signs
    return float(np.corrcoef(predicted_K, measured_K)[0, 1]), signs


def thirds(length: int) -> NDArray[np.int64]:
    """For each token of an answer, the third of the answer it stands in: 0, 1 or 2.

    >>> thirds(5).tolist()
    [0, 0, 1, 1, 2]
    """
    return np.arange(length) * 3 // max(1, length)
