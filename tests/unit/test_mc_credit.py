"""Monte-Carlo credit against the truth: by hand, by counting every outcome, and on trees of tokens whose values are exact."""

import itertools
import math

import numpy as np
import pytest

from rlkit.analysis import credit_summary, mc_credit
from rlkit.analysis.bandit import softmax
from rlkit.analysis.mc_credit import Agreement, Floats, Unit
from rlkit.analysis.tree import Tree, leaf_probs, token_values


def unit(draws: Floats, outcomes: list[float], *, prompt: str = "a", position: float = 0.5) -> Unit:
    return Unit(
        prompt_id=prompt, position=position, draws_GN=np.asarray(draws, float), outcomes_G=np.array(outcomes)
    )


def exact_agreement(rates: list[float], k: int) -> tuple[float, float]:
    """Chance that each sign is right, and that all are, over every possible count of successes among K continuations."""
    truth = mc_credit.signs(mc_credit.group_advantages(np.array(rates)))
    single = every = 0.0
    for counts in itertools.product(range(k + 1), repeat=len(rates)):
        chance = math.prod(
            math.comb(k, c) * p**c * (1 - p) ** (k - c) for c, p in zip(counts, rates, strict=True)
        )
        same = mc_credit.signs(mc_credit.group_advantages(np.array(counts) / k)) == truth
        single += chance * same.mean()
        every += chance * same.all()
    return single, every


# -- by hand ---------------------------------------------------------------------------------------------------------------


def test_three_of_eight_right_are_the_advantages_of_the_papers() -> None:
    found = mc_credit.group_advantages(np.array([1.0] * 3 + [0.0] * 5))
    assert found == pytest.approx([1.291] * 3 + [-0.775] * 5, abs=5e-4)


def test_an_estimate_is_held_against_continuations_that_it_has_not_seen() -> None:
    # Two blocks of 2 of 5; the fifth is in no block, and in every truth.
    estimate, truth = mc_credit.blocks(np.array([[1.0, 1.0, 0.0, 1.0, 0.0]]), 2)
    assert estimate.tolist() == [[1.0], [0.5]]
    assert truth == pytest.approx(np.array([[1 / 3], [2 / 3]]))


@pytest.mark.parametrize("k", [0, 4, 5])
def test_a_k_that_leaves_no_truth_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"K = {k} of 4 continuations"):
        mc_credit.blocks(np.zeros((2, 4)), k)


def test_the_four_numbers_of_an_agreement() -> None:
    # Truth: A = (1, -1). First estimate the same values shifted: signs and A right. Second: turned round. Third: no push at all.
    truth = np.array([[0.8, 0.2]] * 3)
    estimate = np.array([[0.9, 0.3], [0.2, 0.8], [0.5, 0.5]])
    found = mc_credit.agreement(estimate, truth)
    assert found.sign == pytest.approx(1 / 3) and found.all_signs == pytest.approx(1 / 3)
    assert found.error == pytest.approx((0 + 2 + 1) / 3)
    assert found.value_error == pytest.approx(math.sqrt((2 * 0.01 + 2 * 0.36 + 2 * 0.09) / 6))


def test_grpo_says_the_same_at_every_position() -> None:
    # Of 2 answers the first was right; its prefix is the worse one here.
    early = unit(np.array([[1, 0, 0, 0], [1, 1, 0, 0]]), [1.0, 0.0])
    late = unit(np.array([[1, 1, 1, 1], [0, 0, 0, 0]]), [1.0, 0.0])
    rms = math.sqrt((0.75**2 + 0.5**2) / 2)
    assert mc_credit.broadcast(early) == Agreement(sign=0.0, all_signs=0.0, error=2.0, value_error=rms)
    assert mc_credit.broadcast(late) == Agreement(sign=1.0, all_signs=1.0, error=0.0, value_error=0.0)


def test_answers_that_are_all_wrong_look_accurate_and_carry_nothing() -> None:
    lost = unit(np.zeros((8, 16)), [0.0] * 8)
    assert not lost.mixed and lost.num_right == 0
    for found in (mc_credit.broadcast(lost), mc_credit.monte_carlo(lost, 4)):
        assert (found.sign, found.all_signs, found.error) == (1.0, 1.0, 0.0)


def test_a_sign_within_the_truth_s_own_error_is_doubtful() -> None:
    assert mc_credit.doubtful(unit(np.array([[1, 0, 1, 0], [0, 1, 1, 0]]), [1.0, 0.0])) == 1.0
    assert mc_credit.doubtful(unit(np.array([[1, 1, 1, 1], [0, 0, 0, 0]]), [1.0, 0.0])) == 0.0
    # Means 0.6 and 0.4 of 100: half their difference is 0.1, and its error sqrt(0.24 / 100 / 2) = 0.035.
    clear = np.array([[1] * 60 + [0] * 40, [1] * 40 + [0] * 60])
    assert mc_credit.doubtful(unit(clear, [1.0, 0.0])) == 0.0
    # 0.53 and 0.47: 0.03 is less than 1.96 * 0.035.
    assert mc_credit.doubtful(unit(np.array([[1] * 53 + [0] * 47, [1] * 47 + [0] * 53]), [1.0, 0.0])) == 1.0


