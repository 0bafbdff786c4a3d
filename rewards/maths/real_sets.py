"""Sets of real numbers, however they are written."""

from .comparer import Comparer
from .listings import matched
from .names import letters_of
from .reals import Reals, holds_on, reals
from .terms import Builder, Combination, Interval, Number, Op, Relation, Symbol, Term


def compare_sets(c: Comparer, gold: Term, answer: Term) -> bool | None:
    a, b = reals(gold), reals(answer)
    if a is None or b is None:
        if isinstance(gold, Symbol) and isinstance(answer, Symbol):  # Z and R
            return c.by("as sets", False)
        if any(isinstance(part, Number | Op) for part in (gold, answer)):
            return c.by("as sets", False)
        parts = _sets_by_parts(c, gold, answer)
        return c.by("as sets", _by_membership(c, gold, answer) if parts is None else parts)
    if a.variable and b.variable and a.variable.lower() != b.variable.lower():
        return c.by("as sets of reals", False)
    if len(a.pieces) != len(b.pieces):
        return c.by("as sets of reals", False)
    return c.by("as sets of reals", _pieces(c, a, b))


def _by_membership(c: Comparer, gold: Term, answer: Term) -> bool | None:
    """An interval against a condition that it solves, as in (-2, 2) and x^2 < 4: tried at the ends, beside and between."""
    known = reals(gold) or reals(answer)
    condition = answer if reals(gold) is not None else gold
    if (
        known is None
        or not isinstance(condition, Relation)
        or known.variable not in ("", *letters_of(condition))
    ):
        return None
    return None if len(letters_of(condition)) != 1 else holds_on(condition, known)


def _pieces(c: Comparer, a: Reals, b: Reals) -> bool | None:
    pairs: list[tuple[Term, Term]] = []
    for x, y in zip(a.pieces, b.pieces, strict=True):
        if (x.low_closed, x.high_closed) != (y.low_closed, y.high_closed):
            return False
        pairs += [(x.low, y.low), (x.high, y.high)]
    return c.all_same(iter(pairs))


def _sets_by_parts(c: Comparer, gold: Term, answer: Term) -> bool | None:
    """Sets whose ends have variables: piece by piece, as they are written."""
    a, b = _members(gold), _members(answer)
    if isinstance(gold, Interval) and isinstance(answer, Interval):
        if (gold.low_closed, gold.high_closed) != (answer.low_closed, answer.high_closed):
            return False
        return c.all_same(iter([(gold.low, answer.low), (gold.high, answer.high)]))
    if isinstance(gold, Builder) and isinstance(answer, Builder):
        return (
            c.all_same(iter([(gold.variable, answer.variable), (gold.condition, answer.condition)])) or None
        )
    if len(a) > 1 and len(a) == len(b):
        return matched(c, a, b)
    return None


def _members(term: Term) -> list[Term]:
    if isinstance(term, Combination) and term.op == "cup":
        return [*_members(term.left), *_members(term.right)]
    return [term]
