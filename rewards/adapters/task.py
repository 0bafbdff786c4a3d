"""verifiers' tasks of its version 1 (0.4): a class with `@vf.reward` methods, its data a row. Scored by itself.

The package is there where such a class is; it is imported by the names that 0.4.0 has.
"""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, cast

from rlkit.errors import RolloutError
from rlkit.types import Prompt, Score

from .arguments import REFERENCE_NAMES, conversation, read_value
from .own import Own


async def judge(own: Own, prompt: Prompt, text: str) -> Score:
    """`Task(data).score(trace)` for a trace of the question and one answer; rewards and metrics are parts."""
    make = cast(Any, own.value)
    task = make(make.data_type().model_validate(_data(make.data_type(), prompt)))
    for hook in task.hooks("reward"):
        runtime = inspect.signature(hook).parameters.get("runtime")
        if runtime is not None and runtime.default is runtime.empty:
            raise RolloutError(
                f"{own.name}.{hook.__name__} needs a runtime, which rlkit has not: leave it out"
            )
    trace = _trace(task, prompt, text)
    await task.score(trace)
    rewards = {name: reward.score for name, reward in trace.rewards.items() if reward is not None}
    return read_value(trace.reward, own.name, {**trace.metrics, **rewards})


def _data(fields: Any, prompt: Prompt) -> Mapping[str, object]:
    """The row, the question, and the gold answer under the name that the task has for it."""
    data = {str(name): value for name, value in prompt.row.items() if name in fields.model_fields}
    data["prompt"] = conversation(prompt) or prompt.question
    for name in REFERENCE_NAMES:
        if name in fields.model_fields and name not in data and prompt.reference is not None:
            data[name] = prompt.reference
    return data


def _trace(task: Any, prompt: Prompt, text: str) -> Any:
    modules = {name: importlib.import_module(f"verifiers.v1.{name}") for name in ("trace", "graph", "types")}
    trace, graph, types = (cast(Any, modules[name]) for name in ("trace", "graph", "types"))
    asked = graph.MessageNode(message=types.UserMessage(content=prompt.question))
    answered = graph.MessageNode(parent=0, message=types.AssistantMessage(content=text), sampled=True)
    seed = trace.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash)
    # Of the agent only what a reward may read is there: nobody can be rebuilt from it.
    return trace.Trace(task=seed, agent=trace.AgentInfo.model_construct(), nodes=[asked, answered])
