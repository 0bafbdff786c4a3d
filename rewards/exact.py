r"""Equality of text: the last \boxed{...}, or else the last line, is the reference, white space apart, or by looser rules."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rlkit.boxed import last_boxed
from rlkit.types import Prompt, Score

from .contract import shown

_ARTICLES = re.compile(r"\b(?:a|an|the)\b", re.IGNORECASE)
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, ""))


def final_answer(text: str) -> str | None:
    r"""The last \boxed{...}, or else the last line that is not empty; None: there is nothing.

    >>> final_answer("6 * 7 is\n42\n"), final_answer(r"so \boxed{42}, I think"), final_answer(" ")
    ('42', '42', None)
    """
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else None


@dataclass(frozen=True, slots=True)
class ExactVerifier:
    """1.0 when the final answer is the reference, character for character; runs of white space count as one space.

    >>> ExactVerifier()(Prompt(id="a", token_ids=[], reference="New York"), "It is\\nNew  York").value
    1.0
    >>> ExactVerifier(squad=True)(Prompt(id="a", token_ids=[], reference="The Beatles"), "beatles!").value
    1.0
    """

    value_range: ClassVar = (0.0, 1.0)
    ignore_case: bool = False
    """Upper and lower case are the same."""
    ignore_punctuation: bool = False
    """Punctuation counts as if it were not there."""
    ignore_articles: bool = False
    """a, an and the count as if they were not there."""
    squad: bool = False
    """All three, as SQuAD's evaluation does."""
    also: str | None = None
    """Column of the data's row with further gold answers, a list; any of them is right (`answers_alt`)."""
    f1: bool = False
    """Partial credit: the F1 of the words that answer and gold share, as SQuAD's; the best over the gold answers."""

    def __call__(self, prompt: Prompt, text: str) -> Score:
        golds = [
            gold for gold in (prompt.reference, *self._others(prompt)) if gold is not None and gold.strip()
        ]
        if not golds:
            return Score(None, reason="no gold answer")
        answer = final_answer(text)
        if answer is None:
            return Score(0.0, reason="the answer is empty")
        words = self._words(answer)
        told = (
            shown(golds[0]) if len(golds) == 1 else f"any of {len(golds)} gold answers, as {shown(golds[0])}"
        )
        same = next((gold for gold in golds if self._words(gold) == words), None)
        if same is not None:
            return Score(1.0, reason=f"read {shown(answer)}, which is {shown(same)}")
        if self.f1:
            value = max(word_f1(words, self._words(gold)) for gold in golds)
            return Score(
                value, reason=f"read {shown(answer)}, which shares {value:.2f} (F1) of its words with {told}"
            )
        return Score(0.0, reason=f"read {shown(answer)}, which is not {told}")

    def _words(self, text: str) -> list[str]:
        if self.ignore_case or self.squad:
            text = text.casefold()
        if self.ignore_punctuation or self.squad:
            text = text.translate(_PUNCTUATION)
        if self.ignore_articles or self.squad:
            text = _ARTICLES.sub(" ", text)
        return text.split()

    def _others(self, prompt: Prompt) -> Sequence[str]:
        found = prompt.row.get(self.also) if self.also is not None else None
        if found is None:
            return ()
        return (found,) if isinstance(found, str) else [str(gold) for gold in found]


def word_f1(answer: Sequence[str], gold: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of words, in [0, 1].

    >>> word_f1(["in", "new", "york"], ["new", "york", "city"])  # 2 of 3 words, both ways
    0.6666666666666666
    """
    shared = sum((Counter(answer) & Counter(gold)).values())
    return 2 * shared / (len(answer) + len(gold)) if shared else 0.0
