r"""The `numeric` verifier: one number, near enough to the gold one.

Read are 1,234.5 and 10{,}000; 1.2e-3 and 1.2 \times 10^{-3} and 10^5; 3/4 and \frac{3}{4}; and what follows the last `=`.
"""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

from rlkit.errors import require
from rlkit.types import Prompt, Score

from .claims import unmarked
from .contract import shown
from .maths.extract import find_answer

MAX_EXPONENT = 10_000
"""A larger power of ten is refused before it is worked out."""
_COLUMNS = ("tolerance", "error")
"""Columns of a data row that may hold the greatest absolute difference allowed (OlympiadBench: error), as `math` reads them."""
_DIGITS = r"(?:\d{1,3}(?:(?:,|\{,\}|\\,)\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_POWER = r"10\s*(?:\^|\*\*)\s*[{(]?\s*(?P<NAME>[-−+]?\d+)\s*[)}]?"
_NUMBER = re.compile(
    rf"(?P<sign>[-−+]?)\s*[$€£]?\s*(?:"
    rf"\\[dt]?frac\s*\{{\s*(?P<over>[-−]?(?:{_DIGITS}))\s*\}}\s*\{{\s*(?P<under>{_DIGITS})\s*\}}"
    rf"|(?:{_POWER.replace('NAME', 'bare')}(?![\d.]))"
    rf"|(?P<digits>{_DIGITS})(?:[eE](?P<e>[-−+]?\d+)(?!\w)|\s*(?:\\times|\\cdot|×|·|\*|x)\s*{_POWER.replace('NAME', 'ten')})?"
    rf"(?:\s*/\s*(?P<divisor>{_DIGITS})(?![\w/]))?)"
    rf"\s*(?P<percent>\\?%|per\s?cent\b)?\s*(?P<unit>[^\d=,;]*)"
)
_SPACE = re.compile(r"\\[,;:! ](?!\d)|~")
_EQUALS = re.compile(r"[=≈≃]|\\approx|\\simeq")


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it was written."""

    value: Fraction
    """Without the percent sign: 62.5 for 62.5%."""
    percent: bool
    unit: str


@dataclass(frozen=True, slots=True)
class NumericVerifier:
    """1.0 when the number in the answer is the gold one, up to an absolute or a relative difference; 0.0 when not, or none is read.

    >>> verify = NumericVerifier(relative=0.01)
    >>> verify(Prompt(id="a", token_ids=[], reference="8.7e8"), r"so \\boxed{8.69 \\times 10^8 m}").value
    1.0
    """

    value_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    tolerance: float = 0.0
    """Greatest absolute difference; a row's column `tolerance` or `error` goes before it."""
    relative: float = 1e-6
    """Greatest difference as a share of the gold number; the larger of the two counts."""
    units: Literal["ignore", "same"] = "ignore"
    """`same`: what follows the number must be what follows the gold one, word for word; nothing is converted."""
    percent: Literal["either", "number", "fraction"] = "either"
    """50% is `fraction` 0.5 or `number` 50; either: a percent sign that only one side has may be read both ways."""

    def __post_init__(self) -> None:
        require(0 <= self.tolerance < math.inf, "numeric tolerance", self.tolerance, "0 or more")
        require(0 <= self.relative < math.inf, "numeric relative", self.relative, "0 or more")

    def __call__(self, prompt: Prompt, text: str) -> Score:
        if prompt.reference is None or not prompt.reference.strip():
            return Score(None, reason="no gold answer")
        found_gold = find_answer(prompt.reference) if "\\boxed" in prompt.reference else None
        gold = read_number(found_gold.text if found_gold is not None else prompt.reference)
        if gold is None:
            return Score(None, reason=f"the gold answer {shown(prompt.reference)} is no number")
        answer = find_answer(text)
        number = read_number(answer.text) if answer is not None else None
        if answer is None or number is None:
            read = (
                "no answer found"
                if answer is None
                else f"read {shown(answer.text)} {answer.place}, which is no number"
            )
            return Score(0.0, reason=f"{read}; the gold answer is {shown(prompt.reference)}")
        read = f"read {shown(answer.text)} {answer.place}"
        if self.units == "same" and number.unit != gold.unit:
            return Score(
                0.0, reason=f"{read}, of unit {shown(number.unit)}; the gold unit is {shown(gold.unit)}"
            )
        off = min(
            abs(one - other) for one in self._values(number, gold) for other in self._values(gold, number)
        )
        allowed = max(self._absolute(prompt), Fraction(self.relative) * abs(self._values(gold, number)[0]))
        near = "near enough to" if off <= allowed else "too far from"
        words = f"off by {_short(off)}, {_short(allowed)} allowed" if off else "equal"
        return Score(float(off <= allowed), reason=f"{read}, {near} {shown(prompt.reference)} ({words})")

    def _values(self, number: Number, other: Number) -> tuple[Fraction, ...]:
        if not number.percent or self.percent == "number":
            return (number.value,)
        if self.percent == "fraction":
            return (number.value / 100,)
        return (number.value,) if other.percent else (number.value, number.value / 100)

    def _absolute(self, prompt: Prompt) -> Fraction:
        for column in _COLUMNS:
            try:
                return abs(Fraction(str(prompt.row[column])))
            except (KeyError, ValueError, ZeroDivisionError):
                continue
        return Fraction(self.tolerance)


def read_number(text: str) -> Number | None:
    r"""The number that a short text states: the first behind its last `=`; None: there is none.

    >>> read_number(r"x = -1.5 \times 10^{-3} m").value, read_number("$12{,}000"), read_number("about five")
    (Fraction(-3, 2000), Number(value=Fraction(12000, 1), percent=False, unit=''), None)
    """
    text = _SPACE.sub(" ", text[:1000])
    sides = [side for side in _EQUALS.split(text) if re.search(r"\d", side)]
    found = _NUMBER.search(sides[-1]) if sides else None
    if found is None:
        return None
    try:
        value = _value(found)
    except (ZeroDivisionError, OverflowError):
        return None
    unit = " ".join(unmarked(found["unit"]).replace("{", "").replace("}", "").split()).rstrip(".")
    return Number(-value if found["sign"] in ("-", "−") else value, found["percent"] is not None, unit)


def _value(found: "re.Match[str]") -> Fraction:
    if found["over"] is not None:
        return _plain(found["over"]) / _plain(found["under"])
    exponent = int((found["bare"] or found["ten"] or found["e"] or "0").replace("−", "-"))
    if abs(exponent) > MAX_EXPONENT:
        raise OverflowError
    value = (_plain(found["digits"]) if found["digits"] else Fraction(1)) * Fraction(10) ** exponent
    return value / _plain(found["divisor"]) if found["divisor"] else value


def _plain(digits: str) -> Fraction:
    return Fraction(digits.replace("{,}", "").replace("\\,", "").replace(",", "").replace("−", "-"))


def _short(value: Fraction) -> str:
    try:
        return f"{float(value):.3g}"
    except OverflowError:
        return "more than 1e308"
