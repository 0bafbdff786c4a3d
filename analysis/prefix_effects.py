"""What a prefix does to the answers that follow it, and how far right answers have come: pure functions (docs/credit.md 2 and 3)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .credit_summary import Mean, mean_of
from .intervals import difference_interval

Floats = NDArray[np.float64]

NUMBERS = ("distinct", "zero", "length")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """G continuations of one prefix.

    >>> Group(prompt_id="a", share=0.5, kind="skip", scores=[1.0, 0.0], finals=["4", None], tokens=[3, 5]).distinct
    1
    """

    prompt_id: str
    share: float
    """Of the answer that stands before."""
    kind: str
    """unconditional, continual or skip."""
    scores: Sequence[float]
    """nan: nobody could judge."""
    finals: Sequence[str | None]
    tokens: Sequence[int]
    """Without the prefix."""

    @property
    def distinct(self) -> int:
        """Different final answers; what has none adds nothing."""
        return len({final for final in self.finals if final is not None})

    @property
    def zero(self) -> float:
        """1 when the rewards are all equal: every advantage is 0, and the group trains nothing."""
        known = {score for score in self.scores if not math.isnan(score)}
        return float(len(known) < 2)

    @property
    def length(self) -> float:
        return float(np.mean(self.tokens))


def summarise(groups: Sequence[Group], kinds: Sequence[str], base: str) -> list[dict[str, Any]]:
    """By split, for each kind: the three numbers with intervals over prompts, and their paired differences from `base`.

    Groups of the base have one share, 0: nothing stands before them.
    """
    told = {(g.kind, g.share, g.prompt_id): g for g in groups}
    out = []
    for share in sorted({g.share for g in groups if g.kind != base}):
        row: dict[str, Any] = {"share": share}
        for kind in kinds:
            at = 0.0 if kind == base else share
            mine = [
                g for g in groups if g.kind == kind and g.share == at and (base, 0.0, g.prompt_id) in told
            ]
            row[kind] = {n: mean_of([float(getattr(g, n)) for g in mine], n == "zero") for n in NUMBERS}
            if kind != base:
                row[kind]["against"] = {
                    n: difference([getattr(g, n) - getattr(told[base, 0.0, g.prompt_id], n) for g in mine])
                    for n in NUMBERS
                }
        out.append(row)
    return out


def difference(values: Sequence[float]) -> Mean:
    """Of paired differences: their mean and its interval."""
    low, high = difference_interval(values)
    known = (low, high) if math.isfinite(low) and math.isfinite(high) else (None, None)
    return {"mean": float(np.mean(values)), "low": known[0], "high": known[1], "num": len(values)}


# -- how far right answers have come -----------------------------------------------------------------------------------


def against_others(success_MPX: Floats) -> Floats:
    """Each model's success against the mean of all, over their population deviation, for the same problem and position.

    M models, P problems, X positions; 0 where all succeed alike. [M, P, X]

    >>> against_others(np.array([[[1.0, 0.5]], [[0.0, 0.5]]])).tolist()
    [[[1.0, 0.0]], [[-1.0, 0.0]]]
    """
    centred = success_MPX - success_MPX.mean(0)
    std = centred.std(0)
    return np.asarray(np.divide(centred, std, out=np.zeros_like(centred), where=std > 1e-9))


def progress(
    names: Sequence[str], success: Sequence[Mapping[str, Floats]], shares: Sequence[float]
) -> list[dict[str, Any]]:
    """By model and position: mean success over the problems that this model has solved, and its advantage over those that all have.

    success: for each model, problem -> the evaluator's success rate after each share of the right answer [X]
    """
    common = [p for p in success[0] if all(p in own for own in success)] if success else []
    advantage_MPX = (
        against_others(np.array([[own[p] for p in common] for own in success]))
        if common
        else np.zeros((len(names), 0, len(shares)))
    )
    return [
        {
            "name": name,
            "problems": len(own),
            "common": len(common),
            "positions": [
                {
                    "share": share,
                    "success": mean_of([float(rates[x]) for rates in own.values()], True) if own else None,
                    "advantage": mean_of(advantage_MPX[m, :, x].tolist(), False) if common else None,
                }
                for x, share in enumerate(shares)
            ],
        }
        for m, (name, own) in enumerate(zip(names, success, strict=True))
    ]
