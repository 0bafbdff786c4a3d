"""Dynamic sampling: which groups are worth training on, and how a step replaces the others (DAPO, arXiv:2503.14476)."""

from collections.abc import Sequence

import pytest

from rlkit.algo_presets import ALGO_CONFIGS
from rlkit.algos.base import Sampling
from rlkit.algos.selection import has_spread, with_spread
from rlkit.build import make_algorithm
from rlkit.errors import RolloutError
from rlkit.types import Prompt, Score
from rlkit.verify import Judge
from tests.rollouts import scored_group


@pytest.mark.parametrize(
    "scores, worth",
    [
        ([1.0, 0.0, 0.0], True),
        ([1.0, 1.0, 1.0], False),
        ([0.0, 0.0], False),
        ([0.25, 0.25], False),
        ([0.25, 0.5], True),
        ([1.0, Score(None), Score(0.0, error=True)], False),
        ([Score(None), Score(None)], False),
        ([1.0], False),
    ],
)
def test_a_group_is_worth_training_on_when_two_scores_differ(
    scores: Sequence[float | Score], worth: bool
) -> None:
    assert has_spread(scored_group(scores)) == worth


def test_the_groups_that_are_kept_stay_in_their_order() -> None:
    groups = [scored_group([1, i % 2], prompt_id=str(i)) for i in range(5)]
    assert [g.prompt.id for g in with_spread(groups)] == ["0", "2", "4"]


@pytest.mark.parametrize(
    "name, rounds, kept", [("dapo", 5, ["b"]), ("grpo", 1, ["a", "b"]), ("nsr", 1, ["a", "b"])]
)
def test_an_algorithm_without_dynamic_sampling_keeps_every_group(
    name: str, rounds: int, kept: list[str]
) -> None:
    """NSR learns from groups that are all wrong."""
    algo = make_algorithm(ALGO_CONFIGS[name](), Sampling(max_completion_length=8, temperature=1.0))
    groups = [scored_group([0.0, 0.0], prompt_id="a"), scored_group([1.0, 0.0], prompt_id="b")]
    assert (algo.rounds, [g.prompt.id for g in algo.select(groups)]) == (rounds, kept)


class Marks:
    """A scorer with one verdict for every answer."""

    def __init__(self, score: Score) -> None:
        self.mark = score

    def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        return [self.mark for _ in items]


def judge(score: Score) -> Judge:
    return Judge(Marks(score), lambda ids: "text", max_error_share=0.2)


def test_a_last_round_of_one_prompt_is_judged_with_the_rounds_before_it() -> None:
    before = judge(Score(1.0))([scored_group([0.0] * 4)])
    (group,) = judge(Score(None))([scored_group([0.0] * 4)], before)  # alone: nothing could be judged
    assert [r.score for r in group.rollouts] == [Score(None)] * 4
    with pytest.raises(RolloutError, match="none of 4 answers could be judged"):
        judge(Score(None))([scored_group([0.0] * 4)])


def test_errors_are_counted_over_all_rounds_of_a_step() -> None:
    failed = Score(None, error=True)
    before = judge(Score(1.0))([scored_group([0.0] * 19)])
    judge(failed)([scored_group([0.0] * 4)], before)  # 4 of 23
    with pytest.raises(RolloutError, match="4 of 19 verdicts are errors"):
        judge(failed)([scored_group([0.0] * 4)], judge(Score(1.0))([scored_group([0.0] * 15)]))
