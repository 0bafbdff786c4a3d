"""Two models on the same problems: paired differences, and which problems each solves at all.

Pairs are problems: each model's estimate of one problem, their difference, its mean over problems. That takes out how hard the
problems are, which is most of what two single intervals are wide with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .eval_summary import UNIT, Estimate, Problem, Summary, around, nll_deviations, per_problem
from .intervals import bootstrap_interval, difference_interval, mcnemar


@dataclass(frozen=True, slots=True, kw_only=True)
class SolvedSets:
    """Problems with at least one right answer among n: what training gained and lost at the boundary.

    A problem that a model solves once in n times is a matter of luck; `p` says how easily chance alone gives such a split.
    """

    n: int
    kept: tuple[str, ...]
    gained: tuple[str, ...]
    """Solved by the model and not by the one it is compared with."""
    lost: tuple[str, ...]
    never: tuple[str, ...]
    p: float
    """McNemar's exact test of gained against lost, two-sided."""
    surely_gained: tuple[str, ...]
    """Fisher's exact test on the right answers of both models, at 5 % over all problems together (Holm)."""
    surely_lost: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The model minus the one it is compared with."""

    label: str
    model: str
    against: str
    n: int
    """Answers to each problem that both have."""
    differences: dict[str, Estimate]
    solved: SolvedSets
    left_out: int
    """Problems that only one of them was asked."""


def compare(model: Summary, against: Summary, ks: Sequence[int], seed: int) -> Comparison:
    """Over the problems that both were asked. Raises ValueError unless both have the same number of answers to each."""
    if model.n != against.n:
        raise ValueError(f"{model.n} answers to each problem against {against.n}: expected as many")
    mine = {p.id: p for p in model.problems}
    theirs = {p.id: p for p in against.problems}
    shared = [id_ for id_ in mine if id_ in theirs]
    n, votes = model.n, model.votes and against.votes
    a, b = (per_problem([side[i] for i in shared], n, ks, votes) for side in (mine, theirs))
    differences: dict[str, Estimate] = {}
    for name, values in a.items():
        d = [values[i] - b[name][i] for i in shared if i in values and i in b[name]]
        if d:
            differences[name] = _difference(d, name, seed)
    ours, theirs_too = (nll_deviations([side[i] for i in shared]) for side in (mine, theirs))
    differences["mean_nll"] = around(ours[0] - theirs_too[0], ours[1] - theirs_too[1], seed)
    return Comparison(
        label=model.label,
        model=model.model,
        against=against.model,
        n=n,
        differences=differences,
        solved=solved_sets([mine[i] for i in shared], [theirs[i] for i in shared], n),
        left_out=len(mine) + len(theirs) - 2 * len(shared),
    )


def _difference(d: Sequence[float], name: str, seed: int) -> Estimate:
    low, high = difference_interval(d)
    if name.startswith(UNIT) and max(map(abs, d)) <= 1:
        low, high = max(low, -1.0), min(high, 1.0)
    mean = sum(d) / len(d)
    return Estimate(
        mean=mean,
        low=min(low, mean),
        high=max(high, mean),
        bootstrap=bootstrap_interval(d, seed),
        problems=len(d),
    )


def solved_sets(mine: Sequence[Problem], theirs: Sequence[Problem], n: int) -> SolvedSets:
    """The problems in the same order for both. Only those whose answers could be judged are told apart."""
    pairs = [(a, b) for a, b in zip(mine, theirs, strict=True) if a.judged and b.judged]
    sets: dict[tuple[bool, bool], list[str]] = {
        (s, t): [a.id for a, b in pairs if (a.solved, b.solved) == (s, t)]
        for s in (True, False)
        for t in (True, False)
    }
    gained, lost = sets[True, False], sets[False, True]
    sure = _sure(pairs)
    return SolvedSets(
        n=n,
        kept=tuple(sets[True, True]),
        gained=tuple(gained),
        lost=tuple(lost),
        never=tuple(sets[False, False]),
        p=mcnemar(len(gained), len(lost)),
        surely_gained=tuple(i for i in gained if i in sure),
        surely_lost=tuple(i for i in lost if i in sure),
    )


def _sure(pairs: Sequence[tuple[Problem, Problem]]) -> set[str]:
    """Ids of the problems whose rates differ for sure: Fisher's exact p, stepped down by Holm at 5 %."""
    from scipy.stats import fisher_exact

    ranked = sorted(
        (
            float(fisher_exact([[a.right, a.judged - a.right], [b.right, b.judged - b.right]]).pvalue),
            a.id,
        )
        for a, b in pairs
    )
    found: set[str] = set()
    for rank, (p, id_) in enumerate(ranked):
        if p > 0.05 / (len(ranked) - rank):
            break
        found.add(id_)
    return found


def json_of(comparison: Comparison) -> dict[str, Any]:
    """As summary.json holds it."""
    from dataclasses import asdict

    return asdict(comparison)
