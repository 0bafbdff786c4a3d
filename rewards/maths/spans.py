r"""What stands in a sentence: formulas between dollars, numbers, the words that lead to an answer, where it ends."""

import re
from dataclasses import dataclass

MATH = re.compile(
    r"(?<!\\)\$\$(?P<a>.{1,2000}?)\$\$|(?<![\\$])\$(?P<b>(?:[^$\\]|\\.){1,2000}?)\$(?!\d)|\\\((?P<c>.{1,2000}?)\\\)|\\\[(?P<d>.{1,2000}?)\\\]",
    re.DOTALL,
)
END = re.compile(r"(?<![ap]\.m)(?<!\b[a-z])(?<!\bRs)[.!?](?=\s|$|[\"'*])|(?<=[ap]\.m)\.(?=\s+[A-Z])|\n")
JOINT = re.compile(r"[\s*]*(?:,|;|\band\b|\bor\b|,\s*and\b|,\s*or\b|&)?[\s*]*")
# 4:30 p.m. and 3:4; 1,250.50, 3 1/2, 36π, 2√3, $5, 25%.
NUMBER = re.compile(
    r"(?<![\w.,^_:])\d+(?::\d+)+(?:\s?[aApP]\.?[mM]\b)?(?![\d:])|"
    r"(?<![\w.,^_√])[-−]?(?:\\?\$|[€£¥])?[-−]?√?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s\d+(?=/\d))?(?:√\d+|π)?(?:/\d+)?(?:\s?\\?%|\s?[€£])?(?![\d])"
)
COMMAND = re.compile(
    r"\\(?:text\w*|mbox|mathrm|operatorname)\s*\{[^{}]*\}|\\(?:begin|end)\s*\{\w+\}|\\[a-zA-Z]+|\\[,;:! ]"
)
LEADS = re.compile(
    r"\b(?:is|are|be|was|equals?|equal to|get|gives?|have|has|find|obtain|thus|therefore|hence|so|answers?|solutions?|result)\b",
    re.IGNORECASE,
)
SAYS = re.compile(r"\s*(?:(?:is|are|equals|has|have|gives?)\b|=)|\s*,\s*where\b")


@dataclass(frozen=True, slots=True)
class Found:
    """An answer and the place it was read from, in words."""

    text: str
    place: str


def inside(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None).strip()


def formulas_of(text: str) -> list[re.Match[str]]:
    """Formulas between dollars or \\( \\). '$5 and $6' is money: its 'formula' is a number and words."""
    if "$" not in text and "\\" not in text:
        return []
    found = []
    place = 0
    while (match := MATH.search(text, place)) is not None:
        inner = match["b"]
        if inner is not None and inner[0].isdigit() and inner[-1].isspace() and re.search(r"[a-z]", inner):
            place = match.start() + 1
            continue
        found.append(match)
        place = match.end()
    return found


def sentence_end(text: str, formulas: list[re.Match[str]]) -> int:
    place = 0
    while (match := END.search(text, place)) is not None:
        around = next((f for f in formulas if f.start() < match.start() < f.end()), None)
        if around is None:
            return match.start()
        place = around.end()
    return len(text)
