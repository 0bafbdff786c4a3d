"""Packing and shared prompts: fewer tokens read, the same log-probs, the same gradient."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rlkit.algo_config import AlgoConfig
from rlkit.algo_own import SkpoConfig
from rlkit.algos.base import Sampling
from rlkit.algos.skpo import Skpo
from rlkit.batch import Batch, TokenStats, make_minibatches
from rlkit.config import LearnerConfig
from rlkit.feed import Layout, Run, make_feed
from rlkit.learner import Learner
from rlkit.learner.attention import attend, block_mask, can_pack, spans
from rlkit.learner.first import First
from rlkit.learner.gradient import accumulate
from rlkit.metrics import Metrics
from rlkit.types import Credit
from tests.models import tiny_model
from tests.rollouts import rollout

LAYOUTS: tuple[Layout, ...] = ("padded", "packed", "shared")
TREE = (Run(0, 5, -1), Run(5, 6, -1), Run(6, 9, 1), Run(9, 10, 1), Run(10, 17, 1), Run(17, 30, -1))


def sees(runs: tuple[Run, ...], length: int) -> Tensor:
    """Who attends to whom, written out: [length, length] bool."""
    mask = torch.zeros(length, length, dtype=torch.bool)
    for start, stop, parent in runs:
        mask[start:stop, start:stop] = torch.ones(stop - start, stop - start).tril().bool()
        if parent >= 0:
            mask[start:stop, runs[parent].start : runs[parent].stop] = True
    return mask


def tensors(heads: int, key_heads: int, length: int, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = ((1, heads, length, 32), (1, key_heads, length, 32), (1, key_heads, length, 32))
    return [torch.randn(s, dtype=dtype, requires_grad=True) for s in shapes]


@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_attention_and_its_gradient_are_those_of_the_whole_mask(key_heads: int) -> None:
    ours, theirs = (tensors(4, key_heads, 30, torch.float64) for _ in range(2))
    got = attend(None, *ours, None, scaling=0.2, rlkit_runs=TREE)[0].transpose(1, 2)
    key, value = (x.repeat_interleave(4 // key_heads, 1) for x in theirs[1:])
    weights = (theirs[0] @ key.transpose(-1, -2) * 0.2).masked_fill(~sees(TREE, 30), -torch.inf)
    expected = weights.softmax(-1) @ value
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    direction = torch.randn_like(expected)
    got.backward(direction)
    expected.backward(direction)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-12)


def test_flex_attentions_mask_is_the_same_rule() -> None:
    """The GPU's path: its mask, and on a CPU its eager form."""
    from torch.nn.attention.flex_attention import flex_attention

    query, key, value = (x.detach() for x in tensors(4, 2, 128, torch.float32))
    runs = (*TREE, Run(30, 128, -1))
    mask = block_mask(runs, 128, torch.device("cpu"))
    out = flex_attention(query, key, value, block_mask=mask, scale=0.2, enable_gqa=True)
    expected = attend(None, query, key, value, None, scaling=0.2, rlkit_runs=runs)[0].transpose(1, 2)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


def test_spans_are_the_answers_and_their_prompt() -> None:
    assert list(spans(TREE)) == [(slice(6, 17), slice(5, 6))]
    assert list(spans((Run(0, 4, -1),))) == []


def test_a_shared_prompt_is_read_once_and_last_tokens_never() -> None:
    rollouts = [rollout([50, 51, 52], prompt=[1, 2]), rollout([60], prompt=[3]), rollout([70], prompt=[1, 2])]
    sizes = {layout: make_feed(rollouts, layout, pad_id=0).num_tokens for layout in LAYOUTS}
    assert sizes == {"padded": 3 * 4, "packed": 4 + 1 + 2, "shared": 2 + 2 + 0 + 1}
    feed = make_feed(rollouts, "shared", pad_id=0)
    assert feed.ids_RL.tolist() == [[1, 2, 50, 51, 3]]
    assert feed.positions_RL.tolist() == [[0, 1, 2, 3, 0]]
    assert feed.runs == (Run(0, 2, -1), Run(2, 4, 0), Run(4, 5, -1))
    assert feed.predict_N.tolist() == [
        1,
        2,
        3,
        4,
        1,
    ]  # the answer of one token is predicted by its prompt's last


