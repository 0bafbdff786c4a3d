"""Tiles of logits, n tokens times v words of the vocabulary: made, folded into running sums, turned into gradients.

In plain torch here; on a GPU each of the two is one Triton kernel (logprobs_triton.py), with the same results.
"""

import functools
import importlib.util
import math
import os
from types import ModuleType

import torch
from torch import Tensor

MAX, SUM, WEIGHTED, CHOSEN = range(4)
"""Rows of running_4N: the largest logit x so far, sum of exp(x - MAX), sum of (x - MAX) exp(x - MAX), x of the target."""

CPU_LOGITS = 2**21
"""Logits of a tile: 8 MiB of float32. From 2**18 to 2**23 the pass takes the same time within a tenth; this was quickest."""
GPU_LOGITS = 2**26
"""On a GPU: large enough that its matrix units are busy; 128 MiB of bfloat16. Not measured."""


def tile_shape(num_tokens: int, vocabulary: int, chunk: int, device: str) -> tuple[int, int]:
    """Tokens and columns of a tile of at most chunk * vocabulary logits; chunk 0: as many as suit the device.

    Twice as wide as high, if both reach that far.

    >>> tile_shape(4096, 152_064, 0, "cpu"), tile_shape(10, 152_064, 0, "cpu"), tile_shape(600, 260, 0, "cpu")
    ((1024, 2048), (10, 152064), (600, 260))
    """
    logits = chunk * vocabulary or (CPU_LOGITS if device == "cpu" else GPU_LOGITS)
    most = max(1, math.isqrt(logits // 2), logits // vocabulary)
    tokens = math.ceil(num_tokens / math.ceil(num_tokens / most)) if num_tokens else 1  # equal shares
    columns = min(vocabulary, logits // tokens)
    if 64 < columns < vocabulary:
        columns -= columns % 64  # rows start on whole cache lines
    return tokens, columns


class Tiles:
    """The buffers of one pass over a head, so that no tile is allocated twice.

    inputs_NH: what meets the head, in the dtype of the multiplication;  sums: the dtype of everything else
    kernels: `triton_kernels` of the device
    """

    def __init__(
        self, tokens: int, columns: int, inputs_NH: Tensor, temperature: float, kernels: ModuleType | None
    ) -> None:
        self.sums = torch.promote_types(inputs_NH.dtype, torch.float32)
        half = inputs_NH.dtype != self.sums
        # Half-precision logits are rounded as the model's own would be, and divided by the temperature after that.
        self.before, self.after = (1.0, 1 / temperature) if half else (1 / temperature, 1.0)
        self.kernels = kernels
        self.buffer = inputs_NH.new_empty(tokens * columns)
        size = 0 if self.kernels else len(self.buffer)
        self.scratch = inputs_NH.new_empty(size, dtype=self.sums)
        self.widened = inputs_NH.new_empty(size if half else 0, dtype=self.sums)

    def start(self, num_tokens: int) -> Tensor:
        """running_4N before any tile. MAX is finite, for the difference of two infinities is no number."""
        running_4N = self.buffer.new_zeros(4, num_tokens, dtype=self.sums)
        running_4N[MAX] = torch.finfo(self.sums).min / 2
        return running_4N

    def logits(self, inputs_nH: Tensor, weight_vH: Tensor, bias_v: Tensor | None) -> Tensor:
        """inputs W' + bias, over the temperature unless in half precision; valid until the next call."""
        tile_nv = _view(self.buffer, len(inputs_nH), len(weight_vH))
        if bias_v is None:
            return torch.addmm(tile_nv, inputs_nH, weight_vH.t(), beta=0, alpha=self.before, out=tile_nv)
        return torch.addmm(bias_v, inputs_nH, weight_vH.t(), beta=self.before, alpha=self.before, out=tile_nv)

    def fold(self, tile_nv: Tensor, target_n: Tensor, running_4n: Tensor) -> None:
        """Take a tile into the running sums, in place (arXiv:1805.02867, algorithm 3). The tile is used up.

        target_n: the target's column in this tile; outside of it when it lies in another
        """
        if self.kernels:
            self.kernels.fold(tile_nv, self.after, target_n, running_4n)
            return
        max_n, sum_n, weighted_n, chosen_n = running_4n
        logits_nv = self._wide(tile_nv)
        inside_n, column_n = _columns(target_n, tile_nv.shape[1])
        chosen_n.copy_(torch.where(inside_n, logits_nv.gather(1, column_n[:, None])[:, 0], chosen_n))
        new_max_n = torch.maximum(max_n, logits_nv.amax(-1))
        logits_nv.sub_(new_max_n[:, None])
        exp_nv = torch.exp(logits_nv, out=_view(self.scratch, *tile_nv.shape))
        drop_n = max_n - new_max_n
        shrink_n = drop_n.exp()
        new_sum_n = (sum_n * shrink_n).add_(exp_nv.sum(-1))
        weighted_n.add_(drop_n * sum_n).mul_(shrink_n).add_(exp_nv.mul_(logits_nv).sum(-1))
        sum_n.copy_(new_sum_n)
        max_n.copy_(new_max_n)

    def to_gradient(
        self,
        tile_nv: Tensor,
        target_n: Tensor,
        log_sum_n: Tensor,
        entropy_n: Tensor,
        pull_n: Tensor,
        entropy_pull_n: Tensor | None,
    ) -> None:
        """Logits become pull * (1_target - p) - entropy_pull * p * (log p + entropy), in place.

        log_sum_n: log-sum-exp over the whole vocabulary
        """
        if self.kernels:
            self.kernels.to_gradient(
                tile_nv, self.after, target_n, log_sum_n, entropy_n, pull_n, entropy_pull_n
            )
            return
        work_nv = self._wide(tile_nv).sub_(log_sum_n[:, None])
        if entropy_pull_n is None:
            work_nv.exp_().mul_(-pull_n[:, None])
        else:
            p_nv = torch.exp(work_nv, out=_view(self.scratch, *tile_nv.shape))
            work_nv.add_(entropy_n[:, None]).mul_(-entropy_pull_n[:, None]).sub_(pull_n[:, None]).mul_(p_nv)
        inside_n, column_n = _columns(target_n, tile_nv.shape[1])
        # Before any rounding to bfloat16: 1 - p of a likely token would be lost.
        work_nv.scatter_add_(1, column_n[:, None], (pull_n * inside_n)[:, None])
        if work_nv is not tile_nv:
            tile_nv.copy_(work_nv)

    def _wide(self, tile_nv: Tensor) -> Tensor:
        """The tile itself, or in half precision its float32 copy over the temperature."""
        if not len(self.widened):
            return tile_nv
        return _view(self.widened, *tile_nv.shape).copy_(tile_nv).mul_(self.after)


def _view(buffer: Tensor, tokens: int, columns: int) -> Tensor:
    return buffer[: tokens * columns].view(tokens, columns)


def _columns(target_n: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Whether the target lies in this tile, and a column that is safe to read in any case."""
    return (target_n >= 0) & (target_n < columns), target_n.clamp(0, columns - 1)


def add_product(into: Tensor, left: Tensor, right: Tensor, *, first: bool = False) -> None:
    """into += left @ right; with `first`, into is written without being read. Nothing is rounded below into's dtype.

    Words of a vocabulary have much in common, which cancels in the sum over all strips and not in one of them: products
    rounded to bfloat16 strip by strip would leave the rounding of what cancels.
    """
    if left.dtype != into.dtype and left.is_cuda:
        product = torch.mm(left, right, out_dtype=into.dtype)
        into.copy_(product) if first else into.add_(product)
        return
    torch.addmm(into, left.to(into.dtype), right.to(into.dtype), beta=0 if first else 1, out=into)


@functools.cache
def triton_kernels(device: str) -> ModuleType | None:
    """The kernels, on a GPU where Triton can be imported; none elsewhere. TRITON_INTERPRET=1 runs them on a CPU, slowly."""
    wanted = device == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
    if not wanted or importlib.util.find_spec("triton") is None:
        return None
    from . import logprobs_triton

    return logprobs_triton
