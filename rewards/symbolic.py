r"""The `math` verifier: reads the answer, compares it step by step, and asks math-verify last. The only file that imports it.

math-verify decides what the rules of `equal` cannot read: sums, integrals, limits, matrices that are still to be multiplied.
Its own timeouts need SIGALRM and a main thread, so they are off: `VerifierPool` holds the deadline. What would keep
sympy busy for long (towers of powers, huge factorials, deep nesting) is not handed to it at all.
"""

import logging
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import ClassVar

from rlkit.boxed import last_answer
from rlkit.types import Prompt, Score

from .contract import shown
from .maths.answers import Verdict, can_be_read, compare, is_expression, is_prose, same_text, tidy
from .maths.extract import find_answer, stated_answer

MAX_SYMBOLIC = 400
"""Characters of an answer that is handed to math-verify."""
MAX_NESTING = 12
_TOLERANCES = ("tolerance", "error")
"""Columns of a data row that may hold the greatest absolute difference allowed (OlympiadBench: error)."""
_THOUSANDS = re.compile(r"(?<=\d)(?:,\\!|\{,\}(?:\\!)?|\\,)(?=\d{3}(?!\d))")
_COSTLY = re.compile(
    r"\^\s*\{?\(?\s*-?\d{4,}|\*\*\s*\(?-?\d{4,}|\^[^+\-=,]{0,20}\^[^+\-=,]{0,20}\^|\*\*[^+\-=,]{0,20}\*\*|\^\s*\{?\s*\d+\s*\^"
    r"|\\int.{40}|\\int.*\\sqrt|\d{3,}\s*\}?\s*!|!\s*!|\)\s*!|\d{60,}|\d[eE][-+]?\d{4,}"
)
_HEAVY = re.compile(r"\\(?:sum|prod|int|lim|oint)(?![a-zA-Z])")
"""Two of these, one on each side, can keep sympy busy for minutes."""
_ITS_OWN = re.compile(r"\\(?:sum|prod|int|lim|det|partial|nabla|oint)(?![a-zA-Z])|matrix|\\frac\s*\{\s*d")
_NOT_ITS_OWN = re.compile(
    r"\d\s+\d|\\text|\\mbox|(?<![\\a-zA-Z{])[a-zA-Z]{3,}|[\"<>'|;_]|\\x|,|\\begin\{[^}]*\}(?<!matrix\})"
)
_WORD = re.compile(r"(?<![\\a-zA-Z])(?<!begin\{)(?<!end\{)[a-zA-Z]{3,}")
_TORN = re.compile(
    r"\\[lc]?dots|\.\.\.|(?:[-+*/^_=<>({]|(?<!\\)\[|\\(?:cdot|times|frac|sqrt|left|text))[\s$.]*$"
)


@dataclass(frozen=True, slots=True)
class MathVerifier:
    r"""1.0 when the answer equals the reference as mathematics, 0.0 when not or unreadable, a skip without a readable reference.

    >>> MathVerifier()(Prompt(id="a", token_ids=[], reference=r"\frac{1}{2}"), r"so \boxed{0.5}")
    Score(value=1.0, reason="read '0.5' in the last box, equal to '\\\\frac{1}{2}' (as numbers)", parts={}, error=False)
    """

    value_range: ClassVar = (0.0, 1.0)

    def warm_up(self) -> None:
        """Load sympy and its grammar, so that the first answer's deadline does not pay for it."""
        _read("1")

    def __call__(self, prompt: Prompt, text: str) -> Score:
        if prompt.reference is None or not prompt.reference.strip():
            return Score(None, reason="no gold answer")
        gold = gold_answer(prompt.reference)
        found = find_answer(text)
        if found is not None and found.text and same_text(found.text, gold):
            return Score(1.0, reason=f"read {shown(gold)} {found.place}, the gold answer word for word")
        if len(text) < 2 * len(gold) + 20 and same_text(text, gold):
            return Score(1.0, reason="the text is the gold answer word for word")
        objection = _objection(gold)
        if objection:
            return Score(None, reason=objection)
        if found is None:
            return Score(0.0, reason=f"no answer found; the gold answer is {shown(gold)}")
        if not found.text:
            closed = last_answer(text) is not None
            return Score(
                0.0, reason="the last \\boxed{} is empty" if closed else "the last \\boxed{ is never closed"
            )
        verdict = judge_answer(gold, found.text, _tolerance(prompt))
        read = f"read {shown(found.text)} {found.place}"
        if verdict.equal is None:
            return Score(0.0, reason=f"{read}, which is no mathematics; the gold answer is {shown(gold)}")
        relation = "equal" if verdict.equal else "not equal"
        return Score(float(verdict.equal), reason=f"{read}, {relation} to {shown(gold)} ({verdict.step})")


