"""What a relation says of what: x = 5 and f(x) = 2x name something, x^2 + y^2 = 1 does not."""

import re

from .equations import agreed
from .evaluation import symbols
from .rational import Undefined, exact
from .terms import (
    Builder,
    Combination,
    Interval,
    Listing,
    Number,
    Op,
    Opaque,
    Quantity,
    Ratio,
    Relation,
    Symbol,
    Term,
    TooLarge,
    Words,
    renamed,
)

_OPERATORS = re.compile(r"\\(?:lim|int|iint|sum|prod|frac\{d|max|min|sup|inf)(?![a-z])")


def has_opaque(term: Term) -> bool:
    """Whether a part of it could not be read."""
    if isinstance(term, Opaque):
        return True
    if isinstance(term, Relation):
        return any(has_opaque(part) for part in term.sides)
    if isinstance(term, Listing):
        return any(has_opaque(part) for part in term.items)
    if isinstance(term, Interval):
        return has_opaque(term.low) or has_opaque(term.high)
    if isinstance(term, Combination):
        return has_opaque(term.left) or has_opaque(term.right)
    if isinstance(term, Builder):
        return has_opaque(term.variable) or has_opaque(term.condition)
    return isinstance(term, Quantity) and has_opaque(term.value)


def is_name(term: Term, weak: bool) -> bool:
    """Whether a left side only names what is right of it: x, f(x), AB, (x, y); weak: any formula without a number."""
    if isinstance(term, Words):
        return True
    if isinstance(term, Symbol):
        return term.name not in ("pi", "i", "oo")
    if isinstance(term, Listing | Ratio):
        return all(is_name(part, weak) for part in (term.items if isinstance(term, Listing) else term.parts))
    if not isinstance(term, Op):
        return False
    if term.name.startswith("call:") or term.name == "prime":
        return True
    if term.name == "abs":
        return is_name(term.args[0], weak)
    if (
        term.name == "*"
        and len(term.args) == 2
        and isinstance(term.args[0], Symbol)
        and isinstance(term.args[1], Number)
    ):
        return True  # P(1); two times P is written 2P
    if term.name == "*" and len(term.args) > 1 and all(isinstance(part, Symbol) for part in term.args):
        names = [part.name for part in term.args if isinstance(part, Symbol)]
        return (
            weak
            or all(name[0].isupper() or name.startswith("\\") for name in names)
            or len(names) == 2
            and names[1] in "xtnk"
        )
    return weak and bool(symbols(term)) and not _has_number(term)


def _has_number(term: Term) -> bool:
    return isinstance(term, Number) or (isinstance(term, Op) and any(_has_number(part) for part in term.args))


def defined(term: Term) -> frozenset[str]:
    """The letters that a name defines: x, and of f(x) the f."""
    if isinstance(term, Listing):
        return frozenset().union(*(defined(part) for part in term.items))
    if isinstance(term, Op) and term.name == "*" and isinstance(term.args[0], Symbol):
        return frozenset((term.args[0].name,))
    return frozenset((term.name,)) if isinstance(term, Symbol) else frozenset()


def free_letters(term: Term) -> frozenset[str]:
    if isinstance(term, Listing | Ratio):
        parts = term.items if isinstance(term, Listing) else term.parts
        return frozenset().union(*(free_letters(part) for part in parts))
    return symbols(term) if isinstance(term, Op | Symbol) else frozenset()


def letters_of(relation: Relation) -> frozenset[str]:
    return frozenset().union(*(free_letters(part) for part in relation.sides))


def _vanishing_sum(first: Term, last: Term) -> bool:
    """a + b - c = 0 names nothing 0: it is an equation."""
    zero = isinstance(last, Number) and not last.value
    return zero and isinstance(first, Op) and first.name == "+" and len(first.args) > 2


def binding(relation: Relation, weak: bool = False) -> tuple[Term, Term] | None:
    """What is named and what it is said to be; None: an equation between variables."""
    first, last = relation.sides[0], relation.sides[-1]
    if relation.ops == ("in",):
        return first, last
    if set(relation.ops) != {"="}:
        return None
    if _vanishing_sum(first, last):
        return None
    if weak and len(relation.ops) > 1 and not isinstance(last, Opaque | Words):
        return first, last  # a chain ends with what it shows
    if is_name(first, weak) and not defined(first) & free_letters(last):
        return first, last
    if isinstance(first, Opaque) and _OPERATORS.match(first.text):
        return first, last
    if isinstance(last, Symbol) and is_name(last, False) and last.name not in free_letters(first):
        return last, first
    if not free_letters(first) and not free_letters(last) and not isinstance(last, Opaque | Words):
        return first, last
    return None


