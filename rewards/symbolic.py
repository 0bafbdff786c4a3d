r"""Equality of answers as mathematics, by math-verify. The only file that imports it.

Both sides are read by the same function: what the last \boxed{...} holds, or the bare gold answer, never whole prose,
except that an answer without a box is searched by math-verify. Its own timeouts need SIGALRM and a main thread, so they
are off: `VerifierPool` holds the deadline.
"""

import logging
import re
from dataclasses import dataclass
from functools import lru_cache

from rlkit.boxed import find_boxes, last_answer
from rlkit.types import Prompt, Score

from .contract import shown

_NO_MEANING = re.compile(r"\\left(?![a-zA-Z])|\\right(?![a-zA-Z])|\\[!,;: ]|~")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mbox|mathrm)\s*\{([^{}]*)\}")
_SPACE = re.compile(r"(?<![0-9A-Za-z])\s+|\s+(?![0-9A-Za-z])")
_THOUSANDS = re.compile(r"(?<=\d)(?:,\\!|\{,\}(?:\\!)?|\\,)(?=\d{3}(?!\d))")


@dataclass(frozen=True, slots=True)
class MathVerifier:
    r"""1.0 when the answer equals the reference as mathematics, 0.0 when not or unreadable, a skip without a readable reference.

    >>> MathVerifier()(Prompt(id="a", token_ids=[], reference=r"\frac{1}{2}"), r"so \boxed{0.5}").value
    1.0
    """

    def warm_up(self) -> None:
        """Load sympy and its grammar, so that the first answer's deadline does not pay for it."""
        _read_gold("1")

    def __call__(self, prompt: Prompt, text: str) -> Score:
        if prompt.reference is None or not prompt.reference.strip():
            return Score(None, reason="no gold answer")
        gold = last_answer(prompt.reference) or prompt.reference
        boxes = find_boxes(text)
        unclosed = bool(boxes) and boxes[-1].content is None
        answer = last_answer(text)
        if not unclosed and same_text(text if answer is None else answer, gold):
            return Score(1.0, reason=f"read {shown(gold)}, the gold answer word for word")
        expected = _read_gold(gold)
        if not expected.values:
            return Score(None, reason=f"cannot read the gold answer {shown(gold)}")
        if unclosed:
            return Score(0.0, reason="the last \\boxed{ is never closed")
        if answer == "":
            return Score(0.0, reason="the last \\boxed{} is empty")
        found = _search(text) if answer is None else _read(answer)
        read = f"{shown(found.text)} (no box)" if answer is None else shown(answer)
        if not found.values:
            what = "no answer found" if answer is None else f"read {read}, which is no mathematics"
            return Score(0.0, reason=f"{what}; the gold answer is {shown(gold)}")
        from math_verify import verify

        equal = verify(list(expected.values), list(found.values), timeout_seconds=None)
        return Score(
            float(equal), reason=f"read {read}, {'equal' if equal else 'not equal'} to {shown(gold)}"
        )


def same_text(answer: str, gold: str) -> bool:
    r"""Whether two answers are the same text but for spacing, \text{}, outer dollar signs and a last full stop.

    >>> same_text(r"\left( 3, \dfrac{\pi}{2} \right).", r"$(3,\frac{\pi}{2})$"), same_text("1 2", "12")
    (True, False)
    """
    return _plain(answer) == _plain(gold)


def _plain(text: str) -> str:
    text = _TEXT.sub(r" \1 ", _THOUSANDS.sub("", tidy(text)))
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return _SPACE.sub("", " ".join(_NO_MEANING.sub(" ", text).split()))


def tidy(text: str) -> str:
    r"""An answer without the sentence around it: outer dollar signs, white space, and a last comma or full stop.

    >>> tidy(" $-\\frac{5}{3}.$ "), tidy(r"\$5")
    ('-\\frac{5}{3}', '\\$5')
    """
    previous = None
    while previous != text:
        previous = text
        text = text.strip().rstrip(",;")
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1]
        for sign in ("$$", "$"):
            inner = text[len(sign) : -len(sign)]
            if text == sign + inner + sign and "$" not in inner and not inner.endswith("\\"):
                text = inner
    return text


@dataclass(frozen=True, slots=True)
class _Reading:
    """The sympy objects that a text can be read as (none: it is no mathematics), and the part of it they stand for."""

    values: tuple[object, ...]
    text: str


@lru_cache(maxsize=4096)
def _read_gold(gold: str) -> _Reading:
    """Cached: the rollouts of a group share it, and epochs come back to it."""
    return _read(gold)


def _read(answer: str) -> _Reading:
    """What one bare answer stands for."""
    # math-verify also hands back the normalised text of what it could not read, and that loses what it did not
    # understand ('a + b + c' -> 'a +'): two unread answers must not become equal by it, so text is dropped.
    latex = _THOUSANDS.sub("", tidy(answer))
    boxed = f"\\boxed{{{latex}}}"
    for text, units in ((boxed, True), (boxed, False), (latex, True)):
        reading = _search(text, units)
        if reading.values:
            break
    return reading


def _search(text: str, units: bool = True) -> _Reading:
    """What math-verify finds in a text. Without `units`, letters at the end are not taken for units ('a + b + c')."""
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    # It warns once per process that its timeouts are off; they are off because the pool has its own.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    normal = NormalizationConfig(
        basic_latex=True, units=units, malformed_operators=True, nits=True, boxed="all", equations=False
    )
    targets = [LatexExtractionConfig(normalization_config=normal), ExprExtractionConfig()]
    found = parse(text, targets, parsing_timeout=None)
    values = tuple(value for value in found if not isinstance(value, str))
    return _Reading(values, next((value for value in found if isinstance(value, str)), ""))
