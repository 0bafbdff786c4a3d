"""Weighted sums of verifiers that keep their parts."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlkit.errors import ConfigError
from rlkit.types import AnyVerifier, Prompt, Score

from .contract import (
    WHOLE_STEP,
    Item,
    batch_size,
    boxed_gold,
    concurrency,
    gold_text,
    has_batch,
    is_async,
    judge,
    judge_async,
    judge_batch,
    judge_batch_async,
    knows_gold,
    value_range,
    verifier_name,
    warm_up,
)

Term = tuple[str, float, AnyVerifier]
"""Name, weight, verifier."""


@dataclass(frozen=True, slots=True)
class _Sum:
    """What the two sums have in common: all but the calling of their terms."""

    terms: tuple[Term, ...]

    @property
    def value_range(self) -> tuple[float, float] | None:
        """From the ranges of the terms that count; None: one of them declares none."""
        low = high = 0.0
        for _, weight, verifier in self.terms:
            if weight == 0:
                continue
            declared = value_range(verifier)
            if declared is None:
                return None
            ends = sorted(weight * end for end in declared)
            low, high = low + ends[0], high + ends[1]
        return None if math.isnan(low) or math.isnan(high) else (low, high)

    @property
    def batch_size(self) -> int:
        """The least of those terms that judge in batches, or a whole step where one compares answers; 1: none does."""
        sizes = [batch_size(verifier) for *_, verifier in self.terms]
        if max(sizes) >= WHOLE_STEP:
            return max(sizes)
        return min((size for size in sizes if size > 1), default=1)

    def gold_text(self, prompt: Prompt) -> str | None:
        """As the weightiest term reads it that has a way of its own."""
        for _, weight, verifier in sorted(self.terms, key=lambda term: -abs(term[1])):
            if weight != 0 and knows_gold(verifier) and (text := gold_text(verifier, prompt)) is not None:
                return text
        return boxed_gold(prompt)

    def warm_up(self) -> None:
        for *_, verifier in self.terms:
            warm_up(verifier)


@dataclass(frozen=True, slots=True)
class WeightedSum(_Sum):
    """sum(weight * value) over its parts; `Score.parts` holds each value before its weight.

    A skip or an error of any part that counts (weight not 0) is the verdict of the whole: a sum without one of its
    terms would be another reward. A part of weight 0 is only recorded.

    >>> from .format import FormatVerifier
    >>> verify = WeightedSum((("format", 0.1, FormatVerifier()),))
    >>> verify(Prompt(id="a", token_ids=[]), r"so \\boxed{42}").parts
    {'format': 1.0}
    """

    def __post_init__(self) -> None:
        for name, _, verifier in self.terms:
            if is_async(verifier):
                raise ConfigError(
                    f"{name} ({verifier_name(verifier)}) is async: expected AsyncWeightedSum around it, not WeightedSum"
                )

    def __call__(self, prompt: Prompt, text: str) -> Score:
        judged = []
        for _, weight, verifier in self.terms:
            judged.append(judge(verifier, prompt, text))
            if weight != 0 and judged[-1].value is None:
                break  # the verdict is known, and the other terms may be dear
        return _combine(self.terms, judged)

    def batch(self, items: Sequence[Item]) -> list[Score]:
        columns = [_judge_column(verifier, items) for *_, verifier in self.terms]
        return [_combine(self.terms, row) for row in zip(*columns, strict=True)]


@dataclass(frozen=True, slots=True)
class AsyncWeightedSum(_Sum):
    """A WeightedSum for async terms, which are waited for at the same time; the other terms hold the event loop up."""

    @property
    def concurrency(self) -> int:
        """The least of its async terms."""
        return min((concurrency(verifier) for *_, verifier in self.terms if is_async(verifier)), default=1)

    async def __call__(self, prompt: Prompt, text: str) -> Score:
        judged = await asyncio.gather(*(judge_async(verifier, prompt, text) for *_, verifier in self.terms))
        return _combine(self.terms, judged)

    async def batch(self, items: Sequence[Item]) -> list[Score]:
        columns = await asyncio.gather(*(_judge_column_async(verifier, items) for *_, verifier in self.terms))
        return [_combine(self.terms, row) for row in zip(*columns, strict=True)]


def weighted_sum(terms: Sequence[Term]) -> WeightedSum | AsyncWeightedSum:
    """The sum that can call these terms."""
    if any(is_async(verifier) for *_, verifier in terms):
        return AsyncWeightedSum(tuple(terms))
    return WeightedSum(tuple(terms))


def _judge_column(verifier: AnyVerifier, items: Sequence[Item]) -> list[Score]:
    """One term's verdicts on all items; raises when its batch does, and the pool asks one at a time."""
    if has_batch(verifier):
        size = batch_size(verifier)
        return [s for i in range(0, len(items), size) for s in judge_batch(verifier, items[i : i + size])]
    return [judge(verifier, prompt, text) for prompt, text in items]


async def _judge_column_async(verifier: AnyVerifier, items: Sequence[Item]) -> list[Score]:
    if has_batch(verifier):
        size = batch_size(verifier)
        parts = [judge_batch_async(verifier, items[i : i + size]) for i in range(0, len(items), size)]
        return [score for part in await asyncio.gather(*parts) for score in part]
    return await asyncio.gather(*(judge_async(verifier, prompt, text) for prompt, text in items))


def _combine(terms: Sequence[Term], judged: Sequence[Score]) -> Score:
    """The verdict of the whole from those of its terms; `judged` may end at the first that decides it."""
    total = 0.0
    parts: dict[str, float] = {}
    reasons: list[str] = []
    for (name, weight, _), score in zip(terms, judged, strict=False):
        parts.update({f"{name}/{inner}": value for inner, value in score.parts.items()})
        if score.value is None:
            if weight != 0:
                return Score(None, reason=f"{name}: {score.reason}", parts=parts, error=score.error)
            reasons.append(f"{name} {score.outcome}: {score.reason}")
            continue
        parts[name] = score.value
        total += weight * score.value
        reasons.append(f"{name} {score.value:g}: {score.reason}")
    return Score(total, reason="; ".join(reasons), parts=parts)
