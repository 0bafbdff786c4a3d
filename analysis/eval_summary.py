"""Stored answers -> what an evaluation came to: every mean over problems with its 95 % interval, nothing unjudged in it.

An answer that could not be judged (skip, error) is left out and counted. A problem with fewer judged answers than k has no
pass@k and no maj@k; `problems` of each estimate says over how many the mean is. Answers of one model only; two models are
compared in `eval_compare`.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .eval_store import Answer
from .intervals import bootstrap_interval, difference_interval, mean_interval, plain_interval
from .passk import maj_at_k, pass_at_k

Values = dict[str, float]
"""One number for each problem that has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over problems, its 95 % interval (analysis/intervals.py) and the BCa bootstrap's."""

    mean: float
    low: float
    high: float
    bootstrap: tuple[float, float]
    problems: int

    def __str__(self) -> str:
        digits = 3 if max(abs(self.low), abs(self.high)) < 10 else 1
        return f"{self.mean:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def estimate(values: Mapping[str, float], seed: int, *, in_unit: bool = True) -> Estimate | None:
    """The mean over problems; None without any. in_unit: values are shares or chances, in [0, 1]."""
    if not values:
        return None
    x = np.array(list(values.values()))
    low, high = (mean_interval if in_unit else plain_interval)(x)
    return Estimate(
        mean=float(x.mean()), low=low, high=high, bootstrap=bootstrap_interval(x, seed), problems=len(x)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What the answers to one problem came to."""

    id: str
    judged: int
    right: int
    total_score: float
    silent: int
    """Judged answers without a final answer."""
    votes: tuple[tuple[str, int, int], ...]
    """Final answers, how often each was given, and how often it was judged right then; the most frequent first."""
    lengths: tuple[int, ...]
    truncated: int
    nll: float
    skips: int
    errors: int

    @property
    def solved(self) -> bool:
        return self.right > 0

    @property
    def answers(self) -> int:
        return len(self.lengths)


def problem_of(id_: str, answers: Sequence[Answer], right_from: float) -> Problem:
    judged = [a for a in answers if a.score is not None]
    votes = Counter(a.answer for a in judged if a.answer is not None)
    right = Counter(a.answer for a in judged if a.answer is not None and a.right(right_from))
    return Problem(
        id=id_,
        judged=len(judged),
        right=sum(a.right(right_from) for a in judged),
        total_score=sum(a.score for a in judged if a.score is not None),
        silent=sum(a.answer is None for a in judged),
        votes=tuple((text, count, right[text]) for text, count in votes.most_common()),
        lengths=tuple(a.num_tokens for a in answers),
        truncated=sum(a.finish_reason == "length" for a in answers),
        nll=sum(a.nll for a in answers),
        skips=sum(a.outcome == "skip" for a in answers),
        errors=sum(a.outcome == "error" for a in answers),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Everything about one model on one set of problems."""

    label: str
    """The set, `math500[300/500]` when it is not whole."""
    model: str
    n: int
    """Answers asked for to each problem."""
    votes: bool
    """Whether the verifier reads final answers, so that a vote means something."""
    estimates: dict[str, Estimate]
    """By name: pass@k, avg@n, maj@k, length, distinct_answers, truncated, mean_nll."""
    problems: tuple[Problem, ...]
    skips: int
    errors: int
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def unjudged(self) -> int:
        return self.skips + self.errors


def per_problem(problems: Sequence[Problem], n: int, ks: Sequence[int], votes: bool) -> dict[str, Values]:
    """The values whose means are reported, by name; each for the problems that have one."""
    found: dict[str, Values] = {f"pass@{k}": _passes(problems, k) for k in ks}
    found[f"avg@{n}"] = {p.id: p.total_score / p.judged for p in problems if p.judged}
    for k in ks if votes else ():
        if k > 1:  # one answer is its own majority
            found[f"maj@{k}"] = {p.id: majority(p, k) for p in problems if p.judged >= k}
    found["truncated"] = {p.id: p.truncated / p.answers for p in problems}
    found["length"] = {p.id: sum(p.lengths) / p.answers for p in problems}
    if votes:
        found["distinct_answers"] = {p.id: float(len(p.votes)) for p in problems if p.judged}
    return found


UNIT = ("pass@", "avg@", "maj@", "truncated")
"""Names of values in [0, 1], as long as scores are."""


def _passes(problems: Sequence[Problem], k: int) -> Values:
    enough = [p for p in problems if p.judged >= k]
    if not enough:
        return {}
    passes = pass_at_k([p.judged for p in enough], [p.right for p in enough], k)
    return {p.id: float(value) for p, value in zip(enough, passes, strict=True)}


def majority(problem: Problem, k: int) -> float:
    """maj@k of a problem. An answer is worth the share of those who gave it that were judged right."""
    counts = [count for _, count, _ in problem.votes]
    return maj_at_k(problem.silent, counts, [right / count for _, count, right in problem.votes], k)


def summarise(
    answers: Mapping[str, Sequence[Answer]],
    *,
    label: str,
    model: str,
    n: int,
    ks: Sequence[int],
    votes: bool,
    right_from: float,
    seed: int,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> Summary:
    """right_from: the score from which an answer is right;  progress: told what is being worked out"""
    progress("verdicts")
    problems = tuple(problem_of(id_, a, right_from) for id_, a in answers.items())
    progress("estimates")
    estimates: dict[str, Estimate] = {}
    for name, values in per_problem(problems, n, ks, votes).items():
        found = estimate(values, seed, in_unit=name.startswith(UNIT))
        if found is not None:
            estimates[name] = found
    estimates["mean_nll"] = mean_nll(problems, seed)
    return Summary(
        label=label,
        model=model,
        n=n,
        votes=votes,
        estimates=estimates,
        problems=problems,
        skips=sum(p.skips for p in problems),
        errors=sum(p.errors for p in problems),
        settings=dict(settings or {}),
    )


def mean_nll(problems: Sequence[Problem], seed: int) -> Estimate:
    """Nats per token over all tokens of all answers, which estimates the policy's entropy. A ratio of sums over problems."""
    ratio, deviations = nll_deviations(problems)
    return around(ratio, deviations, seed, least=0.0)


def nll_deviations(problems: Sequence[Problem]) -> tuple[float, NDArray[np.float64]]:
    """The ratio, and what each problem adds to its error: a ratio's error is the mean of these to first order. [P]"""
    tokens: NDArray[np.float64] = np.array([sum(p.lengths) for p in problems], np.float64)
    nll = np.array([p.nll for p in problems])
    ratio = float(nll.sum() / tokens.sum())
    return ratio, (nll - ratio * tokens) / tokens.mean()


def around(mean: float, deviations: NDArray[np.float64], seed: int, least: float = -math.inf) -> Estimate:
    """An estimate whose errors are the deviations' mean."""
    low, high = difference_interval(deviations)
    boot = bootstrap_interval(deviations, seed)
    return Estimate(
        mean=mean,
        low=max(least, mean + min(low, 0.0)),
        high=mean + max(high, 0.0),
        bootstrap=(mean + boot[0], mean + boot[1]),
        problems=len(deviations),
    )


def json_of(summary: Summary) -> dict[str, Any]:
    """As summary.json holds it."""
    from dataclasses import asdict

    out = asdict(summary)
    out["problems"] = [
        {
            "id": p.id,
            "judged": p.judged,
            "right": p.right,
            "distinct_answers": len(p.votes),
            "mean_length": sum(p.lengths) / p.answers,
            "truncated": p.truncated,
            "skips": p.skips,
            "errors": p.errors,
        }
        for p in summary.problems
    ]
    out["settings"] = {k: v for k, v in summary.settings.items() if k != "problem_ids"}
    return out
