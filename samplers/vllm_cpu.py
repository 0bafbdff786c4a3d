"""vLLM's worker for a CPU, leaner where the model is small and the work is many small operations.

Worker          seeds drawn ahead; named to vLLM as `worker_cls` (vllm_worker.py)
FusedSiluAndMul and two norms: vLLM's own CPU kernels, which it uses on GPUs only, in place of a handful of torch operations each

Tokens are those of vLLM's own worker: the seeds are the same numbers, drawn in another rhythm. Log-probs differ by rounding
(about 4e-6 in float32). Through vLLM's extension points (`worker_cls`, `ir_op_priority`, `register_oot`), apart from the
sampler's inner module, which the worker exchanges. In the learner's process and in servers alike.
"""

from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor
from vllm import ir
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.platforms import current_platform
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler, apply_top_k_top_p
from vllm.v1.worker.cpu_worker import CPUWorker

current_platform.import_kernels()

PROVIDER = "rlkit"
"""Of the two norms, in vLLM's table of implementations."""
_VECTOR = 16  # the kernels' vectors: 16 numbers at most
_AHEAD = 64  # seeds drawn at once

_rms_norm = torch.ops._C.rms_norm.default
_fused_add_rms_norm = torch.ops._C.fused_add_rms_norm.default
_silu_and_mul = torch.ops._C.silu_and_mul.default
_gumbel_argmax = torch.ops._C.fused_gumbel_argmax.default


# -- kernels ---------------------------------------------------------------------------------------------------------------


def _fits(x: Tensor, weight: Tensor | None) -> bool:
    return (
        weight is not None
        and weight.dtype == x.dtype
        and x.shape[-1] % _VECTOR == 0
        and x.is_contiguous()  # the kernels walk over rows that lie end to end
    )


def _norm_fits(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> bool:
    return variance_size is None and _fits(x, weight)


def _add_norm_fits(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> bool:
    return (
        variance_size is None
        and _fits(x, weight)
        and x_residual.dtype == x.dtype
        and x_residual.is_contiguous()
    )


def rms_norm(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> Tensor:
    """weight * x / sqrt(mean(x^2) + epsilon)."""
    out = torch.empty_like(x)
    _rms_norm(out, x, weight, epsilon)
    return out


def fused_add_rms_norm(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """The norm of x + x_residual, and that sum; in the place of both."""
    _fused_add_rms_norm(x, x_residual, weight, epsilon)
    return x, x_residual


ir.ops.rms_norm.register_impl(PROVIDER, supports_args=_norm_fits)(rms_norm)
ir.ops.fused_add_rms_norm.register_impl(PROVIDER, supports_args=_add_norm_fits, inplace=True)(
    fused_add_rms_norm
)


@SiluAndMul.register_oot
class FusedSiluAndMul(SiluAndMul):  # type: ignore[misc]
    """silu(left half) * right half, in one pass."""

    def forward_cpu(self, x: Tensor) -> Tensor:
        width = x.shape[-1] // 2
        if width % _VECTOR or not x.is_contiguous():
            whole: Tensor = self.forward_native(x)
            return whole
        out = x.new_empty((*x.shape[:-1], width))
        _silu_and_mul(out, x)
        return out


# -- seeds -----------------------------------------------------------------------------------------------------------------


class SeedsAhead(TopKTopPSampler):  # type: ignore[misc]
    """vLLM's CPU sampling, which asks the generator of every sequence for one number at every token: here for 64 at once."""

    def __init__(self, logprobs_mode: Any) -> None:
        super().__init__(logprobs_mode)
        self._streams: WeakKeyDictionary[torch.Generator, Iterator[int]] = WeakKeyDictionary()

    def forward_cpu(
        self, logits: Tensor, generators: Mapping[int, torch.Generator], k: Tensor | None, p: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """A token for each row of logits, and the log-probs of what it was drawn from."""
        if self.logprobs_mode != "processed_logprobs":
            return super().forward_cpu(logits, generators, k, p)  # type: ignore[no-any-return]
        logits = apply_top_k_top_p(logits, k, p).float()
        if len(generators) == len(logits):
            seeds = [0] * len(logits)
        else:  # rows without a seed of their own
            seeds = torch.randint(0, 2**31, (len(logits),)).tolist()
        for row, generator in generators.items():
            stream = self._streams.get(generator)
            if stream is None:
                stream = self._streams[generator] = seeds_of(generator)
            seeds[row] = next(stream)
        return _gumbel_argmax(logits, torch.tensor(seeds)), logits.log_softmax(-1)


def seeds_of(generator: torch.Generator) -> Iterator[int]:
    """The numbers that a generator would give one by one, without end.

    >>> ahead, alone = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    >>> [next(seeds) for seeds in [seeds_of(ahead)] * 3] == torch.randint(0, 2**31, (3,), generator=alone).tolist()
    True
    """
    weak = ref(generator)  # a stream that held its generator would keep both alive
    while (alive := weak()) is not None:
        ahead = torch.randint(0, 2**31, (_AHEAD,), generator=alive).tolist()
        del alive
        yield from ahead


# -- the worker ------------------------------------------------------------------------------------------------------------


class Worker(CPUWorker):  # type: ignore[misc]
    """vLLM's CPU worker with the above."""

    def __init__(self, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        # Here and not in what vLLM is told at its start: a server's other process looks the names up, and has not heard of ours.
        first = vllm_config.kernel_config.ir_op_priority
        for priority in (first.rms_norm, first.fused_add_rms_norm):
            if PROVIDER not in priority:
                priority.insert(0, PROVIDER)
        super().__init__(vllm_config, *args, **kwargs)

    def load_model(self, *, load_dummy_weights: bool = False) -> None:
        super().load_model(load_dummy_weights=load_dummy_weights)
        sampler = self.model_runner.sampler
        if not self.model_config.use_fp64_gumbel:
            sampler.topk_topp_sampler = SeedsAhead(sampler.logprobs_mode)
