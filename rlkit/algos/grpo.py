"""GRPO (arXiv:2402.03300): G answers to each prompt, each credited with how much better than its siblings it did.

A_i = (R_i - mean_G R) / (std_G R + eps)
J   = E[ 1/G sum_i 1/|o_i| sum_t ( min(r_it A_i, clip(r_it, 1 - eps_low, 1 + eps_high) A_i) - beta k3_it ) ]
"""

from collections.abc import Sequence

from torch import Tensor

from rlkit.algo_config import AlgoConfig
from rlkit.algos.base import Sampling, Stateless
from rlkit.algos.ops import (
    clip_metrics,
    group_advantages,
    k3,
    log_ratio,
    loss_of,
    masked_tally,
    ppo_terms,
    seed_of,
)
from rlkit.batch import Batch, TokenStats
from rlkit.metrics import Metrics
from rlkit.types import Credit, Group, Prompt, Request, Rollout, Sample


def collect_groups(
    prompts: Sequence[Prompt], sample: Sample, seed: int, num_generations: int, sampling: Sampling
) -> list[Group]:
    """G full answers to each prompt."""
    requests = [
        Request(
            prompt_id=prompt.id,
            token_ids=prompt.token_ids,
            n=num_generations,
            max_tokens=sampling.max_completion_length,
            temperature=sampling.temperature,
            seed=seed_of(seed, i),
        )
        for i, prompt in enumerate(prompts)
    ]
    return [Group(prompt=p, rollouts=r) for p, r in zip(prompts, sample(requests), strict=True)]


def judged(group: Group) -> list[Rollout]:
    """The rollouts with a usable score: a skip or an error is not a wrong answer, and leaves the group."""
    return [r for r in group.rollouts if r.value is not None]


def group_credits(groups: Sequence[Group], cfg: AlgoConfig) -> list[Credit]:
    """The same advantage on every token of an answer, and 1/|o_i| as its weight."""
    members = [judged(group) for group in groups]
    rewards = [[float(r.value or 0.0) for r in rollouts] for rollouts in members]
    return [
        Credit(
            rollout=rollout,
            advantages=[advantage] * len(rollout.completion_ids),
            weight=1 / len(rollout.completion_ids),
            share=1.0,
            group=g,
        )
        for g, (rollouts, advantages) in enumerate(zip(members, group_advantages(rewards, cfg), strict=True))
        for rollout, advantage in zip(rollouts, advantages, strict=True)
    ]


def clipped_loss(
    batch: Batch, out: TokenStats, log_ratio_BT: Tensor, counted_BT: Tensor, cfg: AlgoConfig
) -> tuple[Tensor, Metrics]:
    """PPO's clip on the given ratios, minus beta k3, weighed and summed.

    counted_BT: bool, the tokens whose ratios the clip metrics count: all trained ones, or one of each sequence
    """
    ratio_BT = log_ratio_BT.exp()
    term_BT = ppo_terms(ratio_BT, batch.adv_BT, cfg.epsilon, cfg.clip_high)
    metrics = clip_metrics(ratio_BT.detach(), batch.adv_BT, counted_BT, cfg.epsilon, cfg.clip_high)
    if out.ref_logp_BT is not None:
        kl_BT = k3(out.logp_BT, out.ref_logp_BT, batch.mask_BT)
        term_BT = term_BT - cfg.beta * kl_BT
        metrics["kl"] = masked_tally(kl_BT, batch.mask_BT)
    return loss_of(term_BT, batch.weight_BT, batch.mask_BT, batch.denominator), metrics


class Grpo(Stateless):
    """GRPO with the 1/|o_i| normaliser of the paper, beta 0, and TRL's standard deviation."""

    def __init__(self, cfg: AlgoConfig, sampling: Sampling) -> None:
        self.cfg, self.sampling = cfg, sampling

    def collect(self, prompts: Sequence[Prompt], sample: Sample, seed: int) -> list[Group]:
        return collect_groups(prompts, sample, seed, self.cfg.num_generations, self.sampling)

    def credit(self, groups: Sequence[Group], rescored: Sequence[Sequence[float]]) -> list[Credit]:
        return group_credits(groups, self.cfg)

    def loss(self, batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        log_ratio_BT = log_ratio(out.logp_BT, out.old_logp_BT, batch.mask_BT)
        return clipped_loss(batch, out, log_ratio_BT, batch.mask_BT, self.cfg)
