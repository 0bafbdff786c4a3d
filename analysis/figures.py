"""Arrays -> pages. plotly is the one library that draws; a page holds its script and needs no network.

plotly is an extra (`pip install 'rlvrkit[dash]'`), and is imported inside functions, so that the numbers can be had without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlkit.errors import ConfigError, RunError

from .bandit import Floats, Roles, TurningPoints, entropy, mass, pass_at_k

ROLES = {"high": "explored high-reward", "low": "low-reward", "optimal": "best action"}
COLOURS = {"high": "#1f77b4", "low": "#7f7f7f", "optimal": "#d62728", "entropy": "#2ca02c"}
STAGES = {"exploitation": "rgba(31, 119, 180, 0.12)", "exploration": "rgba(214, 39, 40, 0.12)"}
MAX_POINTS = 1000
"""Points drawn of one curve; a screen has no more."""


@dataclass(frozen=True, slots=True)
class Curves:
    """One algorithm's runs of a bandit: a column of the page."""

    name: str
    probs_STA: Floats
    turns: Sequence[TurningPoints]


def require_place(path: Path) -> None:
    """Raises before the work is done: plotly is missing, or the page cannot be written there."""
    try:
        import plotly  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"--figure {path}: plotly is not installed; pip install 'rlvrkit[dash]', or leave --figure out"
        ) from error
    if not path.suffix.lower() == ".html":
        raise ConfigError(f"--figure {path}: expected a name that ends in .html")
    if not path.parent.is_dir():
        raise ConfigError(f"--figure {path}: no folder {path.parent} (looked from {Path.cwd()})")


def write(figure: Any, path: Path) -> None:
    """One file that holds everything, plotly's script too."""
    try:
        figure.write_html(path, include_plotlyjs=True, config={"displaylogo": False, "responsive": True})
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written ({error.strerror or error}); choose another file"
        ) from error


def simulated(columns: Sequence[Curves], roles: Roles, ks: Sequence[int], title: str) -> Any:
    """Mass by role with the stages shaded, entropy, and pass@k, over steps. A plotly figure.

    Several runs: their median, and the range from 5 % to 95 %.
    """
    from plotly.colors import sample_colorscale
    from plotly.subplots import make_subplots

    rows = ("probability", "entropy, nats", "pass@k")
    figure = make_subplots(
        rows=len(rows),
        cols=len(columns),
        shared_xaxes=True,
        shared_yaxes=True,
        vertical_spacing=0.06,
        horizontal_spacing=0.03,
        column_titles=[column.name for column in columns],
    )
    for c, column in enumerate(columns, start=1):
        first = c == 1
        steps_T = _kept(column.probs_STA.shape[1])
        for role, words in ROLES.items():
            if actions := getattr(roles, role):
                masses_ST = mass(column.probs_STA, actions)[:, steps_T]
                _curve(figure, steps_T, masses_ST, words, COLOURS[role], row=1, col=c, legend=first)
        nats_ST = entropy(column.probs_STA[:, steps_T])
        _curve(figure, steps_T, nats_ST, "entropy", COLOURS["entropy"], row=2, col=c, legend=False)
        right_ST = mass(column.probs_STA, roles.optimal)[:, steps_T]
        for i, k in enumerate(ks):
            (shade,) = sample_colorscale("Viridis", [0.85 * i / max(len(ks) - 1, 1)])
            _curve(figure, steps_T, pass_at_k(right_ST, k), f"pass@{k}", shade, row=3, col=c, legend=first)
        if roles.high:
            _shade(figure, column, int(steps_T[-1]), col=c, legend=first)
        figure.update_xaxes(range=[0, int(steps_T[-1])], col=c)
        figure.update_xaxes(title_text="step", row=len(rows), col=c)
    most = max(float(entropy(column.probs_STA).max()) for column in columns)
    for r, (words, top) in enumerate(zip(rows, (1.0, most, 1.0), strict=True), start=1):
        figure.update_yaxes(range=[0, 1.04 * top], row=r)
        figure.update_yaxes(title_text=words, row=r, col=1)
    figure.update_layout(title=title, template="plotly_white", height=900, hovermode="x unified")
    return figure


def _kept(steps: int) -> Any:
    """Indices of at most MAX_POINTS steps, evenly spread, both ends among them."""
    return np.unique(np.linspace(0, steps - 1, min(steps, MAX_POINTS)).round().astype(int))


def _curve(
    figure: Any, steps_T: Any, values_ST: Floats, name: str, colour: str, *, row: int, col: int, legend: bool
) -> None:
    import plotly.graph_objects as go

    if len(values_ST) > 1:
        low_T, high_T = np.quantile(values_ST, (0.05, 0.95), axis=0)
        band = go.Scatter(
            x=np.concatenate([steps_T, steps_T[::-1]]),
            y=np.concatenate([high_T, low_T[::-1]]),
            mode="lines",
            fill="toself",
            line={"width": 0},
            fillcolor=colour,
            opacity=0.15,
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_trace(band, row=row, col=col)
    line = go.Scatter(
        x=steps_T,
        y=np.median(values_ST, axis=0),
        mode="lines",
        name=name,
        legendgroup=name,
        showlegend=legend,
        line={"color": colour, "width": 2},
    )
    figure.add_trace(line, row=row, col=col)


def _shade(figure: Any, column: Curves, last: int, *, col: int, legend: bool) -> None:
    """The two stages behind the masses, by the median of the runs that turn; where hardly any turns, one stage."""
    import plotly.graph_objects as go

    turned = [turn.t_max1 for turn in column.turns if turn.t_max1 is not None]
    end = float(np.median(turned)) if 2 * len(turned) >= len(column.turns) and turned else float(last)
    for name, (left, right) in {"exploitation": (0.0, end), "exploration": (end, float(last))}.items():
        if left < right:
            figure.add_vrect(
                x0=left, x1=right, fillcolor=STAGES[name], line_width=0, layer="below", row=1, col=col
            )
        if legend:  # shapes have no legend of their own in subplots
            square = {"symbol": "square", "size": 14, "color": STAGES[name]}
            figure.add_trace(
                go.Scatter(x=[None], y=[None], mode="markers", marker=square, name=name), row=1, col=col
            )
