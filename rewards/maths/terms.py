"""What an answer can be once it is read: an expression, or something made of expressions. Data only."""

from __future__ import annotations

from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Literal, cast


class Unreadable(Exception):
    """The text is no mathematics that `parse` knows; math-verify may still know it."""


class TooLarge(Exception):
    """To work the value out would take more than a verdict is worth: a tower of powers, a huge factorial."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it was written; 0.50 has the value 1/2, 2 decimals and 2 significant digits."""

    value: Fraction
    decimals: int | None = None
    """Places after the point that were written, a power of ten counted in; None: it is not written as a decimal."""
    significant: int = 0
    """Digits from the first that is not 0."""
    cut: bool = False
    """Written with dots behind, '0.33...': the digits go on."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """A variable or a constant: `x`, `x_{1}`, `pi`, `e`, `i`, `oo`, `R`."""

    name: str


@dataclass(frozen=True, slots=True)
class Op:
    """An operation or function: `+ * / ^ neg pm mp sqrt root log sin floor ! binom mod deg % call:f`, ..."""

    name: str
    args: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """Several terms. `list` and `set` have no order; `tuple` has one; `bracket` is [a, b], a closed interval or a list."""

    kind: Literal["list", "set", "tuple", "bracket"]
    items: tuple[Term, ...]
    joint: Literal[",", "and", "or"] = ","


@dataclass(frozen=True, slots=True)
class Interval:
    """Real numbers between two ends."""

    low: Term
    high: Term
    low_closed: bool
    high_closed: bool


@dataclass(frozen=True, slots=True)
class Combination:
    """Sets joined by `cup`, `cap` or `minus`, from the left."""

    op: Literal["cup", "cap", "minus"]
    left: Term
    right: Term


@dataclass(frozen=True, slots=True)
class Relation:
    """sides[0] ops[0] sides[1] ops[1] ...; ops are `= < <= > >= != ~ in notin ==`."""

    sides: tuple[Term, ...]
    ops: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Builder:
    """{variable | condition}."""

    variable: Term
    condition: Term


@dataclass(frozen=True, slots=True)
class Matrix:
    rows: tuple[tuple[Term, ...], ...]


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value with the words behind it: a unit, or what was counted."""

    value: Term
    unit: str


@dataclass(frozen=True, slots=True)
class Based:
    """Digits in a base that is written as a subscript."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day; `half` is `am`, `pm` or not said."""

    hour: int
    minute: int
    half: Literal["am", "pm", ""] = ""


@dataclass(frozen=True, slots=True)
class Ratio:
    parts: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Words:
    """Words, in lower case, without articles and stops."""

    text: str


@dataclass(frozen=True, slots=True)
class Opaque:
    """A part that cannot be read; it equals nothing but the same text."""

    text: str


Term = (
    Number
    | Symbol
    | Op
    | Listing
    | Interval
    | Combination
    | Relation
    | Builder
    | Matrix
    | Quantity
    | Based
    | Clock
    | Ratio
    | Words
    | Opaque
)


def renamed(term: Term, old: str, new: str) -> Term:
    """The same term with another letter for one of its variables."""
    if isinstance(term, Symbol):
        return Symbol(new) if term.name == old else term
    parts = (_renamed(getattr(term, field.name), old, new) for field in fields(term))
    return cast(Term, type(term)(*parts))  # type: ignore[arg-type]


def _renamed(part: object, old: str, new: str) -> object:
    if isinstance(part, tuple):
        return tuple(_renamed(inner, old, new) for inner in part)
    return renamed(part, old, new) if isinstance(part, Term) else part
