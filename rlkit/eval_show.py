"""An evaluation at the terminal: one table, every number with its 95 % interval."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlkit.analysis.eval_compare import Comparison
from rlkit.analysis.eval_summary import Estimate, Summary
from rlkit.printable import printable

ROWS = {
    "length": "tokens of an answer",
    "mean_nll": "entropy, nats per token",
    "distinct_answers": "distinct final answers of {n}",
    "truncated": "share cut at the limit",
}
"""What is no score, in words."""
SHOWN_IDS = 12


def show_summary(
    summary: Summary, other: Summary | None, comparison: Comparison | None, *, whole: bool
) -> None:
    """The table of one set of problems on stdout. whole: the set is all of what its name says"""
    console = _stdout()
    parts = [f"{len(summary.problems):,} problems", f"{summary.n:,} answers to each"]
    _say(console, f"{summary.label}: {', '.join(parts)}", "bold")
    if not whole:
        _say(
            console,
            f"a part of {summary.label.partition('[')[0]}: no score here is that benchmark's",
            "yellow",
        )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column(Text(printable(_short(summary.model))), no_wrap=True)
    if other is not None:
        table.add_column(Text(printable(_short(other.model))), no_wrap=True)
        table.add_column("difference", no_wrap=True)
    for name, estimate in summary.estimates.items():
        cells: list[str | Text] = [_cell(estimate, len(summary.problems))]
        if other is not None:
            cells.append(_cell(other.estimates.get(name), len(other.problems)))
            cells.append(_difference(comparison, name))
        table.add_row(ROWS.get(name, name).format(n=summary.n), *cells)
    for kind in ("skips", "errors"):
        counts = [getattr(s, kind) for s in (summary, other) if s is not None]
        if any(counts):
            table.add_row(f"unjudged: {kind}", *(f"{count:,}" for count in counts))
    console.print(table, highlight=False)
    if any((summary.unjudged, other is not None and other.unjudged)):
        _say(console, "unjudged answers are left out of every score; none of them counts as wrong", "dim")
    _say(console, "brackets: 95 % intervals over problems (docs/evaluation.md)", "dim")


def show_comparison(comparison: Comparison, sampled_differently: Sequence[str]) -> None:
    """Which problems each of two models solves."""
    console, solved = _stdout(), comparison.solved
    a, b = _short(comparison.model), _short(comparison.against)
    _say(console, f"\nproblems solved at least once in {solved.n:,} answers, {a} against {b}", "bold")
    for name, ids, sure in (
        ("kept", solved.kept, ()),
        ("gained", solved.gained, solved.surely_gained),
        ("lost", solved.lost, solved.surely_lost),
        ("never", solved.never, ()),
    ):
        shown = ", ".join(ids[:SHOWN_IDS]) + (", ..." if len(ids) > SHOWN_IDS else "")
        known = f", {len(sure)} beyond chance" if name in ("gained", "lost") and ids else ""
        _say(
            console,
            f"  {name:<7}{len(ids):>6,}{known}" + (f"  {shown}" if name in ("gained", "lost") else ""),
        )
    verdict = "expands" if len(solved.gained) > len(solved.lost) else "shrinks"
    words = f"p = {solved.p:.3g} (McNemar, exact, two-sided)"
    if solved.p < 0.05:
        _say(console, f"the boundary {verdict}: {words}")
    else:
        _say(console, f"gained and lost differ no more than chance would have it: {words}")
    if comparison.left_out:
        _say(
            console,
            f"{comparison.left_out:,} problems were asked of one of them only, and left out",
            "yellow",
        )
    if sampled_differently:
        _say(console, f"not asked alike: {'; '.join(sampled_differently)}", "yellow")


def _cell(estimate: Estimate | None, problems: int) -> str:
    if estimate is None:
        return "-"
    return str(estimate) + (f" of {estimate.problems}" if estimate.problems < problems else "")


def _difference(comparison: Comparison | None, name: str) -> Text:
    """In bold when its interval leaves out 0."""
    found = None if comparison is None else comparison.differences.get(name)
    if found is None:
        return Text("-")
    sign = "+" if found.mean > 0 else ""
    return Text(f"{sign}{found}", style="bold" if found.low > 0 or found.high < 0 else "")


def _short(model: str) -> str:
    """The end of a path or hub id: runs/a/checkpoints/step-000020 is a/step-000020.

    >>> _short("runs/a/checkpoints/step-000020"), _short("Qwen/Qwen3-4B")
    ('a/step-000020', 'Qwen3-4B')
    """
    parts = [p for p in model.rstrip("/").split("/") if p and p != "checkpoints"]
    return "/".join(parts[-2:] if "checkpoints" in model else parts[-1:])


def _stdout() -> Console:
    # A pipe has no width: as wide as the table then.
    return Console(width=None if sys.stdout and sys.stdout.isatty() else 200)


def _say(console: Console, sentence: str, style: str = "") -> None:
    console.print(Text(printable(sentence), style=style), soft_wrap=True)
