r"""The final answer of a completion, written so that equal answers are equal texts: what votes and diversity count.

Read in processes with a deadline, as verdicts are, since the text is a model's.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from rlkit.boxed import last_boxed
from rlkit.types import Prompt, Score

from .exact import final_answer
from .grammar import parse_spec
from .maths.extract import find_answer
from .maths.normalise import plain, plain_number, tidy
from .maths.rational import Undefined, exact
from .maths.reading import read
from .maths.terms import TooLarge, Unreadable

MAX_READ = 80
"""Characters of a formula whose value is worked out; a longer one is its text."""
_CHOICE = re.compile(r"\(?([A-Z])(?:\)?[.:]?|[).:]\s.*)", re.DOTALL)


def maths_answer(text: str) -> str | None:
    r"""As the `math` verifier finds it; a rational number by its value, anything else by its text without spacing.

    >>> maths_answer(r"so \boxed{0.5}"), maths_answer(r"\boxed{\frac{2}{4}}"), maths_answer(r"\boxed{x + 1}")
    ('1/2', '1/2', 'x+1')
    """
    found = find_answer(text)
    if found is None or not found.text:
        return None
    value = plain_number(found.text)
    if value is None and len(found.text) <= MAX_READ:
        value = _value(found.text)
    return plain(found.text) if value is None else str(value)


def _value(answer: str) -> Fraction | None:
    try:
        return exact(read(tidy(answer)))
    except (Unreadable, TooLarge, Undefined):
        return None


def boxed_answer(text: str) -> str | None:
    r"""The last \boxed{...}, white space apart.

    >>> boxed_answer(r"\boxed{New  York}"), boxed_answer("42")
    ('New York', None)
    """
    found = last_boxed(text)
    return " ".join(found.split()) or None if found is not None else None


def line_answer(text: str) -> str | None:
    r"""The last \boxed{...}, or else the last line, white space apart: what `exact` compares."""
    found = final_answer(text)
    return " ".join(found.split()) or None if found is not None else None


def choice_answer(text: str) -> str | None:
    """The letter of the choice that is stated last, else the text of the answer.

    >>> choice_answer("The answer is (B)."), choice_answer(r"\\boxed{C}"), choice_answer("Answer: yes")
    ('B', 'C', 'yes')
    """
    found = find_answer(text)
    if found is None or not found.text:
        return None
    letter = _CHOICE.fullmatch(tidy(found.text))
    return letter[1] if letter is not None else plain(found.text)


def no_answer(text: str) -> str | None:
    """For verifiers of whole texts, as of programs: nothing in them is voted on."""
    return None


READERS: Mapping[str, Callable[[str], str | None]] = {
    "math": maths_answer,
    "numeric": maths_answer,
    "choice": choice_answer,
    "code": no_answer,
    "format": no_answer,
}
"""By the verifier's name; any other reads the box or the last line."""


def reader_of(reward: str, is_task: bool) -> Callable[[str], str | None]:
    """How the final answer is read under `--reward`: as the first term of a sum reads it that reads one.

    >>> reader_of("0.1*format+math", False).__name__, reader_of("auto", True).__name__, reader_of("code", False).__name__
    ('maths_answer', 'boxed_answer', 'no_answer')
    """
    names = [term.name for term in parse_spec(reward)]
    if "auto" in names:
        return boxed_answer if is_task else maths_answer
    readers = [READERS.get(name, line_answer) for name in names]
    return next((reader for reader in readers if reader is not no_answer), no_answer)


@dataclass(frozen=True, slots=True)
class AnswerReader:
    r"""Reads final answers where verifiers run: a verdict whose reason is the answer; a skip when there is none.

    >>> AnswerReader(maths_answer)(Prompt(id="a", token_ids=[]), r"\boxed{2.0}").reason
    '2'
    """

    read: Callable[[str], str | None]

    def __call__(self, prompt: Prompt, text: str) -> Score:
        answer = self.read(text)
        return Score(None, reason="no final answer") if answer is None else Score(1.0, reason=answer)
