"""What an expression is worth: exactly where it is rational, else numerically, at points where it has variables.

Exact values are Fractions, so that no float surprises. The rest is worked out in floats first, where different
values show at once, and only what floats cannot tell apart in 60 digits or more.
"""

import math
import zlib
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from .rational import Undefined, exact
from .terms import Number, Op, Symbol, Term, TooLarge, Unreadable

MAX_SIGNS = 5
MAX_TOGETHER = 400
MAX_MAGNITUDE = 1e9
"""Bits of an approximate power: 2**(10**9) still has a value, 10**10**10 is too large."""
CONSTANTS = {"pi", "e", "i", "oo"}
_ROUGH = 1e-6
"""Floats further apart than this, in units of the largest number on the way, are different values."""
_TRIALS = 7
_WHOLE_TRIALS = {1: (3, 10), 3: (2, 10), 5: (3, 10), 6: (2, 10), 7: (21, 80), 8: (100, 800), 9: (1001, 5000)}
"""Trials with whole numbers: from where and how far. They are odd and even by turns; the large ones are for floors only."""
_STEPPED = {"floor", "ceil", "mod"}


def symbols(term: Term) -> frozenset[str]:
    """The variables of an expression."""
    return _symbols(term) - CONSTANTS


@lru_cache(maxsize=8192)
def _symbols(term: Term) -> frozenset[str]:
    if isinstance(term, Symbol):
        return frozenset((term.name,))
    if isinstance(term, Op):
        return frozenset().union(*(_symbols(part) for part in term.args))
    return frozenset()


@lru_cache(maxsize=8192)
def operations(term: Term) -> frozenset[str]:
    """The names of all operations in an expression."""
    if not isinstance(term, Op):
        return frozenset()
    return frozenset((term.name,)).union(*(operations(part) for part in term.args))


@lru_cache(maxsize=8)
def _context(digits: int) -> Any:
    """mpmath at so many digits; 0: with floats. Loaded with the first value that is not rational."""
    import mpmath  # type: ignore[import-untyped]

    if not digits:
        return mpmath.fp
    context = mpmath.mp.clone()
    context.dps = digits
    return context


def value(term: Term, natural: bool = True) -> float | None:
    """A constant as a float, for sorting; None: it has variables, or no real value."""
    if symbols(term):
        return None
    if infinite(term):
        return infinite(term)
    try:
        whole = exact(term)
        number = Evaluation(_context(0), {}, natural).of(term) if whole is None else whole
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
    if not (_symbols(left) | _symbols(right)) - {"pi", "e"} or not symbols(left) | symbols(right):
        return _agree_at(left, right, {}, natural, digits_of(left, right))
    names = sorted(symbols(left) | symbols(right))
    seen = 0
    # Rounding on both sides is about whole numbers: the ceiling of n/2 is the floor of (n+1)/2.
    whole = bool(operations(left) & _STEPPED and operations(right) & _STEPPED)
    for trial in _WHOLE_TRIALS if whole else range(_TRIALS):
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
            Evaluation(_context(0), _point(names, trial), True).of(term)
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
        _context(60),
        {name: value.numerator / _context(60).mpf(value.denominator) for name, value in rational.items()},
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
            low, high = {0: (0.25, 0.95), 2: (1.1, 3.7), 4: (-3.0, 3.0)}[trial]
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
        work = Evaluation(_context(precision), point, natural)
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
            return bool(gap <= scale * _context(precision).mpf(10) ** (-0.75 * digits))
    raise TooLarge("beyond any float")


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
        self.complex = "i" in _symbols(term)
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
        if power is None and not isinstance(p, Fraction) and getattr(p, "imag", 0) == 0 and p == int(p):
            power = Fraction(int(p))
        if b == 0:
            if p.real < 0:
                raise Undefined("division by 0")
            return self.context.mpf(1 if p == 0 else 0)
        bits = abs(self.context.log(abs(b)) * abs(self._number(p))) * 1.45
        if bits > MAX_MAGNITUDE:
            raise TooLarge("a power of too many digits")
        if self.context is _context(0) and bits > 1000:
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
        near = self.context.nint(x.real)
        if abs(x.real - near) < self.context.mpf(10) ** -30:
            return near
        return self.context.floor(x.real) if name == "floor" else self.context.ceil(x.real)

    def _angle(self, name: str, x: Any) -> Any:
        c = self.context
        if name in ("arcsin", "arccos") and not self.complex and abs(x) > 1:
            raise Undefined("no angle has this sine")
        found = getattr(c, _TRIGONOMETRY[name])(x)
        if name in ("tan", "sec", "cot", "csc") and abs(found) > 1e12:
            raise Undefined("a pole")
        return found

    def _counted(self, name: str, parts: list[Any]) -> Any:
        c = self.context
        if any(abs(part) > 10**6 for part in parts):
            raise TooLarge("a factorial of too many digits")
        if c is _context(0) and any(abs(part) > 150 for part in parts):
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
