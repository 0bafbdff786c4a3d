"""What an expression is worth: exactly where it is rational, else numerically, at points where it has variables.

Exact values are Fractions, so that no float surprises. The rest is worked out in floats first, where different
values show at once, and only what floats cannot tell apart in 60 digits or more.
"""

import math
import zlib
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from .evaluation import Evaluation, all_symbols, arithmetic, operations, symbols
from .rational import Undefined, exact
from .terms import Number, Op, Symbol, Term, TooLarge, Unreadable

MAX_SIGNS = 5
MAX_DIGITS = 5000
MAX_TOGETHER = 400
_ROUGH = 1e-6
"""Floats further apart than this, in units of the largest number on the way, are different values."""
_TRIALS = 7
_NEAR_ZERO = {10: (0.05, 0.45), 11: (0.3, 0.9), 12: (-0.8, -0.1)}
r"""Trials between -1 and 1, for what is defined in no other place: the arcsine of \\sqrt{a}."""
_WHOLE_TRIALS = {1: (3, 10), 3: (2, 10), 5: (3, 10), 6: (2, 10), 7: (21, 80), 8: (100, 800), 9: (1001, 5000)}
"""Trials with whole numbers: from where and how far. They are odd and even by turns; the large ones are for floors only."""
_STEPPED = {"floor", "ceil", "mod"}


def value(term: Term, natural: bool = True) -> float | None:
    """A constant as a float, for sorting; None: it has variables, or no real value."""
    if symbols(term):
        return None
    if infinite(term):
        return infinite(term)
    try:
        whole = exact(term)
        number = Evaluation(arithmetic(0), {}, natural).of(term) if whole is None else whole
        return float(number.real) if abs(getattr(number, "imag", 0)) < 1e-9 else None
    except (Undefined, TooLarge, Unreadable, OverflowError):
        return None


def infinite(term: Term) -> float:
    """inf or -inf for what says so, else 0."""
    if term == Symbol("oo"):
        return math.inf
    return -math.inf if isinstance(term, Op) and term.name == "neg" and term.args == (Symbol("oo"),) else 0.0


def agree(left: Term, right: Term, natural: bool = True) -> bool | None:
    """Whether two expressions have the same value, at every trial point where both have one; None: cannot be told.

    natural: `log` without a base is the natural one, else that of base 10
    Raises TooLarge and Unreadable.
    """
    if not (all_symbols(left) | all_symbols(right)) - {"pi", "e"} or not symbols(left) | symbols(right):
        return _agree_at(left, right, {}, natural, digits_of(left, right))
    names = sorted(symbols(left) | symbols(right))
    seen = 0
    # Rounding on both sides is about whole numbers: the ceiling of n/2 is the floor of (n+1)/2.
    whole = bool(operations(left) & _STEPPED and operations(right) & _STEPPED)
    for trial in _WHOLE_TRIALS if whole else (*range(_TRIALS), *_NEAR_ZERO):
        if trial in _NEAR_ZERO and seen > 1:
            break
        try:
            equal = _agree_exactly(left, right, names, trial)
            if equal is None:
                equal = _agree_at(left, right, _point(names, trial), natural, digits_of(left, right))
        except Undefined:
            continue
        if not equal:
            return False
        seen += 1
    if not seen and _is_defined(left, names) != _is_defined(right, names):
        return False
    return True if seen > 1 else None


def _is_defined(term: Term, names: list[str]) -> bool:
    """Whether it has a value at any trial point; x/0 has none."""
    for trial in range(_TRIALS):
        try:
            Evaluation(arithmetic(0), _point(names, trial), True).of(term)
        except (Undefined, TooLarge):
            continue
        except (Unreadable, OverflowError):
            return True
        return True
    return False


def _agree_exactly(left: Term, right: Term, names: list[str], trial: int) -> bool | None:
    point = {name: Fraction(number).limit_denominator(97) for name, number in _point(names, trial).items()}
    try:
        a, b = exact(left, point), exact(right, point)
    except TooLarge:
        return None
    return None if a is None or b is None else a == b


def at_point(term: Term, names: list[str]) -> Fraction | None:
    """The value at the first trial point, to 60 digits where it is not rational; None: it is not real.

    Raises Undefined, TooLarge and Unreadable.
    """
    point = _point(names, 0)
    rational = {name: Fraction(number).limit_denominator(97) for name, number in point.items()}
    found = exact(term, rational)
    if found is not None:
        return found
    number = Evaluation(
        arithmetic(60),
        {name: value.numerator / arithmetic(60).mpf(value.denominator) for name, value in rational.items()},
        True,
    ).of(term)
    if getattr(number, "imag", 0):
        return None
    mantissa, exponent = number.real.man_exp
    return Fraction(int(mantissa)) * Fraction(2) ** int(exponent) if abs(exponent) < 10_000 else None