def judge_answer(gold: str, answer: str, tolerance: Fraction | None = None) -> Verdict:
    r"""The verdict on two bare answers: by rlkit's rules, and by math-verify where they cannot tell.

    >>> judge_answer(r"\sum_{k=1}^{3} k", "6")
    Verdict(equal=True, step='by math-verify')
    """
    verdict = compare(gold, answer, tolerance)
    if verdict.equal is not None or not _may_be_asked(gold) or not _may_be_asked(answer):
        return verdict
    its_own = [bool(_ITS_OWN.search(text)) for text in (gold, answer)]
    heavy = all(_HEAVY.search(text) for text in (gold, answer))
    plain = not any(_NOT_ITS_OWN.search(text) for text in (gold, answer))
    if not (any(its_own) or plain) or heavy or not (is_expression(gold) and is_expression(answer)):
        return verdict
    expected, found = _read(gold), _read(answer)
    if not expected or not found:
        return verdict
    from math_verify import verify

    # Either order: it reads an equation and its solution one way round only.
    orders = ((expected, found), (found, expected))
    equal = any(verify(list(one), list(other), timeout_seconds=None) for one, other in orders)
    return Verdict(equal, "by math-verify")


@lru_cache(maxsize=4096)
def gold_answer(reference: str) -> str:
    r"""The bare gold answer: what is in the box of a reference that is a whole solution."""
    boxed = last_answer(reference)
    if boxed is not None:
        return boxed
    if len(reference) > 200 or "\n" in reference.strip():
        found = stated_answer(reference)
        if found is not None:
            return found.text
    return reference


@lru_cache(maxsize=4096)
def _objection(gold: str) -> str:
    """Why a gold answer cannot be judged by; '': it can."""
    if is_prose(gold):
        return f"the gold answer is a sentence, which no rule can judge: {shown(gold)}"
    if can_be_read(gold) or (_may_be_asked(gold) and _read(gold)):
        return ""
    return f"cannot read the gold answer {shown(gold)}"


def _tolerance(prompt: Prompt) -> Fraction | None:
    for column in _TOLERANCES:
        stated = prompt.row.get(column)
        if isinstance(stated, str | int | float) and not isinstance(stated, bool):
            try:
                allowed = Fraction(str(stated))
            except ValueError:
                continue
            if allowed > 0:
                return allowed
    return None


def _may_be_asked(text: str) -> bool:
    """Whether sympy will be done with a text soon, and math-verify reads all of it: of a torn formula it reads what is left."""
    if len(text) > MAX_SYMBOLIC or _COSTLY.search(text) or _TORN.search(text):
        return False
    depth = deepest = 0
    for sign in text:
        depth += (sign in "{([") - (sign in "})]")
        deepest = max(deepest, depth)
    return deepest <= MAX_NESTING and len(_WORD.findall(text)) < 4


@lru_cache(maxsize=4096)
def _read(answer: str) -> tuple[object, ...]:
    """What one bare answer stands for to math-verify; (): it is no mathematics."""
    # math-verify also hands back the normalised text of what it could not read, and that loses what it did not
    # understand ('a + b + c' -> 'a +'): two unread answers must not become equal by it, so text is dropped.
    latex = _THOUSANDS.sub("", tidy(answer))
    boxed = f"\\boxed{{{latex}}}"
    for text, units in ((boxed, True), (boxed, False), (latex, True)):
        values = _search(text, units)
        if values:
            return values
    return ()


def _search(text: str, units: bool = True) -> tuple[object, ...]:
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
    return tuple(value for value in found if not isinstance(value, str))
