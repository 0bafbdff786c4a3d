"""Sides that take turns in one run, so that what disturbs a turn disturbs all of them; medians, spreads and ratios in a table."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from rich.table import Table


def turns(sides: Mapping[str, Callable[[int], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each side in each turn. Turn 0 is not counted; each turn has requests of its own, so no cache helps."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name in list(sides) if turn % 2 else list(sides)[::-1]:
            began = time.perf_counter()
            sides[name](turn)
            if turn > 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def table_of(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    return table


def spread(values: Sequence[float], digits: int = 0) -> str:
    return (
        f"{statistics.median(values):,.{digits}f}  ({min(values):,.{digits}f} .. {max(values):,.{digits}f})"
    )


def rates(
    title: str, tokens: Callable[[int], int], seconds: Mapping[str, Sequence[float]], base: str
) -> tuple[Table, dict[str, float]]:
    """Tokens per second of each side, and its ratio to `base` turn by turn: what disturbs a turn disturbs both."""
    table = table_of(title, ["", "tokens/s", f"over {base}"])
    medians = {}
    for name, times in seconds.items():
        rate = [tokens(turn + 1) / value for turn, value in enumerate(times)]
        ratio = [b / a for a, b in zip(times, seconds[base], strict=True)]
        medians[name] = statistics.median(ratio)
        table.add_row(name, spread(rate), spread(ratio, 2))
    return table, medians
