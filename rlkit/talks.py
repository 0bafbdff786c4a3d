"""Requests that follow from the answers to earlier ones: a talk with the sampler, one for each prompt.

    def talk(prompt):                              a generator
        [drawn] = yield [Request(...)]             asks, and goes on when ITS OWN answers are there
        [more] = yield [Request(...drawn...)]
        return Group(...)

A sampler that can (`follow`) takes every talk on by itself, so that a prompt whose first answers are there asks its next question while
others still wait for theirs. What is asked, and with which seeds, does not depend on that.
"""

from collections.abc import Generator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from rlkit.types import Request, Rollout, Sample

T = TypeVar("T")

Talk = Generator[Sequence[Request], list[list[Rollout]], T]
"""Yields requests, is sent their rollouts (as `Sample` gives them), and returns what it was about."""


@runtime_checkable
class Follows(Protocol):
    """A sampler that needs no rounds."""

    def follow(self, talks: Sequence[Talk[T]]) -> list[T]:
        """What each talk returns, in order. Raises what `sample` raises, and whatever a talk raises."""
        ...


def follow(talks: Sequence[Talk[T]], sample: Sample) -> list[T]:
    """What each talk returns, in order; without rounds where the sampler can."""
    return sample.follow(talks) if isinstance(sample, Follows) else in_rounds(talks, sample)


def in_rounds(talks: Sequence[Talk[T]], sample: Sample) -> list[T]:
    """All first questions together, then all second ones: nobody goes on before the slowest.

    >>> def echo(word):
    ...     (answer,) = yield [word]
    ...     return answer
    >>> in_rounds([echo("a"), echo("b")], lambda words: [word.upper() for word in words])
    ['A', 'B']
    """
    results: dict[int, T] = {}
    asked: dict[int, Sequence[Request]] = {}

    def take_on(i: int, answers: list[list[Rollout]] | None) -> None:
        try:
            asked[i] = next(talks[i]) if answers is None else talks[i].send(answers)
        except StopIteration as end:
            results[i] = end.value

    for i in range(len(talks)):
        take_on(i, None)
    while asked:
        now, asked = asked, {}
        answers = iter(sample([request for requests in now.values() for request in requests]))
        for i, requests in now.items():
            take_on(i, [next(answers) for _ in requests])
    return [results[i] for i in range(len(talks))]
