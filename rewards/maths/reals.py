r"""Sets of real numbers: intervals, inequalities, {x | ...}, unions and single points as one list of pieces.

(1, 2) is read as an interval here and as a point by `equal`; which it is, the other side of the comparison tells.
"""

import math
import operator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from .evaluation import symbols
from .rational import Undefined, exact
from .terms import (
    Builder,
    Combination,
    Interval,
    Listing,
    Number,
    Op,
    Relation,
    Symbol,
    Term,
    TooLarge,
    Words,
)
from .value import value

_INFINITY = Symbol("oo")
_MINUS_INFINITY = Op("neg", (_INFINITY,))
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "!=": "!=", "=": "="}
_ALL = {"all real numbers", "all reals", "real numbers", "all real", "reals"}
_NONE = {
    "no solution",
    "no solutions",
    "empty set",
    "none",
    "no real solutions",
    "no real solution",
    "no real roots",
}


@dataclass(frozen=True, slots=True)
class Piece:
    """The reals from `low` to `high`; one point when they are the same. The floats are for sorting."""

    low: Term
    high: Term
    low_closed: bool
    high_closed: bool
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Reals:
    """Pieces in order, apart from each other; `variable` is the letter they are about, '' when none is named."""

    pieces: tuple[Piece, ...]
    variable: str = ""


def reals(term: Term) -> Reals | None:
    """The set of reals that a term stands for; None: it is none, or its ends are no constants."""
    if isinstance(term, Symbol):
        return Reals((_WHOLE,)) if term.name == "\\mathbb{R}" else None
    if isinstance(term, Words):
        return Reals((_WHOLE,)) if term.text in _ALL else Reals(()) if term.text in _NONE else None
    if isinstance(term, Interval):
        return _between(term.low, term.high, term.low_closed, term.high_closed)
    if isinstance(term, Listing):
        return _listed(term)
    if isinstance(term, Builder):
        inner = reals(term.condition) if isinstance(term.variable, Symbol | Relation) else None
        if inner is None:
            return None
        return (
            Reals(inner.pieces)
            if not isinstance(term.variable, Relation)
            else _meet(reals(term.variable), inner)
        )
    if isinstance(term, Relation):
        return _related(term)
    if isinstance(term, Op) and term.name == "+" and len(term.args) == 2:  # R - {2}
        taken = term.args[1]
        if isinstance(taken, Op) and taken.name == "neg" and isinstance(taken.args[0], Listing):
            return reals(Combination("minus", term.args[0], taken.args[0]))
        return None
    if isinstance(term, Combination):
        left, right = (
            _between(part, part, True, True) if isinstance(part, Number | Op) else reals(part)
            for part in (term.left, term.right)
        )
        if left is None or right is None:
            return None
        if term.op == "cup":
            return _join(left, right)
        return _meet(left, right if term.op == "cap" else _outside(right))
    return None


def is_set(term: Term) -> bool:
    """Whether a term can only be a set of reals: no bare point, pair or list."""
    if isinstance(term, Listing):
        sets = [is_set(part) for part in term.items]
        relations = all(
            known or isinstance(part, Relation) for known, part in zip(sets, term.items, strict=True)
        )
        return term.kind in ("list", "set") and any(sets) and (relations or term.kind == "set")
    if isinstance(term, Relation):
        return any(op in ("<", "<=", ">", ">=", "!=", "notin") for op in term.ops) or (
            term.ops == ("in",) and is_set(term.sides[1])
        )
    return isinstance(term, Interval | Combination | Builder) or term == Symbol("\\mathbb{R}")


def holds_on(condition: Relation, known: Reals) -> bool | None:
    """Whether a condition in one variable holds just where `known` says: at its ends, beside them, between and far off."""
    (name,) = frozenset().union(*(symbols(part) for part in condition.sides if isinstance(part, Symbol | Op)))
    ends = [end for piece in known.pieces for end in (piece.start, piece.end) if math.isfinite(end)]
    points = {Fraction(k) for k in (-1000, -37, -3, -1, 0, 1, 2, 5, 41, 1000)}
    for end in ends:
        exactly = Fraction(end).limit_denominator(10**6)
        if abs(float(exactly) - end) > 1e-12 * max(1, abs(end)):
            return None  # an irrational end cannot be tried
        points |= {exactly, exactly - _BESIDE, exactly + _BESIDE}
    points |= {(Fraction(a) + Fraction(b)) / 2 for a, b in pairwise(sorted(ends))}
    for point in points:
        inside = any(_contains(piece, point) for piece in known.pieces)
        holds = _holds(condition, name, point)
        if holds is None or holds != inside:
            return None if holds is None else False
    return True


def _contains(piece: Piece, point: Fraction) -> bool:
    low, high = float(point) - piece.start, piece.end - float(point)
    above = piece.low_closed if abs(low) < 1e-9 else low > 0
    below = piece.high_closed if abs(high) < 1e-9 else high > 0
    return above and below


def _holds(condition: Relation, name: str, point: Fraction) -> bool | None:
    """Whether the condition is true at one point; undefined is false, None: it has no rational values there."""
    try:
        sides = [exact(part, {name: point}) for part in condition.sides]
    except Undefined:
        return False
    except TooLarge:
        return None
    truth = True
    for left, right, op in zip(sides, sides[1:], condition.ops, strict=False):
        if left is None or right is None or op not in _COMPARED:
            return None
        truth = truth and _COMPARED[op](left, right)
    return truth


