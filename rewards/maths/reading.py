r"""The text of a whole answer -> one term: lists, conditions, labels, relations, units and words around expressions.

What is an expression goes to `parse.Parser`. A side that it cannot read becomes Opaque, so that the rest can still be
compared; nothing is equal because both sides are Opaque, unless they are the same text.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

from . import units
from .building import rows
from .scan import Token, matches, scan
from .sides import between, clock, compound, depths_of, normal_words, side, spoken, words_of
from .terms import (
    Builder,
    Listing,
    Opaque,
    Quantity,
    Relation,
    Term,
    Unreadable,
    Words,
)
from .vocabulary import FUNCTIONS

RELATIONS = {
    **{"=": "=", "<": "<", ">": ">", "\\le": "<=", "\\ge": ">=", "\\ne": "!=", "\\approx": "~", "\\sim": "~"},
    **{"\\in": "in", "\\notin": "notin", "\\equiv": "==", "\\subset": "in", "\\subseteq": "in"},
}
_CONDITIONS = set(
    "for where when whenever if with such provided because since given assuming as while on over".split()
)
_FILLER = set(
    "only just exactly about approximately approx roughly around the is are equals equal answer value total so thus hence "
    "therefore we get have an a our final all and either both namely".split()
)
_TABLES = {"cases", "aligned", "align", "gathered", "dcases", "rcases"}
_CAPITAL = re.compile(r"[A-Z]")
_JOINED = re.compile(r"(?:(.+?)[\s,]+(and|or)|(and|or)\s+(.+))")
_CHOICE = re.compile(r"\(?[A-Z]\)?[.:]?")
_STRONGEST = [";", "or", "and", "\\cr", ",", "\\quad"]


@lru_cache(maxsize=8192)
def read(text: str, split_thousands: bool = False) -> Term:
    r"""The term that an answer stands for. Raises Unreadable. Cached: golds come back with every rollout of a group.

    >>> read("x = 5"), read(r"5 \text{ cm}")
    (Relation(sides=(Symbol(name='x'), Number(value=Fraction(5, 1), decimals=None, significant=1, cut=False)), ops=('=',)), Quantity(value=Number(value=Fraction(5, 1), decimals=None, significant=1, cut=False), unit='cm'))
    """
    tokens = list(_inline(scan(text, split_thousands)))
    while (
        tokens
        and tokens[-1].text
        in (".", ",", ";", ":", "!", "?", "\\cr", "\\quad", '"', "\\ldots", "\\square", "^")
        and (tokens[-1].text != "!" or len(tokens) < 2 or tokens[-2].kind == "text")
    ):
        tokens.pop()
    if not tokens:
        raise Unreadable("nothing")
    try:
        return _statement(tokens)
    except RecursionError:
        raise Unreadable("nested too deep") from None


def _inline(tokens: list[Token]) -> Iterator[Token]:
    r"""\text{13} and \text{(A)} are 13 and (A)."""
    for place, token in enumerate(tokens):
        content = token.text.strip()
        if token.kind != "text":
            yield token
        elif not content:
            continue
        elif re.search(r"\d|\$", content) or (_CHOICE.fullmatch(content) and place == 0):
            yield from scan(content)
        elif content.endswith(":") and len(content) > 2:
            yield from (Token("text", content[:-1], token.spaced), Token("op", ":"))
        elif content in FUNCTIONS and content != "min":
            yield Token("word", content, token.spaced)
        elif (joint := _JOINED.fullmatch(content)) is not None:
            yield from (Token("text", part, token.spaced) for part in joint.groups() if part)
        elif re.fullmatch(r"[^\w\s]+", content):
            yield Token("op", content, token.spaced)
        elif content in ("i", "e", "x", "y", "n", "N", "Z", "R", "Q") and place == 0:
            yield Token("word", content, token.spaced)
        else:
            yield token


def _word_of(token: Token) -> str:
    """The first word of a token, or ''."""
    if token.kind not in ("word", "text"):
        return ""
    words = token.text.strip(" ,.;:").lower().split()
    return words[0] if words else ""


def _is_mathematics(tokens: list[Token]) -> bool:
    spoken = tokens[0].kind == "text" or (tokens[0].kind == "word" and len(tokens[0].text) > 1)
    return not spoken and (tokens[0].kind != "word" or len(tokens) > 1)


def _last_word(token: Token) -> str:
    words = token.text.strip(" ,.;:").lower().split() if token.kind in ("word", "text") else []
    return words[-1] if words and "not" not in words else ""


def _statement(tokens: list[Token]) -> Term:
    depths = depths_of(tokens)
    table = [k for k, token in enumerate(tokens) if token.kind == "begin" and token.text in _TABLES]
    if table and tokens[-1].kind == "end" and matches(tokens)[table[0]] == len(tokens) - 1:
        cases = _cases(tokens[table[0] + 1 : -1])
        if not table[0]:
            return cases
        return (
            Relation((side(tokens[: table[0] - 1], inside), cases), ("=",))
            if tokens[table[0] - 1].text == "="
            else Opaque("cases")
        )
    pieces, joints = _pieces(tokens, depths)
    pieces, joints = _answers(pieces, joints)
    if len(pieces) == 1:
        return item(pieces[0])
    if compound(tokens) is not None:
        return item(tokens)
    for outer in (";", "\\cr", "or", "and"):
        if outer in joints and len(set(joints)) > 1:
            groups = _groups(pieces, joints, outer)
            lengths = {len(group) for group in groups}
            nested = [[item(piece) for piece in group] for group in groups]
            if outer == ";" or (
                len(lengths) == 1 and lengths != {1} and all(_binds(t) for g in nested for t in g)
            ):
                inner = [g[0] if len(g) == 1 else Listing("list", tuple(g)) for g in nested]
                return inner[0] if len(inner) == 1 else Listing("list", tuple(inner), "or")
    joint: Literal[",", "and", "or"] = "or" if "or" in joints else "and" if "and" in joints else ","
    return Listing("list", tuple(item(piece) for piece in pieces), joint)


def _cases(tokens: list[Token]) -> Term:
    """The rows of a brace: equations, or values with their conditions."""
    found: list[Term] = []
    for row in rows(tokens):
        cells = [_bare_condition(cell) for cell in row]
        filled = [cell for cell in cells if cell]
        found.append(
            _statement(filled[0])
            if len(filled) == 1
            else Listing("tuple", tuple(_statement(cell) for cell in filled))
        )
    return found[0] if len(found) == 1 else Listing("list", tuple(found))


def _bare_condition(cell: list[Token]) -> list[Token]:
    while cell and (_word_of(cell[0]) in _CONDITIONS or cell[0].text == ","):
        cell = cell[1:]
    while cell and cell[-1].text in (",", ";", "."):
        cell = cell[:-1]
    return cell


def _binds(term: Term) -> bool:
    return isinstance(term, Relation) and term.ops == ("=",)


def _groups(pieces: list[list[Token]], joints: list[str], outer: str) -> list[list[list[Token]]]:
    groups = [[pieces[0]]]
    for joint, piece in zip(joints, pieces[1:], strict=True):
        if joint == outer:
            groups.append([piece])
        else:
            groups[-1].append(piece)
    return groups


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
            if (_word_of(token) in _CONDITIONS and not spoken) or token.text in ("\\forall", "\\because"):
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


def _pieces(tokens: list[Token], depths: list[int]) -> tuple[list[list[Token]], list[str]]:
    """The parts between separators outside brackets, and the separators; 'and' and 'or' beside a comma win."""
    pieces: list[list[Token]] = []
    joints: list[str] = []
    current: list[Token] = []
    pending = ""
    for token, depth in zip(tokens, depths, strict=True):
        joint = "" if depth else _joint(token)
        if not joint:
            if pending and pieces and not current:
                joints.append(pending)
                pending = ""
            current.append(token)
            continue
        if current:
            pieces.append(current)
            current = []
        pending = min(pending or joint, joint, key=_STRONGEST.index)
    if current:
        pieces.append(current)
    if not pieces:
        raise Unreadable("separators alone")
    return pieces, joints


def _joint(token: Token) -> str:
    if token.kind == "op":
        return {"\\wedge": "and", "\\vee": "or", "&": "and"}.get(
            token.text, token.text if token.text in _STRONGEST else ""
        )
    word = token.text.strip(" ,.;:~").lower() if token.kind in ("text", "word") else ""
    return {"and": "and", "or": "or", "y": "" if token.kind == "word" else "and"}.get(word, "")


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
    pieces, _ = _pieces(tokens, depths)
    return item(pieces[0]) if len(pieces) == 1 else Listing("list", tuple(item(piece) for piece in pieces))


def item(tokens: list[Token]) -> Term:
    """One answer of a list: a relation, a labelled value, a ratio, a time, words, or a value."""
    while (
        len(tokens) > 1
        and _word_of(tokens[0]) in _FILLER
        and not (tokens[0].kind == "word" and len(tokens[0].text) == 1)
    ):
        tokens = tokens[1:]
        while len(tokens) > 1 and tokens[0].text in (",", ":"):
            tokens = tokens[1:]
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
            or all(token.kind in ("word", "text") for token in label)
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
