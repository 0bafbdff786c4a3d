"""Studies of credit -> pages, from their JSON results. plotly is imported inside functions, as in figures.py."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from .credit_summary import BROADCAST

GREY = "#7f7f7f"
KINDS = {"unconditional": "#7f7f7f", "continual": "#d62728", "skip": "#1f77b4"}


def mc_credit(result: Mapping[str, Any], title: str) -> Any:
    """Sign accuracy and error by position, and by how many answers were right; a line for each K, GRPO's in grey."""
    from plotly.subplots import make_subplots

    panels = (
        "sign accuracy by position",
        "error of the advantage by position",
        "sign accuracy by right answers",
    )
    figure = make_subplots(rows=1, cols=3, subplot_titles=panels, horizontal_spacing=0.07)
    measured = result["measured"]
    names = list(measured["mixed"])
    shades = _shades([name for name in names if name != BROADCAST])
    for column, (rows, at, number) in enumerate(
        (
            (measured["by_position"], "position", "sign"),
            (measured["by_position"], "position", "error"),
            (measured["by_right"], "right", "sign"),
        ),
        start=1,
    ):
        for name in names:
            points = [(row[at], row["estimators"][name][number]) for row in rows if name in row["estimators"]]
            words = "GRPO" if name == BROADCAST else f"K = {name}"
            _band(figure, points, words, shades.get(name, GREY), column, legend=column == 1)
    figure.update_xaxes(title_text="share of the answer", col=1)
    figure.update_xaxes(title_text="share of the answer", col=2)
    figure.update_xaxes(title_text="right answers in the group", col=3)
    figure.update_yaxes(range=[0, 1.02], col=1)
    figure.update_yaxes(range=[0, 1.02], col=3)
    return _finished(figure, title)


def skip(result: Mapping[str, Any], title: str) -> Any:
    """Distinct answers, groups without an advantage, and length, by how much of an answer stands before."""
    from plotly.subplots import make_subplots

    panels = {
        "distinct": "distinct final answers",
        "zero": "groups of equal rewards",
        "length": "tokens of a continuation",
    }
    figure = make_subplots(rows=1, cols=3, subplot_titles=list(panels.values()), horizontal_spacing=0.07)
    for column, number in enumerate(panels, start=1):
        for kind, colour in KINDS.items():
            points = [(row["share"], row[kind][number]) for row in result["splits"]]
            _band(figure, points, kind, colour, column, legend=column == 1)
    figure.update_xaxes(title_text="share of the answer that stands before")
    return _finished(figure, title)


def implicit(result: Mapping[str, Any], title: str) -> Any:
    """The evaluator's success after each share of a right answer, and each model against the others."""
    from plotly.colors import qualitative
    from plotly.subplots import make_subplots

    several = len(result["models"]) > 1
    panels = ["the evaluator's success rate", "against the other models"][: 1 + several]
    figure = make_subplots(rows=1, cols=len(panels), subplot_titles=panels, horizontal_spacing=0.07)
    for i, model in enumerate(result["models"]):
        colour = qualitative.Plotly[i % len(qualitative.Plotly)]
        for column, number in enumerate(("success", "advantage")[: 1 + several], start=1):
            points = [(row["share"], row[number]) for row in model["positions"] if row[number] is not None]
            _band(figure, points, html.escape(model["name"]), colour, column, legend=column == 1)
    figure.update_xaxes(title_text="share of the answer")
    figure.update_yaxes(range=[0, 1.02], col=1)
    return _finished(figure, title)


def _shades(names: Sequence[str]) -> dict[str, str]:
    from plotly.colors import sample_colorscale

    places = [0.85 * i / max(1, len(names) - 1) for i in range(len(names))]
    return dict(zip(names, sample_colorscale("Viridis", places), strict=True)) if names else {}


def _band(
    figure: Any,
    points: Sequence[tuple[float, Mapping[str, Any]]],
    name: str,
    colour: str,
    column: int,
    *,
    legend: bool,
) -> None:
    """Means as a line, their intervals as bars."""
    import plotly.graph_objects as go

    bars = {
        "type": "data",
        "symmetric": False,
        "array": [m["high"] - m["mean"] if m["high"] is not None else 0 for _, m in points],
        "arrayminus": [m["mean"] - m["low"] if m["low"] is not None else 0 for _, m in points],
        "thickness": 1,
        "width": 3,
    }
    line = go.Scatter(
        x=[x for x, _ in points],
        y=[m["mean"] for _, m in points],
        error_y=bars,
        mode="lines+markers",
        name=name,
        legendgroup=name,
        showlegend=legend,
        line={"color": colour, "width": 2},
    )
    figure.add_trace(line, row=1, col=column)


def _finished(figure: Any, title: str) -> Any:
    figure.update_layout(
        title={"text": html.escape(title)}, template="plotly_white", height=520, hovermode="x unified"
    )
    return figure
