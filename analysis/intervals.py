"""95 % intervals of a mean over problems, and of the difference of two such means.

A benchmark is a sample of problems: answers to one problem depend on each other, problems do not. 30 problems are few, and
their values pile up at 0 and 1, where the plain percentile bootstrap covers the truth as seldom as 80 times in 100
(benchmarks/eval_coverage.py shows each of these beside it). So:

    mean_interval        values in [0, 1]: Wilson's score interval, its variance scaled to what the values show; Wilson's own
                         interval, to the digit, when every value is 0 or 1
    plain_interval       values of any size: as the differences from their mean
    clustered_interval   the mean of answers, so many to each problem: one of these two where all have equally many
    difference_interval  paired differences: Student's t with the skewness taken out (Hall 1992), and one problem's worth of
                         the largest differences added, so that few or no differences still have a width
    bootstrap_interval   BCa over problems, reported beside them
    mcnemar              exact p of gained against lost problems
"""

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Interval = tuple[float, float]
Z95 = 1.959963984540054
"""Quantile 0.975 of the normal distribution."""
ADDED_PROBLEMS = 2.0
"""Right-or-wrong problems that the estimated dispersion of a mean is drawn towards: 30 problems whose values happen to lie
close together know little about how far they can lie apart."""
RESAMPLES = 2000


def mean_interval(values: "ArrayLike") -> Interval:
    """95 % interval of the mean over problems. Values in [0, 1]: inside [0, 1]. Others: `plain_interval`.

    >>> low, high = mean_interval([1.0] * 8 + [0.0] * 2)  # Wilson's interval for 8 of 10
    >>> round(low, 3), round(high, 3)
    (0.49, 0.943)
    """
    x = _checked(values)
    if x.min() < -1e-9 or x.max() > 1 + 1e-9:  # more than rounding
        return plain_interval(x)
    x = x.clip(0.0, 1.0)
    m, mean = len(x), float(x.mean())
    return score_interval(mean, dispersion(x), m)


def clustered_interval(counts: "ArrayLike", totals: "ArrayLike", *, in_unit: bool) -> Interval:
    """95 % interval of sum(totals) / sum(counts): the mean of answers, of which each problem has its own number.

    counts, totals: of each problem, how many answers it has and what they are worth together; in_unit: each is in [0, 1]

    Answers to one problem depend on each other: what it adds to the doubt is (total - mean * count), as one (a ratio of sums;
    arXiv:2411.00640, section 2.2).

    >>> low, high = clustered_interval([3] * 10, [3.0] * 8 + [0.0] * 2, in_unit=True)  # 10 problems, whatever they were asked
    >>> round(low, 3), round(high, 3)
    (0.49, 0.943)
    """
    n_P, total_P = _checked(counts), _checked(totals)
    mean = float(total_P.sum() / n_P.sum())
    x_P = mean + (total_P - mean * n_P) / n_P.mean()  # with equal counts the problems' own means
    if not in_unit:
        return plain_interval(x_P)
    mean = min(max(mean, 0.0), 1.0)
    unevenness = float((n_P**2).mean() / n_P.mean() ** 2)
    return score_interval(mean, dispersion(x_P, unevenness), len(n_P))


def dispersion(x_P: NDArray[np.float64], unevenness: float = 1.0) -> float:
    """Variance over that of right-or-wrong values with the same mean: in (0, 1], and 1 for right-or-wrong values.

    unevenness: what it is for problems that are right or wrong as a whole, when they count unequally; the limit is this then,
    or what the values show.
    """
    m, mean = len(x_P), float(x_P.mean())
    full = mean * (1 - mean)
    if m < 2 or full <= 1e-12:
        return unevenness
    shown = float(x_P.var()) / full
    drawn = (m * shown + ADDED_PROBLEMS * unevenness) / (m - 1 + ADDED_PROBLEMS)
    return min(max(unevenness, shown), drawn)


def score_interval(mean: float, scale: float, num_problems: int) -> Interval:
    """The means mu with (mean - mu)^2 <= z^2 scale mu (1 - mu) / m: Wilson's interval at scale 1."""
    a = Z95 * Z95 * scale / num_problems
    centre = (mean + a / 2) / (1 + a)
    half = math.sqrt(a * mean * (1 - mean) + a * a / 4) / (1 + a)
    return max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half))


def difference_interval(differences: "ArrayLike") -> Interval:
    """95 % interval of the mean of paired differences, one per problem.

    Hall's transformation of Student's t (Annals of Statistics 20, 1992, page 221) with one problem added whose two halves differ by
    plus and minus the size of the large differences; 1 where there are none.

    >>> low, high = difference_interval([0.0] * 30)  # nothing differs among 30 problems
    >>> round(low, 3), round(high, 3)
    (-0.066, 0.066)
    """
    from scipy.special import stdtrit  # scipy.stats has it too, and takes a second to load

    d = _checked(differences)
    m = len(d)
    if m == 1:
        return -math.inf, math.inf
    total = float((d**2).sum())
    added = float((d**4).sum()) / total if total > 0 else 1.0  # the square of a large difference
    mean = float(d.sum()) / (m + 1)
    variance = (total + added) / (m + 1) - mean**2
    error = math.sqrt(variance / (m + 1))
    skewness = float(((d - mean) ** 3).sum()) / (m + 1) / variance**1.5
    quantile = float(stdtrit(m - 1, 0.975))
    return mean - error * _unskewed(quantile, skewness, m + 1), mean - error * _unskewed(
        -quantile, skewness, m + 1
    )


def plain_interval(values: "ArrayLike") -> Interval:
    """95 % interval of the mean of values of any size (lengths, counts): that of their differences from the mean.

    >>> low, high = plain_interval([100.0, 100.0, 130.0, 110.0])
    >>> round(low), round(high)
    (94, 138)
    """
    x = _checked(values)
    low, high = difference_interval(x - x.mean())
    return float(x.mean()) + min(low, 0.0), float(x.mean()) + max(high, 0.0)


def _unskewed(quantile: float, skewness: float, m: int) -> float:
    """The studentised mean whose transform, which has next to no skewness, is the quantile."""
    g = skewness / math.sqrt(m)
    if abs(g) < 1e-6:
        return quantile
    return 3 / g * (math.cbrt(1 + g * (quantile - g / 6)) - 1)


def bootstrap_interval(values: "ArrayLike", seed: int) -> Interval:
    """BCa over problems, `RESAMPLES` of them; the mean itself where all values are equal."""
    from scipy.stats import bootstrap

    x = _checked(values)
    if np.ptp(x) < 1e-12:
        return float(x.mean()), float(x.mean())
    with np.errstate(all="ignore"):
        found = bootstrap((x,), np.mean, n_resamples=RESAMPLES, batch=200, rng=seed).confidence_interval
    low, high = float(found.low), float(found.high)
    return (low, high) if math.isfinite(low + high) else (float(x.min()), float(x.max()))


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p: how often a fair coin splits the problems that changed at least as unevenly. 1 when none did.

    >>> mcnemar(5, 0), mcnemar(0, 0)
    (0.0625, 1.0)
    """
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _checked(values: "ArrayLike") -> NDArray[np.float64]:
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or not len(x) or not np.isfinite(x).all():
        raise ValueError(f"an interval of {x.shape} values: expected at least one finite number in one row")
    return x
