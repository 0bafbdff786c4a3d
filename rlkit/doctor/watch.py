"""Follows a run record by record: what is wrong now, what of it is news, and what a whole run came to."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from .answers import ANSWERS
from .findings import SEVERITIES, WINDOW, Check, Finding, History, Record, Setup, Severity, found
from .learning import LEARNING
from .stages import STAGES

CHECKS: tuple[Check, ...] = (*ANSWERS, *LEARNING, *STAGES)

GONE = WINDOW
"""Records without a finding after which it counts as gone, and is news when it returns: no flicker at a threshold."""
WORSE = 2.0
"""A finding is news again when its number is this many times what it was when it was told."""


@dataclass(slots=True)
class _Told:
    """What the person at the terminal knows of a finding."""

    finding: Finding
    """As it was told last."""
    record: int
    """The last record that had it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A finding over a whole run."""

    finding: Finding
    """As it was seen last; when it has gone since, as it was at its worst, one step milder."""
    first: int
    """The step at which it was seen first."""
    last: int
    """The step at which it was seen last."""
    present: bool
    """Whether it was still there at the end of the record."""

    @property
    def rank(self) -> tuple[int, bool, int]:
        """Sorts the worst first."""
        return SEVERITIES.index(self.finding.severity), not self.present, self.first


class Watch:
    """What is wrong with a run, step by step.

    past: the records of a run that goes on; what they have is not news any more
    """

    def __init__(self, setup: Setup, past: Iterable[Record] = ()) -> None:
        self.history = History(setup)
        self._seen: dict[str, int] = {}  # the last record that had it
        self._told: dict[str, _Told] = {}
        for record in past:
            self.step(record)

    def step(self, record: Record) -> list[Finding]:
        """Add a record; what there is to tell because of it, worst first."""
        self.history.add(record)
        return [f for f in self.findings() if self._is_news(f)]

    def findings(self) -> list[Finding]:
        """Everything that is wrong as of the newest record, worst first. What a finding hides stays hidden until that is gone."""
        now = self.history.records
        seen = {c.name: f for c in CHECKS if (f := found(c, self.history)) is not None}
        self._seen |= dict.fromkeys(seen, now)
        hidden = {name for c in CHECKS if now - self._seen.get(c.name, -GONE) < GONE for name in c.hides}
        return sorted(
            (f for name, f in seen.items() if name not in hidden),
            key=lambda f: SEVERITIES.index(f.severity),
        )

    def _is_news(self, finding: Finding) -> bool:
        """Never told, gone and returned, or much worse than when it was told. A hint is told once."""
        now, known = self.history.records, self._told.get(finding.name)
        if known is not None:
            back = now - known.record > GONE
            worse = finding.number >= WORSE * known.finding.number or _graver(finding, known.finding)
            known.record = now
            if finding.severity == "hint" or not (back or worse):
                return False
        self._told[finding.name] = _Told(finding, now)
        return True


def _graver(one: Finding, other: Finding) -> bool:
    return SEVERITIES.index(one.severity) < SEVERITIES.index(other.severity)


def diagnose(records: Sequence[Record], setup: Setup) -> list[Case]:
    """What a run came to, worst first: its records are followed as they came, so that a fault in the middle is seen too."""
    watch = Watch(setup)
    latest: dict[str, Finding] = {}
    worst: dict[str, Finding] = {}
    first: dict[str, int] = {}
    last: dict[str, tuple[int, int]] = {}  # step and number of the record
    for number, record in enumerate(records, start=1):
        watch.history.add(record)
        for finding in watch.findings():
            latest[finding.name] = finding
            before = worst.setdefault(finding.name, finding)
            if _graver(finding, before) or (
                finding.severity == before.severity and finding.number > before.number
            ):
                worst[finding.name] = finding
            first.setdefault(finding.name, watch.history.step)
            last[finding.name] = (watch.history.step, number)
    cases = []
    for name, finding in latest.items():
        step, number = last[name]
        present = len(records) - number < GONE
        cases.append(
            Case(
                finding=finding if present else _milder(worst[name]),
                first=first[name],
                last=step,
                present=present,
            )
        )
    return sorted((c for c in cases if not _hidden(c, cases)), key=lambda case: case.rank)


def _hidden(case: Case, cases: Sequence[Case]) -> bool:
    """Whether another case, seen as late or later, says the same with more."""
    hiders = {c.name for c in CHECKS if case.finding.name in c.hides}
    return any(other.finding.name in hiders and other.last >= case.last for other in cases)


def _milder(finding: Finding) -> Finding:
    """What is over is one step less severe."""
    rank = min(SEVERITIES.index(finding.severity) + 1, len(SEVERITIES) - 1)
    severity: Severity = SEVERITIES[rank]
    return replace(finding, severity=severity)
