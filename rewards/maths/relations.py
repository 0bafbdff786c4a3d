"""Equations and inequalities: what they name, and when two of them say the same."""

from .comparer import Comparer
from .dots import agree_written_out, has_dots
from .equations import agreed, difference, ratio_at, solve, times
from .evaluation import symbols
from .names import approximations, binding, conflict, has_opaque, is_false, with_argument
from .rational import Undefined
from .reals import is_set, reals
from .terms import (
    Builder,
    Combination,
    Interval,
    Listing,
    Matrix,
    Number,
    Op,
    Quantity,
    Relation,
    Symbol,
    Term,
    Unreadable,
)
from .value import value

_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "!=": "!=", "=": "="}


def compare_relations(c: Comparer, gold: Term, answer: Term) -> bool | None:
    stated = approximations(gold)
    if stated is not None:
        verdicts = [c.same(part, answer) for part in stated]
        return True if True in verdicts else None if None in verdicts else False
    stated = approximations(answer)
    if stated is not None:
        return c.same(gold, stated[0])
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        return _two_relations(c, gold, answer)
    relation, other = (gold, answer) if isinstance(gold, Relation) else (answer, gold)
    assert isinstance(relation, Relation)
    bound = binding(relation, weak=True)
    if bound is not None:
        verdict = _in_order(c, relation is gold, bound[1], other)
        if verdict or relation.ops == ("in",):
            return verdict
    if is_set(relation) or (is_set(other) and bound is None):
        return c.sets(gold, answer)
    if relation.ops == ("==",) and isinstance(relation.sides[1], Op) and relation.sides[1].name == "pmod":
        if isinstance(other, Op) and other.name == "pmod":
            return _in_order(c, relation is gold, relation.sides[1], other)
        return _in_order(c, relation is gold, relation.sides[1].args[0], other)
    solved = _solved(c, relation, other)
    if solved is not None:
        return c.by("as equations", solved)
    return c.by("as equations", False if bound is not None or not has_opaque(relation) else None)


def _in_order(c: Comparer, first_is_gold: bool, one: Term, other: Term) -> bool | None:
    return c.same(one, other) if first_is_gold else c.same(other, one)


def _two_relations(c: Comparer, gold: Relation, answer: Relation) -> bool | None:
    a, b = binding(gold), binding(answer)
    if a is not None and b is not None:
        b = with_argument(a[0], b)
        verdict = c.same(a[1], b[1])
        if verdict and (conflict(a[0], b[0]) or is_false(gold) or is_false(answer)):
            return c.by("as equations of other things", False)
        if verdict is not False or a[0] == b[0]:
            return verdict
    known = [reals(part) is not None for part in (gold, answer)]
    if (is_set(gold) or is_set(answer)) and any(known):
        named = [
            part if pair is None or reals(part) is not None else pair[1]
            for part, pair in ((gold, a), (answer, b))
        ]
        verdict = c.sets(*named)
        if all(known) or verdict is not None:
            return verdict
    if gold.ops == answer.ops == ("==",):
        return c.all_same(iter(zip(gold.sides, answer.sides, strict=True)))
    if has_opaque(gold) or has_opaque(answer):
        return None
    return c.by("as equations" if set(gold.ops) == {"="} else "as inequalities", _equations(c, gold, answer))


def _equations(c: Comparer, gold: Relation, answer: Relation) -> bool | None:
    """Left minus right of one a constant multiple of the other's; or both the same when solved for a variable."""
    if len(gold.ops) != len(answer.ops):
        return False
    if len(gold.ops) > 1:
        return _chains(c, gold, answer)
    g, a = difference(gold), difference(answer)
    if g is None or a is None:
        return (
            c.all_same(iter(zip(gold.sides, answer.sides, strict=True))) if gold.ops == answer.ops else False
        )
    if gold.ops != answer.ops and gold.ops[0] != _FLIPPED.get(answer.ops[0]):
        return False
    names = sorted(symbols(g) | symbols(a))
    if not names:
        return _chains(c, gold, answer)
    if has_dots(g) and has_dots(a) and gold.ops == answer.ops:
        return agree_written_out(g, a)
    try:
        ratio = ratio_at(g, a, names)
    except (Undefined, Unreadable):
        ratio = None
    if ratio is not None and agreed(g, times(a, ratio), True):
        positive = (value(ratio) or 0) > 0
        if gold.ops[0] in ("=", "!="):
            return True
        return positive == (gold.ops == answer.ops)
    if gold.ops == ("=",):
        for name in names:
            x, y = solve(g, name), solve(a, name)
            if x is not None and y is not None:
                return agreed(x, y, True)
    return False


def _chains(c: Comparer, gold: Relation, answer: Relation) -> bool | None:
    if gold.ops == answer.ops:
        return c.all_same(iter(zip(gold.sides, answer.sides, strict=True)))
    if gold.ops == tuple(_FLIPPED.get(op, op) for op in reversed(answer.ops)):
        return c.all_same(iter(zip(gold.sides, reversed(answer.sides), strict=True)))
    return False


def _solved(c: Comparer, relation: Relation, other: Term) -> bool | None:
    """An equation against an expression: x y = 6 and 6/x. The expression must leave one variable out."""
    between = difference(relation) if relation.ops == ("=",) else None
    if between is None or isinstance(other, Listing | Interval | Combination | Builder | Matrix):
        return None
    other = other.value if isinstance(other, Quantity) else other
    if not isinstance(other, Number | Symbol | Op):
        return None
    left_out = symbols(between) - symbols(other)
    if len(left_out) != 1 or len(symbols(between)) != len(symbols(other)) + 1:
        return False if not has_opaque(relation) else None
    found = solve(between, next(iter(left_out)))
    return None if found is None else agreed(found, other, True)
