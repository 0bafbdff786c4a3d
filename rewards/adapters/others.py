"""slime's `custom_rm`, AReaL's `reward_fn` and open-instruct's `VerifierFunction`: one answer each, or slime's whole group."""

import inspect
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import cast

from rlkit.rewards.contract import Item, failure
from rlkit.types import Prompt, Score

from .arguments import by_prompt, call_arguments, plain, read_value, read_values, settled
from .own import Own


async def judge_as_slime(own: Own, prompt: Prompt, text: str) -> Score:
    """`custom_rm(args, sample)`; the options of `file.py:custom_rm(option=value)` are attributes of `args`."""
    function = cast(Callable[..., object], own.value)
    return read_value(
        await settled(function(SimpleNamespace(**own.options), _sample(prompt, text, 0))), own.name
    )


async def judge_all_as_slime(own: Own, items: Sequence[Item]) -> list[Score]:
    """`custom_rm(args, samples)`, once for the answers to each prompt."""
    function = cast(Callable[..., object], own.value)
    scores: dict[int, Score] = {}
    for members in by_prompt(items):
        samples = [_sample(*items[i], place) for place, i in enumerate(members)]
        try:
            results = await settled(function(SimpleNamespace(**own.options), samples))
            values = [read_value(result, own.name) for result in read_values(results, own.name, len(members))]
        except (
            Exception
        ) as error:  # the user's function raises anything: an error of each, it judged none apart
            values = [failure(error)] * len(members)
        scores.update(zip(members, values, strict=True))
    return [scores[index] for index in range(len(items))]


def judges_groups(function: object) -> bool:
    return callable(function) and "samples" in inspect.signature(function).parameters


def _sample(prompt: Prompt, text: str, index: int) -> SimpleNamespace:
    return SimpleNamespace(
        index=index,
        prompt=prompt.text or prompt.question,
        response=text,
        label=prompt.row.get("label", prompt.reference),
        metadata=prompt.row.get("metadata") or dict(prompt.row),
    )


async def judge_as_areal(own: Own, prompt: Prompt, text: str) -> Score:
    """`reward_fn(prompt, completions, prompt_ids, completion_ids, **columns)`: `completions` is the one answer's text."""
    function = cast(Callable[..., object], own.value)
    offered: dict[str, object] = {
        "prompt": prompt.text or prompt.question,
        "completions": text,
        "prompt_ids": prompt.token_ids,
        "completion_ids": prompt.row.get("completion_ids", []),
    }
    arguments = call_arguments(
        function, own.name, offered, prompt.row, own.call_options, prompt.reference, spread=True
    )
    return read_value(await settled(function(**arguments)), own.name)


async def judge_as_open_instruct(own: Own, prompt: Prompt, text: str) -> Score:
    """`verifier(tokenized_prediction=, prediction=, label=, query=)`: a result with a `score`."""
    function = cast(Callable[..., object], own.value)
    offered: dict[str, object] = {
        "tokenized_prediction": prompt.row.get("completion_ids", []),
        "prediction": text,
        "label": prompt.row.get("ground_truth", prompt.reference),
        "query": prompt.question,
    }
    arguments = call_arguments(function, own.name, offered, prompt.row, own.call_options, None)
    result = await settled(function(**arguments))
    return read_value(plain(getattr(result, "score", result)), own.name)
