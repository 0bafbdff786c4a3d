"""The value of one expression at one point, by mpmath: in floats, or to as many digits as are asked for."""

import math
import zlib
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from .rational import Undefined, exact
from .terms import Number, Op, Symbol, Term, TooLarge, Unreadable

MAX_MAGNITUDE = 1e9
"""Bits of an approximate power: 2**(10**9) still has a value, 10**10**10 is too large."""
CONSTANTS = {"pi", "e", "i", "oo"}


def symbols(term: Term) -> frozenset[str]:
    """The variables of an expression."""
    return all_symbols(term) - CONSTANTS


@lru_cache(maxsize=8192)
def all_symbols(term: Term) -> frozenset[str]:
    if isinstance(term, Symbol):
        return frozenset((term.name,))
    if isinstance(term, Op):
        return frozenset().union(*(all_symbols(part) for part in term.args))
    return frozenset()


@lru_cache(maxsize=8192)
def operations(term: Term) -> frozenset[str]:
    """The names of all operations in an expression."""
    if not isinstance(term, Op):
        return frozenset()
    return frozenset((term.name,)).union(*(operations(part) for part in term.args))


@lru_cache(maxsize=8)
def arithmetic(digits: int) -> Any:
    """mpmath at so many digits; 0: with floats. Loaded with the first value that is not rational."""
    import mpmath  # type: ignore[import-untyped]

    if not digits:
        return mpmath.fp
    context = mpmath.mp.clone()
    context.dps = digits
    return context


