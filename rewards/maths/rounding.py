"""When a decimal stands for what it was rounded from."""

from fractions import Fraction

from .terms import Number, Quantity, Term
from .units import measure

GOLD_DIGITS = 3
"""A gold decimal of so many digits or more may be a rounded one."""
ANSWER_DIGITS = 4
"""An answer in decimals must be this exact to stand for a fraction or a root."""
_MONEY = ("dollar", "euro", "rupee", "yuan", "yen")


def is_rounded(written: Term, meant: Fraction, digits: int) -> bool:
    """Whether a decimal of `digits` digits or more is `meant`, rounded or cut off, which no decimal could say exactly."""
    if not isinstance(written, Number) or written.decimals is None:
        return False
    if written.significant < (2 if written.cut else digits) or not -20 < written.decimals < 40:
        return False
    if meant.denominator < 2**40 and _ends(meant.denominator):
        # Both are decimals: one is the other's rounding only from the sixth place on, as floats are printed.
        noise = written.significant >= 15 and abs(written.value - meant) <= abs(meant) * Fraction(1, 10**14)
        return noise or (
            min(written.decimals, written.significant) >= 6
            and round(meant, written.decimals) == written.value
        )
    scaled, whole = (
        abs(meant) * Fraction(10) ** written.decimals,
        abs(written.value) * Fraction(10) ** written.decimals,
    )
    if (meant < 0) != (written.value < 0):
        return False
    return -Fraction(1, 2) <= whole - scaled <= Fraction(1, 2) or whole == int(scaled)


def rounded_to(measured: Term, answer: Term) -> bool:
    """Whether the answer is the measured decimal, rounded to fewer places but 3 digits or more: 2.653 m and 2.65."""
    answer = answer.value if isinstance(answer, Quantity) and measure(answer.unit) is None else answer
    if not isinstance(measured, Number) or not isinstance(answer, Number):
        return False
    if measured.decimals is None or answer.decimals is None or not 0 < answer.decimals < measured.decimals:
        return False
    return answer.significant >= GOLD_DIGITS and abs(
        measured.value - answer.value
    ) * 10**answer.decimals <= Fraction(1, 2)


def is_measured(quantity: Quantity) -> bool:
    """Whether it was measured rather than counted or paid: in units of physics."""
    known = measure(quantity.unit)
    return known is not None and known[0] not in ("", "month", *_MONEY)


def _ends(denominator: int) -> bool:
    """Whether a fraction with this denominator is a finite decimal."""
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return denominator == 1
