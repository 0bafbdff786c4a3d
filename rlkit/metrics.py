"""Named scalars that reduce in the same way however a batch was cut.

A loss returns sums and counts, never means: means of micro-batch means weigh tokens by where they happened to land.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

How = Literal["mean", "min", "max"]


@dataclass(frozen=True, slots=True)
class Tally:
    """A scalar on its way to being reduced: `mean` is total / count; `min` and `max` keep the extreme in `total`.

    >>> merge([{"entropy": Tally(3.0, 2.0)}, {"entropy": Tally(1.0, 2.0)}])["entropy"].value
    1.0
    """

    total: float
    count: float = 1.0
    how: How = "mean"

    @property
    def value(self) -> float:
        if self.how != "mean":
            return self.total
        return self.total / self.count if self.count else 0.0

    def plus(self, other: "Tally") -> "Tally":
        if self.how == "min":
            return Tally(min(self.total, other.total), 1.0, "min")
        if self.how == "max":
            return Tally(max(self.total, other.total), 1.0, "max")
        return Tally(self.total + other.total, self.count + other.count)


Metrics = Mapping[str, Tally]


def merge(parts: Iterable[Metrics]) -> dict[str, Tally]:
    """One tally per name over all parts."""
    out: dict[str, Tally] = {}
    for part in parts:
        for name, tally in part.items():
            out[name] = out[name].plus(tally) if name in out else tally
    return out


def values(metrics: Metrics) -> dict[str, float]:
    """Name -> number, ready to be written."""
    return {name: tally.value for name, tally in metrics.items()}
