"""GRPO-N (arXiv:2510.04028): GRPO that keeps only the negative relative advantages.

    A_i^- = min(A_i, 0), with mean and standard deviation of ALL samples; the denominators G and |o_i| stay.

"Relative" means that the group decides the sign, not correctness: an all-wrong group gives nothing (NSR would push it
down), and with graded rewards a fair answer below its group's mean is a negative.
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from rlkit.algo_config import AlgoConfig
from rlkit.algos.base import Sampling, Stateless
from rlkit.algos.grpo import clipped_loss, collect_groups, group_credits
from rlkit.algos.ops import log_ratio
from rlkit.batch import Batch, TokenStats
from rlkit.metrics import Metrics
from rlkit.types import Credit, Group, Prompt, Sample


def negatives_only(credits: Sequence[Credit]) -> list[Credit]:
    """min(A, 0) on every token; weights and shares stay, so the step does not grow as answers get better."""
    return [replace(c, advantages=[min(a, 0.0) for a in c.advantages]) for c in credits]


class GrpoN(Stateless):
    """GRPO's sampling and clip, with only failures credited."""

    def __init__(self, cfg: AlgoConfig, sampling: Sampling) -> None:
        self.cfg, self.sampling = cfg, sampling

    def collect(self, prompts: Sequence[Prompt], sample: Sample, seed: int) -> list[Group]:
        return collect_groups(prompts, sample, seed, self.cfg.num_generations, self.sampling)

    def credit(self, groups: Sequence[Group], rescored: Sequence[Sequence[float]]) -> list[Credit]:
        return negatives_only(group_credits(groups, self.cfg))

    def loss(self, batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        log_ratio_BT = log_ratio(out.logp_BT, out.old_logp_BT, batch.mask_BT)
        return clipped_loss(batch, out, log_ratio_BT, batch.mask_BT, self.cfg)
