"""The `steps` verifier: a process reward where the true intermediate steps are known, as in task:chain."""

import re
from dataclasses import dataclass
from typing import ClassVar

from rlkit.types import Prompt, Score

from .contract import shown


@dataclass(frozen=True, slots=True)
class StepsVerifier:
    """The share of the true steps that the answer writes and gets right; the reason names the first that it does not.

    A step is `left=right`. Of a step that is written twice the last counts, so a re-check may mend it.

    >>> prompt = Prompt(id="a", token_ids=[], row={"steps": ["7+4=11", "11*3=33"]})
    >>> StepsVerifier()(prompt, "7 + 4 = 11 and 11 * 3 = 32").reason
    "1 of 2 steps right; the first that is not: '11*3=33', written '11*3=32'"
    """

    value_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    column: str = "steps"
    """Column of the data's row with the true steps, a list in their order."""

    def gold_text(self, prompt: Prompt) -> str | None:
        steps = self._steps(prompt)
        return "\n".join([*steps, f"\\boxed{{{prompt.reference or ''}}}"]) if steps else None

    def __call__(self, prompt: Prompt, text: str) -> Score:
        steps = self._steps(prompt)
        if not steps:
            return Score(None, reason=f"the row has no true steps in {self.column!r}; task:chain has")
        squeezed = "".join(text.split())
        written = [_written(step, squeezed) for step in steps]
        right = [found == "".join(step.split()) for step, found in zip(steps, written, strict=True)]
        share = sum(right) / len(steps)
        parts = {"written": sum(found is not None for found in written) / len(steps)}
        said = f"{sum(right)} of {len(steps)} steps right"
        if share < 1:
            first = right.index(False)
            found = written[first]
            how = "which is not written" if found is None else f"written {shown(found)}"
            said += f"; the first that is not: {shown(steps[first])}, {how}"
        return Score(share, reason=said, parts=parts)

    def _steps(self, prompt: Prompt) -> list[str]:
        steps = prompt.row.get(self.column)
        return [str(step) for step in steps if "=" in str(step)] if isinstance(steps, list | tuple) else []


def _written(step: str, text: str) -> str | None:
    """The last time that the left side of a step is written, with what stands behind its `=`; None: never."""
    left, _, right = "".join(step.split()).rpartition("=")
    number = r"[-−]?\d+(?:[.,]\d+)*" if re.fullmatch(r"-?[\d.,]+", right) else r"[^\s=;,]*"
    start = r"(?<![\d.])" if left[:1].isdigit() else ""  # '17+4' does not hold the step 7+4
    found = re.findall(rf"{start}{re.escape(left)}=({number})", text)
    return f"{left}={found[-1]}" if found else None
