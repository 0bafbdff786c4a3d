r"""The text of a whole answer -> one term: lists, conditions, labels, relations, units and words around expressions.

What is an expression goes to `parse.Parser`. A side that it cannot read becomes Opaque, so that the rest can still be
compared; nothing is equal because both sides are Opaque, unless they are the same text.
"""

import re
from functools import lru_cache
from typing import Literal

from . import units
from .building import rows
from .pieces import RELATIONS, aligned, groups_of, inline, pieces_of, shared_relation, word_of
from .scan import Token, matches, scan
from .sides import between, clock, compound, depths_of, normal_words, side, spoken, words_of
from .terms import (
    Builder,
    Interval,
    Listing,
    Op,
    Opaque,
    Quantity,
    Relation,
    Symbol,
    Term,
    Unreadable,
    Words,
)

_CONDITIONS = set(
    "for where when whenever if with such provided because since given assuming as while on over".split()
)
_FILLER = set(
    "only just exactly about approximately approx roughly around the is are equals equal answer value total so thus hence "
    "therefore we get have an a our final all and either both namely".split()
)
_TABLES = {"cases", "aligned", "align", "gather", "gathered", "dcases", "rcases"}
_SIGNS = {
    sign: sign
    for sign in ("<", ">", "=", "\\le", "\\ge", "\\ne", "\\approx", "+", "-", "*", "/", "\\in", "\\subset")
}
_SIGNS |= {"\\times": "*", "\\cdot": "*", "\\div": "/", "\\subseteq": "\\subseteq", "\\notin": "\\notin"}
_POINTS = set("ABDEMNOPQRST")
_CAPITAL = re.compile(r"[A-Z]")


@lru_cache(maxsize=8192)
def read(text: str, split_thousands: bool = False) -> Term:
    r"""The term that an answer stands for. Raises Unreadable. Cached: golds come back with every rollout of a group.

    >>> read("x = 5"), read(r"5 \text{ cm}")
    (Relation(sides=(Symbol(name='x'), Number(value=Fraction(5, 1), decimals=None, significant=1, cut=False)), ops=('=',)), Quantity(value=Number(value=Fraction(5, 1), decimals=None, significant=1, cut=False), unit='cm'))
    """
    tokens = list(inline(scan(text, split_thousands)))
    while (
        tokens
        and tokens[-1].text
        in (".", ",", ";", ":", "!", "?", "\\cr", "\\quad", '"', "\\ldots", "\\square", "^")
        and (tokens[-1].text != "!" or len(tokens) < 2 or tokens[-2].kind == "text")
    ):
        tokens.pop()
    if not tokens:
        raise Unreadable("nothing")
    if len(tokens) == 1 and tokens[0].text in _SIGNS:  # the answer of 'which sign belongs here?'
        return Words(f"sign {_SIGNS[tokens[0].text]}")
    try:
        return _statement(tokens)
    except RecursionError:
        raise Unreadable("nested too deep") from None


def _is_mathematics(tokens: list[Token]) -> bool:
    spoken = tokens[0].kind == "text" or (tokens[0].kind == "word" and len(tokens[0].text) > 1)
    return not spoken and (tokens[0].kind != "word" or len(tokens) > 1)


def _last_word(token: Token) -> str:
    words = token.text.strip(" ,.;:").lower().split() if token.kind in ("word", "text") else []
    return words[-1] if words and "not" not in words else ""


