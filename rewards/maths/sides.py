"""One side of a relation, or one item of a list: a value with the words and units around it."""

import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Literal

from . import units
from .building import signed
from .digits import number
from .numerals import spoken_number
from .parse import Parser
from .scan import UNIT_LETTERS, Token, matches
from .terms import (
    Based,
    Clock,
    Combination,
    Number,
    Op,
    Opaque,
    Quantity,
    Ratio,
    Symbol,
    Term,
    Unreadable,
    Words,
)
from .vocabulary import FUNCTIONS

Inside = Callable[[list[Token]], Term]
"""Reads what stands in a bracket."""
_SETS: dict[str, Literal["cup", "cap", "minus"]] = {"\\cup": "cup", "\\cap": "cap", "\\setminus": "minus"}
_CURRENCIES = {
    "\\$": "dollar",
    "\\euro": "euro",
    "\\pounds": "gbp",
    "\\yen": "yen",
    "\\rupee": "rupee",
    "Rs": "rupee",
}
_COUNTRIES = {"US", "USD", "AU", "HK", "NZ", "CA"}
_PERCENT = {"percent", "percents", "percentage", "pct", "per cent", "percentage points", "%"}
_DEGREES = {"degree", "degrees", "deg"}
_ORDINALS = {"th", "st", "nd", "rd"}
# Words behind a value that say more than what was counted: 'n is even', '5 at most'.
_CHANGES = re.compile(
    r"^(?:is|are|has|have|does|do|can|cannot|was|be)\b|\b(?:not|most|least|more|less|fewer|than|except|greater|smaller)\b"
)
_CLOSES = re.compile(
    r"(?:is|are) (?:the |our |my |an? )?(?:only |final |correct |right )?(?:answers?|solutions?|results?|values?|correct)\b"
)
_ENDS = {"\\rvert", ")", "}", "]", "\\}", "%", "\\%", "|", "!", "\\circ", "\\infty", "\\pi", "'"}
_CLOCK = re.compile(r"(\d{1,2}):(\d\d)(?::00)?([ap])?\.?(?:m\.?)?")
_HOUR = re.compile(r"(\d{1,2})([ap])\.?m\.?")
_BASED = re.compile(r"\(?(-?[0-9A-Z]+(?:\.\d+)?)\)?_\{?\(?(\d+|[a-z]+)\)?\}?")
_DOMAINS = {"all integers": "\\mathbb{Z}", "integers": "\\mathbb{Z}", "all rational numbers": "\\mathbb{Q}"}
_INFINITE = {
    "infinity": 1,
    "positive infinity": 1,
    "plus infinity": 1,
    "negative infinity": -1,
    "minus infinity": -1,
}


def clock(text: str) -> Clock | None:
    match = _CLOCK.fullmatch(text) or _HOUR.fullmatch(text)
    if match is None:
        return None
    groups = match.groups()
    hour, minute, half = (
        (groups[0], groups[1], groups[2]) if len(groups) == 3 else (groups[0], "0", groups[1])
    )
    if half is None and not text.endswith("m") or int(hour) > 24 or int(minute) > 59:
        return None
    return Clock(int(hour), int(minute), "am" if half == "a" else "pm" if half == "p" else "")


def spoken(tokens: list[Token]) -> str:
    return "".join(f"{' ' if token.spaced or token.kind == 'text' else ''}{token.text}" for token in tokens)


def words_of(tokens: list[Token]) -> Term | None:
    """Words that are no variables; None: short letters that may be a product, as in `xy`."""
    text = normal_words(spoken(tokens))
    counted = spoken_number(text)
    if counted is not None:
        return Number(counted)
    if text in _DOMAINS:
        return Symbol(_DOMAINS[text])
    if text in _INFINITE:
        return signed("+" if _INFINITE[text] > 0 else "-", Symbol("oo"))
    if not any(token.kind == "text" or len(token.text) > 1 for token in tokens):
        return None
    if any(token.kind == "text" for token in tokens) or len(tokens) > 1:
        return Words(text)
    word = tokens[0].text
    if len(word) > 3 and word.lower() not in FUNCTIONS and len(set(word)) < len(word) or len(word) > 5:
        return None if word in ("infinity",) else Words(text)
    return (
        Words(text) if word.lower() in ("yes", "no", "odd", "even", "true", "false", "none", "all") else None
    )


