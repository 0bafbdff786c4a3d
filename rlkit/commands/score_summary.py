"""The summary of `rlkit score` as a person reads it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from rlkit.printable import printable

NAMES = {"zero": "why 0", "skip": "why skipped", "error": "errors"}
MAX_REASON = 110
"""Characters of a reason that are printed."""


def summary(told: Mapping[str, Any]) -> str:
    """`told` is what --json prints."""
    # A fixed width: a table that is cut by a narrow terminal loses numbers.
    console = Console(width=140, no_color=True)
    with console.capture() as shown:
        _say(console, _headline(told))
        if told["rows_skipped"]:
            _say(
                console,
                f"left out   {told['rows_skipped']:,} bad rows; the first: {told['first_row_skipped']}",
            )
        if "by" in told:
            groups = [(name, *_group(group)) for name, group in told["by"].items()]
            _table(
                console,
                ("group", "completions", "mean", "95 % interval", "skips", "errors"),
                groups,
                numbers=-5,
            )
        if told["parts"]:
            parts = [(name, f"{part['mean']:.4f}") for name, part in told["parts"].items()]
            _table(console, ("part", "mean"), parts, numbers=-1)
        for kind, reasons in told["reasons"].items():
            rows = [(f"{r['count']:,}", _short(r["reason"]), r["example"].partition(":")[0]) for r in reasons]
            _table(console, ("", NAMES[kind], "as in"), rows, numbers=1)
        if "agreement" in told:
            _agreement(console, told)
        if told["out"] not in (None, "-"):
            _say(console, f"verdicts   {told['out']}")
    return "\n".join(line.rstrip() for line in shown.get().splitlines()) + "\n"


def _headline(told: Mapping[str, Any]) -> str:
    counts = f"{told['scores']:,} scores, {told['skips']:,} skips, {told['errors']:,} errors"
    rate = told["items_per_second"]
    speed = f"; {rate:,.0f} completions/s" if rate else ""
    return f"{told['completions']:,} completions, mean {_mean(told)} {_interval(told)}: {counts}{speed}"


def _group(group: Mapping[str, Any]) -> tuple[str, ...]:
    counts = (f"{group['skips']:,}", f"{group['errors']:,}")
    return (f"{group['completions']:,}", _mean(group), _interval(group), *counts)


def _mean(group: Mapping[str, Any]) -> str:
    return "-" if group["mean"] is None else f"{group['mean']:.4f}"


def _interval(group: Mapping[str, Any]) -> str:
    return "" if group["low"] is None else f"[{group['low']:.4f}, {group['high']:.4f}]"


def _agreement(console: Console, told: Mapping[str, Any]) -> None:
    agreement = told["agreement"]
    share = "-" if agreement["share"] is None else f"{agreement['share']:.2%}"
    words = f"labels     {agreement['agree']:,} of {agreement['labelled']:,} verdicts are what the label says ({share})"
    _say(console, words)
    table = agreement["table"]
    rows = [
        (f"label {said}", *(f"{table[said][verdict]:,}" for verdict in ("right", "wrong", "skip", "error")))
        for said in ("right", "wrong", "none")
        if any(table[said].values())
    ]
    _table(console, ("", "verdict right", "wrong", "skip", "error"), rows, numbers=-4)
    if told["disagreements"]:
        _say(console, f"where they differ: {told['disagreements']}")


def _short(reason: str) -> str:
    return reason if len(reason) <= MAX_REASON else reason[: MAX_REASON - 4] + " ..."


def _say(console: Console, words: str) -> None:
    console.print(printable(words), soft_wrap=True, highlight=False, markup=False)


def _table(console: Console, header: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> None:
    """numbers: columns at the start that are aligned to the right, or at the end when negative"""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    right = range(len(header))[:numbers] if numbers > 0 else range(len(header))[len(header) + numbers :]
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i in right else "left")
    for row in rows:
        table.add_row(*(printable(" ".join(cell.split())) for cell in row))
    console.print(table, highlight=False, markup=False)
