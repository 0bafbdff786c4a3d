"""Credits become padded tensors whose denominators belong to the whole mini-batch."""

import pickle

import pytest
import torch

from rlkit.batch import SURROGATES, Batch, make_minibatches
from rlkit.errors import RolloutError
from rlkit.types import Credit
from tests.rollouts import rollout


def credit(length: int, *, group: int = 0, prompt: int = 3, share: float = 1.0) -> Credit:
    """An answer of `length` tokens, all 50 + group, after `prompt` tokens."""
    r = rollout([50 + group] * length, prompt=[1] * prompt, logprobs=[-0.25] * length)
    return Credit(rollout=r, advantages=[2.0] * length, weight=1 / length, share=share, group=group)


def sizes(minis: list[list[Batch]]) -> list[list[tuple[int, int]]]:
    return [[tuple(b.feed.ids_RL.shape) for b in mini] for mini in minis]  # type: ignore[misc]


def test_columns_speak_of_their_own_token_and_padding_of_nothing() -> None:
    credits = [credit(1, group=0), credit(2, group=1)]
    ((batch,),) = make_minibatches(credits, 1, 64, pad_id=9)
    assert batch.rows == [0, 1]
    assert batch.ids_BT.tolist() == [[50, 0], [51, 51]]
    assert batch.mask_BT.tolist() == [[True, False], [True, True]]
    assert batch.sampler_logp_BT.tolist() == [[-0.25, 0], [-0.25, -0.25]]
    assert batch.adv_BT.tolist() == [[2, 0], [2, 2]]
    assert batch.weight_BT.tolist() == [[1, 0], [0.5, 0.5]]
    assert (batch.denominator, batch.num_tokens) == (2.0, 3)
    assert batch.feed.ids_RL.tolist() == [[1, 1, 1, 9], [1, 1, 1, 51]]
    assert batch.feed.attention_RL is not None
    assert batch.feed.attention_RL.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch.feed.predict_N.tolist() == [2, 6, 7]


def test_each_token_knows_its_surrogate() -> None:
    up = credit(1)
    down = Credit(rollout=up.rollout, advantages=[1.0], weight=1.0, share=0.0, surrogate="cispo")
    ((batch,),) = make_minibatches([up, down], 1, 64, pad_id=0)
    assert [SURROGATES[i] for i in batch.surrogate_BT[:, 0].tolist()] == ["ppo", "cispo"]
    assert batch.denominator == 1.0


def test_rows_are_packed_by_length_within_the_budget_and_long_ones_go_alone() -> None:
    lengths = [5, 1, 40, 5, 1, 7]
    credits = [credit(n, prompt=1) for n in lengths]
    (mini,) = make_minibatches(credits, 1, 16, pad_id=0)
    assert sizes([mini]) == [[(1, 40), (2, 7), (3, 5)]]
    assert {b.denominator for b in mini} == {6.0}


@pytest.mark.parametrize("budget", [1, 10, 50, 333, 10**6])
def test_every_credit_comes_exactly_once_whatever_the_budget(budget: int) -> None:
    credits = [credit(1 + (7 * i) % 23, group=i // 4) for i in range(32)]
    minis = make_minibatches(credits, 3, budget, pad_id=0)
    assert sorted(i for mini in minis for b in mini for i in b.rows) == list(range(32))
    for mini in minis:
        for batch in mini:
            assert batch.feed.num_tokens <= budget or len(batch.rows) == 1
            assert batch.mask_BT.sum(-1).tolist() == [len(credits[i].advantages) for i in batch.rows]


def test_groups_are_dealt_evenly_in_order_and_never_split() -> None:
    credits = [credit(1, group=g) for g in (0, 0, 1, 1, 2, 2, 3, 3, 4, 4)]
    minis = make_minibatches(credits, 2, 64, pad_id=0)
    groups = [sorted({credits[i].group for b in mini for i in b.rows}) for mini in minis]
    assert groups == [[0, 1], [2, 3, 4]]
    assert [mini[0].denominator for mini in minis] == [4.0, 6.0]


def test_a_mini_batch_without_any_share_is_left_out() -> None:
    assert make_minibatches([], 4, 64, pad_id=0) == []
    assert len(make_minibatches([credit(1, group=7)], 4, 64, pad_id=0)) == 1
    assert make_minibatches([credit(1, share=0.0)], 1, 64, pad_id=0) == []


def test_an_algorithm_that_credits_too_few_tokens_is_told_which_rollout() -> None:
    r = rollout([50, 51, 52])
    for advantages in ([1.0], [1.0] * 4):
        wrong = Credit(rollout=r, advantages=advantages, weight=1.0, share=1.0)
        with pytest.raises(
            RolloutError, match=f"prompt 'a': {len(advantages)} advantages for 3 completion tokens"
        ):
            make_minibatches([wrong], 1, 64, pad_id=0)


def test_a_batch_moves_whole_and_pickles() -> None:
    ((batch,),) = make_minibatches([credit(2)], 1, 64, pad_id=0)
    moved = batch.to(torch.device("meta"))
    assert {getattr(moved, n).device.type for n in Batch.__slots__ if n.endswith("_BT")} == {"meta"}
    assert (moved.denominator, moved.rows) == (batch.denominator, batch.rows)
    again = pickle.loads(pickle.dumps(batch))
    assert torch.equal(again.ids_BT, batch.ids_BT) and again.rows == batch.rows
