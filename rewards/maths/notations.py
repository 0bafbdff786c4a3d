"""Words, times of day, ratios, and numbers in other bases."""

from fractions import Fraction

from .comparer import Comparer
from .reals import is_set
from .terms import Based, Clock, Listing, Number, Op, Ratio, Symbol, Term, Words

_SAME = (
    (
        "does not exist",
        "dne",
        "doesn't exist",
        "doesn t exist",
        "do not exist",
        "it does not exist",
        "no such number exists",
    ),
    ("undefined", "not defined", "is undefined", "is not defined"),
    (
        "infinitely many",
        "infinitely many solutions",
        "infinite",
        "infinite number of solutions",
        "infinite solutions",
    ),
    ("cannot be determined", "not enough information", "it cannot be determined", "cannot determine"),
    ("impossible", "not possible", "it is impossible", "it is not possible"),
    ("no", "no it is not", "it is not", "false"),
    ("yes", "yes it is", "it is", "true"),
)
_EMPTY = Listing("set", ())


def compare_words(c: Comparer, gold: Term, answer: Term) -> bool | None:
    if isinstance(gold, Words) and isinstance(answer, Words):
        return c.by("as words", _meaning(gold.text) == _meaning(answer.text))
    letters = {
        part.text if isinstance(part, Words) else part.name.lower()
        for part in (gold, answer)
        if isinstance(part, Words | Symbol)
    }
    if len(letters) == 1 and isinstance(gold, Words | Symbol) and isinstance(answer, Words | Symbol):
        return c.by("as words", True)
    if is_set(gold) or is_set(answer) or _EMPTY in (gold, answer):
        return c.sets(gold, answer)
    return c.by("as words", False)


def compare_clocks(c: Comparer, gold: Term, answer: Term) -> bool | None:
    a, b = _clock(gold), _clock(answer)
    if a is None or b is None:
        return c.by("as times of day", False)
    if a.half and b.half:
        return c.by("as times of day", (a.hour % 12, a.minute, a.half) == (b.hour % 12, b.minute, b.half))
    if max(a.hour, b.hour) > 12:
        a, b = _on_24_hours(a), _on_24_hours(b)
        return c.by("as times of day", (a.hour, a.minute) == (b.hour, b.minute))
    return c.by("as times of day", (a.hour % 12, a.minute) == (b.hour % 12, b.minute))


def compare_ratios(c: Comparer, gold: Term, answer: Term) -> bool | None:
    a, b = _ratio(gold), _ratio(answer)
    if a is None or b is None or len(a) != len(b):
        return c.by("as ratios", False)
    if any(isinstance(part, Number) and not part.value for part in (*a, *b)):  # 3:00 is no ratio
        return c.by("as ratios", c.all_same(iter(zip(a, b, strict=True))))
    pairs = ((Op("*", (x, b[0])), Op("*", (y, a[0]))) for x, y in zip(a[1:], b[1:], strict=True))
    return c.by("as ratios", c.all_same(pairs))


def compare_based(c: Comparer, gold: Term, answer: Term) -> bool | None:
    """Digits in another base are other digits; without a base they are taken to be in that of the gold answer."""
    if isinstance(gold, Based) and isinstance(answer, Based):
        return c.by(
            "as digits", gold.base == answer.base and gold.digits.lstrip("0") == answer.digits.lstrip("0")
        )
    based, plain = (gold, answer) if isinstance(gold, Based) else (answer, gold)
    assert isinstance(based, Based)
    digits = (
        isinstance(plain, Number) and plain.decimals is None and str(plain.value) == based.digits.lstrip("0")
    )
    return c.by("as digits", digits)


def _meaning(words: str) -> str:
    """Words without plurals; those that say the same of a problem without a value are one."""
    return next((said[0] for said in _SAME if words in said), _singular(words))


def _singular(words: str) -> str:
    return " ".join(word.removesuffix("s") if len(word) > 3 else word for word in words.split())


def _clock(term: Term) -> Clock | None:
    if isinstance(term, Ratio) and len(term.parts) == 2:
        numbers = [
            part.value for part in term.parts if isinstance(part, Number) and part.value.denominator == 1
        ]
        if len(numbers) == 2 and 0 <= numbers[0] <= 24 and 0 <= numbers[1] < 60:
            return Clock(int(numbers[0]), int(numbers[1]))
    return term if isinstance(term, Clock) else None


def _on_24_hours(time: Clock) -> Clock:
    if not time.half:
        return time
    return Clock(time.hour % 12 + 12 * (time.half == "pm"), time.minute)


def _ratio(term: Term) -> tuple[Term, ...] | None:
    """a : b as its parts; a fraction or number as a : 1."""
    if isinstance(term, Ratio):
        return term.parts
    if isinstance(term, Op) and term.name == "/":
        return term.args
    return (term, Number(Fraction(1))) if isinstance(term, Number | Op | Symbol) else None
