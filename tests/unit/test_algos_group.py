"""GRPO, GRPO-N and GSPO-N: credit and loss, by hand (papers.md sections 3.4, 5 and 7)."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rlkit.algo_config import AlgoConfig, GrpoNConfig, GspoNConfig
from rlkit.algos.base import Sampling
from rlkit.algos.grpo import Grpo
from rlkit.algos.grpo_n import GrpoN
from rlkit.algos.gspo_n import GspoN
from rlkit.algos.ops import cispo_terms, group_advantages, k3, ppo_terms, seed_of, sequence_log_ratio
from rlkit.batch import Batch, TokenStats
from rlkit.samplers.scripted import Answer, ScriptedSampler
from rlkit.types import Score
from tests.rollouts import question, scored_group

SAMPLING = Sampling(max_completion_length=8, temperature=0.7)
THREE_OF_EIGHT = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def exact(**changes: Any) -> AlgoConfig:
    """The formula without TRL's 1e-4."""
    return AlgoConfig(**{"scale_std": "population", "std_eps": 0.0, **changes})


def batch_of(adv: list[list[float]], weight: float = 1.0) -> Batch:
    """Every token trained, each row as long as the others; denominator 1."""
    adv_BT = torch.tensor(adv, dtype=torch.float64)
    ids_BT = torch.zeros(adv_BT.shape, dtype=torch.int64)
    mask_BT = torch.ones(adv_BT.shape, dtype=torch.bool)
    return Batch(
        ids_BT=ids_BT,
        attention_BT=ids_BT + 1,
        mask_BT=mask_BT,
        sampler_logp_BT=torch.zeros_like(adv_BT),
        adv_BT=adv_BT,
        weight_BT=torch.full_like(adv_BT, weight),
        surrogate_BT=ids_BT,
        denominator=1.0,
        rows=list(range(len(adv))),
    )


def stats_of(ratio: list[list[float]]) -> tuple[Tensor, TokenStats]:
    """Old log-probs of -1 and present ones that make these ratios; the leaf to differentiate by comes first."""
    old_BT = torch.full_like(torch.tensor(ratio, dtype=torch.float64), -1.0)
    logp_BT = (old_BT + torch.tensor(ratio, dtype=torch.float64).log()).requires_grad_()
    return logp_BT, TokenStats(logp_BT=logp_BT, old_logp_BT=old_BT, entropy_BT=torch.zeros_like(old_BT))


def rounded(values: list[float]) -> list[float]:
    return [round(v, 3) for v in values]


# -- advantages --------------------------------------------------------------------------------------------------------


def test_three_of_eight_right_with_the_population_deviation() -> None:
    advantages = group_advantages([THREE_OF_EIGHT], exact())[0]
    assert rounded(advantages) == [1.291] * 3 + [-0.775] * 5


def test_three_of_eight_right_as_trl_scales_it() -> None:
    assert rounded(group_advantages([THREE_OF_EIGHT], AlgoConfig())[0]) == [1.207] * 3 + [-0.724] * 5


@pytest.mark.parametrize("right, expected", [(7, -2.646), (4, -1.0), (1, -0.378)])
def test_a_wrong_answer_among_right_ones_weighs_minus_sqrt_p_over_1_minus_p(
    right: int, expected: float
) -> None:
    rewards = [1.0] * right + [0.0] * (8 - right)
    assert group_advantages([rewards], exact())[0][-1] == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_equal_rewards_have_advantages_of_exactly_zero(scale: Any) -> None:
    # 0.1 * 3 / 3 is not 0.1 in floats: a mean of equal numbers must not leave a last bit behind.
    out = group_advantages([[0.1, 0.1, 0.1], [1.0, 0.0, 0.0], [1.0]], AlgoConfig(scale_rewards=scale))
    assert out[0] == [0.0, 0.0, 0.0] and out[2] == [0.0]


def test_rewards_of_plus_minus_one_equal_rewards_of_one_and_zero() -> None:
    signed = [2 * r - 1 for r in THREE_OF_EIGHT]
    assert group_advantages([signed], exact())[0] == pytest.approx(
        group_advantages([THREE_OF_EIGHT], exact())[0], abs=1e-12
    )


def test_the_batch_deviation_is_shared_and_none_divides_by_nothing() -> None:
    rewards = [[1.0, 0.0], [0.5, 0.0]]
    everything = torch.tensor([1.0, 0.0, 0.5, 0.0]).double()
    shared = float(everything.std()) + 1e-4
    assert group_advantages(rewards, AlgoConfig(scale_rewards="batch"))[1] == pytest.approx(
        [0.25 / shared, -0.25 / shared]
    )
    assert group_advantages(rewards, AlgoConfig(scale_rewards="none"))[1] == [0.25, -0.25]


