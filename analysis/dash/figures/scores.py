"""pass@k with its band, and held-out scores over steps; several runs or evaluations together."""

from collections.abc import Sequence
from typing import Any

from rlkit.analysis.dash.board import Exam
from rlkit.analysis.dash.run import HeldOut
from rlkit.analysis.dash.text import label

from .base import band, figure


def pass_at_k(exams: Sequence[tuple[Exam, str]]) -> Any | None:
    """pass@k over k, band: 95 %; maj@k dashed. exams: evaluations of the same problems, and their colours"""
    import plotly.graph_objects as go

    made = figure("answers drawn, k", "share of problems")
    drawn = False
    for exam, shade in exams:
        for kind in ("pass", "maj"):
            curve = exam.curve(kind)
            if not curve:
                continue
            drawn = True
            ks = [k for k, _ in curve]
            if kind == "pass":
                band(made, ks, [s.low for _, s in curve], [s.high for _, s in curve], shade)
            made.add_trace(
                go.Scatter(
                    x=ks,
                    y=[s.mean for _, s in curve],
                    customdata=[[s.low, s.high] for _, s in curve],
                    hovertemplate="%{y:.1%} [%{customdata[0]:.1%}, %{customdata[1]:.1%}]",
                    mode="lines+markers",
                    line={"color": shade, "dash": "solid" if kind == "pass" else "dash"},
                    name=label(f"{kind}@k {exam.name}"),
                )
            )
    if not drawn:
        return None
    most = max((k for exam, _ in exams for k, _ in exam.curve("pass")), default=1)
    ticks = [1 << i for i in range(most.bit_length())]
    made.update_xaxes(type="log", tickvals=ticks, ticktext=[str(k) for k in ticks])
    made.update_yaxes(rangemode="tozero", tickformat=".0%")
    return made


def held_out(runs: Sequence[tuple[str, Sequence[HeldOut], str]]) -> Any | None:
    """pass@1 on held-out prompts over steps, with its interval. runs: name, evaluations, colour"""
    import plotly.graph_objects as go

    known = [(name, scores, shade) for name, scores, shade in runs if scores]
    if not known:
        return None
    made = figure("step", "held-out pass@1", legend=len(known) > 1)
    for name, scores, shade in known:
        steps = [s.step for s in scores]
        band(made, steps, [s.low for s in scores], [s.high for s in scores], shade)
        made.add_trace(
            go.Scatter(
                x=steps,
                y=[s.mean for s in scores],
                customdata=[[s.low, s.high] for s in scores],
                hovertemplate="%{y:.1%} [%{customdata[0]:.1%}, %{customdata[1]:.1%}]",
                mode="lines+markers",
                line={"color": shade},
                name=label(name),
            )
        )
    made.update_yaxes(tickformat=".0%")
    return made
