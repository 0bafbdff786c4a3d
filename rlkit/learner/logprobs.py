"""Log-probability and entropy of each trained token, without ever holding the logits of all of them.

The hidden states meet a linear head in tiles: some tokens times a strip of the vocabulary, small enough for the caches.
The forward pass folds tile after tile into a running log-sum-exp and keeps a few numbers per token; the backward pass
computes each tile once more, turns it into the gradient of its logits in place and multiplies it on at once. What is
held follows the tile, not N * V. Any other head (LoRA, quantised) is called as it is, some tokens at a time, under
activation checkpointing.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from .tiles import CHOSEN, MAX, SUM, WEIGHTED, Tiles, add_product, tile_shape, triton_kernels

MODULE_TOKENS = 256
"""Tokens that meet a head of another kind at one time, when `chunk` is 0: fewer, and reading its weights dominates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadStats:
    """What is known of the distributions of N tokens; float32, or float64 for float64 inputs."""

    logp_N: Tensor
    """Log-probability of the target, nats."""
    entropy_N: Tensor
    """Entropy of the whole distribution, nats."""
    top_mass_N: Tensor | None
    """Probability held by the `top_k` likeliest tokens; none when `top_k` is 0."""


Stats = tuple[Tensor, Tensor, Tensor | None]
"""The fields of HeadStats: what autograd and checkpointing can carry."""


def token_stats(
    hidden_NH: Tensor,
    head: nn.Module,
    target_N: Tensor,
    temperature: float,
    chunk: int,
    *,
    entropy_grad: bool = False,
    top_k: int = 0,
) -> HeadStats:
    """Log-probs of the targets under softmax(head(hidden) / temperature), and what else is known of that distribution.

    hidden_NH: the hidden states that predict the targets;  head: the model's output embedding;  target_N: token ids
    chunk: at most `chunk` tokens' worth of logits (chunk * V of them) exist at one time; 0: what suits the device
    entropy_grad: the entropy carries a gradient, as the log-probs always do;  top_k: for `top_mass_N`, which never does

    Logits must be finite. In bfloat16 the matrices are multiplied in bfloat16, everything between is float32.
    """
    values: Stats
    if _is_plain(head):
        values = _LinearHead.apply(  # type: ignore[no-untyped-call]
            hidden_NH, head.weight, head.bias, target_N, temperature, chunk, entropy_grad, top_k
        )
    else:
        values = _module_stats(hidden_NH, head, target_N, temperature, chunk, entropy_grad, top_k)
    logp_N, entropy_N, top_mass_N = values
    return HeadStats(logp_N=logp_N, entropy_N=entropy_N, top_mass_N=top_mass_N)


def _is_plain(head: nn.Module) -> bool:
    """Its logits are weight and bias and nothing else: no subclass (LoRA, quantised, parametrised), no hook, no new forward."""
    return (
        type(head) is nn.Linear
        and "forward" not in vars(head)
        and not (head._forward_hooks or head._forward_pre_hooks)
    )


def _module_stats(
    hidden_NH: Tensor,
    head: nn.Module,
    target_N: Tensor,
    temperature: float,
    chunk: int,
    entropy_grad: bool,
    top_k: int,
) -> Stats:
    """The same through any module, by autograd; a chunk's logits are computed again in the backward pass."""
    step = chunk or MODULE_TOKENS
    parts: list[Stats] = []
    for i in range(
        0, max(1, len(target_N)), step
    ):  # once even for no token: the head takes part in the backward
        some = hidden_NH[i : i + step], head, target_N[i : i + step], temperature, entropy_grad, top_k
        if torch.is_grad_enabled():
            parts.append(checkpoint(_logits_stats, *some, use_reentrant=False))
        else:
            parts.append(_logits_stats(*some))
    logps, entropies, masses = zip(*parts, strict=True)
    return torch.cat(logps), torch.cat(entropies), torch.cat(masses) if top_k else None


def _logits_stats(
    hidden_NH: Tensor, head: nn.Module, target_N: Tensor, temperature: float, entropy_grad: bool, top_k: int
) -> Stats:
    logits_NV = head(hidden_NH)
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32)) / temperature
    dist_NV = logits_NV.log_softmax(-1)
    with torch.set_grad_enabled(entropy_grad and torch.is_grad_enabled()):
        entropy_N = -(dist_NV.exp() * dist_NV).sum(-1)
    top_mass_N = None
    if top_k:
        top_mass_N = dist_NV.detach().topk(min(top_k, dist_NV.shape[-1])).values.exp().sum(-1)
    return dist_NV.gather(-1, target_N[:, None])[:, 0], entropy_N, top_mass_N


