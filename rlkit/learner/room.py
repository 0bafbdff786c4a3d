"""When memory runs out in a pass: what counts as that, what is freed, and what there is to say.

A pass over too many tokens is done again over half as many at a time. Denominators belong to the whole mini-batch, so the
gradient is the same to rounding: bit for bit that of a run which was given the smaller --learner.micro-batch-tokens.
"""

import gc
from collections.abc import Sequence

import torch

from rlkit.batch import Batch
from rlkit.errors import RunError

ADVICE = (
    "shorter answers (--max-completion-length), --learner.gradient-checkpointing, --learner.logits-chunk 256, adapters "
    "(--learner.lora-rank 16), or several GPUs (--learner.shard fsdp2)"
)
SAID_BY_TORCH = ("can't allocate memory", "not enough memory", "out of memory", "std::bad_alloc")
"""Of torch's allocators: for CPUs (a RuntimeError; on Windows in other words), of CUDA's libraries, of C++."""


def ran_out(error: BaseException) -> bool:
    """Whether an exception says that memory was not to be had, on whatever device.

    >>> ran_out(RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"))
    True
    >>> ran_out(RuntimeError("shapes cannot be multiplied"))
    False
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID_BY_TORCH)


def free() -> None:
    """Give back what a pass that failed has left behind."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def divisible_tokens(mini: Sequence[Batch]) -> int:
    """Tokens of the largest micro-batch of several answers; 0: each answer is alone already."""
    return max((batch.feed.num_tokens for batch in mini if len(batch.rows) > 1), default=0)


def smaller_budget(budget: int, divisible: int, what: str) -> int:
    """Half of what did not fit. Raises RunError when nothing is left to divide.

    divisible: tokens of the largest micro-batch of several answers, over all ranks

    >>> smaller_budget(16384, 5000, "update 3")
    2500
    """
    if divisible == 0:
        raise RunError(
            f"{what}: out of memory, though every answer was read alone; the weights are as they were before it. What helps: {ADVICE}"
        )
    return max(1, min(budget, divisible) // 2)