def mixed_credits() -> list[Credit]:
    """Five prompts of 1 to 40 tokens; groups of 1 to 5 answers of 1 to 30 tokens."""
    generator = torch.Generator().manual_seed(3)

    def tokens(n: int) -> list[int]:
        return torch.randint(2, 260, (n,), generator=generator).tolist()

    credits = []
    for group, (size, length) in enumerate(((4, 40), (1, 7), (5, 1), (2, 23), (3, 12))):
        prompt = tokens(length)
        for _ in range(size):
            n = int(torch.randint(1, 31, (1,), generator=generator))
            r = rollout(tokens(n), prompt=prompt, logprobs=[-2.0] * n)
            a = torch.randn(n, generator=generator).tolist()
            kind: Any = "cispo" if group % 2 else "ppo"
            credits.append(
                Credit(rollout=r, advantages=a, weight=1 / n, share=1.0, surrogate=kind, group=group)
            )
    return credits


def make_learner(layout: Layout, **cfg: Any) -> Learner:
    return Learner(
        tiny_model(seed=0, tied=True),
        LearnerConfig(packing=layout != "padded", share_prefixes=layout == "shared", **cfg),
        AlgoConfig(importance_sampling_correction=False),
        learning_rate=1e-3,
        temperature=0.7,
        num_iterations=1,
        pad_id=0,
    )


