"""Lists, sets, points and matrices: in order where order matters."""

from collections.abc import Iterator, Sequence

from .comparer import Comparer
from .names import unconditional
from .terms import Listing, Matrix, Number, Op, Quantity, Relation, Symbol, Term
from .value import branches

MAX_ITEMS = 200
_EXPRESSION = Number | Symbol | Op


def compare_matrices(c: Comparer, gold: Term, answer: Term) -> bool | None:
    a, b = _rows(gold), _rows(answer)
    if a is None or b is None or [len(row) for row in a] != [len(row) for row in b]:
        flat = [_flat(part) for part in (gold, answer)]
        if isinstance(gold, Matrix) and isinstance(answer, Matrix) or None in flat:
            return c.by("as matrices", None if a is None or b is None else False)
        a, b = [flat[0] or ()], [flat[1] or ()]
        if len(a[0]) != len(b[0]):
            return c.by("as matrices", False)
    pairs = ((x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True))
    return c.by("as matrices", c.all_same(pairs))


def compare_listings(c: Comparer, gold: Term, answer: Term) -> bool | None:
    verdict = _lists(c, gold, answer)
    if verdict is False and _is_nested(gold) != _is_nested(answer):
        verdict = _lists(c, _flattened(gold), _flattened(answer))
    if verdict is False:
        bare = unconditional(gold), unconditional(answer)
        if (bare[0] is gold) != (bare[1] is answer):  # a condition on one side only is what the question said
            return c.same(*bare)
    return verdict


def _is_nested(term: Term) -> bool:
    return isinstance(term, Listing) and any(
        isinstance(part, Listing) and part.kind == "list" for part in term.items
    )


def _flattened(term: Term) -> Term:
    """x = 1, y = 2; x = 3, y = 4 as one list of four."""
    if not isinstance(term, Listing) or not _is_nested(term):
        return term
    inner = (
        part.items if isinstance(part, Listing) and part.kind == "list" else (part,) for part in term.items
    )
    return Listing(term.kind, tuple(value for values in inner for value in values))


def _lists(c: Comparer, gold: Term, answer: Term) -> bool | None:
    g = gold if isinstance(gold, Listing) else Listing("list", (gold,))
    a = answer if isinstance(answer, Listing) else Listing("list", (answer,))
    kinds = {g.kind, a.kind}
    interval = "bracket" in kinds and len(kinds) > 1 and kinds != {"bracket", "list"} and len(g.items) == 2
    if interval or max(len(g.items), len(a.items)) > MAX_ITEMS:
        return c.by("as lists", False)
    if kinds <= {"list", "set"} or kinds == {"set", "bracket"}:
        x, y = list(g.items), list(a.items)
        if kinds == {"set"} or all(_is_point(part) for part in (*x, *y)):
            x, y = _distinct(c, x), _distinct(c, y)
        return c.by(f"as {'sets' if 'set' in kinds else 'lists'} in any order", matched(c, x, y))
    if len(g.items) != len(a.items):
        return c.by("as lists", False)
    return c.by("as lists in order", c.all_same(iter(zip(g.items, a.items, strict=True))))


def _is_point(term: Term) -> bool:
    """A list of points is the set of solutions: one that is written twice is one solution. A root may be a double one."""
    return isinstance(term, Listing) and term.kind == "tuple"


def _distinct(c: Comparer, items: list[Term]) -> list[Term]:
    kept: list[Term] = []
    for part in items:
        if not any(c.same(other, part) for other in kept):
            kept.append(part)
    return kept


def matched(c: Comparer, gold: Sequence[Term], answer: Sequence[Term]) -> bool | None:
    """Whether each term has its own partner, whatever the order."""
    if len(gold) != len(answer):
        return False
    left = list(answer)
    unknown = False
    for part in gold:
        verdicts = []
        for other in left:
            verdicts.append(c.same(part, other))
            if verdicts[-1]:
                break
        if verdicts and verdicts[-1]:
            left.pop(len(verdicts) - 1)
        elif None in verdicts:
            unknown = True
        else:
            return False
    return None if unknown else True


def opened(term: Term) -> Term:
    r"""\pm as a list of its values, also inside a list; a list of one as its item."""
    if isinstance(term, Listing):
        if len(term.items) == 1:
            return opened(term.items[0])
        if term.kind in ("list", "set"):
            spread = [list(_spread(part)) for part in term.items]
            if any(len(values) > 1 for values in spread):
                return Listing(term.kind, tuple(value for values in spread for value in values))
            return term
    values = tuple(_spread(term))
    return Listing("list", values) if len(values) > 1 else term


def _spread(term: Term) -> Iterator[Term]:
    """All that a term with \\pm stands for: x = \\pm 1 is x = 1 and x = -1, (\\pm 1, 2) two points."""
    if isinstance(term, Relation) and term.ops == ("=",):
        yield from (Relation((term.sides[0], value), term.ops) for value in _spread(term.sides[1]))
    elif isinstance(term, Relation) and term.ops == ("in",) and _is_finite_set(term.sides[1]):
        items = term.sides[1].items if isinstance(term.sides[1], Listing) else ()
        yield from (Relation((term.sides[0], part), ("=",)) for part in items)
    elif isinstance(term, Quantity):
        yield from (Quantity(value, term.unit) for value in _spread(term.value))
    elif (
        isinstance(term, Listing)
        and term.kind == "tuple"
        and all(isinstance(part, _EXPRESSION) for part in term.items)
    ):
        for point in branches(Op("tuple", term.items)):
            assert isinstance(point, Op)
            yield Listing("tuple", point.args)
    else:
        yield from branches(term)


def _is_finite_set(term: Term) -> bool:
    return (
        isinstance(term, Listing)
        and term.kind == "set"
        and all(isinstance(p, _EXPRESSION) for p in term.items)
    )


def _rows(term: Term) -> Sequence[Sequence[Term]] | None:
    if (
        isinstance(term, Listing)
        and term.kind == "bracket"
        and all(isinstance(row, Listing) for row in term.items)
    ):
        return [row.items for row in term.items if isinstance(row, Listing)]
    return term.rows if isinstance(term, Matrix) else None


def _flat(term: Term) -> tuple[Term, ...] | None:
    """A row or column as a point."""
    if isinstance(term, Matrix):
        if len(term.rows) == 1:
            return term.rows[0]
        return tuple(row[0] for row in term.rows) if all(len(row) == 1 for row in term.rows) else None
    return term.items if isinstance(term, Listing) and term.kind in ("tuple", "bracket") else None
