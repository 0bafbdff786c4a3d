"""One run folder as a page sees it: what it was told, how far it is, and what it left so far."""

import json
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlkit.analysis import tracks
from rlkit.analysis.tracks import Table
from rlkit.errors import ConfigError
from rlkit.toml import load_toml

from . import tables
from .find import Place
from .records import Records

State = Literal["running", "finished", "silent"]
SILENT_SECONDS, SILENT_STEPS = 90.0, 6
"""A run without a summary counts as running until nothing has come for so long, and for so many of its steps."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One line of evaluations.jsonl: pass@1 on held-out prompts, with its 95 % interval."""

    step: int
    mean: float
    low: float
    high: float
    prompts: int


class Run:
    """A run folder; `refresh` reads what was added to its metrics."""

    def __init__(self, place: Place) -> None:
        self.name, self.folder = place.name, place.folder
        self.records = Records(self.folder / "metrics.jsonl")
        self._config: dict[str, Any] = {}
        self._tokenizer: Any = None  # False: looked for, and there is none
        self._tokenizer_lock = threading.Lock()

    def refresh(self) -> tuple[Any, ...]:
        """What it came to; unequal to the last time's as soon as there is something new."""
        self.records.refresh()
        marks = [_mark(self.folder / name) for name in ("evaluations.jsonl", "summary.json")]
        # a directory's time changes with every file that is renamed into it
        marks += [_mark(self.folder / "rollouts"), _mark(self.folder / tracks.FOLDER / "tokens")]
        return (self.records.length, self.records.step, *marks)

    # -- what it was told ----------------------------------------------------------------------------------------------

    @property
    def config(self) -> dict[str, Any]:
        """config.toml as it is; empty while it cannot be read."""
        if not self._config:
            with suppress(ConfigError):
                self._config = load_toml(self.folder / "config.toml")
        return self._config

    def told(self, *path: str) -> Any:
        """A setting, as `told("data", "name")`; None where it is not known."""
        value: Any = self.config
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    @property
    def steps_planned(self) -> int | None:
        steps = self.told("steps")
        return steps if isinstance(steps, int) and not isinstance(steps, bool) and steps > 0 else None

    # -- how far it is -------------------------------------------------------------------------------------------------

    @property
    def summary(self) -> dict[str, Any]:
        return read_json(self.folder / "summary.json")

    @property
    def state(self) -> State:
        summary = self.summary
        if summary and summary.get("steps") == self.records.step:
            return "finished"
        patience = max(SILENT_SECONDS, SILENT_STEPS * (self.records.newest("step_time") or 0.0))
        return "running" if self.quiet_seconds < patience else "silent"

    @property
    def quiet_seconds(self) -> float:
        """Since anything was written."""
        times = [_mark(self.folder / name) for name in ("metrics.jsonl", "rollouts", "config.toml")]
        return max(0.0, time.time() - max(times) / 1e9)

    # -- what it left --------------------------------------------------------------------------------------------------

    def tracked(self, table: Table) -> list[int]:
        """Steps that left a table of where probability went."""
        return tables.steps_in(self.folder / tracks.FOLDER / table)

    def rollout_steps(self) -> list[int]:
        return tables.steps_in(self.folder / "rollouts")

    def held_out(self) -> list[HeldOut]:
        """Lines of evaluations.jsonl that are whole, by step; the last of a step counts."""
        found: dict[int, HeldOut] = {}
        for record in _json_lines(self.folder / "evaluations.jsonl"):
            try:
                step, mean = int(record["step"]), float(record["pass_at_1"])
                found[step] = HeldOut(
                    step, mean, float(record["low"]), float(record["high"]), int(record["prompts"])
                )
            except (KeyError, TypeError, ValueError):
                continue
        return [found[step] for step in sorted(found)]

    def styles(self) -> list[str]:
        """Of the task's answers, where it has such: names of `dynamics/style/NAME`."""
        return [n.removeprefix(STYLE) for n in self.records.names() if n.startswith(STYLE)]

    def decode(self, token_ids: list[int]) -> str | None:
        """Token ids as text; None without a tokenizer in the newest checkpoint or the model's folder."""
        with self._tokenizer_lock:
            if self._tokenizer is None:
                self._tokenizer = _tokenizer(self.folder, self.told("model", "name"))
        if not self._tokenizer:
            return None
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=False))


STYLE = "dynamics/style/"


def _mark(path: Path) -> int:
    """When it was changed, nanoseconds; 0: it is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; {} when it is missing, half-written or something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _json_lines(path: Path) -> list[dict[str, Any]]:
    found = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return []
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


def _tokenizer(folder: Path, model: Any) -> Any:
    """The `tokenizers` object of the run; False: none was found."""
    from tokenizers import Tokenizer

    places = sorted((folder / "checkpoints").glob("step-*"), reverse=True)
    places += [Path(model)] if isinstance(model, str) else []
    for place in places:
        path = place / "tokenizer.json"
        if path.is_file():
            try:
                return Tokenizer.from_file(str(path))
            except Exception:  # tokenizers raises no narrower type; the next place may have a whole one
                continue
    return False
