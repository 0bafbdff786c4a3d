r"""The final answer of a completion, written so that equal answers are equal texts: what votes and diversity count.

Read in processes with a deadline, as verdicts are, since the text is a model's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

from rlkit.boxed import last_boxed
from rlkit.types import Prompt, Score

from .choice import ChoiceVerifier
from .exact import final_answer
from .grammar import Term, parse_spec
from .maths.extract import find_answer
from .maths.normalise import plain, plain_number, tidy
from .maths.rational import Undefined, exact
from .maths.reading import read
from .maths.terms import TooLarge, Unreadable

MAX_READ = 80
"""Characters of a formula whose value is worked out; a longer one is its text."""


def maths_answer(prompt: Prompt, text: str) -> str | None:
    r"""As the `math` verifier finds it; a rational number by its value, anything else by its text without spacing.

    >>> asked = Prompt(id="a", token_ids=[])
    >>> maths_answer(asked, r"so \boxed{0.5}"), maths_answer(asked, r"\boxed{\frac{2}{4}}"), maths_answer(asked, r"\boxed{x + 1}")
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


def boxed_answer(prompt: Prompt, text: str) -> str | None:
    r"""The last \boxed{...}, white space apart.

    >>> asked = Prompt(id="a", token_ids=[])
    >>> boxed_answer(asked, r"\boxed{New  York}"), boxed_answer(asked, "42")
    ('New York', None)
    """
    found = last_boxed(text)
    return " ".join(found.split()) or None if found is not None else None


def line_answer(prompt: Prompt, text: str) -> str | None:
    r"""The last \boxed{...}, or else the last line, white space apart: what `exact` compares."""
    found = final_answer(text)
    return " ".join(found.split()) or None if found is not None else None


def no_answer(prompt: Prompt, text: str) -> None:
    """For verifiers of whole texts, as of programs: nothing in them is voted on."""
    return None


Reader = Callable[[Prompt, str], str | None]
"""(prompt, completion) -> the answer; None: there is none, and no vote."""
READERS: Mapping[str, Reader] = {
    "math": maths_answer,
    "numeric": maths_answer,
    "code": no_answer,
    "format": no_answer,
    "length": no_answer,
    "repetition": no_answer,
}
"""By the verifier's name; any other reads the box or the last line."""


def reader_of(reward: str, is_task: bool) -> Reader:
    """How the final answer is read under `--reward`: as the first term of a sum reads it that reads one.

    >>> reader_of("0.1*format+math", False).__name__, reader_of("auto", True).__name__, reader_of("code", False).__name__
    ('maths_answer', 'boxed_answer', 'no_answer')
    """
    terms = parse_spec(reward)
    if any(term.name == "auto" for term in terms):
        return boxed_answer if is_task else maths_answer
    readers = [_reader(term) for term in terms]
    return next((reader for reader in readers if reader is not no_answer), no_answer)


def _reader(term: Term) -> Reader:
    if term.name == "choice":
        return ChoiceVerifier(**cast(dict[str, Any], term.options)).answer
    return READERS.get(term.name, line_answer)


@dataclass(frozen=True, slots=True)
class AnswerReader:
    r"""Reads final answers where verifiers run: a verdict whose reason is the answer; a skip when there is none.

    >>> AnswerReader(maths_answer)(Prompt(id="a", token_ids=[]), r"\boxed{2.0}").reason
    '2'
    """

    read: Reader

    def __call__(self, prompt: Prompt, text: str) -> Score:
        answer = self.read(prompt, text)
        return Score(None, reason="no final answer") if answer is None else Score(1.0, reason=answer)
