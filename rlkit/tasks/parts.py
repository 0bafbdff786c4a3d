"""What procedural tasks share: the split a question belongs to and the styles of answering."""

import hashlib
import random
from collections.abc import Mapping
from typing import Literal

Split = Literal["train", "test"]

SHARES: Mapping[str, float] = {"<now>": 0.68, "<steps>": 0.29, "<check>": 0.03}
"""How often the imitated base model answers in each style: at once, in steps, in steps with a re-check."""
PRACTICE: Mapping[str, float] = {"<now>": 0.1, "<steps>": 0.5, "<check>": 0.4}
"""The shares while it still learns to work a problem: most of what there is to learn is in the long answers."""
RIGHT: Mapping[str, float] = {"<now>": 0.20, "<steps>": 0.90, "<check>": 0.98}
"""How often an answer of that style is right."""

STYLES: Mapping[str, str] = {"<now>": "now", "<steps>": "steps", "<check>": "check"}
"""The first word of an answer and the name of its style."""

_TEST_SHARE = 64 / 256


def split_of(question: str) -> Split:
    """The one split a question belongs to, by its own hash: one in four is held out, and the splits cannot overlap.

    >>> split_of("7+4*3-5*2"), split_of("1+1+1+1+9")
    ('test', 'train')
    """
    return "test" if hashlib.sha256(question.encode()).digest()[0] / 256 < _TEST_SHARE else "train"


def draw_style(rng: random.Random, practice: bool) -> str:
    """A style marker, drawn in the shares above."""
    shares = PRACTICE if practice else SHARES
    return rng.choices(list(shares), weights=list(shares.values()))[0]
