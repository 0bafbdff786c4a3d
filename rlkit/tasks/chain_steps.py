"""The written steps of an answer to `task:chain`: where each stands, and whether it is right."""

import re

from .chain import steps_right

_STEP = re.compile(r"[a-d]\d[-+*]\d=\d")


def written_steps(question: str, text: str) -> list[tuple[int, int, bool]]:
    """Begin and end of each written step in the text, and whether it is a right step of the chain, from the right result before it.

    >>> written_steps("7a+4b*3c-5d*2", "<steps>a7+4=1b1*3=4")
    [(7, 13, True), (13, 19, False)]
    """
    spans = [found.span() for found in _STEP.finditer(text)]
    return [(*span, right) for span, right in zip(spans, steps_right(question, text), strict=True)]