_BESIDE = Fraction(1, 1000)
_COMPARED = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "!=": operator.ne,
    "=": operator.eq,
}
_WHOLE = Piece(_MINUS_INFINITY, _INFINITY, False, False, -math.inf, math.inf)


def _piece(low: Term, high: Term, low_closed: bool, high_closed: bool) -> Piece | None:
    start, end = value(low), value(high)
    if start is None or end is None:
        return None
    return Piece(low, high, low_closed and start > -math.inf, high_closed and end < math.inf, start, end)


def _between(low: Term, high: Term, low_closed: bool, high_closed: bool) -> Reals | None:
    piece = _piece(low, high, low_closed, high_closed)
    if piece is None:
        return None
    filled = piece.start < piece.end or (piece.start == piece.end and low_closed and high_closed)
    return Reals((piece,)) if filled else Reals(())


def _listed(term: Listing) -> Reals | None:
    if term.kind in ("tuple", "bracket"):
        closed = term.kind == "bracket"
        return _between(*term.items, closed, closed) if len(term.items) == 2 else None
    intervals = term.kind == "list" and all(
        isinstance(part, Listing) and part.kind in ("tuple", "bracket") for part in term.items
    )
    parts = [
        reals(part)
        if intervals or isinstance(part, Relation) or is_set(part)
        else _between(part, part, True, True)
        for part in term.items
    ]
    total: Reals | None = Reals(())
    for part in parts:
        total = _join(total, part)
    if term.kind == "set" and len(parts) == 1 and isinstance(term.items[0], Builder):
        return parts[0]
    if (
        term.kind == "list"
        and term.joint != "or"
        and len(parts) > 1
        and all(isinstance(p, Relation) for p in term.items)
    ):
        met: Reals | None = Reals((_WHOLE,))
        for part in parts:
            met = _meet(met, part)
        if met is None or met.pieces:  # 'x < 1, x > 3' can only mean either
            return met
    return total


def _related(term: Relation) -> Reals | None:
    if term.ops in (("in",), ("notin",)):
        inside = reals(term.sides[1])
        if inside is None or not isinstance(term.sides[0], Symbol):
            return None
        return Reals((inside if term.ops == ("in",) else _outside(inside)).pieces, term.sides[0].name)
    middle = [k for k, part in enumerate(term.sides) if symbols(part)]
    if len(middle) != 1 or not isinstance(term.sides[middle[0]], Symbol):
        return None
    place = middle[0]
    variable = term.sides[place]
    assert isinstance(variable, Symbol)
    found: Reals | None = Reals((_WHOLE,), variable.name)
    for k, op in enumerate(term.ops):
        if k not in (place - 1, place) or op not in _FLIPPED:
            return None
        bound = term.sides[k if k < place else k + 1]
        found = _meet(found, _half(bound, _FLIPPED[op] if k < place else op))
    return None if found is None else Reals(found.pieces, variable.name)


def _half(bound: Term, op: str) -> Reals | None:
    if op == "=":
        return _between(bound, bound, True, True)
    if op == "!=":
        point = _between(bound, bound, True, True)
        return None if point is None else _outside(point)
    if op in ("<", "<="):
        return _between(_MINUS_INFINITY, bound, False, op == "<=")
    return _between(bound, _INFINITY, op == ">=", False)


def _join(left: Reals | None, right: Reals | None) -> Reals | None:
    """Union, with touching pieces made one."""
    if left is None or right is None:
        return None
    pieces: list[Piece] = []
    for piece in sorted((*left.pieces, *right.pieces), key=lambda p: (p.start, not p.low_closed)):
        last = pieces[-1] if pieces else None
        if (
            last is None
            or piece.start > last.end
            or (piece.start == last.end and not (piece.low_closed or last.high_closed))
        ):
            pieces.append(piece)
        elif piece.end > last.end or (piece.end == last.end and piece.high_closed):
            pieces[-1] = Piece(
                last.low, piece.high, last.low_closed, piece.high_closed, last.start, piece.end
            )
    return Reals(tuple(pieces), _name(left, right))


def _meet(left: Reals | None, right: Reals | None) -> Reals | None:
    """Intersection."""
    if left is None or right is None:
        return None
    pieces = []
    for a in left.pieces:
        for b in right.pieces:
            low = max(a, b, key=lambda p: (p.start, not p.low_closed))
            high = min(a, b, key=lambda p: (p.end, p.high_closed))
            if low.start < high.end or (low.start == high.end and low.low_closed and high.high_closed):
                pieces.append(
                    Piece(low.low, high.high, low.low_closed, high.high_closed, low.start, high.end)
                )
    return Reals(tuple(pieces), _name(left, right))


def _name(left: Reals, right: Reals) -> str:
    """The letter of a joined set; two different letters make it about neither."""
    names = {left.variable, right.variable} - {""}
    return " ".join(sorted(names))


def _outside(inner: Reals) -> Reals:
    pieces = []
    low, closed, start = _WHOLE.low, False, _WHOLE.start
    for piece in inner.pieces:
        if piece.start > start or (piece.start == start and closed and not piece.low_closed):
            pieces.append(Piece(low, piece.low, closed, not piece.low_closed, start, piece.start))
        low, closed, start = piece.high, not piece.high_closed, piece.end
    if start < math.inf:
        pieces.append(Piece(low, _WHOLE.high, closed, False, start, math.inf))
    return Reals(tuple(pieces), inner.variable)
