"""Everything that a page shows: the runs and evaluations at the paths named, found again while it is looked at."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rlkit.errors import RunError

from .find import Place, find
from .run import Run, read_json

Severity = Literal["serious", "warning", "hint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """One finding about a run, in words (rlkit.doctor)."""

    severity: Severity
    name: str
    when: str
    says: str
    cause: str
    remedy: str


Diagnose = Callable[[Path], Sequence[Diagnosis]]
"""Run folder -> what is wrong with it, worst first. Raises RunError when its metrics cannot be read."""
PATIENCE = 20.0
"""A diagnosis reads the whole record; it is made again after this many times the seconds that it took."""
FIND_SECONDS = 5.0
"""Between two looks for new runs."""


@dataclass(frozen=True, slots=True)
class Score:
    """A mean over problems with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """What an evaluation came to (`rlkit eval`)."""

    name: str
    label: str
    """The set of problems; `math500[300/500]` when it is not whole."""
    model: str
    n: int
    problems: int
    scores: dict[str, Score]
    """pass@4, maj@4, avg@8, length, ..."""

    def curve(self, kind: str) -> list[tuple[int, Score]]:
        """(k, score) of `pass` or `maj`, in order."""
        pairs = [(name.partition("@"), score) for name, score in self.scores.items()]
        return sorted(
            ((int(k), score) for (what, at, k), score in pairs if what == kind and k.isdecimal()),
            key=lambda pair: pair[0],
        )


@dataclass(slots=True)
class _Told:
    records: int
    seconds: float
    at: float
    cases: Sequence[Diagnosis]


@dataclass(slots=True)
class Board:
    """Runs and evaluations by name. Safe to use from several threads.

    paths: run folders, evaluations, or folders of them;  diagnose: says what is wrong with a run
    """

    paths: Sequence[Path]
    diagnose: Diagnose
    runs: dict[str, Run] = field(default_factory=dict)
    _exams: dict[str, Path] = field(default_factory=dict)
    _told: dict[str, _Told] = field(default_factory=dict)
    _found_at: float = -FIND_SECONDS
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def refresh(self) -> str:
        """Read what is new, and a mark that changes with it."""
        with self._lock:
            if time.monotonic() - self._found_at >= FIND_SECONDS:
                self._find()
            runs = list(self.runs.values())
        marks: list[Any] = [(run.name, run.state, *run.refresh()) for run in runs]
        return str(hash((*marks, *self._exams)))

    def chosen(self, names: Sequence[str] | None) -> list[Run]:
        """The runs of these names that there are; None: the newest ones."""
        with self._lock:
            if names is None:
                return self.newest()
            return [self.runs[name] for name in names if name in self.runs]

    def newest(self, count: int = 6) -> list[Run]:
        """The runs written to last, in their own order."""
        with self._lock:
            latest = sorted(self.runs.values(), key=lambda run: run.quiet_seconds)[:count]
            return [run for run in self.runs.values() if run in latest]

    def colour_of(self, name: str) -> int:
        """A number that a run keeps whichever others are shown."""
        return list(self.runs).index(name) if name in self.runs else 0

    def exams(self) -> list[Exam]:
        """The evaluations that have come to something."""
        with self._lock:
            folders = dict(self._exams)
        found = [_exam(name, folder) for name, folder in folders.items()]
        return [exam for exam in found if exam is not None]

    def diagnosis(self, run: Run) -> Sequence[Diagnosis]:
        """What is wrong with a run, as of now or, in a long one that goes on, a little ago."""
        with self._lock:
            told = self._told.get(run.name)
        now, records = time.monotonic(), run.records.length
        fresh = told is not None and (
            told.records == records or now - told.at < PATIENCE * told.seconds and run.state == "running"
        )
        if told is None or not fresh:
            cases = self.diagnose(run.folder)
            told = _Told(records, time.monotonic() - now, time.monotonic(), cases)
            with self._lock:
                self._told[run.name] = told
        return told.cases

    def _find(self) -> None:
        self._found_at = time.monotonic()
        try:
            places = find(self.paths)
        except RunError:
            if not self.runs and not self._exams:
                raise
            return  # a folder that was there at first has gone: what is known stays
        for place in places:
            if place.kind == "evaluation":
                self._exams.setdefault(place.name, place.folder)
            elif all(run.folder != place.folder for run in self.runs.values()):
                name = self._free(place)
                self.runs[name] = Run(replace(place, name=name))

    def _free(self, place: Place) -> str:
        """Its name, or its whole path where a run found earlier has that name."""
        return place.name if place.name not in self.runs else str(place.folder)


def _exam(name: str, folder: Path) -> Exam | None:
    summary = read_json(folder / "summary.json").get("summary")
    if not isinstance(summary, dict):
        return None
    try:
        scores = {
            str(what): Score(float(e["mean"]), float(e["low"]), float(e["high"]))
            for what, e in summary["estimates"].items()
        }
        return Exam(
            name=name,
            label=str(summary["label"]),
            model=str(summary["model"]),
            n=int(summary["n"]),
            problems=len(summary["problems"]),
            scores=scores,
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None  # another version's, or edited: nothing to draw
