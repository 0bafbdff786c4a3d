"""Who else is told a run's numbers (--report-to): wandb, trackio and mlflow, by accelerate's trackers."""

import importlib.util
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.config import TrainConfig
from rlkit.errors import ConfigError

if TYPE_CHECKING:
    from rlkit.analysis.store import Reporter

PROJECT = "rlkit"
"""Of wandb, trackio and mlflow, unless their own variable names another (WANDB_PROJECT, TRACKIO_PROJECT, MLFLOW_EXPERIMENT_NAME)."""
FILE = "report_to.json"
"""In the run folder: under which ids the run is known there, so that --resume goes on with it."""


def require_reporters(cfg: TrainConfig) -> None:
    """Raises ConfigError when a package is missing, before anything is loaded."""
    for name in cfg.log.reporters:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"--report-to {name}: not installed; pip install {name}, or leave it out (TensorBoard events and `rlkit dash` need "
                "no account)"
            )


def make_reporters(cfg: TrainConfig, folder: Path) -> "list[Reporter]":
    """One started tracker for each name; told every setting of the run. Call it in one process of a run."""
    if not cfg.log.reporters:
        return []
    from accelerate import PartialState
    from accelerate.tracking import MLflowTracker, TrackioTracker, WandBTracker

    from rlkit.toml import to_toml

    PartialState()  # accelerate's trackers log their own doings, and its logger asks for it
    known = _known(folder)
    made: list[Reporter] = []
    for name in cfg.log.reporters:
        if name == "wandb":
            id_ = known.setdefault("wandb", secrets.token_hex(6))
            tracker = WandBTracker(
                os.environ.get("WANDB_PROJECT", PROJECT),
                name=folder.name,
                id=id_,
                resume="allow",
                dir=str(folder),
            )
        elif name == "trackio":
            project = os.environ.get("TRACKIO_PROJECT", PROJECT)
            tracker = TrackioTracker(project, name=known.setdefault("trackio", folder.name), resume="allow")
        else:
            tracker = MLflowTracker(PROJECT, run_id=known.get("mlflow"), run_name=folder.name)
        tracker.start()
        if name == "mlflow":
            known["mlflow"] = tracker.tracker.info.run_id
        tracker.store_init_configuration(_flat(to_toml(cfg)))
        made.append(tracker)
    (folder / FILE).write_text(json.dumps(known) + "\n")
    return made


def _known(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / FILE).read_text())
    except (OSError, ValueError, RecursionError):
        return {}  # a new run, or a file that was cut: told anew under another id
    return {str(name): str(id_) for name, id_ in found.items()} if isinstance(found, dict) else {}


def _flat(values: Mapping[str, Any], room: str = "") -> dict[str, Any]:
    """Settings by their full names.

    >>> _flat({"steps": 3, "algo": {"name": "grpo"}})
    {'steps': 3, 'algo.name': 'grpo'}
    """
    out: dict[str, Any] = {}
    for name, value in values.items():
        out |= _flat(value, f"{room}{name}.") if isinstance(value, Mapping) else {f"{room}{name}": value}
    return out
