r"""Which option a text settles on, by its letter or by its text.

Three readings, in this order:
  1. the last claim ("the answer is (C)", "Answer: C", \boxed{C}), by the text of an option or a letter. What is denied,
     doubted or supposed is no claim;
  2. the last "option C is correct" or "I choose C";
  3. a whole answer, or a last line, that is nothing but an option.
A letter anywhere else, in a derivation, is no answer. A later claim takes back an earlier one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .claims import Claim, find_claims, plain
from .contract import shown
from .options import letter, opens_with, same_words

_BRACKETED = re.compile(r"\s*[(\[{<\"'“‘]\s*([A-Za-z])\s*[)\]}>\"'”’]")
# A bare letter may be a variable (E = mc^2), a word (A person), an initial (C. Darwin) or part of one (H-bond).
_BARE = re.compile(
    r"[\s\"'“‘(\[]*([A-Z])(?![\w'’])(?!\s*[=+*^<>≤≥≈∈|\\])(?!\s*/(?!\s?[A-Z](?![\w'’])))(?!\s?[-–−]\s?\w)"
)
_SMALL = re.compile(r"[\s\"'“‘(\[]*([a-z])(?=[\"'”’.)\]]*\s*(?:\n|\Z))")
_PHRASE_ENDS = re.compile(
    r"\s*(?:[.,;:!/&)\]}\"'”’>]|\n|\Z|(?:because|since|as|and|or|but|for|which|due|given|based)\b)",
    re.IGNORECASE,
)
_LIST_ENDS = re.compile(r"\s*(?:[.,;:)\]}\"'”’>/&]|\n|\Z|(?:and|or)\b)")
_JOINT = re.compile(
    r"[\"'”’]?\s*(?:,\s*(?:and|or)\b|,|/|&|;|\band\b|\bor\b)\s*(?:both|also|(?:options?|choices?)\b)?",
    re.IGNORECASE,
)
_JUDGED = re.compile(
    r"(?:\b(?:option|choice|statement|answer)\s+)(?:[(\[]\s*)?(?-i:([A-Z]))\s*[)\]]?(?![\w'’])[^.()\n]{0,80}?\s+"
    r"(?:is|would\s+be|must\s+be|should\s+be|seems\s+to\s+be)\s+(?:therefore\s+|thus\s+|clearly\s+)?(?:the\s+)?"
    r"(?:only\s+|most\s+(?:likely\s+)?)?(?:correct|right|best|accurate|appropriate|answer)\b"
    r"|[(\[]\s*(?-i:([A-Z]))\s*[)\]]\s+(?:is|must\s+be)\s+(?:therefore\s+|thus\s+|clearly\s+)?(?:the\s+)?(?:only\s+|most\s+)?"
    r"(?:correct|right|best|answer)\b",
    re.IGNORECASE,
)
_DENIED = re.compile(r"\b(?:not|n['’]t|incorrect|wrong|whether|if|neither)\b", re.IGNORECASE)
_CHOSEN = re.compile(
    r"\b(?:I|we)(?:['’](?:ll|d)|\s+(?:will|would))?\s+(?:choose|pick|select|go\s+with|opt\s+for)\s+"
    r"(?:the\s+)?(?:(?:options?|choices?|answer|letter)\s+)?",
    re.IGNORECASE,
)
_LINE = re.compile(
    r"\s*(?:(?:option|choice|answer)\s+)?(?:[(\[]\s*(?P<in>[A-Za-z])\s*[)\]]|(?P<bare>[A-Z])(?![\w'’]))"
    r"\s*(?P<stop>[.):,]?)\s*(?P<rest>.*?)\s*\Z",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Reading:
    """The letters that were read, several when one claim names several, and where, in words."""

    letters: tuple[str, ...]
    place: str


def read_options(text: str, options: Sequence[str] = ()) -> Reading | None:
    """What a text settles on; None: it names no option. Without `options` every letter counts.

    >>> read_options("(A) looks right, but the answer is (C), since x > 1.").letters
    ('C',)
    >>> read_options("The answer is A or B.").letters, read_options("In A = 5 the A is an area.")
    (('A', 'B'), None)
    """
    text = plain(text)
    known = {letter(place) for place in range(len(options) or 26)}
    for claim in reversed(find_claims(text)):
        letters = _at(text, claim, options)
        if letters and known.issuperset(letters):
            return Reading(letters, claim.words)
    for pattern in (_JUDGED, _CHOSEN):
        for said in reversed(list(pattern.finditer(text))):
            if _DENIED.search(said.group()) or _DENIED.search(text[max(0, said.start() - 20) : said.start()]):
                continue
            named = next((group for group in said.groups() if group), None)
            letters = (named,) if named else _letters_at(text, said.end())
            if letters and known.issuperset(letters):
                return Reading(letters, f"in {shown(' '.join(said.group().split()), 60)}")
    return _alone(text, options, known)


def _at(text: str, claim: Claim, options: Sequence[str]) -> tuple[str, ...]:
    """The letters of one claim; (): it names none."""
    if claim.inside is not None:
        return _whole(claim.inside.strip(), options) or _letters_at(claim.inside, 0)
    for start in (claim.said, claim.start):
        named = _by_text(text, start, options)
        if named:
            return named
    return () if claim.denied else _letters_at(text, claim.start)


def _letters_at(text: str, start: int) -> tuple[str, ...]:
    """The letter at a place, and those joined to it by commas, 'and', 'or'."""
    found = _BRACKETED.match(text, start) or _BARE.match(text, start) or _SMALL.match(text, start)
    if found is None:
        return ()
    bare = found.re is _BARE
    if bare and found[1] in "AI" and not _PHRASE_ENDS.match(text, found.end()):
        return ()
    letters = [found[1].upper()]
    while (joint := _JOINT.match(text, found.end())) is not None:
        following = _BRACKETED.match(text, joint.end()) or _BARE.match(text, joint.end())
        if following is None or (following.re is _BARE and not _LIST_ENDS.match(text, following.end())):
            break
        found = following
        letters.append(found[1].upper())
    return tuple(dict.fromkeys(letters))


def _by_text(text: str, start: int, options: Sequence[str]) -> tuple[str, ...]:
    """The option whose text comes next: the longest that fits, when no two do."""
    fitting = [
        place
        for place, option in enumerate(options)
        if not _is_letter(option) and opens_with(text[start : start + 2 * len(option) + 80], option)
    ]
    longest = max((len(options[place]) for place in fitting), default=0)
    best = [place for place in fitting if len(options[place]) == longest]
    return (letter(best[0]),) if len(best) == 1 else ()


def _whole(phrase: str, options: Sequence[str]) -> tuple[str, ...]:
    """The option that a phrase is, all of it: `C`, `(C)`, `C) Paris`, `Paris`."""
    by_text = [place for place, option in enumerate(options) if same_words(phrase, option)]
    if len(by_text) == 1 and not _is_letter(phrase):
        return (letter(by_text[0]),)
    line = _LINE.match(phrase)
    if line is None:
        return ()
    named = (line["in"] or line["bare"]).upper()
    place = ord(named) - ord("A")
    rest = line["rest"]
    if not rest or (place < len(options) and same_words(rest, options[place])):
        return (named,) if line["in"] or line["bare"].isupper() or len(phrase) <= 2 else ()
    return ()


def _is_letter(phrase: str) -> bool:
    """Whether a phrase is a letter, and so the name of an option rather than its text."""
    return len(phrase) == 1 and phrase.isalpha()


def _alone(text: str, options: Sequence[str], known: set[str]) -> Reading | None:
    """An answer that is an option and no more, or whose last line is."""
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return None
    letters = _whole(lines[-1], options)
    if letters and known.issuperset(letters):
        before = _whole(lines[-2], options) if len(lines) > 1 else ()
        if before and before != letters:
            return None  # the list of all options, once more
        return Reading(letters, "in the last line")
    opening = _LINE.match(lines[0])
    if (
        len(lines) == 1
        and opening is not None
        and opening["stop"]
        and (opening["in"] or opening["bare"].isupper())
    ):
        named = (opening["in"] or opening["bare"]).upper()
        if named in known:
            return Reading((named,), "at the beginning")
    return None
