"""All metrics: any number that a run records, several at once."""

from collections.abc import Sequence
from typing import Any

from dash import Input, Output, State, dcc, html

from rlkit.analysis.dash.board import Board
from rlkit.analysis.dash.figures import base
from rlkit.analysis.dash.parts import chart, empty, field, grid, heading
from rlkit.analysis.dash.run import Run
from rlkit.analysis.dash.text import plain

TITLE = "All metrics"
FIRST = ("reward", "entropy", "grad_norm", "completions/mean_length")
SMOOTH = {"1": "not at all", "10": "10 records", "50": "50 records", "200": "200 records"}


def page(board: Board, runs: Sequence[Run]) -> list[Any]:
    return [heading("Some metrics"), *charts(board, runs, FIRST, 1)]


def layout(board: Board, runs: Sequence[Run]) -> list[Any]:
    names = _names(runs)
    chosen = [name for name in FIRST if name in names]
    return [
        html.Div(
            [
                field("Metrics", dcc.Dropdown(names, chosen, id="metrics-names", multi=True)),
                field("Smooth over", dcc.Dropdown(SMOOTH, "10", id="metrics-smooth", clearable=False)),
            ],
            className="controls",
        ),
        html.Div(id="metrics-charts"),
    ]


def register(app: Any, board: Board) -> None:
    @app.callback(
        Output("metrics-names", "options"),
        Input("pulse", "data"),
        Input("runs", "value"),
        State("metrics-names", "options"),
    )
    def offer(pulse: str, names: list[str] | None, offered: list[str]) -> list[str]:
        return _names(board.chosen(names))

    @app.callback(
        Output("metrics-charts", "children"),
        Input("metrics-names", "value"),
        Input("metrics-smooth", "value"),
        Input("pulse", "data"),
        Input("runs", "value"),
    )
    def show(metrics: list[str] | None, smooth: str, pulse: str, names: list[str] | None) -> list[Any]:
        return charts(board, board.chosen(names), metrics or (), int(smooth or 1))


def charts(board: Board, runs: Sequence[Run], metrics: Sequence[str], smooth: int) -> list[Any]:
    if not metrics:
        return [empty("Choose metrics above; docs/training.md and docs/tracking.md say what they are.")]
    drawn = []
    for name in metrics:
        lines = [base.Line(r.name, *r.records.get(name), base.colour(board.colour_of(r.name))) for r in runs]
        nothing = "None of the chosen runs has recorded it."
        drawn.append(chart(plain(name), base.lines(lines, "step", name, smooth=smooth), "", nothing))
    return [grid(*drawn)]


def _names(runs: Sequence[Run]) -> list[str]:
    return sorted({name for run in runs for name in run.records.names()})
