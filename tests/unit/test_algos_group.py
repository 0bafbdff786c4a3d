"""The family: whom it credits, by hand (sections 3.4, 4, 5 and 7 of the papers' specification)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from rlkit.algo_config import AlgoConfig, FamilyConfig
from rlkit.algo_presets import (
    ALGO_CONFIGS,
    CispoConfig,
    DapoConfig,
    DrGrpoConfig,
    GrpoConfig,
    GrpoNConfig,
    GspoConfig,
    GspoNConfig,
    LuspoConfig,
    NsrConfig,
    PsrConfig,
    ReinforcePpBaselineConfig,
    ReinforcePpConfig,
    RlooConfig,
    WReinforceConfig,
)
from rlkit.algos.base import Sampling
from rlkit.algos.family import Family
from rlkit.algos.groups import weights_and_shares
from rlkit.algos.ops import group_advantages, overlong_punishment, seed_of
from rlkit.build import make_algorithm
from rlkit.samplers.scripted import Answer, ScriptedSampler
from rlkit.types import Credit, Group, Score
from tests.rollouts import question, rollout, scored_group

SAMPLING = Sampling(max_completion_length=8, temperature=0.7)
THREE_OF_EIGHT = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
FAMILY = {name: config for name, config in ALGO_CONFIGS.items() if issubclass(config, FamilyConfig)}
EXACT = {"scale_std": "population", "std_eps": 0.0}
"""The formula without TRL's n - 1 and 1e-4."""


def exact(kind: type[FamilyConfig] = GrpoConfig, **changes: Any) -> FamilyConfig:
    return kind(**{**EXACT, **changes})


def credit(cfg: FamilyConfig, *groups: Sequence[float | Score]) -> list[Credit]:
    return Family(cfg, SAMPLING).credit([scored_group(scores) for scores in groups], [])


def first_advantages(cfg: FamilyConfig, *groups: Sequence[float | Score]) -> list[float]:
    """One per answer: all its tokens have the same."""
    credits = credit(cfg, *groups)
    assert all(len(set(c.advantages)) == 1 for c in credits)
    return [c.advantages[0] for c in credits]


def rounded(values: Sequence[float]) -> list[float]:
    return [round(v, 3) for v in values]


# -- the group as baseline ---------------------------------------------------------------------------------------------


def test_three_of_eight_right_with_the_population_deviation() -> None:
    assert rounded(first_advantages(exact(), THREE_OF_EIGHT)) == [1.291] * 3 + [-0.775] * 5


def test_three_of_eight_right_as_trl_scales_it() -> None:
    assert rounded(first_advantages(GrpoConfig(), THREE_OF_EIGHT)) == [1.207] * 3 + [-0.724] * 5


@pytest.mark.parametrize("right, expected", [(7, -2.646), (4, -1.0), (1, -0.378)])
def test_a_wrong_answer_among_right_ones_weighs_minus_sqrt_p_over_1_minus_p(
    right: int, expected: float
) -> None:
    rewards = [1.0] * right + [0.0] * (8 - right)
    assert first_advantages(exact(), rewards)[-1] == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("scale", ["group", "batch", "batch_advantages", "none"])
@pytest.mark.parametrize("baseline", ["group", "leave_one_out"])
def test_equal_rewards_have_advantages_of_exactly_zero(baseline: Any, scale: Any) -> None:
    # 0.1 * 3 / 3 is not 0.1 in floats: a mean of equal numbers must not leave a last bit behind.
    cfg = GrpoConfig(baseline=baseline, scale_rewards=scale)
    assert first_advantages(cfg, [0.1, 0.1, 0.1], [1.0])[:3] == [0.0] * 3
    assert first_advantages(cfg, [0.1, 0.1, 0.1], [1.0, 0.0, 0.0], [1.0])[::6] == [0.0, 0.0]


def test_equal_rewards_are_not_divided_by_nothing() -> None:
    assert first_advantages(exact(), [1.0, 1.0], [0.0, 1.0]) == [0.0, 0.0, -1.0, 1.0]
    assert first_advantages(exact(ReinforcePpConfig), [1.0, 1.0], [1.0]) == [0.0] * 3


