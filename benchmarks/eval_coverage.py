"""How often do the 95 % intervals of `rlkit eval` hold the truth? Simulated benchmarks whose truth is known.

A problem is a chance p of a right answer, drawn from a beta distribution; a wrong answer is one of three, with chances 0.5, 0.3
and 0.2. A benchmark is 30, 100 or 500 problems, answered n times each. Its estimates and intervals are those of rlkit's own
functions. The truth is the mean over ALL problems: pass@k and maj@k of a problem are polynomials in p (of maj@k every vote is
enumerated), and their means over a beta distribution are sums of beta-binomial chances. For pairs of models the population is
30,000 kinds of problems, and the truth is the mean over them.

Beside rlkit's intervals: the percentile bootstrap, BCa and Student's t, on the same benchmarks.

    python benchmarks/eval_coverage.py                       a table; about two minutes
    python benchmarks/eval_coverage.py --benchmarks 200      quicker, coarser
    python benchmarks/eval_coverage.py --json > coverage.json
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np
import tyro
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import beta, betabinom, binom, multinomial, norm, t

from rlkit.analysis.intervals import difference_interval, mean_interval
from rlkit.analysis.passk import maj_at_k, pass_at_k

Floats = NDArray[np.float64]

DIFFICULTIES = {"hard": (0.3, 3.0), "middling": (0.3, 0.6), "even": (1.0, 3.0)}
"""Beta distributions of p: means 0.09, 0.33, 0.25. The first two have problems nobody solves, as real benchmarks."""
WRONG = (0.5, 0.3, 0.2)
ASKED: dict[int, tuple[str, ...]] = {
    32: ("avg@32", "pass@4", "pass@16", "pass@32", "maj@8", "maj@32"),
    256: ("avg@256", "pass@16", "pass@64", "pass@256"),
}
"""By n: the metrics."""
BETTER, LUCK = 0.7, 0.7
"""The second model of a pair: so many nats of log-odds better, give or take a normal of this width per problem."""
ENOUGH = 3.0
"""Problems expected on either side (right and wrong, gained and lost together); below it a row is shown and not counted."""
RESAMPLES = 500


@dataclass(frozen=True)
class Args:
    benchmarks: int = 1000
    """Simulated benchmarks of each row."""
    sizes: tuple[int, ...] = (30, 100, 500)
    """Problems of a benchmark."""
    seed: int = 0
    """Of everything."""
    json: bool = False
    """Print JSON instead of the table."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric of one kind of benchmark."""

    difficulty: str
    problems: int
    n: int
    metric: str
    paired: bool
    truth: float
    width: float
    """Mean width of rlkit's intervals."""
    rlkit: float
    """Coverage: share of the benchmarks whose interval holds the truth."""
    bca: float
    percentile: float
    student: float
    counted: bool


# -- problems --------------------------------------------------------------------------------------------------------------


@cache
def maj_given_right(k: int) -> tuple[float, ...]:
    """maj@k of a problem, given that r of the k answers are right, r = 0 .. k: every split of the others, ties averaged."""
    means = []
    for r in range(k + 1):
        total = 0.0
        for i in range(k - r + 1):
            for j in range(k - r - i + 1):
                split = (i, j, k - r - i - j)
                most = max(r, *split)
                if r == most > 0:
                    tied = 1 + sum(c == most for c in split)
                    total += float(multinomial.pmf(split, k - r, WRONG)) / tied
        means.append(total)
    return tuple(means)


def value_of(metric: str, p: Floats) -> Floats:
    """The true value of problems with these chances."""
    kind, _, k = metric.partition("@")
    if kind == "avg":
        return p
    if kind == "pass":
        return np.asarray(1 - (1 - p) ** int(k))
    chances = binom.pmf(np.arange(int(k) + 1), int(k), p[..., None])
    return np.asarray(chances @ np.array(maj_given_right(int(k))))


def truth_of(metric: str, a: float, b: float) -> float:
    """Its mean over p of Beta(a, b)."""
    kind, _, k = metric.partition("@")
    if kind == "avg":
        return a / (a + b)
    chances = betabinom.pmf(np.arange(int(k) + 1), int(k), a, b)
    return float(1 - chances[0] if kind == "pass" else chances @ np.array(maj_given_right(int(k))))


