"""Algebra on terms: difference of two sides, solving for a variable, products that keep what was written."""

from fractions import Fraction

from .evaluation import symbols
from .rational import Undefined
from .terms import Number, Op, Relation, Symbol, Term, Unreadable
from .value import agree, at_point


def difference(relation: Relation) -> Term | None:
    left, right = relation.sides[0], relation.sides[-1]
    if not isinstance(left, Number | Op | Symbol) or not isinstance(right, Number | Op | Symbol):
        return None
    return Op("+", (left, negative(right)))


def ratio_at(a: Term, b: Term, names: list[str]) -> Term | None:
    """a / b at one point, exactly where that is possible."""
    x, y = at_point(a, names), at_point(b, names)
    return None if x is None or y is None or x == 0 or y == 0 else Number(x / y)


def solve(difference: Term, name: str) -> Term | None:
    """The variable for which the difference is 0, where it is linear in it; None: it is not."""
    zero, one, two = (replaced(difference, name, Number(Fraction(k))) for k in (0, 1, 2))
    slope = Op("+", (one, negative(zero)))
    linear = agreed(Op("+", (two, negative(one))), slope, True)
    flat = agreed(slope, Number(Fraction(0)), True)
    if not linear or flat is not False:
        return None
    return Op("/", (negative(zero), slope))


def replaced(term: Term, name: str, by: Term) -> Term:
    """The expression with a term for one of its variables."""
    if isinstance(term, Symbol):
        return by if term.name == name else term
    return (
        Op(term.name, tuple(replaced(part, name, by) for part in term.args)) if isinstance(term, Op) else term
    )


def times(term: Term, factor: Term) -> Term:
    """The product; that of two numbers is a number, and keeps the decimals that were written."""
    if isinstance(term, Number) and isinstance(factor, Number):
        shift = {Fraction(100): 2, Fraction(1, 100): -2, Fraction(1000): 3, Fraction(1, 1000): -3}.get(
            factor.value
        )
        decimals = None if term.decimals is None or shift is None else term.decimals - shift
        return Number(term.value * factor.value, decimals, term.significant, term.cut)
    return Op("*", (term, factor))


def negative(term: Term) -> Term:
    if isinstance(term, Number):
        return Number(-term.value, term.decimals, term.significant, term.cut)
    return Op("neg", (term,))


def agreed(left: Term, right: Term, natural: bool) -> bool | None:
    try:
        return agree(left, right, natural)
    except Unreadable:
        return None
    except Undefined:
        return False


def same_case(gold: Term, answer: Term) -> Term | None:
    """The answer with its letters in the gold answer's case, when that is all that they differ in."""
    a, b = symbols(gold) - symbols(answer), symbols(answer) - symbols(gold)
    named = {name.lower(): name for name in a}
    if not a or len(named) != len(a) or {name.lower() for name in b} != set(named) or len(a) != len(b):
        return None
    for name in b:
        answer = replaced(answer, name, Symbol(named[name.lower()]))
    return answer
