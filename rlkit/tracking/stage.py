"""Has exploitation ended in this run? Its own masses by role, read again at every tracked step (docs/dynamics.md 4).

What a run has written down is all that is remembered: a run that goes on reads its own metrics and says what it would have said.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rlkit.analysis import stages
from rlkit.analysis.roles import roles

PREFIX = "dynamics/"
STAGES: Mapping[stages.Stage, float] = {"exploitation": 0.0, "saturated": 0.5, "exploration": 1.0}


class StageSoFar:
    """Follows the mass of what paid at first.

    With styles: those of the first step, by their value and probability there, and fixed from then on. Without: `mass/high` and
    `mass/optimal`, whose roles are read anew in every step.

    styles: names of the task's styles
    every: steps between the points of the series; the first step is looked at besides, and would make it uneven
    past: the records of a run that goes on
    """

    def __init__(self, styles: Iterable[str], every: int, past: Iterable[Mapping[str, Any]] = ()) -> None:
        self.styles, self.every = list(styles), every
        self._high: list[str] = [] if self.styles else ["mass/high"]
        self._optimal: list[str] = [] if self.styles else ["mass/optimal"]
        self._steps: list[float] = []
        self._high_T: list[float] = []
        self._optimal_T: list[float] = []
        for record in past:
            self._add(int(record["step"]), record)

    def add(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """The stage after a tracked step; nothing while too little is known. metrics: the step's, `dynamics/...`"""
        self._add(step, metrics)
        if np.isfinite(self._high_T).sum() < stages.LEAST_STEPS:
            return {}
        optimal_T = self._optimal_T if np.isfinite(self._optimal_T).any() else None
        found = stages.detect(self._high_T, optimal_T, self._steps)
        out = {
            "stage": STAGES[found.stage],
            "exploration": found.exploration,
            "stage_fixed": float(bool(self.styles)),
        }
        for name, turn in (("min2", found.t_min2), ("max1", found.t_max1), ("cross", found.t_cross)):
            if turn is not None:
                out |= {
                    f"turn/{name}": turn.step,
                    f"turn/{name}_low": turn.low,
                    f"turn/{name}_high": turn.high,
                }
        return {PREFIX + name: value for name, value in out.items()}

    def _add(self, step: int, metrics: Mapping[str, Any]) -> None:
        if step == 1 and self.styles:
            probs = np.array([metrics.get(f"{PREFIX}style/{name}", 0.0) for name in self.styles])
            values = np.array([metrics.get(f"{PREFIX}style_value/{name}", math.nan) for name in self.styles])
            masks = roles(probs, values)
            self._high = [f"style/{name}" for name, yes in zip(self.styles, masks.high, strict=True) if yes]
            self._optimal = [
                f"style/{name}" for name, yes in zip(self.styles, masks.optimal, strict=True) if yes
            ]
        looked_at = any(name.startswith(PREFIX) for name in metrics)
        if looked_at and step % self.every == 0:
            self._steps.append(float(step))
            self._high_T.append(_sum(metrics, self._high))
            self._optimal_T.append(_sum(metrics, self._optimal))


def _sum(metrics: Mapping[str, Any], names: Sequence[str]) -> float:
    """Their mass together, at most 1 in spite of rounding; nan: there are none, or none was measured."""
    known = [float(metrics[PREFIX + name]) for name in names if PREFIX + name in metrics]
    return min(1.0, math.fsum(known)) if known else math.nan
