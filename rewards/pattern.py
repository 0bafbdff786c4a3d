"""The `regex` verifier: a pattern finds the answer, or is the answer."""

from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from rlkit.errors import ConfigError, require
from rlkit.types import Prompt, Score

from .contract import shown

MAX_SECONDS = 5.0
"""For one search: `regex`, unlike `re`, can give up a pattern that backtracks for ever."""


@dataclass(frozen=True, slots=True)
class RegexVerifier:
    r"""1.0 when the last match of a pattern is the gold answer, or, where the gold answer is the pattern, when it matches.

    >>> verify = RegexVerifier(pattern=r"answer: (\w+)")
    >>> verify(Prompt(id="a", token_ids=[], reference="Paris"), "answer: Rome ... answer: Paris").value
    1.0
    """

    value_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    pattern: str | None = None
    """What finds the answer in the text; none: the gold answer is a pattern, and the text is right where it matches."""
    group: int | None = None
    """Group of the pattern that is the answer; none: the first, where there is one, else the whole match."""
    whole: bool = False
    """The pattern must match the whole text, white space around it apart, and not a part."""
    ignore_case: bool = False
    """Upper and lower case are the same, in the pattern and in the comparison."""
    timeout: float = MAX_SECONDS
    """Seconds for one search; then it is an error. Keep it under --reward.timeout."""

    def __post_init__(self) -> None:
        require(self.timeout > 0, "regex timeout", self.timeout, "a positive number of seconds")
        if self.pattern is not None:
            compiled = _compiled(self.pattern, self.ignore_case)
            groups = compiled.groups
            require(
                self.group is None or 0 <= self.group <= groups, "regex group", self.group, f"0 to {groups}"
            )

    def gold_text(self, prompt: Prompt) -> str | None:
        """A pattern cannot be turned round: there is no gold text."""
        return None

    def __call__(self, prompt: Prompt, text: str) -> Score:
        gold = prompt.reference
        if gold is None or not gold.strip():
            return Score(None, reason="no gold answer")
        try:
            compiled = _compiled(self.pattern if self.pattern is not None else gold, self.ignore_case)
        except ConfigError as error:  # a row's own pattern
            return Score(None, reason=f"the gold answer is no pattern: {error}")
        try:
            found = self._last(compiled, text)
        except TimeoutError:
            said = f"the pattern {shown(compiled.pattern)} did not end within {self.timeout:g} s"
            return Score(None, reason=f"{said} on {len(text):,} characters", error=True)
        if found is None:
            return Score(0.0, reason=f"no match of {shown(compiled.pattern)}")
        if self.pattern is None:
            return Score(1.0, reason=f"{shown(found.group())} matches the gold pattern {shown(gold)}")
        answer = found.group(self.group if self.group is not None else min(1, compiled.groups)) or ""
        one, other = (answer.casefold(), gold.casefold()) if self.ignore_case else (answer, gold)
        equal = one.split() == other.split()
        relation = "is" if equal else "is not"
        return Score(
            float(equal), reason=f"read {shown(answer)} by the pattern, which {relation} {shown(gold)}"
        )

    def _last(self, compiled: Any, text: str) -> Any:
        if self.whole:
            return compiled.fullmatch(text.strip(), timeout=self.timeout)
        return next(iter(deque(compiled.finditer(text, timeout=self.timeout), maxlen=1)), None)


@lru_cache(maxsize=1024)
def _compiled(pattern: str, ignore_case: bool) -> Any:
    import regex

    try:
        return regex.compile(pattern, regex.MULTILINE | (regex.IGNORECASE if ignore_case else 0))
    except regex.error as error:
        raise ConfigError(f"regex pattern {shown(pattern)}: {error}") from error
