"""Shaping: what an answer looks like, whatever it says. Made to be a small part of a weighted sum."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar, Literal

from rlkit.errors import require
from rlkit.types import Prompt, Score

_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class LengthVerifier:
    """1.0 up to `target` characters or words, then falling evenly to 0.0 at `limit`; an empty answer is 0.0.

    In tokens, `--algo dapo` punishes what is overlong; a verifier sees the text alone.

    >>> LengthVerifier(target=2, limit=4, unit="words")(Prompt(id="a", token_ids=[]), "one two three").value
    0.5
    """

    value_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    limit: int
    """Length from which an answer is worth 0.0."""
    target: int | None = None
    """Length up to which it is worth 1.0; none: half of the limit."""
    unit: Literal["characters", "words"] = "characters"
    """What is counted; a word is what stands between white space."""
    least: int = 1
    """An answer shorter than this is worth 0.0: without it, saying nothing would be best."""

    def __post_init__(self) -> None:
        require(self.limit > 0, "length limit", self.limit, "1 or more")
        require(
            0 <= self._target < self.limit,
            "length target",
            self.target,
            f"0 or more, and less than limit = {self.limit}",
        )
        require(0 <= self.least <= self.limit, "length least", self.least, f"0 to limit = {self.limit}")

    @property
    def _target(self) -> int:
        return self.limit // 2 if self.target is None else self.target

    def gold_text(self, prompt: Prompt) -> str | None:
        """None: it reads no gold answer."""
        return None

    def __call__(self, prompt: Prompt, text: str) -> Score:
        length = len(text) if self.unit == "characters" else len(text.split())
        if length < self.least:
            return Score(0.0, reason=f"{length} {self.unit}, expected at least {self.least}")
        value = min(1.0, max(0.0, (self.limit - length) / (self.limit - self._target)))
        return Score(
            value, reason=f"{length} {self.unit}; {self._target} are worth 1, {self.limit} are worth 0"
        )


@dataclass(frozen=True, slots=True)
class RepetitionVerifier:
    """The share of repeated n-grams, 0.0 for none and towards 1.0 for a loop: subtract it, as in `math-0.2*repetition(n=4)`.

    >>> RepetitionVerifier(n=2)(Prompt(id="a", token_ids=[]), "so it is so it is").value
    0.4
    """

    value_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    n: int = 4
    """Words and signs in a row that count as the same when met again."""
    loop: int = 3
    """An answer that ends with the same piece this often, and at least 40 characters of it, is a loop, worth 1.0; 0: not looked for."""

    def __post_init__(self) -> None:
        require(self.n >= 1, "repetition n", self.n, "1 or more words")
        require(self.loop == 0 or self.loop >= 2, "repetition loop", self.loop, "0 (off), or 2 or more")

    def gold_text(self, prompt: Prompt) -> str | None:
        """None: it reads no gold answer."""
        return None

    def __call__(self, prompt: Prompt, text: str) -> Score:
        words = _WORD.findall(text)
        piece = looping_piece(words, self.loop)
        if piece:
            return Score(
                1.0, reason=f"the answer ends in a loop of {' '.join(piece)[:80]!r}", parts={"loop": 1.0}
            )
        count = len(words) - self.n + 1
        if count < 1:
            return Score(0.0, reason=f"{len(words)} words, too few to repeat {self.n}")
        grams = Counter(zip(*(words[i:] for i in range(self.n)), strict=False))
        share = 1 - len(grams) / count
        often, times = grams.most_common(1)[0]
        said = f"; {' '.join(often)[:80]!r} {times} times" if times > 1 else ""
        reason = f"{count - len(grams)} of {count} {self.n}-grams repeat an earlier one{said}"
        return Score(share, reason=reason, parts={"loop": 0.0})


MAX_PIECE = 200
"""Words of the longest loop that is looked for."""


def looping_piece(words: list[str], times: int) -> list[str]:
    """The shortest piece that the words end with `times` times in a row or more, the last one perhaps cut; []: none.

    >>> looping_piece(("so we wait " + "and see what the others will do " * 3 + "and").split(), 3)
    ['see', 'what', 'the', 'others', 'will', 'do', 'and']
    """
    if not times:
        return []
    for length in range(1, min(MAX_PIECE, len(words) // times) + 1):
        end = words[-length * times :]
        if end == end[:length] * times and sum(map(len, end)) >= 40:
            return end[:length]
    return []