def test_slips_and_right_steps_are_told_apart() -> None:
    right = np.array([True, True, False, False])
    found = mc_credit.step_credit(np.array([[0.2, 0.0, -0.5, 0.0], [0.2, -0.1, -0.5, 0.3]]), right)
    assert found.slips_down == 0.5 and found.right_down == 0.25
    # First row: -0.5 is below both, 0.0 below one and level with the other: (2 + 1.5) / 4. Second: -0.5 below both, 0.3 below none.
    assert found.told_apart == pytest.approx((3.5 / 4 + 2 / 4) / 2)


def test_steps_of_one_kind_have_nothing_to_tell_apart() -> None:
    with pytest.raises(ValueError, match="3 steps, 3 of them right"):
        mc_credit.step_credit(np.zeros(3), np.array([True] * 3))


def test_what_a_step_adds_is_estimated_before_and_behind_it() -> None:
    before = np.array([[1.0, 0.0, 1.0, 1.0, 0.0]])
    after = np.array([[1.0, 1.0, 0.0, 0.0, 1.0]])
    assert mc_credit.step_changes(before, after, 2).tolist() == [[0.5], [-1.0]]


def test_a_closer_look_goes_to_mixed_groups_at_every_position() -> None:
    right = [0, 4, 8, 2, 8, 5]
    assert mc_credit.stratified(right, [0.2, 0.2, 0.5, 0.5, 0.8, 0.8], 8, 3) == [1, 3, 5]
    assert mc_credit.stratified(right, [0.2, 0.2, 0.5, 0.5, 0.8, 0.8], 8, 100) == list(range(6))


def test_telling_55_from_60_percent_needs_hundreds() -> None:
    n = mc_credit.needed(0.55, 0.60)
    rng = np.random.default_rng(0)
    better = rng.binomial(n, 0.60, 20_000) > rng.binomial(n, 0.55, 20_000)
    assert 400 < n < 700 and better.mean() == pytest.approx(0.95, abs=0.01)


# -- by counting -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rates", "k"), [([0.25, 0.75], 1), ([0.25, 0.75], 3), ([0.3, 0.5, 0.6], 4), ([0.0, 0.4], 5)]
)
def test_measured_signs_are_right_as_often_as_counting_says(rates: list[float], k: int) -> None:
    rng = np.random.default_rng(0)
    draws = (rng.random((len(rates), 60_000)) < np.array(rates)[:, None]).astype(float)
    found = mc_credit.monte_carlo(unit(draws, [1.0] * len(rates)), k)
    assert (found.sign, found.all_signs) == pytest.approx(exact_agreement(rates, k), abs=0.015)


@pytest.mark.parametrize("spread", [0.05, 0.2])
def test_the_simulation_is_the_mean_of_what_counting_says(spread: float) -> None:
    rng = np.random.default_rng(1)
    groups = rng.normal(0.5, spread, (300, 3)).clip(0, 1)
    counted = np.mean([exact_agreement(list(rates), 4) for rates in groups], axis=0)
    found = mc_credit.simulated(spread, 4, members=3, groups=20_000)
    assert (found.sign, found.all_signs) == pytest.approx(tuple(counted), abs=0.03)


@pytest.mark.parametrize(
    ("spread", "continuations", "all_signs", "sign"),
    [
        *((0.02, 8, 0.01, 0.51), (0.02, 512, 0.09, 0.73), (0.05, 8, 0.02, 0.57), (0.05, 512, 0.32, 0.87)),
        *((0.1, 8, 0.04, 0.65), (0.1, 512, 0.57, 0.93), (0.2, 8, 0.13, 0.77), (0.2, 512, 0.76, 0.97)),
    ],
)
def test_the_simulation_has_the_known_values(
    spread: float, continuations: int, all_signs: float, sign: float
) -> None:
    """The paper's A.2, with the orientation values that were computed for it elsewhere, to two digits."""
    found = mc_credit.simulated(spread, continuations)
    assert found.all_signs == pytest.approx(all_signs, abs=0.02)
    assert found.sign == pytest.approx(sign, abs=0.01)


# -- on a tree whose values are exact ----------------------------------------------------------------------------------------


