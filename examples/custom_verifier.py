"""A verifier of your own: say what an answer is worth, and why. Nothing else of rlkit needs to change.

A class, made without arguments, or a plain function, both called as (prompt, text):

    rlkit train --model tiny --data task:chain --reward examples/custom_verifier.py:LastNumber
    rlkit train --model tiny --data task:chain --reward "auto+0.1*examples/custom_verifier.py:brief"

The second line adds a tenth of `brief` to the task's own verdict; both parts are kept in the metrics
(`rewards/brief/mean`) and beside every rollout. Your file runs in worker processes: an answer on which it hangs costs
that one answer (`--reward.timeout`), and what it raises is counted as an error, never as a wrong answer.

`prompt` holds the question, the gold answer (`reference`) and the other columns of the data's row (`row`).
"""

import math
import re
from dataclasses import dataclass

from rlkit.types import Prompt, Score

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
LONG_ANSWER = 400
"""Characters from which an answer is not brief at all."""


@dataclass(frozen=True, slots=True)
class LastNumber:
    """1.0 when the last number of the answer is the gold one, up to rounding; 0.0 when it is another, or when there is none.

    >>> LastNumber()(Prompt(id="a", token_ids=[], reference="3.14"), "it is about 3.1401")
    Score(value=1.0, reason='read 3.1401, expected 3.14', parts={}, error=False)
    """

    tolerance: float = 1e-3
    """Largest relative difference that still counts as equal."""

    def __call__(self, prompt: Prompt, text: str) -> Score:
        gold = NUMBER.findall(prompt.reference or "")
        if not gold:
            # Not 0.0: the answer is not wrong, we cannot tell. It leaves the group and trains nothing.
            return Score(None, reason=f"the gold answer {prompt.reference!r} is no number")
        found = NUMBER.findall(text)
        if not found:
            return Score(0.0, reason="no number in the answer")
        equal = math.isclose(float(found[-1]), float(gold[-1]), rel_tol=self.tolerance)
        return Score(float(equal), reason=f"read {found[-1]}, expected {gold[-1]}")


def brief(prompt: Prompt, text: str) -> float:
    """1.0 for no words at all, 0.0 from 400 characters on. A function may return a number, a Score, or None (cannot judge).

    >>> brief(Prompt(id="a", token_ids=[]), "x" * 100)
    0.75
    """
    return max(0.0, 1.0 - len(text) / LONG_ANSWER)
