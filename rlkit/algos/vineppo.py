"""VinePPO (arXiv:2410.01679): each step of an answer is credited with how far it moved the chance of success.

An answer is cut into steps o_1..o_n where the policy wrote a separator. From the beginning of every step the policy starts
K fresh answers, and their mean score is the value there:

    V(t) = mean of K scores, continuing from q and o_1..o_{t-1};    V(n + 1) = the answer's own score
    A    = V(t + 1) - V(t)                                          on all tokens of step t
    J    = 1/sum|o| sum sum_t ( min(r A, clip(r, 1 - eps, 1 + eps) A) - beta k3 )

The A of an answer's steps add up to its score - V(1): nothing is credited twice. No critic, no state. Answers that begin with
the same tokens share a value. What the paper and its published code leave open, and where we differ: docs/papers.md.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from torch import Tensor

from rlkit.algo_config import AlgoConfig
from rlkit.algo_own import VinePpoConfig
from rlkit.algos.base import Sampling, Stateless
from rlkit.algos.groups import collect_groups, judged, weights_and_shares
from rlkit.algos.objective import Shape, objective
from rlkit.algos.ops import seed_of, standard_deviation
from rlkit.batch import Batch, TokenStats
from rlkit.metrics import Metrics
from rlkit.types import Credit, Group, Prompt, Request, Rollout, Sample, Segment

Prefix = tuple[int, ...]
"""The tokens of an answer up to the beginning of a step."""


def cuts(token_ids: Sequence[int], ends: frozenset[int], max_steps: int) -> list[int]:
    """Where the second and later steps begin, at most max_steps - 1 of them, evenly chosen.

    A step begins after a run of tokens that end one, and has a token.

    >>> cuts([5, 9, 6, 9, 9, 7, 9], frozenset({9}), max_steps=8)
    [2, 5]
    """
    found = [i for i in range(1, len(token_ids)) if token_ids[i - 1] in ends and token_ids[i] not in ends]
    room = max_steps - 1
    if len(found) <= room:
        return found
    return [found[(k + 1) * (len(found) + 1) // max_steps - 1] for k in range(room)]


class VinePpo(Stateless):
    """G answers to each prompt, and K continuations from the beginning of each of their steps."""

    def __init__(self, cfg: AlgoConfig, sampling: Sampling) -> None:
        self.cfg = cast(VinePpoConfig, cfg)
        self.sampling = sampling
        self._numbers: dict[str, float] = {}

    # -- what to sample ------------------------------------------------------------------------------------------------

    def collect(self, prompts: Sequence[Prompt], sample: Sample, seed: int) -> list[Group]:
        """The answers are a group's first child; its others hold the continuations of each of `_prefixes`, in order."""
        answers = collect_groups(prompts, sample, seed, self.cfg.num_generations, self.sampling)
        starts = [self._prefixes(group) for group in answers]
        requests = [
            Request(
                prompt_id=group.prompt.id,
                token_ids=[*group.prompt.token_ids, *prefix],
                n=self.cfg.num_continuations,
                max_tokens=self.sampling.max_completion_length - len(prefix),
                temperature=self.sampling.temperature,
                seed=seed_of(seed, "value", g, k),
            )
            for g, (group, prefixes) in enumerate(zip(answers, starts, strict=True))
            for k, prefix in enumerate(prefixes)
        ]
        drawn = iter(sample(requests))
        return [
            Group(
                prompt=group.prompt,
                rollouts=[],
                children=[group, *(_whole(group.prompt, of, next(drawn)) for of in prefixes.values())],
            )
            for group, prefixes in zip(answers, starts, strict=True)
        ]

    def _cuts(self, answer: Rollout) -> list[int]:
        return cuts(answer.completion_ids, self.sampling.step_ends, self.cfg.max_steps)

    def _prefixes(self, answers: Group) -> dict[Prefix, list[float]]:
        """What is to be valued, each once, with the log-probs of its tokens: first the bare prompt, `()`."""
        found: dict[Prefix, list[float]] = {(): []}
        for answer in answers.rollouts:
            for cut in self._cuts(answer):
                prefix = tuple(answer.completion_ids[:cut])
                found.setdefault(prefix, answer.completion_logprobs[:cut])
        return found

    # -- whom to credit ------------------------------------------------------------------------------------------------

    def credit(self, groups: Sequence[Group], rescored: Sequence[Sequence[float]]) -> list[Credit]:
        credited: list[tuple[int, list[Rollout], list[list[float]]]] = []
        starts, steps = [], []
        for g, group in enumerate(groups):
            answers, values = judged(group.children[0]), self._values(group)
            if answers and () in values:
                advantages = [self._advantages(r, values) for r in answers]
                credited.append((g, answers, advantages))
                starts.append(values[()])
                steps += [len(self._cuts(r)) + 1 for r in answers]
        self._note(groups, starts, steps)
        every_token = [a for _, _, own in credited for answer in own for a in answer]
        shift, scale = self._scale(every_token)
        return [
            Credit(
                rollout=r,
                advantages=[(a - shift) / scale for a in own],
                weight=weight,
                share=share,
                group=g,
            )
            for g, answers, advantages in credited
            for r, own, (weight, share) in zip(answers, advantages, self._counts(answers), strict=True)
        ]

    def _values(self, group: Group) -> dict[Prefix, float]:
        """Mean score of each prefix's continuations. One that nobody could judge is not there: its step joins the one before."""
        prefixes = self._prefixes(group.children[0])
        scores = [[float(r.value or 0.0) for r in judged(child)] for child in group.children[1:]]
        return {p: statistics.fmean(s) for p, s in zip(prefixes, scores, strict=True) if s}

    def _advantages(self, answer: Rollout, values: dict[Prefix, float]) -> list[float]:
        """V at the next step's beginning minus V at this one's, for each token; the end is worth the answer's own score."""
        ids, here, start = answer.completion_ids, values[()], 0
        advantages: list[float] = []
        for cut in self._cuts(answer):
            following = values.get(tuple(ids[:cut]))
            if following is not None:
                advantages += [following - here] * (cut - start)
                here, start = following, cut
        return advantages + [float(answer.value or 0.0) - here] * (len(ids) - start)

    def _scale(self, every_token: Sequence[float]) -> tuple[float, float]:
        """What is subtracted from every advantage, and what divides it. Equal ones become exact zeros."""
        if self.cfg.scale_rewards == "none":
            return 0.0, 1.0
        std = standard_deviation(every_token, self.cfg.scale_std)
        return (statistics.fmean(every_token), std + self.cfg.std_eps) if std else (0.0, math.inf)

    def _counts(self, answers: Sequence[Rollout]) -> list[tuple[float, float]]:
        longest, masked = self.sampling.max_completion_length, self.cfg.mask_truncated_completions
        return weights_and_shares(answers, "token", longest, masked)

    # -- what to minimise ----------------------------------------------------------------------------------------------

    def loss(self, batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        return objective(batch, out, self.cfg, {"ppo": Shape(low=self.cfg.epsilon, high=self.cfg.clip_high)})

    def _note(self, groups: Sequence[Group], starts: Sequence[float], steps: Sequence[int]) -> None:
        drawn = [sum(len(child.rollouts) for child in g.children[1:]) for g in groups]
        self._numbers = {
            "vineppo/value": statistics.fmean(starts) if starts else 0.0,
            "vineppo/steps": statistics.fmean(steps) if steps else 0.0,
            "vineppo/continuations": float(sum(drawn)),
        }

    def metrics(self) -> dict[str, float]:
        return self._numbers


def _whole(prompt: Prompt, prefix_logprobs: Sequence[float], drawn: Sequence[Rollout]) -> Group:
    """Continuations as whole answers, which is what a verifier reads: the prefix and what followed it."""
    start = len(prompt.token_ids)
    return Group(
        prompt=prompt,
        rollouts=[
            replace(
                r,
                logprobs=[0.0] * start + [*prefix_logprobs, *r.completion_logprobs],
                segments=[
                    Segment(kind="prompt", start=0, end=start),
                    Segment(kind="completion", start=start, end=len(r.token_ids)),
                ],
            )
            for r in drawn
        ],
    )