def test_on_a_tree_of_tokens_the_signs_are_those_of_the_exact_values() -> None:
    """Answers of 3 tokens; the continuations of a prefix are its leaves, drawn by their exact chances."""
    rng = np.random.default_rng(3)
    tree = Tree(2, 3, np.array([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0]))
    probs = softmax(rng.normal(0, 0.5, (tree.num_nodes, 2)))
    values, _ = token_values(tree, probs)
    chance_L = leaf_probs(tree, probs)
    answers = rng.choice(len(chance_L), size=8, p=chance_L)
    for position in (1, 2):
        nodes = tree.node_LD[answers, position]
        draws = []
        for node in nodes:
            below = tree.node_LD[:, position] == node
            share = np.where(below, chance_L, 0) / chance_L[below].sum()
            draws.append(tree.rewards_L[rng.choice(len(share), size=20_000, p=share)])
        measured = unit(np.array(draws), tree.rewards_L[answers].tolist())
        truth = values[nodes][None]
        assert mc_credit.broadcast(measured).sign == pytest.approx(
            mc_credit.agreement(measured.outcomes_G[None], truth).sign
        )
        distinct, back = np.unique(nodes, return_inverse=True)
        assert len(distinct) == 2 or position == 2
        if position == 1:  # the prefix is one token, so the group has two values
            counts = np.bincount(back)
            p, q = values[distinct]
            exact = 0.0
            for a, b in itertools.product(range(4), repeat=2):
                chance = (
                    math.comb(3, a) * p**a * (1 - p) ** (3 - a) * math.comb(3, b) * q**b * (1 - q) ** (3 - b)
                )
                exact += chance * (np.sign(a - b) == np.sign(p - q))
            shared = [measured.draws_GN[int(np.flatnonzero(back == i)[0])] for i in (0, 1)]
            pair = unit(np.repeat(np.array(shared), counts, axis=0), [1.0] * 8)
            assert mc_credit.monte_carlo(pair, 3).sign == pytest.approx(exact, abs=0.02)


# -- the summary -----------------------------------------------------------------------------------------------------------


def agreed(sign: float) -> Agreement:
    return Agreement(sign=sign, all_signs=0.0, error=1.0, value_error=0.5)


def test_a_prompt_counts_once_however_many_groups_are_cut_from_it() -> None:
    found = credit_summary.over_prompts([("a", agreed(1.0)), ("a", agreed(0.5)), ("b", agreed(0.25))])
    assert found["sign"]["mean"] == pytest.approx((0.75 + 0.25) / 2) and found["sign"]["num"] == 2
    low, high = found["sign"]["low"], found["sign"]["high"]
    assert low is not None and high is not None and 0 <= low < 0.5 < high <= 1


def test_the_summary_sorts_groups_by_position_and_by_right_answers() -> None:
    clear = np.array([[1.0] * 8, [0.0] * 8])
    units = [
        unit(clear, [1.0, 0.0], prompt="a", position=0.25),
        unit(clear[::-1], [1.0, 0.0], prompt="a", position=0.75),
        unit(clear, [1.0, 1.0], prompt="b", position=0.25),
    ]
    found = credit_summary.measured(units, [2, 4, 8], deep=8)
    assert (found["units"], found["mixed_units"]) == (3, 2)
    assert [row["position"] for row in found["by_position"]] == [0.25, 0.75]
    signs = [row["estimators"]["broadcast"]["sign"]["mean"] for row in found["by_position"]]
    assert signs == [1.0, 0.0], "the group of equal rewards is in no position's mean"
    assert [(row["right"], row["units"], row["spread"]) for row in found["by_right"]] == [
        (1, 2, 0.5),
        (2, 1, 0.5),
    ]
    assert set(found["mixed"]) == {"broadcast", "2", "4"}, "K = 8 of 8 leaves no truth"
    assert found["mixed"]["2"]["sign"]["mean"] == 1.0


def test_one_prompt_has_an_interval_for_shares_and_none_for_sizes() -> None:
    assert credit_summary.mean_of([0.5], rate=False) == {"mean": 0.5, "low": None, "high": None, "num": 1}
    low = credit_summary.mean_of([0.5], rate=True)["low"]
    assert low is not None and 0 < low < 0.5


def test_steps_need_both_kinds() -> None:
    draws = np.array([[1.0, 1.0], [1.0, 0.0]])
    assert credit_summary.steps(draws, draws, np.array([True, True]), np.array([1.0, 1.0]), [1]) is None
    assert (
        credit_summary.steps(np.zeros((0, 0)), np.zeros((0, 0)), np.zeros(0, bool), np.zeros(0), [1]) is None
    )
    after = np.array([[1.0, 1.0], [0.0, 0.0]])
    found = credit_summary.steps(draws, after, np.array([True, False]), np.array([-1.0, -1.0]), [1, 8])
    assert found is not None and set(found["estimators"]) == {"broadcast", "1", "2"}
    assert found["estimators"]["broadcast"] == {"slips_down": 1.0, "right_down": 1.0, "told_apart": 0.5}
    assert found["estimators"]["2"] == {"slips_down": 1.0, "right_down": 0.0, "told_apart": 1.0}
    assert found["value_lost"]["mean"] == 0.5
