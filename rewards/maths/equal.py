r"""Whether two answers that have been read are the same: the rules, each in a method of its own.

A verdict is True, False, or None for "these rules cannot tell". False is only said of what was read whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from .amounts import compare_quantities, compare_values
from .listings import compare_listings, compare_matrices, opened
from .names import (
    chained,
    formula,
    has_opaque,
    unconditional,
)
from .notations import compare_based, compare_clocks, compare_ratios, compare_words
from .real_sets import compare_sets
from .reals import is_set
from .relations import compare_relations
from .terms import (
    Based,
    Clock,
    Listing,
    Matrix,
    Opaque,
    Quantity,
    Ratio,
    Relation,
    Term,
    TooLarge,
    Words,
)

MAX_COMPARISONS = 3000
"""Two lists of n terms take up to n^2."""


@dataclass(slots=True)
class Comparison:
    """Compares one gold answer with one answer; `step` names the rule that decided."""

    tolerance: Fraction | None = None
    """Greatest absolute difference that the gold answer allows; None: it states none."""
    steps: list[str] = field(default_factory=list)
    comparisons: int = 0

    @property
    def step(self) -> str:
        return self.steps[-1] if self.steps else "as numbers"

    def same(self, gold: Term, answer: Term) -> bool | None:
        """The verdict. Raises TooLarge."""
        self.comparisons += 1
        if self.comparisons > MAX_COMPARISONS:
            raise TooLarge("too many parts")
        if gold == answer and not has_opaque(gold):
            return self.by("as terms", True)
        if isinstance(gold, Opaque) or isinstance(answer, Opaque):
            return True if gold == answer else None
        gold, answer = formula(gold), formula(answer)
        if isinstance(gold, Listing) != isinstance(answer, Listing):
            gold, answer = unconditional(gold), unconditional(answer)
        if isinstance(gold, Words) or isinstance(answer, Words):
            return compare_words(self, gold, answer)
        if isinstance(gold, Relation) or isinstance(answer, Relation):
            chains = chained(gold), chained(answer)
            if isinstance(gold, Listing | Relation) and isinstance(answer, Listing | Relation):
                if all(isinstance(part, Listing) for part in chains):
                    return compare_listings(self, *chains)
            spread = [opened(part) for part in (gold, answer)]
            if any(
                isinstance(part, Relation) and part != other
                for part, other in zip((gold, answer), spread, strict=True)
            ):
                return compare_listings(self, *spread)
            return compare_relations(self, gold, answer)
        if is_set(gold) or is_set(answer):
            verdict = compare_sets(self, gold, answer)
            if verdict is not None or not (isinstance(gold, Listing) and isinstance(answer, Listing)):
                return verdict
        gold, answer = opened(gold), opened(answer)
        if isinstance(gold, Matrix) or isinstance(answer, Matrix):
            return compare_matrices(self, gold, answer)
        if isinstance(gold, Listing) or isinstance(answer, Listing):
            return compare_listings(self, gold, answer)
        if isinstance(gold, Quantity) or isinstance(answer, Quantity):
            return compare_quantities(self, gold, answer)
        if isinstance(gold, Clock) or isinstance(answer, Clock):
            return compare_clocks(self, gold, answer)
        if isinstance(gold, Ratio) or isinstance(answer, Ratio):
            return compare_ratios(self, gold, answer)
        if isinstance(gold, Based) or isinstance(answer, Based):
            return compare_based(self, gold, answer)
        return compare_values(self, gold, answer)

    def by(self, step: str, verdict: bool | None) -> bool | None:
        """The verdict, with the step that decided it."""
        self.steps.append(step)
        return verdict

    def all_same(self, pairs: Iterator[tuple[Term, Term]]) -> bool | None:
        """Whether all pairs are the same; None: one cannot be told and none differs."""
        unknown = False
        for gold, answer in pairs:
            verdict = self.same(gold, answer)
            if verdict is False:
                return False
            unknown = unknown or verdict is None
        return None if unknown else True

    def sets(self, gold: Term, answer: Term) -> bool | None:
        """Both as sets of real numbers."""
        return compare_sets(self, gold, answer)
