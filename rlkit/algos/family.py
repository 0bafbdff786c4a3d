"""GRPO and its relatives, as one algorithm: whom to compare with, what counts, and how, are settings (FamilyConfig).

    R_i = score, or 2 score - 1;  minus the punishment of overlong answers
    A_i = (R_i - baseline) / scale;  times positive_weight or negative_weight
    loss: rlkit/algos/objective.py, with weight and share of rlkit/algos/groups.py

The named members, each with its paper, are in rlkit/algo_presets.py.
"""

import statistics
from collections.abc import Sequence
from typing import cast

from torch import Tensor

from rlkit.algo_config import AlgoConfig, FamilyConfig
from rlkit.algos.base import Sampling, Stateless
from rlkit.algos.groups import collect_groups, judged, weights_and_shares
from rlkit.algos.objective import Shape, objective
from rlkit.algos.ops import centred, overlong_punishment, scaled
from rlkit.algos.selection import with_spread
from rlkit.batch import Batch, TokenStats
from rlkit.metrics import Metrics
from rlkit.types import Credit, Group, Prompt, Rollout, Sample


class Family(Stateless):
    """Groups of answers, one advantage for all tokens of an answer."""

    Config = FamilyConfig
    """The settings of a user's own class that is derived from this one."""

    def __init__(self, cfg: AlgoConfig, sampling: Sampling) -> None:
        self.cfg = cfg = cast(FamilyConfig, cfg)
        self.sampling = sampling
        self._numbers: dict[str, float] = {}
        self._shape = Shape(
            low=cfg.epsilon,
            high=cfg.clip_high,
            level=cfg.importance_sampling_level,
            delta=cfg.delta,
            temperature_pos=cfg.sapo_temperature_pos,
            temperature_neg=cfg.sapo_temperature_neg,
        )

    def collect(self, prompts: Sequence[Prompt], sample: Sample, seed: int) -> list[Group]:
        return collect_groups(prompts, sample, seed, self.cfg.num_generations, self.sampling)

    @property
    def rounds(self) -> int:
        return 1 + self.cfg.dynamic_sampling

    def select(self, groups: Sequence[Group]) -> list[Group]:
        return with_spread(groups) if self.cfg.dynamic_sampling else list(groups)

    def credit(self, groups: Sequence[Group], rescored: Sequence[Sequence[float]]) -> list[Credit]:
        members = [judged(group) for group in groups]
        rewards = [[self._reward(r) for r in rollouts] for rollouts in members]
        advantages = scaled(centred(rewards, self.cfg.baseline), rewards, self.cfg)
        self._note([r for rollouts in members for r in rollouts])
        return [
            credit
            for g, (rollouts, group) in enumerate(zip(members, advantages, strict=True))
            for credit in self._credits(g, rollouts, group)
        ]

    @property
    def positive_weight(self) -> float:
        """Of the present step; a schedule may lower it (rlkit/algos/staged.py)."""
        return self.cfg.positive_weight

    def _reward(self, rollout: Rollout) -> float:
        score = float(rollout.value or 0.0)
        return (2 * score - 1 if self.cfg.signed_rewards else score) + self._punishment(rollout)

    def _punishment(self, rollout: Rollout) -> float:
        length, longest = len(rollout.completion_ids), self.sampling.max_completion_length
        return self.cfg.overlong_penalty * overlong_punishment(length, longest, self.cfg.overlong_buffer)

    def _credits(self, g: int, rollouts: Sequence[Rollout], advantages: Sequence[float]) -> list[Credit]:
        cfg, longest = self.cfg, self.sampling.max_completion_length
        counts = weights_and_shares(rollouts, cfg.normalizer, longest, cfg.mask_truncated_completions)
        return [
            Credit(
                rollout=rollout,
                advantages=[a * (self.positive_weight if a > 0 else cfg.negative_weight)]
                * len(rollout.completion_ids),
                weight=weight,
                share=share,
                surrogate=cfg.surrogate,
                group=g,
            )
            for rollout, a, (weight, share) in zip(rollouts, advantages, counts, strict=True)
        ]

    def loss(self, batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        return objective(batch, out, self.cfg, {self.cfg.surrogate: self._shape})

    def _note(self, rollouts: Sequence[Rollout]) -> None:
        self._numbers = {}
        if self.cfg.overlong_buffer and rollouts:
            self._numbers["rewards/overlong/mean"] = statistics.fmean(map(self._punishment, rollouts))

    def metrics(self) -> dict[str, float]:
        return self._numbers
