"""GSPO-N (arXiv:2510.04028 on arXiv:2507.18071): length-normalised sequence ratios, only negative advantages.

    s_i = (pi(o_i) / pi_old(o_i))^(1/|o_i|)
    J   = E[ 1/G sum_i min(s_i A_i^-, clip(s_i, 1 - eps_low, 1 + eps_high) A_i^-) ]

s_i stands on each of the |o_i| tokens with weight 1/|o_i|, which sums to the sequence's one term.
"""

from collections.abc import Sequence

from torch import Tensor

from rlkit.algo_config import AlgoConfig
from rlkit.algos.base import Sampling, Stateless
from rlkit.algos.grpo import clipped_loss, collect_groups, group_credits
from rlkit.algos.grpo_n import negatives_only
from rlkit.algos.ops import log_ratio, sequence_log_ratio
from rlkit.batch import Batch, TokenStats
from rlkit.metrics import Metrics
from rlkit.types import Credit, Group, Prompt, Sample


class GspoN(Stateless):
    """GSPO's sequence-level clip, with only failures credited."""

    def __init__(self, cfg: AlgoConfig, sampling: Sampling) -> None:
        self.cfg, self.sampling = cfg, sampling

    def collect(self, prompts: Sequence[Prompt], sample: Sample, seed: int) -> list[Group]:
        return collect_groups(prompts, sample, seed, self.cfg.num_generations, self.sampling)

    def credit(self, groups: Sequence[Group], rescored: Sequence[Sequence[float]]) -> list[Credit]:
        return negatives_only(group_credits(groups, self.cfg))

    def loss(self, batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        token_BT = log_ratio(out.logp_BT, out.old_logp_BT, batch.mask_BT)
        is_first_BT = batch.mask_BT & (batch.mask_BT.cumsum(-1) == 1)  # a sequence has one ratio
        return clipped_loss(batch, out, sequence_log_ratio(token_BT, batch.mask_BT), is_first_BT, self.cfg)