class _LinearHead(torch.autograd.Function):
    """With p = softmax(z / temperature) and z = hidden W' + bias (1 at the target: 1_y; H: the entropy),

        d logp / dz = (1_y - p) / temperature,    d H / dz = -p (log p + H) / temperature

    The vocabulary is the outer loop, so that a strip of W is read, and its gradient written, once for all tokens.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        target_N: Tensor,
        temperature: float,
        chunk: int,
        entropy_grad: bool,
        top_k: int,
    ) -> Stats:
        device, N, V = hidden_NH.device.type, len(target_N), len(weight_VH)
        dtype = hidden_NH.dtype
        if torch.is_autocast_enabled(device) and dtype != torch.float64:  # autocast leaves float64 alone
            dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            inputs_NH = hidden_NH.to(dtype)
            rows, columns = tile_shape(N, V, chunk, device)
            tiles = Tiles(rows, columns, inputs_NH, temperature, triton_kernels(device))
            running_4N = tiles.start(N)
            top_NK = running_4N.new_full((N, min(top_k, V)), -torch.inf)
            for j in range(0, V, columns):
                weight_vH, bias_v = _strip(weight_VH, j, columns, dtype), _strip(bias_V, j, columns, dtype)
                for i in range(0, N, rows):
                    part = slice(i, i + rows)
                    tile_nv = tiles.logits(inputs_NH[part], weight_vH, bias_v)
                    if top_k:
                        best_nk = (
                            tile_nv.topk(min(top_k, tile_nv.shape[1])).values.to(tiles.sums) * tiles.after
                        )
                        top_NK[part] = torch.cat((top_NK[part], best_nk), 1).topk(top_NK.shape[1]).values
                    tiles.fold(tile_nv, target_N[part] - j, running_4N[:, part])
        log_rest_N = running_4N[SUM].log()
        # The largest logit is taken off first: what is left is small, and keeps its digits.
        logp_N = (running_4N[CHOSEN] - running_4N[MAX]) - log_rest_N
        entropy_N = log_rest_N - running_4N[WEIGHTED] / running_4N[SUM]
        log_sum_N = running_4N[MAX] + log_rest_N
        top_mass_N = (top_NK - log_sum_N[:, None]).exp().sum(-1) if top_k else None
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, target_N, log_sum_N, entropy_N)
        ctx.settings = dtype, temperature, chunk
        ctx.set_materialize_grads(False)
        no_gradient = [t for t in (None if entropy_grad else entropy_N, top_mass_N) if t is not None]
        ctx.mark_non_differentiable(*no_gradient)
        return logp_N, entropy_N, top_mass_N

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, pull_N: Tensor | None, entropy_pull_N: Tensor | None, _: None
    ) -> tuple[Tensor | None, ...]:
        hidden_NH, weight_VH, bias_V, target_N, log_sum_N, entropy_N = ctx.saved_tensors
        dtype, temperature, chunk = ctx.settings
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        pull_N = torch.zeros_like(log_sum_N) if pull_N is None else pull_N
        live_N = pull_N != 0 if entropy_pull_N is None else (pull_N != 0) | (entropy_pull_N != 0)
        live_M = live_N.nonzero()[:, 0]  # tokens without a pull (clipped, masked) cost nothing
        device, M, V = hidden_NH.device.type, len(live_M), len(weight_VH)
        sums = log_sum_N.dtype
        pull_M, log_sum_M, target_M = pull_N[live_M] / temperature, log_sum_N[live_M], target_N[live_M]
        entropy_M = entropy_N[live_M]
        entropy_pull_M = None if entropy_pull_N is None else entropy_pull_N[live_M] / temperature
        make = torch.empty_like if M else torch.zeros_like
        grad_MH = torch.zeros(M, hidden_NH.shape[1], dtype=sums, device=hidden_NH.device)
        grad_VH = make(weight_VH) if needs_weight else None
        grad_V = make(bias_V) if needs_bias else None
        with torch.autocast(device, enabled=False):
            inputs_MH = (hidden_NH if M == len(hidden_NH) else hidden_NH[live_M]).to(dtype)
            rows, columns = tile_shape(M, V, chunk, device)
            tiles = Tiles(rows, columns, inputs_MH, temperature, triton_kernels(device))
            for j in range(0, V if M else 0, columns):
                weight_vH, bias_v = _strip(weight_VH, j, columns, dtype), _strip(bias_V, j, columns, dtype)
                # In float32 the sums grow where they stay; in half precision they are rounded once, at the end.
                grad_vH = None if grad_VH is None else _sum_of(grad_VH[j : j + columns], sums)
                grad_v = None if grad_V is None else grad_V.new_zeros(len(weight_vH), dtype=sums)
                for i in range(0, M, rows):
                    part = slice(i, i + rows)
                    tile_nv = tiles.logits(inputs_MH[part], weight_vH, bias_v)
                    pulls = pull_M[part], None if entropy_pull_M is None else entropy_pull_M[part]
                    tiles.to_gradient(tile_nv, target_M[part] - j, log_sum_M[part], entropy_M[part], *pulls)
                    if needs_hidden:
                        add_product(grad_MH[part], tile_nv, weight_vH)
                    if grad_vH is not None:
                        add_product(grad_vH, tile_nv.t(), inputs_MH[part], first=i == 0)
                    if grad_v is not None:
                        grad_v += tile_nv.sum(0, dtype=sums)
                if grad_VH is not None and grad_vH is not None and grad_VH.dtype != sums:
                    grad_VH[j : j + columns] = grad_vH
                if grad_V is not None and grad_v is not None:
                    grad_V[j : j + columns] = grad_v
        grad_NH = None
        if needs_hidden:
            grad_NH = grad_MH.to(hidden_NH.dtype)
            if M < len(hidden_NH):
                grad_NH = torch.zeros_like(hidden_NH).index_copy_(0, live_M, grad_NH)
        return grad_NH, grad_VH, grad_V, None, None, None, None, None


def _strip(tensor: Tensor | None, start: int, columns: int, dtype: torch.dtype) -> Any:
    return None if tensor is None else tensor[start : start + columns].to(dtype)


def _sum_of(strip_vH: Tensor, sums: torch.dtype) -> Tensor:
    return strip_vH if strip_vH.dtype == sums else torch.empty_like(strip_vH, dtype=sums)