def _argument(name: Term) -> str:
    """The x of f(x), where it is one letter."""
    if (
        isinstance(name, Op)
        and (name.name.startswith("call:") or name.name == "*")
        and isinstance(name.args[-1], Symbol)
    ):
        return name.args[-1].name if len(name.args) == (2 if name.name == "*" else 1) else ""
    return ""


def with_argument(name: Term, bound: tuple[Term, Term]) -> tuple[Term, Term]:
    """f(n) = n + 1 as f(x) = x + 1, when f(x) is what the other side is about."""
    wanted, written = _argument(name), _argument(bound[0])
    if not wanted or not written or wanted == written or wanted in free_letters(bound[1]):
        return bound
    return renamed(bound[0], written, wanted), renamed(bound[1], written, wanted)


def conflict(a: Term, b: Term) -> bool:
    """Whether two names are of different things: x = 5 is not y = 5, and f(5) = 1 is not f(9) = 1."""
    if (
        isinstance(a, Op)
        and isinstance(b, Op)
        and (a.name.startswith("call:") or b.name.startswith("call:") or a.name == b.name)
    ):
        return a.name == b.name and len(a.args) == len(b.args) and agreed(a, b, True) is False
    if isinstance(a, Listing) and isinstance(b, Listing) and len(a.items) == len(b.items):
        return any(conflict(x, y) for x, y in zip(a.items, b.items, strict=True))
    if not (isinstance(a, Symbol) and isinstance(b, Symbol)):
        return False
    (one, _, first), (other, _, second) = a.name.partition("_"), b.name.partition("_")
    if one.lower() != other.lower():
        return True
    numbered = (first.isdigit() and second.isdigit()) or max(len(first), len(second)) < 3
    return bool(first and second) and first != second and numbered


def is_false(relation: Relation) -> bool:
    """Whether it equates two numbers that differ, as in 14 + 10 + 5 = 30."""
    if set(relation.ops) != {"="} or not all(isinstance(part, Number | Op) for part in relation.sides):
        return False
    try:
        values = [exact(part) for part in relation.sides]
    except (Undefined, TooLarge):
        return False
    decimal = any(isinstance(part, Number) and part.decimals is not None for part in relation.sides)
    return not decimal and len({value for value in values if value is not None}) > 1


def chained(term: Term) -> Term:
    """x = y = 2 as x = 2, y = 2."""
    if not isinstance(term, Relation) or len(term.ops) < 2 or set(term.ops) != {"="}:
        return term
    if not all(isinstance(part, Symbol) for part in term.sides[:-1]):
        return term
    return Listing("list", tuple(Relation((name, term.sides[-1]), ("=",)) for name in term.sides[:-1]))


def approximations(term: Term) -> list[Term] | None:
    """`A ~ 1.36` as A and 1.36, without names; None: nothing is approximate."""
    if not isinstance(term, Relation) or "~" not in term.ops:
        return None
    cut = term.ops.index("~")
    before = Relation(term.sides[: cut + 1], term.ops[:cut]) if cut else term.sides[0]
    kept = [] if is_name(before, False) else [before]
    return [*kept, term.sides[-1]]


def unconditional(term: Term) -> Term:
    """n = 2^k, k >= 1 as n = 2^k: what only limits the letters of the first part is left out."""
    if not isinstance(term, Listing) or term.kind != "list" or len(term.items) < 2 or term.joint == "or":
        return term
    first, *rest = term.items
    if not isinstance(first, Relation) or first.ops != ("=",):
        return term
    letters = free_letters(first.sides[-1])
    for part in rest:
        limits = isinstance(part, Relation) and set(part.ops) <= {"<", "<=", ">", ">=", "!=", "in"}
        if not limits or not isinstance(part, Relation) or not letters_of(part) <= letters:
            return term
    return first


def formula(term: Term) -> Term:
    r"""{x | x = 2k\pi, k \in Z} and {2k\pi | k \in Z} as 2k\pi."""
    if (
        isinstance(term, Listing)
        and term.kind == "set"
        and len(term.items) == 1
        and isinstance(term.items[0], Builder)
    ):
        return formula(term.items[0])
    if not isinstance(term, Builder):
        return term
    condition = term.condition
    if (
        isinstance(condition, Relation)
        and condition.ops == ("=",)
        and condition.sides[0] == _variable(term.variable)
    ):
        return condition.sides[1]
    if isinstance(condition, Relation) and isinstance(
        term.variable, Listing
    ):  # {(x, y) | x + y = 1} is the equation
        return condition
    domain = (
        isinstance(condition, Relation)
        and condition.ops == ("in",)
        and isinstance(condition.sides[1], Symbol)
    )
    return term.variable if domain and isinstance(term.variable, Op) else term


def _variable(term: Term) -> Term:
    return term.sides[0] if isinstance(term, Relation) and term.ops == ("in",) else term