# -- credit ------------------------------------------------------------------------------------------------------------


def test_grpo_asks_each_prompt_g_times_with_its_own_seed() -> None:
    sampler = ScriptedSampler(lambda request, i: Answer([50, 3]), stop_ids=[3])
    groups = Grpo(AlgoConfig(num_generations=2), SAMPLING).collect(
        [question("a"), question("b")], sampler.sample, seed=5
    )
    assert [(g.prompt.id, len(g.rollouts)) for g in groups] == [("a", 2), ("b", 2)]
    asked = [(r.n, r.max_tokens, r.temperature, r.seed) for r in sampler.requests]
    assert asked == [(2, 8, 0.7, seed_of(5, 0)), (2, 8, 0.7, seed_of(5, 1))]


def test_grpo_credits_every_token_with_one_over_the_answers_length() -> None:
    credits = Grpo(exact(), SAMPLING).credit([scored_group(THREE_OF_EIGHT, length=4)], [])
    assert rounded(credits[0].advantages) == [1.291] * 4
    assert {(c.weight, c.share, c.surrogate, c.group) for c in credits} == {(0.25, 1.0, "ppo", 0)}


def test_skips_and_errors_leave_the_group_before_its_mean_is_taken() -> None:
    scores = [1.0, 0.0, Score(None, reason="no gold answer"), Score(0.5, reason="timed out", error=True)]
    credits = Grpo(exact(), SAMPLING).credit([scored_group(scores)], [])
    assert [c.advantages[0] for c in credits] == [1.0, -1.0]  # mean 0.5, deviation 0.5, of the two judged


def test_a_group_that_nobody_could_judge_gives_no_credit() -> None:
    credits = Grpo(exact(), SAMPLING).credit([scored_group([Score(None)] * 3), scored_group([1.0, 0.0])], [])
    assert [c.group for c in credits] == [1, 1]


def test_grpo_n_keeps_only_what_is_below_its_group() -> None:
    credits = GrpoN(exact(name="grpo_n"), SAMPLING).credit([scored_group(THREE_OF_EIGHT)], [])
    assert rounded([c.advantages[0] for c in credits]) == [0.0] * 3 + [-0.775] * 5
    assert sum(c.share for c in credits) == 8  # the positives still count in the denominator


def test_grpo_n_calls_a_fair_answer_below_its_groups_mean_a_negative() -> None:
    credits = GrpoN(exact(), SAMPLING).credit([scored_group([1.0, 1.0, 0.7])], [])
    assert credits[2].advantages[0] == pytest.approx(-(2**0.5))


@pytest.mark.parametrize("algo", [Grpo, GrpoN, GspoN])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_right_and_all_wrong_groups_have_no_gradient(algo: Any, value: float) -> None:
    made = algo(GspoNConfig() if algo is GspoN else AlgoConfig(), SAMPLING)
    credits = made.credit([scored_group([value] * 4)], [])
    logp_BT, out = stats_of([[1.1, 0.9]] * 4)
    made.loss(batch_of([c.advantages[:2] for c in credits]), out)[0].backward()
    assert logp_BT.grad is not None and not logp_BT.grad.any()


# -- loss --------------------------------------------------------------------------------------------------------------


def test_ppo_stops_above_the_clip_for_good_tokens_and_below_it_for_bad_ones() -> None:
    #            within   above: stopped  below: pulls   within   above: pushes  below: stopped
    ratio = [[1.1, 1.5, 0.5, 1.1, 1.5, 0.5]]
    logp_BT, out = stats_of(ratio)
    loss, metrics = Grpo(AlgoConfig(), SAMPLING).loss(batch_of([[2.0, 2.0, 2.0, -2.0, -2.0, -2.0]]), out)
    assert loss.item() == pytest.approx(-(2.2 + 2.4 + 1.0 - 2.2 - 3.0 - 1.6))
    loss.backward()
    assert logp_BT.grad is not None
    assert logp_BT.grad[0].tolist() == pytest.approx([-2.2, 0.0, -1.0, 2.2, 3.0, 0.0])
    clipped = {name: tally.value for name, tally in metrics.items()}
    assert clipped == pytest.approx(
        {"clip_ratio/low_mean": 1 / 6, "clip_ratio/high_mean": 1 / 6, "clip_ratio/region_mean": 2 / 6}
    )


def test_cispo_still_pulls_where_ppo_has_stopped() -> None:
    old_BT = torch.full((1, 1), -2.0, dtype=torch.float64)
    adv_BT = torch.full((1, 1), 0.5, dtype=torch.float64)
    logp_BT = (old_BT + torch.tensor(3.0).double().log()).requires_grad_()
    cispo_terms((logp_BT - old_BT).exp(), logp_BT, adv_BT, 0.2, 0.28).sum().backward()
    assert logp_BT.grad is not None
    assert logp_BT.grad.item() == pytest.approx(1.28 * 0.5, abs=1e-15)
    logp_BT.grad = None
    ppo_terms((logp_BT - old_BT).exp(), adv_BT, 0.2, 0.28).sum().backward()
    assert logp_BT.grad.item() == 0.0


