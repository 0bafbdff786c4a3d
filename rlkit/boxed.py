r"""Reading the final answer out of a text: the last \boxed{...}, whatever is nested in it."""

import re
from dataclasses import dataclass

# One pass, so that a megabyte of opening braces costs what a megabyte of prose costs. An escaped brace is no brace.
# Texts that were a string literal once have \\boxed for \boxed.
_TOKEN = re.compile(r"\\{1,2}(?:boxed|fbox)(?![a-zA-Z])\s*(?P<open>\{)?|\\.|[{}]", re.DOTALL)
_BARE = re.compile(r"[^\s$]+")
# What may stand between two boxes that are one answer: an "and", "or", comma or semicolon among dollar signs and spaces,
# and the name of the next one: `y_1 = \boxed{1}` and `y_2 = \boxed{2}`.
_FILLING = r"(?:\s|\$|\*\*|\\[()\[\],;:! ]|\\q?quad(?![a-zA-Z])|~)*"
_JOINT = re.compile(
    rf"{_FILLING}(?:(?:,|;|\\?&|\b(?:and|or)\b|\\(?:lor|vee)\b|\\text\s*\{{\s*(?:,|,?\s*(?:and|or))\s*\}}){_FILLING})+"
    rf"(?:\\?[a-zA-Z][\w{{}}()]{{0,12}}\s*={_FILLING})?"
)
# What is counted or measured may stand behind a box that goes on: `\boxed{1} apple and \boxed{2} pears`.
_COUNTED = re.compile(
    rf"{_FILLING}(?!(?:so|thus|hence|then|therefore|is|not|but|wait|yes|no|which)\b)[a-z]+\s+(?:and|or)\b{_FILLING}"
)
# On one line, with nothing between but spaces, or a run of signs drawn as a line: `\boxed{1} ---- \boxed{2}`.
_SIDE_BY_SIDE = re.compile(r"(?:[ \t$]|\\[()\[\],;:! ]|\\q?quad(?![a-zA-Z])|[-+|/_~]{2,}+)*+")
_CLOSING = re.compile(r"(?:\\[\])]|[.,;:])+$")


@dataclass(frozen=True, slots=True)
class Box:
    r"""`text[start:end]` is one \boxed{...} or \fbox{...}; `content` is None when it is never closed.

    >>> find_boxes("so $\\boxed{5}$.")
    [Box(start=4, end=13, depth=0, content='5')]
    """

    start: int
    end: int
    depth: int
    """How many other boxes it is inside of."""
    content: str | None


def find_boxes(text: str) -> list[Box]:
    r"""Every box of the text in the order they open; a bare `\boxed 5` holds the word that follows it.

    >>> [box.content for box in find_boxes(r"\boxed{\frac{1}{2}} and \boxed 7, not \boxed{8")]
    ['\\frac{1}{2}', '7', None]
    """
    boxes: list[Box] = []
    open_braces: list[
        tuple[int, int, int] | None
    ] = []  # (place in boxes, start, content start); None: a plain brace
    depth = 0
    for token in _TOKEN.finditer(text):
        symbol = token.group()
        if symbol == "{":
            open_braces.append(None)
        elif symbol == "}":
            if not open_braces:
                continue
            opened = open_braces.pop()
            if opened is not None:
                place, start, content = opened
                depth -= 1
                boxes[place] = Box(start, token.end(), depth, text[content : token.start()])
        elif token["open"] is not None:
            open_braces.append((len(boxes), token.start(), token.end()))
            boxes.append(Box(token.start(), len(text), depth, None))
            depth += 1
        elif symbol[1:2].isalpha() and len(symbol) > 2:
            word = _BARE.match(text, token.end())
            bare = _CLOSING.sub("", word.group()) if word else ""
            if bare:
                boxes.append(Box(token.start(), token.end() + len(bare), depth, bare))
    return boxes


def last_boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{...} or \fbox{...}, stripped; None: there is none, or the last one is never closed.

    >>> last_boxed(r"first \boxed{1}, then \boxed{\frac{1}{2}}")
    '\\frac{1}{2}'
    >>> last_boxed(r"\boxed{1}, no, \boxed{2") is None
    True
    """
    boxes = find_boxes(text)
    if not boxes or boxes[-1].content is None:
        return None
    return boxes[-1].content.strip()


def last_answer(text: str) -> str | None:
    r"""As `last_boxed`, but boxes side by side, or joined by a comma, 'and' or 'or', are one answer, a list.

    >>> last_answer(r"so $\boxed{1}$ and $\boxed{-2}$."), last_answer(r"first \boxed{3}, then \boxed{4}")
    ('1, -2', '4')
    """
    return join_boxes(text, find_boxes(text))


def join_boxes(text: str, boxes: list[Box]) -> str | None:
    """`last_answer` of a text whose boxes are found already."""
    if not boxes or boxes[-1].content is None:
        return None
    outer = [box for box in boxes if box.depth == 0]
    joined = [boxes[-1].content.strip()]
    if outer[-1] is not boxes[-1]:
        return joined[0]
    for earlier, later in zip(outer[-2::-1], outer[:0:-1], strict=True):
        if earlier.content is None or not _are_joined(text, earlier, later):
            break
        joined.append(earlier.content.strip())
    return ", ".join(reversed(joined))


def _are_joined(text: str, earlier: Box, later: Box) -> bool:
    """Whether two neighbours are parts of one answer. The same answer boxed twice is said twice."""
    if _JOINT.fullmatch(text, earlier.end, later.start) or _COUNTED.fullmatch(text, earlier.end, later.start):
        return True
    return bool(_SIDE_BY_SIDE.fullmatch(text, earlier.end, later.start)) and earlier.content != later.content
