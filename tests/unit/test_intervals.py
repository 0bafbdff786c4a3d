"""Intervals of means over problems: Wilson where Wilson holds, never outside what is possible, never without width."""

import math
import random

import numpy as np
import pytest
from scipy.stats import binomtest, skew, t

from rlkit.analysis.intervals import (
    bootstrap_interval,
    clustered_interval,
    difference_interval,
    dispersion,
    mcnemar,
    mean_interval,
    plain_interval,
)


@pytest.mark.parametrize(("right", "n"), [(8, 10), (0, 10), (10, 10), (1, 30), (250, 500), (1, 1)])
def test_right_or_wrong_problems_have_wilson_s_interval(right: int, n: int) -> None:
    wilson = binomtest(right, n).proportion_ci(method="wilson")
    got = mean_interval([1.0] * right + [0.0] * (n - right))
    assert got == pytest.approx((wilson.low, wilson.high), abs=1e-12)


def test_wilson_for_eight_of_ten_is_the_published_value() -> None:
    low, high = mean_interval([1.0] * 8 + [0.0] * 2)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)


def test_a_scaled_variance_by_hand() -> None:
    """Four values 0.25, 0.75, 0.25, 0.75: variance 1/16 of a possible 1/4, so (4 * 1/4 + 2) / (4 - 1 + 2) = 0.6."""
    values = np.array([0.25, 0.75, 0.25, 0.75])
    assert dispersion(values) == pytest.approx(0.6)
    low, high = mean_interval(values)
    a = 1.959963984540054**2 * 0.6 / 4  # (mean - mu)^2 = a mu (1 - mu) at both ends
    for end in (low, high):
        assert (0.5 - end) ** 2 == pytest.approx(a * end * (1 - end))


def test_many_graded_scores_have_the_normal_interval() -> None:
    rng = random.Random(0)
    scores = [rng.betavariate(2, 3) for _ in range(400)]
    mean = sum(scores) / 400
    error = math.sqrt(sum((s - mean) ** 2 for s in scores) / 399 / 400)
    assert mean_interval(scores) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.003)


@pytest.mark.parametrize(
    "scores", [[0.5], [0.5] * 7, [0.5, 1.0], [0.5] * 9 + [0.75], [0.1] * 3 + [0.1 + 1e-12], [0.0, 1e-9]]
)
def test_few_or_nearly_equal_scores_have_a_width_around_the_mean(scores: list[float]) -> None:
    low, high = mean_interval(scores)
    mean = sum(scores) / len(scores)
    assert 0 <= low <= mean <= high <= 1 and high - low > 0.01


def test_scores_outside_the_unit_interval_have_an_interval_too() -> None:
    low, high = mean_interval([-1.0, 1.0, 1.0, -1.0, 3.0, 1.0, 2.0, 0.5])
    assert low < 0.8125 < high and math.isfinite(low) and math.isfinite(high)


def test_lengths_have_an_interval_around_their_mean_wherever_that_is() -> None:
    """Moved by 1,000 tokens the interval moves by 1,000; equal lengths have less than half a token of doubt."""
    lengths = [12.0, 30.0, 14.0, 15.0, 13.0, 18.0, 40.0, 12.0]
    low, high = plain_interval(lengths)
    assert plain_interval([x + 1000 for x in lengths]) == pytest.approx((low + 1000, high + 1000))
    assert low < sum(lengths) / 8 < high
    low, high = plain_interval([6.0] * 8)
    assert 5.5 < low < 6.0 < high < 6.5


def test_a_value_that_rounding_led_past_one_is_one() -> None:
    assert mean_interval([1.0 + 4e-13, 0.5]) == mean_interval([1.0, 0.5])


def test_a_difference_without_skewness_is_student_s_t_with_one_problem_added() -> None:
    """d = +-1 alternating, 10 of them: added square 1, mean 0, variance 11/11, error 1/sqrt(11)."""
    d = [1.0, -1.0] * 5
    half = t.ppf(0.975, 9) / math.sqrt(11)
    assert difference_interval(d) == pytest.approx((-half, half))


