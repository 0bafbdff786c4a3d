"""pass@k, avg@k and maj@k of a problem from n answers to it: exact expectations over all subsets of k, never a re-draw.

Drawing k of the n answers at random and looking at them is an unbiased estimate of drawing k new ones; the mean over all
C(n, k) subsets is the same estimate without the luck of the draw (arXiv:2107.03374 for pass@k). All functions take one
problem's counts, or arrays of them, and are tested against the enumeration of every subset.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def pass_at_k(num_answers: ArrayLike, num_right: ArrayLike, k: int) -> Floats:
    """Chance that at least one of k answers is right, when c of n were. Shaped like its arguments, in [0, 1].

    1 - C(n-c, k) / C(n, k) as 1 - prod_{j=n-c+1..n} (1 - k/j), which never forms a large number; 1 where n - c < k.
    Raises ValueError when there are fewer than k answers.

    >>> pass_at_k(4, 1, 2), pass_at_k([10, 10], [0, 3], 5).round(4)  # one of 4 right: in 3 of the 6 pairs
    (array(0.5), array([0.    , 0.9167]))
    """
    n, c = np.broadcast_arrays(np.asarray(num_answers, np.int64), np.asarray(num_right, np.int64))
    if k < 1 or np.any(n < k) or np.any(c < 0) or np.any(c > n):
        raise ValueError(
            f"pass@{k} of {n.tolist()} answers, {c.tolist()} right: expected 0 <= right <= answers >= k >= 1"
        )
    none_right = np.ones(n.shape)
    for j in range(1, int(c.max(initial=0)) + 1):  # factor j is that of n - c + j
        last = np.maximum(n - c + j, 1)
        none_right = np.where(j <= c, none_right * np.maximum(1 - k / last, 0.0), none_right)
    return np.asarray(1 - none_right)


def maj_at_k(num_silent: int, counts: Sequence[int], values: Sequence[float], k: int) -> float:
    """Mean value of the most frequent of k answers: right is 1 and wrong 0, so the chance that the vote is right.

    num_silent: of the n answers, those without a final answer; they are drawn and do not vote
    counts, values: of each distinct final answer, how often it was given and what it is worth

    A tie counts as the mean over the tied answers. When none of the k votes, nothing is elected: 0.
    Raises ValueError when there are fewer than k answers.

    >>> maj_at_k(0, [2, 1], [1.0, 0.0], 2)  # pairs AA, AB, AB: 1, a tie, a tie
    0.6666666666666666
    """
    n = num_silent + sum(counts)
    if k < 1 or n < k:
        raise ValueError(f"maj@{k} of {n} answers: expected at least k answers and k >= 1")
    if k == n:
        most = max(counts, default=0)
        elected = [v for c, v in zip(counts, values, strict=True) if c == most > 0]
        return sum(elected) / len(elected) if elected else 0.0
    # Subsets of exactly k are Bernoulli subsets of share k/n, given that they have k members: every factor below is a
    # probability, so nothing overflows however large the binomials are.
    share = k / n
    total = 0.0
    for i, value in enumerate(values):
        own = _binomial(counts[i], share, min(counts[i], k))
        for most in range(1, len(own)) if value else ():
            if own[most] > NEGLIGIBLE:
                others = Counter(c for j, c in enumerate(counts) if j != i)
                total += value * own[most] * _tie_share(num_silent, others, most, k - most, share)
    # rounding alone may lead past the best answer's worth
    return min(float(total / _binomial(n, share, k)[k]), max([*values, 0.0]))


NEGLIGIBLE = 1e-20
"""Chance of a count of votes that no digit of the result can show."""


def _binomial(n: int, share: float, longest: int) -> Floats:
    """P(i of n), i = 0 .. longest."""
    from scipy.stats import binom

    return np.asarray(binom.pmf(np.arange(longest + 1), n, share), np.float64)


def _tie_share(num_silent: int, others: Mapping[int, int], most: int, rest: int, share: float) -> float:
    """E[1 / (1 + other answers drawn exactly `most` times); none more often, and `rest` members drawn among them].

    others: how many answers were given so often

    1 / (1 + b) is the integral of y^b over [0, 1]. With y on every answer that reaches `most`, the generating function is a
    polynomial in y of degree rest // most at most, and Gauss-Legendre nodes integrate that exactly.
    """
    rivals = {count: times for count, times in others.items() if count >= most}
    # Who cannot reach `most` is as good as silent.
    quiet = num_silent + sum(count * times for count, times in others.items() if count < most)
    degree = min(rest // most, sum(rivals.values()))
    nodes, weights = np.polynomial.legendre.leggauss(degree // 2 + 1)
    y = (nodes + 1) / 2
    product_YK = np.tile(_binomial(quiet, share, rest), (len(y), 1))
    for count, times in rivals.items():
        factor_YK = np.zeros_like(product_YK)
        reached = min(most, rest)
        factor_YK[:, : reached + 1] = _binomial(count, share, reached)
        if most <= rest:
            factor_YK[:, most] *= y
        product_YK = _times(product_YK, _power(factor_YK, times))
    return float(weights @ product_YK[:, rest] / 2)


def _power(a_YK: Floats, times: int) -> Floats:
    """Polynomials to a power >= 1, cut at their degree, by squaring. [Y, K]"""
    if times == 1:
        return a_YK
    half_YK = _power(_times(a_YK, a_YK), times // 2)
    return _times(half_YK, a_YK) if times % 2 else half_YK


def _times(a_YK: Floats, b_YK: Floats) -> Floats:
    """Products of polynomials, cut at their degree. [Y, K]"""
    out_YK = np.zeros_like(a_YK)
    width = a_YK.shape[1]
    for degree in np.flatnonzero(b_YK.any(axis=0)):
        out_YK[:, degree:] += b_YK[:, degree : degree + 1] * a_YK[:, : width - degree]
    return out_YK