class Seen:
    """SKPO's loss, which has two surrogates, and the entropies it was shown."""

    def __init__(self) -> None:
        self.algo = Skpo(SkpoConfig(), Sampling(max_completion_length=64, temperature=0.7))
        self.entropy: dict[int, list[float]] = {}

    def loss(self, batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        for b, i in enumerate(batch.rows):
            self.entropy[i] = out.entropy_BT[b][batch.mask_BT[b]].tolist()
        return self.algo.loss(batch, out)


def gradient_of(layout: Layout, tokens: int, ranks: int = 1) -> tuple[Tensor, float, dict[int, list[float]]]:
    learner = make_learner(layout, micro_batch_tokens=tokens)
    seen, total = Seen(), 0.0
    for rank in range(ranks):
        (mini,) = make_minibatches(mixed_credits(), 1, tokens, 0, layout=layout, ranks=ranks, rank=rank)
        for batch in mini:
            total += accumulate(learner, batch, First(), seen.loss)[0]
    gradient = torch.cat([p.grad.flatten() for p in learner.model.parameters() if p.grad is not None])
    return gradient.double(), total, seen.entropy


@pytest.mark.parametrize("tokens", [1, 60, 10**6])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_padded_ones_loss_gradient_and_entropy(layout: Layout, tokens: int) -> None:
    expected, loss, entropy = gradient_of("padded", 10**6)
    for ranks in (1, 3):
        got, total, seen = gradient_of(layout, tokens, ranks)
        assert float((got - expected).norm() / expected.norm()) < 2e-6
        assert total == pytest.approx(loss, rel=1e-5)
        assert seen.keys() == entropy.keys() == set(range(15))
        for i, values in entropy.items():
            assert seen[i] == pytest.approx(values, abs=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_present_log_probs_are_those_of_each_rollout_alone(layout: Layout) -> None:
    rollouts = [c.rollout for c in mixed_credits()]
    alone = [make_learner("padded").logprobs([r])[0] for r in rollouts]
    for got, expected in zip(make_learner(layout).logprobs(rollouts), alone, strict=True):
        assert got == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("ranks", [1, 2, 5])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("budget", [1, 45, 120, 10**6])
def test_ranks_get_every_rollout_once_and_as_many_micro_batches(
    layout: Layout, budget: int, ranks: int
) -> None:
    credits = mixed_credits()
    parts = [
        make_minibatches(credits, 2, budget, 0, layout=layout, ranks=ranks, rank=rank)
        for rank in range(ranks)
    ]
    for minis in zip(*parts, strict=True):
        assert len({len(mini) for mini in minis}) == 1
        assert len({(b.denominator, b.num_tokens) for mini in minis for b in mini}) == 1
        for batch in (b for mini in minis for b in mini):
            assert batch.feed.num_tokens <= budget or len(batch.rows) <= 1
    rows = [i for minis in parts for mini in minis for b in mini for i in b.rows]
    assert sorted(rows) == list(range(15))


def test_idle_rollouts_are_not_read_and_their_share_stays() -> None:
    credits = [
        Credit(rollout=rollout([5] * 4), advantages=[a] * 4, weight=w, share=1.0)
        for a, w in ((1.0, 0.25), (0.0, 0.25), (1.0, 0.0))
    ]
    ((batch,),) = make_minibatches(credits, 1, 10**6, 0, skip_idle=True)
    assert (batch.rows, batch.denominator, batch.num_tokens) == ([0], 3.0, 8)
    ((batch,),) = make_minibatches(credits, 1, 10**6, 0)  # a zero weight is never read: no term has it
    assert sorted(batch.rows) == [0, 1]
    assert make_minibatches(credits[1:], 1, 10**6, 0, skip_idle=True) == [[]]


def test_skipping_idle_rollouts_changes_no_update() -> None:
    """Two steps, the second with nothing but idle rollouts: Adam's momentum moves the weights there all the same."""
    credits = mixed_credits()
    idle = [
        Credit(rollout=c.rollout, advantages=[0.0] * len(c.advantages), weight=1.0, share=1.0)
        for c in credits
    ]
    weights, reports = [], []
    for skip in (True, False):
        learner = make_learner("shared", skip_idle=skip)
        for step in ([*credits[:9], *idle[9:]], idle):
            reports.append(learner.update(learner.minibatches(step, 1), Seen().loss))
        weights.append(torch.cat([p.detach().flatten() for p in learner.model.parameters()]))
        assert learner.updates == 2
    assert (weights[0] - weights[1]).abs().max() < 5e-5  # a twentieth of the learning rate
    skipped, empty, whole, _ = reports
    assert skipped.metrics["grad_norm"] == pytest.approx(whole.metrics["grad_norm"], rel=1e-5)
    assert 0 < skipped.trained_tokens < whole.trained_tokens and empty.trained_tokens == 0
    assert empty.metrics["grad_norm"] == 0.0


def test_a_penalty_or_a_bonus_keeps_idle_rollouts() -> None:
    idle = [Credit(rollout=rollout([5] * 4), advantages=[0.0] * 4, weight=0.25, share=1.0)]
    learner = make_learner("shared")
    assert learner.minibatches(idle, 1) == [[]]
    for cfg in (AlgoConfig(beta=0.1), AlgoConfig(entropy_coef=0.1), AlgoConfig(top_entropy_quantile=0.5)):
        learner.algo = cfg
        ((batch,),) = learner.minibatches(idle, 1)
        assert batch.rows == [0]


def test_a_model_with_sliding_windows_is_padded() -> None:
    model = tiny_model(seed=0)
    assert can_pack(model) is None
    model.config.layer_types = ["full_attention", "sliding_attention"]
    assert can_pack(model) == "Qwen2ForCausalLM has layers that are not full attention"
    learner = Learner(
        model, LearnerConfig(), AlgoConfig(), learning_rate=1e-3, temperature=1.0, num_iterations=1, pad_id=0
    )
    assert (learner.layout, learner.why_padded) == ("padded", can_pack(model))