def _statement(tokens: list[Token]) -> Term:
    if not tokens:
        raise Unreadable("nothing")
    tokens = _without_remark(tokens)
    depths = depths_of(tokens)
    table = [k for k, token in enumerate(tokens) if token.kind == "begin" and token.text in _TABLES]
    if table and tokens[-1].kind == "end" and matches(tokens)[table[0]] == len(tokens) - 1:
        lines = tokens[table[0] + 1 : -1]
        cases = _cases(rows(lines) if tokens[-1].text.endswith("cases") else aligned(lines))
        if not table[0]:
            return cases
        return (
            Relation((side(tokens[: table[0] - 1], inside), cases), ("=",))
            if tokens[table[0] - 1].text == "="
            else Opaque("cases")
        )
    quantified = _quantified(tokens, depths)
    if quantified is not None:
        return quantified
    pieces, joints = pieces_of(tokens, depths)
    pieces, joints = _answers(pieces, joints)
    if len(pieces) == 1:
        return item(pieces[0])
    if compound(tokens) is not None:
        return item(tokens)
    for outer in (";", "\\cr", "or", "and"):
        if outer in joints and len(set(joints)) > 1:
            groups = groups_of(pieces, joints, outer)
            lengths = {len(group) for group in groups}
            nested = [[item(piece) for piece in group] for group in groups]
            if outer == ";" or (
                len(lengths) == 1 and lengths != {1} and all(_binds(t) for g in nested for t in g)
            ):
                inner = [g[0] if len(g) == 1 else Listing("list", tuple(g)) for g in nested]
                return inner[0] if len(inner) == 1 else Listing("list", tuple(inner), "or")
    joint: Literal[",", "and", "or"] = "or" if "or" in joints else "and" if "and" in joints else ","
    return Listing("list", tuple(shared_relation([item(piece) for piece in pieces])), joint)


def _without_remark(tokens: list[Token]) -> list[Token]:
    """'5 (cm)' and '5 (as required)' without the words in brackets."""
    place = len(tokens) - 1
    while place and tokens[place - 1].kind in ("word", "text"):
        place -= 1
    said = " ".join(token.text for token in tokens[place:-1]).strip()
    if place < 2 or tokens[-1].text != ")" or tokens[place - 1].text != "(" or len(said) < 2:
        return tokens
    words = (
        tokens[place].kind == "text" or (len(said) > 3 and place < len(tokens) - 2) or units.is_short(said)
    )
    return tokens[: place - 1] if words and tokens[place - 2].kind != "word" else tokens


def _labelled_point(tokens: list[Token]) -> Term | None:
    r"""A(1, 2) and \text{centre } (1, 2): a point with its name. C(5, 2) is a number of choices."""
    label, closes = tokens[0], matches(tokens).get(1)
    named = label.kind == "text" or (label.kind == "word" and label.text in _POINTS)
    if not named or closes != len(tokens) - 1 or [token.text for token in tokens[1:2]] != ["("]:
        return None
    point = item(tokens[1:])
    if not isinstance(point, Listing) or point.kind != "tuple":
        return None
    name: Term = Symbol(label.text) if label.kind == "word" else Words(normal_words(label.text))
    return Relation((name, point), ("=",))


def _quantified(tokens: list[Token], depths: list[int]) -> Term | None:
    r"""\forall x > 0, x^2 > 0: the quantifier, what it runs over, and what holds there."""
    if tokens[0].text not in ("\\forall", "\\exists"):
        return None
    for place, token in enumerate(tokens):
        if not depths[place] and (
            token.text in (",", ":", "\\quad") or token.text.strip() in ("such that", "s.t.")
        ):
            if 1 < place < len(tokens) - 1:
                domain, rest = tokens[1:place], tokens[place + 1 :]
                return Listing("tuple", (Words(tokens[0].text[1:]), item(domain), _statement(rest)))
    return None


def _cases(lines: list[list[list[Token]]]) -> Term:
    """The rows of a brace: equations, or values with their conditions."""
    found: list[Term] = []
    for row in lines:
        cells = [_bare_condition(cell) for cell in row]
        filled = [cell for cell in cells if cell]
        found.append(
            _statement(filled[0])
            if len(filled) == 1
            else Listing("tuple", tuple(_statement(cell) for cell in filled))
        )
    return found[0] if len(found) == 1 else Listing("list", tuple(found))