def side(tokens: list[Token], inside: Inside) -> Term:
    """One side of a relation: sets joined by \\cup, or a value with its unit; Opaque when it cannot be read."""
    try:
        return compound(tokens) or _ratio(tokens, inside) or _side(tokens, inside)
    except Unreadable:
        wordy = all(
            token.kind in ("word", "text", "num")
            or token.text in ("'", ".")
            or (token.text == "-" and not token.spaced)
            for token in tokens
        )
        if tokens and wordy and tokens[0].kind in ("word", "text") and len(tokens[0].text.strip()) > 2:
            return Words(normal_words(spoken(tokens)))
        return Opaque("".join(token.text for token in tokens))


def _ratio(tokens: list[Token], inside: Inside) -> Term | None:
    depths = depths_of(tokens)
    cuts = [k for k, token in enumerate(tokens) if not depths[k] and token.text == ":"]
    parts = list(between(tokens, cuts))
    return Ratio(tuple(side(part, inside) for part in parts)) if cuts and all(parts) else None


def compound(tokens: list[Token]) -> Term | None:
    """2 hours 15 minutes, in hours; None: it is no such thing."""
    kept = [token for token in tokens if token.text.strip() not in ("and", ",")]
    kinds = [token.kind for token in kept]
    plain = [token.text.strip().removesuffix(" and").strip(" ,") for token in kept]
    if len(kinds) < 4 or len(kinds) % 2 or kinds[::2] != ["num"] * (len(kinds) // 2):
        return None
    total = Fraction(0)
    first = units.measure(plain[1])
    for digits, unit in zip(plain[::2], plain[1::2], strict=True):
        measured = units.measure(unit)
        if first is None or measured is None or measured[0] != first[0]:
            return None
        total += number(digits).value * measured[1] / first[1]
    return Quantity(Number(total), plain[1].strip().lower())


def _side(tokens: list[Token], inside: Inside) -> Term:
    based = _BASED.fullmatch("".join(token.text for token in tokens).replace(" ", ""))
    if based is not None and re.search(r"\d", based[1]):
        base = int(based[2]) if based[2].isdigit() else int(spoken_number(based[2]) or 0)
        if not 2 <= base <= 36:
            return Opaque(based[0])
        return Based(based[1], base)
    depths = depths_of(tokens)
    for place in range(len(tokens) - 1, 0, -1):
        op = None if depths[place] else _set_sign(tokens, place)
        if op is not None:
            return Combination(op, _side(tokens[:place], inside), _side(tokens[place + 1 :], inside))
    if len(tokens) > 2 and tokens[0].text in _CURRENCIES and tokens[1].text == ".":
        tokens = [tokens[0], *tokens[2:]]
    if [token.text for token in tokens[-4:-2]] == ["^", "{"] and normal_words(tokens[-2].text) in _ORDINALS:
        tokens = tokens[:-4]
    if len(tokens) > 2 and tokens[0].text in _COUNTRIES and tokens[1].text == "\\$":
        tokens = tokens[1:]
    currency = [_CURRENCIES[token.text] for token in tokens if token.text in _CURRENCIES]
    tokens = [token for token in tokens if token.text not in _CURRENCIES]
    value, unit = _split_unit(tokens, bool(currency))
    term = Parser(value, inside).expression()
    if unit in _PERCENT:
        return Op("%", (term,))
    if unit in _DEGREES:
        return Op("deg", (term,))
    if unit in _ORDINALS or unit in ("radians", "radian", "rad"):
        return term
    unit = unit or (currency[0] if currency else "")
    return Quantity(term, unit) if unit else term


def _set_sign(tokens: list[Token], place: int) -> Literal["cup", "cap", "minus"] | None:
    token = tokens[place]
    if token.kind == "op" and token.text in _SETS:
        return _SETS[token.text]
    between = tokens[place - 1].text in (")", "]", "\\}") and [
        t.text for t in tokens[place + 1 : place + 2]
    ] in (["("], ["["], ["\\{"])
    return "cup" if token.kind == "word" and token.text in ("U", "u") and between else None


def _split_unit(tokens: list[Token], paid: bool) -> tuple[list[Token], str]:
    """The value and the words behind it."""
    texts = [token.text for token in tokens]
    if texts[-1:] in (["C"], ["F"]) and "\\circ" in texts[-3:]:  # degrees of heat, not of angles
        place = max(k for k, text in enumerate(texts) if text == "^") if "^" in texts else len(texts) - 2
        return tokens[:place], texts[-1].lower()
    if (
        len(texts) > 7
        and texts[-7:-5] == ["\\frac", "{"]
        and texts[-4:-2] == ["}", "{"]
        and tokens[-5].kind == tokens[-2].kind
    ):
        unit = f"{texts[-5].strip()}/{texts[-2].strip()}"
        if tokens[-5].kind in ("word", "text") and units.measure(unit) is not None:
            return tokens[:-7], unit.lower()
    for place in range(1, len(tokens)):
        if tokens[place].kind not in ("word", "text") or not _is_tail(tokens[place:]):
            continue
        before = tokens[place - 1]
        ends = before.kind != "op" or before.text in _ENDS
        if not ends and not (before.text == "^" and normal_words(tokens[place].text) in _ORDINALS):
            continue
        unit = (
            spoken(tokens[place:])
            .strip()
            .replace("{", "")
            .replace("}", "")
            .replace("\\cdot", "*")
            .strip(" .~")
        )
        alone = tokens[place].spaced and all(
            token.kind == "num" for token in tokens[:place]
        )  # '5 m', but '5m' is a product
        if (
            tokens[place].kind == "word"
            and not _is_word(unit)
            and not (
                alone and units.measure(unit) is not None and (paid or len(unit) > 1 or unit in UNIT_LETTERS)
            )
        ):
            continue
        if _CHANGES.search(unit) and not _CLOSES.match(unit):
            raise Unreadable(f"{unit!r} behind a value")
        value = tokens[: place - 1] if before.text == "^" else tokens[:place]
        return value, unit if len(unit) == 1 else unit.lower()
    return tokens, ""


def _is_word(unit: str) -> bool:
    """Whether plain letters behind a value are words rather than variables."""
    lower = unit.lower()
    if lower in _PERCENT or lower in _DEGREES or lower in _ORDINALS or units.is_short(unit):
        return True
    words = re.findall(r"[a-z]+", lower)
    prose = (
        len(words) > 1 and all(len(word) > 1 for word in words) and " ".join(words) == " ".join(lower.split())
    )
    return prose or bool(words) and len(words[0]) >= 4 and words[0] not in FUNCTIONS


def _is_tail(tokens: list[Token]) -> bool:
    """Words, with powers and strokes between them, to the end."""
    word, power = False, 0  # power: how far into ^{-2} it is
    for token in tokens:
        if token.kind in ("word", "text") and token.text not in FUNCTIONS or token.text.strip() == "min":
            word, power = True, 0
        elif word and token.text == "^":
            word, power = False, 1
        elif power and token.text in ("{", "-", "}"):
            power = 0 if token.text == "}" else power
        elif power and token.kind == "num":
            word = True
        elif token.text not in ("/", ".", ",", "\\cdot", "*", "'", '"') and not (word and token.text == "-"):
            return False
    return True


def depths_of(tokens: list[Token]) -> list[int]:
    """How many brackets each token is inside of; a closing bracket counts as inside."""
    depths = [0] * len(tokens)
    for start, close in matches(tokens).items():
        for place in range(start + 1, close + 1):
            depths[place] += 1
    return depths


def between(tokens: list[Token], cuts: list[int]) -> Iterator[list[Token]]:
    for start, end in zip([-1, *cuts], [*cuts, len(tokens)], strict=True):
        yield tokens[start + 1 : end]


def normal_words(text: str) -> str:
    """Words without case, articles, stops and LaTeX.

    >>> normal_words("The  Odd, numbers.")
    'odd numbers'
    """
    kept = re.sub(r"\\[a-zA-Z]+|[^\w\s%$/+-]", " ", text.lower()).split()
    return " ".join(word for word in kept if word not in ("the", "a", "an")) or " ".join(kept)
