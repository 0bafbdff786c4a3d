r"""What a text says its answer is: every "the answer is ...", `Answer:`, `####`, \boxed{...}, and who only mentions one.

Used by verifiers whose answers are letters and words. `maths/extract.py` does the same for formulas, which need their own rules.
"""

import re
from dataclasses import dataclass

from rlkit.boxed import find_boxes, join_boxes

MAX_TEXT = 100_000
"""Characters at the end of a text that are read: an answer stands at its end."""
_VERBS = r"(?:is|are|was|be|(?:would|must|should|will|has\s+to|have\s+to|can\s+only|seems?\s+to|appears?\s+to)\s+be)"
_CUE = re.compile(
    rf"""
    \#\#\#\#[ \t]*
    | <answer>\s*
    | \b(?:answers?|ans|(?:correct|right|best|final)\s+(?:options?|choices?|alternatives?|statements?|letter))\b
      (?:\s+(?:choice|option|letter)\b)?
      (?:\s+(?:to|of|for)\s[^.:\n]{{1,80}}?(?=\s+(?:is|are)\b|\s*:))?
      (?: (?:\s*,)?(?:\s+(?:here|therefore|then|thus),?)? \s*(?:\s{_VERBS}\b|=)  |  \s*:  |  \s*\)?\s*[-–—](?=\s)  |  [ \t]*\n )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_FILLING = re.compile(
    r"(?:[\s:,]+|[-–—](?=\s)|(?:for\s+sure|most\s+likely|very\s+likely|likely|probably|definitely|certainly|clearly|obviously"
    r"|therefore|thus|then|hence|indeed|actually|simply|just|only|still|also|in\s+fact|given\s+by|as\s+follows|is"
    r"|(?:the\s+)?(?:(?:correct|right|best|final|following)\s+)*(?:option|choice|letter|statement|answer)s?|both|either)\b){0,12}",
    re.IGNORECASE,
)
_NOT = re.compile(r"(?:not|n't|neither|never|none|unlikely|among|one\s+of|incorrect|wrong)\b", re.IGNORECASE)
# What makes "the answer is B" no claim: a doubt, a condition or a report in front of it, in the same sentence.
_MENTION = re.compile(
    r"\b(?:if|whether|unless|suppose|assume|assuming|why|(?:do\s+not|don['’]t|cannot|can['’]t|not|never|hard\s+to)\s+(?:\w+\s+)?"
    r"(?:think|believe|say|sure|that|conclude|true|mean)|doubt|unlikely|wrong(?:ly)?|claims?|until)\b[^.!?\n]*\Z",
    re.IGNORECASE,
)
# A base model goes on and asks itself the next question: what follows belongs to that one.
_NEXT_QUESTION = re.compile(
    r"^[ \t]*(?:\#+ *|\*\*)?(?:Question|Problem|Q|Human|User|Input)(?: *\d+)? *(?:\*\*)? *:|<\|im_start\|>\s*user|<\|(?:user|start_header_id)\|>",
    re.MULTILINE,
)
_SPECIAL = re.compile(r"<\|[^|>\n]{1,40}\|>|</s>|<eos>")
_WRAPPED = re.compile(r"\\(?:text(?:bf|it|rm|sf)?|math(?:rm|bf|sf|it)|operatorname\*?|bf|rm)\s*\{([^{}]*)\}")
_MARKED = re.compile(r"[\\*_`$~]")
_MARKUP = re.compile(r"\*\*|__|`|\$|\\[()\[\],;!]|\\q?quad(?![a-zA-Z])")


@dataclass(frozen=True, slots=True)
class Claim:
    """A place where a text says what its answer is: `text[start:]` begins with the answer."""

    said: int
    """Where the words behind "the answer is" begin: 'clearly the option C'."""
    start: int
    """Where the answer begins, when these are not part of it: 'C'."""
    words: str
    """How it is said, for a reason: `after 'answer is'`."""
    inside: str | None = None
    """The answer, where the text marks its end: what is in a box or a tag; None: it does not."""
    denied: bool = False
    """"The answer is not ...", which is no claim, unless an answer may begin with 'not'."""


def plain(text: str) -> str:
    r"""The part of a text that is about this question, without mark-up: what answers are looked for in.

    >>> plain(r"<think>(A)?</think>The answer is **\(\text{C}\)**.<|im_end|>")
    'The answer is C.'
    """
    text = text[-MAX_TEXT:]
    thought = text.rfind("</think>")
    if thought >= 0 and text[thought + len("</think>") :].strip():
        text = text[thought + len("</think>") :]
    following = next((m for m in _NEXT_QUESTION.finditer(text) if text[: m.start()].strip()), None)
    if following is not None:
        text = text[: following.start()]
    return unmarked(_SPECIAL.sub("", text))


def unmarked(text: str) -> str:
    r"""A text without bold, dollars, LaTeX's spaces and fonts: `**\(\text{C}\)**` is C."""
    if not _MARKED.search(text):
        return text
    text = text.replace("\\ ", " ").replace("~", " ")
    for _ in range(3):  # \textbf{\text{C}}
        text = _WRAPPED.sub(r"\1", text)
    return _MARKUP.sub("", text)


def find_claims(text: str) -> list[Claim]:
    """Every claim of a text that `plain` made, in order. What is doubted or supposed is none; what is denied is told.

    >>> text = "I doubt the answer is (A). The answer is not (B), so the correct answer must be (C)."
    >>> [(text[claim.start :][:3], claim.denied) for claim in find_claims(text)]
    [('not', True), ('(C)', False)]
    """
    claims = []
    for cue in _CUE.finditer(text):
        filled = _FILLING.match(text, cue.end())
        start = filled.end() if filled is not None else cue.end()
        if _MENTION.search(text[max(0, cue.start() - 120) : cue.start()]):
            continue
        closing = text.find("</", start, start + 2000) if cue.group().startswith("<") else -1
        words = f"after '{' '.join(cue.group().split()).rstrip(':')}'"
        inside = text[start:closing] if closing >= 0 else None
        claims.append(Claim(cue.end(), start, words, inside, denied=_NOT.match(text, start) is not None))
    boxes = find_boxes(text)
    joined = join_boxes(text, boxes)
    if joined is not None:
        claims.append(Claim(boxes[-1].start, boxes[-1].start, "in the last box", joined))
    return sorted(claims, key=lambda claim: claim.start)
