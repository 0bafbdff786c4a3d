"""Timing: where a step's seconds go, how fast tokens come, what the run has cost so far."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from dash import Input, Output, html

from rlkit.analysis.dash.board import Board
from rlkit.analysis.dash.figures import base, timing
from rlkit.analysis.dash.parts import chart, empty, grid, heading, run_mark
from rlkit.analysis.dash.run import Run

TITLE = "Timing"
NOTHING = "Nothing recorded yet."
PREFIX = "timing_s/"
TOKENS = "tokens sampled so far"


def page(board: Board, runs: Sequence[Run]) -> list[Any]:
    if not runs:
        return [empty("No run is chosen. Choose one above.")]
    window = max(1, max(run.records.length for run in runs) // 50)
    names = [run.name for run in runs]

    def lines(name: str, y: str, x: str | None = None) -> Any:
        drawn = [base.Line(r.name, *_pair(r, name, x), base.colour(board.colour_of(r.name))) for r in runs]
        share = y.startswith("share")
        return base.lines(drawn, TOKENS if x else "step", y, smooth=window, from_zero=True, share=share)

    totals = [{phase: float(v.sum()) for phase, v in _phases(run)[1].items()} for run in runs]
    each = [
        chart(run.name, timing.phases(*_phases(run)), "Seconds of each step by phase, stacked.", NOTHING)
        for run in runs[:4]
    ]
    for part, run in zip(each, runs, strict=False):
        part.children[0] = html.H3(run_mark(run.name, board.colour_of(run.name)))
    return [
        grid(
            chart(
                "Where the seconds went",
                timing.shares(names, totals),
                "All steps together, by phase.",
                NOTHING,
            ),
            chart(
                "Sampled tokens per second",
                lines("tokens_per_second", "tokens / s"),
                "Sampled tokens over the seconds of the whole step.",
                NOTHING,
            ),
            chart(
                "Seconds of a step",
                lines("step_time", "seconds"),
                "From one step to the next, evaluation left out.",
                NOTHING,
            ),
            chart(
                "Reward for tokens",
                lines("reward", "mean reward", "num_tokens"),
                "Reward over all tokens sampled so far: compares algorithms that cost differently per step.",
                NOTHING,
            ),
            chart(
                "Verifier",
                lines("verifier/busy", "share of its time"),
                "How busy the verifier's processes are while they are asked; near 100 %: more --reward.workers would help.",
                NOTHING,
            ),
        ),
        heading("By step"),
        grid(*each),
    ]


def layout() -> list[Any]:
    return [html.Div(id="timing")]


def register(app: Any, board: Board) -> None:
    @app.callback(Output("timing", "children"), Input("pulse", "data"), Input("runs", "value"))
    def show(pulse: str, names: list[str] | None) -> list[Any]:
        return page(board, board.chosen(names))


def _pair(run: Run, name: str, x: str | None) -> tuple[base.Floats, base.Floats]:
    """Values of a name over steps, or over another name's values at the same steps."""
    steps_T, values_T = run.records.get(name)
    if x is None:
        return steps_T, values_T
    at_T, x_T = run.records.get(x)
    _, mine, theirs = np.intersect1d(steps_T, at_T, return_indices=True)
    return x_T[theirs], values_T[mine]


def _phases(run: Run) -> tuple[base.Floats, dict[str, base.Floats]]:
    """Steps, and seconds of each phase at each of them; what no phase accounts for is `other`."""
    steps_T, total_T = run.records.get("step_time")
    steps_T, first = np.unique(steps_T, return_index=True)
    rest_T = total_T[first].copy()
    found: dict[str, base.Floats] = {}
    for name in (n for n in run.records.names() if n.startswith(PREFIX)):
        at_T, seconds_T = run.records.get(name)
        _, here, there = np.intersect1d(steps_T, at_T, return_indices=True)
        values_T = np.zeros_like(rest_T)
        values_T[here] = seconds_T[there]
        found[name.removeprefix(PREFIX)] = values_T
        rest_T -= values_T
    if len(steps_T):
        found["other"] = np.maximum(rest_T, 0.0)
    order = {phase: i for i, phase in enumerate(timing.PHASES)}
    return steps_T, dict(sorted(found.items(), key=lambda pair: order.get(pair[0], 99)))
