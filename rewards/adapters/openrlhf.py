"""OpenRLHF's `reward_func(queries, prompts, labels)`: a batch of texts; a tensor, or a dict whose "rewards" is one."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from rlkit.rewards.contract import Item
from rlkit.types import Score

from .arguments import call_arguments, plain, read_value, read_values, settled
from .own import Own


async def judge_all(own: Own, items: Sequence[Item]) -> list[Score]:
    """A Score per answer; "scores" and what is in "extra_logs" are parts, a number for the batch counts for each answer."""
    function = cast(Callable[..., object], own.value)
    prompts = [p.text or p.question for p, _ in items]
    offered: dict[str, object] = {
        "queries": [prompt + text for prompt, (_, text) in zip(prompts, items, strict=True)],
        "prompts": prompts,
        "labels": [p.row.get("label", p.reference) for p, _ in items],
    }
    arguments = call_arguments(function, own.name, offered, {}, own.call_options, None)
    result = await settled(function(**arguments))
    extras: dict[str, object] = {}
    if isinstance(result, Mapping):
        logs = result.get("extra_logs")
        extras = dict(logs) if isinstance(logs, Mapping) else {}
        if result.get("scores") is not None:
            extras["scores"] = result["scores"]
        result = result.get("rewards")
    size = len(items)
    rewards = [plain(result)] if size == 1 and isinstance(plain(result), float) else result
    values = read_values(rewards, own.name, size)
    return [read_value(value, own.name, _row(extras, i, size)) for i, value in enumerate(values)]


def _row(extras: Mapping[str, object], index: int, size: int) -> dict[str, object]:
    """One answer's share of the logs."""
    found = {str(name): plain(value) for name, value in extras.items()}
    return {
        name: value[index] if isinstance(value, list) and len(value) == size else value
        for name, value in found.items()
    }
