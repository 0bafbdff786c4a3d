"""What a diagnosis is made of: a setup, a history of metric records, checks that look at it, and what they find."""

import math
import statistics
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["serious", "warning", "hint"]
SEVERITIES: tuple[Severity, ...] = ("serious", "warning", "hint")
"""Worst first. serious: the run does not learn, or learns something wrong; warning: it learns badly; hint: good to know."""
Record = Mapping[str, Any]
"""One line of metrics.jsonl: `step` and the step's numbers."""

START = 5
"""Records that say how a run began."""
WINDOW = 10
"""Records that say how it goes now: one step is noise, and a person does not want to wait for fifty."""
MEMORY = 50
"""Records that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a run was told to do, as far as that is known. None: unknown, and checks that need it stay silent.

    >>> setup_of({"steps": 100, "learner": {"warmup_steps": 10}}).warmup_steps
    10
    """

    algo: str | None = None
    model: str | None = None
    sampler: str | None = None
    dtype: str | None = None
    """Of the forward pass: float32, bfloat16, or None where it depended on the machine."""
    steps: int | None = None
    token_budget: int | None = None
    prompts_per_step: int | None = None
    updates_per_step: int | None = None
    async_steps: int | None = None
    max_completion_length: int | None = None
    warmup_steps: int | None = None
    max_grad_norm: float | None = None
    pool: int | None = None
    """Training prompts of a procedural task, 0: endless; None: other data, as many as it has."""


def setup_of(config: Mapping[str, Any], dtype: str | None = None) -> Setup:
    """Read from a config's TOML values; what is missing, or of another type than expected, stays unknown.

    dtype: what `auto` came to on this machine; None: leave `auto` unknown
    """
    rooms = {name: value if isinstance(value, Mapping) else {"name": value} for name, value in config.items()}

    def text(room: str, name: str = "name") -> str | None:
        value = rooms.get(room, {}).get(name)
        return value if isinstance(value, str) else None

    def number(name: str, room: Mapping[str, Any] = config) -> Any:
        value = room.get(name)
        return None if isinstance(value, bool) or not isinstance(value, int | float) else value

    data, learner = rooms.get("data", {}), rooms.get("learner", {})
    procedural = (text("data") or "").startswith(("task:", "reasoning_gym:"))
    named = text("model", "dtype")
    mini_batches, iterations = number("mini_batches"), number("num_iterations")
    return Setup(
        algo=text("algo"),
        model=text("model"),
        sampler=text("sampler"),
        dtype=named if named in ("float32", "bfloat16") else dtype,
        steps=number("steps"),
        token_budget=number("token_budget"),
        prompts_per_step=number("prompts_per_step"),
        updates_per_step=mini_batches * iterations if mini_batches and iterations else None,
        async_steps=number("async_steps"),
        max_completion_length=number("max_completion_length"),
        warmup_steps=number("warmup_steps", learner),
        max_grad_norm=number("max_grad_norm", learner),
        pool=number("pool", data) if procedural else None,
    )