@pytest.mark.parametrize("scale", ["batch", "batch_advantages", "none"])
def test_a_batch_of_equal_rewards_has_advantages_of_exactly_zero(scale: Any) -> None:
    cfg = ReinforcePpConfig(scale_rewards=scale)
    assert first_advantages(cfg, [0.1, 0.1], [0.1]) == [0.0] * 3


def test_rewards_of_plus_minus_one_equal_rewards_of_one_and_zero() -> None:
    signed = first_advantages(exact(signed_rewards=True), THREE_OF_EIGHT)
    assert signed == pytest.approx(first_advantages(exact(), THREE_OF_EIGHT), abs=1e-12)


def test_the_batch_deviation_is_shared_and_none_divides_by_nothing() -> None:
    # 1, 0, 0.5, 0: mean 0.375, squares 0.390625 + 2 * 0.140625 + 0.015625 = 0.6875, over 3
    shared = (0.6875 / 3) ** 0.5 + 1e-4
    got = first_advantages(GrpoConfig(scale_rewards="batch"), [1.0, 0.0], [0.5, 0.0])
    assert got == pytest.approx([0.5 / shared, -0.5 / shared, 0.25 / shared, -0.25 / shared])
    got = first_advantages(GrpoConfig(scale_rewards="none"), [1.0, 0.0], [0.5, 0.0])
    assert got == [0.5, -0.5, 0.25, -0.25]


def test_dr_grpo_leaves_the_deviation_and_the_length_out() -> None:
    credits = credit(DrGrpoConfig(), THREE_OF_EIGHT)
    assert [c.advantages[0] for c in credits] == [0.625] * 3 + [-0.375] * 5
    assert {(c.weight, c.share) for c in credits} == {(1 / 8, 1.0)}  # the longest answer has 8 tokens


# -- other baselines ---------------------------------------------------------------------------------------------------


def test_rloo_compares_with_the_mean_of_the_others() -> None:
    """1, 0, 0.5 and one that nobody could judge: 1 - 0.25, 0 - 0.75, 0.5 - 0.5."""
    credits = credit(RlooConfig(), [1.0, 0.0, 0.5, Score(None)])
    assert [c.advantages for c in credits] == [[0.75] * 4, [-0.75] * 4, [0.0] * 4]
    assert {(c.weight, c.share, c.surrogate) for c in credits} == {(1.0, 1.0, "plain")}


def test_leave_one_out_is_the_group_s_advantage_times_n_over_n_minus_1() -> None:
    whole = first_advantages(GrpoConfig(scale_rewards="none"), THREE_OF_EIGHT)
    assert first_advantages(RlooConfig(), THREE_OF_EIGHT) == pytest.approx([a * 8 / 7 for a in whole])


def test_reinforce_pp_normalises_over_the_batch() -> None:
    """1, 0, 0, 0: mean 0.25, deviation sqrt((0.5625 + 3 * 0.0625) / 3) = 0.5."""
    got = first_advantages(ReinforcePpConfig(), [1.0, 0.0], [0.0, 0.0])
    assert got == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-7)


def test_reinforce_pp_does_with_one_answer_per_prompt() -> None:
    got = first_advantages(ReinforcePpConfig(num_generations=1), [1.0], [0.0], [0.0], [0.0])
    assert got == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-7)


def test_reinforce_pp_baseline_takes_the_deviation_of_centred_rewards() -> None:
    """0.5, -0.5, 0, 0: deviation sqrt(0.5 / 3). TRL's `batch` would divide by that of the raw rewards, 0.5."""
    groups = [1.0, 0.0], [0.0, 0.0]
    got = first_advantages(ReinforcePpBaselineConfig(), *groups)
    assert got == pytest.approx([1.5**0.5, -(1.5**0.5), 0.0, 0.0], abs=1e-7)
    raw = first_advantages(ReinforcePpBaselineConfig(scale_rewards="batch"), *groups)
    assert raw == pytest.approx([1.0, -1.0, 0.0, 0.0], abs=1e-7)


