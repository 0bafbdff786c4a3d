"""TRL's reward functions, which open-r1 and ms-swift share: a whole batch at once, columns as lists, None for 'not applicable'."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from rlkit.rewards.contract import Item
from rlkit.types import Score

from .arguments import (
    answer_message,
    call_arguments,
    conversation,
    messages_of,
    read_value,
    read_values,
    settled,
)
from .own import Own

TOKEN_IDS = "completion_ids"
"""The column under which the token ids of an answer come, where there are any."""
_NO_COLUMNS = ("prompt", "completion", TOKEN_IDS)
"""What TRL passes under another name, or not at all."""


async def judge_all(own: Own, items: Sequence[Item]) -> list[Score]:
    """`f(prompts=, completions=, completion_ids=, **columns)`: a list with a number, or None for a skip, per answer.

    Completions are lists of one message where the row's question is messages, or where the function says so in its
    annotation; otherwise texts.
    """
    function = cast(Callable[..., object], own.value)
    return await _judge(own, items, _says_messages(function) or any(conversation(p) for p, _ in items))


async def judge_all_as_swift(own: Own, items: Sequence[Item]) -> list[Score]:
    """The same for ms-swift's classes, whose completions are texts whatever the row holds."""
    return await _judge(own, items, False)


async def _judge(own: Own, items: Sequence[Item], as_messages: bool) -> list[Score]:
    function = cast(Callable[..., object], own.value)
    logged = _Logged(own.name, len(items))
    offered: dict[str, object] = {
        "prompts": [messages_of(p) if as_messages else p.question for p, _ in items],
        "completions": [answer_message(text) if as_messages else text for _, text in items],
        "trainer_state": NoTrainerState(),
        "log_extra": logged.log_extra,
        "log_metric": logged.log_metric,
    }
    if all(TOKEN_IDS in p.row for p, _ in items):
        offered[TOKEN_IDS] = [p.row[TOKEN_IDS] for p, _ in items]
    references = [p.reference for p, _ in items]
    arguments = call_arguments(
        function,
        own.name,
        offered,
        _columns(items),
        own.call_options,
        None if None in references else references,
        spread=True,
    )
    results = read_values(await settled(function(**arguments)), own.name, len(items))
    return [read_value(result, own.name, logged.of(i)) for i, result in enumerate(results)]


def _says_messages(function: Callable[..., object]) -> bool:
    """Whether the annotation of `completions` is a list of messages, as in TRL's own functions."""
    parameter = inspect.signature(function).parameters.get("completions")
    return parameter is not None and "dict" in str(parameter.annotation).lower()


def _columns(items: Sequence[Item]) -> dict[str, object]:
    """Every column of the rows as a list; None where a row lacks it."""
    names = dict.fromkeys(str(name) for prompt, _ in items for name in prompt.row)
    return {name: [p.row.get(name) for p, _ in items] for name in names if name not in _NO_COLUMNS}


class NoTrainerState:
    """Stands for TRL's `trainer_state`: a verdict that changed with the step could not be compared with an earlier one."""

    def __getattr__(self, name: str) -> object:
        raise AttributeError(
            f"trainer_state.{name}: rlkit does not tell a verifier which step it is; "
            f"read it as getattr(trainer_state, {name!r}, default)"
        )


class _Logged:
    """What the function says beside its rewards: a value per answer, or one number for the batch."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size
        self.columns: dict[str, list[object]] = {}
        self.metrics: dict[str, object] = {}

    def log_extra(self, column: str, values: Sequence[object]) -> None:
        self.columns[column] = read_values(values, f"{self.name}: log_extra({column!r})", self.size)

    def log_metric(self, name: str, value: object) -> None:
        self.metrics[name] = value

    def of(self, index: int) -> Mapping[str, object]:
        return {**self.metrics, **{column: values[index] for column, values in self.columns.items()}}
