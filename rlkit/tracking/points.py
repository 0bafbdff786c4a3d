"""Decision points of the prompts looked at: where their answers part, and what each candidate is worth there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlkit.algos.ops import seed_of
from rlkit.analysis import mass
from rlkit.learner.look import Look
from rlkit.types import Group, Request, Rollout, Sample, Segment
from rlkit.verify import leaves_of

Place = tuple[int, int]
"""A decision: the index of the first rollout that passes through it, and the position in its completion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One decision and the worth of its candidates.

    >>> d = mass.decisions([[5], [6]], [1.0, 0.0], [[1.0], [-1.0]])[0]
    >>> Point(prompt_id="a", row=0, decision=d, values={5: 1.0, 6: 0.0, 9: 0.5}, source="sampled").pulls()
    [1.0, -1.0, 0.0]
    """

    prompt_id: str
    row: int
    """Index of the first rollout that passes through, among those looked at."""
    decision: mass.Decision
    values: Mapping[int, float]
    """Candidate -> mean reward of answers that go on with it."""
    source: str
    """`group`: of the group's own answers; `sampled`: of continuations drawn for it (--track.values)."""

    @property
    def place(self) -> Place:
        return self.row, self.decision.position

    def pulls(self) -> list[float]:
        """Sum of the advantages at each candidate; 0 where no answer of the group took it."""
        known = dict(zip(self.decision.tokens, self.decision.pulls, strict=True))
        return [known.get(token, 0.0) for token in self.values]

    def counts(self) -> list[int]:
        known = dict(zip(self.decision.tokens, self.decision.counts, strict=True))
        return [known.get(token, 0) for token in self.values]


def find_points(
    prompts: Sequence[Group],
    rollouts: Sequence[Rollout],
    advantages: Mapping[int, Sequence[float]],
    drawn: Mapping[Place, Mapping[int, float]],
) -> list[Point]:
    """The decisions of every group of answers. `advantages` by id of a rollout; `drawn`: values that were sampled."""
    rows = {id(r): row for row, r in enumerate(rollouts)}
    out: list[Point] = []
    for leaf in (leaf for group in prompts for leaf in leaves_of(group)):
        judged = [(r, r.value) for r in leaf.rollouts if r.value is not None]
        found = mass.decisions(
            [r.completion_ids for r, _ in judged],
            [value for _, value in judged],
            [advantages.get(id(r), [0.0] * len(r.completion_ids)) for r, _ in judged],
        )
        for decision in found:
            row = rows[id(judged[decision.members[0]][0])]
            sampled = drawn.get((row, decision.position))
            own = dict(zip(decision.tokens, decision.values, strict=True))
            out.append(
                Point(
                    prompt_id=leaf.prompt.id,
                    row=row,
                    decision=decision,
                    values=own if sampled is None else sampled,
                    source="group" if sampled is None else "sampled",
                )
            )
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Valuer:
    """Draws continuations of a prefix and one more token, and judges them: Monte-Carlo values, as VinePPO's (arXiv:2410.01679)."""

    sample: Sample
    judge: Callable[[Sequence[Group]], list[Group]]
    continuations: int
    """For each candidate."""
    temperature: float
    max_completion_length: int
    stop_ids: frozenset[int]

    def values(
        self,
        points: Sequence[Point],
        prompts: Sequence[Group],
        rollouts: Sequence[Rollout],
        looks: Sequence[Look],
        seed: int,
    ) -> dict[Place, dict[int, float]]:
        """For each decision the worth of the tokens seen there and of the likeliest ones."""
        owners = {leaf.prompt.id: leaf.prompt for group in prompts for leaf in leaves_of(group)}
        wanted: list[tuple[Place, int, Rollout]] = []
        requests: list[Request] = []
        groups: list[Group] = []
        for point in points:
            rollout, position = rollouts[point.row], point.decision.position
            top = looks[point.row].top_ids_TK[position].tolist()
            for token in dict.fromkeys([*point.decision.tokens, *top]):
                start = rollout.prompt_tokens
                stem = [*rollout.token_ids[: start + position], token]
                room = self.max_completion_length - position - 1
                ended = token in self.stop_ids or room < 1
                wanted.append((point.place, token, rollout))
                request = Request(
                    prompt_id=rollout.prompt_id,
                    token_ids=stem,
                    n=1 if ended else self.continuations,
                    max_tokens=max(1, room),
                    temperature=self.temperature,
                    seed=seed_of(seed, "value", point.prompt_id, *point.place, token),
                )
                requests.append(request)
                stems = [_answer(stem, [], start, rollout)] if ended else []
                groups.append(Group(prompt=owners[point.prompt_id], rollouts=stems))
        going = [i for i, group in enumerate(groups) if not group.rollouts]
        for i, drawn in zip(going, self.sample([requests[i] for i in going]), strict=True):
            _, _, rollout = wanted[i]
            start, stem = rollout.prompt_tokens, requests[i].token_ids
            answers = [_answer(stem, r.completion_ids, start, r) for r in drawn]
            groups[i] = Group(prompt=groups[i].prompt, rollouts=answers)
        out: dict[Place, dict[int, float]] = {}
        for (place, token, _), group in zip(wanted, self.judge(groups), strict=True):
            known = [r.value for r in group.rollouts if r.value is not None]
            if known:
                out.setdefault(place, {})[token] = float(np.mean(known))
        return out


def _answer(stem: Sequence[int], more: Sequence[int], start: int, like: Rollout) -> Rollout:
    """The whole answer that a continuation completes, as a verifier reads it; nothing is learnt from it."""
    ids = [*stem, *more]
    return Rollout(
        prompt_id=like.prompt_id,
        token_ids=ids,
        logprobs=[0.0] * len(ids),
        segments=[
            Segment(kind="prompt", start=0, end=start),
            Segment(kind="completion", start=start, end=len(ids)),
        ],
        policy_version=like.policy_version,
        finish_reason=like.finish_reason,
    )
