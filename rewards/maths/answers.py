r"""Two answers as texts -> whether they are the same, and which step says so: the cheapest step first.

Word for word, then as plain numbers, then read and compared by the rules of `equal`. What these cannot tell is left to
math-verify (`symbolic`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from .equal import Comparison
from .families import same_families
from .names import has_opaque
from .normalise import plain, plain_number, same_text, tidy, without_text
from .reading import read
from .scan import MAX_CHARACTERS, scan
from .sides import normal_words
from .tails import inner_formula
from .terms import Listing, Opaque, Relation, Term, TooLarge, Unreadable, Words, renamed

_SPOKEN = re.compile(r"\s*[A-Za-z]{3,}[\w\s,.'!?-]*")
_CONDITION = re.compile(
    r"\b(?:for|where|when|if|with|such that|provided)\b(.*)|\(([^()]*(?:[<>=]|\\[lg]eq?|\\neq?)[^()]*)\)\s*\Z",
    re.DOTALL,
)
_QUANTIFIER = re.compile(r"^\s*(?:all|any|every|each|some|which)\b")
_INTEGER = re.compile(
    r"(?<![a-zA-Z\\])([a-zA-Z])\s*(?:\\in\s*\\?(?:mathbb|mathbf|Bbb)?\s*\{?\s*Z|∈\s*[ℤZ]|\$?\s*(?:\\text\{\s*)?is an? [a-z ]*integer)"
)
_GROUPED = re.compile(r"(?<![\d.])[1-9]\d{0,2}(?:,\d{3})+(?![\d])")
_DECIMAL_COMMA = re.compile(r"\A([-+]?(?:\d+(?=,(?:\d{2}|\d{4,})\D*\Z)|0(?=,\d{3}\D*\Z))),(\d+)")
_PRICE_COMMA = re.compile(r"(?<=\d),(?=\d{1,2}\s*(?:\\?[$%]|[€£]|\\euro))")
_LABEL = re.compile(
    r"\s*(?P<font>\\(?:text|textbf|textrm|mathrm|mathbf|mbox)\s*\{\s*)?\(?([A-J])\)\s*(?P<end>\})?(?:\\[ ,;]|\\q?quad(?![a-z])|~|\s)*(?=\S)"
)
_TURNS = re.compile(r"(?<![a-zA-Z\\])([klmn])\s*(?:\\cdot\s*)?(?:\\pi|π)|(?:\\pi|π)\s*([klmn])(?![a-zA-Z])")
_BETWEEN = re.compile(r"[\s,;、，]|\band\b|\$")
_KINDS = {"letters": re.compile(r"[A-H]"), "circles": re.compile(r"[①-⑳]"), "numbers": re.compile(r"\(\d\)")}
_CHOICE = re.compile(r"\(?([A-J])[).:]\s*\S|\(?([A-J])\)?[.:]?$")


@dataclass(frozen=True, slots=True)
class Verdict:
    """equal: None when nothing here can tell; step: what decided, for the reason."""

    equal: bool | None
    step: str


def compare(gold: str, answer: str, tolerance: Fraction | None = None) -> Verdict:
    r"""The verdict on two bare answers.

    >>> compare(r"\frac{1}{2}", "0.5"), compare("(1, 2)", "(2, 1)").equal, compare("∞)(", "½)(").equal
    (Verdict(equal=True, step='as numbers'), False, None)
    """
    if same_text(answer, gold):
        return Verdict(True, "word for word")
    if max(len(gold), len(answer)) > MAX_CHARACTERS:
        return Verdict(False, f"{len(answer)} characters, which is no answer")
    a, b = plain_number(gold), plain_number(answer)
    if a is not None and b is not None and (a == b or (tolerance is None and a.denominator == 1)):
        return Verdict(a == b, "as numbers")
    return _by_reading(gold, answer, tolerance)


def _by_reading(gold: str, answer: str, tolerance: Fraction | None) -> Verdict:
    unknown = Verdict(None, "")
    chosen = _choices(gold, answer)
    if chosen is not None:
        return Verdict(chosen, "as choices")
    gold, answer = _unlabelled(gold, answer), _unlabelled(answer, gold)
    spoken = [without_text(tidy(text)) for text in (gold, answer)]
    if all(_SPOKEN.fullmatch(text) for text in spoken) and normal_words(spoken[0]) == normal_words(spoken[1]):
        return Verdict(True, "as words")
    first: Verdict | None = None
    letters = _declared(gold) or _turning(gold), _declared(answer) or _turning(answer)
    declared = bool(_declared(gold) or _declared(answer))
    letters = letters if declared else ("", "")
    for expected in _readings(gold):
        for found in _readings(answer):
            if letters[0] and letters[1] and letters[0] != letters[1]:
                found = renamed(found, letters[1], letters[0])
            comparison = Comparison(tolerance)
            try:
                equal = comparison.same(expected, found)
            except TooLarge as error:
                return Verdict(False, f"too large to work out: {error}")
            if not equal and same_families(expected, found, declared):
                equal = comparison.by("as values of a running integer", True)
            verdict = Verdict(equal, comparison.step)
            if equal:
                return verdict if _same_conditions(gold, answer) else Verdict(False, "other conditions")
            first = verdict if first is None or equal is None else first
    if first is None or first.equal is None:
        if _same_signs(gold, answer):
            return Verdict(True, "sign for sign")
    return first or unknown


def _same_signs(gold: str, answer: str) -> bool:
    r"""Whether two answers that cannot be read are written with the same signs: `\\leq` and `≤`."""
    try:
        a, b = ([token.text.strip() for token in scan(tidy(text))] for text in (gold, answer))
    except Unreadable:
        return False
    return a == b and bool(a)


def _readings(text: str) -> Iterator[Term]:
    """What a text may stand for: commas divide thousands, or a list, or are decimal points."""
    text = tidy(inner_formula(text)) if "$" in text or "\\" in text else tidy(text)
    for split in (False, True) if _GROUPED.search(text) else (False,):
        try:
            yield read(text, split)
        except Unreadable:
            continue
    pointed = _PRICE_COMMA.sub(".", _DECIMAL_COMMA.sub(r"\1.\2", text))
    if pointed != text:
        try:
            yield read(pointed)
        except Unreadable:
            return


def _same_conditions(gold: str, answer: str) -> bool:
    """False when both say for which cases they hold, and in other numbers: 'for k > 2' and 'for k > 3'."""
    found = [_CONDITION.search(without_text(tidy(text))) for text in (gold, answer)]
    said = [match[1] or match[2] for match in found if match is not None]
    if len(said) < 2:
        return True
    numbers = [set(re.findall(r"\d+", text)) for text in said]
    if all(numbers) and numbers[0] != numbers[1]:
        return False
    try:
        first, second = (read(_QUANTIFIER.sub("", text).strip()) for text in said)
    except Unreadable:
        return True
    if not isinstance(first, Relation | Listing) or not isinstance(second, Relation | Listing):
        return True
    return Comparison().same(first, second) is not False or has_opaque(first) or has_opaque(second)


@lru_cache(maxsize=4096)
def _declared(text: str) -> str:
    r"""The letter that a text says to run over all integers, as in `2\pi k, k \in \mathbb{Z}`: which letter means nothing."""
    letters = set(_INTEGER.findall(text))
    return letters.pop() if len(letters) == 1 else ""


@lru_cache(maxsize=4096)
def _turning(text: str) -> str:
    r"""The letter that counts turns in a text that does not say so: k in k\pi."""
    letters = {one or other for one, other in _TURNS.findall(text)}
    return letters.pop() if len(letters) == 1 else ""


def _labels(text: str) -> tuple[str, frozenset[str]]:
    """The kind of labels that a text consists of, and which: 'AC' and 'A, C', '①③', '(1)(3)'; ('', none): other text."""
    pieces = [piece for piece in _BETWEEN.split(plain(text)) if piece]
    for kind, label in _KINDS.items():
        if len(pieces) == 1:  # a run of choices is in order; BAC is a name, or a ranking
            found = label.findall(pieces[0])
            listed = "".join(found) == pieces[0] and found == sorted(set(found))
        else:
            found = pieces
            listed = all(label.fullmatch(piece) for piece in pieces) and len(set(pieces)) == len(pieces)
        if found and listed:
            return kind, frozenset(found)
    return "", frozenset()


def _choices(gold: str, answer: str) -> bool | None:
    """'(B) 5' is the choice B; None: neither is a single letter, or one is no choice."""
    labels = _labels(gold), _labels(answer)
    if labels[0][0] and labels[0][0] == labels[1][0] and max(len(found) for _, found in labels) > 1:
        return labels[0][1] == labels[1][1]
    letters = [_CHOICE.match(plain(text)) for text in (gold, answer)]
    if None in letters or not any(match[2] for match in letters if match):
        return None
    first, second = (match[1] or match[2] for match in letters if match)
    return bool(first == second)


def _unlabelled(text: str, other: str) -> str:
    r"""\textbf{(C) } 15 as 15, beside an answer that is no choice."""
    label = _LABEL.match(text)
    if label is None or _LABEL.match(other) or label.end() == len(text.rstrip("} ")):
        return text
    return (label["font"] if label["font"] and not label["end"] else "") + text[label.end() :]


@lru_cache(maxsize=4096)
def can_be_read(text: str) -> bool:
    """Whether all of an answer is mathematics, or words, that these rules know."""
    return any(not has_opaque(term) for term in _readings(text))


@lru_cache(maxsize=4096)
def is_expression(text: str) -> bool:
    """Whether an answer is one formula, with no list or relation around what could not be read.

    math-verify compares what it understands of the rest, and takes x > 0 for all of it.
    """
    for term in _readings(text):
        return not isinstance(term, Listing | Words) or not has_opaque(term)
    return True


@lru_cache(maxsize=4096)
def is_prose(text: str) -> bool:
    """Whether a text is a sentence, which no rule can judge.

    >>> is_prose("More time is required for the round trip."), is_prose("New York"), is_prose("x + 1")
    (True, False, False)
    """
    try:
        term = read(tidy(text))
    except Unreadable:
        term = Opaque(text)
    return (
        isinstance(term, Words | Opaque)
        and len(re.findall(r"(?<![\\\w])[a-zA-Z]{2,}", without_text(text))) > 4
    )


__all__ = ["Verdict", "can_be_read", "compare", "is_expression", "is_prose", "same_text", "tidy"]