def _bare_condition(cell: list[Token]) -> list[Token]:
    while cell and (word_of(cell[0]) in _CONDITIONS or cell[0].text == ","):
        cell = cell[1:]
    while cell and cell[-1].text in (",", ";", "."):
        cell = cell[:-1]
    return cell


def _binds(term: Term) -> bool:
    return isinstance(term, Relation) and term.ops == ("=",)


def _answers(pieces: list[list[Token]], joints: list[str]) -> tuple[list[list[Token]], list[str]]:
    r"""Without conditions: 'where n is an integer', 'for all x', 'k \in \mathbb{Z}', and what is listed behind them.

    A piece behind a condition is another answer only when it begins as the first one does: f(x) = 0 for ..., f(x) = x for ...
    """
    kept: list[list[Token]] = []
    links: list[str] = []
    conditional = False
    for place, piece in enumerate(pieces):
        if place and (_is_domain(piece) or (conditional and not _is_like(piece, pieces[0]))):
            continue
        answer = _without_condition(piece, first=not kept)
        if answer and len(answer) < len(piece) and isinstance(item(answer), Opaque):
            answer = piece
        conditional = conditional or len(answer) < len(piece)
        if answer:
            links += [joints[place - 1]] if kept else []
            kept.append(answer)
    return kept, links


def _is_like(piece: list[Token], first: list[Token]) -> bool:
    return piece[0].text == first[0].text and "=" in [token.text for token in piece]


def _without_condition(tokens: list[Token], first: bool) -> list[Token]:
    depths = depths_of(tokens)
    end = len(tokens)
    for place, token in enumerate(tokens):
        if (place or not first) and not depths[place]:
            spoken = first and all(
                before.kind in ("word", "text") for before in tokens[:place]
            )  # 'the values for a are'
            if (word_of(token) in _CONDITIONS and not spoken) or token.text in ("\\forall", "\\because"):
                end = place
                break
    if end and tokens[end - 1].text == ")" and end > 2:
        start = max(k for k in range(end - 1) if depths[k] == 0)
        inner = [token.text for token in tokens[start + 1 : end - 1]]
        if start > 0 and tokens[start].text == "(" and any(sign in RELATIONS for sign in inner):
            end = start
    return tokens[:end]


def _is_domain(piece: list[Token]) -> bool:
    r"""Whether a piece only says what a letter runs over: `k \in \mathbb{Z}`, `n \ge 1` is none."""
    texts = [token.text for token in piece]
    runs = "\\in" in texts and "=" not in texts and texts.index("\\in") < 6
    return runs and any(text.startswith("\\mathbb") or text in ("Z", "N", "R") for text in texts[-4:])


def inside(tokens: list[Token]) -> Term:
    """What stands in a bracket: items with commas between, or `x | condition`."""
    if not tokens:
        return Listing("list", ())
    depths = depths_of(tokens)
    for place, token in enumerate(tokens):
        if place and not depths[place] and token.kind == "op" and token.text in ("|", "\\mid", ":"):
            if token.text != "|" or not any(t.text == "|" for t in tokens[place + 1 :]):
                return Builder(item(tokens[:place]), _statement(tokens[place + 1 :]))
            break
    pieces, _ = pieces_of(tokens, depths)
    return item(pieces[0]) if len(pieces) == 1 else Listing("list", tuple(item(piece) for piece in pieces))


