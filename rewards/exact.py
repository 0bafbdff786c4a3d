r"""Equality of text: the last \boxed{...}, or else the last line, is the reference, white space apart."""

from dataclasses import dataclass
from typing import ClassVar

from rlkit.boxed import last_boxed
from rlkit.types import Prompt, Score

from .contract import shown


def final_answer(text: str) -> str | None:
    r"""The last \boxed{...}, or else the last line that is not empty; None: there is nothing.

    >>> final_answer("6 * 7 is\n42\n"), final_answer(r"so \boxed{42}, I think"), final_answer(" ")
    ('42', '42', None)
    """
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else None


@dataclass(frozen=True, slots=True)
class ExactVerifier:
    """1.0 when the final answer is the reference, character for character; runs of white space count as one space.

    >>> ExactVerifier()(Prompt(id="a", token_ids=[], reference="New York"), "It is\\nNew  York").value
    1.0
    """

    value_range: ClassVar = (0.0, 1.0)

    def __call__(self, prompt: Prompt, text: str) -> Score:
        if prompt.reference is None or not prompt.reference.strip():
            return Score(None, reason="no gold answer")
        answer = final_answer(text)
        if answer is None:
            return Score(0.0, reason="the answer is empty")
        equal = answer.split() == prompt.reference.split()
        verdict = "is" if equal else "is not"
        return Score(float(equal), reason=f"read {shown(answer)}, which {verdict} {shown(prompt.reference)}")
