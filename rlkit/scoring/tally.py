"""What the verdicts come to: counts, means with their intervals, groups, parts, reasons, agreement with labels.

Verdicts are added one by one and forgotten; memory is bounded however many there are.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rlkit.analysis.intervals import clustered_interval
from rlkit.reasons import reason_kind
from rlkit.types import Score

MAX_PROMPTS = 1 << 18
"""Prompts told apart in an interval; when there are more, they are dealt into so many heaps, each taken for one prompt."""
MAX_GROUPS = 500
MAX_REASONS = 10_000
"""Kinds of reasons that are counted; a verifier that never says the same twice fills it."""
OTHER = "(other)"
SHOWN_REASONS = 10
Verdict = Literal["right", "wrong", "skip", "error"]


class Mean:
    """A mean over completions, and the sums by prompt that its interval needs."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self._in_unit = True
        self._by_prompt: dict[int, list[float]] = {}  # count, sum of values
        self._mask = -1

    def add(self, prompt: int, value: float) -> None:
        """prompt: a 64-bit number that answers to one prompt share"""
        self.count += 1
        self.total += value
        self._in_unit = self._in_unit and -1e-9 <= value <= 1 + 1e-9
        sums = self._by_prompt.setdefault(prompt & self._mask, [0.0, 0.0])
        sums[0] += 1
        sums[1] += value
        if len(self._by_prompt) > MAX_PROMPTS:
            self._deal()

    def _deal(self) -> None:
        self._mask = MAX_PROMPTS - 1
        heaps: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for key, (count, total) in self._by_prompt.items():
            heaps[key & self._mask][0] += count
            heaps[key & self._mask][1] += total
        self._by_prompt = dict(heaps)

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None

    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean, as `rlkit eval` has it; None: there is none (of nothing, or of a single prompt with values outside [0, 1])."""
        if not self.count or (len(self._by_prompt) < 2 and not self._in_unit):
            return None
        counts, totals = zip(*self._by_prompt.values(), strict=True)
        return clustered_interval(counts, totals, in_unit=self._in_unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTally:
    """Verdicts of one group of completions."""

    outcomes: Counter[str] = field(default_factory=Counter)
    mean: Mean = field(default_factory=Mean)

    def add(self, prompt: int, score: Score) -> None:
        self.outcomes[score.outcome] += 1
        if score.value is not None:
            self.mean.add(prompt, score.value)

    def told(self) -> dict[str, Any]:
        """As JSON values."""
        interval = self.mean.interval()
        return {
            "completions": sum(self.outcomes.values()),
            "scores": self.outcomes["score"],
            "skips": self.outcomes["skip"],
            "errors": self.outcomes["error"],
            "mean": self.mean.value,
            "low": None if interval is None else interval[0],
            "high": None if interval is None else interval[1],
        }


class Tally:
    """Verdicts added up.

    right_at: a value of at least this is right, where a label says what is
    """

    def __init__(self, *, right_at: float, by: bool, labelled: bool) -> None:
        self._right_at = right_at
        self._by = by
        self._labelled = labelled
        self._all = GroupTally()
        self._groups: dict[str, GroupTally] = {}
        self._parts: dict[str, Mean] = {}
        self._reasons: dict[str, Counter[str]] = {"zero": Counter(), "skip": Counter(), "error": Counter()}
        self._examples: dict[tuple[str, str], str] = {}
        self._agreement: Counter[tuple[str, Verdict]] = Counter()

    def add(self, *, name: str, prompt: int, group: str, label: bool | None, score: Score) -> None:
        """name: of the completion, for people;  prompt: see `prompt_number`"""
        self._all.add(prompt, score)
        if self._by:
            if group not in self._groups and len(self._groups) >= MAX_GROUPS:
                group = OTHER
            self._groups.setdefault(group, GroupTally()).add(prompt, score)
        for part, value in score.parts.items():
            if part in self._parts or len(self._parts) < MAX_GROUPS:
                self._parts.setdefault(part, Mean()).add(prompt, value)
        kind = "zero" if score.value == 0 else score.outcome
        if kind in self._reasons:
            self._count_reason(kind, name, score.reason)
        if self._labelled:
            said = "none" if label is None else "right" if label else "wrong"
            self._agreement[said, self.verdict(score)] += 1

    def _count_reason(self, kind: str, name: str, reason: str) -> None:
        counts, said = self._reasons[kind], reason_kind(reason) or "no reason given"
        if said not in counts:
            if len(counts) >= MAX_REASONS:
                said = OTHER
            self._examples[kind, said] = f"{name}: {reason}"
        counts[said] += 1

    def verdict(self, score: Score) -> Verdict:
        if score.value is None:
            return "error" if score.error else "skip"
        return "right" if score.value >= self._right_at else "wrong"

    def disagrees(self, label: bool | None, score: Score) -> bool:
        """Whether the label says something and the verdict something else; a skip or an error is never what it says."""
        return label is not None and self.verdict(score) != ("right" if label else "wrong")

    @property
    def completions(self) -> int:
        return sum(self._all.outcomes.values())

    @property
    def scores(self) -> int:
        return self._all.outcomes["score"]

    @property
    def error_share(self) -> float:
        return self._all.outcomes["error"] / max(1, self.completions)

    def told(self) -> dict[str, Any]:
        """The summary as JSON values."""
        out = self._all.told()
        if self._by:
            groups = sorted(self._groups.items(), key=lambda item: -sum(item[1].outcomes.values()))
            out["by"] = {name: group.told() for name, group in groups}
        out["parts"] = {
            name: {"mean": mean.value, "scores": mean.count} for name, mean in self._parts.items()
        }
        out["reasons"] = {
            kind: [
                {"reason": said, "count": count, "example": self._examples[kind, said]}
                for said, count in counts.most_common(SHOWN_REASONS)
            ]
            for kind, counts in self._reasons.items()
            if counts
        }
        if self._labelled:
            out["agreement"] = self._agreement_told()
        return out

    def _agreement_told(self) -> dict[str, Any]:
        counts = self._agreement
        table = {
            said: {verdict: counts[said, verdict] for verdict in ("right", "wrong", "skip", "error")}
            for said in ("right", "wrong", "none")
        }
        labelled = sum(n for (said, _), n in counts.items() if said != "none")
        agree = table["right"]["right"] + table["wrong"]["wrong"]
        return {
            "table": table,
            "labelled": labelled,
            "agree": agree,
            "share": agree / labelled if labelled else None,
        }


def prompt_number(*texts: str | None) -> int:
    """64 bits that stand for a prompt in an interval."""
    digest = hashlib.blake2b(repr(texts).encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


def score_of(row: Mapping[str, Any]) -> Score:
    """The Score in a written verdict."""
    return Score(
        row["value"], reason=row["reason"], parts=row["parts"] or {}, error=row["outcome"] == "error"
    )
