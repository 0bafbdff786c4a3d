"""The `choice` verifier: multiple choice by letter or by text, and the short answers that such benchmarks mix in (BBH)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from rlkit.types import Prompt, Score

from .choice_reading import read_options
from .contract import shown
from .options import bulleted, letter, lettered, option_texts, same_words, tokens
from .short_answer import judge_short, read_short

_LETTERED = re.compile(r"(?:\(([A-Z])\)|([A-Z])(?:[.):]|\Z))\s*(.*)\Z", re.DOTALL)
_SEVERAL = re.compile(r"\(?[A-Z]\)?(?:\s*(?:,|;|/|&|\band\b)\s*\(?[A-Z]\)?)+")


@dataclass(frozen=True, slots=True)
class ChoiceVerifier:
    r"""1.0 when the option that the answer settles on, by letter or by text, is the gold one; 0.0 for another, several or none.

    >>> prompt = Prompt(id="a", token_ids=[], reference="B", row={"options": ["Rome", "Paris", "Bonn"]})
    >>> ChoiceVerifier()(prompt, "Not (A). The answer is Paris.").reason
    "read (B) 'Paris' after 'answer is'; the gold option is (B)"
    """

    value_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    column: str | None = None
    """Column of the data's row with the list of options; none: `options` or `choices`, else the lines `(A) ...` of the question."""
    first: int | None = None
    """Number of the first option, where the gold answer is an index and not a letter (MMLU on the hub: 0)."""

    def gold_text(self, prompt: Prompt) -> str | None:
        gold = (prompt.reference or "").strip()
        if not gold:
            return None
        letters = gold_letters(gold, self._options(prompt), self.first)
        named = " and ".join(f"({name})" for name in letters) if letters else gold
        return f"The answer is {named}."

    def __call__(self, prompt: Prompt, text: str) -> Score:
        gold = (prompt.reference or "").strip()
        if not gold:
            return Score(None, reason="no gold answer")
        options = self._options(prompt)
        letters = gold_letters(gold, options, self.first)
        if letters is None:
            return judge_short(gold, bulleted(prompt.question), text)
        if not letters:
            said = f"the gold answer {shown(gold)} is none of the {len(options)} options"
            return Score(
                None, reason=f"{said}; where it is an index, tell the number of the first: choice(first=0)"
            )
        expected = (
            f"the gold option is {_told(letters)}" if len(letters) == 1 else f"gold are {_told(letters)}"
        )
        reading = read_options(text, options)
        if reading is None:
            return Score(0.0, reason=f"no option is named as the answer; {expected}")
        read = f"read {_told(reading.letters, options)} {reading.place}"
        right = set(reading.letters) == set(letters)
        return Score(float(right), reason=f"{read}; {expected}")

    def answer(self, prompt: Prompt, text: str) -> str | None:
        """The answer that the verdict is on, as votes count it: the letters of options, or the words of a short answer."""
        gold, options = (prompt.reference or "").strip(), self._options(prompt)
        if gold and gold_letters(gold, options, self.first) is None:
            short = read_short(gold, bulleted(prompt.question), text)
            return None if short is None else " ".join(tokens(short[0])) or None
        reading = read_options(text, options)
        return None if reading is None else " and ".join(sorted(reading.letters))

    def _options(self, prompt: Prompt) -> tuple[str, ...]:
        columns = ("options", "choices") if self.column is None else (self.column,)
        for column in columns:
            found = option_texts(prompt.row.get(column))
            if found:
                return found
        return lettered(prompt.question)


@lru_cache(maxsize=4096)
def gold_letters(gold: str, options: tuple[str, ...], first: int | None = None) -> tuple[str, ...] | None:
    """The letters of a gold answer; (): it should be one of the options and is not; None: it is no option but a short answer.

    >>> gold_letters("(B)", ()), gold_letters("A, C", ()), gold_letters("Paris", ("Rome", "Paris")), gold_letters("yes", ())
    (('B',), ('A', 'C'), ('B',), None)
    >>> gold_letters("1", ("Rome", "Paris"), first=0), gold_letters("K", ("Rome", "Paris"))
    (('B',), ())
    """
    if first is not None and gold.isdecimal():
        place = int(gold) - first
        return (letter(place),) if 0 <= place < (len(options) or 26) else ()
    known = [letter(place) for place in range(len(options) or 26)]
    if _SEVERAL.fullmatch(gold):
        names = tuple(dict.fromkeys(re.findall(r"[A-Z]", gold)))
        return names if set(names) <= set(known) else ()
    found = _LETTERED.match(gold)
    if found is not None:
        name, rest = found[1] or found[2], found[3]
        if (
            not rest
            or found[1]
            or (options and name in known and same_words(rest, options[ord(name) - ord("A")]))
        ):
            return (name,) if name in known else ()
    same = [letter(place) for place, option in enumerate(options) if same_words(option, gold)]
    if same:
        return (same[0],)
    return () if options and gold.isdecimal() else None


def _told(letters: Sequence[str], options: Sequence[str] = ()) -> str:
    texts = {letter(place): f" {shown(option, 40)}" for place, option in enumerate(options)}
    return " and ".join(f"({name}){texts.get(name, '')}" for name in letters)
