"""SPO: one answer per prompt against the prompt's own past (papers.md sections 2.1 to 2.3)."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from rlkit.algo_own import SpoConfig
from rlkit.algos.base import Sampling
from rlkit.algos.spo import Spo
from rlkit.batch import TokenStats, make_minibatches
from rlkit.errors import ConfigError
from rlkit.samplers.scripted import Answer, ScriptedSampler
from rlkit.types import Credit, Group, Request, Score
from tests.rollouts import question

STOP = 3


def make(**changes: Any) -> Spo:
    return Spo(SpoConfig(**changes), Sampling(max_completion_length=8, temperature=1.0))


def write(request: Request, i: int) -> Answer:
    """Two tokens, or three for the prompts of a capital letter."""
    body = [50 + i] * (2 if request.prompt_id.isupper() else 1)
    return Answer([*body, STOP])


def with_scores(group: Group, scores: Sequence[float | Score]) -> Group:
    verdicts = [s if isinstance(s, Score) else Score(s) for s in scores]
    return replace(
        group, rollouts=[replace(r, score=s) for r, s in zip(group.rollouts, verdicts, strict=True)]
    )


def step(
    algo: Spo,
    scores: dict[str, float | Score | Sequence[float | Score]],
    drift: float = 0.0,
    initial: dict[str, Sequence[float | Score]] | None = None,
) -> list[Credit]:
    """One step whose prompts get these verdicts. The learner agrees with the sampler, and then everything old by `drift`."""
    sampler = ScriptedSampler(write, stop_ids=[STOP])
    groups = []
    for group in algo.collect([question(i) for i in scores], sampler.sample, seed=1):
        given = scores[group.prompt.id]
        own = [given] if isinstance(given, int | float | Score) else list(given)
        if group.children:
            first, extra = group.children
            group = replace(
                group,
                children=[with_scores(first, own), with_scores(extra, (initial or {})[group.prompt.id])],
            )
        else:
            group = with_scores(group, own)
        groups.append(group)
    stored = len(algo.tracker.stored([g.prompt for g in groups]))
    asked = algo.rescore(groups)
    now = [[v - (drift if k < stored else 0.0) for v in r.completion_logprobs] for k, r in enumerate(asked)]
    return algo.credit(groups, now)


def advantages(credits: Sequence[Credit]) -> list[float]:
    assert all(len(set(c.advantages)) == 1 for c in credits)  # the same on every token
    return [c.advantages[0] for c in credits]


# -- the baseline --------------------------------------------------------------------------------------------------------


def test_one_answer_is_asked_for_each_prompt() -> None:
    sampler = ScriptedSampler(write, stop_ids=[STOP])
    groups = make().collect([question(i) for i in "abc"], sampler.sample, seed=1)
    assert [(r.prompt_id, r.n, r.max_tokens) for r in sampler.requests] == [(i, 1, 8) for i in "abc"]
    assert len({r.seed for r in sampler.requests}) == 3
    assert [(len(g.rollouts), g.children) for g in groups] == [(1, [])] * 3


def test_an_answer_is_compared_with_the_value_before_it_and_normalised_over_the_batch() -> None:
    algo = make()
    first = advantages(step(algo, {"a": 1.0, "b": 0.0, "c": 0.0, "d": 0.0}))
    raw = [0.5, -0.5, -0.5, -0.5]  # nothing is known: V = 0.5
    mean, std = statistics.fmean(raw), statistics.stdev(raw)
    assert first == pytest.approx([(a - mean) / (std + 1e-8) for a in raw], rel=1e-12)
    # alpha = beta = 1/2 and rho = 0.96: (0.48 + 1) / 1.96 after a right answer, 0.48 / 1.96 after a wrong one
    assert algo.tracker.value("a") == pytest.approx(1.48 / 1.96)
    assert algo.tracker.value("b") == pytest.approx(0.48 / 1.96)
    assert algo.tracker.length("b") == pytest.approx(
        8 + (2 - 8) / 1.96
    )  # from the longest answer towards its own
    second = advantages(step(algo, {"a": 1.0, "b": 1.0, "new": 1.0}))
    raw = [1 - 1.48 / 1.96, 1 - 0.48 / 1.96, 0.5]
    mean, std = statistics.fmean(raw), statistics.stdev(raw)
    assert second == pytest.approx([(a - mean) / (std + 1e-8) for a in raw], rel=1e-12)


def test_the_mean_goes_without_a_division_too() -> None:
    got = advantages(step(make(scale_rewards="none"), {"a": 1.0, "b": 0.0, "c": 0.0, "d": 0.0}))
    assert got == pytest.approx([0.75, -0.25, -0.25, -0.25])


def test_a_batch_of_equal_advantages_teaches_nothing() -> None:
    assert advantages(step(make(), {"a": 1.0, "b": 1.0, "c": 1.0})) == [0.0] * 3


def test_the_vectors_of_two_visits() -> None:
    """Scores 0.75 and 0.25 from a tracker that knows nothing (N = 0), as in papers.md 2.3."""
    algo = make()
    algo.tracker.start("a", 0.0, 0.0)
    step(algo, {"a": 0.75})
    assert (algo.tracker.value("a"), algo.tracker.records["a"].visits) == (0.75, 1.0)
    step(algo, {"a": 0.25})
    assert (round(algo.tracker.value("a"), 4), algo.tracker.records["a"].visits) == (0.4949, 1.96)


def test_it_is_the_published_beta_over_many_visits() -> None:
    algo, alpha, beta = make(), 0.5, 0.5
    for k in range(30):
        r, drift = float(k % 3 == 0), 0.004 * (k % 4)
        step(algo, {"a": r}, drift=drift)
        rho = min(max(2 ** (-(drift if k else 0.0) / 0.06), 0.875), 0.96)
        alpha, beta = rho * alpha + r, rho * beta + 1 - r
    assert algo.tracker.value("a") == pytest.approx(alpha / (alpha + beta), rel=1e-9)
    assert algo.tracker.records["a"].visits == pytest.approx(alpha + beta, rel=1e-9)


def test_the_drift_is_measured_on_the_last_answer_with_the_learner_s_own_log_probs() -> None:
    algo = make()
    sampler = ScriptedSampler(write, stop_ids=[STOP])
    (group,) = algo.collect([question("a")], sampler.sample, seed=1)
    group = with_scores(group, [1.0])
    (fresh,) = algo.rescore([group])
    assert fresh.completion_ids == [50, STOP] and fresh.completion_logprobs == [-1.0, -1.0]
    algo.credit([group], [[-1.5, -1.25]])  # as the learner sees what the sampler wrote with -1, -1
    stored, fresh = algo.rescore([group])
    assert stored.completion_logprobs == [-1.5, -1.25]
    algo.credit([group], [[-1.51, -1.24], [-1.0, -1.0]])
    assert algo.metrics()["spo/drift"] == pytest.approx(0.01)
    assert algo.metrics()["spo/rho_mean"] == pytest.approx(2 ** (-1 / 6))
    assert algo.tracker.records["a"].visits == pytest.approx(2 ** (-1 / 6) * 1.96 + 1)


def test_a_half_life_of_drift_halves_the_memory_within_its_bounds() -> None:
    algo = make(rho_min=0.25)
    step(algo, {"a": 1.0})
    step(algo, {"a": 1.0, "b": 1.0}, drift=0.06)
    metrics = algo.metrics()
    assert (metrics["spo/rho_min"], metrics["spo/rho_max"]) == (pytest.approx(0.5), 0.96)
    assert metrics["spo/drift"] == pytest.approx(0.06)  # of the prompt that was met before
    assert metrics["spo/prompts_met"] == 2.0


def test_prompts_are_drawn_by_the_root_of_v_times_one_minus_v() -> None:
    algo = make()
    algo.tracker.start("fair", 0.2, 1.0)
    algo.tracker.start("easy", 1.0, 1.0)
    assert algo.prompt_weights(["easy", "fair", "new"]) == pytest.approx([0.05, 0.45, 0.55])


def test_several_answers_meet_one_value_which_moves_by_their_mean() -> None:
    algo = make(num_generations=4, scale_rewards="none")
    got = advantages(step(algo, {"a": [1.0, 0.0, 0.0, 0.0], "b": [1.0, 1.0, Score(None), 1.0]}))
    raw = [0.5, -0.5, -0.5, -0.5, 0.5, 0.5, 0.5]
    assert got == pytest.approx([a - statistics.fmean(raw) for a in raw])
    assert algo.tracker.value("a") == pytest.approx((0.48 + 0.25) / 1.96)
    assert algo.tracker.value("b") == pytest.approx((0.48 + 1.0) / 1.96)


@pytest.mark.parametrize("verdict", [Score(None), Score(None, error=True)], ids=["skip", "error"])
def test_an_answer_that_cannot_be_judged_moves_nothing(verdict: Score) -> None:
    algo = make(scale_rewards="none")
    credits = step(algo, {"a": verdict, "b": 1.0, "c": 0.0})
    assert [c.group for c in credits] == [1, 2]
    assert advantages(credits) == pytest.approx([0.5, -0.5])
    assert set(algo.tracker.records) == {"b", "c"}
    step(
        algo, {"b": verdict, "a": 1.0, "c": 1.0}, drift=1.0
    )  # a stored answer without a new one, and the reverse
    assert (algo.tracker.records["b"].visits, algo.tracker.records["a"].visits) == (1.96, 1.96)
    assert algo.tracker.records["c"].visits == pytest.approx(0.875 * 1.96 + 1)


# -- a first value from initial samples ----------------------------------------------------------------------------------


def test_initial_samples_set_the_first_value_and_are_not_trained() -> None:
    algo = make(initial_samples=3, scale_rewards="none")
    sampler = ScriptedSampler(write, stop_ids=[STOP])
    (group,) = algo.collect([question("a")], sampler.sample, seed=1)
    assert [r.n for r in sampler.requests] == [1, 3]
    assert len({r.seed for r in sampler.requests}) == 2
    assert [len(c.rollouts) for c in group.children] == [1, 3] and group.rollouts == []
    credits = step(algo, {"a": 1.0, "b": 0.0}, initial={"a": [1.0, 1.0, 0.0], "b": [Score(None), 0.0, 0.0]})
    v_a, v_b = (2 + 0.5) / 4, 0.5 / 3  # smoothed, over those that could be judged
    assert len(credits) == 2
    raw = [1 - v_a, 0 - v_b]
    assert advantages(credits) == pytest.approx([a - sum(raw) / 2 for a in raw])
    # N0 = 1 / (1 - 0.875) = 8
    assert algo.tracker.value("a") == pytest.approx(v_a + (1 - v_a) / (0.96 * 8 + 1))
    assert algo.tracker.records["b"].visits == pytest.approx(0.96 * 8 + 1)


def test_initial_samples_are_drawn_at_the_first_visit_only() -> None:
    algo = make(initial_samples=2)
    step(algo, {"a": 1.0}, initial={"a": [1.0, 0.0]})
    sampler = ScriptedSampler(write, stop_ids=[STOP])
    groups = algo.collect([question("a"), question("b")], sampler.sample, seed=2)
    assert [(r.prompt_id, r.n) for r in sampler.requests] == [("a", 1), ("b", 1), ("b", 2)]
    assert [len(g.children) for g in groups] == [0, 2]


def test_a_prompt_that_comes_twice_in_one_step_begins_once() -> None:
    algo = make(initial_samples=2)
    sampler = ScriptedSampler(write, stop_ids=[STOP])
    groups = []
    for group, first in zip(
        algo.collect([question("a"), question("a")], sampler.sample, seed=1), (1.0, 0.0), strict=True
    ):
        answers, initial = group.children
        groups.append(
            replace(group, children=[with_scores(answers, [1.0]), with_scores(initial, [first] * 2)])
        )
    algo.credit(groups, [[-1.0, -1.0]] * len(algo.rescore(groups)))
    start = 2.5 / 3  # of the first group's; the second answer is one more visit
    after = start + (1 - start) / (0.96 * 8 + 1)
    visits = 0.96 * 8 + 1
    assert algo.tracker.value("a") == pytest.approx(after + (1 - after) / (0.96 * visits + 1))


def test_initial_samples_that_cannot_be_judged_leave_the_neutral_value() -> None:
    algo = make(initial_samples=2)
    step(algo, {"a": 1.0}, initial={"a": [Score(None), Score(None, error=True)]})
    assert algo.tracker.value("a") == pytest.approx(1.48 / 1.96)


# -- the loss ------------------------------------------------------------------------------------------------------------


def test_every_token_of_the_batch_weighs_the_same() -> None:
    credits = step(make(), {"a": 1.0, "B": 0.0})
    assert [(c.weight, c.share) for c in credits] == [(1.0, 2.0), (1.0, 3.0)]
    assert {c.surrogate for c in credits} == {"ppo"}


def test_truncated_answers_can_be_masked() -> None:
    algo = make(mask_truncated_completions=True)
    sampler = ScriptedSampler(lambda request, i: Answer([50] * request.max_tokens), stop_ids=[STOP])
    (group,) = algo.collect([question("a")], sampler.sample, seed=1)
    group = with_scores(group, [1.0])
    (credit,) = algo.credit([group], [[-1.0] * 8])
    assert (credit.weight, credit.share) == (0.0, 0.0)


@pytest.mark.parametrize(
    "ratio, advantage, pull",
    [
        (1.0, 0.5, 0.5),
        (1.27, 0.5, 1.27 * 0.5),
        (1.29, 0.5, 0.0),
        (0.79, -0.5, 0.0),
        (1.29, -0.5, -1.29 * 0.5),
    ],
)
def test_the_loss_is_ppo_s_with_clip_higher(ratio: float, advantage: float, pull: float) -> None:
    algo = make()
    (credit,) = step(algo, {"a": 1.0})
    credit = replace(credit, advantages=[advantage] * 2)
    ((batch,),) = make_minibatches([credit], 1, 64, pad_id=0)
    old_BT = torch.full_like(batch.adv_BT, -2.0)
    logp_BT = (old_BT + math.log(ratio)).requires_grad_()
    out = TokenStats(
        logp_BT=logp_BT, old_logp_BT=old_BT, entropy_BT=torch.zeros_like(old_BT), num_high_entropy=2
    )
    loss, _ = algo.loss(batch, out)
    loss.backward()
    assert logp_BT.grad is not None
    assert logp_BT.grad[batch.mask_BT].tolist() == pytest.approx([-pull / 2] * 2, rel=1e-6)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"scale_rewards": "group"}, "one answer has no group"),
        ({"scale_rewards": "batch"}, "one answer has no group"),
        ({"initial_samples": -1}, "algo.initial_samples"),
        ({"tau_half": 0.0}, "algo.tau_half"),
        ({"rho_min": 0.97}, "rho_min <= rho_max"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SpoConfig(**changes)


# -- state ---------------------------------------------------------------------------------------------------------------


def test_a_restart_gives_the_same_next_credit() -> None:
    algo = make()
    step(algo, {"a": 1.0, "b": 0.0})
    step(algo, {"b": 1.0, "c": 0.0}, drift=0.007)
    again = make()
    again.load_state_dict(algo.state_dict())
    scores: dict[str, Any] = {"a": 0.0, "b": 1.0, "d": 1.0}
    assert step(again, scores, drift=0.005) == step(algo, scores, drift=0.005)
    assert again.tracker.records == algo.tracker.records and again.metrics() == algo.metrics()
