"""Numbers, quantities and expressions: equal in value, or as near as the gold answer was written."""

from fractions import Fraction

from .comparer import Comparer
from .dots import agree_written_out, has_dots
from .equations import agreed, negative, same_case, times
from .evaluation import operations, symbols
from .rational import Undefined, exact
from .rounding import ANSWER_DIGITS, GOLD_DIGITS, is_measured, is_rounded, rounded_to
from .terms import Builder, Combination, Interval, Number, Op, Quantity, Symbol, Term
from .units import measure
from .value import infinite, value


def compare_quantities(c: Comparer, gold: Term, answer: Term) -> bool | None:
    """A unit on one side only is what the question named; two units of one kind are converted."""
    if isinstance(gold, Quantity) and isinstance(answer, Quantity):
        a, b = measure(gold.unit), measure(answer.unit)
        if a is not None and b is not None and a != b and a[0] and b[0]:
            if a[0] != b[0]:
                return c.by("as units", False)
            factor = Number(b[1] / a[1])
            return c.by("as units", c.same(gold.value, times(answer.value, factor)))
    if isinstance(gold, Quantity) and is_measured(gold) and rounded_to(gold.value, answer):
        return c.by("rounded", True)
    if not (isinstance(gold, Quantity) and isinstance(answer, Quantity)):
        gold, answer = _letters(gold, answer), _letters(answer, gold)
    inner = (part.value if isinstance(part, Quantity) else part for part in (gold, answer))
    return c.by("without units", c.same(*inner))


def _letters(term: Term, other: Term) -> Term:
    """5 m beside 5m as a product: where the other side has variables, one letter is one."""
    if (
        isinstance(term, Quantity)
        and len(term.unit) == 1
        and isinstance(other, Op | Symbol)
        and symbols(other)
    ):
        return Op("*", (term.value, Symbol(term.unit)))
    return term


def _measured(term: Term, other: Term) -> Term:
    """5m² beside a number as 5: no number has a squared letter in it."""
    if (
        not isinstance(term, Op)
        or term.name != "*"
        or len(term.args) != 2
        or symbols(other)
        or not symbols(term)
    ):
        return term
    count, unit = term.args
    area = isinstance(unit, Op) and unit.name == "^" and unit.args[0] == Symbol("m")
    return count if isinstance(count, Number) and area else term


def compare_values(c: Comparer, gold: Term, answer: Term) -> bool | None:
    if isinstance(gold, Interval | Combination | Builder) or isinstance(
        answer, Interval | Combination | Builder
    ):
        return c.by("as sets", False)
    gold, answer = _measured(gold, answer), _measured(answer, gold)
    if any(isinstance(part, Op) and part.name == "pmod" for part in (gold, answer)):
        return c.by("modulo", _congruent(c, gold, answer))
    (a, a_kind), (b, b_kind) = _bare(gold), _bare(answer)
    if a_kind == b_kind:
        return _close(c, a, b)
    for marked, bare, kind in ((a, b, a_kind), (b, a, b_kind)):
        if not kind or (a_kind and b_kind):
            continue
        # The sign may say what the question said already (50% of the answer '50 percent'), or be part of the value.
        scaled = (
            times(bare, Number(Fraction(100)))
            if kind == "%"
            else Op("/", (times(bare, Number(Fraction(180))), Symbol("pi")))
        )
        for other in (bare, scaled):
            pair = (marked, other) if marked is a else (other, marked)
            if _close(c, *pair):
                return c.by("as percentages" if kind == "%" else "as angles", True)
        return c.by("as percentages" if kind == "%" else "as angles", False)
    return _close(c, gold, answer)


def _congruent(c: Comparer, gold: Term, answer: Term) -> bool | None:
    """17 modulo 5 is 2 modulo 5; the modulus must be the same."""
    if not (isinstance(gold, Op) and isinstance(answer, Op) and gold.name == answer.name == "pmod"):
        return False
    modulus = c.same(gold.args[1], answer.args[1])
    a, b, n = exact(gold.args[0]), exact(answer.args[0]), exact(gold.args[1])
    if modulus and a is not None and b is not None and n:
        return (a - b) % n == 0
    return modulus and c.same(gold.args[0], answer.args[0])


def _close(c: Comparer, gold: Term, answer: Term) -> bool | None:
    """Equal in value, or within what the gold answer states or must have been rounded by."""
    if infinite(gold) or infinite(answer):
        return c.by("as numbers", infinite(gold) == infinite(answer))
    try:
        a, b = exact(gold), exact(answer)
    except Undefined:
        return c.by("as numbers", False)
    if a is not None and b is not None:
        equal = a == b
        if not equal and c.tolerance is not None:
            return c.by("within the tolerance", abs(a - b) <= c.tolerance)
        if not equal and (is_rounded(gold, b, GOLD_DIGITS) or is_rounded(answer, a, ANSWER_DIGITS)):
            return c.by("rounded", True)
        return c.by("as numbers", equal)
    if symbols(gold) or symbols(answer):
        return _expressions(c, gold, answer)
    return _constants(c, gold, answer)


def _constants(c: Comparer, gold: Term, answer: Term) -> bool | None:
    for natural in (True, False) if "log" in operations(gold) | operations(answer) else (True,):
        verdict = agreed(gold, answer, natural)
        if verdict is None:
            return None
        if verdict:
            return c.by("by value", True)
        x, y = value(gold, natural), value(answer, natural)
        if x is None or y is None:
            continue
        if c.tolerance is not None and abs(x - y) <= float(c.tolerance):
            return c.by("within the tolerance", True)
        if is_rounded(gold, Fraction(y), GOLD_DIGITS) or is_rounded(answer, Fraction(x), ANSWER_DIGITS):
            return c.by("rounded", True)
    return c.by("by value", False)


def _expressions(c: Comparer, gold: Term, answer: Term) -> bool | None:
    if has_dots(gold) or has_dots(answer):
        return c.by("written out", agree_written_out(gold, answer))
    verdict: bool | None = None
    for natural in (True, False) if "log" in operations(gold) | operations(answer) else (True,):
        verdict = agreed(gold, answer, natural)
        if verdict:
            break
    if verdict is False:
        renamed = same_case(gold, answer)
        if renamed is not None and agreed(gold, renamed, True):
            verdict = True
    return c.by("by value at several points", verdict)


def _bare(term: Term) -> tuple[Term, str]:
    """A percentage or an angle in degrees without its sign, and the sign."""
    if isinstance(term, Op) and term.name == "neg":
        inner, kind = _bare(term.args[0])
        if kind:
            return (negative(inner), kind)
    if isinstance(term, Op) and term.name in ("%", "deg"):
        return term.args[0], term.name
    return term, ""
