r"""Is the answer where it should be: one \boxed{...} at the end, thoughts and answer in their tags."""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from rlkit.boxed import find_boxes
from rlkit.types import Prompt, Score

from .contract import shown

_TAG = re.compile(r"</?(?:think|answer)>")


@dataclass(frozen=True, slots=True)
class FormatVerifier:
    r"""1.0 for exactly one closed, non-empty \boxed{...} with little after it, else 0.0; the answer itself is not judged.

    >>> FormatVerifier()(Prompt(id="a", token_ids=[]), r"6 * 7 = 42, so $\boxed{42}$.").value
    1.0
    >>> FormatVerifier(tags="answer", box=False)(Prompt(id="a", token_ids=[]), "<think>6 * 7</think><answer>42</answer>").value
    1.0
    """

    value_range: ClassVar = (0.0, 1.0)
    max_tail: int = 100
    """Characters, white space apart, that may follow the box: room for a closing sentence, not for more thought."""
    tags: Literal["none", "think", "answer"] = "none"
    """`think`: the text is <think>...</think> and then the answer; `answer`: and the answer is <answer>...</answer> and no more."""
    box: bool = True
    """Ask for the box, with `tags` in the part that is the answer; off: only the tags are looked at."""

    def __call__(self, prompt: Prompt, text: str) -> Score:
        answer = text
        if self.tags != "none":
            # A template may open the thought itself: its <think> is then in the prompt and not in what was written.
            opened = prompt.text.rstrip().endswith("<think>") and not text.lstrip().startswith("<think>")
            objection, answer = self._tagged(f"<think>{text}" if opened else text)
            if objection:
                return Score(0.0, reason=objection)
        if self.box:
            return self._boxed(answer)
        return Score(1.0, reason=f"the tags are in order; the answer is {shown(answer.strip())}")

    def _tagged(self, text: str) -> tuple[str, str]:
        """What is wrong with the tags ('': nothing), and the part that is the answer."""
        expected = ["<think>", "</think>"] + ["<answer>", "</answer>"] * (self.tags == "answer")
        found = _TAG.findall(text)
        if found != expected:
            return f"tags {' '.join(found[:8]) or 'none'}, expected {' '.join(expected)}", text
        before, thought, after = re.split(r"</?think>", text)
        if before.strip():
            return f"{shown(before.strip())} stands before <think>", text
        if not thought.strip():
            return "the thought is empty", text
        if self.tags == "answer":
            between, after, tail = re.split(r"</?answer>", after)
            outside = between.strip() or tail.strip()
            if outside:
                return f"{shown(outside)} stands outside the tags", text
        return ("the answer is empty", text) if not after.strip() else ("", after)

    def _boxed(self, text: str) -> Score:
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

    def gold_text(self, prompt: Prompt) -> str | None:
        if prompt.reference is None:
            return None
        answer = f"\\boxed{{{prompt.reference}}}" if self.box else prompt.reference
        if self.tags == "none":
            return answer
        return f"<think>...</think>{f'<answer>{answer}</answer>' if self.tags == 'answer' else answer}"
