"""Procedural tasks: one file each; prompts, truth, verifier and demonstrations from a seed."""

from collections.abc import Mapping

from rlkit.errors import ConfigError, unknown_name
from rlkit.types import Task

TASKS: Mapping[str, str] = {
    "task:chain": "four operations modulo 10, worked from left to right; one right answer",
    "task:countdown": "reach a target from three numbers with + - *; many right answers, all worth 1",
    "task:coins": "pay an amount with few coins; largest-first is valid and common, the best is rare and worth more",
    "reasoning_gym:NAME": "any data set of reasoning-gym (pip install 'rlvrkit[reasoning-gym]')",
}
"""What `rlkit tasks` lists: the value of --data, and what it is."""


def make_task(name: str) -> Task:
    """The task that `--data` names: `task:chain` (or `chain`), `reasoning_gym:chain_sum`."""
    kind, _, rest = name.rpartition(":")
    if kind == "reasoning_gym":
        from .reasoning_gym import ReasoningGymTask

        return ReasoningGymTask(rest)
    if name in ("task:chain", "chain"):
        from .chain import ChainTask

        return ChainTask()
    if name in ("task:countdown", "countdown"):
        from .countdown import CountdownTask

        return CountdownTask()
    if name in ("task:coins", "coins"):
        from .coins import CoinsTask

        return CoinsTask()
    raise ConfigError(unknown_name("task", name if ":" in name else f"task:{name}", TASKS))
