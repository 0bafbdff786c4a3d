"""Attention over packed rows: every run attends to itself, causally, and to the prompt that it shares.

Registered with transformers under the name `rlkit_runs`, so that a model's own layers call it; the runs travel as a keyword
of the model's forward pass. On a CPU a long run is one call of torch's flash kernel on a slice, without a mask, a copy or
padding; short runs of about the same length, whose calls would cost more than their work, are stacked into one. A shared
prompt is one more call, all its answers' queries against its keys; the two softmaxes are merged by their log-sum-exps, and
the backward pass of each piece is the kernel's own, given the merged output and log-sum-exp (the identity behind ring
attention, arXiv:2310.01889). On a GPU the same mask goes to FlexAttention.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from rlkit.feed import Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "rlkit_runs"
_BLOCK = 128  # FlexAttention's block: rows are padded to a multiple of it
_SHORT = 256  # tokens; a longer run's work is worth a call of its own
_STEP = 8  # runs of a stack differ by less


def can_pack(model: "PreTrainedModel") -> str | None:
    """None when the model's layers can run on packed rows; else why not, in a few words."""
    config = model.config.get_text_config()
    if not getattr(model, "_supports_attention_backend", False):
        return f"{type(model).__name__} does not take another attention"
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if kinds != {"full_attention"} or (window and not getattr(config, "layer_types", None)):
        return f"{type(model).__name__} has layers that are not full attention"
    if next(model.parameters()).device.type not in ("cpu", "cuda"):
        return f"no packed attention for {next(model.parameters()).device.type}"
    return None


def register() -> None:
    """Tell transformers the name; safe to repeat."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    rlkit_runs: Sequence[Run] = (),
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: [1, heads, L, width] in, [1, L, heads, width] out.  No runs: the row is one run."""
    runs = tuple(rlkit_runs) or (Run(0, query.shape[2], -1),)
    groups = query.shape[1] // key.shape[1]
    # Under autocast the rotary embedding has made float32 of queries and keys; torch's own attention casts them back.
    query, key = query.to(value.dtype), key.to(value.dtype)
    if query.device.type == "cuda":
        return _flex(query, key, value, runs, scaling).transpose(1, 2), None
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    out: Tensor = _Runs.apply(query, key, value, runs, scaling)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2), None


def spans(runs: Sequence[Run]) -> Iterator[tuple[slice, slice]]:
    """For each shared prompt: the tokens of all its answers, and its own."""
    i = 0
    while i < len(runs):
        parent, first = runs[i].parent, i
        while i < len(runs) and runs[i].parent == parent:
            i += 1
        if parent >= 0:
            yield slice(runs[first].start, runs[i - 1].stop), slice(runs[parent].start, runs[parent].stop)


class Stack(NamedTuple):
    """Runs of nearly the same length, one under the other, each filled up on the right to the longest.

    Filling takes no mask: attention is causal, so no token looks to its right.
    """

    rows_NW: Tensor
    """[runs, width]: the row's tokens; where a run has ended, its first one."""
    full_NW: Tensor
    """False where a run has ended."""
    tokens_T: Tensor
    """The tokens of all its runs, in the order of `full_NW`."""