def test_normalised_advantages_have_mean_0_and_deviation_1() -> None:
    groups = [1.0, 0.0, 0.3], [0.9, 0.0], [0.25, 0.5, 0.5, 1.0]
    for cfg in (
        exact(ReinforcePpConfig),
        exact(ReinforcePpConfig, scale_rewards="batch_advantages"),
        exact(ReinforcePpBaselineConfig),
    ):
        got = first_advantages(cfg, *groups)
        assert sum(got) == pytest.approx(0, abs=1e-12)
        assert sum(a * a for a in got) / len(got) == pytest.approx(1)


# -- signs -------------------------------------------------------------------------------------------------------------


def test_grpo_n_keeps_only_what_is_below_its_group() -> None:
    credits = credit(exact(GrpoNConfig), THREE_OF_EIGHT)
    assert rounded([c.advantages[0] for c in credits]) == [0.0] * 3 + [-0.775] * 5
    assert sum(c.share for c in credits) == 8  # the positives still count in the denominator


def test_grpo_n_calls_a_fair_answer_below_its_groups_mean_a_negative() -> None:
    assert first_advantages(exact(GrpoNConfig), [1.0, 1.0, 0.7])[2] == pytest.approx(-(2**0.5))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_groups_of_one_outcome_give_grpo_n_nothing(value: float) -> None:
    assert first_advantages(GrpoNConfig(), [value] * 4) == [0.0] * 4


def test_nsr_pushes_an_all_wrong_group_down_and_leaves_right_answers_alone() -> None:
    assert first_advantages(NsrConfig(), [0.0] * 4) == [-1.0] * 4
    assert first_advantages(NsrConfig(), [1.0, 0.0], [1.0, Score(None)]) == [0.0, -1.0, 0.0]


def test_psr_is_its_mirror_and_w_reinforce_weighs_right_answers_a_tenth() -> None:
    assert first_advantages(PsrConfig(), [1.0, 0.0], [0.0, 0.0]) == [1.0, 0.0, 0.0, 0.0]
    assert first_advantages(WReinforceConfig(), [1.0, 0.0], [0.0]) == [0.1, -1.0, -1.0]
    assert first_advantages(WReinforceConfig(positive_weight=1.0), [1.0, 0.0]) == [1.0, -1.0]  # REINFORCE


def test_psr_and_nsr_add_up_to_reinforce() -> None:
    both = zip(*(first_advantages(c(), [1.0, 0.0, 0.25]) for c in (PsrConfig, NsrConfig)), strict=True)
    assert [a + b for a, b in both] == first_advantages(
        WReinforceConfig(positive_weight=1.0), [1.0, 0.0, 0.25]
    )


def test_nsr_weighs_all_tokens_alike() -> None:
    credits = Family(NsrConfig(), SAMPLING).credit(
        [Group(prompt=question(), rollouts=[rollout([5, 3], score=0.0), rollout([5, 6, 7, 3], score=0.0)])],
        [],
    )
    assert [(c.weight, c.share) for c in credits] == [(1.0, 2.0), (1.0, 4.0)]


# -- overlong answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens, expected", [(1, 0.0), (6, 0.0), (7, -0.5), (8, -1.0), (9, -1.0)])
def test_the_soft_overlong_punishment_has_three_zones(tokens: int, expected: float) -> None:
    """At most 8 tokens, the last quarter of them punished: none up to 6, half of it at 7, all of it from 8 on."""
    assert overlong_punishment(tokens, 8, 0.25) == expected


def test_dapo_s_numbers() -> None:
    assert [overlong_punishment(n, 20480, 0.2) for n in (16384, 17408, 20480)] == [0.0, -0.25, -1.0]


