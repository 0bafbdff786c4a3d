"""SKPO, Skip-Connected Policy Optimization (arXiv:2604.08690): one segment, many futures.

For every prompt q:
    t ~ U[L/6, L/2]            a split position, from the prompt's running response length
    s_1..s_G = pi(q), t tokens the one of median likelihood, s, is kept; one that ended early is cut at half
    o_1..o_G = pi([s, q])      continuations that read s BEFORE the problem, and may use or ignore it
    R_II(o_i) = 2 score - 1;   R_I(s) = mean_i R_II(o_i)

Upstream, s is trained like a single stream: advantage R_I - V(q) with a running value V, normalised over the batch,
PPO-clip, token mean per segment. Downstream, the o_i are a group: centred and scaled, CISPO-form, token mean over the
group; s and q are prompt there and carry no loss. The sum is half and half.

The value, visit count, length and last segment of every prompt are state: without them a restart would forget every
baseline. Where the paper is silent (docs/papers.md lists each choice) the note says so here.
"""

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

from torch import Tensor

from rlkit.algo_config import AlgoConfig
from rlkit.algo_own import SkpoConfig
from rlkit.algos.base import KeepsAll, Sampling
from rlkit.algos.groups import judged, weights_and_shares
from rlkit.algos.objective import Shape, objective
from rlkit.algos.ops import group_advantages, masked_tally, seed_of, standard_deviation
from rlkit.algos.tracker import Tracker
from rlkit.batch import SURROGATES, Batch, TokenStats
from rlkit.errors import ConfigError
from rlkit.metrics import Metrics
from rlkit.talks import Talk, follow
from rlkit.types import Credit, Group, Prompt, Request, Rollout, Sample, Segment, SegmentKind, State


