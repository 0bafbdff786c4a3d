"""SkyRL-Gym's environments, where one step is the whole episode: a new environment per answer, its reward the verdict."""

from collections.abc import Callable, Mapping
from typing import Any, cast

from rlkit.errors import RolloutError
from rlkit.rewards.contract import shown_value
from rlkit.types import Prompt, Score

from .arguments import call_arguments, messages_of, read_value, settled
from .own import Own


class Settings(dict[str, Any]):
    """`env_config`: the options of `file.py:Env(option=value)`, read as items or as attributes, as OmegaConf's are."""

    def __getattr__(self, name: str) -> object:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                f"env_config has no {name!r}; it holds {', '.join(self) or 'nothing'}"
            ) from None


async def judge(own: Own, prompt: Prompt, text: str) -> Score:
    """`Env(env_config=, extras=row)`, `init(prompt)`, one `step(answer)`, `close()`."""
    make = cast(Callable[..., Any], own.value)
    offered: dict[str, object] = {"env_config": Settings(own.options), "extras": _extras(prompt)}
    environment = make(**call_arguments(make, own.name, offered, {}, {}, None))
    try:
        messages = messages_of(prompt)
        opened = await settled(environment.init(messages))
        if isinstance(opened, tuple) and opened and opened[0] != messages:
            raise RolloutError(
                f"{own.name}.init changes the prompt, which the model has answered already; "
                "change the data instead (or --data.system, --data.template)"
            )
        return _read(await settled(environment.step(text)), own.name)
    finally:
        close = getattr(environment, "close", None)
        if callable(close):
            await settled(close())


def _read(output: object, name: str) -> Score:
    if not isinstance(output, Mapping) or not {"reward", "done"} <= output.keys():
        raise RolloutError(
            f"{name}.step returned {shown_value(output)}, expected a dict with 'reward' and 'done'"
        )
    if not output["done"]:
        raise RolloutError(
            f"{name} is not done after one step: it is an environment of several turns, "
            "and rlkit asks the model once; expected done = True"
        )
    metadata = output.get("metadata")
    return read_value(output["reward"], name, metadata if isinstance(metadata, Mapping) else {})


def _extras(prompt: Prompt) -> dict[str, object]:
    """The row as SkyRL passes it, the gold answer where its environments look for it."""
    extras: dict[str, object] = {**prompt.row, "max_turns": 1}
    for name in ("reward_spec", "reward_model"):
        if not isinstance(extras.get(name), Mapping) and prompt.reference is not None:
            extras[name] = {"method": "rule", "style": "rule", "ground_truth": prompt.reference}
    return extras
