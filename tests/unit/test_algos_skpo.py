"""SKPO: one segment, many futures (papers.md sections 1.2 to 1.5, 1.11, 2.3 and 7)."""

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from rlkit.algo_own import SkpoConfig
from rlkit.algos.base import Sampling
from rlkit.algos.skpo import Skpo, choose_segment, cut_early, skip_prompt
from rlkit.algos.tracker import Record
from rlkit.batch import SURROGATES, TokenStats, make_minibatches
from rlkit.errors import ConfigError
from rlkit.samplers.scripted import Answer, ScriptedSampler
from rlkit.types import Credit, Group, Prompt, Request, Score
from tests.rollouts import question, rollout

STOP = 3
CAP = 24
SKIP = ([1], [70, 40, 2])
"""The user turn opened; a blank line, the question and the turn closed."""


def make(**changes: Any) -> Skpo:
    return Skpo(
        SkpoConfig(**{"num_generations": 4, **changes}),
        Sampling(max_completion_length=CAP, temperature=1.0),
    )


def never_ends(request: Request, i: int) -> Answer:
    """Token 50 + i to the end; continuation i is written with log-probs of -1 - i."""
    return Answer([50 + i] * request.max_tokens, [-1.0 - i] * request.max_tokens)


def sampler_of(write: Callable[[Request, int], Answer] = never_ends) -> ScriptedSampler:
    return ScriptedSampler(write, stop_ids=[STOP])


def prompts_of(*ids: str) -> list[Prompt]:
    return [question(i, skip=SKIP) for i in ids]


def judged(group: Group, scores: Sequence[float | Score]) -> Group:
    """The verdicts of the continuations; a segment's own answer, where there is one, is wrong."""
    child, *own = group.children
    verdicts = [s if isinstance(s, Score) else Score(s) for s in scores]
    rollouts = [replace(r, score=s) for r, s in zip(child.rollouts, verdicts, strict=True)]
    own = [replace(g, rollouts=[replace(r, score=Score(0.0)) for r in g.rollouts]) for g in own]
    return replace(group, children=[replace(child, rollouts=rollouts), *own])


def of_downstream(credits: Sequence[Credit]) -> list[Credit]:
    return [c for c in credits if c.surrogate == "cispo"]


def of_upstream(credits: Sequence[Credit]) -> list[Credit]:
    return [c for c in credits if c.surrogate == "ppo"]


def step(algo: Skpo, scores: dict[str, Sequence[float | Score]], drift: float = 0.0) -> list[Credit]:
    """One step whose prompts get these verdicts; `drift` moves every stored log-prob by as much."""
    groups = algo.collect(prompts_of(*scores), sampler_of().sample, seed=1)
    groups = [judged(g, s) for g, s in zip(groups, scores.values(), strict=True)]
    stored = algo.rescore(groups)
    return algo.credit(groups, [[v - drift for v in r.completion_logprobs] for r in stored])


# -- where to split ----------------------------------------------------------------------------------------------------


def test_the_split_lies_between_a_sixth_and_a_half_of_the_running_length() -> None:
    algo = Skpo(SkpoConfig(), Sampling(max_completion_length=3072, temperature=1.0))
    rng = random.Random(0)
    drawn = {algo.split_position("new", rng) for _ in range(5000)}
    assert min(drawn) in range(171, 175) and max(drawn) in range(508, 513)  # of 1024
    algo.tracker.records["met"] = Record(length=60.0)
    drawn = {algo.split_position("met", rng) for _ in range(5000)}
    assert drawn == set(range(10, 31))


