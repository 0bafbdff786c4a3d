"""What the next tokens of an expression are, told by a look and never by trying: nothing is consumed here."""

from collections.abc import Mapping, Sequence
from fractions import Fraction

from . import units
from .digits import number
from .scan import Token
from .terms import Number, Op, Term
from .vocabulary import ACCENTS, CALLED, CONSTANTS, FENCES, FUNCTIONS, GREEK, SEPARATORS

Partners = Mapping[int, int]
"""Place of each opening bracket -> place of its closing one."""


def starts_factor(tokens: Sequence[Token], partner: Partners, place: int, before: Term) -> bool:
    """Whether the token at `place` begins a factor that no sign joins. Two numbers side by side are no product."""
    token = tokens[place]
    if token.kind in ("num", "rep"):
        return not isinstance(before, Number) and tokens[place - 1].kind not in ("num", "rep")
    if token.kind == "word":
        return token.text not in ("mod",)
    if token.kind == "begin":
        return True
    if token.kind != "op":
        return False
    text = token.text
    if text in ("(", "[", "{", "|", *FENCES):
        return text != "|" or closing_bar(tokens, partner, place) is not None
    name = text[1:] if text.startswith("\\") else ""
    return bool(name) and (
        text in CONSTANTS
        or text.startswith("\\mathbb")
        or name in GREEK
        or name in ACCENTS
        or name in FUNCTIONS
        or text in ("\\frac", "\\binom", "\\ldots")
    )


def closing_bar(tokens: Sequence[Token], partner: Partners, start: int) -> int | None:
    """Place of the | that closes the one at `start`."""
    place = start + 1
    while place < len(tokens):
        if tokens[place].text == "|" and place > start + 1:
            return place
        place = partner.get(place, place) + 1
    return None


def is_expression(tokens: Sequence[Token], partner: Partners, start: int, close: int) -> bool:
    """Whether a bracket from `start` to `close` holds one expression: no separator, relation or words."""
    place = start + 1
    while place < close:
        token = tokens[place]
        word = token.kind == "word" and len(token.text) > 1 and token.text not in FUNCTIONS
        if (
            token.kind == "text"
            or (word and token.text in ("and", "or"))
            or (token.kind == "op" and token.text in SEPARATORS)
        ):
            return False
        if word and (
            len(token.text) > 3
            and token.text not in GREEK
            or place > start + 1
            and units.is_short(token.text)
        ):
            return False
        place = partner.get(place, place) + 1
    return close > start + 1


def fraction(tokens: Sequence[Token], place: int) -> tuple[Fraction, int] | None:
    r"""A proper fraction of two whole numbers behind a whole number, and how many tokens it takes: \frac{1}{2}, \frac12, 1/2."""
    ahead = tokens[place : place + 8]
    texts = [token.text for token in ahead]
    above = below = ""
    width = 0
    if texts[:1] == ["\\frac"] and texts[1:2] == ["{"] and texts[3:5] == ["}", "{"] and texts[6:7] == ["}"]:
        above, below, width = texts[2], texts[5], 7
    elif texts[:1] == ["\\frac"] and len(texts) > 1 and len(texts[1]) == 2 and texts[1].isdigit():
        above, below, width = texts[1][0], texts[1][1], 2
    elif len(ahead) > 2 and ahead[0].kind == ahead[2].kind == "num" and texts[1] == "/" and ahead[0].spaced:
        above, below, width = texts[0], texts[2], 3
    if not (above.isdigit() and below.isdigit() and 0 < int(above) < int(below)):
        return None
    return Fraction(int(above), int(below)), width


def minutes(tokens: Sequence[Token], place: int) -> tuple[list[Term], int]:
    r"""6' 52'' (or 6^\prime) behind degrees, each as its share of a degree, and how many tokens they take."""
    found: list[Term] = []
    start = place
    for sign, parts in (("'", 60), ("''", 3600)):
        texts = [token.text for token in tokens[place + 1 : place + 4]]
        if not texts or tokens[place].kind != "num":
            break
        width = 2 if texts[0] == sign else 4 if texts == ["^", "\\prime", "\\prime"] else 0
        if not width:
            break
        found.append(Op("/", (number(tokens[place].text), Number(Fraction(parts)))))
        place += width
    return found, place - start


def is_chosen_number(inner: Sequence[Token], tokens: Sequence[Token], place: int) -> bool:
    """Whether C_5^2 stands here, the number of choices: `inner` is the subscript, `place` behind it."""
    ahead = [token.text for token in tokens[place : place + 3]]
    digits = ahead[1:2] if ahead[1:2] != ["{"] else ahead[2:3]
    return (
        len(inner) == 1
        and inner[0].kind == "num"
        and ahead[:1] == ["^"]
        and digits[0:1] != []
        and digits[0].isdigit()
    )


def middle(tokens: Sequence[Token], partner: Partners) -> tuple[str, int]:
    r"""The \choose or \over between two halves, outside brackets, and its place; ("", 0): there is none."""
    for place, token in enumerate(tokens):
        name = {"\\choose": "binom", "\\over": "/"}.get(token.text, "")
        if name and not any(start < place < close for start, close in partner.items()):
            return name, place
    return "", 0


def is_call(tokens: Sequence[Token], place: int, word: str) -> bool:
    """Whether a bracket behind a word holds its arguments: f(x), and I(0), since nobody multiplies by nothing."""
    texts = [token.text for token in tokens[place : place + 3]]
    return texts[:1] == ["("] and (word in CALLED or (len(word) == 1 and texts == ["(", "0", ")"]))


def is_pair_of_numbers(tokens: Sequence[Token], place: int) -> bool:
    """Whether (5, 2) stands here, as in C(5, 2)."""
    ahead = tokens[place : place + 5]
    kinds = [token.kind if token.kind == "num" else token.text for token in ahead]
    return kinds == ["(", "num", ",", "num", ")"]


def is_inverse(tokens: Sequence[Token], place: int, word: str) -> bool:
    """Whether ^{-1}( stands here, as in f^{-1}(x)."""
    return word in CALLED and [token.text for token in tokens[place : place + 6]] == [
        "^",
        "{",
        "-",
        "1",
        "}",
        "(",
    ]


def is_index(tokens: Sequence[Token], place: int) -> bool:
    """Whether digits stick to the letter before, as in x1."""
    token = tokens[place] if place < len(tokens) else None
    return (
        token is not None
        and token.kind == "num"
        and not token.spaced
        and token.text.isdigit()
        and len(token.text) < 3
    )
