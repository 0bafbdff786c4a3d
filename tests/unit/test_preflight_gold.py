"""The gold answer of a plan's first prompt: what score is right, what stops a run, what is only warned of."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from rlkit.config import RewardConfig
from rlkit.preflight import Plan
from rlkit.rewards import VerifierPool, make_verifier
from rlkit.types import Prompt, Score
from tests.plans import PROMPT, config, lines, planned


def test_the_gold_answer_scores_one() -> None:
    plan = planned()
    assert plan.ready
    assert lines(plan, "Gold answer") == ("\\boxed{42} -> 1: read '\\\\boxed{42}'",)


def boom(prompt: Prompt, text: str) -> Score:
    raise ZeroDivisionError("by the user")


@pytest.mark.parametrize(
    ("verifier", "said"),
    [
        (lambda p, t: Score(0.0, reason="read '41'"), "scores 0 and not 1.0 (read '41')"),
        (lambda p, t: Score(None, reason="cannot judge"), "scores none and not 1.0 (cannot judge)"),
        (lambda p, t: Score(1.0, reason="died", error=True), "not 1.0 (died)"),
        (lambda p, t: Score(0.1, parts={"math": 0.0, "format": 1.0}), "scores 0.1 and not 1.0"),
        (boom, "not 1.0 (ZeroDivisionError: by the user)"),
    ],
)
def test_a_gold_answer_that_does_not_score_one_is_a_problem(
    verifier: Callable[..., Score], said: str
) -> None:
    plan = planned(verifier=verifier)
    assert not plan.ready
    assert plan.problems[0].startswith("the gold answer of prompt p1, \\boxed{42}, ")
    assert said in plan.problems[0]
    assert "check --data.answer-column and --reward" in plan.problems[0]


def rewarded(name: str, verifier: Callable[..., Score] | None = None) -> Plan:
    """The plan of a run with this reward, judged by itself unless another verifier stands for it."""
    judging = verifier or VerifierPool(make_verifier(name), workers=0, timeout=10.0)
    return planned(config(reward=RewardConfig(name=name)), verifier=judging)


@pytest.mark.parametrize(
    "reward",
    [
        "auto-0.2*repetition(n=3)",  # at most 1 - 0: a penalty that is not due is no part of worth
        "auto-0.2*repetition(n=3)+0.1*length(limit=200)",  # 1.1, all there is
        "0.5*math",  # 0.5, all there is
        "0.5*auto+0.4*exact",
    ],
)
def test_a_gold_answer_that_reaches_the_top_of_the_range_is_right(reward: str) -> None:
    plan = rewarded(reward)
    assert plan.ready and not plan.warnings


def test_a_gold_answer_without_the_form_that_is_asked_for_is_only_warned_of() -> None:
    plan = rewarded("0.5*math+0.5*length(limit=200, least=50)")  # 0.5: it is ten characters
    assert plan.ready
    assert "scores 0.5 and not 1.0" in plan.warnings[0]


def test_a_right_form_does_not_hide_a_wrong_answer() -> None:
    plan = rewarded("math+2*format", lambda p, t: Score(2.0, parts={"math": 0.0, "format": 1.0}))
    assert plan.problems[0].startswith("the gold answer of prompt p1, \\boxed{42}, scores 2 and not 1.0")


def test_a_sum_of_the_users_own_functions_is_only_warned_of() -> None:
    sums = "0.5*a.py:f+0.5*b.py:g"
    for score in (Score(0.0, parts={"f": 0.0, "g": 0.0}), Score(None, reason="f: no idea")):
        plan = rewarded(sums, lambda p, t, score=score: score)
        assert plan.ready and len(plan.warnings) == 1
    mixed = rewarded("math+a.py:f", lambda p, t: Score(-4.0, parts={"math": 1.0, "f": -5.0, "f/words": 0.0}))
    assert mixed.ready and len(mixed.warnings) == 1
    assert not rewarded("math+a.py:f", lambda p, t: Score(5.0, parts={"math": 0.0, "f": 5.0})).ready


def test_the_users_own_range_says_what_is_full_marks() -> None:
    class OutOfTen:
        value_range = (0.0, 10.0)

        def __call__(self, prompt: Prompt, text: str) -> Score:
            return Score(self.given, parts={"words": 0.0})

        given = 10.0

    assert not rewarded("mine.py:OutOfTen", OutOfTen()).warnings
    OutOfTen.given = 9.0
    assert "scores 9 and not 10.0" in rewarded("mine.py:OutOfTen", OutOfTen()).warnings[0]


def test_the_users_own_verifier_is_only_warned_of() -> None:
    cfg = config(reward=RewardConfig(name="mine.py:judge"))
    plan = planned(cfg, verifier=lambda p, t: Score(0.5, reason="half"))
    assert plan.ready
    assert "scores 0.5" in plan.warnings[0]


def test_a_verifier_without_gold_answers_says_so() -> None:
    plan = planned(prompts=[replace(PROMPT, reference=None)])
    assert plan.ready
    assert lines(plan, "Gold answer") == (
        "this verifier reads no gold answer (reference is none); nothing to score",
    )


def test_a_gold_answer_in_a_box_is_not_boxed_twice() -> None:
    assert planned(prompts=[replace(PROMPT, reference="\\boxed{42}")]).ready
