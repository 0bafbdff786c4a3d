"""The schedule by stage: what it watches, when it acts, that it resumes, and that without it nothing differs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from rlkit.algo_presets import NsrConfig, PsrConfig, WReinforceConfig
from rlkit.algos.base import Sampling
from rlkit.algos.family import Family
from rlkit.algos.staged import AGREEING_STEPS, Staged
from rlkit.analysis.stages import detect
from rlkit.build import make_algorithm
from rlkit.errors import ConfigError
from rlkit.types import Group, Score
from tests.rollouts import question, rollout

SAMPLING = Sampling(max_completion_length=8, temperature=1.0)
STAGED = WReinforceConfig(schedule="stage", positive_weight=0.5)


def step_of(probability: float) -> list[Group]:
    """A right answer whose two tokens have this probability, a wrong one and one that could not be judged."""
    logprobs = [math.log(probability)] * 2
    answers = [
        rollout([50, 3], score=1.0, logprobs=logprobs),
        rollout([51, 3], score=0.0, logprobs=[math.log(0.01)] * 2),
        rollout([52, 3], score=Score(None), logprobs=[math.log(0.99)] * 2),
    ]
    return [Group(prompt=question(), rollouts=answers)]


def rising(steps: int) -> list[float]:
    """From 0.5 to 0.9 within 20 steps, then flat, with the noise of a few hundred tokens."""
    clean = 0.5 + 0.4 * np.minimum(np.arange(steps) / 20, 1)
    return [float(x) for x in clean + np.random.default_rng(0).normal(0, 0.01, steps)]


def weights(algo: Any, series: Sequence[float]) -> list[float]:
    """What a right answer's tokens are worth, step by step."""
    return [algo.credit(step_of(p), [])[0].advantages[0] for p in series]


def test_positives_count_less_once_their_probability_rises_no_more() -> None:
    algo = make_algorithm(STAGED, SAMPLING)
    assert isinstance(algo, Staged)
    found = weights(algo, rising(60))
    change = found.index(0.0)
    assert 20 < change < 50
    assert found == [0.5] * change + [0.0] * (60 - change), "for good"
    assert [c.advantages for c in algo.credit(step_of(0.9), [])] == [[0.0, 0.0], [-1.0, -1.0]]


def test_a_probability_that_keeps_rising_or_never_does_changes_nothing() -> None:
    for series in (np.linspace(0.2, 0.95, 60), np.random.default_rng(1).normal(0.6, 0.01, 60)):
        assert set(weights(make_algorithm(STAGED, SAMPLING), [float(x) for x in series])) == {0.5}


@dataclass(frozen=True)
class Says:
    """A detector's verdict."""

    stage: str
    exploration: float = 0.0


def test_it_takes_several_steps_that_agree_and_sees_the_past_only() -> None:
    seen: list[list[float]] = []
    verdicts = iter(["saturated", "saturated", "exploitation", *["exploration"] * 9])

    def scripted(high: Sequence[float]) -> Says:
        seen.append(list(high))
        return Says(next(verdicts))

    assert AGREEING_STEPS == 3
    found = weights(Staged(STAGED, SAMPLING, scripted), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert found == [0.5] * 5 + [0.0] * 2
    assert [len(high) for high in seen] == [1, 2, 3, 4, 5, 6] and seen[3] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4]
    )


def test_what_it_watches_is_the_probability_of_right_answers_tokens() -> None:
    algo = make_algorithm(STAGED, SAMPLING)
    answers = [
        rollout([50, 3], score=1.0, logprobs=[math.log(0.5), math.log(0.25)]),
        rollout([50, 51, 3], score=0.9, logprobs=[math.log(0.75)] * 3),
        rollout([50, 3], score=0.5, logprobs=[0.0, 0.0]),
    ]
    algo.credit([Group(prompt=question(), rollouts=answers)], [])
    told = algo.metrics()
    assert told["stage/high_mass"] == pytest.approx((0.5 + 0.25 + 3 * 0.75) / 5)
    assert (told["stage/exploitation_ended"], told["stage/positive_weight"]) == (0.0, 0.5)
    algo.credit([Group(prompt=question(), rollouts=answers[2:])], [])
    assert "stage/high_mass" not in algo.metrics(), "a step without a right answer has none"


@pytest.mark.parametrize("cut", [1, 24, 40])
def test_a_restart_is_the_run_that_never_stopped(cut: int) -> None:
    series = rising(60)
    whole = make_algorithm(STAGED, SAMPLING)
    expected = weights(whole, series)
    first = make_algorithm(STAGED, SAMPLING)
    weights(first, series[:cut])
    second = make_algorithm(STAGED, SAMPLING)
    second.load_state_dict(first.state_dict())
    assert weights(second, series[cut:]) == expected[cut:]
    assert second.metrics() == whole.metrics()
    states = [algo.state_dict() for algo in (whole, second)]
    assert torch.equal(states[0].pop("high"), states[1].pop("high")) and states[0] == states[1]


def test_without_the_schedule_nothing_differs() -> None:
    constant = make_algorithm(WReinforceConfig(), SAMPLING)
    assert type(constant) is Family and constant.state_dict() == {}
    never = Staged(WReinforceConfig(schedule="stage"), SAMPLING, lambda high: Says("exploitation"))
    for p in (0.3, 0.6):
        assert never.credit(step_of(p), []) == constant.credit(step_of(p), [])
    assert not [name for name in constant.metrics() if name.startswith("stage/")]


def test_the_detector_s_verdict_is_what_the_schedule_expects() -> None:
    verdict = detect(rising(60))
    assert (verdict.stage, 0 <= verdict.exploration <= 1) == ("saturated", True)


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        (
            WReinforceConfig,
            {"schedule": "stage", "stage_positive_weight": 0.2},
            "algo.schedule = 'stage': expected constant",
        ),
        (NsrConfig, {"schedule": "stage"}, "algo.positive_weight = 0,"),
        (PsrConfig, {"schedule": "stage"}, "negative_weight = 0:"),
        (
            WReinforceConfig,
            {"stage_positive_weight": 0.05},
            "0 with algo.schedule = constant: it is not used",
        ),
    ],
)
def test_a_schedule_with_nothing_to_lower_is_refused(kind: Any, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        kind(**changes)
