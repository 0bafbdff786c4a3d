r"""Sums and products with dots in them: 1 + 2 + \ldots + n is written out for n = 4, 5 and 6.

What changes from the first term to the last (a number, an exponent, an index) must change by equal steps, and every term
that is written must lie on the way.
"""

import re
from collections.abc import Iterator, Mapping
from fractions import Fraction

from .evaluation import symbols
from .rational import Undefined, exact
from .terms import Number, Op, Symbol, Term, Unreadable
from .value import agree

DOTS = Symbol("\\ldots")
SIZES = (4, 5, 6)
MAX_TERMS = 200
_INDEX = re.compile(r"(?:([a-zA-Z])?([+-]?\d+)?)")
_ONE = Number(Fraction(1))


def has_dots(term: Term) -> bool:
    return DOTS.name in symbols(term)


def agree_written_out(left: Term, right: Term) -> bool | None:
    """Whether two expressions agree for every size; None: a pattern is not understood."""
    letters = sorted(set(_last_letters(left)) | set(_last_letters(right)))
    if len(letters) > 1:
        return None
    try:
        for size in SIZES:
            sizes = dict.fromkeys(letters, size)
            if not agree(_written_out(left, sizes), _written_out(right, sizes)):
                return False
    except (Unreadable, Undefined):
        return None
    return True


def _last_letters(term: Term) -> Iterator[str]:
    """The letters that count the terms: those of the last term that the first does not have."""
    if not isinstance(term, Op):
        return
    if DOTS in term.args and term.args[0] != DOTS and term.args[-1] != DOTS:
        ends = [term.args[term.args.index(DOTS) - 1], term.args[-1], term.args[0]]
        first, last = (_letters(part) for part in ends[:2])
        yield from last ^ first if last ^ first else last ^ _letters(ends[2])
    for part in term.args:
        yield from _last_letters(part)


def _letters(term: Term) -> set[str]:
    """Single letters, also in an index."""
    found: set[str] = set()
    for name in symbols(term):
        base, _, index = name.partition("_")
        match = _INDEX.fullmatch(index)
        if index and match is not None and match[1]:
            found.add(match[1])
        elif not index and len(base) == 1:
            found.add(base)
    return found


def _written_out(term: Term, sizes: Mapping[str, int]) -> Term:
    """The term with numbers for the letters in `sizes`, and no dots. Raises Unreadable."""
    if isinstance(term, Symbol):
        return _numbered(term, sizes)
    if not isinstance(term, Op):
        return term
    if DOTS not in term.args:
        return Op(term.name, tuple(_written_out(part, sizes) for part in term.args))
    place = term.args.index(DOTS)
    parts = [_written_out(part, sizes) for part in term.args if part != DOTS]
    before, after = parts[:place], parts[place:]
    if term.name not in ("+", "*") or not before or len(after) != 1:
        raise Unreadable("dots")
    start = len(before) - 1
    while start and _differences(before[start - 1], after[0]) is not None:
        start -= 1
    return Op(term.name, (*before[:start], *_run(before[start:], after[0])))


def _numbered(symbol: Symbol, sizes: Mapping[str, int]) -> Term:
    """a_{n-1} as a_3, n as 4."""
    if symbol.name in sizes:
        return Number(Fraction(sizes[symbol.name]))
    base, _, index = symbol.name.partition("_")
    match = _INDEX.fullmatch(index)
    if not index or match is None or (match[1] and match[1] not in sizes):
        return symbol
    return Symbol(f"{base}_{(sizes[match[1]] if match[1] else 0) + int(match[2] or 0)}")


def _run(written: list[Term], last: Term) -> Iterator[Term]:
    """All terms from written[0] to `last`, by the steps of those that are written."""
    changes = _differences(written[0], last)
    if not changes:
        raise Unreadable("dots between equal terms")
    steps = _differences(written[0], written[1]) if len(written) > 1 else None
    counts = set()
    step_of: dict[tuple[int, ...], int] = {}
    for path, (low, high) in changes.items():
        step = (
            (1 if high > low else -1)
            if steps is None
            else steps.get(path, (0, 0))[1] - steps.get(path, (0, 0))[0]
        )
        if not step or (high - low) % step or (high - low) // step < 1:
            raise Unreadable("dots with unequal steps")
        if (high - low) // step > MAX_TERMS:
            raise Unreadable("dots for too many terms")
        step_of[path] = step
        counts.add((high - low) // step)
    if len(counts) != 1:
        raise Unreadable("dots with unequal steps")
    terms = [
        _moved(written[0], (), changes, {p: k * s for p, s in step_of.items()})
        for k in range(counts.pop() + 1)
    ]
    if len(written) > len(terms) or not all(
        agree(one, term) for one, term in zip(written, terms, strict=False)
    ):
        raise Unreadable("a term that is not on the way")
    yield from terms


def _leaf(term: Term) -> int | None:
    """A whole number, or the index of a symbol."""
    if isinstance(term, Symbol):
        index = term.name.partition("_")[2]
        return int(index) if re.fullmatch(r"-?\d+", index) else None
    value = exact(term)
    return int(value) if value is not None and value.denominator == 1 else None


def _differences(
    one: Term, other: Term, path: tuple[int, ...] = ()
) -> dict[tuple[int, ...], tuple[int, int]] | None:
    """Where two terms of the same shape differ, and from what to what; None: they have different shapes."""
    if one == other:
        return {}
    if isinstance(one, Symbol) and isinstance(other, Symbol):
        same = one.name.partition("_")[0] == other.name.partition("_")[0]
        low, high = _leaf(one), _leaf(other)
        return {path: (low, high)} if same and low is not None and high is not None else None
    one, other = _as_power(one, other), _as_power(other, one)
    if not (
        isinstance(one, Op)
        and isinstance(other, Op)
        and one.name == other.name
        and len(one.args) == len(other.args)
    ):
        low, high = (_leaf(part) if not isinstance(part, Symbol) else None for part in (one, other))
        if low is None or high is None:
            return None
        return {path: (low, high)} if low != high else {}
    found: dict[tuple[int, ...], tuple[int, int]] = {}
    for place, (a, b) in enumerate(zip(one.args, other.args, strict=True)):
        inner = _differences(a, b, (*path, place))
        if inner is None:
            return None
        found |= inner
    return found


def _as_power(term: Term, like: Term) -> Term:
    """x as x^1, beside another power of x."""
    if isinstance(like, Op) and like.name == "^" and like.args[0] == term:
        return Op("^", (term, _ONE))
    return term


def _moved(
    term: Term,
    path: tuple[int, ...],
    changes: Mapping[tuple[int, ...], object],
    by: Mapping[tuple[int, ...], int],
) -> Term:
    """The term with each number on a path moved."""
    if path in changes:
        number = (_leaf(term) or 0) + by[path]
        return (
            Symbol(f"{term.name.partition('_')[0]}_{number}")
            if isinstance(term, Symbol)
            else Number(Fraction(number))
        )
    if any(other[: len(path)] == path for other in changes) and isinstance(term, Symbol):
        return _moved(Op("^", (term, _ONE)), path, changes, by)
    if not isinstance(term, Op):
        return term
    return Op(
        term.name, tuple(_moved(part, (*path, place), changes, by) for place, part in enumerate(term.args))
    )