def test_hall_s_interval_leans_to_the_long_tail() -> None:
    """His transform T + g T^2/3 + g/6 + g^2 T^3/27, g = skewness / sqrt(m), takes both ends to the quantile."""
    d = np.array([0.0] * 20 + [0.2] * 5 + [0.9, 1.0])
    low, high = difference_interval(d)
    assert high - d.mean() > 1.5 * (d.mean() - low)
    m, added = 28, float((d**4).sum() / (d**2).sum())
    mean = d.sum() / m
    variance = ((d**2).sum() + added) / m - mean**2
    g = ((d - mean) ** 3).sum() / m / variance**1.5 / math.sqrt(m)
    for end, sign in ((low, 1), (high, -1)):
        statistic = (mean - end) / math.sqrt(variance / m)
        value = statistic + g * statistic**2 / 3 + g / 6 + g**2 * statistic**3 / 27
        assert value == pytest.approx(sign * t.ppf(0.975, 26))
    assert skew(d) > 0


def test_thirty_problems_without_any_difference_may_still_differ_a_little() -> None:
    low, high = difference_interval([0.0] * 30)
    assert low == -high and 0.05 < high < 0.1


def test_intervals_do_not_depend_on_the_order_of_problems() -> None:
    rng = random.Random(3)
    values = [rng.random() ** 3 for _ in range(40)]
    turned = values[::-1]
    assert mean_interval(values) == pytest.approx(mean_interval(turned))
    assert difference_interval(values) == pytest.approx(difference_interval(turned))


def test_the_bootstrap_is_the_same_for_the_same_seed_and_about_the_normal_interval() -> None:
    rng = random.Random(0)
    values = [rng.random() for _ in range(200)]
    got = bootstrap_interval(values, seed=1)
    assert got == bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    assert got == pytest.approx(mean_interval(values), abs=0.01)
    assert bootstrap_interval([0.25] * 5, seed=0) == (0.25, 0.25)


def test_mcnemar_by_hand() -> None:
    """5 gained, none lost: 2 / 2^5. 8 against 2: 2 (1 + 10 + 45) / 2^10."""
    assert mcnemar(5, 0) == mcnemar(0, 5) == 1 / 16
    assert mcnemar(8, 2) == pytest.approx(2 * 56 / 1024)
    assert mcnemar(0, 0) == mcnemar(3, 3) == 1.0


@pytest.mark.parametrize("values", [[], [math.nan], [[1.0, 2.0]]])
def test_no_interval_of_nothing(values: list[float]) -> None:
    with pytest.raises(ValueError, match="expected at least one finite number"):
        mean_interval(values)


def test_thirty_hard_problems_are_covered_about_95_times_of_100() -> None:
    """Solve rates of Beta(0.3, 3), 16 answers, 400 benchmarks; benchmarks/eval_coverage.py has the whole table."""
    rng = np.random.default_rng(0)
    rates = rng.beta(0.3, 3.0, (400, 30))
    values = rng.binomial(16, rates) / 16
    other = rng.binomial(16, rates**0.7) / 16
    truth = 0.3 / 3.3
    hits = sum(low <= truth <= high for low, high in map(mean_interval, values))
    a, b = 0.3, 3.0
    gap = math.exp(
        math.lgamma(a + 0.7) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(a + b + 0.7)
    )  # E p^0.7
    pairs = sum(low <= gap - truth <= high for low, high in map(difference_interval, other - values))
    assert 370 <= hits <= 394 and 370 <= pairs <= 394


def test_prompts_with_unequally_many_answers_are_covered_about_95_times_of_100() -> None:
    """40 prompts with 1 to 16 answers each, solve rates of Beta(0.5, 1); those asked more often are no easier. 400 files."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        counts = rng.integers(1, 17, 40)
        right = rng.binomial(counts, rng.beta(0.5, 1.0, 40))
        low, high = clustered_interval(counts, right, in_unit=True)
        hits += low <= 1 / 3 <= high
    assert 370 <= hits <= 394


def test_equally_many_answers_make_the_interval_of_the_problems_means() -> None:
    means = [0.0, 0.25, 0.5, 1.0, 1.0]
    totals = [4 * x for x in means]
    assert clustered_interval([4] * 5, totals, in_unit=True) == pytest.approx(mean_interval(means))
    assert clustered_interval([4] * 5, totals, in_unit=False) == pytest.approx(plain_interval(means))