def choose_segment(logprobs: Sequence[Sequence[float]], how: str) -> int:
    """Index of the segment whose mean NLL is the median (papers.md 1.2, R4): rank by (NLL, index), lower of two middle ranks.

    Ranks, never an argmin on distances: with even G the two middle segments tie exactly. `least` and `most` likely
    are the ablation's ends.

    >>> choose_segment([[-2.0], [-0.9], [-1.3], [-1.0]], "median")  # NLL 2.0, 0.9, 1.3, 1.0: the middle ones are 1.0 and 1.3
    3
    """
    order = sorted(range(len(logprobs)), key=lambda i: (-statistics.fmean(logprobs[i]), i))
    return order[{"median": (len(order) - 1) // 2, "most": 0, "least": -1}[how]]


def cut_early(rollout: Rollout) -> Rollout:
    """A segment that ended before the split keeps the first half of its own length, at least one token (R3)."""
    if rollout.finish_reason != "stop":
        return rollout
    start = rollout.prompt_tokens
    end = start + max(1, len(rollout.completion_ids) // 2)
    ended = end == len(rollout.token_ids)  # a segment that is nothing but the stop token
    return replace(
        rollout,
        token_ids=rollout.token_ids[:end],
        logprobs=rollout.logprobs[:end],
        segments=[*rollout.segments[:-1], Segment(kind="completion", start=start, end=end)],
        finish_reason="stop" if ended else "length",
    )


def skip_prompt(prompt: Prompt, segment: Rollout, cfg: SkpoConfig) -> tuple[list[int], list[Segment]]:
    """Token ids of the downstream prompt and its segments. The segment's own ids are spliced in, never re-tokenised.

    chat (A): the user turn reads s, blank line, q.  raw (B): s, then the whole rendered q.  Without skip: q, then s.
    """
    written = [] if segment.finish_reason == "stop" else segment.completion_ids
    if not cfg.skip:
        head, tail = prompt.token_ids, []
    elif cfg.skip_format == "raw":
        head, tail = [], prompt.token_ids
    elif prompt.skip_ids is None:
        raise ConfigError(
            f"prompt {prompt.id}: rendered without room for a segment, which SKPO's skip_format = 'chat' needs; "
            "build the data with skip prompts, or set --algo.skip-format raw"
        )
    else:
        head, tail = prompt.skip_ids
    a, b = len(head), len(head) + len(written)
    parts: list[tuple[SegmentKind, int, int]] = [
        ("prompt", 0, a),
        ("context", a, b),
        ("prompt", b, b + len(tail)),
    ]
    segments = [Segment(kind=kind, start=i, end=j) for kind, i, j in parts if j > i]
    return [*head, *written, *tail], segments


def carried_on(segment: Rollout, rest: Rollout) -> Rollout:
    """The segment and what was written after it as one completion."""
    start, end = segment.prompt_tokens, len(rest.token_ids)
    return replace(
        rest,
        logprobs=[*segment.logprobs, *rest.completion_logprobs],
        segments=[*segment.segments[:-1], Segment(kind="completion", start=start, end=end)],
    )


class Skpo(KeepsAll):
    """SKPO whole: rollouts in two phases, two objectives, one tracker; its four ablations are options."""

    def __init__(self, cfg: AlgoConfig, sampling: Sampling) -> None:
        self.cfg = cast(SkpoConfig, cfg)
        self.sampling = sampling
        start_length = min(self.cfg.initial_length, sampling.max_completion_length)
        self.tracker = Tracker(self.cfg, initial_length=float(start_length))
        self.steps = 0
        self._numbers: dict[str, float] = {}

    # -- whom to ask -------------------------------------------------------------------------------------------------

    def prompt_weights(self, ids: Sequence[str]) -> list[float] | None:
        return self.tracker.weights(ids)

    def split_position(self, prompt_id: str, rng: random.Random) -> int:
        """t ~ U[L/6, L/2], rounded, at least 1, at most half of the longest answer (R1)."""
        cfg, cap = self.cfg, self.sampling.max_completion_length
        length = min(self.tracker.length(prompt_id), cap)
        share = rng.uniform(cfg.split_low, cfg.split_high)
        if cfg.split == "fixed":
            share = cfg.split_low if self.steps % 2 == 0 else cfg.split_high
        return max(1, min(round(share * length), cap // 2))

    def collect(self, prompts: Sequence[Prompt], sample: Sample, seed: int) -> list[Group]:
        """One talk for each prompt: phase 2 of one does not wait for phase 1 of another."""
        rng = random.Random(seed)
        how = "median"
        if self.cfg.selection == "extreme":
            how = "least" if self.steps % 2 == 0 else "most"
        talks = [
            self._talk(prompt, self.split_position(prompt.id, rng), how, partial(seed_of, seed), i)
            for i, prompt in enumerate(prompts)
        ]
        groups = follow(talks, sample)
        self.steps += 1
        return groups

    def _talk(
        self, prompt: Prompt, split: int, how: str, seed: Callable[[str, int], int], i: int
    ) -> Talk[Group]:
        """Phase 1: G short segments, one kept. Phase 2: G continuations of [s, q]; |s| + |o| stays within the cap, and o has at
        least one token. Ablation `w/o MC`: also s's own answer, carried on from q and s; it is judged but not trained."""
        ask = partial(Request, prompt_id=prompt.id, temperature=self.sampling.temperature)
        count = self.cfg.num_generations
        (drawn,) = yield [
            ask(token_ids=prompt.token_ids, n=count, max_tokens=split, seed=seed("upstream", i))
        ]
        segments = [cut_early(r) for r in drawn]
        s = segments[choose_segment([r.completion_logprobs for r in segments], how)]
        token_ids, parts = skip_prompt(prompt, s, self.cfg)
        rest = max(1, self.sampling.max_completion_length - len(s.completion_ids))
        asked = [ask(token_ids=token_ids, n=count, max_tokens=rest, seed=seed("downstream", i))]
        if self.cfg.upstream_reward != "mc":
            asked.append(ask(token_ids=s.token_ids, n=1, max_tokens=rest, seed=seed("own", i)))
        answers, *own = yield asked
        rollouts = [replace(r, segments=[*parts, r.segments[-1]]) for r in answers]
        children = [Group(prompt=replace(prompt, token_ids=token_ids), rollouts=rollouts)]
        children += [Group(prompt=prompt, rollouts=[carried_on(s, r)]) for (r,) in own]
        return Group(prompt=prompt, rollouts=[s], children=children)

    # -- whom to credit ----------------------------------------------------------------------------------------------

    def rescore(self, groups: Sequence[Group]) -> list[Rollout]:
        """The segment stored at each prompt's last visit, to see how far the policy has drifted from it since."""
        return self.tracker.stored([g.prompt for g in groups])

    def credit(self, groups: Sequence[Group], rescored: Sequence[Sequence[float]]) -> list[Credit]:
        drifts = self.tracker.drifts([g.prompt for g in groups], rescored)
        usable, rewards, downstream = [], [], []
        for g, group in enumerate(groups):
            answers = judged(group.children[0])
            judges = answers if self.cfg.upstream_reward == "mc" else judged(group.children[1])
            if answers and judges:
                usable.append(g)
                rewards.append(statistics.fmean(2 * float(r.value or 0.0) - 1 for r in judges))
                downstream.append([2 * float(r.value or 0.0) - 1 for r in answers])
        raw, rhos = [], []
        for g, reward in zip(usable, rewards, strict=True):
            advantage, rho = self._visit(groups[g], reward, drifts[g])
            raw.append(advantage)
            rhos.append(rho)
        upstream = self._batch_normalised(raw)
        self._note(groups, usable, rewards, rhos)
        credits = []
        for g, a_up, a_down in zip(usable, upstream, group_advantages(downstream, self.cfg), strict=True):
            credits.extend(self._credits_of(g, groups[g], a_up, a_down))
        return credits

    def _visit(self, group: Group, reward: float, drift: float) -> tuple[float, float]:
        """The advantage against the value BEFORE this visit, and rho; then the tracker moves on."""
        s, answers = group.rollouts[0], group.children[0].rollouts
        length = len(s.completion_ids) + statistics.fmean(len(o.completion_ids) for o in answers)
        value, rho = self.tracker.visit(
            s, s.completion_logprobs, score=(reward + 1) / 2, length=length, drift=drift
        )
        return reward - (2 * value - 1), rho

    def _batch_normalised(self, raw: Sequence[float]) -> list[float]:
        """(A - mean_B) / (std_B + eps); zeros when all are equal."""
        if len(set(raw)) < 2:
            return [0.0] * len(raw)
        mean, std = statistics.fmean(raw), standard_deviation(raw, self.cfg.scale_std)
        return [(a - mean) / (std + self.cfg.std_eps) for a in raw]

    def _credits_of(self, g: int, group: Group, a_up: float, a_down: Sequence[float]) -> list[Credit]:
        """Two denominators as numbers: w_up / |s| on the segment, w_down / sum|o| on every answer; the prompt counts once."""
        s, answers = group.rollouts[0], judged(group.children[0])
        longest, masked = self.sampling.max_completion_length, self.cfg.mask_truncated_completions
        counts = weights_and_shares(answers, "group_token", longest, masked)
        upstream = Credit(
            rollout=s,
            advantages=[a_up] * len(s.completion_ids),
            weight=self.cfg.upstream_weight / len(s.completion_ids),
            share=1.0,
            group=g,
        )
        downstream = [
            Credit(
                rollout=o,
                advantages=[a] * len(o.completion_ids),
                weight=self.cfg.downstream_weight * weight,
                share=0.0,
                surrogate="cispo",
                group=g,
            )
            for o, a, (weight, _) in zip(answers, a_down, counts, strict=True)
        ]
        return [upstream, *downstream]

    # -- what to minimise --------------------------------------------------------------------------------------------

    def loss(self, batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        eps = self.cfg.epsilon
        upstream = Shape(low=eps, high=eps)
        downstream = Shape(low=eps, high=self.cfg.clip_high)
        loss, metrics = objective(batch, out, self.cfg, {"ppo": upstream, "cispo": downstream})
        is_up_BT = batch.mask_BT & (batch.surrogate_BT == SURROGATES.index("ppo"))
        return loss, {**metrics, "skpo/upstream_entropy": masked_tally(out.entropy_BT, is_up_BT)}

    # -- what must survive -------------------------------------------------------------------------------------------

    def _note(
        self, groups: Sequence[Group], usable: Sequence[int], rewards: Sequence[float], rhos: Sequence[float]
    ) -> None:
        segments = [len(g.rollouts[0].completion_ids) for g in groups]
        self._numbers = {
            "skpo/segment_length": statistics.fmean(segments) if segments else 0.0,
            "skpo/upstream_reward": statistics.fmean(rewards) if rewards else 0.0,
        }
        tracked = self.tracker.metrics([groups[g].prompt.id for g in usable], rhos)
        self._numbers |= {f"skpo/{name}": number for name, number in tracked.items()}

    def metrics(self) -> dict[str, float]:
        return self._numbers

    def state_dict(self) -> State:
        return {"steps": self.steps, "tracker": self.tracker.state_dict()}

    def load_state_dict(self, state: State) -> None:
        self.steps = int(state["steps"])
        self.tracker.load_state_dict(state["tracker"])