def test_the_punishment_is_added_to_the_signed_reward() -> None:
    """Right in 6 tokens, right in 7, wrong in 8 with penalty 0.5: 1, 1 - 0.25, -1 - 0.5; mean 1 / 12."""
    answers = [rollout([50] * n, score=s, stop=n < 8) for n, s in ((6, 1.0), (7, 1.0), (8, 0.0))]
    cfg = DapoConfig(scale_rewards="none", overlong_buffer=0.25, overlong_penalty=0.5)
    algo = Family(cfg, SAMPLING)
    credits = algo.credit([Group(prompt=question(), rollouts=answers)], [])
    assert [c.advantages[0] for c in credits] == pytest.approx([11 / 12, 8 / 12, -19 / 12])
    assert [c.weight for c in credits] == [1.0, 1.0, 0.0]  # the last was cut: it counts, and is not trained
    assert algo.metrics() == {"rewards/overlong/mean": pytest.approx(-0.25)}


def test_without_a_buffer_nothing_is_punished_or_said() -> None:
    algo = Family(DapoConfig(overlong_buffer=0.0), SAMPLING)
    credits = algo.credit(
        [Group(prompt=question(), rollouts=[rollout([5] * 8, score=s) for s in (0, 1)])], []
    )
    assert credits[1].advantages[0] == -credits[0].advantages[0] and algo.metrics() == {}


# -- normalisers -------------------------------------------------------------------------------------------------------


def answers_of(*lengths: int, cut: Sequence[int] = ()) -> Group:
    rollouts = [rollout([50] * n, score=float(i % 2), stop=i not in cut) for i, n in enumerate(lengths)]
    return Group(prompt=question(), rollouts=rollouts)


@pytest.mark.parametrize(
    "normalizer, expected",
    [
        ("sequence", [(1 / 2, 1.0), (1 / 6, 1.0)]),
        ("token", [(1.0, 2.0), (1.0, 6.0)]),
        ("group_token", [(1 / 8, 0.5), (1 / 8, 0.5)]),
        ("constant", [(1 / 8, 1.0), (1 / 8, 1.0)]),
        ("sum", [(1.0, 1.0), (1.0, 1.0)]),
    ],
)
def test_normalisers_are_a_weight_and_a_share(normalizer: Any, expected: list[tuple[float, float]]) -> None:
    """Answers of 2 and 6 tokens, at most 8 allowed."""
    credits = Family(GrpoConfig(normalizer=normalizer), SAMPLING).credit([answers_of(2, 6)], [])
    assert [(c.weight, c.share) for c in credits] == expected


@pytest.mark.parametrize(
    "normalizer, expected",
    [
        ("sequence", [(1 / 2, 1.0), (0.0, 1.0)]),
        ("token", [(1.0, 2.0), (0.0, 0.0)]),
        ("group_token", [(1 / 2, 0.5), (0.0, 0.5)]),
        ("constant", [(1 / 8, 1.0), (0.0, 1.0)]),
        ("sum", [(1.0, 1.0), (0.0, 1.0)]),
    ],
)
def test_truncated_answers_leave_counts_of_tokens_and_stay_in_counts_of_answers(
    normalizer: Any, expected: list[tuple[float, float]]
) -> None:
    """Answers of 2 and 8 tokens, the second cut at the limit."""
    cfg = GrpoConfig(normalizer=normalizer, mask_truncated_completions=True)
    credits = Family(cfg, SAMPLING).credit([answers_of(2, 8, cut=[1])], [])
    assert [(c.weight, c.share) for c in credits] == expected
    kept = Family(replace(cfg, mask_truncated_completions=False), SAMPLING)
    assert all(c.weight > 0 for c in kept.credit([answers_of(2, 8, cut=[1])], []))


def test_a_truncated_answer_still_counts_in_its_group_s_mean() -> None:
    cfg = GrpoConfig(mask_truncated_completions=True, scale_rewards="none")
    credits = Family(cfg, SAMPLING).credit([answers_of(2, 2, 8, cut=[2])], [])
    assert [c.advantages[0] for c in credits] == pytest.approx([-1 / 3, 2 / 3, -1 / 3])


def test_a_group_cut_whole_has_no_weight_under_any_normaliser() -> None:
    group = answers_of(8, 8, cut=[0, 1]).rollouts
    for normalizer in ("sequence", "token", "group_token", "constant", "sum"):
        assert {w for w, _ in weights_and_shares(group, normalizer, 8, mask_truncated=True)} == {0.0}


