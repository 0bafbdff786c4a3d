"""What procedural tasks share: the split that a question belongs to, and reading the answer out of a text."""

import hashlib
import re
from typing import Literal

Split = Literal["train", "test"]

_TEST_SHARE = 64 / 256
_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")


def split_of(question: str) -> Split:
    """The one split a question belongs to, by its own hash: one in four is held out, and the splits cannot overlap.

    >>> split_of("7+4*3-5*2"), split_of("1+1+1+1+9")
    ('test', 'train')
    """
    return "test" if hashlib.sha256(question.encode()).digest()[0] / 256 < _TEST_SHARE else "train"


def last_boxed(text: str) -> str | None:
    r"""What the last \boxed{...} holds (one level of braces inside it is read), or None.

    >>> last_boxed(r"\boxed{1} no, \boxed{ 7*5-3 }"), last_boxed("7*5-3")
    ('7*5-3', None)
    """
    found = _BOXED.findall(text)
    return found[-1].strip() if found else None
