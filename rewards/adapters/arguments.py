"""What the adapters share: the words of a prompt as other projects name them, calls by name, numbers read back."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar, cast

from rlkit.errors import RolloutError
from rlkit.rewards.contract import Item, failure, finite, shown, shown_value
from rlkit.types import Prompt, Score

Message = dict[str, Any]
T = TypeVar("T")

REFERENCE_NAMES = (
    *("answer", "solution", "ground_truth", "label", "target", "gold", "gold_answer", "final_answer"),
    *("reference", "reference_answer", "expected_answer"),
)
"""Names under which reward functions ask for the gold answer, whatever the data calls it."""


def conversation(prompt: Prompt) -> list[Message] | None:
    """The chat messages of the row, up to the question; None: the row's question is a plain text.

    >>> conversation(Prompt(id="a", token_ids=[], question="6*7?", row={"prompt": [{"role": "user", "content": "6*7?"}]}))
    [{'role': 'user', 'content': '6*7?'}]
    """
    for value in prompt.row.values():
        if not isinstance(value, Sequence) or isinstance(value, str):
            continue
        messages = [dict(part) for part in value if isinstance(part, Mapping) and "role" in part]
        while messages and messages[-1]["role"] != "user":
            messages.pop()
        if messages and _text(messages[-1].get("content")) == prompt.question:
            return messages
    return None


def _text(content: object) -> str:
    """A message's text; a list of parts is joined."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, Sequence) else []
    return "".join(str(part.get("text") or "") for part in parts if isinstance(part, Mapping))


def messages_of(prompt: Prompt) -> list[Message]:
    """The conversation, or the question as one user message."""
    return conversation(prompt) or [{"role": "user", "content": prompt.question}]


def answer_message(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


def by_prompt(items: Sequence[Item]) -> list[list[int]]:
    """Places of the answers to each prompt, in order."""
    groups: dict[str, list[int]] = {}
    for index, (prompt, _) in enumerate(items):
        groups.setdefault(prompt.id, []).append(index)
    return list(groups.values())


def call_arguments(
    function: Callable[..., object],
    name: str,
    offered: Mapping[str, object],
    columns: Mapping[str, object],
    options: Mapping[str, object],
    reference: object,
    *,
    spread: bool = False,
) -> dict[str, object]:
    """The keyword arguments for one call, each parameter filled from the first that has it.

    options: the user's own words;  offered: what that project always passes;  columns: of the data's row
    reference: the gold answer, for a parameter that asks for one by another name than the data's; None: there is none
    spread: a function with **kwargs gets everything, as that project passes it

    Raises RolloutError for a parameter that nothing fills, with the columns there are.
    """
    known = {**columns, **offered, **options}
    parameters = inspect.signature(function).parameters.values()
    arguments: dict[str, object] = {}
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.name in known:
            arguments[parameter.name] = known[parameter.name]
        elif parameter.name in REFERENCE_NAMES and reference is not None:
            arguments[parameter.name] = reference
        elif parameter.default is parameter.empty:
            raise RolloutError(
                f"{name} asks for {parameter.name!r}, which the data has not; "
                f"columns: {', '.join(map(str, columns)) or 'none'}"
            )
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        arguments = {**(known if spread else options), **arguments}
    return arguments


async def settled(result: object) -> object:
    """What a function returned, awaited when it is async."""
    return await result if inspect.isawaitable(result) else result


async def together(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; waited for at the same time where there is an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return [await work for work in works]
    return await asyncio.gather(*works)


def drive(work: Coroutine[Any, Any, T], name: str) -> T:
    """The result of work that waits for nothing, without an event loop: plain functions may start one of their own."""
    try:
        work.send(None)
    except StopIteration as done:
        return cast(T, done.value)
    work.close()
    raise RolloutError(f"{name} returned something to await: define it with `async def`")


def plain(value: object) -> object:
    """A number of numpy or torch as Python's own, a tensor or array as a list; anything else as it is."""
    convert = getattr(value, "tolist", None)
    return convert() if callable(convert) else value


def read_value(result: object, name: str, parts: Mapping[str, object] | None = None) -> Score:
    """A number as a Score, None as a skip, anything else as an error; of `parts`, numbers are parts and texts go into the reason.

    >>> read_value({"score": 0.5, "acc": True, "pred": "42"}, "f")
    Score(value=0.5, reason="f returned 0.5; pred '42'", parts={'acc': 1.0}, error=False)
    >>> read_value(float("nan"), "f").reason
    "f returned 'nan' (float), expected a finite number"
    """
    result = plain(result)
    extras = dict(parts or {})
    if isinstance(result, Mapping):
        if "score" not in result:
            return failure(
                RolloutError(f"{name} returned {shown_value(result)}, expected a number or a 'score'")
            )
        extras.update((str(key), value) for key, value in result.items() if key != "score")
        result = plain(result["score"])
    try:
        value = None if result is None else finite(result, f"{name} returned")
        numbers = {
            key: finite(plain(number), f"{name} returned {key} =")
            for key, number in extras.items()
            if isinstance(plain(number), int | float)
        }
    except RolloutError as error:
        return failure(error)
    texts = [
        f"{key} {shown(str(text))}" for key, text in extras.items() if key not in numbers and text is not None
    ]
    said = "None" if value is None else f"{value:g}"
    return Score(value, reason="; ".join([f"{name} returned {said}", *texts]), parts=numbers)


def read_values(results: object, name: str, expected: int) -> list[object]:
    """A batch's results as a list. Raises RolloutError when it is no list, or not as long as the batch."""
    results = plain(results)
    if not isinstance(results, Sequence) or isinstance(results, str):
        raise RolloutError(f"{name} returned {shown_value(results)}, expected a list of {expected} rewards")
    if len(results) != expected:
        raise RolloutError(
            f"{name} returned {len(results)} rewards for {expected} answers, expected one for each"
        )
    return list(results)
