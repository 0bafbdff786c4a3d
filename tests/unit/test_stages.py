"""The stage detector: on runs whose turning points are known, on runs that have none, and on what it may not know yet."""

from dataclasses import replace

import numpy as np
import pytest

from rlkit.algo_presets import GrpoConfig, GrpoNConfig
from rlkit.analysis.bandit import Bandit, Floats, simulate_expected
from rlkit.analysis.stages import LEAST_CHANGE, Detection, Turn, _curves, detect, follow
from rlkit.errors import RunError

BANDIT = Bandit((0.8, 1.0, 0.0), (0.45, 0.05, 0.5))
PLAIN = GrpoConfig(scale_std="population", std_eps=0.0)


def counted(probs_TA: Floats, samples: int, seed: int = 0) -> Floats:
    """Shares of the actions among so many samples in every step."""
    return np.random.default_rng(seed).multinomial(samples, probs_TA) / samples


@pytest.fixture(scope="module")
def two_stages() -> Floats:
    """t_min2 = 102, t_max1 = 129, t_cross = 263."""
    return simulate_expected(BANDIT, PLAIN, steps=600, rate=0.1)


@pytest.fixture(scope="module")
def one_stage() -> Floats:
    """GRPO-N: the explored action is never left."""
    return simulate_expected(BANDIT, replace(GrpoNConfig(), std_eps=0.0), steps=600, rate=0.1)


def holds(turn: Turn | None, step: int) -> bool:
    return turn is not None and turn.low <= step <= turn.high


def test_turning_points_are_found_with_their_uncertainty(two_stages: Floats) -> None:
    widths = []
    for samples in (64, 256, 4096):
        shares = counted(two_stages, samples)
        found = detect(shares[:, 0], shares[:, 1])
        assert found.stage == "exploration" and found.exploration > 0.95
        assert holds(found.t_min2, 102) and holds(found.t_max1, 129)
        assert found.t_cross is not None and found.t_cross.step == pytest.approx(263, abs=3)
        assert found.t_max1 is not None
        widths.append(found.t_max1.high - found.t_max1.low)
    assert widths[-1] < widths[0], "more samples say more"


def test_intervals_hold_the_truth_as_often_as_they_say(two_stages: Floats) -> None:
    """20 counts of one run: 95 % of them are 19, and fewer than 16 would be a defect."""
    found = [detect(counted(two_stages[:400], 128, seed)[:, 0]).t_max1 for seed in range(20)]
    assert sum(holds(turn, 129) for turn in found) >= 16


def test_a_run_that_stays_in_its_first_stage_has_no_turning_point(one_stage: Floats) -> None:
    shares = counted(one_stage, 256)
    found = detect(shares[:, 0], shares[:, 1])
    assert (found.t_max1, found.t_min2, found.t_cross) == (None, None, None)
    assert found.stage == "saturated" and found.exploration < 0.05
    assert found.words(finished=True).startswith(
        "no turning point in this run: the high-reward mass has risen"
    )
    assert found.words(finished=False).startswith("no turning point yet")


def test_noise_around_a_constant_is_rarely_a_stage() -> None:
    """At 95 % certainty one series in twenty may look like a turn."""
    rng = np.random.default_rng(0)
    found = [detect(*(rng.binomial(64, 0.5, (2, 300)) / 64)) for _ in range(30)]
    assert sum(f.stage != "exploitation" for f in found) <= 3
    assert sum(f.t_cross is not None for f in found) <= 3


def test_following_knows_the_past_only(two_stages: Floats) -> None:
    """What is said of the first k steps is the same whatever comes after them, and is said after the fact."""
    shares = counted(two_stages, 256)
    looks = follow(shares[:, 0], shares[:, 1], every=50)
    assert [look.last_step for look in looks] == [49, 99, 149, 199, 249, 299, 349, 399, 449, 499, 549, 599]
    other = shares.copy()
    other[250:] = 0.5
    assert follow(other[:, 0], other[:, 1], every=50)[:5] == looks[:5]
    stages = [look.stage for look in looks]
    assert stages[0] == "exploitation" and stages[2] == "saturated" and set(stages[5:]) == {"exploration"}
    assert all(look.t_max1 is None for look in looks[:3])
    assert looks[-1] == detect(shares[:600, 0], shares[:600, 1])


def test_a_fall_that_cannot_be_told_from_noise_is_not_called_one(two_stages: Floats) -> None:
    at_peak, later = two_stages[129, 0], two_stages[150, 0]
    assert at_peak - later < LEAST_CHANGE
    shares = counted(two_stages[:151], 100_000)
    assert detect(shares[:, 0]).t_max1 is None, "the mass has fallen by less than what counts as a fall"


def test_steps_that_were_not_measured_are_bridged(two_stages: Floats) -> None:
    shares = counted(two_stages, 256)[:, 0]
    gaps = np.where(np.random.default_rng(1).random(len(shares)) < 0.6, np.nan, shares)
    assert holds(detect(gaps).t_max1, 129)


def test_a_series_of_other_steps_answers_in_those(two_stages: Floats) -> None:
    shares = counted(two_stages, 1024)[::5, 0]
    found = detect(shares, steps_T=np.arange(0, 601, 5))
    assert found.last_step == 600 and holds(found.t_max1, 129)


def test_a_long_series_costs_what_a_short_one_does(two_stages: Floats) -> None:
    slow = simulate_expected(BANDIT, PLAIN, steps=12_000, rate=0.005)
    at, curves = _curves(counted(slow, 64)[:, 0], np.arange(12_001.0))
    assert len(at) <= 800 and curves is not None and curves.shape[1] == len(at)
    assert holds(detect(counted(slow, 64)[:, 0]).t_max1, int(slow[:, 0].argmax()))


def test_a_few_steps_say_nothing() -> None:
    found = detect([0.1, 0.9, 0.1])
    assert found == Detection(
        last_step=2.0, stage="exploitation", exploration=0.0, t_min2=None, t_max1=None, t_cross=None
    )
    assert found.words(finished=False) == (
        "no turning point yet: the high-reward mass has not fallen from its peak by step 2"
    )


def test_the_spline_is_the_posterior_of_its_model() -> None:
    """Mean and spread of the drawn curves, against the dense matrices of the same Gaussian model at the same penalty."""
    from rlkit.analysis.stages import _least

    rng = np.random.default_rng(0)
    mass = np.sin(np.linspace(0.4, 1.1, 60) + rng.normal(0, 0.03, 60)) ** 2
    y = np.arcsin(np.sqrt(mass))
    scale, log_penalty = _least(y, np.ones(60))
    second = np.diff(np.eye(60), 2, axis=0)
    covariance = np.linalg.inv(np.eye(60) + np.exp(log_penalty) * second.T @ second)
    curves = _curves(mass, np.arange(60.0))[1]
    assert curves is not None
    drawn = np.arcsin(np.sqrt(curves))
    spread = scale * np.sqrt(np.diag(covariance))
    assert (np.abs(drawn.mean(0) - covariance @ y) < 5 * spread / np.sqrt(len(drawn))).all()
    assert drawn.std(0) == pytest.approx(spread, rel=0.2)


@pytest.mark.parametrize(
    ("series", "said"),
    [
        ([0.1, 1.2], "1.2 at position 1, expected probabilities"),
        ([], r"shape \(0,\)"),
        ([[0.1]], r"shape \(1, 1\)"),
    ],
)
def test_what_is_no_series_of_masses_is_refused(series: list[float], said: str) -> None:
    with pytest.raises(RunError, match=said):
        detect(series)
