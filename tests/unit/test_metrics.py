"""Tallies reduce in the same way however a batch was cut; rollout metrics by hand."""

import itertools
import random
from dataclasses import replace

import pytest

from rlkit.metrics import How, Tally, merge, values
from rlkit.rollout_metrics import rollout_metrics
from rlkit.types import Group, Score
from tests.rollouts import question, rollout


@pytest.mark.parametrize("how, expected", [("mean", 2.75), ("min", -1.0), ("max", 9.0)])
def test_a_reduction_does_not_depend_on_how_its_numbers_were_split(how: How, expected: float) -> None:
    numbers = [9.0, -1.0, 2.0, 1.0]
    for cuts in itertools.product([False, True], repeat=3):
        parts: list[list[float]] = [[numbers[0]]]
        for number, cut in zip(numbers[1:], cuts, strict=True):
            if cut:
                parts.append([number])
            else:
                parts[-1].append(number)
        if how == "mean":
            tallies = [{"x": Tally(sum(p), len(p))} for p in parts]
        else:
            tallies = [{"x": Tally(min(p) if how == "min" else max(p), 1, how)} for p in parts]
        assert values(merge(tallies)) == {"x": expected}


def test_means_of_uneven_parts_weigh_every_token_alike() -> None:
    assert merge([{"x": Tally(10.0, 1.0)}, {"x": Tally(0.0, 9.0)}])["x"].value == 1.0


def test_a_name_that_only_some_parts_know_is_kept() -> None:
    assert values(merge([{"a": Tally(1.0)}, {"b": Tally(2.0)}, {"a": Tally(3.0)}])) == {"a": 2.0, "b": 2.0}


def test_an_empty_tally_is_zero() -> None:
    assert Tally(0.0, 0.0).value == 0.0 and merge([]) == {}


def test_merging_is_associative() -> None:
    rng = random.Random(0)
    parts = [{"x": Tally(rng.randint(0, 9), rng.randint(1, 9))} for _ in range(12)]
    left = merge([merge(parts[:5]), merge(parts[5:])])
    assert left == merge(parts)


def test_staleness_is_of_the_oldest_token_and_spans_to_the_youngest() -> None:
    """Versions 0 | 0, 0, 1, 3 | in two answers, when the weights have seen 4 updates."""
    early, late = rollout([50, 3]), rollout([50, 50, 50, 3])
    start = late.prompt_tokens
    late = replace(late, later_versions=((start + 2, 1), (start + 3, 3)))
    got = rollout_metrics([Group(prompt=question(), rollouts=[early, late])], version=4)
    assert (got["staleness"], got["staleness_span"], got["staleness_mixed"]) == (4.0, 3.0, 0.5)


def test_a_steps_rollouts_by_hand() -> None:
    answers = [
        rollout([50, 3], score=1.0),
        rollout([50, 50, 50, 3], score=0.0),
        rollout([50] * 8, score=Score(None, reason="no gold"), stop=False),
    ]
    broken = [rollout([3], score=Score(0.5, error=True)), rollout([50, 3], score=0.5)]
    groups = [Group(prompt=question(), rollouts=answers), Group(prompt=question("b"), rollouts=broken)]
    got = rollout_metrics(groups, version=2)
    assert got["reward"] == 0.5 and got["reward_std"] == pytest.approx(0.5**0.5 / 2)
    assert got["frac_reward_zero_std"] == 0.5
    assert (got["verifier/skips"], got["verifier/errors"], got["staleness"]) == (1.0, 1.0, 2.0)
    assert (got["staleness_span"], got["staleness_mixed"]) == (0.0, 0.0)
    assert (got["completions/mean_length"], got["completions/max_length"]) == (3.4, 8.0)
    assert (got["completions/mean_terminated_length"], got["completions/clipped_ratio"]) == (
        2.25,
        pytest.approx(0.2),
    )


def test_parts_of_a_weighted_sum_are_told_apart() -> None:
    scores = [Score(1.1, parts={"math": 1.0, "format": 1.0}), Score(0.0, parts={"math": 0.0, "format": 0.0})]
    group = Group(prompt=question(), rollouts=[rollout([50, 3], score=s) for s in scores])
    got = rollout_metrics([group], version=0)
    assert (got["rewards/math/mean"], got["rewards/format/mean"]) == (0.5, 0.5)
    assert got["rewards/math/std"] == pytest.approx(0.5**0.5)


def test_no_rollouts_are_no_error() -> None:
    assert rollout_metrics([], version=0)["reward"] == 0.0
