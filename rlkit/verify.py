"""Groups without verdicts -> groups with verdicts: decode the leaves, score them together, count what went wrong."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from rlkit.errors import RolloutError
from rlkit.types import Group, Prompt, Rollout, Score

Decode = Callable[[list[int]], str]
TOKEN_IDS = "completion_ids"
"""The column of a verifier's row that holds the token ids of the answer, when a run has sampled it."""


class Scorer(Protocol):
    """Judges many answers at once and returns the verdicts in order (rlkit.rewards.VerifierPool)."""

    def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]: ...


class Judge:
    """Scores every rollout of every group without children.

    max_error_share: raise RolloutError when a larger share of the verdicts of one call are errors
    speed: what the scorer measures of itself, since it was last asked

    Also raises RolloutError when not one of them is a score: a mean of nothing would read as 0. Groups that a step judged
    earlier, `before`, count with the call: its last round may be a single prompt.
    """

    def __init__(
        self,
        scorer: Scorer,
        decode: Decode,
        max_error_share: float,
        speed: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self.scorer, self.decode, self.max_error_share = scorer, decode, max_error_share
        self.metrics = speed

    def __call__(self, groups: Sequence[Group], before: Sequence[Group] = ()) -> list[Group]:
        groups = [_decoded(g, self.decode) for g in groups]
        items = [(_with_ids(prompt, r), r.text or "") for g in groups for prompt, r in _answers(g)]
        scores = self.scorer.score(items)
        known = [(p, r.text or "", r.score) for g in before for p, r in _answers(g) if r.score]
        self._check([*items, *((p, text) for p, text, _ in known)], [*scores, *(s for *_, s in known)])
        verdicts = iter(scores)
        return [_with_scores(g, lambda: next(verdicts)) for g in groups]

    def _check(self, items: Sequence[tuple[Prompt, str]], scores: Sequence[Score]) -> None:
        errors = [i for i, s in enumerate(scores) if s.error]
        if len(errors) > self.max_error_share * len(scores):
            prompt, text = items[errors[0]]
            raise RolloutError(
                f"{len(errors)} of {len(scores)} verdicts are errors, more than --reward.max-error-share {self.max_error_share}. "
                f"The first: prompt {prompt.id}, answer {text[-80:]!r}: {scores[errors[0]].reason}"
            )
        if scores and all(s.outcome != "score" for s in scores):
            prompt, text = items[0]
            raise RolloutError(
                f"none of {len(scores)} answers could be judged. The first: prompt {prompt.id}, answer {text[-80:]!r}: "
                f"{scores[0].reason or 'no reason given'}. Check --reward and --data.answer-column"
            )


def leaves_of(group: Group) -> list[Group]:
    """The groups whose rollouts are answers: those without children."""
    return [leaf for child in group.children for leaf in leaves_of(child)] if group.children else [group]


def _answers(group: Group) -> list[tuple[Prompt, Rollout]]:
    return [(leaf.prompt, r) for leaf in leaves_of(group) for r in leaf.rollouts]


def _with_ids(prompt: Prompt, rollout: Rollout) -> Prompt:
    """The prompt as a verifier gets it: beside the data's columns, the answer's token ids, which rewards of length read."""
    return replace(prompt, row={**prompt.row, TOKEN_IDS: rollout.completion_ids})


def _decoded(group: Group, decode: Decode) -> Group:
    rollouts = [replace(r, text=decode(r.completion_ids)) for r in group.rollouts]
    return replace(group, rollouts=rollouts, children=[_decoded(c, decode) for c in group.children])


def _with_scores(group: Group, verdict: Callable[[], Score]) -> Group:
    """Verdicts are handed out in the order of `leaves_of`."""
    if group.children:
        return replace(group, children=[_with_scores(c, verdict) for c in group.children])
    rollouts: list[Rollout] = [replace(r, score=verdict()) for r in group.rollouts]
    return replace(group, rollouts=rollouts)
