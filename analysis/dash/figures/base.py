"""What all figures share: colours, axes, thinning, lines with their noise behind them.

Background and text are left to the page, whose style sheet knows whether it is dark; colours are read well on both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkit.analysis.dash.text import label

Floats = NDArray[np.float64]

RUNS = ("#3f7fd1", "#dd7f2e", "#2f9e78", "#b4559c", "#8b78d8", "#b8952a", "#35a3b5", "#c2574f")
"""A colour for each run, far apart for most eyes; the ninth run has the first one's again."""
GRID = "rgba(128, 136, 150, 0.22)"
FADED = 0.28
STEP_HOVER = {"unifiedhovertitle": {"text": "step %{x:,}"}}
"""Over the values under the pointer; a bare number would be one of them."""
MAX_POINTS = 800
"""Points drawn of one curve: what a screen shows."""
HEIGHT = 300


@dataclass(frozen=True, slots=True)
class Line:
    """A named curve: values at steps."""

    name: str
    steps_T: Floats
    values_T: Floats
    colour: str
    dash: str = "solid"


def colour(number: int) -> str:
    return RUNS[number % len(RUNS)]


def figure(x: str, y: str, *, height: int = HEIGHT, legend: bool = True, **layout: Any) -> Any:
    """An empty figure with named axes. The title stands above it, on the page."""
    import plotly.graph_objects as go

    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": GRID}
    # all at once: plotly checks a whole figure at every update, which took most of a page's time
    return go.Figure(
        layout={
            "template": "none",
            "height": height,
            "margin": {"l": 66, "r": 14, "t": 8, "b": 44},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, sans-serif", "size": 12},
            "showlegend": legend,
            "legend": {
                "orientation": "h",
                "x": 0,
                "y": 1.02,
                "yanchor": "bottom",
                "bgcolor": "rgba(0,0,0,0)",
            },
            "hovermode": "x unified",
            "hoverlabel": {
                "bgcolor": "rgba(28, 32, 40, 0.96)",
                "font": {"color": "#f2f4f8"},
                "namelength": 40,
            },
            "uirevision": "kept",  # what a person zoomed to stays while a run goes on
            "xaxis": {"title": {"text": label(x)}, **axis, **STEP_HOVER}
            if x == "step"
            else {"title": {"text": label(x)}, **axis},
            # powers of ten for a loss of 0.0002, which plotly calls 200 micro; 4,000 tokens as a number
            "yaxis": {
                "title": {"text": label(y)},
                "exponentformat": "power",
                "hoverformat": ".4~g",
                "minexponent": 5,
                **axis,
            },
            **layout,
        }
    )


def lines(
    curves: Sequence[Line], x: str, y: str, *, smooth: int = 1, from_zero: bool = False, share: bool = False
) -> Any | None:
    """Curves over steps, thinned; with `smooth`, their running mean over so many values and the values themselves behind it.

    from_zero: nothing is below 0, so the axis begins there;  share: values are shares or probabilities, shown in per cent, from 0
    None: there is nothing to draw
    """
    drawn = [c for c in curves if len(c.steps_T)]
    if not drawn:
        return None
    made = figure(x, y, legend=len(drawn) > 1)
    traces = []
    for c in drawn:
        if smooth > 1 and len(c.values_T) > smooth:
            traces.append(_trace(c, width=1, opacity=FADED, hover=False, legend=False))
            c = Line(c.name, c.steps_T, smoothed(c.values_T, smooth), c.colour, c.dash)
        traces.append(_trace(c, width=2, opacity=1.0, hover=True, legend=True))
    made.add_traces(traces)
    axis: dict[str, Any] = {"rangemode": "tozero"} if from_zero or share else {}
    if all(not c.values_T.any() for c in drawn):
        axis |= {"range": [0, 1], "dtick": 1}
    if share:
        axis |= {"tickformat": ".3~p", "hoverformat": ".2~p"}
    if axis:
        made.update_yaxes(**axis)
    return made


def thinned(steps_T: Floats, values_T: Floats, points: int = MAX_POINTS) -> tuple[Floats, Floats]:
    """At most so many of the points, the extremes among them, so that a curve looks the same."""
    if len(steps_T) <= points:
        return steps_T, values_T
    from tsdownsample import MinMaxLTTBDownsampler

    kept = MinMaxLTTBDownsampler().downsample(
        np.ascontiguousarray(steps_T), np.ascontiguousarray(values_T), n_out=points
    )
    return steps_T[kept], values_T[kept]


def smoothed(values_T: Floats, window: int) -> Floats:
    """Running mean over so many values around each, fewer at the ends."""
    weights = np.ones(window)
    total_T = np.convolve(values_T, weights, mode="same")
    return np.asarray(total_T / np.convolve(np.ones_like(values_T), weights, mode="same"))


def band(made: Any, x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str) -> None:
    """A shaded interval behind a curve."""
    import plotly.graph_objects as go

    made.add_trace(
        go.Scatter(
            x=[*x, *reversed(x)],
            y=[*high, *reversed(low)],
            mode="lines",
            fill="toself",
            fillcolor=colour,
            opacity=0.16,
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
        )
    )


def _trace(c: Line, *, width: float, opacity: float, hover: bool, legend: bool) -> Any:
    import plotly.graph_objects as go

    steps_T, values_T = thinned(c.steps_T, c.values_T)
    few = len(steps_T) < 40
    return go.Scatter(
        x=steps_T,
        y=values_T,
        mode="lines+markers" if few and legend else "lines",
        marker={"size": 5, "color": c.colour},
        line={"width": width, "color": c.colour, "dash": c.dash},
        opacity=opacity,
        name=label(c.name),
        showlegend=legend,
        hoverinfo=None if hover else "skip",
    )
