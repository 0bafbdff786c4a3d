r"""Where the answer is in a text: one place is read, the first of these that there is, and the reason names it.

The last \boxed{...}; what follows the last "answer is", "Answer:" or "####"; the last formula or number of the last line.
"""

import re

from rlkit.boxed import find_boxes, join_boxes

from .last_line import is_bare, last_formula, last_line
from .spans import COMMAND, NUMBER, Found
from .tails import clean_tail

MAX_TAIL = 600
"""Characters read behind "the answer is"."""

MAX_END = 200
"""Characters at the end of a text in which a closing sign of a proof is looked for."""
MAX_SAID = 2000
"""Characters of a box that may hold a whole text."""
MAX_TEXT = 20_000
"""Characters at the end of a text in which an answer without a box is looked for."""

_CUE = re.compile(
    r"(?P<mark>\#{4}[ \t]*)"
    r"|(?P<line>^[ \t]*A:)"
    r"|\banswers?\b(?P<words>(?:\s+(?:to|of|for)\s[^.:$\n\\]{1,80}?)?[*_\s]*(?:(?:is|are|=|was|will be|would be|should be)\b[*_\s:]*"
    r"(?:(?:equal to|simply|just|therefore|thus|given by)\s+)?|:[*_\s]*|(?=\s*(?:\$|\\\[|\\\()))(?:the\s+)?)",
    re.IGNORECASE | re.MULTILINE,
)
_MINUS = re.compile(r"(?:[=$:]|\\\[|\\\()\s*-\s*\Z")
_FINAL = re.compile(r"final answer (?:is|:)", re.IGNORECASE)
_SPECIAL = re.compile(r"<\|[^|>]{1,40}\|>.{0,20}\Z", re.DOTALL)
_END_OF_PROOF = re.compile(
    r"(?:\s|(?P<d>\$?)\\(?:blacksquare|square|Box|qed|QED)(?![a-zA-Z])(?P=d)|[∎□■]|\n```)+\Z"
)
_IT_IS = re.compile(
    rf"[a-z].*\b(?:it|that|which)(?:['’]s| is)\s+({NUMBER.pattern})[\s.]*[a-zA-Z²³]*[.!]?\Z", re.DOTALL
)


def find_answer(text: str) -> Found | None:
    r"""The answer of a completion; None: there is nothing that could be one. A box that is never closed is `Found("", ...)`.

    >>> find_answer(r"so $x=\boxed{5}$"), find_answer("The final answer is $34$. I hope it is correct.").text
    (Found(text='5', place='in the last box'), '34')
    >>> find_answer("5 apples\n#### 1,250").text, find_answer("That leaves 7 - 3 = 4 cakes.").text
    ('1,250', '4')
    """
    _, thought, concluded = text.rpartition("</think>")
    if thought and concluded.strip():
        found = find_answer(concluded)
        if found is not None and (found.text or not find_boxes(text)):
            return found
    boxes = find_boxes(text)
    if boxes and (said := _FINAL.search(text, boxes[-1].end)) is not None:
        later = stated_answer(text[said.start() :])
        if later is not None and any(sign.isdigit() or sign in "\\$" for sign in later.text):
            return later
    if boxes:
        answer = join_boxes(text, boxes)
        told = stated_answer(answer) if answer and len(answer) <= MAX_TEXT else None
        answer = (
            told.text
            if told is not None
            else _last_said(answer)
            if answer and len(answer) <= MAX_SAID
            else answer
        )
        sign = "-" if answer and _MINUS.search(text[max(0, boxes[-1].start - 40) : boxes[-1].start]) else ""
        return Found(f"{sign}{answer or ''}", "in the last box")
    text = _SPECIAL.sub("", text[-MAX_TEXT:]).rstrip()
    text = text[:-MAX_END] + _END_OF_PROOF.sub("", text[-MAX_END:])
    return stated_answer(text) or last_formula(text) or last_line(text)


def _last_said(content: str) -> str:
    """The answer of a box that holds a whole text: its last line, or the number that 'it is'."""
    before, _, last = content.rpartition("\n")
    prose = len(re.findall(r"(?<![\\\w])[A-Za-z]{3,}", COMMAND.sub(" ", before))) > 1
    if prose and "\\end" not in last and is_bare(last.strip()):
        return last.strip()
    told = _IT_IS.search(content)
    return told[1] if told is not None else content


def stated_answer(text: str) -> Found | None:
    """What follows the last "answer is", "Answer:" or "####"; None: nothing of the kind is said."""
    cue = _last_cue(text)
    answer = clean_tail(text[cue.end() : cue.end() + MAX_TAIL]) if cue is not None else ""
    return Found(answer, f"after '{' '.join(cue.group().split())}'") if cue is not None and answer else None


def _last_cue(text: str) -> re.Match[str] | None:
    if "####" not in text and "nswer" not in text and "NSWER" not in text and "A:" not in text:
        return None
    end = len(text.rstrip())
    return next((match for match in reversed(list(_CUE.finditer(text))) if match.end() < end), None)
