"""A user's plain function as a verifier."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from rlkit.errors import RolloutError
from rlkit.types import Prompt, Score

from .contract import (
    DEFAULT_CONCURRENCY,
    boxed_gold,
    check_score,
    finite,
    has_concurrency,
    has_range,
    knows_gold,
    shown_value,
    verifier_name,
)


@dataclass(frozen=True, slots=True)
class _Function:
    """What a function may tell about itself, as attributes of the function."""

    function: Callable[[Prompt, str], object]

    @property
    def __name__(self) -> str:
        return verifier_name(self.function)

    @property
    def value_range(self) -> tuple[float, float] | None:
        return self.function.value_range if has_range(self.function) else None

    def gold_text(self, prompt: Prompt) -> str | None:
        function = self.function
        return function.gold_text(prompt) if knows_gold(function) else boxed_gold(prompt)


@dataclass(frozen=True, slots=True)
class FunctionVerifier(_Function):
    """Calls `function(prompt, text)`, which may return a Score, a number, a bool, or None for 'cannot judge'.

    >>> verify = FunctionVerifier(lambda prompt, text: len(text) / 10)
    >>> verify(Prompt(id="a", token_ids=[]), "four").value
    0.4
    """

    def __call__(self, prompt: Prompt, text: str) -> Score:
        return _as_score(self.function(prompt, text), self.function)


@dataclass(frozen=True, slots=True)
class AsyncFunctionVerifier(_Function):
    """The same for an `async def` function."""

    function: Callable[[Prompt, str], Awaitable[object]]

    @property
    def concurrency(self) -> int:
        return self.function.concurrency if has_concurrency(self.function) else DEFAULT_CONCURRENCY

    async def __call__(self, prompt: Prompt, text: str) -> Score:
        return _as_score(await self.function(prompt, text), self.function)


def function_verifier(
    function: Callable[[Prompt, str], object],
) -> FunctionVerifier | AsyncFunctionVerifier:
    """The verifier that can call the function, plain or `async def`."""
    if inspect.iscoroutinefunction(function):
        return AsyncFunctionVerifier(function)
    return FunctionVerifier(function)


def _as_score(result: object, function: Callable[..., object]) -> Score:
    name = verifier_name(function)
    if isinstance(result, Score):
        return check_score(result, name)
    if result is None:
        return Score(None, reason=f"{name} returned None")
    if inspect.iscoroutine(result):
        result.close()
        raise RolloutError(f"{name} returned something to await: define it with `async def`")
    value = finite(result, f"{name} returned")
    return Score(value, reason=f"{name} returned {shown_value(result)}")
