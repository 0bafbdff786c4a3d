"""The token tree: exact values and updates against autograd and against counting by hand; what each credit does to a token."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from rlkit.algo_presets import DrGrpoConfig, GrpoConfig, GrpoNConfig, NsrConfig, WReinforceConfig
from rlkit.analysis.bandit import Bandit, Floats, expected_advantages, simulate_expected, softmax
from rlkit.analysis.roles import roles
from rlkit.analysis.tree import (
    Tree,
    broadcast,
    expected_update,
    leaf_probs,
    monte_carlo,
    segments,
    simulate,
    stepwise,
    token_values,
    wrong_signs,
)
from rlkit.errors import ConfigError

PLAIN = GrpoConfig(scale_std="population", std_eps=0.0)


def random_tree(branching: int = 3, depth: int = 3, seed: int = 0) -> tuple[Tree, Floats, Floats]:
    """A tree with its logits and probabilities."""
    rng = np.random.default_rng(seed)
    tree = Tree(branching, depth, rng.uniform(size=branching**depth))
    logits = rng.normal(size=(tree.num_nodes, branching))
    return tree, logits, softmax(logits)


def small() -> tuple[Tree, Floats]:
    """Answers aa, ab, ba, bb pay 1, 0, 0, 0.8; the first token is a with 1/4, the second with 1/2 after a and 1/5 after b."""
    return Tree(2, 2, np.array([1.0, 0.0, 0.0, 0.8])), np.array([[0.25, 0.75], [0.5, 0.5], [0.2, 0.8]])


def log_probs(tree: Tree, z: Tensor) -> Tensor:
    """Of each token of each answer, by torch. [L, D]"""
    return z.log_softmax(-1)[torch.tensor(tree.node_LD), torch.tensor(tree.token_LD)]


def test_values_and_credit_worked_by_hand() -> None:
    tree, probs = small()
    assert leaf_probs(tree, probs) == pytest.approx([0.125, 0.125, 0.15, 0.6])
    values, after = token_values(tree, probs)
    assert values == pytest.approx([0.25 * 0.5 + 0.75 * 0.64, 0.5, 0.64])
    assert after == pytest.approx(np.array([[0.5, 0.64], [1.0, 0.0], [0.0, 0.8]]))
    assert stepwise(tree, probs)[[0, 3]] == pytest.approx(np.array([[-0.105, 0.5], [0.035, 0.16]]))


def test_broadcast_pushes_a_bad_token_up_whenever_it_ends_well() -> None:
    """aa pays most, but its first token lowers the expected reward; every answer through b that fails pushes b down."""
    tree, probs = small()
    assert wrong_signs(tree, probs, broadcast(tree, probs, PLAIN)) == pytest.approx([0.125 + 0.15, 0.0])
    assert wrong_signs(tree, probs, stepwise(tree, probs)).tolist() == [0.0, 0.0]
    negatives = broadcast(tree, probs, replace(PLAIN, positive_weight=0.0))
    assert wrong_signs(tree, probs, negatives) == pytest.approx([0.15, 0.0]), (
        "only good tokens of bad answers"
    )


CREDITS = {
    "grpo": lambda tree, probs: broadcast(tree, probs, PLAIN),
    "grpo_n": lambda tree, probs: broadcast(tree, probs, GrpoNConfig()),
    "nsr": lambda tree, probs: broadcast(tree, probs, NsrConfig()),
    "w_reinforce": lambda tree, probs: broadcast(tree, probs, WReinforceConfig()),
    "stepwise": stepwise,
    "monte_carlo": lambda tree, probs: monte_carlo(tree, probs, 4, np.random.default_rng(0)),
}


@pytest.mark.parametrize("name", CREDITS)
def test_the_expected_update_is_autograd_s(name: str) -> None:
    tree, logits, probs = random_tree()
    advantages = CREDITS[name](tree, probs)
    z = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    weighted = log_probs(tree, z) * torch.tensor(advantages) / tree.depth
    gain = (torch.tensor(leaf_probs(tree, probs))[:, None] * weighted).sum()
    (grad,) = torch.autograd.grad(gain, z)
    update = expected_update(tree, probs, advantages, 0.1)
    assert update == pytest.approx(0.1 * grad.numpy(), abs=1e-15)
    assert update.sum(1) == pytest.approx(np.zeros(tree.num_nodes), abs=1e-15)


def test_skpo_s_two_halves_are_autograd_s_too() -> None:
    tree, logits, probs = random_tree(depth=4, branching=2)
    advantages, weight = segments(tree, probs, split=1)
    assert weight.tolist() == pytest.approx([0.5, 0.5 / 3, 0.5 / 3, 0.5 / 3])
    z = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    gain = (
        torch.tensor(leaf_probs(tree, probs))[:, None]
        * log_probs(tree, z)
        * torch.tensor(advantages)
        * torch.tensor(weight)
    ).sum()
    (grad,) = torch.autograd.grad(gain, z)
    assert expected_update(tree, probs, advantages, 1.0, weight) == pytest.approx(grad.numpy(), abs=1e-15)


def test_skpo_s_credit_worked_by_hand() -> None:
    """Upstream: values 0.5 and 0.64 with weights 1/4 and 3/4. Downstream: groups of their own around those values."""
    tree, probs = small()
    advantages, _ = segments(tree, probs, split=1)
    spread = 0.14 * np.sqrt(0.25 * 0.75)
    assert advantages[:, 0] == pytest.approx(np.array([-0.105, -0.105, 0.035, 0.035]) / spread)
    assert advantages[:, 1] == pytest.approx([1.0, -1.0, -0.64 / 0.32, 0.16 / 0.32])
    assert wrong_signs(tree, probs, advantages).tolist() == [0.0, 0.0]


def test_without_a_deviation_broadcast_and_stepwise_are_the_same_in_expectation() -> None:
    """And both are the gradient of the expected reward: credit changes the noise of an update, not where it points."""
    tree, logits, probs = random_tree()
    whole = np.ones(tree.depth)
    exact = expected_update(tree, probs, stepwise(tree, probs), 1.0, whole)
    centred = broadcast(tree, probs, DrGrpoConfig())
    assert expected_update(tree, probs, centred, 1.0, whole) == pytest.approx(exact, abs=1e-15)
    z = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    reward = (log_probs(tree, z).sum(1).exp() * torch.tensor(tree.rewards_L)).sum()
    (grad,) = torch.autograd.grad(reward, z)
    assert exact == pytest.approx(grad.numpy(), abs=1e-15)


def test_with_only_negatives_credit_changes_where_the_update_points() -> None:
    tree, _, probs = random_tree()
    by_answer = expected_update(tree, probs, np.minimum(broadcast(tree, probs, DrGrpoConfig()), 0), 1.0)
    by_token = expected_update(tree, probs, np.minimum(stepwise(tree, probs), 0), 1.0)
    assert np.abs(by_answer - by_token).max() > 0.2 * np.abs(by_token).max()


def test_a_token_moves_by_its_reach_its_probability_and_its_worth() -> None:
    """dz = P(n) pi (Q - V) / std: Theorem 1 at every prefix, scaled by how often the prefix is met."""
    tree, _, probs = random_tree()
    values, after = token_values(tree, probs)
    probs_L = leaf_probs(tree, probs)
    reach = np.zeros(tree.num_nodes)
    np.add.at(reach, tree.node_LD, probs_L[:, None])
    std = np.sqrt(probs_L @ (tree.rewards_L - values[0]) ** 2)
    expected = reach[:, None] * probs * (after - values[:, None]) / std / tree.depth
    got = expected_update(tree, probs, broadcast(tree, probs, PLAIN), 1.0)
    assert got == pytest.approx(expected, abs=1e-15)


def test_one_token_is_the_bandit() -> None:
    bandit = Bandit((0.8, 1.0, 0.0), (0.45, 0.05, 0.5))
    tree = Tree(3, 1, bandit.rewards_A)
    got = simulate(tree, bandit.logits[None], lambda p: broadcast(tree, p, PLAIN), steps=50, rate=0.1)
    assert got[:, 0] == pytest.approx(simulate_expected(bandit, PLAIN, steps=50, rate=0.1), abs=1e-14)
    assert broadcast(tree, softmax(bandit.logits)[None], PLAIN)[:, 0] == pytest.approx(
        expected_advantages(softmax(bandit.logits), bandit.rewards_A, PLAIN)
    )


def test_a_first_token_goes_through_the_two_stages_while_the_rest_is_learnt() -> None:
    """Three first tokens, each with a sure second one: values 0.8, 1 and 0, roles as in the bandit."""
    rewards = np.array([0.8, 0.8, 0.8, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    tree = Tree(3, 2, rewards)
    logits = np.zeros((4, 3))
    logits[0] = np.log([0.45, 0.04, 0.51])
    run = simulate(tree, logits, lambda p: broadcast(tree, p, PLAIN), steps=1500, rate=0.2)
    masks = roles(run[0, 0], token_values(tree, run[0])[1][0])
    high, best = run[:, 0][:, masks.high].sum(1), run[:, 0][:, masks.optimal].sum(1)
    assert 0 < best.argmin() < high.argmax() < 1500 and best[-1] > 0.99


def test_monte_carlo_credit_is_unbiased_and_its_signs_get_right_with_more_continuations() -> None:
    tree, _, probs = random_tree(branching=2)
    rng, exact = np.random.default_rng(0), stepwise(tree, probs)
    drawn = np.stack([monte_carlo(tree, probs, 8, rng) for _ in range(4000)])
    error = drawn.std(0) / np.sqrt(4000)
    assert (np.abs(drawn.mean(0) - exact) < 4.5 * error + 1e-12).all()
    few, many = (
        np.mean([wrong_signs(tree, probs, monte_carlo(tree, probs, k, rng)) for _ in range(300)])
        for k in (4, 256)
    )
    assert many < few / 3


# -- roles ---------------------------------------------------------------------------------------------------------------


def test_roles_of_a_decision() -> None:
    probs, values = np.array([0.4, 0.3, 0.02, 0.01, 0.27]), np.array([0.8, 0.6, 0.9, 0.7, 0.0])
    found = roles(probs, values)
    assert found.high.tolist() == [True, True, False, False, False]
    assert found.low.tolist() == [False, False, False, False, True]
    assert found.optimal.tolist() == [False, False, True, False, False], "0.7 is no better than what is known"


def test_a_token_of_unknown_value_has_no_role_and_moves_no_mean() -> None:
    found = roles(np.array([[0.5, 0.4, 0.1]]), np.array([[np.nan, 1.0, 0.0]]))
    assert not (found.high | found.low | found.optimal)[0, 0]
    assert found.high[0, 1] and found.low[0, 2]


@pytest.mark.parametrize(
    ("branching", "depth", "rewards", "said"),
    [
        (2, 2, 3, r"rewards of shape \(3,\) for 2 \*\* 2 answers: expected \(4,\)"),
        (1, 2, 1, "at least 2 tokens"),
        (10, 7, 3, "at most 1,000,000 answers"),
    ],
)
def test_a_tree_that_cannot_be_is_refused(branching: int, depth: int, rewards: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Tree(branching, depth, np.zeros(rewards))
