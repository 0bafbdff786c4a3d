"""The two kernels of tiles.py for a GPU: each reads a tile of logits once, where plain torch reads it six times.

Equal to the plain version up to the order of its sums; tests/unit/test_learner_triton.py shows it, by Triton's
interpreter where there is no GPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
"""Columns that a program holds at one time."""
WIDE = {torch.float64: tl.float64}
"""What sums are kept in; float32 for everything else."""


@triton.jit  # type: ignore[untyped-decorator]
def _fold_kernel(  # type: ignore[no-untyped-def]
    tile, scale, target, running, columns, running_stride, WIDE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """One program per token, from left to right."""
    row = tl.program_id(0).to(tl.int64)
    state = running + row
    maximum = tl.load(state)
    total = tl.load(state + running_stride)
    weighted = tl.load(state + 2 * running_stride)
    first = tile + row * columns
    for start in range(0, columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < columns
        x = tl.load(first + column, mask=inside, other=-float("inf")).to(WIDE) * scale
        new_maximum = tl.maximum(maximum, tl.max(x, axis=0))
        shrink = tl.exp(maximum - new_maximum)
        shifted = tl.where(inside, x - new_maximum, 0.0)
        e = tl.where(inside, tl.exp(shifted), 0.0)
        weighted = (weighted + (maximum - new_maximum) * total) * shrink + tl.sum(e * shifted, axis=0)
        total = total * shrink + tl.sum(e, axis=0)
        maximum = new_maximum
    tl.store(state, maximum)
    tl.store(state + running_stride, total)
    tl.store(state + 2 * running_stride, weighted)
    chosen = tl.load(target + row)
    if (chosen >= 0) & (chosen < columns):
        tl.store(state + 3 * running_stride, tl.load(first + chosen).to(WIDE) * scale)


@triton.jit  # type: ignore[untyped-decorator]
def _gradient_kernel(  # type: ignore[no-untyped-def]
    tile, scale, target, log_sum, entropy, pull, entropy_pull, columns,
    HAS_ENTROPY: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per token and block of columns."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    place = tile + row * columns + column
    logp = tl.load(place, mask=inside, other=0.0).to(WIDE) * scale - tl.load(log_sum + row)
    p = tl.exp(logp)
    by = tl.load(pull + row)
    gradient = tl.where(column == tl.load(target + row), by - by * p, -by * p)
    if HAS_ENTROPY:
        gradient -= tl.load(entropy_pull + row) * p * (logp + tl.load(entropy + row))
    tl.store(place, gradient.to(tile.dtype.element_ty), mask=inside)


def fold(tile_nv: Tensor, scale: float, target_n: Tensor, running_4n: Tensor) -> None:
    """As Tiles.fold of a tile that is still to be multiplied by scale; it stays as it is."""
    tokens, columns = tile_nv.shape
    _fold_kernel[(tokens,)](
        tile_nv, scale, target_n, running_4n, columns, running_4n.stride(0),
        WIDE=WIDE.get(tile_nv.dtype, tl.float32), BLOCK=BLOCK,
    )  # fmt: skip


def to_gradient(
    tile_nv: Tensor,
    scale: float,
    target_n: Tensor,
    log_sum_n: Tensor,
    entropy_n: Tensor,
    pull_n: Tensor,
    entropy_pull_n: Tensor | None,
) -> None:
    """As Tiles.to_gradient of a tile that is still to be multiplied by scale."""
    tokens, columns = tile_nv.shape
    _gradient_kernel[(tokens, triton.cdiv(columns, BLOCK))](
        tile_nv, scale, target_n, log_sum_n, entropy_n, pull_n,
        pull_n if entropy_pull_n is None else entropy_pull_n,  # a kernel takes no None; it is not read then
        columns, HAS_ENTROPY=entropy_pull_n is not None,
        WIDE=WIDE.get(tile_nv.dtype, tl.float32), BLOCK=BLOCK,
    )  # fmt: skip