@cache
def _maj(counts: tuple[int, ...], k: int) -> float:
    return maj_at_k(0, counts, [1.0, 0.0, 0.0, 0.0], k)


def estimates(metric: str, n: int, counts_SP4: NDArray[np.int64]) -> Floats:
    """rlkit's estimate of every problem from its n answers: right ones first, then the three wrong ones. [S, P]"""
    kind, _, k = metric.partition("@")
    right_SP = counts_SP4[..., 0]
    if kind == "avg":
        return np.asarray(right_SP / n)
    if kind == "pass":
        table = pass_at_k(n, np.arange(n + 1), int(k))
        return np.asarray(table[right_SP])
    distinct, where = np.unique(counts_SP4.reshape(-1, 4), axis=0, return_inverse=True)
    # the order of the wrong ones means nothing
    table = np.array([_maj((int(c[0]), *sorted(map(int, c[1:]))), int(k)) for c in distinct])
    return np.asarray(table[where.reshape(right_SP.shape)])


def answers(rng: np.random.Generator, p_SP: Floats, n: int) -> NDArray[np.int64]:
    chances = np.stack([p_SP, *((1 - p_SP) * w for w in WRONG)], axis=-1)
    return rng.multinomial(n, chances / chances.sum(-1, keepdims=True))


# -- intervals -------------------------------------------------------------------------------------------------------------


def share_held(intervals: tuple[Floats, Floats], truth: float) -> float:
    low, high = intervals
    return float(((low <= truth + 1e-12) & (truth - 1e-12 <= high)).mean())


def bootstraps(rng: np.random.Generator, x_SP: Floats) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """The percentile interval and BCa of every row's mean."""
    s, m = x_SP.shape
    weights_BP = rng.multinomial(m, np.full(m, 1 / m), size=RESAMPLES) / m
    means_SB = np.sort(x_SP @ weights_BP.T, axis=1)
    mean_S1 = x_SP.mean(1, keepdims=True)
    deviations = x_SP - mean_S1
    square = (deviations**2).sum(1)
    acceleration = (deviations**3).sum(1) / np.maximum(6 * square**1.5, 1e-300)
    below = (means_SB < mean_S1 - 1e-12).sum(1) + (np.abs(means_SB - mean_S1) <= 1e-12).sum(1) / 2
    bias = norm.ppf(np.clip(below / RESAMPLES, 0.5 / RESAMPLES, 1 - 0.5 / RESAMPLES))

    def at(quantile: Floats) -> Floats:
        index = np.clip(np.round(quantile * (RESAMPLES - 1)).astype(int), 0, RESAMPLES - 1)
        return np.asarray(means_SB[np.arange(s), index])

    ends = []
    for z in (norm.ppf(0.025), norm.ppf(0.975)):
        shifted = bias + z
        ends.append(at(norm.cdf(bias + shifted / (1 - acceleration * shifted))))
    plain = at(np.full(s, 0.025)), at(np.full(s, 0.975))
    return plain, (ends[0], ends[1])


def student(x_SP: Floats) -> tuple[Floats, Floats]:
    m = x_SP.shape[1]
    half = t.ppf(0.975, m - 1) * x_SP.std(1, ddof=1) / math.sqrt(m)
    return x_SP.mean(1) - half, x_SP.mean(1) + half


def rlkits(interval: Callable[[Floats], tuple[float, float]], x_SP: Floats) -> tuple[Floats, Floats]:
    found = np.array([interval(x_P) for x_P in x_SP])
    return found[:, 0], found[:, 1]


# -- the table -------------------------------------------------------------------------------------------------------------


def rows(args: Args) -> Iterator[Row]:
    rng = np.random.default_rng(args.seed)
    for name, (a, b) in DIFFICULTIES.items():
        for size in args.sizes:
            for n in ASKED:
                yield from _singles(args, rng, name, a, b, size, n)
                yield from _pairs(args, rng, name, a, b, size, n)


