"""The options of a multiple-choice question, from its row or its text, and when a phrase is one of them."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from .claims import unmarked

_LINE = re.compile(r"^[ \t]*(?:\(([A-Z])\)|([A-Z])[.):])[ \t]*", re.MULTILINE)
_INLINE = re.compile(r"\(([A-Z])\)\s*")
_BULLET = re.compile(r"^[ \t]*[-*•][ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*|[^\w\s]|_")
_ENDS = set(".,;:!?)]}\"'”’")
_GOES_ON = set(
    "because since as which that so and or but for given due based is was has where when who".split()
)


def letter(place: int) -> str:
    """The letter of the option at a place: 0 is A."""
    return chr(ord("A") + place)


def option_texts(value: object) -> tuple[str, ...]:
    """The options of a row's column: a list, a mapping of letters, that of ARC ({text: [...]}), or one of these as JSON; else ().

    >>> option_texts(["Rome", "Paris"]), option_texts({"text": ["4", "5"], "label": ["A", "B"]}), option_texts(3)
    (('Rome', 'Paris'), ('4', '5'), ())
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return lettered(value)
    if isinstance(value, Mapping):
        texts = value.get("text")
        if isinstance(texts, Sequence) and not isinstance(texts, str):
            return tuple(map(str, texts))
        letters = [letter(place) for place in range(len(value))]
        return tuple(str(value[name]) for name in letters) if set(letters) == set(value) else ()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(map(str, value))
    return ()


@lru_cache(maxsize=4096)
def lettered(question: str) -> tuple[str, ...]:
    r"""The options that a question lists by letter, from A on; (): it lists none.

    >>> lettered("Where?\n(A) Rome\n(B) Paris"), lettered("Where? (A) Rome (B) Paris"), lettered("Who?")
    (('Rome', 'Paris'), ('Rome', 'Paris'), ())
    """
    for pattern in (_LINE, _INLINE):
        marks = list(pattern.finditer(question))
        starts = [place for place, mark in enumerate(marks) if _name(mark) == "A"]
        for start in reversed(starts):
            run = marks[start : start + 1]
            for mark in marks[start + 1 :]:
                if _name(mark) == letter(len(run)):
                    run.append(mark)
            if len(run) > 1:
                ends = [mark.start() for mark in run[1:]] + [len(question)]
                return tuple(question[mark.end() : end].strip() for mark, end in zip(run, ends, strict=True))
    return ()


def _name(mark: "re.Match[str]") -> str:
    return next(group for group in mark.groups() if group)


@lru_cache(maxsize=4096)
def bulleted(question: str) -> tuple[str, ...]:
    r"""The options that a question lists without letters; (): it lists none.

    >>> bulleted("Is it?\nOptions:\n- Yes\n- No")
    ('Yes', 'No')
    """
    _, found, tail = question.rpartition("Options:")
    return tuple(_BULLET.findall(tail)) if found else ()


def tokens(phrase: str) -> tuple[str, ...]:
    """Words, numbers and signs, without case, without an article in front or a stop behind.

    >>> tokens("The Eiffel Tower.") == tokens("eiffel  tower"), tokens("1,000 km")
    (True, ('1000', 'km'))
    """
    found = [
        token.replace(",", "") if token[0].isdigit() else token
        for token in _TOKEN.findall(unmarked(phrase).casefold())
    ]
    while found and found[0] in ("the", "a", "an") and len(found) > 1:
        found.pop(0)
    while found and found[-1] in (".", ",", ";", ":", "!"):
        found.pop()
    return tuple(found)


_known = lru_cache(maxsize=4096)(tokens)
"""The same for options and gold answers, which are met again."""


def same_words(one: str, other: str) -> bool:
    """Whether two phrases are the same but for case, white space, an article in front and a stop behind."""
    if len(one) > 4 * len(other) + 200:
        return False
    meant = _known(other)
    return bool(meant) and tokens(one) == meant


def opens_with(text: str, phrase: str) -> bool:
    """Whether a text begins with a phrase and the phrase ends there: 'Paris, since ...', and not 'Paris Hilton' or '1/2' for '1'.

    >>> opens_with("Paris, since it", "Paris"), opens_with("Paris Hilton", "Paris"), opens_with("1/2", "1")
    (True, False, False)
    """
    meant = _known(phrase)
    said = tokens(text.lstrip().split("\n")[0])
    if not meant or said[: len(meant)] != meant:
        return False
    after = said[len(meant)] if len(said) > len(meant) else "."
    return after in _ENDS or after in _GOES_ON
