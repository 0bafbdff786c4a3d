"""Positives count less once exploitation has ended: a schedule for the algorithms of constants (`--algo.schedule stage`).

    high_k = mean probability of the tokens of step k's right answers         what is exploited, as seen in the rollouts
    positive_weight, until a detector says of high_1 ... high_k that it has risen and rises no more, or falls;
    stage_positive_weight from that step on, for good

The idea is a reviewer's of arXiv:2510.04028 (papers.md 4.14): positives sharpen what is sampled anyway, and when there is no more to
gain from it, only the negatives are left that keep probability spread. The detector is handed in by build/.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import torch

from rlkit.algo_config import AlgoConfig
from rlkit.algo_presets import WReinforceConfig
from rlkit.algos.base import Sampling
from rlkit.algos.family import Family
from rlkit.algos.groups import judged
from rlkit.types import Credit, Group, Rollout, State

AGREEING_STEPS = 3
"""Steps in a row that must see the end: a detector that is asked in every step is wrong in some."""


class Verdict(Protocol):
    """What a detector says of a series (rlkit.analysis.stages.Detection)."""

    @property
    def stage(self) -> str:
        """`exploitation` while the mass still rises."""
        ...

    @property
    def exploration(self) -> float:
        """How sure it is that the mass has fallen from its peak, 0 to 1."""
        ...


Detect = Callable[[Sequence[float]], Verdict]


class Staged(Family):
    """The family's algorithm, with the weight of positives lowered for good when exploitation ends."""

    Config = WReinforceConfig

    def __init__(self, cfg: AlgoConfig, sampling: Sampling, detect: Detect) -> None:
        super().__init__(cfg, sampling)
        self.settings = cast(WReinforceConfig, cfg)
        self._detect = detect
        self._high: list[float] = []
        """Of every step so far; nan: no right answer."""
        self._agreeing = 0
        self._ended_at: int | None = None
        """The step, counted from 1, whose credit was the first with the lower weight."""
        self._exploration = 0.0

    @property
    def positive_weight(self) -> float:
        return (
            self.settings.positive_weight if self._ended_at is None else self.settings.stage_positive_weight
        )

    def credit(self, groups: Sequence[Group], rescored: Sequence[Sequence[float]]) -> list[Credit]:
        """Looks first, at what the present policy has written; nothing of it is known only later."""
        self._high.append(_probability([r for g in groups for r in judged(g) if _right(r)]))
        if self._ended_at is None:
            verdict = self._detect(self._high)
            self._exploration = verdict.exploration
            self._agreeing = 0 if verdict.stage == "exploitation" else self._agreeing + 1
            if self._agreeing >= AGREEING_STEPS:
                self._ended_at = len(self._high)
        return super().credit(groups, rescored)

    def metrics(self) -> dict[str, float]:
        told = {
            "stage/exploitation_ended": float(self._ended_at is not None),
            "stage/exploration": self._exploration,
            "stage/positive_weight": self.positive_weight,
        }
        if self._high and not math.isnan(self._high[-1]):
            told["stage/high_mass"] = self._high[-1]
        return super().metrics() | told

    def state_dict(self) -> State:
        return {
            "high": torch.tensor(self._high, dtype=torch.float64),
            "agreeing": self._agreeing,
            "ended_at": self._ended_at,
            "exploration": self._exploration,
        }

    def load_state_dict(self, state: State) -> None:
        self._high = state["high"].tolist()
        self._agreeing, self._ended_at = state["agreeing"], state["ended_at"]
        self._exploration = state["exploration"]


def _right(rollout: Rollout) -> bool:
    """What the family calls positive with signed rewards: 2 score - 1 above 0."""
    return float(rollout.value or 0.0) > 0.5


def _probability(rollouts: Sequence[Rollout]) -> float:
    """Mean probability of all their sampled tokens when they were sampled; nan without tokens."""
    tokens = [math.exp(logprob) for r in rollouts for logprob in r.completion_logprobs]
    return math.fsum(tokens) / len(tokens) if tokens else math.nan