def _singles(
    args: Args, rng: np.random.Generator, name: str, a: float, b: float, size: int, n: int
) -> Iterator[Row]:
    counts = answers(rng, rng.beta(a, b, (args.benchmarks, size)), n)
    for metric in ASKED[n]:
        x_SP, truth = estimates(metric, n, counts), truth_of(metric, a, b)
        ours = rlkits(mean_interval, x_SP)
        expected = size * min(truth, 1 - truth)
        yield _row(rng, name, size, n, metric, False, truth, ours, x_SP, expected)


def _pairs(
    args: Args, rng: np.random.Generator, name: str, a: float, b: float, size: int, n: int
) -> Iterator[Row]:
    quantiles = (np.arange(2000) + 0.5) / 2000
    first_G = beta.ppf(quantiles, a, b).clip(1e-12, 1 - 1e-12)
    nodes, weights = np.polynomial.hermite_e.hermegauss(15)
    weights /= weights.sum()
    second_GH = expit(logit(first_G)[:, None] + BETTER + LUCK * nodes)
    g = rng.integers(0, 2000, (args.benchmarks, size))
    h = rng.choice(15, p=weights, size=(args.benchmarks, size))
    one, two = answers(rng, first_G[g], n), answers(rng, second_GH[g, h], n)
    for metric in ASKED[n]:
        truth = float((value_of(metric, second_GH) @ weights).mean() - value_of(metric, first_G).mean())
        d_SP = estimates(metric, n, two) - estimates(metric, n, one)
        ours = rlkits(difference_interval, d_SP)
        # as many as differ, where all differences are as large; a third of the problems for normal ones
        expected = size * float((d_SP**2).mean()) ** 2 / float((d_SP**4).mean())
        yield _row(rng, name, size, n, metric, True, truth, ours, d_SP, expected)


def _row(
    rng: np.random.Generator,
    name: str,
    size: int,
    n: int,
    metric: str,
    paired: bool,
    truth: float,
    ours: tuple[Floats, Floats],
    x_SP: Floats,
    expected: float,
) -> Row:
    plain, bca = bootstraps(rng, x_SP)
    return Row(
        difficulty=name,
        problems=size,
        n=n,
        metric=metric,
        paired=paired,
        truth=truth,
        width=float((ours[1] - ours[0]).mean()),
        rlkit=share_held(ours, truth),
        bca=share_held(bca, truth),
        percentile=share_held(plain, truth),
        student=share_held(student(x_SP), truth),
        counted=expected >= ENOUGH,
    )


def show(found: list[Row], args: Args) -> None:
    print(f"coverage of 95 % intervals, percent of {args.benchmarks:,} simulated benchmarks\n")
    head = f"{'':10}{'problems':>8}{'n':>5}  {'metric':<10}{'truth':>8}{'width':>8}{'rlkit':>8}{'BCa':>8}{'percentile':>12}{'Student':>9}"
    for paired in (False, True):
        print("difference of two models, paired" if paired else "one model")
        print(head)
        for r in (r for r in found if r.paired == paired):
            mark = " " if r.counted else "*"
            print(
                f"{r.difficulty:10}{r.problems:>8}{r.n:>5}  {r.metric:<10}{r.truth:>8.3f}{r.width:>8.3f}"
                f"{100 * r.rlkit:>7.1f}{mark}{100 * r.bca:>7.1f}{100 * r.percentile:>11.1f}{100 * r.student:>9.1f}"
            )
        print()
    print(
        f"* not counted: of a benchmark's problems fewer than {ENOUGH:g} can be expected to be right, or to be wrong, or to differ between "
        "the models; what is not seen has no interval that can be trusted"
    )
    counted = [r for r in found if r.counted]
    for name in ("rlkit", "bca", "percentile", "student"):
        values = [getattr(r, name) for r in counted]
        inside = sum(0.93 <= v <= 0.97 for v in values)
        print(
            f"{name:<11} {inside} of {len(values)} rows in 93 .. 97 %, from {100 * min(values):.1f} to {100 * max(values):.1f}, "
            f"mean {100 * sum(values) / len(values):.2f}"
        )


def main(args: Args) -> None:
    found = list(rows(args))
    if args.json:
        print(json.dumps([asdict(row) for row in found], indent=1))
    else:
        show(found, args)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