def test_group_tokens_give_every_prompt_one_share() -> None:
    cfg = GrpoConfig(normalizer="group_token")
    credits = Family(cfg, SAMPLING).credit([answers_of(1, 3), answers_of(8, 8, 8)], [])
    per_group = [sum(c.share for c in credits if c.group == g) for g in (0, 1)]
    weights = [sum(c.weight * len(c.advantages) for c in credits if c.group == g) for g in (0, 1)]
    assert per_group == pytest.approx([1.0, 1.0]) and weights == pytest.approx([1.0, 1.0])


# -- what all of them share --------------------------------------------------------------------------------------------


def test_each_prompt_is_asked_g_times_with_its_own_seed() -> None:
    sampler = ScriptedSampler(lambda request, i: Answer([50, 3]), stop_ids=[3])
    groups = Family(GrpoConfig(num_generations=2), SAMPLING).collect(
        [question("a"), question("b")], sampler.sample, seed=5
    )
    assert [(g.prompt.id, len(g.rollouts)) for g in groups] == [("a", 2), ("b", 2)]
    asked = [(r.n, r.max_tokens, r.temperature, r.seed) for r in sampler.requests]
    assert asked == [(2, 8, 0.7, seed_of(5, 0)), (2, 8, 0.7, seed_of(5, 1))]


def test_skips_and_errors_leave_the_group_before_its_mean_is_taken() -> None:
    scores = [1.0, 0.0, Score(None, reason="no gold answer"), Score(0.5, reason="timed out", error=True)]
    assert first_advantages(exact(), scores) == [1.0, -1.0]  # mean 0.5, deviation 0.5, of the two judged


def test_a_group_that_nobody_could_judge_gives_no_credit() -> None:
    credits = credit(exact(), [Score(None)] * 3, [1.0, 0.0])
    assert [c.group for c in credits] == [1, 1]


@pytest.mark.parametrize("name", FAMILY)
def test_a_step_that_nobody_could_judge_gives_no_credit(name: str) -> None:
    assert credit(FAMILY[name](), [Score(None)] * 3) == []


@pytest.mark.parametrize("name", FAMILY)
def test_every_preset_is_the_family_with_its_own_surrogate(name: str) -> None:
    cfg = FAMILY[name]()
    algo = make_algorithm(cfg, SAMPLING)
    assert isinstance(algo, Family)
    credits = algo.credit([scored_group([1.0, 0.0, 0.0])], [])
    assert {c.surrogate for c in credits} == {cfg.surrogate}
    assert any(any(c.advantages) for c in credits)


def test_defaults_are_the_papers() -> None:
    def clip(cfg: AlgoConfig) -> tuple[float, float]:
        return (1 - cfg.epsilon, 1 + cfg.clip_high)

    assert clip(GrpoConfig()) == clip(GrpoNConfig()) == clip(NsrConfig()) == (0.8, 1.2)
    assert clip(DapoConfig()) == (0.8, 1.28)
    assert clip(GspoConfig()) == clip(GspoNConfig()) == clip(LuspoConfig()) == (1 - 3e-4, 1 + 4e-4)
    assert clip(CispoConfig()) == (0.0, 5.0)
    assert {config().beta for config in FAMILY.values()} == {0.0}
    assert WReinforceConfig().positive_weight == 0.1
    assert DapoConfig().overlong_buffer * 20480 == 4096


def test_an_algorithm_without_memory_refuses_a_state() -> None:
    algo = Family(GrpoConfig(), SAMPLING)
    algo.load_state_dict(algo.state_dict())
    with pytest.raises(ValueError, match="Family keeps no state"):
        algo.load_state_dict({"steps": 1})


def test_group_advantages_read_any_algorithm_s_scale() -> None:
    assert rounded(group_advantages([THREE_OF_EIGHT], AlgoConfig())[0]) == [1.207] * 3 + [-0.724] * 5
