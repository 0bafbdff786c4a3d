"""Which tokens of a decision play which part, when only values and probabilities are known (docs/dynamics.md 2)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RARE = 0.05
"""Probability below which a token counts as hardly explored [ours]."""


@dataclass(frozen=True, slots=True, eq=False)
class RoleMasks:
    """Boolean, as the arrays they come from; a token that is none of the three is rare and no better than what is known."""

    high: NDArray[np.bool_]
    """Explored, and better than the policy's mean."""
    low: NDArray[np.bool_]
    """Explored, and not better."""
    optimal: NDArray[np.bool_]
    """Rare, and better than every explored one (without an explored better one: than the mean)."""


def roles(probs: Floats, values: Floats, rare: float = RARE) -> RoleMasks:
    """Over the last axis, the tokens of one decision.

    values: expected reward after each token; nan: not known, and then no role

    >>> masks = roles(np.array([0.45, 0.04, 0.51]), np.array([0.8, 1.0, 0.0]))
    >>> masks.high.tolist(), masks.low.tolist(), masks.optimal.tolist()
    ([True, False, False], [False, False, True], [False, True, False])
    """
    known = np.isfinite(values)
    weight = np.where(known, probs, 0.0)
    total = np.maximum(weight.sum(-1, keepdims=True), 1e-300)
    mean = (weight * np.where(known, values, 0.0)).sum(-1, keepdims=True) / total
    explored = known & (probs >= rare)
    high = explored & (values > mean)
    best = np.where(high, values, -np.inf).max(-1, keepdims=True)
    return RoleMasks(
        high=high,
        low=explored & ~high,
        optimal=known & (probs < rare) & (values > np.maximum(best, mean)),
    )
