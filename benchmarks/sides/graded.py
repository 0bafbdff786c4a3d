"""`task:chain` with graded rewards: a right answer pays PLAIN, and 1 when its last step was worked out a second time.

So the three styles of the task are the three roles of arXiv:2510.04028: `<now>` is common and mostly wrong, `<steps>` is less common
and mostly right, `<check>` is rare and pays most.
"""

from rlkit.tasks.chain import ChainTask, true_steps
from rlkit.types import Prompt, Score

PLAIN = 0.4
"""Of a right answer without a second look."""


def checked(prompt: Prompt, text: str) -> Score:
    """The style's name at the front is not enough: the second look must be there, and be right.

    >>> ask = Prompt(id="a", token_ids=[], question="7a+4b*3c-5d*2")
    >>> work = "a7+4=1b1*3=3c3-5=8d8*2=6"
    >>> [checked(ask, t).value for t in (f"<steps>{work}\\\\boxed{{6}}", f"<check>{work};d8*2=6\\\\boxed{{6}}", f"<check>{work}\\\\boxed{{6}}")]
    [0.4, 1.0, 0.4]
    """
    verdict = ChainTask().verify(prompt, text)
    if not verdict.value:
        return verdict
    again = text.startswith("<check>") and f";{true_steps(prompt.question)[-1]}\\boxed" in text
    return Score(1.0 if again else PLAIN, reason=f"{verdict.reason}, {'checked' if again else 'not checked'}")
