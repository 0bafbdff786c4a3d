"""A mean score never comes without its interval."""

import math
import random

import pytest

from rlkit.errors import RolloutError
from rlkit.evaluate import evaluate, interval
from rlkit.rewards import VerifierPool
from rlkit.samplers.scripted import Answer, ScriptedSampler
from rlkit.types import Group, Prompt, Score, Verifier
from rlkit.verify import Judge
from tests.rollouts import question, rollout

RIGHT, WRONG, UNREADABLE, STOP = 50, 51, 52, 3


def read(prompt: Prompt, text: str) -> Score:
    """Scores the first token of an answer; cannot judge UNREADABLE."""
    if text.startswith(f"{UNREADABLE}"):
        return Score(None, reason="unreadable")
    return Score(float(text.startswith(f"{RIGHT}")))


def judge(verifier: Verifier = read, max_error_share: float = 0.2) -> Judge:
    pool = VerifierPool(verifier, workers=0, timeout=1.0)
    return Judge(pool, lambda ids: " ".join(map(str, ids)), max_error_share)


def test_wilson_for_eight_of_ten_is_the_published_value() -> None:
    low, high = interval([1.0] * 8 + [0.0] * 2, seed=0)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)


@pytest.mark.parametrize("right, low, high", [(0, 0.0, 0.278), (10, 0.722, 1.0)])
def test_all_wrong_and_all_right_still_have_a_width(right: int, low: float, high: float) -> None:
    got = interval([1.0] * right + [0.0] * (10 - right), seed=0)
    assert got == pytest.approx((low, high), abs=5e-4)


def test_graded_scores_have_about_the_normal_interval() -> None:
    rng = random.Random(0)
    scores = [rng.betavariate(2, 3) for _ in range(400)]
    mean = sum(scores) / 400
    error = math.sqrt(sum((s - mean) ** 2 for s in scores) / 399 / 400)
    assert interval(scores, seed=0) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.005)


def test_the_bootstrap_covers_the_truth_about_95_times_of_100() -> None:
    rng = random.Random(1)
    hits = 0
    for i in range(60):
        scores = [sum(rng.random() < 0.3 for _ in range(4)) / 4 for _ in range(50)]
        low, high = interval(scores, seed=i)
        hits += low <= 0.3 <= high
    assert hits >= 52


def test_an_interval_is_the_same_for_the_same_seed() -> None:
    scores = [random.Random(i).random() for i in range(50)]
    assert interval(scores, seed=1) == interval(scores, seed=1) != interval(scores, seed=2)


@pytest.mark.parametrize(
    "scores", [[0.5], [0.5] * 7, [0.5, 1.0], [0.5] * 9 + [0.75], [0.1] * 3 + [0.1 + 1e-12]]
)
def test_few_or_nearly_equal_graded_scores_give_finite_bounds_around_the_mean(scores: list[float]) -> None:
    low, high = interval(scores, seed=0)
    mean = sum(scores) / len(scores)
    assert math.isfinite(low) and math.isfinite(high) and low - 1e-9 <= mean <= high + 1e-9


def test_each_prompt_counts_once_however_many_of_its_answers_were_judged() -> None:
    script = {
        "a": [RIGHT, WRONG, WRONG, WRONG],
        "b": [RIGHT, UNREADABLE, UNREADABLE, UNREADABLE],
        "c": [UNREADABLE] * 4,
    }
    sampler = ScriptedSampler(lambda r, i: Answer([script[r.prompt_id][i], STOP]), stop_ids=[STOP])
    prompts = [question(i) for i in script]
    got = evaluate(sampler, judge(), prompts, samples=4, max_tokens=8, temperature=0.6, top_p=0.9, seed=7)
    assert (got.pass_at_1, got.prompts, got.unjudged, got.samples) == (0.625, 2, 7, 4)
    assert got.mean_length == 2.0 and 0.0 <= got.low <= 0.625 <= got.high <= 1.0
    assert {(r.temperature, r.top_p, r.n, r.max_tokens) for r in sampler.requests} == {(0.6, 0.9, 4, 8)}
    assert len({r.seed for r in sampler.requests}) == 3
    assert str(got).startswith("0.625 [0.")


def test_when_nothing_could_be_judged_there_is_a_sentence_and_no_number() -> None:
    sampler = ScriptedSampler(lambda r, i: Answer([UNREADABLE, STOP]), stop_ids=[STOP])
    with pytest.raises(RolloutError, match="none of 2 answers could be judged.*unreadable"):
        evaluate(sampler, judge(), [question()], samples=2, max_tokens=8, temperature=1.0, seed=0)


def test_verdicts_reach_the_answers_they_judge_also_below_segments() -> None:
    """Leaves of every depth are scored in one call; a group with children keeps its own rollouts without a verdict."""
    leaf = [
        Group(prompt=question(f"leaf{i}"), rollouts=[rollout([RIGHT + (i + j) % 2]) for j in range(2)])
        for i in range(3)
    ]
    parent = Group(prompt=question("q"), rollouts=[rollout([RIGHT])], children=[leaf[0], leaf[1]])
    first, second = judge()([parent, leaf[2]])
    assert first.rollouts[0].score is None and first.rollouts[0].text == "50"
    got = [[r.value for r in g.rollouts] for g in [*first.children, second]]
    assert got == [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]


def fails_on_unreadable(prompt: Prompt, text: str) -> Score:
    if text.startswith(f"{UNREADABLE}"):
        raise TimeoutError("no answer after 5 s")
    return Score(1.0)


def test_too_many_failed_verdicts_stop_the_step_and_name_the_first() -> None:
    rollouts = [rollout([RIGHT]), rollout([RIGHT]), rollout([UNREADABLE]), rollout([RIGHT])]
    group = Group(prompt=question("q7"), rollouts=rollouts)
    said = "1 of 4 verdicts are errors.*prompt q7, answer '52': TimeoutError: no answer after 5 s"
    with pytest.raises(RolloutError, match=said):
        judge(fails_on_unreadable, max_error_share=0.2)([group])
    judge(fails_on_unreadable, max_error_share=0.25)([group])
