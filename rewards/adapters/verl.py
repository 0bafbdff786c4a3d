"""verl's `compute_score`: one answer, a number or a dict whose "score" is the reward and whose other numbers are parts."""

from collections.abc import Callable, Mapping
from typing import cast

from rlkit.types import Prompt, Score

from .arguments import call_arguments, read_value, settled
from .own import Own


async def judge(own: Own, prompt: Prompt, text: str) -> Score:
    """`compute_score(data_source=, solution_str=, ground_truth=, extra_info=)`, with what else it names of the row's columns."""
    function = cast(Callable[..., object], own.value)
    offered = {**_fields(prompt), "solution_str": text}
    arguments = call_arguments(function, own.name, offered, prompt.row, own.call_options, prompt.reference)
    return read_value(await settled(function(**arguments)), own.name)


def _fields(prompt: Prompt) -> dict[str, object]:
    """A row in verl's layout as verl passes it; what stands for it in a row of any other."""
    row = prompt.row
    nested = row.get("reward_model")
    ground_truth = nested.get("ground_truth") if isinstance(nested, Mapping) else None
    fields = {"data_source": row.get("data_source") or "", "extra_info": row.get("extra_info") or {}}
    return fields if ground_truth is None else {**fields, "ground_truth": ground_truth}
