r"""Tokens of an answer, before they are read: words in \text sorted out, and the parts of a list told apart."""

import re
from collections.abc import Iterator

from . import units
from .building import rows
from .scan import Token, scan
from .terms import Number, Op, Relation, Term, Unreadable
from .vocabulary import FUNCTIONS

RELATIONS = {
    **{"=": "=", "<": "<", ">": ">", "\\le": "<=", "\\ge": ">=", "\\ne": "!=", "\\approx": "~", "\\sim": "~"},
    **{"\\in": "in", "\\notin": "notin", "\\equiv": "==", "\\subset": "in", "\\subseteq": "in"},
}
_JOINED = re.compile(r"(?:(.+?)[\s,]+(and|or)|(and|or)\s+(.+)|(\S+(?: \S+)?),?\s+(and|or)\s+(\S+(?: \S+)?))")
_REMARK = re.compile(r"\([A-Za-z][A-Za-z ]+\)")
_CHOICE = re.compile(r"\(?[A-Z]\)?[.:]?")
_STRONGEST = [";", "or", "and", "\\cr", ",", "\\quad"]


def inline(tokens: list[Token]) -> Iterator[Token]:
    r"""\text{13} and \text{(A)} are 13 and (A)."""
    for place, token in enumerate(tokens):
        content = token.text.strip()
        if token.kind != "text":
            yield token
        elif not content:
            continue
        elif "^" in content and units.measure(content) is not None:
            yield token
        elif re.search(r"\d|\$", content) or (_CHOICE.fullmatch(content) and place == 0):
            yield from scan(content)
        elif content == "to" and 0 < place < len(tokens) - 1 and tokens[place - 1].kind == "num":
            yield Token("op", ":")
        elif content.endswith(":") and len(content) > 2:
            yield from (Token("text", content[:-1], token.spaced), Token("op", ":"))
        elif content in FUNCTIONS and content != "min":
            yield Token("word", content, token.spaced)
        elif place and _REMARK.fullmatch(content) and not _CHOICE.fullmatch(content):
            continue
        elif (joint := _JOINED.fullmatch(content)) is not None:
            yield from (Token("text", part, token.spaced) for part in joint.groups() if part)
        elif re.fullmatch(r"[^\w\s]+", content):
            yield Token("op", content, token.spaced)
        elif content in ("i", "e", "x", "y", "n", "N", "Z", "R", "Q") and place == 0:
            yield Token("word", content, token.spaced)
        else:
            yield token


def word_of(token: Token) -> str:
    """The first word of a token, or ''."""
    if token.kind not in ("word", "text"):
        return ""
    words = token.text.strip(" ,.;:").lower().split()
    return words[0] if words else ""


def pieces_of(tokens: list[Token], depths: list[int]) -> tuple[list[list[Token]], list[str]]:
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


def groups_of(pieces: list[list[Token]], joints: list[str], outer: str) -> list[list[list[Token]]]:
    groups = [[pieces[0]]]
    for joint, piece in zip(joints, pieces[1:], strict=True):
        if joint == outer:
            groups.append([piece])
        else:
            groups[-1].append(piece)
    return groups


def aligned(tokens: list[Token]) -> list[list[list[Token]]]:
    """The rows of aligned equations; one that begins with a relation goes on with the row before."""
    table: list[list[list[Token]]] = []
    for row in rows(tokens):
        line = [token for cell in row for token in cell]
        if table and line[0].text in RELATIONS:
            table[-1][0] += line
        else:
            table.append([line])
    return table


def shared_relation(items: list[Term]) -> list[Term]:
    r"""x \ne 1, 2 as x \ne 1, x \ne 2, and x \equiv 1, 2 \pmod 5 likewise."""
    first, last = items[0], items[-1]
    if not isinstance(first, Relation) or len(items) < 2:
        return items
    if first.ops in (("==",), ("=",)) and isinstance(last, Op) and last.name == "pmod":
        rests = [first.sides[1], *items[1:-1], last.args[0]]
        if all(isinstance(rest, Number) for rest in rests):
            classes = (Op("pmod", (rest, last.args[1])) for rest in rests)
            return [Relation((first.sides[0], part), ("==",)) for part in classes]
    if first.ops != ("!=",):
        return items
    return [
        Relation((first.sides[0], part), first.ops) if isinstance(part, Number | Op) else part
        for part in items
    ]