def test_a_prompt_never_met_starts_at_the_cap_when_that_is_less_than_1024() -> None:
    drawn = {make().split_position("new", random.Random(i)) for i in range(2000)}
    assert drawn == set(range(CAP // 6, CAP // 2 + 1))


@pytest.mark.parametrize(
    "length, cap, bounds", [(2.0, 24, {1}), (500.0, 24, set(range(4, 13))), (3.0, 2, {1})]
)
def test_the_split_is_at_least_one_token_and_at_most_half_of_the_cap(
    length: float, cap: int, bounds: set[int]
) -> None:
    algo = Skpo(SkpoConfig(), Sampling(max_completion_length=cap, temperature=1.0))
    algo.tracker.records["a"] = Record(length=length)
    assert {algo.split_position("a", random.Random(i)) for i in range(500)} == bounds


def test_each_prompt_of_a_step_has_its_own_split_and_its_segments_share_it() -> None:
    sampler = sampler_of()
    make().collect(prompts_of(*"abcdefgh"), sampler.sample, seed=3)
    upstream = sampler.requests[:8]
    assert {r.n for r in upstream} == {4} and len({r.max_tokens for r in upstream}) > 1
    assert len({r.seed for r in sampler.requests}) == 16


# -- which segment -----------------------------------------------------------------------------------------------------


def test_the_median_of_four_is_the_lower_of_the_two_that_tie() -> None:
    assert choose_segment([[-0.9], [-1.0], [-1.3], [-2.0]], "median") == 1
    assert choose_segment([[-2.0], [-1.3], [-1.0], [-0.9]], "median") == 2


def test_equal_segments_are_ranked_by_index() -> None:
    assert choose_segment([[-1.0]] * 8, "median") == 3
    assert choose_segment([[-1.0]] * 5, "median") == 2


def test_the_likelihood_of_a_segment_is_its_mean_and_not_its_sum() -> None:
    assert choose_segment([[-1.0] * 9, [-2.0], [-3.0]], "median") == 1


def test_a_segment_that_ended_early_keeps_half_of_itself() -> None:
    cut = cut_early(rollout([50, 51, 52, 53, STOP], stop=True))
    assert (cut.completion_ids, cut.finish_reason, len(cut.logprobs)) == ([50, 51], "length", 5)
    assert cut.segments[-1].end == len(cut.token_ids)


def test_a_segment_cut_at_the_split_stays_as_it_is() -> None:
    whole = rollout([50, 51, 52], stop=False)
    assert cut_early(whole) is whole


def test_a_segment_that_is_only_the_end_is_trained_but_not_shown_to_the_continuations() -> None:
    cut = cut_early(rollout([STOP], stop=True))
    assert cut.completion_ids == [STOP]
    assert skip_prompt(prompts_of("a")[0], cut, SkpoConfig())[0] == [1, 70, 40, 2]


def test_early_finishers_are_cut_before_they_are_ranked() -> None:
    # Whole, the answer 50 51 STOP is the likeliest; its first half alone is the least likely.
    def write(request: Request, i: int) -> Answer:
        if request.token_ids != [1, 40, 2] or i > 0:
            return never_ends(request, i)
        return Answer([50, 51, STOP], [-9.0, -0.1, -0.1])

    algo = make(num_generations=3, split="fixed", split_low=0.4)
    (group,) = algo.collect(prompts_of("a"), sampler_of(write).sample, seed=1)
    assert group.rollouts[0].completion_ids[0] == 52  # means -9, -2, -3: the middle one is number 2


# -- [s, q] ------------------------------------------------------------------------------------------------------------


def kinds(algo: Skpo) -> tuple[list[int], list[tuple[str, int, int]]]:
    """Of one continuation: its prompt's token ids, and its segments."""
    (group,) = algo.collect(prompts_of("a"), sampler_of().sample, seed=1)
    r = group.children[0].rollouts[0]
    assert r.token_ids[: r.prompt_tokens] == group.children[0].prompt.token_ids
    return r.token_ids[: r.prompt_tokens], [(s.kind, s.start, s.end) for s in r.segments]


FIXED = {"split": "fixed", "split_low": 1 / 8}  # 3 of 24 tokens


def test_chat_format_puts_the_segment_into_the_user_turn_before_the_question() -> None:
    ids, segments = kinds(make(**FIXED))
    assert ids == [1, 51, 51, 51, 70, 40, 2]
    assert segments == [("prompt", 0, 1), ("context", 1, 4), ("prompt", 4, 7), ("completion", 7, 28)]


def test_raw_format_puts_the_segment_in_front_of_the_rendered_prompt() -> None:
    ids, segments = kinds(make(**FIXED, skip_format="raw"))
    assert ids == [51, 51, 51, 1, 40, 2]
    assert segments == [("context", 0, 3), ("prompt", 3, 6), ("completion", 6, 27)]


def test_without_skip_the_segment_is_a_plain_prefix() -> None:
    ids, segments = kinds(make(**FIXED, skip=False))
    assert ids == [1, 40, 2, 51, 51, 51]
    assert segments == [("prompt", 0, 3), ("context", 3, 6), ("completion", 6, 27)]


def test_chat_format_needs_prompts_with_room_for_a_segment() -> None:
    with pytest.raises(ConfigError, match="prompt a: rendered without room for a segment"):
        make().collect([question("a")], sampler_of().sample, seed=1)


def test_segment_and_continuation_together_stay_within_the_cap() -> None:
    algo = make()
    algo.tracker.records = {i: Record(length=float(n)) for n, i in enumerate("abcdefgh", start=1)}
    for group in algo.collect(prompts_of(*"abcdefgh"), sampler_of().sample, seed=1):
        s = len(group.rollouts[0].completion_ids)
        assert {len(o.completion_ids) for o in group.children[0].rollouts} == {CAP - s}


def test_at_least_one_token_is_left_for_the_continuation() -> None:
    algo = Skpo(SkpoConfig(num_generations=2), Sampling(max_completion_length=2, temperature=1.0))
    (group,) = algo.collect(prompts_of("a"), sampler_of().sample, seed=1)
    assert [len(o.completion_ids) for o in group.children[0].rollouts] == [1, 1]


def test_downstream_there_is_no_loss_on_segment_or_question() -> None:
    credits = step(make(**FIXED), {"a": [1.0, 0.0, 0.0, 0.0]})
    ((batch,),) = make_minibatches(credits, 1, 10_000, pad_id=0)
    for row, i in enumerate(batch.rows):
        trained = batch.ids_BT[row][batch.mask_BT[row]].tolist()
        start = 3 if credits[i].surrogate == "ppo" else 7
        assert trained == credits[i].rollout.token_ids[start:]


# -- rewards, tracker and baseline -------------------------------------------------------------------------------------


def test_three_of_eight_right_is_a_segment_reward_of_minus_a_quarter() -> None:
    algo = make(num_generations=8)
    step(algo, {"a": [1, 1, 1, 0, 0, 0, 0, 0]})
    assert algo.metrics()["skpo/upstream_reward"] == -0.25
    assert (algo.tracker.records["a"].value, algo.tracker.records["a"].visits) == (0.375, 1.0)


def test_the_baseline_is_the_value_before_this_visit_normalised_over_the_batch() -> None:
    algo = make(std_eps=0.0)
    first = of_upstream(step(algo, {"a": [1, 1, 1, 0], "b": [0, 0, 0, 0], "c": [1, 1, 1, 1]}))
    raw = [0.5, -1.0, 1.0]  # the baseline of a prompt never met is reward 0
    mean, std = statistics.fmean(raw), statistics.pstdev(raw)
    assert [c.advantages[0] for c in first] == pytest.approx([(a - mean) / std for a in raw])
    second = of_upstream(step(algo, {"a": [1, 1, 1, 0], "b": [1, 0, 0, 0], "c": [1, 1, 1, 1]}))
    raw = [0.5 - 0.5, -0.5 + 1.0, 1.0 - 1.0]  # the first visit overwrote the neutral value
    mean, std = statistics.fmean(raw), statistics.pstdev(raw)
    assert [c.advantages[0] for c in second] == pytest.approx([(a - mean) / std for a in raw])


def test_upstream_and_downstream_use_the_population_deviation_and_1e_minus_6() -> None:
    assert (SkpoConfig().scale_std, SkpoConfig().std_eps) == ("population", 1e-6)
    credits = step(make(), {"a": [1, 0, 0, 0], "b": [1, 1, 0, 0]})
    assert [c.advantages[0] for c in of_upstream(credits)] == pytest.approx(
        [-0.25 / (0.25 + 1e-6), 0.25 / (0.25 + 1e-6)], abs=1e-12
    )
    half = of_downstream(credits)[4:]
    assert [c.advantages[0] for c in half] == pytest.approx([s / (1 + 1e-6) for s in (1, 1, -1, -1)])


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_groups_of_one_outcome_teach_upstream_but_not_downstream(outcome: float) -> None:
    credits = step(make(), {"a": [outcome] * 4, "b": [1, 0, 1, 0]})
    assert of_upstream(credits)[0].advantages[0] == pytest.approx(2 * outcome - 1, abs=1e-5)
    assert {c.advantages[0] for c in of_downstream(credits)[:4]} == {0.0}


def test_the_drift_is_the_mean_change_of_the_stored_segments_log_probs() -> None:
    algo = make()
    step(algo, {"a": [1, 0, 0, 0]})
    assert algo.rescore([]) == []
    before = algo.tracker.records["a"]
    step(algo, {"a": [1, 0, 0, 0]}, drift=1.0)
    assert algo.metrics()["skpo/rho_min"] == pytest.approx(0.917, abs=5e-5)
    assert before.visits == pytest.approx(0.917 * 1 + 1, abs=5e-5)


def test_a_rescored_segment_is_the_one_of_the_last_visit() -> None:
    algo = make(**FIXED)
    step(algo, {"a": [1, 0, 0, 0]})
    (group,) = algo.collect(prompts_of("a"), sampler_of().sample, seed=2)
    (stored,) = algo.rescore([group])
    assert (stored.token_ids, stored.completion_ids) == ([1, 40, 2, 51, 51, 51], [51, 51, 51])
    assert stored.completion_logprobs == [-2.0] * 3


def test_prompts_are_drawn_with_the_square_root_of_v_times_one_minus_v() -> None:
    algo = make()
    algo.tracker.records = {"easy": Record(length=1, value=1.0), "fair": Record(length=1, value=0.2)}
    assert algo.prompt_weights(["easy", "fair", "new"]) == pytest.approx([0.05, 0.4 + 0.05, 0.5 + 0.05])


# -- verdicts that are none --------------------------------------------------------------------------------------------


def test_skips_and_errors_leave_the_continuations_and_the_segments_mean() -> None:
    algo = make()
    credits = step(
        algo,
        {"a": [1.0, 0.0, Score(None), Score(None, error=True)], "b": [1, 1, 1, 0], "c": [Score(None)] * 4},
    )
    assert [c.advantages[0] for c in of_downstream(credits)[:2]] == pytest.approx([1.0, -1.0], abs=1e-5)
    assert {c.group for c in credits} == {0, 1}
    assert algo.tracker.records["a"].value == 0.5 and "c" not in algo.tracker.records
    per_token = sum(c.weight * len(c.advantages) for c in of_downstream(credits)[:2])
    assert per_token == pytest.approx(0.5)  # the mean is over the tokens of the two that were judged


# -- the loss ----------------------------------------------------------------------------------------------------------


def test_half_the_loss_is_the_segments_token_mean_and_half_the_groups_token_mean() -> None:
    credits = step(make(**FIXED), {"a": [1, 0, 0, 0], "b": [1, 1, 0, 0]})
    assert {c.weight for c in of_upstream(credits)} == {0.5 / 3}
    assert {c.weight for c in of_downstream(credits)} == {0.5 / (4 * 21)}
    assert sum(c.share for c in credits) == 2.0  # prompts


def test_the_weights_of_the_two_objectives_are_options() -> None:
    credits = step(make(**FIXED, upstream_weight=0.25, downstream_weight=2.0), {"a": [1, 0, 0, 0]})
    assert (of_upstream(credits)[0].weight, of_downstream(credits)[0].weight) == (0.25 / 3, 2.0 / 84)


@pytest.mark.parametrize(
    "surrogate, advantage, pull",
    [("cispo", 0.5, 1.28 * 0.5), ("cispo", -0.5, -1.28 * 0.5), ("ppo", 0.5, 0.0), ("ppo", -0.5, -3.0 * 0.5)],
)
def test_a_ratio_of_three_is_capped_downstream_and_clipped_upstream(
    surrogate: Any, advantage: float, pull: float
) -> None:
    credit = Credit(rollout=rollout([50]), advantages=[advantage], weight=1.0, share=1.0, surrogate=surrogate)
    ((batch,),) = make_minibatches([credit], 1, 64, pad_id=0)
    old_BT = torch.full_like(batch.adv_BT, -2.0)
    logp_BT = (old_BT + torch.tensor(3.0).log()).requires_grad_()
    out = TokenStats(
        logp_BT=logp_BT, old_logp_BT=old_BT, entropy_BT=torch.zeros_like(old_BT), num_high_entropy=1
    )
    loss, metrics = make().loss(batch, out)
    loss.backward()
    assert logp_BT.grad is not None and logp_BT.grad.tolist() == [[pytest.approx(-pull, rel=1e-6)]]
    assert metrics["cispo_clip_ratio"].total == float(surrogate == "cispo" and advantage > 0)
    assert metrics["clip_ratio/high_mean"].total == float(surrogate == "ppo" and advantage > 0)
    assert SURROGATES[int(batch.surrogate_BT[0, -1])] == surrogate


def test_downstream_weights_are_clipped_from_below_too_and_carry_no_gradient_of_their_own() -> None:
    credit = Credit(rollout=rollout([50]), advantages=[1.0], weight=1.0, share=1.0, surrogate="cispo")
    ((batch,),) = make_minibatches([credit], 1, 64, pad_id=0)
    for ratio, pull in ((0.5, 0.8), (1.0, 1.0), (1.2, 1.2), (1.4, 1.28)):
        old_BT = torch.full_like(batch.adv_BT, -2.0)
        logp_BT = (old_BT + torch.tensor(ratio).log()).requires_grad_()
        out = TokenStats(
            logp_BT=logp_BT, old_logp_BT=old_BT, entropy_BT=torch.zeros_like(old_BT), num_high_entropy=1
        )
        make().loss(batch, out)[0].backward()
        assert logp_BT.grad is not None and logp_BT.grad[0, -1].item() == pytest.approx(-pull, rel=1e-6)


# -- ablations ---------------------------------------------------------------------------------------------------------


def test_without_mc_the_segment_is_credited_with_its_own_full_answer() -> None:
    algo = make(**FIXED, upstream_reward="own", std_eps=0.0)
    sampler = sampler_of()
    (group,) = algo.collect(prompts_of("a"), sampler.sample, seed=1)
    _, own = group.children
    assert [r.n for r in sampler.requests] == [4, 4, 1]
    assert sampler.requests[2].token_ids == [1, 40, 2, 51, 51, 51]
    assert own.rollouts[0].completion_ids == [51, 51, 51] + [50] * 21  # judged whole: s and what follows it
    assert len(own.rollouts[0].logprobs) == len(own.rollouts[0].token_ids) == 27
    credits = algo.credit([judged(group, [1, 1, 1, 0])], [])
    assert algo.metrics()["skpo/upstream_reward"] == -1.0  # `judged` calls the own answer wrong
    assert algo.tracker.records["a"].value == 0.0
    assert len(credits) == 5  # the own answer is not trained


def test_a_fixed_split_alternates_between_its_ends() -> None:
    algo, sampler = make(split="fixed"), sampler_of()
    for seed in range(4):
        algo.collect(prompts_of("a"), sampler.sample, seed=seed)
    assert [r.max_tokens for r in sampler.requests[::2]] == [CAP // 6, CAP // 2] * 2


def test_extreme_selection_alternates_between_least_and_most_likely() -> None:
    algo = make(selection="extreme")
    kept = [algo.collect(prompts_of("a"), sampler_of().sample, seed=i)[0].rollouts[0] for i in range(4)]
    assert [r.completion_ids[0] for r in kept] == [53, 50, 53, 50]


# -- state -------------------------------------------------------------------------------------------------------------


def test_a_restart_gives_the_same_next_credit() -> None:
    algo = make()
    step(algo, {"a": [1, 0, 0, 0], "b": [1, 1, 0, 1]})
    step(algo, {"b": [1, 0, 0, 0], "c": [1, 1, 0, 1]}, drift=0.7)
    again = make()
    again.load_state_dict(algo.state_dict())
    assert (again.steps, again.tracker.records) == (algo.steps, algo.tracker.records)
    scores: dict[str, Sequence[float | Score]] = {"a": [1, 0, 0, 1], "b": [0, 0, 0, 0], "d": [1, 1, 1, 1]}
    assert step(again, scores, drift=0.3) == step(algo, scores, drift=0.3)
    assert again.tracker.records == algo.tracker.records and again.metrics() == algo.metrics()
