"""An update that was not made, because its loss or its gradient is not finite: what is known of it, and who is told.

The weights stay as they were. One such update is an accident (a spike, an overflow); many are a run that has come apart, and
`too_many` ends it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rlkit.batch import Batch

from .first import First

FEWEST = 10
"""Updates that a share is taken of at least, so that one accident among the first few ends nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BadUpdate:
    """One optimizer step that was skipped, as this rank saw it.

    >>> BadUpdate(update=14, loss=0.5, grad_norm=float("inf"), mini=[], first=[]).sentence
    'update 14 was skipped: the loss is 0.5 and the norm of its gradient inf; the weights are as they were'
    """

    update: int
    """Updates tried before it, those that were skipped too."""
    loss: float
    """Over all ranks."""
    grad_norm: float
    """Over all ranks, before clipping."""
    mini: Sequence[Batch]
    """This rank's micro-batches."""
    first: Sequence[First]

    @property
    def sentence(self) -> str:
        return (
            f"update {self.update} was skipped: the loss is {self.loss:g} and the norm of its gradient {self.grad_norm:g}; "
            "the weights are as they were"
        )


class Watcher(Protocol):
    """Who is told on every rank, and may write (rlkit.mishaps)."""

    def skipped(self, bad: BadUpdate) -> None: ...
    def out_of_memory(self, sentence: str) -> None: ...


class Unwatched:
    """Nobody is told."""

    def skipped(self, bad: BadUpdate) -> None: ...
    def out_of_memory(self, sentence: str) -> None: ...


def too_many(skipped: int, tried: int, share: float) -> bool:
    """Whether more than `share` of the updates were skipped; of ten at least.

    >>> [too_many(1, 1, 0.1), too_many(2, 2, 0.1), too_many(2, 19, 0.1), too_many(2, 20, 0.1), too_many(1, 1, 0.0)]
    [False, True, True, False, True]
    """
    return skipped > share * max(tried, FEWEST)