class Evaluation:
    """Works out one expression at one point.

    Where there are variables, what is not real is undefined, unless the expression has `i` in it: x and sqrt(x)^2 are
    only compared where both are real. An odd root of a negative number is the real one.
    """

    def __init__(self, context: Any, point: Mapping[str, Any], natural: bool) -> None:
        self.context = context
        self.point = point
        self.natural = natural
        self.largest = 0.0
        """The largest number on the way: rounding errors are relative to it."""
        self.complex = False

    def of(self, term: Term) -> Any:
        """Raises Undefined, TooLarge, Unreadable, and OverflowError where floats end."""
        self.complex = "i" in all_symbols(term) or "cis" in operations(term)
        try:
            return self._of(term)
        except (ZeroDivisionError, ValueError) as error:
            raise Undefined(str(error)) from error

    def _of(self, term: Term) -> Any:
        if isinstance(term, Number):
            return self._noted(self.context.mpf(term.value.numerator) / term.value.denominator)
        if isinstance(term, Symbol):
            return self._noted(self._symbol(term.name))
        if not isinstance(term, Op):
            raise Unreadable(f"{type(term).__name__} has no value")
        if term.name == "^":
            return self._noted(self._raise(term.args[0], term.args[1]))
        if term.name == "log":
            return self._noted(self._log(term))
        return self._noted(self._apply(term.name, [self._of(part) for part in term.args]))

    def _noted(self, number: Any) -> Any:
        if isinstance(number, float | int) and not math.isfinite(number):
            raise OverflowError
        if self.point and not self.complex and getattr(number, "imag", 0) != 0:
            raise Undefined("not real")
        size = abs(number)
        if size > self.largest:
            self.largest = size
        return number

    def _symbol(self, name: str) -> Any:
        if name in self.point:
            number = self.point[name]
            return self.context.mpf(number)
        if name == "pi":
            return +self.context.pi
        if name == "e":
            return +self.context.e
        if name == "i":
            return self.context.mpc(0, 1)
        raise Unreadable(f"{name} has no value")

    def _raise(self, base: Term, exponent: Term) -> Any:
        power = exact(exponent)
        b = self._of(base)
        p = self._of(exponent) if power is None else power
        if power is None and not isinstance(p, Fraction) and getattr(p, "imag", 0) == 0 and p == int(p.real):
            power = Fraction(int(p.real))
        if b == 0:
            if p.real < 0:
                raise Undefined("division by 0")
            return self.context.mpf(1 if p == 0 else 0)
        bits = abs(self.context.log(abs(b)) * abs(self._number(p))) * 1.45
        if bits > MAX_MAGNITUDE:
            raise TooLarge("a power of too many digits")
        if self.context is arithmetic(0) and bits > 1000:
            raise OverflowError
        if power is not None and power.denominator == 1:
            return b ** int(power)
        if getattr(b, "imag", 0) == 0 and b.real < 0 and not self.complex:
            if power is None or power.denominator % 2 == 0:
                return self.context.power(b, self._number(p))  # not real: `_noted` objects
            root = (-b.real) ** self._number(power)
            return -root if power.numerator % 2 else root
        return self.context.power(b, self._number(p))

    def _number(self, number: Any) -> Any:
        return (
            self.context.mpf(number.numerator) / number.denominator
            if isinstance(number, Fraction)
            else number
        )

    def _log(self, term: Op) -> Any:
        x = self._of(term.args[0])
        if x == 0 or (not self.complex and x.real < 0):
            raise Undefined("a logarithm of what is not positive")
        if len(term.args) > 1:
            return self.context.log(x) / self.context.log(self._of(term.args[1]))
        return self.context.log(x) if self.natural else self.context.log(x) / self.context.log(10)

    def _apply(self, name: str, parts: list[Any]) -> Any:
        c = self.context
        x = parts[0]
        if name == "+":
            return sum(parts[1:], x)
        if name == "*":
            return math.prod(parts[1:], start=x)
        if name == "neg":
            return -x
        if name == "/":
            return x / parts[1]
        if name in ("sqrt", "root"):
            return self._rooted(x, 2 if name == "sqrt" else parts[1])
        if name == "abs":
            return abs(x)
        if name == "deg":
            return x * c.pi / 180
        if name == "%":
            return x / 100
        if name in ("floor", "ceil"):
            return self._floored(name, x)
        if name == "mod":
            return x - parts[1] * c.floor(x / parts[1])
        if name == "ln":
            if x == 0 or (not self.complex and x.real < 0):
                raise Undefined("a logarithm of what is not positive")
            return c.log(x)
        if name == "cis":
            return c.mpc(c.cos(x), c.sin(x))
        if name in _TRIGONOMETRY:
            return self._angle(name, x)
        if name in ("!", "binom", "perm", "!!"):
            return self._counted(name, parts)
        if name in ("max", "min"):
            return max(parts) if name == "max" else min(parts)
        if name == "sgn":
            return c.mpf((x.real > 0) - (x.real < 0))
        if name.startswith("call:") or name == "prime":
            return self._unknown(name, parts)
        raise Unreadable(f"{name} has no value")

    def _rooted(self, x: Any, degree: Any) -> Any:
        if degree == 2:
            return self.context.sqrt(x)  # not real: `_noted` objects
        if x == 0:
            return x
        if not self.complex and x.real < 0:
            if degree != int(degree.real) or int(degree.real) % 2 == 0:
                raise Undefined("a root of a negative number")
            return -((-x) ** (1 / degree))
        return self.context.power(x, 1 / degree)

    def _floored(self, name: str, x: Any) -> Any:
        near = self.context.floor(x.real + 0.5)
        if abs(x.real - near) < self.context.mpf(10) ** -30:
            return near
        return self.context.floor(x.real) if name == "floor" else self.context.ceil(x.real)

    def _angle(self, name: str, x: Any) -> Any:
        c = self.context
        if name in ("arcsin", "arccos") and not self.complex and abs(x) > 1:
            raise Undefined("no angle has this sine")
        function = getattr(c, _TRIGONOMETRY[name], None)
        if function is None:  # mpmath has no such function of floats: it is worked out in digits then
            raise OverflowError
        found = function(x)
        if name in ("tan", "sec", "cot", "csc") and abs(found) > 1e12:
            raise Undefined("a pole")
        return found

    def _counted(self, name: str, parts: list[Any]) -> Any:
        c = self.context
        if any(abs(part) > 10**6 for part in parts):
            raise TooLarge("a factorial of too many digits")
        if c is arithmetic(0) and any(abs(part) > 150 for part in parts):
            raise OverflowError
        if name == "!":
            return c.factorial(parts[0])
        if name == "!!":
            return c.fac2(parts[0])
        if name == "perm":
            return c.factorial(parts[0]) / c.factorial(parts[0] - parts[1])
        return c.binomial(parts[0], parts[1])

    def _unknown(self, name: str, parts: list[Any]) -> Any:
        """f of something: another smooth function for every name, so that f(2x) is not 2f(x)."""
        share = zlib.crc32(name.encode()) / 2**32
        return sum(
            self.context.sin((1 + share) * part + 3 * share + place) for place, part in enumerate(parts)
        )


_TRIGONOMETRY = {
    **{
        name: name
        for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "exp")
    },
    **{
        "arcsin": "asin",
        "arccos": "acos",
        "arctan": "atan",
        "arccot": "acot",
        "arcsec": "asec",
        "arccsc": "acsc",
    },
    **{"arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh"},
}
