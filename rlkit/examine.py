"""`rlkit doctor RUN`: what is wrong with a run, read from its folder, be it finished, crashed or still going."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from rlkit.analysis.store import read_metrics, read_rollouts
from rlkit.doctor import CHECKS, COLUMNS, Case, Record, Setup, diagnose, explain, setup_of
from rlkit.errors import ConfigError, RunError
from rlkit.show import show_cases
from rlkit.toml import load_toml

EVIDENCE_STEPS = 3
"""Steps whose rollouts are read for a finding: hundreds of answers, and seconds at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """A run and what is wrong with it."""

    config: dict[str, Any]
    """Empty when it cannot be read."""
    setup: Setup
    records: Sequence[Record]
    cases: list[Case]
    """Worst first."""


def examined(folder: Path) -> Examined:
    """Raises RunError for a folder that is no run."""
    if not (folder / "metrics.jsonl").is_file():
        raise RunError(
            f"{folder}: not a run folder, since it has no metrics.jsonl (looked from {Path.cwd()}); expected a folder that "
            "`rlkit train` wrote, as runs/NAME"
        )
    config = _config_of(folder)
    setup = setup_of(config)
    records = [r for r in read_metrics(folder) if isinstance(r.get("step"), int)]
    special = _special_tokens(folder, setup.model)
    cases = [explain(case, _rows_of(folder, case), special) for case in diagnose(records, setup)]
    return Examined(config=config, setup=setup, records=records, cases=cases)


def cases_of(folder: Path) -> list[Case]:
    """What is wrong with a run, worst first. Raises RunError for a folder that is no run."""
    return examined(folder).cases


def examine(folder: Path, *, as_json: bool = False) -> int:
    """Print what is wrong, worst first; the exit code is 1 when something serious is. Raises RunError for a folder that is no run."""
    found = examined(folder)
    records, cases = found.records, found.cases
    checked = [check.name for check in CHECKS]
    if as_json:
        findings = [
            asdict(case.finding) | {"first": case.first, "last": case.last, "present": case.present}
            for case in cases
        ]
        told = {"run": str(folder), "records": len(records), "findings": findings, "checked": checked}
        print(json.dumps(told, indent=2))
    else:
        step = int(records[-1]["step"]) if records else 0
        of = "" if found.setup.steps is None else f" of {found.setup.steps:,}"
        ended = (folder / "summary.json").is_file()
        state = "finished" if ended else "no summary.json: still running, or ended early"
        head = f"{folder}: step {step:,}{of} ({state})"
        if not found.config:
            head += "; its config.toml cannot be read, so some checks stay silent"
        console = Console()
        with console.capture() as shown:
            show_cases(cases, head, len(records), checked, console)
        print(shown.get(), end="")  # by us: rich would end the process when the reader of a pipe has left
    return int(any(case.finding.severity == "serious" for case in cases))


def _config_of(folder: Path) -> dict[str, Any]:
    """The run's config.toml as it is, which need not suit this version of rlkit; empty when it cannot be read."""
    try:
        return load_toml(folder / "config.toml")
    except ConfigError:
        return {}


def _rows_of(folder: Path, case: Case) -> list[dict[str, Any]]:
    """Rollouts of the last steps in which a finding was seen; none where they were not kept or cannot be read."""
    rows: list[dict[str, Any]] = []
    for step in range(max(case.first, case.last - EVIDENCE_STEPS + 1), case.last + 1):
        with suppress(RunError):
            rows += read_rollouts(folder, step, COLUMNS)
    return rows


def _special_tokens(folder: Path, model: str | None) -> dict[int, str]:
    """The tokenizer's special tokens, from a checkpoint or the model's folder; empty when neither has a tokenizer.json."""
    places = [
        *sorted((folder / "checkpoints").glob("step-*"), reverse=True),
        *([Path(model)] if model else []),
    ]
    for place in places:
        with suppress(OSError, ValueError, RecursionError):
            added = json.loads((place / "tokenizer.json").read_text()).get("added_tokens", [])
            return {token["id"]: token["content"] for token in added if token.get("special")}
    return {}
