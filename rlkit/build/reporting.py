"""Who else is told a run's numbers (--report-to): wandb, trackio and mlflow, by accelerate's trackers."""

import importlib.util
import json
import os
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.config import TrainConfig
from rlkit.errors import ConfigError

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

    from rlkit.analysis.store import Reporter

PROJECT = "rlkit"
"""Of wandb, trackio and mlflow, unless their own variable names another (WANDB_PROJECT, TRACKIO_PROJECT, MLFLOW_EXPERIMENT_NAME)."""
FILE = "report_to.json"
"""In the run folder: under which ids the run is known there, and the last step told, so that --resume goes on with it."""
IN_EVERY_RECORD = "num_tokens"
"""A metric that no line of metrics.jsonl lacks."""


def require_reporters(cfg: TrainConfig) -> None:
    """Raises ConfigError when a package is missing, before anything is loaded."""
    for name in cfg.log.reporters:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"--report-to {name}: not installed; pip install {name}, or leave it out (TensorBoard events and `rlkit dash` need "
                "no account)"
            )


class Service:
    """A tracker that is told every step once, however often a run is stopped and resumed.

    told: the last step that it knows;  note: told each step that it has been told
    """

    def __init__(self, tracker: "GeneralTracker", told: int, note: Callable[[int], None]) -> None:
        self.name, self.told = str(tracker.name), told
        self._tracker, self._note = tracker, note

    def log(self, values: dict[str, float], step: int) -> None:
        if step <= self.told:  # repeated by a resumed run; no service takes a step back
            return
        self._tracker.log(values, step=step)
        self.told = step
        self._note(step)

    def finish(self) -> None:
        self._tracker.finish()


def make_reporters(cfg: TrainConfig, folder: Path) -> "list[Reporter]":
    """One started tracker for each name. Call it in one process of a run, when metrics.jsonl holds the steps that it goes on from.

    A new one is told every setting; one that lacks steps which the run has (it was killed, or this one is new) is told them first.
    """
    if not cfg.log.reporters:
        return []
    from accelerate import PartialState

    from rlkit.analysis.store import read_metrics
    from rlkit.toml import to_toml

    PartialState()  # accelerate's trackers log their own doings, and its logger asks for it
    known = _known(folder)
    past = read_metrics(folder) if (folder / "metrics.jsonl").is_file() else []

    def noted(name: str, step: int) -> None:
        known[name] = {**known[name], "told": step}
        draft = folder / f".{FILE}.draft"  # a file that is cut would lose the ids
        draft.write_text(json.dumps(known) + "\n")
        draft.replace(folder / FILE)

    made: list[Reporter] = []
    for name in cfg.log.reporters:
        tracker, id_, has = _start(name, known.get(name, {}).get("id"), folder)
        if name not in known:
            tracker.store_init_configuration(_flat(to_toml(cfg)))
            known[name] = {"id": id_, "told": 0}
        service = Service(tracker, known[name]["told"] if has is None else has, partial(noted, name))
        for record in past:
            service.log({n: v for n, v in record.items() if n != "step"}, int(record["step"]))
        noted(name, service.told)
        made.append(service)
    return made


def _start(name: str, id_: str | None, folder: Path) -> "tuple[GeneralTracker, str, int | None]":
    """A tracker that has begun, or goes on; its id; the last step that the service has, None where that cannot be asked.

    id_: under which the service knows the run; None: it does not yet
    """
    from accelerate.tracking import MLflowTracker, TrackioTracker, WandBTracker

    tracker: GeneralTracker
    if name == "wandb":
        id_ = id_ or secrets.token_hex(6)
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        tracker = WandBTracker(project, name=folder.name, id=id_, resume="allow", dir=str(folder))
        tracker.start()
        run = tracker.tracker
        return tracker, id_, None if run.offline else (run.step - 1 if run.resumed else 0)
    if name == "trackio":
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        # Its runs go by name: two folders of one name would be one run.
        fresh, id_ = id_ is None, id_ or f"{folder.name}-{secrets.token_hex(3)}"
        tracker = TrackioTracker(project, name=id_, resume="never" if fresh else "allow")
        tracker.start()
        if os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL"):
            return tracker, id_, None
        from trackio.sqlite_storage import SQLiteStorage

        return tracker, id_, SQLiteStorage.get_max_step_for_run(project, id_) or 0
    tracker = MLflowTracker(PROJECT, run_id=id_, run_name=folder.name)
    tracker.start()
    from mlflow import MlflowClient

    id_ = str(tracker.tracker.info.run_id)
    history = MlflowClient().get_metric_history(id_, IN_EVERY_RECORD)
    return tracker, id_, max((metric.step for metric in history), default=0)


def _known(folder: Path) -> dict[str, dict[str, Any]]:
    """Service -> {"id": ..., "told": step}."""
    try:
        found = json.loads((folder / FILE).read_text())
        return {str(name): {"id": str(e["id"]), "told": int(e["told"])} for name, e in found.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}  # a new run, or a file that was cut: told anew under another id


def _flat(values: Mapping[str, Any], room: str = "") -> dict[str, Any]:
    """Settings by their full names.

    >>> _flat({"steps": 3, "algo": {"name": "grpo"}})
    {'steps': 3, 'algo.name': 'grpo'}
    """
    out: dict[str, Any] = {}
    for name, value in values.items():
        out |= _flat(value, f"{room}{name}.") if isinstance(value, Mapping) else {f"{room}{name}": value}
    return out
