"""benchmarks/eval_coverage.py: the truths are true, and the intervals beside rlkit's are what they are called."""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta, bootstrap

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def coverage(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import eval_coverage

    return eval_coverage


def test_the_vote_of_three_by_enumeration(coverage: Any) -> None:
    """Every sequence of three answers with its chance; ties averaged."""
    p = 0.3
    chances = (p, *((1 - p) * w for w in coverage.WRONG))
    total = 0.0
    for votes in itertools.product(range(4), repeat=3):
        counts = [votes.count(i) for i in range(4)]
        tied = [i for i in range(4) if counts[i] == max(counts)]
        total += float(np.prod([chances[v] for v in votes])) * (0 in tied) / len(tied)
    assert float(coverage.value_of("maj@3", np.array(p))) == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("metric", ["avg@32", "pass@4", "pass@32", "maj@3"])
def test_the_mean_over_all_problems_is_the_integral(coverage: Any, metric: str) -> None:
    a, b = 1.0, 3.0
    want, _ = quad(lambda p: float(coverage.value_of(metric, np.array(p))) * beta.pdf(p, a, b), 0, 1)
    assert coverage.truth_of(metric, a, b) == pytest.approx(want, abs=1e-8)


def test_estimates_of_many_answers_come_to_the_truth(coverage: Any) -> None:
    rng = np.random.default_rng(0)
    counts = coverage.answers(rng, rng.beta(1.0, 3.0, (1, 4000)), 12)
    for metric in ("avg@12", "pass@4", "maj@8"):
        got = coverage.estimates(metric, 12, counts)
        assert got.mean() == pytest.approx(coverage.truth_of(metric, 1.0, 3.0), abs=0.02)


def test_the_bootstraps_beside_rlkit_s_are_scipy_s(coverage: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.beta(0.5, 2.0, 60)
    plain, bca = coverage.bootstraps(rng, x[None])
    for method, found in (("percentile", plain), ("BCa", bca)):
        want = bootstrap((x,), np.mean, method=method, n_resamples=9999, rng=1).confidence_interval
        assert [float(end[0]) for end in found] == pytest.approx([want.low, want.high], abs=0.02)


def test_the_table_has_every_metric_alone_and_in_pairs(
    coverage: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(coverage, "DIFFICULTIES", {"middling": (0.3, 0.6)})
    monkeypatch.setattr(coverage, "ASKED", {8: ("avg@8", "pass@4", "maj@4")})
    coverage.main(coverage.Args(benchmarks=20, sizes=(30,), json=True))
    rows = json.loads(capsys.readouterr().out)
    assert [(r["metric"], r["paired"]) for r in rows] == [
        (metric, paired) for paired in (False, True) for metric in ("avg@8", "pass@4", "maj@4")
    ]
    assert all(0.7 <= r["rlkit"] <= 1 for r in rows)
    coverage.main(coverage.Args(benchmarks=20, sizes=(30,)))
    assert "rows in 93 .. 97 %" in capsys.readouterr().out
    assert sys.path[0] == str(BENCHMARKS)
