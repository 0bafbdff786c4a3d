"""A user's plain function as a verifier."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from rlkit.errors import RolloutError
from rlkit.types import Prompt, Score

from .contract import check_score, finite, shown


@dataclass(frozen=True, slots=True)
class FunctionVerifier:
    """Calls `function(prompt, text)`, which may return a Score, a number, a bool, or None for 'cannot judge'.

    >>> verify = FunctionVerifier(lambda prompt, text: len(text) / 10)
    >>> verify(Prompt(id="a", token_ids=[]), "four").value
    0.4
    """

    function: Callable[[Prompt, str], object]

    def __call__(self, prompt: Prompt, text: str) -> Score:
        name = getattr(self.function, "__name__", "the function")
        result = self.function(prompt, text)
        if isinstance(result, Score):
            return check_score(result, name)
        if result is None:
            return Score(None, reason=f"{name} returned None")
        if inspect.iscoroutine(result):
            result.close()
            raise RolloutError(f"{name} is async: expected a plain function")
        value = finite(result, f"{name} returned")
        return Score(value, reason=f"{name} returned {shown(repr(result))}")
