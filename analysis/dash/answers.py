"""Rollouts of a run's steps: filtered, and as the trees that they were sampled as."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from . import tables
from .run import Run

COLUMNS = (
    *("prompt_id", "role", "prompt_tokens", "token_ids", "advantages", "text", "outcome", "score", "reason"),
    *("parts", "finish_reason", "policy_version"),
)
MOST_FILES = 40
"""Steps that one search reads, newest first: it must answer while a person waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One row of a step's rollouts."""

    step: int
    row: int
    prompt_id: str
    role: str
    text: str
    tokens: int
    score: float | None
    outcome: str
    reason: str
    finish_reason: str
    advantage: float | None
    """Mean over its tokens; None: it was not trained."""
    parts: dict[str, float]
    policy_version: int
    prompt_ids: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Answers to one prompt; of SKPO, behind the segment that they continue."""

    prompt_id: str
    segment: Answer | None
    answers: list[Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What to look for. None and "": anything.

    >>> Filter(low=0.5).keeps(EXAMPLE), Filter(reason="number").keeps(EXAMPLE), Filter(outcome="error").keeps(EXAMPLE)
    (True, True, False)
    """

    low: float | None = None
    high: float | None = None
    """Reward from, to."""
    shortest: int | None = None
    longest: int | None = None
    """Tokens from, to."""
    outcome: str = ""
    """score, skip, error, or cut (stopped at the length limit)."""
    reason: str = ""
    """In the verifier's reason or in the answer, in any case."""

    def keeps(self, a: Answer) -> bool:
        if self.outcome == "cut" and a.finish_reason != "length":
            return False
        if self.outcome not in ("", "cut", a.outcome):
            return False
        if (self.low is not None or self.high is not None) and a.score is None:
            return False
        if not _within(a.score, self.low, self.high) or not _within(a.tokens, self.shortest, self.longest):
            return False
        words = self.reason.casefold()
        return not words or words in a.reason.casefold() or words in a.text.casefold()


EXAMPLE = Answer(
    step=1,
    row=0,
    prompt_id="a",
    role="answer",
    text="4",
    tokens=3,
    score=1.0,
    outcome="score",
    reason="read the number 4",
    finish_reason="stop",
    advantage=0.5,
    parts={},
    policy_version=0,
    prompt_ids=[1],
)


@dataclass(slots=True)
class Found:
    """What a search came to."""

    trees: list[tuple[int, Tree]] = field(default_factory=list)
    """With their steps."""
    answers: int = 0
    of: int = 0
    """Answers that were looked at."""
    steps: list[int] = field(default_factory=list)
    """That were read."""
    unread: list[int] = field(default_factory=list)
    """That are damaged."""
    more: bool = False
    """Whether steps or answers were left."""


def search(run: Run, first: int | None, last: int | None, what: Filter, limit: int) -> Found:
    """Trees that hold an answer which `what` keeps, newest step first; of each only those answers."""
    known = [s for s in run.rollout_steps() if _within(s, first, last)]
    found = Found(more=len(known) > MOST_FILES)
    for step in list(reversed(known))[:MOST_FILES]:
        trees = read_trees(run, step)
        (found.steps if trees is not None else found.unread).append(step)
        for tree in trees or ():
            kept = [a for a in tree.answers if what.keeps(a)]
            found.of += len(tree.answers)
            found.answers += len(kept)
            if kept and sum(len(t.answers) for _, t in found.trees) < limit:
                found.trees.append((step, replace(tree, answers=kept)))
            elif kept:
                found.more = True
        if sum(len(t.answers) for _, t in found.trees) >= limit:
            found.more = found.more or step != known[0]
            break
    return found


def read_trees(run: Run, step: int) -> list[Tree] | None:
    """All of a step; None: its file cannot be read."""
    columns = tables.rollouts(run.folder, step, COLUMNS)
    return (
        None
        if not columns
        else list(_trees([_answer(step, i, columns) for i in range(len(columns["text"]))]))
    )


def _trees(answers: list[Answer]) -> Iterator[Tree]:
    """The store writes a group's own rollouts first, then what continues them (analysis/store.py: everyone)."""
    segment: Answer | None = None
    group: list[Answer] = []
    for a in answers:
        new_segment = a.role == "segment"
        if new_segment or (group and a.prompt_id != group[0].prompt_id):
            if group:
                yield Tree(prompt_id=group[0].prompt_id, segment=segment, answers=group)
            segment, group = None, []
        if new_segment:
            segment = a
        else:
            group.append(a)
    if group:
        yield Tree(prompt_id=group[0].prompt_id, segment=segment, answers=group)


def _answer(step: int, row: int, columns: dict[str, list[Any]]) -> Answer:
    c = {name: columns[name][row] for name in COLUMNS}
    ids, start = c["token_ids"] or [], c["prompt_tokens"] or 0
    advantages = c["advantages"]
    return Answer(
        step=step,
        row=row,
        prompt_id=c["prompt_id"] or "",
        role=c["role"] or "answer",
        text=c["text"] or "",
        tokens=len(ids) - start,
        score=c["score"],
        outcome=c["outcome"] or "",
        reason=c["reason"] or "",
        finish_reason=c["finish_reason"] or "",
        advantage=sum(advantages) / len(advantages) if advantages else None,
        parts=dict(c["parts"] or ()),
        policy_version=c["policy_version"] or 0,
        prompt_ids=list(ids[:start]),
    )


def _within(value: float | None, low: float | None, high: float | None) -> bool:
    return value is None or ((low is None or value >= low) and (high is None or value <= high))
