"""pass@k and maj@k are exact: every subset of k answers is enumerated here and agrees to the last digits."""

import math
import random
from itertools import combinations
from statistics import fmean

import pytest

from rlkit.analysis.passk import maj_at_k, pass_at_k


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(n: int) -> None:
    for c in range(n + 1):
        right = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            want = fmean(any(subset) for subset in combinations(right, k))
            assert float(pass_at_k(n, c, k)) == pytest.approx(want, abs=1e-15)


def test_pass_at_k_by_hand() -> None:
    """3 right of 10, 5 drawn: all wrong in C(7,5) = 21 of C(10,5) = 252 draws."""
    assert float(pass_at_k(10, 3, 5)) == pytest.approx(1 - 21 / 252)
    assert pass_at_k([4, 4, 4], [0, 1, 4], 1).tolist() == [0.0, 0.25, 1.0]


def test_pass_at_k_of_many_answers_loses_no_digits() -> None:
    """1 right of 4,096: k / n exactly, where binomials have a thousand digits."""
    assert float(pass_at_k(4096, 1, 256)) == pytest.approx(1 / 16, abs=1e-15)
    want = 1 - math.comb(996, 256) / math.comb(1000, 256)
    assert float(pass_at_k(1000, 4, 256)) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 5, 2), (4, 1, 0), (4, -1, 2)])
def test_pass_at_k_of_too_few_answers_is_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= right <= answers >= k >= 1"):
        pass_at_k(n, c, k)


def by_enumeration(labels: list[str | None], values: dict[str, float], k: int) -> float:
    """The mean over all subsets, ties averaged, 0 where nobody votes."""
    results = []
    for subset in combinations(labels, k):
        votes = [label for label in subset if label is not None]
        most = max((votes.count(label) for label in set(votes)), default=0)
        elected = [values[label] for label in set(votes) if votes.count(label) == most]
        results.append(fmean(elected) if elected else 0.0)
    return fmean(results)


@pytest.mark.parametrize("seed", range(30))
def test_maj_at_k_is_the_mean_over_all_subsets(seed: int) -> None:
    rng = random.Random(seed)
    labels = [rng.choice([None, "a", "b", "c", "d", "e"]) for _ in range(rng.randint(1, 10))]
    values = {"a": 1.0, "b": 0.0, "c": 0.0, "d": rng.choice([0.0, 1.0]), "e": 0.5}
    given = sorted({label for label in labels if label is not None})
    counts = [labels.count(label) for label in given]
    for k in range(1, len(labels) + 1):
        got = maj_at_k(labels.count(None), counts, [values[label] for label in given], k)
        assert got == pytest.approx(by_enumeration(labels, values, k), abs=1e-12)


def test_maj_at_k_by_hand() -> None:
    """Answers A A B, A right. Pairs: AA, AB, AB. A is elected once and ties twice: (1 + 1/2 + 1/2) / 3."""
    assert maj_at_k(0, [2, 1], [1.0, 0.0], 2) == pytest.approx(2 / 3)
    assert maj_at_k(0, [2, 1], [1.0, 0.0], 1) == pytest.approx(2 / 3)  # one answer is its own majority
    assert maj_at_k(0, [2, 1], [1.0, 0.0], 3) == 1.0
    assert maj_at_k(2, [1, 1], [1.0, 0.0], 4) == 0.5  # a tie of two, two silent
    assert maj_at_k(3, [], [], 2) == 0.0  # nobody says anything


def test_a_vote_of_hundreds_stays_a_chance() -> None:
    """Two answers of 128 each are a coin, whatever k; 40 % against sixty wrong answers of 1 % wins."""
    assert maj_at_k(0, [128, 128], [1.0, 0.0], 64) == pytest.approx(0.5, abs=1e-12)
    assert maj_at_k(1, [60, 3], [1.0, 0.0], 32) <= 1.0
    assert maj_at_k(0, [400, *[10] * 60], [1.0, *[0.0] * 60], 256) == pytest.approx(1.0, abs=1e-9)


def test_maj_at_k_of_too_few_answers_is_refused() -> None:
    with pytest.raises(ValueError, match="maj@4 of 3 answers"):
        maj_at_k(1, [2], [1.0], 4)
