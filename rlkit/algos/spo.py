"""SPO, Single-stream Policy Optimization (arXiv:2509.13232): one answer per prompt, compared with the prompt's own past.

    A  = score - V(q)                     V the tracker's value before this answer: no group, nothing wasted on siblings
    A~ = (A - mean_B) / (std_B + eps)     over the whole batch, and the same on all tokens of an answer
    J  = 1/sum|o| sum sum_t min(r A~, clip(r, 1 - eps_low, 1 + eps_high) A~)

V forgets as fast as the policy moves (tracker.py), and prompts that are neither easy nor hopeless come more often. What the
paper and its published code leave open, and where we differ: docs/papers.md.
"""

import statistics
from collections.abc import Sequence
from typing import cast

from torch import Tensor

from rlkit.algo_config import AlgoConfig
from rlkit.algo_own import SpoConfig
from rlkit.algos.base import KeepsAll, Sampling
from rlkit.algos.groups import collect_groups, judged, weights_and_shares
from rlkit.algos.objective import Shape, objective
from rlkit.algos.ops import centred, scaled, seed_of
from rlkit.algos.tracker import Tracker
from rlkit.batch import Batch, TokenStats
from rlkit.metrics import Metrics
from rlkit.types import Credit, Group, Prompt, Rollout, Sample, State


class Spo(KeepsAll):
    """One stream of answers, one running value per prompt."""

    def __init__(self, cfg: AlgoConfig, sampling: Sampling) -> None:
        self.cfg = cast(SpoConfig, cfg)
        self.sampling = sampling
        # alpha = beta = 1/2 before the first answer (papers.md 2.2): the value 0.5 counts for one visit.
        self.tracker = Tracker(
            self.cfg, initial_length=float(sampling.max_completion_length), initial_visits=1.0
        )
        self._numbers: dict[str, float] = {}

    def prompt_weights(self, ids: Sequence[str]) -> list[float] | None:
        return self.tracker.weights(ids)

    def collect(self, prompts: Sequence[Prompt], sample: Sample, seed: int) -> list[Group]:
        """The answers; to a prompt never met also `initial_samples` more, in a second child: judged, and not trained."""
        cfg = self.cfg
        groups = collect_groups(prompts, sample, seed, cfg.num_generations, self.sampling)
        new = [g for g, p in enumerate(prompts) if cfg.initial_samples and p.id not in self.tracker.records]
        asked = [prompts[g] for g in new]
        first = collect_groups(asked, sample, seed_of(seed, "initial"), cfg.initial_samples, self.sampling)
        for g, initial in zip(new, first, strict=True):
            groups[g] = Group(prompt=prompts[g], rollouts=[], children=[groups[g], initial])
        return groups

    def rescore(self, groups: Sequence[Group]) -> list[Rollout]:
        """Each prompt's last answer, to see how far the policy has drifted from it, and its new one, for the next time.

        The new one too, as in the published code: with a half-life of 0.06 nats a sampler that rounds differently from the
        learner would look like drift.
        """
        return [*self.tracker.stored([g.prompt for g in groups]), *(a[0] for a in map(_answers, groups) if a)]

    def credit(self, groups: Sequence[Group], rescored: Sequence[Sequence[float]]) -> list[Credit]:
        prompts = [g.prompt for g in groups]
        members = [_answers(g) for g in groups]
        num_stored = len(rescored) - sum(map(bool, members))
        drifts, now = self.tracker.drifts(prompts, rescored[:num_stored]), iter(rescored[num_stored:])
        known = [d for p, d in zip(prompts, drifts, strict=True) if self.tracker.has_response(p.id)]
        advantages, rhos = [], []
        for group, answers, drift in zip(groups, members, drifts, strict=True):
            scores = [float(r.value or 0.0) for r in answers]
            value = self.tracker.value(group.prompt.id)
            if answers:
                self._begin(group)
                value, rho = self.tracker.visit(
                    answers[0],
                    next(now),
                    score=statistics.fmean(scores),
                    length=statistics.fmean(len(r.completion_ids) for r in answers),
                    drift=drift,
                )
                rhos.append(rho)
            advantages.append([score - value for score in scores])
        self._note([p.id for p, answers in zip(prompts, members, strict=True) if answers], rhos, known)
        # The batch's mean and deviation are those of the advantages themselves.
        advantages = scaled(centred(advantages, "batch"), advantages, self.cfg)
        return [
            credit
            for g, (answers, own) in enumerate(zip(members, advantages, strict=True))
            for credit in self._credits(g, answers, own)
        ]

    def _begin(self, group: Group) -> None:
        """The value of a prompt never met, from its initial answers: smoothed, and worth 1 / (1 - rho_min) visits."""
        if len(group.children) < 2 or group.prompt.id in self.tracker.records:
            return
        scores = [float(r.value or 0.0) for r in judged(group.children[1])]
        if scores:
            value = (sum(scores) + 0.5) / (len(scores) + 1)
            self.tracker.start(group.prompt.id, value, 1 / (1 - self.cfg.rho_min))

    def _credits(self, g: int, answers: Sequence[Rollout], advantages: Sequence[float]) -> list[Credit]:
        longest, masked = self.sampling.max_completion_length, self.cfg.mask_truncated_completions
        return [
            Credit(rollout=r, advantages=[a] * len(r.completion_ids), weight=weight, share=share, group=g)
            for r, a, (weight, share) in zip(
                answers, advantages, weights_and_shares(answers, "token", longest, masked), strict=True
            )
        ]

    def loss(self, batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        return objective(batch, out, self.cfg, {"ppo": Shape(low=self.cfg.epsilon, high=self.cfg.clip_high)})

    def _note(self, visited: Sequence[str], rhos: Sequence[float], drifts: Sequence[float]) -> None:
        numbers = self.tracker.metrics(visited, rhos)
        numbers["drift"] = statistics.fmean(drifts) if drifts else 0.0
        self._numbers = {f"spo/{name}": number for name, number in numbers.items()}

    def metrics(self) -> dict[str, float]:
        return self._numbers

    def state_dict(self) -> State:
        return {"tracker": self.tracker.state_dict()}

    def load_state_dict(self, state: State) -> None:
        self.tracker.load_state_dict(state["tracker"])


def _answers(group: Group) -> list[Rollout]:
    """The judged answers that are trained: the group's own, or its first child's."""
    return judged(group.children[0] if group.children else group)
