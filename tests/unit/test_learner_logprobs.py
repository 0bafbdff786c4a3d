"""Token log-probabilities without logits: the same as whole logits, and never the memory of them.

test_learner_triton.py runs this file once more, on the Triton kernels.
"""

import copy
import math
import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from rlkit.learner.logprobs import HeadStats, token_stats
from rlkit.learner.tiles import tile_shape
from tests.models import tiny_model

V, H = 40, 8

torch_only = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1",
    reason="Triton's interpreter copies tensors whole and cuts bfloat16 off instead of rounding it",
)


def make_head(*, bias: bool = False, dtype: torch.dtype = torch.float64, vocabulary: int = V) -> nn.Linear:
    torch.manual_seed(0)
    head = nn.Linear(H, vocabulary, bias=bias, dtype=dtype)
    nn.init.normal_(head.weight)
    return head


def make_inputs(num_tokens: int, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Hidden states and targets."""
    generator = torch.Generator().manual_seed(1)
    hidden_NH = torch.randn(num_tokens, H, dtype=dtype, generator=generator, requires_grad=True)
    return hidden_NH, torch.randint(0, V, (num_tokens,), generator=generator)


def whole_logits(hidden_NH: Tensor, head: nn.Module, target_N: Tensor, temperature: float) -> HeadStats:
    """The oracle: all logits at once, autograd."""
    logits_NV = head(hidden_NH)
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32)) / temperature
    dist_NV = logits_NV.log_softmax(-1)
    logp_N = dist_NV[torch.arange(len(target_N)), target_N]
    return HeadStats(logp_N=logp_N, entropy_N=-(dist_NV.exp() * dist_NV).sum(-1), top_mass_N=None)


def pulled(stats: HeadStats, entropy_grad: bool) -> Tensor:
    """A scalar that pulls each token's log-prob, and its entropy if it may, by a number of its own."""
    generator = torch.Generator().manual_seed(2)
    pulls = torch.randn(2, len(stats.logp_N), dtype=torch.float64, generator=generator).to(stats.logp_N)
    loss = (stats.logp_N * pulls[0]).sum()
    return loss + (stats.entropy_N * pulls[1]).sum() if entropy_grad else loss


def gradients(stats: HeadStats, leaves: list[Tensor], entropy_grad: bool = False) -> tuple[Tensor, ...]:
    return torch.autograd.grad(pulled(stats, entropy_grad), leaves)


def distance(got: Tensor, truth: Tensor) -> float:
    return float((got - truth).detach().double().norm() / truth.detach().double().norm())


class Seen(TorchDispatchMode):
    """Elements of the largest tensor that an operation made, and rows of the logits that were computed."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.rows = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
            if func is torch.ops.aten.addmm.out and tensor.shape[1] == V:
                self.rows += tensor.shape[0]
        return out


# -- values ----------------------------------------------------------------------------------------------------------


def test_three_words_by_hand() -> None:
    """Probabilities 1/2, 1/4, 1/4 at temperature 2: the logits are twice their logarithms."""
    head = nn.Linear(1, 3, bias=False, dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(2 * torch.tensor([[0.5], [0.25], [0.25]], dtype=torch.float64).log())
    hidden_NH = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    stats = token_stats(hidden_NH, head, torch.tensor([0, 2]), 2.0, 0, entropy_grad=True, top_k=2)
    assert stats.logp_N.tolist() == pytest.approx([math.log(0.5), math.log(0.25)], abs=1e-15)
    assert stats.entropy_N.tolist() == pytest.approx([1.5 * math.log(2)] * 2, abs=1e-15)
    assert stats.top_mass_N is not None and stats.top_mass_N.tolist() == pytest.approx([0.75] * 2, abs=1e-15)
    (grad_VH,) = torch.autograd.grad(stats.logp_N[0], head.weight, retain_graph=True)
    assert grad_VH[:, 0].tolist() == pytest.approx([0.25, -0.125, -0.125], abs=1e-15)  # (1_0 - p) / 2
    (grad_VH,) = torch.autograd.grad(stats.entropy_N[1], head.weight)
    # -p (log p + H) / 2 with H = 1.5 log 2: -1/2 * 0.5 log 2 / 2 and 1/4 * 0.5 log 2 / 2
    expected = [-0.125 * math.log(2), 0.0625 * math.log(2), 0.0625 * math.log(2)]
    assert grad_VH[:, 0].tolist() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_entropies_and_gradients_are_those_of_transformers_whole_logits(
    tied: bool, temperature: float
) -> None:
    model = tiny_model(seed=0, tied=tied).double()
    ids_T = torch.randint(2, 260, (30,), generator=torch.Generator().manual_seed(0))
    parameters = list(model.parameters())
    dist_TV = (model(ids_T[None]).logits[0, :-1] / temperature).log_softmax(-1)
    oracle = HeadStats(
        logp_N=dist_TV.gather(1, ids_T[1:, None])[:, 0],
        entropy_N=-(dist_TV.exp() * dist_TV).sum(-1),
        top_mass_N=None,
    )
    body_TH = model.base_model(ids_T[None]).last_hidden_state[0, :-1]
    stats = token_stats(body_TH, model.lm_head, ids_T[1:], temperature, 3, entropy_grad=True)
    torch.testing.assert_close(stats.logp_N, oracle.logp_N, rtol=0, atol=1e-11)
    torch.testing.assert_close(stats.entropy_N, oracle.entropy_N, rtol=0, atol=1e-11)
    for ours, theirs in zip(
        gradients(stats, parameters, True), gradients(oracle, parameters, True), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_trl_s_fused_head_gives_the_same_log_probs_entropies_and_gradients() -> None:
    from trl.trainer.utils import add_fused_lm_head

    model = tiny_model(seed=3, tied=True)
    ids_BT = torch.randint(2, 260, (3, 20), generator=torch.Generator().manual_seed(0))
    parameters = list(model.parameters())
    body_BTH = model.base_model(ids_BT).last_hidden_state[:, :-1]
    stats = token_stats(
        body_BTH.flatten(0, 1), model.lm_head, ids_BT[:, 1:].flatten(), 0.7, 0, entropy_grad=True
    )
    ours = gradients(stats, parameters, entropy_grad=True)
    add_fused_lm_head(model, temperature=0.7, outputs=("log_probs", "entropy"))
    out = model(ids_BT, labels=ids_BT, fused_lm_head=True)
    trl = HeadStats(logp_N=out.log_probs.flatten(), entropy_N=out.entropy.flatten(), top_mass_N=None)
    torch.testing.assert_close(stats.logp_N, trl.logp_N, rtol=0, atol=1e-5)
    torch.testing.assert_close(stats.entropy_N, trl.entropy_N, rtol=0, atol=1e-5)
    for a, b in zip(ours, gradients(trl, parameters, entropy_grad=True), strict=True):
        assert distance(a, b) < 1e-5


@pytest.mark.parametrize("chunk", [0, 1, 5, 12, 100])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("entropy_grad", [False, True])
def test_any_chunk_gives_the_values_and_gradients_of_all_tokens_at_once(
    chunk: int, bias: bool, entropy_grad: bool
) -> None:
    head, (hidden_NH, target_N) = make_head(bias=bias), make_inputs(12)
    leaves = [hidden_NH, *head.parameters()]
    stats = token_stats(hidden_NH, head, target_N, 0.7, chunk, entropy_grad=entropy_grad)
    oracle = whole_logits(hidden_NH, head, target_N, 0.7)
    torch.testing.assert_close(stats.logp_N, oracle.logp_N, rtol=0, atol=1e-12)
    torch.testing.assert_close(stats.entropy_N, oracle.entropy_N, rtol=0, atol=1e-12)
    assert stats.logp_N.dtype == stats.entropy_N.dtype == torch.float64
    assert stats.entropy_N.requires_grad == entropy_grad
    for a, b in zip(
        gradients(stats, leaves, entropy_grad), gradients(oracle, leaves, entropy_grad), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_the_hand_written_backward_passes_gradcheck() -> None:
    head, (hidden_NH, target_N) = make_head(bias=True, vocabulary=7), make_inputs(4)

    def both(hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor) -> tuple[Tensor, Tensor]:
        plain = make_head(bias=True, vocabulary=7)
        plain.weight, plain.bias = nn.Parameter(weight_VH), nn.Parameter(bias_V)
        del plain.weight, plain.bias  # a Parameter would cut the graph that gradcheck differentiates
        plain.__dict__["weight"], plain.__dict__["bias"] = weight_VH, bias_V
        stats = token_stats(hidden_NH, plain, target_N % 7, 0.7, 1, entropy_grad=True)
        return stats.logp_N, stats.entropy_N

    assert torch.autograd.gradcheck(both, (hidden_NH, head.weight, head.bias))


def test_logits_far_from_zero_lose_nothing() -> None:
    """Logits of thousands, the largest in the first, a middle or the last strip: exp would overflow."""
    head, (hidden_NH, target_N) = make_head(), make_inputs(12)
    stats = token_stats(hidden_NH * 1000, head, target_N, 1.0, 1)
    oracle = whole_logits(hidden_NH * 1000, head, target_N, 1.0)
    torch.testing.assert_close(stats.logp_N, oracle.logp_N, rtol=1e-12, atol=0)
    torch.testing.assert_close(stats.entropy_N, oracle.entropy_N, rtol=0, atol=1e-9)
    for grad in gradients(stats, [hidden_NH, head.weight]):
        assert grad.isfinite().all()


@pytest.mark.parametrize("num_tokens", [0, 1])
def test_no_token_and_one_token(num_tokens: int) -> None:
    for head in (make_head(bias=True), Adapted(make_head(bias=True))):
        hidden_NH, target_N = make_inputs(num_tokens)
        leaves = [hidden_NH, *(p for p in head.parameters() if p.requires_grad)]
        stats = token_stats(hidden_NH, head, target_N, 0.7, 5, top_k=2)
        oracle = whole_logits(hidden_NH, head, target_N, 0.7)
        assert stats.top_mass_N is not None
        assert stats.logp_N.shape == stats.entropy_N.shape == stats.top_mass_N.shape == (num_tokens,)
        torch.testing.assert_close(stats.logp_N, oracle.logp_N, rtol=0, atol=1e-12)
        for a, b in zip(gradients(stats, leaves), gradients(oracle, leaves), strict=True):
            torch.testing.assert_close(
                a, b, rtol=0, atol=1e-12
            )  # zeros, not nothing: DDP waits for every weight


@pytest.mark.parametrize("adapted", [False, True])
def test_top_mass_is_the_probability_of_the_likeliest_and_has_no_gradient(adapted: bool) -> None:
    (hidden_NH, target_N), linear = make_inputs(12), make_head()
    head = Adapted(linear) if adapted else linear
    p_NV = (head(hidden_NH) / 0.7).softmax(-1).detach()
    for k in (1, 3, V):
        mass_N = token_stats(hidden_NH, head, target_N, 0.7, 2, top_k=k).top_mass_N
        assert mass_N is not None and not mass_N.requires_grad
        torch.testing.assert_close(
            mass_N, p_NV.sort(descending=True).values[:, :k].sum(-1), rtol=0, atol=1e-12
        )
    more_N = token_stats(hidden_NH, head, target_N, 0.7, 2, top_k=V + 1).top_mass_N
    assert more_N is not None and more_N.tolist() == pytest.approx([1.0] * 12)
    assert token_stats(hidden_NH, head, target_N, 0.7, 2).top_mass_N is None


# -- heads and precisions ----------------------------------------------------------------------------------------------


class Adapted(nn.Module):
    """A frozen linear layer and a trained low-rank one beside it, as peft builds them; weight and bias are forwarded."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        generator = torch.Generator().manual_seed(5)
        self.A = nn.Parameter(torch.randn(2, base.in_features, dtype=torch.float64, generator=generator))
        self.B = nn.Parameter(torch.randn(base.out_features, 2, dtype=torch.float64, generator=generator))

    @property
    def weight(self) -> Tensor:  # the trap: peft's layers show the frozen weight under this name
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    def forward(self, hidden_NH: Tensor) -> Tensor:
        out: Tensor = self.base(hidden_NH) + hidden_NH @ self.A.t() @ self.B.t()
        return out


@pytest.mark.parametrize("entropy_grad", [False, True])
def test_a_head_with_an_adapter_is_called_as_it_is(entropy_grad: bool) -> None:
    head, (hidden_NH, target_N) = Adapted(make_head(bias=True)), make_inputs(12)
    leaves = [hidden_NH, head.A, head.B]
    oracle = whole_logits(hidden_NH, head, target_N, 0.7)
    for chunk in (0, 1, 5):
        stats = token_stats(hidden_NH, head, target_N, 0.7, chunk, entropy_grad=entropy_grad)
        torch.testing.assert_close(stats.logp_N, oracle.logp_N, rtol=0, atol=1e-12)
        torch.testing.assert_close(stats.entropy_N, oracle.entropy_N, rtol=0, atol=1e-12)
        assert stats.entropy_N.requires_grad == entropy_grad
        got = gradients(stats, leaves, entropy_grad)
        expected = torch.autograd.grad(pulled(oracle, entropy_grad), leaves, retain_graph=True)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_hook_or_another_forward_on_a_linear_head_is_not_passed_over() -> None:
    hidden_NH, target_N = make_inputs(12)
    hooked, replaced = make_head(), make_head()
    hooked.register_forward_hook(lambda module, args, out: out * 2)
    replaced.forward = lambda hidden_NH: F.linear(hidden_NH, replaced.weight) * 2  # type: ignore[method-assign]
    doubled = whole_logits(hidden_NH, make_head(), target_N, 0.5).logp_N
    for head in (hooked, replaced):
        torch.testing.assert_close(
            token_stats(hidden_NH, head, target_N, 1.0, 5).logp_N, doubled, rtol=0, atol=1e-12
        )


def test_the_embedding_s_gradient_sums_both_uses_of_a_tied_weight() -> None:
    head, (inputs_NH, target_N) = make_head(), make_inputs(12)

    def hidden() -> Tensor:
        return inputs_NH + F.embedding(target_N.roll(1), head.weight).tanh()

    (got,) = gradients(token_stats(hidden(), head, target_N, 0.7, 2), [head.weight])
    (expected,) = gradients(whole_logits(hidden(), head, target_N, 0.7), [head.weight])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    (alone,) = gradients(token_stats(hidden().detach(), head, target_N, 0.7, 2), [head.weight])
    assert distance(alone, expected) > 0.01


@torch_only
def test_a_frozen_head_costs_no_gradient_of_its_size() -> None:
    hidden_NH, target_N = make_inputs(12)
    largest = []
    for frozen in (False, True):
        head = make_head(vocabulary=1000).requires_grad_(not frozen)
        stats = token_stats(hidden_NH, head, target_N, 0.7, 1)
        with Seen() as seen:
            (got,) = gradients(stats, [hidden_NH])
            if not frozen:
                gradients(token_stats(hidden_NH, head, target_N, 0.7, 1), [head.weight])
        largest.append(seen.largest)
        (expected,) = gradients(whole_logits(hidden_NH, head, target_N, 0.7), [hidden_NH])
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    assert largest[0] == 1000 * H and largest[1] <= 1000


@torch_only
@pytest.mark.parametrize("common", [0.0, 3.0])
@pytest.mark.parametrize("entropy_grad", [False, True])
def test_autocast_to_bfloat16_is_no_further_from_the_truth_than_whole_logits(
    common: float, entropy_grad: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(64, 3000, bias=False)
    # What all words have in common cancels in the sum over the vocabulary, and must not leave its rounding there.
    nn.init.normal_(head.weight, mean=common, std=0.3, generator=generator)
    hidden_NH = torch.randn(400, 64, generator=generator, requires_grad=True)
    target_N = torch.multinomial(head(hidden_NH).softmax(-1).detach(), 1, generator=generator)[:, 0]
    leaves = [hidden_NH, head.weight]
    truth = whole_logits(hidden_NH, head, target_N, 0.9)
    true = truth.logp_N, truth.entropy_N, *gradients(truth, leaves, entropy_grad)
    with torch.autocast("cpu", torch.bfloat16):
        oracle = whole_logits(hidden_NH, head, target_N, 0.9)
        stats = token_stats(hidden_NH, head, target_N, 0.9, 20, entropy_grad=entropy_grad, top_k=3)
        top_N = (head(hidden_NH).float() / 0.9).softmax(-1).topk(3).values.sum(-1)
    assert stats.top_mass_N is not None
    torch.testing.assert_close(stats.top_mass_N, top_N.detach(), rtol=0, atol=1e-5)
    whole = oracle.logp_N, oracle.entropy_N, *gradients(oracle, leaves, entropy_grad)
    ours = stats.logp_N, stats.entropy_N, *gradients(stats, leaves, entropy_grad)
    assert stats.logp_N.dtype == torch.float32 and ours[2].dtype == ours[3].dtype == torch.float32
    for got, other, exact in zip(ours, whole, true, strict=True):
        assert 1e-5 < distance(got, exact) < 1.05 * distance(other, exact)  # bfloat16 at work, and no worse


@torch_only
@pytest.mark.parametrize("bias", [False, True])
def test_a_bfloat16_model_gets_bfloat16_gradients_rounded_once(bias: bool) -> None:
    head, (hidden_NH, target_N) = make_head(bias=bias, dtype=torch.bfloat16), make_inputs(500)
    hidden_NH = hidden_NH.detach().bfloat16().requires_grad_()
    exact = copy.deepcopy(head).double()
    hidden_64 = hidden_NH.detach().double().requires_grad_()
    stats = token_stats(hidden_NH, head, target_N, 0.7, 10)
    truth = gradients(whole_logits(hidden_64, exact, target_N, 0.7), [hidden_64, *exact.parameters()])
    whole = gradients(whole_logits(hidden_NH, head, target_N, 0.7), [hidden_NH, *head.parameters()])
    for got, other, true in zip(gradients(stats, [hidden_NH, *head.parameters()]), whole, truth, strict=True):
        assert got.dtype == torch.bfloat16 and distance(got, true) < 1.1 * distance(other, true)


@torch_only
def test_a_likely_token_keeps_its_gradient_in_bfloat16() -> None:
    """p = 0.9995: bfloat16 has 0.99609 and 1 around it, so 1 - p must be taken before the rounding."""
    head = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[7.625], [0.0]]))
    hidden_NH = torch.ones(1, 1, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        stats = token_stats(hidden_NH, head, torch.tensor([0]), 1.0, 0)
    (grad_VH,) = torch.autograd.grad(stats.logp_N.sum(), head.weight)
    rest = 1 / (1 + math.exp(7.625))
    assert grad_VH[:, 0].tolist() == pytest.approx([rest, -rest], rel=2**-8)


def test_autocast_leaves_float64_alone() -> None:
    head, (hidden_NH, target_N) = make_head(), make_inputs(12)
    with torch.autocast("cpu", torch.bfloat16):
        stats = token_stats(hidden_NH, head, target_N, 0.7, 0)
    expected = whole_logits(hidden_NH, head, target_N, 0.7).logp_N
    torch.testing.assert_close(stats.logp_N, expected, rtol=0, atol=1e-12)


# -- what it costs -----------------------------------------------------------------------------------------------------


@torch_only
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("adapted", [False, True])
def test_logits_of_all_tokens_never_exist_at_one_time(adapted: bool, dtype: torch.dtype) -> None:
    linear, (hidden_NH, target_N) = make_head(vocabulary=1000), make_inputs(256)
    head = (Adapted(linear) if adapted else linear).float()
    hidden_NH = hidden_NH.detach().float().requires_grad_()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32), Seen() as seen:
        pulled(token_stats(hidden_NH, head, target_N, 0.7, 16, entropy_grad=True), True).backward()
    assert 1000 * H <= seen.largest <= 16 * 1000  # the weight's own gradient, and 16 tokens' worth of logits
    with Seen() as seen:  # the measure sees what it should
        whole_logits(hidden_NH, head, target_N, 0.7)
    assert seen.largest == 256 * 1000


