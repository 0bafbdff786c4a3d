"""verifiers' reward functions, alone or in a `Rubric(funcs, weights)`: arguments by name, plural names for a whole group.

A rubric's own scoring is not used: it counts a function that raises as 0.0. Here that answer's verdict is an error.
"""

import inspect
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlkit.rewards.contract import Item, failure
from rlkit.types import Prompt, Score

from .arguments import (
    answer_message,
    by_prompt,
    call_arguments,
    messages_of,
    read_value,
    read_values,
    settled,
    together,
)
from .own import Own

SINGULAR = ("prompt", "completion", "answer", "info", "state", "task")
PLURAL = ("prompts", "completions", "answers", "infos", "states", "tasks")
Function = Callable[..., object]


@dataclass(frozen=True, slots=True)
class Part:
    """One function of a rubric."""

    name: str
    weight: float
    function: Function
    objects: Mapping[str, object]
    """What the rubric gives by name beside the row: its parser, its judge."""


def parts_of(value: object, name: str, options: Mapping[str, object]) -> list[Part]:
    """The functions of a rubric, of a group of rubrics, or the one function alone."""
    inner = getattr(value, "rubrics", None)
    if isinstance(inner, Sequence):
        return [part for rubric in inner for part in parts_of(rubric, name, options)]
    if not is_rubric(value):
        assert callable(value)
        return [Part(name, 1.0, value, options)]
    rubric: Any = value
    objects = getattr(rubric, "class_objects", {})
    return [
        Part(str(getattr(function, "__name__", name)), float(weight), function, objects)
        for function, weight in zip(rubric.funcs, rubric.weights, strict=True)
    ]


def is_rubric(value: object) -> bool:
    has_functions = isinstance(getattr(value, "funcs", None), list) and hasattr(value, "weights")
    return not inspect.isclass(value) and (has_functions or isinstance(getattr(value, "rubrics", None), list))


def judges_groups(function: object) -> bool:
    """Whether the function sees all answers to a prompt at once: plural arguments, or a list as its result."""
    assert callable(function)
    signature = inspect.signature(function)
    returned = signature.return_annotation
    return (
        bool(set(signature.parameters) & set(PLURAL))
        or typing.get_origin(returned) is list
        or returned is list
    )


async def judge(own: Own, prompt: Prompt, text: str) -> Score:
    """The weighted sum over the rubric's functions for one answer; each function's value is a part."""
    parts = parts_of(own.value, own.name, own.call_options)
    state = _state(prompt, text)
    return _sum(own.name, parts, [await _one(part, prompt, state) for part in parts])


async def judge_all(own: Own, items: Sequence[Item]) -> list[Score]:
    """The same where a function sees a whole group: the answers among `items` to the same prompt."""
    parts = parts_of(own.value, own.name, own.call_options)
    scores: dict[int, Score] = {}
    for members in by_prompt(items):
        prompts = [items[i][0] for i in members]
        states = [_state(*items[i]) for i in members]
        columns = [await _column(part, prompts, states) for part in parts]
        for index, row in zip(members, zip(*columns, strict=True), strict=True):
            scores[index] = _sum(own.name, parts, row)
    return [scores[index] for index in range(len(items))]


async def _column(
    part: Part, prompts: Sequence[Prompt], states: Sequence[Mapping[str, object]]
) -> list[Score]:
    """One function's values for a group. What it raises is an error of each answer, since it judged none apart."""
    if not judges_groups(part.function):
        return await together([_one(part, p, s) for p, s in zip(prompts, states, strict=True)])
    offered = {f"{name}s": [state[name] for state in states] for name in SINGULAR if name != "state"}
    try:
        arguments = call_arguments(
            part.function, part.name, {**offered, "states": states, **part.objects}, {}, {}, None, spread=True
        )
        results = read_values(await settled(part.function(**arguments)), part.name, len(states))
    except Exception as error:  # the user's function raises anything
        return [failure(error)] * len(states)
    return [read_value(result, part.name) for result in results]


async def _one(part: Part, prompt: Prompt, state: Mapping[str, object]) -> Score:
    columns = {name: value for name, value in prompt.row.items() if name not in SINGULAR}
    offered = {**{name: state[name] for name in SINGULAR if name != "state"}, "state": state, **part.objects}
    try:
        arguments = call_arguments(part.function, part.name, offered, columns, {}, None, spread=True)
        result = await settled(part.function(**arguments))
    except Exception as error:
        return failure(error)
    return read_value(result, part.name)


def _state(prompt: Prompt, text: str) -> dict[str, object]:
    """What verifiers keeps of a rollout, as far as there is such a thing for one answer."""
    info = prompt.row.get("info")
    if isinstance(info, str):
        info = json.loads(info) if info.lstrip().startswith("{") else {}
    fields = {
        "prompt": messages_of(prompt),
        "completion": answer_message(text),
        "answer": prompt.row.get("answer", "") if prompt.reference is None else prompt.reference,
        "info": info or {},
        "task": prompt.row.get("task", ""),
    }
    return {
        **fields,
        "input": dict(prompt.row),
        "trajectory": [],
        "is_completed": True,
        "metrics": {},
        "reward": None,
    }


def _sum(name: str, parts: Sequence[Part], scores: Sequence[Score]) -> Score:
    """The weighted sum. A function of weight 0 only adds its part; any other that cannot judge decides the whole."""
    total = 0.0
    numbers: dict[str, float] = {}
    said: list[str] = []
    for part, score in zip(parts, scores, strict=True):
        if score.value is None and part.weight != 0:
            return Score(None, reason=score.reason, parts=numbers, error=score.error)
        if score.value is not None:
            total += part.weight * score.value
            numbers[part.name] = score.value
        said.append(score.reason)
    return Score(total, reason="; ".join(said), parts=numbers if len(parts) > 1 else {})
