"""The summary of `rlkit score` as a person reads it."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from .tables import lines_of, say, table

NAMES = {"zero": "why 0", "skip": "why skipped", "error": "errors"}
MAX_REASON = 110
"""Characters of a reason that are printed."""


def summary(told: Mapping[str, Any]) -> str:
    """`told` is what --json prints."""
    return lines_of(lambda console: _show(console, told))


def _show(console: Console, told: Mapping[str, Any]) -> None:
    say(console, _headline(told))
    if told["rows_skipped"]:
        say(console, f"left out   {told['rows_skipped']:,} bad rows; the first: {told['first_row_skipped']}")
    if "by" in told:
        groups = [(name, *_group(group)) for name, group in told["by"].items()]
        header = ("group", "completions", "mean", "95 % interval", "skips", "errors")
        table(console, header, groups, numbers=-5)
    if told["parts"]:
        parts = [(name, f"{part['mean']:.4f}") for name, part in told["parts"].items()]
        table(console, ("part", "mean"), parts, numbers=-1)
    for kind, reasons in told["reasons"].items():
        rows = [(f"{r['count']:,}", _short(r["reason"]), r["example"].partition(":")[0]) for r in reasons]
        table(console, ("", NAMES[kind], "as in"), rows, numbers=1)
    if "agreement" in told:
        _agreement(console, told)
    if told["out"] not in (None, "-"):
        say(console, f"verdicts   {told['out']}")


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
    say(console, words)
    counts = agreement["table"]
    rows = [
        (f"label {said}", *(f"{counts[said][verdict]:,}" for verdict in ("right", "wrong", "skip", "error")))
        for said in ("right", "wrong", "none")
        if any(counts[said].values())
    ]
    table(console, ("", "verdict right", "wrong", "skip", "error"), rows, numbers=-4)
    if told["disagreements"]:
        say(console, f"where they differ: {told['disagreements']}")


def _short(reason: str) -> str:
    return reason if len(reason) <= MAX_REASON else reason[: MAX_REASON - 4] + " ..."
