"""When memory runs out in a pass: what counts as that, what is freed, how all ranks go on with less, and what there is to say.

A pass over too many tokens is done again over half as many at a time. Denominators belong to the whole mini-batch, so the
gradient is the same to rounding: bit for bit that of a run which was given the smaller --learner.micro-batch-tokens.
"""

import gc
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from rlkit.batch import Batch, recut
from rlkit.errors import RunError

if TYPE_CHECKING:
    from .learner import Learner

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


def again(learner: "Learner", error: Exception) -> bool:
    """True where a pass may be done again over less. Raises what is another error, and a clear stop where it may not."""
    if not ran_out(error):
        raise error
    if learner.cfg.shard != "none":
        raise RunError(
            f"update {learner.updates}: out of memory with micro-batches of {learner.budget:,} tokens; the weights are as they were "
            "before it. A divided model (--learner.shard) cannot do a pass again: the other ranks are in the middle of theirs. "
            f"Continue from the last checkpoint with --learner.micro-batch-tokens {max(1, learner.budget // 2)}. Also: {ADVICE}"
        ) from error
    return True


def any_short(learner: "Learner", short: bool, mini: Sequence[Batch], what: str) -> bool:
    """Whether memory ran out on any rank; then the budget is halved on all."""
    parts = learner.ranks.gather((short, divisible_tokens(mini)))
    if any(short for short, _ in parts):
        halve(learner, max(tokens for _, tokens in parts), what)
        return True
    return False


def halve(learner: "Learner", divisible: int, what: str) -> None:
    """Every rank calls it. divisible: tokens of the largest micro-batch of several answers, over all ranks"""
    free()
    learner.halved += 1
    before, learner.budget = (
        learner.budget,
        smaller_budget(learner.budget, divisible, f"update {learner.updates}"),
    )
    learner.watcher.out_of_memory(
        f"update {learner.updates}: out of memory in {what} with micro-batches of {before:,} tokens; it is done again, and the run "
        f"goes on, with {learner.budget:,} (--learner.micro-batch-tokens). The gradient is the same"
    )


def fitting(learner: "Learner", mini: list[Batch]) -> list[Batch]:
    """The same, or cut anew when it was cut before the budget was halved."""
    halved = learner.budget < learner.cfg.micro_batch_tokens
    return cut_anew(learner, mini) if halved and divisible_tokens(mini) > learner.budget else mini


def cut_anew(learner: "Learner", mini: Sequence[Batch]) -> list[Batch]:
    """The same answers as micro-batches of the present budget."""
    smaller = recut(mini, learner.budget, learner.pad_id, layout=learner.layout) if mini else []
    return [batch.to(learner.device) for batch in smaller]
