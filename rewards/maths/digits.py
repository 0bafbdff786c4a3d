"""Numbers as they are written: 0.50, 1.5e3, 0.33..., 0.1\\overline{6}."""

import re
from fractions import Fraction

from .terms import Number, Unreadable

MAX_DIGITS = 2000
MAX_EXPONENT = 10_000
_REPEAT = re.compile(r"(\d*)\.(\d*)(?:(?:\\overline|\\bar|\\dot)\s*\{?|\()(\d+)[})]?")


def number(text: str) -> Number:
    """A number of digits, with a point, a power of ten or dots behind.

    >>> number("0.50"), number("1.5e3").value
    (Number(value=Fraction(1, 2), decimals=2, significant=2, cut=False), Fraction(1500, 1))
    """
    digits = re.sub(r"(?:\.{3}|\\[lc]?dots)$", "", text)
    cut = digits != text
    if len(digits) > MAX_DIGITS:
        raise Unreadable(f"{len(digits)} digits")
    mantissa, _, exponent = digits.lower().partition("e")
    if exponent and abs(int(exponent)) > MAX_EXPONENT:
        raise Unreadable(f"a power of ten of {exponent}")
    whole, point, places = mantissa.partition(".")
    significant = len((whole + places).lstrip("0"))
    decimals = len(places) - int(exponent or 0) if point or exponent else None
    if cut and decimals is None:
        raise Unreadable("an integer that goes on")
    return Number(Fraction(digits if whole or not point else f"0{digits}"), decimals, significant, cut)


def repeating(text: str) -> Number:
    r"""A repeating decimal: 0.1\overline{6} is 1/6.

    >>> repeating(r"0.1\overline{6}").value
    Fraction(1, 6)
    """
    match = _REPEAT.fullmatch(text)
    if match is None or len(text) > MAX_DIGITS:
        raise Unreadable(text)
    whole, start, again = match.groups()
    shift = 10 ** len(start)
    value = Fraction(int(whole or 0)) + Fraction(int(start or 0), shift)
    return Number(value + Fraction(int(again), (10 ** len(again) - 1) * shift))
