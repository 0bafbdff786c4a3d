"""What the rules of one kind of answer need of the whole comparison: `equal.Comparison` has it."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Protocol

from .terms import Term


class Comparer(Protocol):
    tolerance: Fraction | None

    def same(self, gold: Term, answer: Term) -> bool | None:
        """Whether two terms of any kind are the same; None: it cannot be told."""
        ...

    def by(self, step: str, verdict: bool | None) -> bool | None:
        """The verdict, noted as that of `step`."""
        ...

    def all_same(self, pairs: Iterator[tuple[Term, Term]]) -> bool | None: ...

    def sets(self, gold: Term, answer: Term) -> bool | None: ...