class History:
    """The records of a run up to now: the first ones, the newest ones, and what is kept of those between.

    >>> h = History(Setup())
    >>> h.add({"step": 1, "reward": 0.25}); h.add({"step": 2, "reward": 0.75})
    >>> h.now("reward"), h.last("reward"), h.mean("reward", at_least=2), h.extent("reward")
    (0.75, [0.25, 0.75], 0.5, (0.25, 0.75))
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.records = 0
        self.best = (-math.inf, 0, 0.0)
        """The highest mean reward of WINDOW records in a row, the step at which they ended, and the mean's standard error."""
        self._first: list[Record] = []
        self._newest: Record = {}
        self._columns: dict[
            str, tuple[list[int], list[float]]
        ] = {}  # numbers of the newest records, finite values
        self._extent: dict[str, tuple[float, float]] = {}

    def add(self, record: Record) -> None:
        self.records += 1
        if len(self._first) < START:
            self._first.append(record)
        self._newest = record
        for name, value in record.items():
            if (finite := _finite(value)) is not None:
                self._keep(name, finite)
        for name in ("reward", "reward_std"):
            value = self.now(name)
            if value is not None:
                low, high = self._extent.get(name, (value, value))
                self._extent[name] = (min(low, value), max(high, value))
        rewards = self.last("reward")
        if len(rewards) == WINDOW and statistics.fmean(rewards) > self.best[0]:
            self.best = (statistics.fmean(rewards), self.step, standard_error(rewards))

    def _keep(self, name: str, value: float) -> None:
        """A column for each name: a check asks for a few of a record's sixty, in each of ten thousand records."""
        numbers, values = self._columns.setdefault(name, ([], []))
        numbers.append(self.records)
        values.append(value)
        if len(values) >= 4 * MEMORY:  # not at every record: it moves the whole list
            del numbers[:-MEMORY], values[:-MEMORY]

    @property
    def step(self) -> int:
        return int(self._newest["step"])

    @property
    def newest(self) -> Record:
        return self._newest

    def now(self, name: str) -> float | None:
        """The newest record's value; None where it has none, or one that is not finite."""
        return _finite(self._newest.get(name))

    def last(self, name: str, records: int = WINDOW) -> list[float]:
        """Its finite values among the newest records (at most MEMORY), oldest first."""
        numbers, values = self._columns.get(name, ([], []))
        return values[bisect_right(numbers, self.records - min(records, MEMORY)) :]

    def mean(self, name: str, records: int = WINDOW, *, at_least: int = 1) -> float | None:
        """Mean over the newest records; None when fewer than `at_least` of them have it."""
        found = self.last(name, records)
        return statistics.fmean(found) if len(found) >= at_least else None

    def start(self, name: str) -> float | None:
        """Mean over the first START records; None when one of them lacks it or the run is younger."""
        found = [value for r in self._first if (value := _finite(r.get(name))) is not None]
        return statistics.fmean(found) if len(found) == START else None

    def first(self, name: str) -> float | None:
        """The very first record's value."""
        return _finite(self._first[0].get(name))

    def earliest(self, name: str) -> float | None:
        """The value in the earliest of the first START records that has one."""
        return next((v for r in self._first if (v := _finite(r.get(name))) is not None), None)

    def extent(self, name: str) -> tuple[float, float] | None:
        """Least and largest value over the whole run (reward and reward_std only)."""
        return self._extent.get(name)

    def without_signal(self) -> list[float]:
        """Share of the groups with nothing to learn from, for each of the newest records.

        The advantages decide where they were counted; else equal rewards do, though some algorithms learn from those too.
        Groups of one answer are always equal, which says nothing.
        """
        counted = self.last("frac_zero_advantage")
        if counted or (self.now("verifier/verdicts") or math.inf) <= (self.now("groups/total") or 0.0):
            return counted
        return self.last("frac_reward_zero_std")

    def done(self) -> float | None:
        """Share of the run that is done, by steps or by tokens; None when neither end is known."""
        shares = []
        if self.setup.steps:
            shares.append(self.step / self.setup.steps)
        tokens = self.now("num_tokens")
        if self.setup.token_budget and tokens is not None:
            shares.append(tokens / self.setup.token_budget)
        return max(shares, default=None)


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of two values or more."""
    return statistics.stdev(values) / math.sqrt(len(values))


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a check saw. The fields that are None are the check's own."""

    says: str
    """What is so, with its numbers."""
    number: float
    """How bad it is; larger is worse, and twice as large is worth saying again."""
    severity: Severity | None = None
    cause: str | None = None
    remedy: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that can be found in a history."""

    name: str
    severity: Severity
    """The worst that it can be."""
    when: str
    """When it speaks, with its thresholds."""
    cause: str
    remedy: str
    hides: tuple[str, ...]
    """Checks that would say the same with less; they are silent while this one speaks."""
    look: Callable[[History], Seen | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A diagnosis: what is so, why, and what to try.

    >>> Finding(name="no-gradient", severity="serious", says="all 32 groups have equal rewards", cause="too hard",
    ...         remedy="easier prompts", number=1.0).sentence
    'all 32 groups have equal rewards. Likely: too hard. Try: easier prompts.'
    """

    name: str
    severity: Severity
    says: str
    cause: str
    remedy: str
    number: float

    @property
    def sentence(self) -> str:
        return f"{self.says}. Likely: {self.cause}. Try: {self.remedy}."


def check(
    name: str, severity: Severity, *, when: str, cause: str, remedy: str, hides: tuple[str, ...] = ()
) -> Callable[[Callable[[History], Seen | None]], Check]:
    """Makes a check of the function that looks."""

    def make(look: Callable[[History], Seen | None]) -> Check:
        return Check(
            name=name, severity=severity, when=when, cause=cause, remedy=remedy, hides=hides, look=look
        )

    return make


def found(check: Check, history: History) -> Finding | None:
    """What the check has to say about a history."""
    seen = check.look(history)
    if seen is None:
        return None
    return Finding(
        name=check.name,
        severity=seen.severity or check.severity,
        says=seen.says,
        cause=seen.cause or check.cause,
        remedy=seen.remedy or check.remedy,
        number=seen.number,
    )
