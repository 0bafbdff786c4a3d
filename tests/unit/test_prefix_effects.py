"""What a prefix does to its continuations, and how far right answers have come, by numbers worked out by hand."""

import numpy as np
import pytest

from rlkit.analysis.prefix_effects import Group, against_others, progress, summarise

NAN = float("nan")


def group(
    kind: str, share: float, prompt: str, scores: list[float], finals: list[str | None], length: int
) -> Group:
    return Group(
        prompt_id=prompt, share=share, kind=kind, scores=scores, finals=finals, tokens=[length] * len(scores)
    )


def test_a_group_of_equal_rewards_has_no_advantage() -> None:
    assert group("skip", 0.5, "a", [1.0, 1.0, NAN], ["4", "4", "5"], 3).zero == 1.0
    assert group("skip", 0.5, "a", [1.0, 0.0, NAN], ["4", "4", "5"], 3).zero == 0.0
    assert group("skip", 0.5, "a", [NAN, NAN], [None, None], 3).zero == 1.0


def test_what_has_no_final_answer_adds_none() -> None:
    assert group("skip", 0.5, "a", [0.0] * 4, ["4", None, "4", "5"], 3).distinct == 2


def test_differences_are_within_a_problem() -> None:
    """Two problems whose own answers differ by far more than a prefix changes."""
    groups = [
        group("unconditional", 0.0, "a", [1.0, 0.0], ["1", "2"], 10),
        group("unconditional", 0.0, "b", [1.0, 0.0], ["1", "2"], 30),
        group("continual", 0.25, "a", [1.0, 1.0], ["1", "1"], 8),
        group("continual", 0.25, "b", [1.0, 0.0], ["1", "2"], 28),
        group("skip", 0.25, "a", [1.0, 0.0], ["1", "2"], 10),
        group("skip", 0.25, "b", [1.0, 0.0], ["1", "2"], 31),
    ]
    (row,) = summarise(groups, ("unconditional", "continual", "skip"), "unconditional")
    assert row["share"] == 0.25
    assert row["unconditional"]["length"]["mean"] == 20 and row["continual"]["length"]["mean"] == 18
    assert row["continual"]["zero"]["mean"] == 0.5 and row["skip"]["zero"]["mean"] == 0.0
    assert row["continual"]["against"]["length"]["mean"] == -2
    assert row["continual"]["against"]["distinct"]["mean"] == -0.5
    assert row["skip"]["against"]["length"]["mean"] == 0.5
    low, high = (row["continual"]["against"]["length"][end] for end in ("low", "high"))
    assert low < -2 < high


def test_models_are_compared_at_the_same_problem_and_position() -> None:
    success = np.array([[[1.0, 0.4]], [[0.5, 0.4]], [[0.0, 0.4]]])
    root = np.sqrt(1.5)  # three equally spaced values over their population deviation
    assert against_others(success)[:, 0, 0] == pytest.approx([root, 0, -root])
    assert against_others(success)[:, 0, 1].tolist() == [0, 0, 0]


def test_only_problems_that_all_have_solved_are_compared() -> None:
    first = {"p": np.array([0.0, 1.0]), "q": np.array([1.0, 1.0])}
    second = {"p": np.array([1.0, 1.0])}
    told = progress(["x", "y"], [first, second], [0.0, 0.5])
    assert [(model["problems"], model["common"]) for model in told] == [(2, 1), (1, 1)]
    assert told[0]["positions"][0]["success"]["mean"] == 0.5, "success is over all that this model has solved"
    assert told[0]["positions"][0]["advantage"]["mean"] == -1.0
    assert told[1]["positions"][1]["advantage"]["mean"] == 0.0
    alone = progress(["x"], [{}], [0.0])
    assert alone[0]["positions"][0] == {"share": 0.0, "success": None, "advantage": None}