def test_nothing_of_the_vocabulary_s_size_is_kept_for_the_backward_pass() -> None:
    hidden_NH, target_N = make_inputs(64)
    for head in (make_head(vocabulary=4096), Adapted(make_head(vocabulary=4096))):
        saved: dict[int, int] = {}

        def pack(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            saved[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            token_stats(hidden_NH, head, target_N, 1.0, 16)
        own = {p.data_ptr() for p in head.parameters()}
        assert max(n for at, n in saved.items() if at not in own) <= 64 * H


def test_tokens_without_a_pull_meet_the_head_once() -> None:
    head, (hidden_NH, target_N) = make_head(), make_inputs(12)
    pull_N = torch.zeros(12, dtype=torch.float64)
    pull_N[[2, 3, 9]] = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    with Seen() as forward:
        stats = token_stats(hidden_NH, head, target_N, 0.7, 0)
    with Seen() as backward:
        got = torch.autograd.grad((stats.logp_N * pull_N).sum(), [hidden_NH, head.weight])
    assert (forward.rows, backward.rows) == (12, 3)
    oracle = whole_logits(hidden_NH, head, target_N, 0.7)
    expected = torch.autograd.grad((oracle.logp_N * pull_N).sum(), [hidden_NH, head.weight])
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    stats = token_stats(hidden_NH, head, target_N, 0.7, 0, entropy_grad=True)
    with Seen() as backward:
        (stats.logp_N * 0.0 + stats.entropy_N * pull_N).sum().backward()
    assert backward.rows == 3


def test_a_tile_holds_no_more_logits_than_asked_for() -> None:
    for chunk in (1, 2, 7, 64, 4096):
        for vocabulary in (1, 3, 260, 152_064):
            for num_tokens in (0, 1, 513, 100_000):
                tokens, columns = tile_shape(num_tokens, vocabulary, chunk, "cpu")
                assert 1 <= tokens <= max(1, num_tokens) and 1 <= columns <= vocabulary
                assert tokens * columns <= chunk * vocabulary
    assert tile_shape(1025, 152_064, 0, "cpu") == (
        513,
        4032,
    )  # two equal blocks rather than 1,024 tokens and 1
