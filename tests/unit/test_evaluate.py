"""A mean score never comes without its interval."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rlkit.errors import RolloutError
from rlkit.evaluate import Batch, Drawing, answer_all, evaluate, missing, plan
from rlkit.ranks import ALONE
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


# -- rlkit eval ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompts", "n", "batch"), [(30, 256, 1024), (1, 1, 1), (700, 3, 1024), (30, 7, 8), (5, 9, 20)]
)
def test_a_plan_asks_every_sample_of_every_prompt_once(prompts: int, n: int, batch: int) -> None:
    asked = [
        (p, i)
        for b in plan(prompts, n, batch)
        for p in range(b.start, b.stop)
        for i in range(b.first, b.last)
    ]
    assert sorted(asked) == [(p, i) for p in range(prompts) for i in range(n)]
    assert max(b.size for b in plan(prompts, n, batch)) <= batch


@pytest.mark.parametrize("batch", [8, 64, 1024])
def test_a_power_of_two_more_samples_are_whole_batches_more(batch: int) -> None:
    few, many = plan(6, 16, batch), plan(6, 64, batch)
    assert set(few) <= set(many) and {b.first for b in set(many) - set(few)} >= {16}


def test_what_is_stored_is_not_asked_again() -> None:
    ids = ["a", "b", "c"]
    batches = plan(3, 8, 6)  # blocks of all three; samples 0, 1, 2..3, 4..5, 6..7
    have = {id_: {0, 1, 2} for id_ in ids}  # n was 3
    left = missing(batches, ids, have)
    assert [(b.first, b.last) for b in left] == [(3, 4), (4, 6), (6, 8)]
    have["b"] = {0, 1}
    assert [(b.first, b.last) for b in missing(batches, ids, have)] == [(2, 4), (4, 6), (6, 8)]
    assert missing(batches, ids, {id_: set(range(8)) for id_ in ids}) == []


def drawn(
    batches: Sequence[Batch],
    answers: Callable[..., Any],
    verifier: Verifier = read,
    max_error_share: float = 0.2,
) -> tuple[list[tuple[str, int, int, float | None]], ScriptedSampler]:
    """What `answer_all` keeps of prompts a, b: prompt, sample, seed that was asked with, score."""
    sampler = ScriptedSampler(answers, stop_ids=[STOP])
    kept: list[tuple[str, int, float | None]] = []
    answer_all(
        sampler,
        judge(verifier, max_error_share),
        [question("a"), question("b")],
        Drawing(n=4, max_tokens=8, temperature=1.0, seed=5),
        batches,
        None,
        lambda batch, rows: kept.extend((r.prompt_id, i, r.value) for i, r, _ in rows),
        ALONE,
    )
    seeds = [r.seed for r in sampler.requests]
    return [(p, i, seed, v) for (p, i, v), seed in zip(kept, seeds, strict=True)], sampler


def test_an_answer_s_seed_depends_on_its_prompt_and_number_alone() -> None:
    right = lambda r, i: Answer([RIGHT, STOP])  # noqa: E731
    whole, sampler = drawn(plan(2, 4, 4), right)
    part, _ = drawn([Batch(0, 0, 2, 3, 4)], right)
    assert set(part) <= set(whole) and len({seed for _, _, seed, _ in whole}) == 8
    assert {r.n for r in sampler.requests} == {1} and {r.max_tokens for r in sampler.requests} == {8}


def test_an_unjudged_answer_is_kept_without_a_score() -> None:
    script = {"a": RIGHT, "b": UNREADABLE}
    kept, _ = drawn([Batch(0, 0, 2, 0, 2)], lambda r, i: Answer([script[r.prompt_id], STOP]))
    assert [(p, i, v) for p, i, _, v in kept] == [
        ("a", 0, 1.0),
        ("a", 1, 1.0),
        ("b", 0, None),
        ("b", 1, None),
    ]


def test_nothing_is_kept_of_a_batch_whose_verifier_is_broken() -> None:
    unreadable = lambda r, i: Answer([UNREADABLE, STOP])  # noqa: E731
    with pytest.raises(
        RolloutError, match="4 of 4 verdicts are errors.*prompt a, answer '52 3': TimeoutError"
    ):
        drawn([Batch(0, 0, 2, 0, 2)], unreadable, fails_on_unreadable)
    with pytest.raises(RolloutError, match="none of 4 answers could be judged.*unreadable. Check --reward"):
        drawn([Batch(0, 0, 2, 0, 2)], unreadable)