def item(tokens: list[Token]) -> Term:
    """One answer of a list: a relation, a labelled value, a ratio, a time, words, or a value."""
    while (
        len(tokens) > 1
        and word_of(tokens[0]) in _FILLER
        and not (tokens[0].kind == "word" and len(tokens[0].text) == 1)
    ):
        tokens = tokens[1:]
        while len(tokens) > 1 and tokens[0].text in (",", ":"):
            tokens = tokens[1:]
    point = _labelled_point(tokens) if len(tokens) > 5 else None
    if point is not None:
        return point
    text = "".join(token.text for token in tokens).replace(" ", "")
    time = clock(text.lower())
    if time is not None:
        return time
    if all(token.kind in ("word", "text") or token.text in ("-", "'", ",", ".", '"') for token in tokens):
        words = words_of(tokens)
        if words is not None:
            return words
    depths = depths_of(tokens)
    cuts = [
        k
        for k, token in enumerate(tokens)
        if not depths[k] and _last_word(token) in ("is", "are", "equals", "be", "was")
    ]
    if (
        cuts
        and cuts[-1] < len(tokens) - 1
        and (cuts[-1] or " " in tokens[0].text.strip())
        and _is_mathematics(tokens[cuts[-1] + 1 :])
    ):
        return item(tokens[cuts[-1] + 1 :])
    cuts = [k for k, token in enumerate(tokens) if not depths[k] and token.text in ("|", "\\mid")]
    if len(cuts) == 1 and cuts[0] == 1 and tokens[0].kind == "word" and len(tokens) > 3:
        return Builder(item(tokens[:1]), item(tokens[2:]))
    if len(tokens) > 4 and tokens[-1].text == ")" and tokens[-3].text in ("mod", "\\mod", "\\bmod", "\\pmod"):
        tokens = [*tokens[:-4], Token("op", "\\pmod"), Token("op", "{"), tokens[-2], Token("op", "}")]
        depths = depths_of(tokens)
    cuts = [
        k
        for k, token in enumerate(tokens)
        if not depths[k] and token.text in ("\\Rightarrow", "\\Leftrightarrow", "\\to")
    ]
    if cuts and cuts[-1] + 1 < len(tokens):
        return item(tokens[cuts[-1] + 1 :])
    cuts = [
        k
        for k, token in enumerate(tokens)
        if not depths[k] and (token.text == ":" or token.text in RELATIONS)
    ]
    if cuts and 0 < cuts[0] < len(tokens) - 1 and tokens[cuts[0]].text == ":":
        label = tokens[: cuts[0]]
        choice = (
            len(label) == 1
            and _CAPITAL.fullmatch(label[0].text.strip())
            and tokens[cuts[0] + 1].kind != "word"
        )
        if (
            choice
            or all(
                token.kind in ("word", "text") or (k and token.kind == "num") for k, token in enumerate(label)
            )
            and len(spoken(label).strip()) > 1
        ):
            return Relation((Words(normal_words(spoken(label))), item(tokens[cuts[0] + 1 :])), ("=",))
    cuts = [
        k
        for k, token in enumerate(tokens)
        if not depths[k] and token.kind == "op" and token.text in RELATIONS
    ]
    if not cuts:
        return side(tokens, inside)
    sides = list(between(tokens, cuts))
    modular = any(token.text in ("\\pmod", "\\bmod", "mod") for token in tokens)
    ops = ["=" if tokens[k].text == "\\equiv" and not modular else RELATIONS[tokens[k].text] for k in cuts]
    if not sides[0]:
        if len(sides) == 2 and ops[0] in ("=", "~", "in"):
            return side(sides[1], inside)
        if len(sides) == 2 and sides[1] and ops[0] in ("<", "<=", ">", ">="):
            bound, infinity = side(sides[1], inside), Symbol("oo")
            if ops[0][0] == ">":
                return Interval(bound, infinity, ops[0] == ">=", False)
            return Interval(Op("neg", (infinity,)), bound, False, ops[0] == "<=")
        raise Unreadable("a relation without a left side")
    if not sides[-1] and len(sides) > 2 or (len(sides) == 2 and not sides[1] and ops[0] == "="):
        sides, ops = sides[:-1], ops[:-1]
    if not all(sides):
        raise Unreadable("a relation without a side")
    if not ops:
        return side(sides[0], inside)
    return Relation(tuple(_without_words(side(part, inside)) for part in sides), tuple(ops))


def _without_words(term: Term) -> Term:
    """`x \\ge 5 is the solution` without the words; a unit stays."""
    if isinstance(term, Quantity) and " " in term.unit and units.measure(term.unit) is None:
        return term.value
    return term
