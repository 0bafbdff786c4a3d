"""Where the seconds go."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlkit.analysis.dash.text import label

from .base import Floats, figure

PHASES = {
    "sample": "#3f7fd1",
    "verify": "#2f9e78",
    "train": "#dd7f2e",
    "wait": "#c25b5b",
    "load": "#8b78d8",
    "track": "#35a3b5",
    "credit": "#b8952a",
    "data": "#b4559c",
    "other": "#8a92a0",
}
COLUMNS = 300
"""Columns of the stack: more steps than that are averaged over equal stretches."""


def phases(steps_T: Floats, seconds: Mapping[str, Floats]) -> Any | None:
    """Seconds of a step by phase, stacked. Each has one value per step, missing ones 0."""
    import plotly.graph_objects as go

    if not len(steps_T):
        return None
    made = figure("step", "seconds")
    groups = np.array_split(np.arange(len(steps_T)), min(COLUMNS, len(steps_T)))
    x = [float(steps_T[g[-1]]) for g in groups]
    for name, values_T in seconds.items():
        made.add_trace(
            go.Scatter(
                x=x,
                y=[float(values_T[g].mean()) for g in groups],
                stackgroup="seconds",
                mode="lines",
                line={"width": 0.5, "color": PHASES.get(name, PHASES["other"])},
                name=label(name),
            )
        )
    made.update_yaxes(rangemode="tozero", hoverformat=".3f")
    return made


def shares(runs: Sequence[str], seconds: Sequence[Mapping[str, float]]) -> Any | None:
    """Total seconds by phase, a bar for each run."""
    import plotly.graph_objects as go

    if not any(seconds):
        return None
    made = figure("seconds in all", "", height=90 + 44 * len(runs))
    names = [label(name) for name in runs]
    for phase in dict.fromkeys(name for some in seconds for name in some):
        made.add_trace(
            go.Bar(
                y=names,
                x=[some.get(phase, 0.0) for some in seconds],
                orientation="h",
                marker={"color": PHASES.get(phase, PHASES["other"])},
                name=label(phase),
            )
        )
    made.update_layout(barmode="stack", hovermode="y unified", legend={"traceorder": "normal"})
    made.update_yaxes(autorange="reversed", automargin=True, title_text=None)
    made.update_xaxes(hoverformat=".1f")
    return made
