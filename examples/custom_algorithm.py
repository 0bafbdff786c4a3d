"""An algorithm of your own: NGRPO (arXiv:2509.18851), in which groups of wrong answers train too.

    rlkit train --model tiny --data task:chain --algo examples/custom_algorithm.py:Ngrpo
    rlkit train --model tiny --data task:chain --algo examples/custom_algorithm.py:Ngrpo --algo.max-reward 2.0

GRPO learns nothing from a group whose answers are all wrong: none is better than another. NGRPO imagines one more answer
of the highest reward in every group when it takes mean and deviation, so that all who wrote are below it:

    A_i = (R_i - mean(R_1 .. R_G, R_max)) / std(R_1 .. R_G, R_max),   clip(r, 1 - 0.16, 1 + 0.24)

An algorithm is a class that answers three questions: what to sample (collect), whom to credit (credit), what to minimise
(loss). Its settings are a frozen dataclass, named as the class's `Config`; each of its fields is a flag, a TOML key and a
line of the run's config.toml. What an answer is trained on travels as numbers beside its tokens (`Credit`):

    loss of a mini-batch = - sum over tokens( weight * term(ratio, advantage) ) / sum over answers( share )

so no other file needs to know of you. rlkit/algos/objective.py has the term of every shipped algorithm, with KL penalty,
entropy bonus and the rest. Only a part is new? Derive from rlkit.algos.family.Family. Something must survive a restart?
Write `state_dict` and `load_state_dict`, as rlkit/algos/skpo.py does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from rlkit.algo_config import AlgoConfig
from rlkit.algos.base import Sampling, Stateless
from rlkit.algos.groups import collect_groups, judged, weights_and_shares
from rlkit.algos.objective import Shape, objective
from rlkit.algos.ops import group_advantages
from rlkit.batch import Batch, TokenStats
from rlkit.metrics import Metrics
from rlkit.types import Credit, Group, Prompt, Rollout, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class NgrpoConfig(AlgoConfig):
    """NGRPO: GRPO with an imagined answer of the highest reward in every group."""

    epsilon: float = 0.16
    """Clip of negative tokens, tighter than GRPO's: there are more of them now."""
    epsilon_high: float | None = 0.24
    """Clip of positive tokens, looser."""
    max_reward: float = 1.0
    """The imagined answer's reward."""


class Ngrpo(Stateless):
    """Stateless: nothing is remembered from step to step, and prompts come in the data's order."""

    Config = NgrpoConfig

    def __init__(self, cfg: NgrpoConfig, sampling: Sampling) -> None:
        self.cfg, self.sampling = cfg, sampling

    def collect(self, prompts: Sequence[Prompt], sample: Sample, seed: int) -> list[Group]:
        return collect_groups(prompts, sample, seed, self.cfg.num_generations, self.sampling)

    def credit(self, groups: Sequence[Group], rescored: Sequence[Sequence[float]]) -> list[Credit]:
        members = [judged(group) for group in groups]
        rewards = [[*(r.value or 0.0 for r in answers), self.cfg.max_reward] for answers in members]
        credits = []
        for g, advantages in enumerate(group_advantages(rewards, self.cfg)):
            credits += self._credits(g, members[g], advantages[:-1])  # nobody wrote the last one
        return credits

    def _credits(self, g: int, answers: Sequence[Rollout], advantages: Sequence[float]) -> list[Credit]:
        longest, masked = self.sampling.max_completion_length, self.cfg.mask_truncated_completions
        counts = weights_and_shares(answers, "sequence", longest, masked)
        return [
            Credit(rollout=r, advantages=[a] * len(r.completion_ids), weight=weight, share=share, group=g)
            for r, a, (weight, share) in zip(answers, advantages, counts, strict=True)
        ]

    def loss(self, batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        clip = Shape(low=self.cfg.epsilon, high=self.cfg.clip_high)
        return objective(batch, out, self.cfg, {"ppo": clip})
