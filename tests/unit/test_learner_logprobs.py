"""Token log-probabilities: the same as transformers' whole logits, and never the memory of them."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rlkit.algo_config import AlgoConfig
from rlkit.batch import Batch, make_minibatches
from rlkit.config import LearnerConfig
from rlkit.learner import Learner
from rlkit.learner.logprobs import token_stats
from rlkit.types import Credit
from tests.models import tiny_model
from tests.rollouts import rollout

LENGTHS = [1, 9, 4, 17, 2, 12]


def make_learner(
    *,
    seed: int = 0,
    tied: bool = False,
    temperature: float = 0.7,
    cfg: LearnerConfig | None = None,
    **changes: Any,
) -> Learner:
    return Learner(
        tiny_model(seed=seed, tied=tied),
        cfg or LearnerConfig(logits_chunk=5),
        changes.pop("algo", AlgoConfig(importance_sampling_correction=False)),
        learning_rate=changes.pop("learning_rate", 1e-3),
        temperature=temperature,
        num_iterations=changes.pop("num_iterations", 1),
        pad_id=0,
        **changes,
    )


def make_credits() -> list[Credit]:
    """Six answers of 1 to 17 tokens after prompts of 3 to 8."""
    generator = torch.Generator().manual_seed(0)
    credits = []
    for i, length in enumerate(LENGTHS):
        tokens = torch.randint(2, 260, (3 + i + length,), generator=generator).tolist()
        answer = rollout(tokens[3 + i :], prompt=tokens[: 3 + i])
        credits.append(
            Credit(
                rollout=answer, advantages=[1.0 - i / 2] * length, weight=1 / length, share=1.0, group=i // 2
            )
        )
    return credits


def one_batch(credits: list[Credit]) -> Batch:
    ((batch,),) = make_minibatches(credits, 1, 10_000, pad_id=0)
    return batch


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_and_entropies_are_those_of_transformers_whole_logits(
    tied: bool, temperature: float
) -> None:
    learner = make_learner(tied=tied, temperature=temperature)
    batch = one_batch(make_credits())
    logp_BT, entropy_BT = learner._stats(learner.model, batch)
    for row, i in enumerate(batch.rows):
        r = make_credits()[i].rollout
        with torch.no_grad():  # alone, without padding
            logits_TV = learner.model(torch.tensor([r.token_ids])).logits[0].double() / temperature
        dist_TV = logits_TV.log_softmax(-1)[r.prompt_tokens - 1 : -1]
        expected_T = dist_TV.gather(1, torch.tensor(r.completion_ids)[:, None])[:, 0]
        mask_T = batch.mask_BT[row]
        torch.testing.assert_close(logp_BT[row][mask_T].double(), expected_T, rtol=0, atol=1e-5)
        entropy_T = -(dist_TV.exp() * dist_TV).sum(-1)
        torch.testing.assert_close(entropy_BT[row][mask_T].double(), entropy_T, rtol=0, atol=1e-5)
        assert not logp_BT[row][~mask_T].any() and not entropy_BT[row][~mask_T].any()
        assert learner.logprobs([r])[0] == pytest.approx(expected_T.tolist(), abs=1e-5)


def whole(
    hidden_NH: Tensor, head_VH: Tensor, bias_V: Tensor | None, target_N: Tensor, temperature: float
) -> Tensor:
    logits_NV = torch.nn.functional.linear(hidden_NH, head_VH, bias_V) / temperature
    return logits_NV.log_softmax(-1)[torch.arange(len(target_N)), target_N]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 5, 12, 100])
def test_the_chunked_gradient_is_that_of_all_tokens_at_once(tied: bool, with_bias: bool, chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    head_VH = torch.randn(40, 8, dtype=torch.float64, generator=generator, requires_grad=True)
    inputs_NH = torch.randn(12, 8, dtype=torch.float64, generator=generator, requires_grad=True)
    bias_V = (
        torch.randn(40, dtype=torch.float64, generator=generator, requires_grad=True) if with_bias else None
    )
    target_N = torch.randint(0, 40, (12,), generator=generator)
    pull_N = torch.randn(12, dtype=torch.float64, generator=generator)
    leaves = [head_VH, inputs_NH, *([bias_V] if bias_V is not None else [])]
    # A tied head is met twice: as the embedding that the hidden states grow from, and as the head.
    hidden_NH = inputs_NH + head_VH[target_N.roll(1)].tanh() if tied else inputs_NH * 1.0
    logp_N, _ = token_stats(hidden_NH, head_VH, bias_V, target_N, 0.7, chunk)
    expected_N = whole(hidden_NH, head_VH, bias_V, target_N, 0.7)
    torch.testing.assert_close(logp_N, expected_N, rtol=0, atol=1e-12)
    got = torch.autograd.grad((logp_N * pull_N).sum(), leaves, retain_graph=True)
    expected = torch.autograd.grad((expected_N * pull_N).sum(), leaves)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_no_token_to_train_is_no_error() -> None:
    logp_N, entropy_N = token_stats(
        torch.zeros(0, 8), torch.zeros(40, 8), None, torch.zeros(0).long(), 1.0, 5
    )
    assert logp_N.shape == entropy_N.shape == (0,)


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation made, of those with the vocabulary as their last axis."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.rows = vocabulary, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor) and tensor.ndim and tensor.shape[-1] == self.vocabulary:
                self.rows = max(self.rows, tensor.numel() // self.vocabulary)
        return out


def test_logits_of_all_tokens_never_exist_at_one_time() -> None:
    learner = make_learner(cfg=LearnerConfig(logits_chunk=100))  # more than the head's own gradient, 64 x 260
    batch = one_batch(make_credits() * 8)
    with Largest(vocabulary=260) as seen:
        logp_BT, _ = learner._stats(learner.model, batch)
        logp_BT.sum().backward()
    assert 8 * sum(LENGTHS) == 360 and seen.rows == 100
    with Largest(vocabulary=260) as seen:  # the measure sees what it should
        learner.model(batch.ids_BT).logits.sum()
    assert seen.rows == batch.ids_BT.numel()


def test_no_chunk_of_logits_is_kept_for_the_backward_pass() -> None:
    head_VH = torch.randn(4096, 8, requires_grad=True)
    hidden_NH = torch.randn(64, 8, requires_grad=True)
    saved: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        token_stats(hidden_NH, head_VH, None, torch.zeros(64).long(), 1.0, 16)
    assert max(saved, default=0) <= head_VH.numel()  # a chunk's logits would be twice as large: 16 x 4096