def _point(names: list[str], trial: int) -> dict[str, Any]:
    """Values of the variables: positive, whole, negative; the same for the same name every time."""
    point: dict[str, Any] = {}
    for name in names:
        share = zlib.crc32(f"{name} {trial}".encode()) / 2**32
        if trial in _WHOLE_TRIALS:
            start, width = _WHOLE_TRIALS[trial]
            number = start + 2 * int(share * width / 2)
            while number in point.values():
                number += 2
            point[name] = number
        else:
            low, high = {0: (0.25, 0.95), 2: (1.1, 3.7), 4: (-3.0, 3.0), **_NEAR_ZERO}[trial]
            point[name] = low + share * (high - low)
    return point


def digits_of(*terms: Term) -> int:
    """Digits that an exact comparison needs: as many as the numbers have, and 60 more."""
    return 60 + 60 * min(max(_digits(term) for term in terms) // 20, 9)


def _digits(term: Term) -> int:
    if isinstance(term, Number):
        return (term.value.numerator.bit_length() + term.value.denominator.bit_length()) // 3
    if isinstance(term, Op) and term.name == "^" and isinstance(term.args[1], Number):
        return min(_digits(term.args[0]) * int(abs(term.args[1].value) + 1), 2000)
    return sum(_digits(part) for part in term.args) if isinstance(term, Op) else 0


def _agree_at(left: Term, right: Term, point: Mapping[str, Any], natural: bool, digits: int) -> bool:
    for precision in (0, digits):
        if precision == 0 and (operations(left) | operations(right)) & _STEPPED:
            continue  # a float just below an integer has another floor
        work = Evaluation(arithmetic(precision), point, natural)
        try:
            gap = abs(work.of(left) - work.of(right))
        except OverflowError:
            continue
        if gap != gap:
            raise Undefined("not a number")
        scale = max(work.largest, 1e-300)
        if precision == 0 and gap > _ROUGH * scale:
            return False
        if precision:
            if gap > scale * arithmetic(precision).mpf(10) ** (-0.75 * digits):
                return False
            return not gap or _vanishes(left, right, work, digits, gap)
    raise TooLarge("beyond any float")


def _vanishes(left: Term, right: Term, work: Evaluation, digits: int, gap: Any) -> bool:
    """Whether a gap that is small beside the largest number on the way is small beside the values, or shrinks with more digits.

    4**-2016 and 0.2 are far apart, although not beside 4**2016; 0 and sqrt(2) - sqrt(2) are close beside nothing.
    """
    size = max(abs(work.of(left)), abs(work.of(right)))
    if gap <= size * 1e-30:
        return True
    more = digits + int(work.context.log10(work.largest / size)) + 1
    if more > MAX_DIGITS:
        raise TooLarge("numbers of too different sizes")
    closer = Evaluation(arithmetic(more), work.point, work.natural)
    a, b = closer.of(left), closer.of(right)
    narrower = abs(a - b)
    return bool(
        narrower <= max(abs(a), abs(b)) * 1e-30 or narrower <= gap * closer.context.mpf(10) ** (-digits // 2)
    )


def branches(term: Term) -> Iterator[Term]:
    r"""The values of an expression with \pm, two for one sign and for signs that go together (\pm with \mp), else one."""
    ops = operations(term)
    if not ops & {"pm", "mp"}:
        yield term
        return
    together = "mp" in ops
    count = 1 if together else _count(term)
    if count > MAX_SIGNS:
        raise TooLarge("too many signs that may be either")
    for choice in range(2**count):
        signs = [bool(choice >> place & 1) for place in range(count)]
        yield _signed(term, signs * MAX_TOGETHER if together else list(signs))


def _count(term: Term) -> int:
    return (term.name == "pm") + sum(_count(part) for part in term.args) if isinstance(term, Op) else 0


def _signed(term: Term, signs: list[bool]) -> Term:
    if not isinstance(term, Op):
        return term
    if term.name in ("pm", "mp"):
        minus = signs.pop(0) != (term.name == "mp")
        inner = _signed(term.args[0], signs)
        return Op("neg", (inner,)) if minus else inner
    return Op(term.name, tuple(_signed(part, signs) for part in term.args))