@lru_cache(maxsize=8)  # asked by every layer, forward and backward
def stacks(runs: tuple[Run, ...]) -> tuple[tuple[Stack, ...], tuple[slice, ...]]:
    """Short runs as stacks, and the others as they lie.

    >>> stack, rest = stacks((Run(0, 3, -1), Run(3, 5, -1), Run(5, 405, -1)))
    >>> stack[0].rows_NW.tolist(), stack[0].tokens_T.tolist(), rest
    ([[0, 1, 2], [3, 4, 3]], [0, 1, 2, 3, 4], (slice(5, 405, None),))
    """
    alike: dict[int, list[Run]] = {}
    for run in runs:
        alike.setdefault(-(-(run.stop - run.start) // _STEP), []).append(run)
    made, rest = [], []
    for steps, members in alike.items():
        if len(members) == 1 or steps * _STEP > _SHORT:
            rest += [slice(run.start, run.stop) for run in members]
            continue
        start_N1 = torch.tensor([[run.start] for run in members])
        length_N1 = torch.tensor([[run.stop - run.start] for run in members])
        place_W = torch.arange(int(length_N1.max()))
        full_NW = place_W < length_N1
        rows_NW = torch.where(full_NW, start_N1 + place_W, start_N1)
        made.append(Stack(rows_NW=rows_NW, full_NW=full_NW, tokens_T=rows_NW[full_NW]))
    return tuple(made), tuple(rest)


class _Runs(torch.autograd.Function):
    """The CPU's path. Inputs and output [1, heads, L, width], all with as many heads."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, runs: tuple[Run, ...], scale: float | None
    ) -> Tensor:
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        query, key, value = query.detach(), key.detach(), value.detach()
        # Like a transposed [1, L, heads, width]: the layer behind it then reads it without a copy.
        out = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
        wide = torch.promote_types(query.dtype, torch.float32)
        lse = torch.empty(query.shape[0], query.shape[2], query.shape[1], dtype=wide).transpose(1, 2)
        stacked, rest = stacks(runs)
        for at in rest:
            out[:, :, at], lse[:, :, at] = flash(
                query[:, :, at], key[:, :, at], value[:, :, at], 0.0, True, scale=scale
            )
        for stack in stacked:
            parts = flash(*(_stacked(x, stack) for x in (query, key, value)), 0.0, True, scale=scale)
            for whole, part in zip((out, lse), parts, strict=True):
                whole[0].transpose(0, 1)[stack.tokens_T] = part.transpose(1, 2)[stack.full_NW]
        for answers, prompt in spans(runs):
            more, more_lse = flash(
                query[:, :, answers], key[:, :, prompt], value[:, :, prompt], 0.0, False, scale=scale
            )
            own, own_lse = out[:, :, answers], lse[:, :, answers]
            both = torch.logaddexp(own_lse, more_lse)
            out[:, :, answers] = (
                own * (own_lse - both).exp()[..., None] + more * (more_lse - both).exp()[..., None]
            )
            lse[:, :, answers] = both
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.runs, ctx.scale = runs, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        backward = partial(
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward,
            dropout_p=0.0,
            scale=ctx.scale,
        )
        grads = [torch.empty_like(x) for x in (query, key, value)]
        stacked, rest = stacks(ctx.runs)
        for at in rest:
            pieces = (x[:, :, at] for x in (grad_out, query, key, value, out, lse))
            for grad, part in zip(grads, backward(*pieces, is_causal=True), strict=True):
                grad[:, :, at] = part
        for stack in stacked:
            direction, *others = (_stacked(x, stack) for x in (grad_out, query, key, value, out, lse))
            empty_NW = ~stack.full_NW
            # What fills a run up has no gradient: its weights are exp(. - inf) = 0, and it is asked for nothing.
            direction.transpose(1, 2)[empty_NW] = 0.0
            others[-1].transpose(1, 2)[empty_NW] = torch.inf
            for grad, part in zip(grads, backward(direction, *others, is_causal=True), strict=True):
                grad[0].transpose(0, 1)[stack.tokens_T] = part.transpose(1, 2)[stack.full_NW]
        for answers, prompt in spans(ctx.runs):
            places = (answers, answers, prompt, prompt, answers, answers)
            pieces = (
                x[:, :, at] for x, at in zip((grad_out, query, key, value, out, lse), places, strict=True)
            )
            for grad, part, at in zip(grads, backward(*pieces, is_causal=False), places[1:], strict=False):
                grad[:, :, at] += part
        return *grads, None, None


def _stacked(x: Tensor, stack: Stack) -> Tensor:
    """[1, heads, L, ...] -> [runs, heads, width, ...], a copy."""
    return x[0].transpose(0, 1)[stack.rows_NW].transpose(1, 2)


@lru_cache(maxsize=4)
def block_mask(runs: tuple[Run, ...], length: int, device: torch.device) -> Any:
    """The same rule for FlexAttention, over a row padded to `length`: padding attends to itself."""
    from torch.nn.attention.flex_attention import create_block_mask

    run_L = torch.full((length,), len(runs))
    parent_L = torch.full((length,), -1)
    for number, (start, stop, parent) in enumerate(runs):
        run_L[start:stop], parent_L[start:stop] = number, parent
    run_L, parent_L = run_L.to(device), parent_L.to(device)

    def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return ((run_L[q] == run_L[k]) & (q >= k)) | (parent_L[q] == run_L[k])

    return create_block_mask(sees, None, None, length, length, device=device, BLOCK_SIZE=_BLOCK)


def _flex(query: Tensor, key: Tensor, value: Tensor, runs: tuple[Run, ...], scale: float | None) -> Tensor:
    """The GPU's path; grouped key heads stay grouped."""
    from torch.nn.functional import pad

    length = query.shape[2]
    missing = -length % _BLOCK
    query, key, value = (pad(x, (0, 0, 0, missing)) for x in (query, key, value))
    mask = block_mask(runs, length + missing, query.device)
    out: Tensor = flex()(query, key, value, block_mask=mask, scale=scale, enable_gqa=True)
    return out[:, :, :length]


@lru_cache(maxsize=1)
def flex() -> Any:
    """FlexAttention, compiled once: eager, it would hold the whole score matrix."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)
