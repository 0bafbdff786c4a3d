"""Where probability went: roles over steps with the stage behind them, what was removed, distributions, entropy by position."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlkit.analysis.dash.text import label
from rlkit.analysis.figures import COLOURS, STAGES

from .base import Floats, Line, band, figure, lines

OTHER = "#b48ead"
FLOW = {"runner_up": "#3f7fd1", "others": "#35a3b5", "tail": "#b8952a"}
FLOW_WORDS = {
    "runner_up": "the likeliest other token",
    "others": "the rest of the top k",
    "tail": "everything else",
}
BEFORE, AFTER = "#8a92a0", "#3f7fd1"
BINS = 25


@dataclass(frozen=True, slots=True)
class Turn:
    """A turning point and its 95 % interval, in steps."""

    words: str
    step: float
    low: float
    high: float


def role_colour(role: str) -> str:
    return COLOURS.get(role, OTHER)


def roles(
    curves: Sequence[tuple[str, str, Floats, Floats]], turns: Sequence[Turn], known: bool, end: float | None
) -> Any | None:
    """Mass by role over steps. curves: (name, role, steps, masses);  end: step at which exploitation ended; None: it has not
    known: whether the stage is, so that it is shaded
    """
    dashes: dict[str, int] = {}
    made_lines = []
    for name, role, steps_T, masses_T in curves:
        dash = ("solid", "dash", "dot", "dashdot")[dashes.setdefault(role, 0) % 4]
        dashes[role] += 1
        made_lines.append(Line(name, steps_T, masses_T, role_colour(role), dash))
    made = lines(made_lines, "step", "probability", share=True)
    if made is None:
        return None
    last = max(float(c.steps_T[-1]) for c in made_lines if len(c.steps_T))
    middle = last if end is None else end
    for stage, left, right in (("exploitation", 0.0, middle), ("exploration", middle, last)):
        if known and left < right:
            made.add_vrect(x0=left, x1=right, fillcolor=STAGES[stage], line_width=0, layer="below")
            made.add_annotation(
                x=left,
                xanchor="left",
                y=1,
                yref="paper",
                yanchor="top",
                showarrow=False,
                text=stage,
                opacity=0.75,
            )
    for turn in turns:
        made.add_vrect(
            x0=turn.low, x1=turn.high, fillcolor="#8a92a0", opacity=0.12, line_width=0, layer="below"
        )
        made.add_vline(x=turn.step, line={"width": 1, "dash": "dot", "color": "#8a92a0"})
    made.update_layout(showlegend=True)
    made.update_yaxes(rangemode="tozero")
    return made


def flow(parts: Mapping[str, tuple[Floats, Floats]]) -> Any | None:
    """Shares of the removed probability, stacked over steps. parts: runner_up, others, tail -> steps and shares"""
    import plotly.graph_objects as go

    known = {name: pair for name, pair in parts.items() if len(pair[0])}
    if not known:
        return None
    made = figure("step", "share of what was removed")
    for name, (steps_T, shares_T) in known.items():
        kept = slice(None, None, max(1, len(steps_T) // 400))  # stacked curves share their steps
        made.add_trace(
            go.Scatter(
                x=steps_T[kept],
                y=shares_T[kept],
                stackgroup="removed",
                mode="lines",
                line={"width": 0.5, "color": FLOW[name]},
                name=FLOW_WORDS[name],
            )
        )
    made.update_yaxes(range=[0, 1], tickformat=".0%", hoverformat=".1%")
    return made


def before_after(before_N: Floats, after_N: Floats, x: str, bins: int = BINS) -> Any | None:
    """Two histograms on the same bins of [0, 1]: how many tokens had this probability before and after the update."""
    import plotly.graph_objects as go

    if not len(before_N):
        return None
    made = figure(x, "tokens", height=240)
    edges = np.linspace(0.0, 1.0, bins + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    for name, values_N, shade in (("before", before_N, BEFORE), ("after", after_N, AFTER)):
        counts, _ = np.histogram(np.clip(values_N, 0, 1), bins=edges)
        made.add_trace(
            go.Bar(x=middles, y=counts, width=0.9 / bins, marker={"color": shade, "opacity": 0.65}, name=name)
        )
    made.update_layout(barmode="overlay", bargap=0)
    made.update_xaxes(range=[0, 1], tickformat=".0%", hoverformat=".0%")
    return made


def change_by_probability(before_N: Floats, after_N: Floats, bins: int = 12) -> Any | None:
    """Mean change of probability against the probability before, with its middle half; bins of equal count."""
    import plotly.graph_objects as go

    if len(before_N) < 4:
        return None
    order = np.argsort(before_N)
    groups = [g for g in np.array_split(order, min(bins, max(1, len(order) // 4))) if len(g)]
    x = [float(before_N[g].mean()) for g in groups]
    change_N = after_N - before_N
    low, middle, high = (
        [float(v) for v in vs]
        for vs in zip(*(np.quantile(change_N[g], (0.25, 0.5, 0.75)) for g in groups), strict=True)
    )
    made = figure("probability before the update", "change of probability", height=240, legend=False)
    band(made, x, low, high, AFTER)
    made.add_trace(
        go.Scatter(x=x, y=middle, mode="lines+markers", line={"color": AFTER}, name="median change")
    )
    made.update_xaxes(range=[0, 1], tickformat=".0%", hoverformat=".1%")
    made.update_yaxes(tickformat=".1%", hoverformat=".2%")
    return made


def entropy_by_position(steps: Sequence[int], nats_PS: Floats) -> Any | None:
    """Mean entropy by relative position in the answer (rows) and step (columns), as a map. nan: no token there."""
    import plotly.graph_objects as go

    if not len(steps) or not np.isfinite(nats_PS).any():
        return None
    positions = nats_PS.shape[0]
    made = figure("step", "position in the answer", legend=False)
    made.add_trace(
        go.Heatmap(
            x=[str(step) for step in steps],
            y=(np.arange(positions) + 0.5) / positions,
            z=nats_PS,
            colorscale="Viridis",
            colorbar={"title": {"text": "nats"}, "thickness": 12, "outlinewidth": 0},
            hovertemplate="step %{x}, at %{y:.0%} of the answer: %{z:.3f} nats<extra></extra>",
        )
    )
    made.update_layout(hovermode="closest")
    made.update_xaxes(type="category", nticks=12)
    made.update_yaxes(tickformat=".0%", autorange="reversed", ticks="")
    return made


def predicted(pairs_N2: Floats, names: Sequence[str]) -> Any | None:
    """Predicted against measured change of log p, a point for each candidate of a decision."""
    import plotly.graph_objects as go

    if not len(pairs_N2):
        return None
    made = figure("predicted (up to its size)", "measured change of log p, nats", height=240, legend=False)
    made.add_trace(
        go.Scatter(
            x=pairs_N2[:, 0],
            y=pairs_N2[:, 1],
            mode="markers",
            marker={"size": 7, "color": AFTER, "opacity": 0.7},
            text=[label(name) for name in names],
            hovertemplate="%{text}: predicted %{x:.3f}, measured %{y:.3f}<extra></extra>",
        )
    )
    made.update_layout(hovermode="closest")
    return made
