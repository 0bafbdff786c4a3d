"""Where probability goes: decisions, roles, predicted changes and flows, against numbers worked out by hand and autograd."""

import numpy as np
import pytest
import torch

from rlkit.analysis import mass


def test_decisions_are_the_first_token_and_every_parting() -> None:
    """Five answers: 1 2 3 | 1 2 4 | 1 2 4 | 5 | 1 2. They part at position 0 (1 or 5) and at position 2 (3 or 4)."""
    completions = [[1, 2, 3], [1, 2, 4], [1, 2, 4], [5], [1, 2]]
    rewards = [1.0, 0.0, 1.0, 0.0, 0.5]
    advantages = [[0.1 * i] * len(c) for i, c in enumerate(completions)]
    first, third = mass.decisions(completions, rewards, advantages)
    assert (first.position, first.tokens, first.counts, first.members) == (0, (1, 5), (4, 1), (0, 1, 2, 3, 4))
    assert first.values == pytest.approx((2.5 / 4, 0.0)) and first.mean == pytest.approx(0.5)
    assert first.pulls == pytest.approx((0.0 + 0.1 + 0.2 + 0.4, 0.3))
    assert (third.position, third.tokens, third.counts, third.members) == (2, (4, 3), (2, 1), (0, 1, 2))
    assert third.values == pytest.approx((0.5, 1.0)) and third.pulls == pytest.approx((0.3, 0.0))


def test_equal_answers_have_only_their_first_decision() -> None:
    found = mass.decisions([[1, 2], [1, 2]], [1.0, 0.0], [[1.0, 1.0], [-1.0, -1.0]])
    assert [(d.position, d.tokens, d.pulls) for d in found] == [(0, (1,), (0.0,))]
    assert mass.decisions([[1, 2]], [1.0], [[1.0, 1.0]]) == []


@pytest.mark.parametrize(
    ("probs", "values", "expected"),
    [
        (
            [0.45, 0.049, 0.501],
            [0.8, 1.0, 0.0],
            ["high", "optimal", "low"],
        ),  # the three of docs/dynamics.md 2
        ([0.45, 0.049, 0.501], [0.8, 0.7, 0.0], ["high", "other", "low"]),  # rare, and below what is tried
        ([0.01, 0.99], [1.0, 0.0], ["optimal", "low"]),  # nothing good is tried: the mean is the bar
        ([0.01, 0.99], [0.0, 1.0], ["other", "high"]),
    ],
)
def test_roles_have_names(probs: list[float], values: list[float], expected: list[str]) -> None:
    assert mass.role_names(probs, values) == expected


def test_the_predicted_change_is_the_gradient_of_the_group_s_objective() -> None:
    """eta -> 0: one small step on sum_i A_i log p(o_i) moves log p as predicted; autograd in float64."""
    torch.manual_seed(0)
    logits_V = torch.randn(6, dtype=torch.float64, requires_grad=True)
    draws, advantages = [0, 0, 3, 5], [1.2, -0.4, 0.7, -1.5]
    log_V = logits_V.log_softmax(-1)
    sum(a * log_V[o] for o, a in zip(draws, advantages, strict=True)).backward()  # type: ignore[union-attr]
    assert logits_V.grad is not None
    eta = 1e-7
    moved_V = ((logits_V + eta * logits_V.grad).log_softmax(-1) - log_V).detach() / eta
    pulls_V = np.zeros(6)
    np.add.at(pulls_V, draws, advantages)
    predicted_V = mass.predicted_change(log_V.detach().exp().numpy(), pulls_V)
    assert predicted_V == pytest.approx(moved_V.numpy(), abs=1e-6)


def test_an_unsampled_token_keeps_its_logit_when_advantages_are_centred() -> None:
    """dz_u = 0 (docs/dynamics.md 1), so its log p changes by the common shift alone, which is 0 for p (.5, .5, 0+) and pulls (1, -1)."""
    change = mass.predicted_change(np.array([0.5, 0.5, 1e-12]), np.array([1.0, -1.0, 0.0]))
    assert change == pytest.approx([1.0, -1.0, 0.0])


def test_what_leaves_a_token_is_counted_where_it_arrives() -> None:
    """Token 9 falls from .5 to .3: +.12 to the runner-up 4, +.05 to the third, the rest (.03) to the tail. Token 4 is the likeliest
    itself in the second row and its runner-up is 9; in the third row the sampled token is not among the likeliest."""
    moved = mass.flow(
        np.array([9, 4, 7]),
        np.array([0.5, 0.6, 0.02]),
        np.array([0.3, 0.7, 0.01]),
        np.array([[9, 4, 5], [4, 9, 5], [4, 9, 5]]),
        np.array([[0.5, 0.3, 0.1], [0.6, 0.2, 0.1], [0.6, 0.2, 0.1]]),
        np.array([[0.3, 0.42, 0.15], [0.7, 0.15, 0.1], [0.6, 0.21, 0.1]]),
    )
    assert moved.sampled == pytest.approx([-0.2, 0.1, -0.01])
    assert moved.runner_up == pytest.approx([0.12, -0.05, 0.0])
    assert moved.others == pytest.approx([0.05, 0.0, 0.01])
    assert moved.tail == pytest.approx([0.03, -0.05, 0.0])
    assert np.sum(moved, axis=0) == pytest.approx([0, 0, 0], abs=1e-9)


def test_agreement_compares_signs_and_sizes() -> None:
    said, seen = np.array([1.0, -1.0, 2.0, 0.0]), np.array([0.5, -0.5, -1.0, 3.0])
    correlation, signs = mass.agreement(said, seen)
    assert signs == pytest.approx(2 / 3) and correlation == pytest.approx(np.corrcoef(said, seen)[0, 1])
    assert np.isnan(mass.agreement(np.array([1.0, 1.0]), seen[:2])[0])
