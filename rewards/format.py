r"""Is the answer where it should be: exactly one \boxed{...}, closed, filled, and at the end."""

from dataclasses import dataclass
from typing import ClassVar

from rlkit.boxed import find_boxes
from rlkit.types import Prompt, Score

from .contract import shown


@dataclass(frozen=True, slots=True)
class FormatVerifier:
    r"""1.0 for exactly one closed, non-empty \boxed{...} with little after it, else 0.0; the answer itself is not judged.

    >>> FormatVerifier()(Prompt(id="a", token_ids=[]), r"6 * 7 = 42, so $\boxed{42}$.").value
    1.0
    """

    value_range: ClassVar = (0.0, 1.0)
    max_tail: int = 100
    """Characters, white space apart, that may follow the box: room for a closing sentence, not for more thought."""

    def __call__(self, prompt: Prompt, text: str) -> Score:
        boxes = [box for box in find_boxes(text) if box.depth == 0]
        if not boxes:
            return Score(0.0, reason="no \\boxed{} in the answer")
        if len(boxes) > 1:
            return Score(0.0, reason=f"{len(boxes)} boxes, expected one")
        content = boxes[0].content
        if content is None:
            return Score(0.0, reason="the \\boxed{ is never closed")
        if not content.strip():
            return Score(0.0, reason="the \\boxed{} is empty")
        tail = len("".join(text[boxes[0].end :].split()))
        if tail > self.max_tail:
            return Score(0.0, reason=f"{tail} characters follow the box, expected at most {self.max_tail}")
        return Score(1.0, reason=f"one box, {shown(content.strip())}, at the end")
