r"""Answers with a running integer: \frac{\pi}{6} + k\pi and n\pi - \frac{5\pi}{6} are the same angles, 4k - 1 and 4m + 3 the same numbers.

Each part of an answer is a family offset + step k; all families of an answer are laid out over their common period.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from .equations import agreed, negative, replaced
from .evaluation import operations, symbols
from .names import binding
from .terms import Listing, Number, Op, Relation, Symbol, Term, TooLarge
from .value import branches, value

_COUNTERS = {"k", "l", "m", "n"}
"""Letters that count turns where nothing is said about them."""
_MAX_TURNS = 60
_CLOSE = 1e-9


@dataclass(frozen=True, slots=True)
class Family:
    """offset + step * any integer; step > 0."""

    offset: float
    step: float


def same_families(gold: Term, answer: Term, declared: bool) -> bool | None:
    r"""Whether two answers run through the same numbers; None: one of them does not run.

    declared: one of the texts says that its letter is an integer; else both must be multiples of \pi or degrees, in
    different letters
    """
    try:
        first, second = list(_parts(gold)), list(_parts(answer))
        if not declared and (
            letters_of(first) & letters_of(second) or not all(map(_turns, (*first, *second)))
        ):
            return None
        families = [[_family(part) for part in parts] for parts in (first, second)]
    except TooLarge:
        return None
    known = [[family for family in found if family is not None] for found in families]
    if families != known or not all(known):
        return None
    period = _period([family.step for found in known for family in found])
    if period is None:
        return None
    rests = [sorted(_rests(found, period)) for found in known]
    return len(rests[0]) == len(rests[1]) and all(abs(a - b) < _CLOSE for a, b in zip(*rests, strict=True))


def letters_of(parts: list[Term]) -> frozenset[str]:
    return frozenset().union(*(symbols(part) for part in parts if isinstance(part, Op | Symbol)))


def _parts(term: Term) -> Iterator[Term]:
    """The formulas of an answer, without names, lists and \\pm."""
    if isinstance(term, Relation):
        bound = binding(term, weak=True)
        if term.ops == ("==",):
            yield term
        elif bound is not None:
            yield from _parts(bound[1])
        else:
            yield Listing("tuple", ())
    elif isinstance(term, Listing) and term.kind in ("list", "set"):
        for item in term.items:
            yield from _parts(item)
    else:
        yield from branches(term)


def _turns(term: Term) -> bool:
    letters = symbols(term) if isinstance(term, Op) else frozenset()
    return len(letters) == 1 and letters <= _COUNTERS and _has_angle(term)


def _has_angle(term: Term) -> bool:
    if isinstance(term, Symbol):
        return term.name == "pi"
    return isinstance(term, Op) and ("deg" in operations(term) or any(_has_angle(part) for part in term.args))


def _family(term: Term) -> Family | None:
    if isinstance(term, Relation) and isinstance(term.sides[1], Op) and term.sides[1].name == "pmod":
        offset, step = value(term.sides[1].args[0]), value(term.sides[1].args[1])
        return Family(offset, abs(step)) if offset is not None and step else None
    letters = symbols(term) if isinstance(term, Op | Symbol) else frozenset()
    if len(letters) != 1:
        return None
    (letter,) = letters
    zero, one, two = (replaced(term, letter, Number(Fraction(k))) for k in (0, 1, 2))
    slope = Op("+", (one, negative(zero)))
    if not agreed(Op("+", (two, negative(one))), slope, True):
        return None
    offset, step = value(zero), value(slope)
    if offset is None or not step or not math.isfinite(offset) or not math.isfinite(step):
        return None
    return Family(offset, abs(step))


def _period(steps: list[float]) -> float | None:
    """The least common multiple of the steps; None: they have none, or it is long."""
    ratios = [Fraction(step / steps[0]).limit_denominator(_MAX_TURNS) for step in steps]
    if any(
        abs(float(ratio) * steps[0] - step) > _CLOSE * step for ratio, step in zip(ratios, steps, strict=True)
    ):
        return None
    above = math.lcm(*(ratio.numerator for ratio in ratios))
    below = math.gcd(*(ratio.denominator for ratio in ratios))
    turns = Fraction(above, below)
    return float(turns) * steps[0] if turns <= _MAX_TURNS * min(ratios) else None


def _rests(families: list[Family], period: float) -> list[float]:
    """All members in one period, as shares of it, without repetitions; 0.999... is 0."""
    found: list[float] = []
    for family in families:
        for turn in range(round(period / family.step)):
            rest = ((family.offset + turn * family.step) / period) % 1.0
            rest = 0.0 if 1.0 - rest < _CLOSE else rest
            if all(abs(rest - other) > _CLOSE for other in found):
                found.append(rest)
    return found
