"""Algorithms of your own: whom to credit and what to minimise, in a class with `collect`, `credit` and `loss`.

    rlkit train --model tiny --data task:chain --algo examples/custom_algorithm.py:LeaveOneOut
    rlkit train --model tiny --data task:chain --algo examples/custom_algorithm.py:Nsr --algo.lambda-right 0.1

Settings are a frozen dataclass, named as the class's `Config`; each of its fields is a flag, a TOML key and a line of
the run's config.toml. What an answer is trained on travels as numbers beside its tokens (`Credit`):

    loss of a mini-batch = - sum over tokens( weight * term(ratio, advantage) ) / sum over answers( share )

so no other file needs to know of you: `weight` and `share` choose the normaliser, `loss` chooses the term. `rlkit.algos`
has the pieces. An algorithm that must remember something across a restart has `state_dict` too (rlkit/algos/skpo.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from rlkit.algo_config import AlgoConfig
from rlkit.algos.base import Sampling, Stateless
from rlkit.algos.grpo import collect_groups, judged
from rlkit.algos.ops import clip_metrics, log_ratio, loss_of, ppo_terms
from rlkit.batch import Batch, TokenStats
from rlkit.errors import ConfigError
from rlkit.metrics import Metrics
from rlkit.types import Credit, Group, Prompt, Rollout, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveOneOutConfig(AlgoConfig):
    """REINFORCE with a leave-one-out baseline (RLOO, arXiv:2402.14740)."""

    per_token: bool = False
    """Divide an answer's terms by its length, as GRPO does; off: their sum, the log-probability of the whole answer."""

    def __post_init__(self) -> None:
        AlgoConfig.__post_init__(self)
        _refuse_kl(self)


class LeaveOneOut(Stateless):
    """A_i = R_i - mean of the other answers to the same prompt; the loss is -A_i log pi(o_i), without ratio or clip."""

    Config = LeaveOneOutConfig

    def __init__(self, cfg: LeaveOneOutConfig, sampling: Sampling) -> None:
        self.cfg, self.sampling = cfg, sampling

    def collect(self, prompts: Sequence[Prompt], sample: Sample, seed: int) -> list[Group]:
        return collect_groups(prompts, sample, seed, self.cfg.num_generations, self.sampling)

    def credit(self, groups: Sequence[Group], rescored: Sequence[Sequence[float]]) -> list[Credit]:
        return [self._credit(g, r, group) for g, group in enumerate(groups) for r in judged(group)]

    def _credit(self, g: int, rollout: Rollout, group: Group) -> Credit:
        rewards, length = [r.value or 0.0 for r in judged(group)], len(rollout.completion_ids)
        own, others = rollout.value or 0.0, len(rewards) - 1
        advantage = own - (sum(rewards) - own) / others if others else 0.0
        return Credit(
            rollout=rollout,
            advantages=[advantage] * length,
            weight=1 / length if self.cfg.per_token else 1.0,
            share=1.0,
            group=g,
        )

    def loss(self, batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        term_BT = batch.adv_BT * out.logp_BT
        return loss_of(term_BT, batch.weight_BT, batch.mask_BT, batch.denominator), {}


@dataclass(frozen=True, slots=True, kw_only=True)
class NsrConfig(AlgoConfig):
    """NSR and W-REINFORCE (arXiv:2506.01347): constants instead of a baseline."""

    lambda_right: float = 0.0
    """Advantage of a right answer. 0: NSR, which only pushes wrong answers down; 0.1: W-REINFORCE; 1: REINFORCE."""

    def __post_init__(self) -> None:
        AlgoConfig.__post_init__(self)
        _refuse_kl(self)


class Nsr(Stateless):
    """A = lambda for a right answer, -1 for a wrong one, no group and no baseline; PPO's clip, mean over all tokens.

    An all-wrong group trains here, unlike in GRPO-N: -1 does not depend on the siblings.
    """

    Config = NsrConfig

    def __init__(self, cfg: NsrConfig, sampling: Sampling) -> None:
        self.cfg, self.sampling = cfg, sampling

    def collect(self, prompts: Sequence[Prompt], sample: Sample, seed: int) -> list[Group]:
        return collect_groups(prompts, sample, seed, self.cfg.num_generations, self.sampling)

    def credit(self, groups: Sequence[Group], rescored: Sequence[Sequence[float]]) -> list[Credit]:
        return [self._credit(g, r) for g, group in enumerate(groups) for r in judged(group)]

    def _credit(self, g: int, rollout: Rollout) -> Credit:
        advantage = self.cfg.lambda_right if rollout.value == 1.0 else -1.0
        length = len(rollout.completion_ids)
        # A share of its tokens makes the denominator a count of tokens: every token weighs the same, wherever it stands.
        return Credit(
            rollout=rollout, advantages=[advantage] * length, weight=1.0, share=float(length), group=g
        )

    def loss(self, batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        ratio_BT = log_ratio(out.logp_BT, out.old_logp_BT, batch.mask_BT).exp()
        low, high = self.cfg.epsilon, self.cfg.clip_high
        term_BT = ppo_terms(ratio_BT, batch.adv_BT, low, high)
        metrics = clip_metrics(ratio_BT.detach(), batch.adv_BT, batch.mask_BT, low, high)
        return loss_of(term_BT, batch.weight_BT, batch.mask_BT, batch.denominator), metrics


def _refuse_kl(cfg: AlgoConfig) -> None:
    """A setting that changes nothing is refused, not ignored."""
    if cfg.beta > 0:
        raise ConfigError(
            f"{cfg.name}: beta = {cfg.beta:g}, but this algorithm has no KL term; leave it at 0"
        )
