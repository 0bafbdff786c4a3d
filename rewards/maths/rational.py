"""The rational value of an expression, as a Fraction, so that no float surprises; what is too large is refused."""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction

from .terms import Number, Op, Symbol, Term, TooLarge

MAX_BITS = 60_000
"""Size of an exact power."""
MAX_FACTORIAL = 5_000


class Undefined(Exception):
    """The expression has no real value here: a zero denominator, the root of a negative number."""


def exact(term: Term, at: Mapping[str, Fraction] | None = None) -> Fraction | None:
    """The rational value of an expression, its variables replaced; None: it is not known to be rational.

    Raises Undefined and TooLarge.
    """
    if isinstance(term, Number):
        return term.value
    if isinstance(term, Symbol):
        return at.get(term.name) if at else None
    if not isinstance(term, Op):
        return None
    name = term.name
    parts: list[Fraction] = []
    for part in term.args:
        value = exact(part, at)
        if value is None:
            return None
        parts.append(value)
    if name == "+":
        return sum(parts, Fraction(0))
    if name == "*":
        return _bounded(math.prod(parts, start=Fraction(1)))
    if name == "neg":
        return -parts[0]
    if name == "/":
        if not parts[1]:
            raise Undefined("division by 0")
        return _bounded(parts[0] / parts[1])
    if name == "^":
        return _power(parts[0], parts[1])
    if name == "sqrt":
        return _root(parts[0], 2)
    if name == "root":
        return _root(parts[0], int(parts[1])) if parts[1].denominator == 1 and 0 < parts[1] < 1000 else None
    if name in _INTEGER:
        return _INTEGER[name](parts)
    return None


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
        raise TooLarge("a number of too many digits")
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        root = _root(base, exponent.denominator) if exponent.denominator < 1000 else None
        return None if root is None else _power(root, Fraction(exponent.numerator))
    if not base and exponent < 0:
        raise Undefined("division by 0")
    if base in (0, 1, -1):  # whatever the size of the exponent
        return Fraction(1) if not exponent else base ** (2 - int(exponent) % 2)
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(exponent) > MAX_BITS:
        raise TooLarge("a power of too many digits")
    return base ** int(exponent)


def _root(value: Fraction, degree: int) -> Fraction | None:
    if value < 0:
        if degree % 2 == 0:
            return None
        root = _root(-value, degree)
        return None if root is None else -root
    above, below = _integer_root(value.numerator, degree), _integer_root(value.denominator, degree)
    return None if above is None or below is None else Fraction(above, below)


def _integer_root(value: int, degree: int) -> int | None:
    if degree == 1 or value < 2:
        return value
    if value.bit_length() > 4000:
        return None
    root = math.isqrt(value) if degree == 2 else round(2 ** (math.log2(value) / degree))
    return root if root**degree == value else None


def _whole(value: Fraction, limit: int = MAX_FACTORIAL) -> int:
    if value.denominator != 1 or value < 0:
        raise Undefined("expected a whole number")
    if value > limit:
        raise TooLarge("a factorial of too many digits")
    return int(value)


def _factorial(parts: list[Fraction]) -> Fraction | None:
    return Fraction(math.factorial(_whole(parts[0]))) if parts[0].denominator == 1 else None


def _double_factorial(parts: list[Fraction]) -> Fraction | None:
    return Fraction(math.prod(range(_whole(parts[0]), 0, -2)))


def _binomial(parts: list[Fraction]) -> Fraction | None:
    if any(part.denominator != 1 or part < 0 for part in parts):
        return None
    return Fraction(math.comb(_whole(parts[0], 20_000), _whole(parts[1], 20_000)))


def _arrangements(parts: list[Fraction]) -> Fraction | None:
    return Fraction(math.perm(_whole(parts[0]), _whole(parts[1])))


def _modulo(parts: list[Fraction]) -> Fraction | None:
    if not parts[1]:
        raise Undefined("modulo 0")
    return parts[0] % parts[1]


_INTEGER: dict[str, Callable[[list[Fraction]], Fraction | None]] = {
    "abs": lambda parts: abs(parts[0]),
    "floor": lambda parts: Fraction(math.floor(parts[0])),
    "ceil": lambda parts: Fraction(math.ceil(parts[0])),
    "%": lambda parts: parts[0] / 100,
    "max": max,
    "min": min,
    "gcd": lambda parts: Fraction(math.gcd(*(_whole(part, 10**30) for part in parts))),
    "lcm": lambda parts: Fraction(math.lcm(*(_whole(part, 10**30) for part in parts))),
    "sgn": lambda parts: Fraction((parts[0] > 0) - (parts[0] < 0)),
    "!": _factorial,
    "!!": _double_factorial,
    "binom": _binomial,
    "perm": _arrangements,
    "mod": _modulo,
}