def test_the_penalty_is_k3_by_hand() -> None:
    logp_BT = torch.tensor([[-1.0, -2.0]], dtype=torch.float64)
    ref_BT = torch.tensor([[-1.0, -1.0]], dtype=torch.float64)
    mask_BT = torch.ones(1, 2, dtype=torch.bool)
    assert k3(logp_BT, ref_BT, mask_BT)[0].tolist() == pytest.approx([0.0, torch.e - 1 - 1])


def test_masked_tokens_have_no_pull_even_from_minus_infinity() -> None:
    batch = batch_of([[1.0, 1.0, 1.0]], weight=0.5)
    mask_BT = torch.tensor([[True, False, True]])
    masked = Batch(**{**{n: getattr(batch, n) for n in batch.__slots__}, "mask_BT": mask_BT})
    logp_BT = torch.tensor([[-1.0, float("-inf"), -2.0]], dtype=torch.float64, requires_grad=True)
    old_BT = torch.tensor([[-1.0, 0.0, -2.0]], dtype=torch.float64)
    out = TokenStats(logp_BT=logp_BT, old_logp_BT=old_BT, entropy_BT=torch.zeros_like(old_BT))
    Grpo(AlgoConfig(), SAMPLING).loss(masked, out)[0].backward()
    assert logp_BT.grad is not None and logp_BT.grad.tolist() == [[-0.5, 0.0, -0.5]]


def test_gspo_with_one_token_sequences_is_grpo_with_the_same_clip() -> None:
    ratio = [[1.5], [0.5], [1.1], [0.9], [1.5], [0.5]]
    adv = [[1.0], [1.0], [1.0], [-1.0], [-1.0], [-1.0]]
    losses, gradients, tallies = [], [], []
    for algo in (
        GspoN(GspoNConfig(epsilon=0.2, epsilon_high=0.28), SAMPLING),
        Grpo(AlgoConfig(epsilon=0.2, epsilon_high=0.28), SAMPLING),
    ):
        logp_BT, out = stats_of(ratio)
        loss, metrics = algo.loss(batch_of(adv), out)
        loss.backward()
        assert logp_BT.grad is not None
        losses.append(loss.item())
        gradients.append(logp_BT.grad)
        tallies.append(metrics)
    assert losses[0] == losses[1] and torch.equal(*gradients) and tallies[0] == tallies[1]


def test_gspo_gives_every_token_the_geometric_mean_of_the_ratios() -> None:
    mask_BT = torch.tensor([[True, True, False]])
    token_BT = torch.tensor([[0.2, 0.4, 9.0]], requires_grad=True)
    s_BT = sequence_log_ratio(token_BT.masked_fill(~mask_BT, 0.0), mask_BT)
    assert s_BT[0].tolist() == pytest.approx([0.3, 0.3, 0.0])
    s_BT[0, 0].backward()
    assert token_BT.grad is not None and token_BT.grad[0].tolist() == pytest.approx([0.5, 0.5, 0.0])


def test_gspo_counts_a_clipped_sequence_once_however_long() -> None:
    batch = batch_of([[-1.0] * 4, [-1.0] * 4])
    mask_BT = torch.tensor([[True] * 4, [True, False, False, False]])
    cut = Batch(**{**{n: getattr(batch, n) for n in batch.__slots__}, "mask_BT": mask_BT})
    _, out = stats_of([[0.5] * 4, [1.0] * 4])
    _, metrics = GspoN(GspoNConfig(), SAMPLING).loss(cut, out)
    assert (metrics["clip_ratio/low_mean"].total, metrics["clip_ratio/low_mean"].count) == (1.0, 2.0)


def test_defaults_are_the_papers() -> None:
    assert (AlgoConfig().epsilon, AlgoConfig().clip_high, AlgoConfig().beta) == (0.2, 0.2, 0.0)
    assert (GrpoNConfig().epsilon, GrpoNConfig().clip_high) == (0.2, 0.2)
    assert (GspoNConfig().epsilon, GspoNConfig().clip_high) == (3e-4, 4e-4)


def test_an_algorithm_without_memory_refuses_a_state() -> None:
    algo = Grpo(AlgoConfig(), SAMPLING)
    algo.load_state_dict(algo.state_dict())
    with pytest.raises(ValueError, match="Grpo keeps no state"):
        algo.load_state_dict({"steps": 1})
