"""Reward functions written for other projects, used as they are: recognised by their signature, each project in its file.

    trl        TRL, open-r1, ms-swift        f(prompts, completions, **columns) -> list
    verl       verl                          compute_score(data_source, solution_str, ground_truth, extra_info)
    rubric     verifiers                     Rubric(funcs, weights), or one function with arguments by name
    task       verifiers from 0.4 on         a Task class with @vf.reward methods
    openrlhf   OpenRLHF                      reward_func(queries, prompts, labels) -> tensor or dict
    skyrl      SkyRL-Gym                     Env(env_config, extras).step(answer)
    others     slime, AReaL, open-instruct

Each file has a coroutine that judges one answer, or a batch of them; the classes here are what the pool calls.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlkit.errors import RolloutError
from rlkit.rewards.contract import (
    DEFAULT_CONCURRENCY,
    WHOLE_STEP,
    Item,
    concurrency,
    failure,
    gold_text,
    has_concurrency,
    is_async,
    value_range,
    verifier_name,
)
from rlkit.types import AnyVerifier, Prompt, Score

from . import openrlhf, others, rubric, skyrl, task, trl, verl
from .arguments import drive
from .own import Own, make_own
from .recognise import STYLES, recognise, split_style

__all__ = [
    "STYLES",
    "AdaptedVerifier",
    "AsyncAdaptedVerifier",
    "BatchAdaptedVerifier",
    "adapt",
    "split_style",
]

JUDGES: Mapping[str, Callable[[Own, Prompt, str], Coroutine[Any, Any, Score]]] = {
    "verl": verl.judge,
    "verifiers": rubric.judge,
    "task": task.judge,
    "skyrl": skyrl.judge,
    "slime": others.judge_as_slime,
    "areal": others.judge_as_areal,
    "open_instruct": others.judge_as_open_instruct,
}
"""Of one answer."""
BATCH_JUDGES: Mapping[str, Callable[[Own, Sequence[Item]], Coroutine[Any, Any, list[Score]]]] = {
    "trl": trl.judge_all,
    "swift": trl.judge_all_as_swift,
    "openrlhf": openrlhf.judge_all,
    "verifiers": rubric.judge_all,
    "slime": others.judge_all_as_slime,
}
"""Of many."""

BATCH_SIZE = 64
"""Answers per call of a function that takes batches: enough to pay for the call, few enough to share out among processes."""


@dataclass(frozen=True, slots=True)
class _Adapted:
    """What all three share: the user's object, and what it may tell about itself."""

    style: str
    own: Own

    @property
    def __name__(self) -> str:
        return self.own.name

    @property
    def value_range(self) -> tuple[float, float] | None:
        return value_range(self.own.value)

    def gold_text(self, prompt: Prompt) -> str | None:
        return gold_text(self.own.value, prompt)


@dataclass(frozen=True, slots=True)
class AdaptedVerifier(_Adapted):
    """One answer per call."""

    def __call__(self, prompt: Prompt, text: str) -> Score:
        return drive(JUDGES[self.style](self.own, prompt, text), self.own.name)


@dataclass(frozen=True, slots=True)
class AsyncAdaptedVerifier(_Adapted):
    """One answer per call of an async function."""

    @property
    def concurrency(self) -> int:
        return concurrency(self.own.value) if has_concurrency(self.own.value) else DEFAULT_CONCURRENCY

    async def __call__(self, prompt: Prompt, text: str) -> Score:
        return await JUDGES[self.style](self.own, prompt, text)


@dataclass(frozen=True, slots=True)
class BatchAdaptedVerifier(_Adapted):
    """Many answers per call."""

    batch_size: int = BATCH_SIZE

    def batch(self, items: Sequence[Item]) -> list[Score]:
        if self.batch_size == WHOLE_STEP and len(items) == 1:
            return [_torn(self.own.name)]
        return drive(BATCH_JUDGES[self.style](self.own, items), self.own.name)


@dataclass(frozen=True, slots=True)
class AsyncBatchAdaptedVerifier(_Adapted):
    """Many answers per call of an async function."""

    batch_size: int = BATCH_SIZE

    async def batch(self, items: Sequence[Item]) -> list[Score]:
        if self.batch_size == WHOLE_STEP and len(items) == 1:
            return [_torn(self.own.name)]
        return await BATCH_JUDGES[self.style](self.own, items)


def _torn(name: str) -> Score:
    """For an answer that is judged again alone, when the step's batch was lost: compared with itself it would look best."""
    return failure(
        RolloutError(
            f"{name} compares the answers to a prompt, and was asked about one alone (as when all answers of a "
            "step together take longer than --reward.timeout)"
        )
    )


def adapt(
    target: object,
    *,
    source: str | None = None,
    style: str | None = None,
    options: Mapping[str, object] | None = None,
) -> AnyVerifier | None:
    """`target` as a verifier, if it was written for another project; None: it is rlkit's own kind.

    source: the `file.py:attr` it came from, by which verifier processes load it
    style: one of STYLES; None: read from the signature
    options: keyword arguments of a function, or of a class that is made

    Raises ConfigError when the signature fits several projects, or an option is unknown.

    >>> verify = adapt(lambda solution_str, ground_truth: float(ground_truth in solution_str), )
    >>> verify(Prompt(id="a", token_ids=[], reference="42"), "it is 42").reason
    '<lambda> returned 1'
    """
    name = source.rpartition(":")[2] if source else verifier_name(target)
    style = style or recognise(target, source or name)
    if style == "rlkit":
        return None
    own = make_own(target, name, source, options or {})
    functions: list[object] = [own.value]
    compares = style == "slime" and others.judges_groups(own.value)
    if style == "verifiers":
        functions = [part.function for part in rubric.parts_of(own.value, name, {})]
        compares = any(rubric.judges_groups(function) for function in functions)
    waits = style == "task" or any(map(is_async, functions))
    if compares or style not in JUDGES:
        size = WHOLE_STEP if compares else BATCH_SIZE
        return (
            AsyncBatchAdaptedVerifier(style, own, size) if waits else BatchAdaptedVerifier(style, own, size)
        )
    return AsyncAdaptedVerifier(style, own) if waits else AdaptedVerifier(style, own)
