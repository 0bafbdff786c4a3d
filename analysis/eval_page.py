"""An evaluation as one self-contained page: plotly's script is inside it, nothing is loaded from anywhere.

Every text that a model, a data row or a command line wrote is escaped, also inside figures, whose labels plotly reads as a
kind of HTML.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from .eval_compare import Comparison
from .eval_summary import Estimate, Problem, Summary

COLOURS = ("#d62728", "#1f77b4")
SHOWN_TEXT = 4000
"""Characters of an answer, from both its ends."""
STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--line); white-space: nowrap }
td.sure { font-weight: 600 }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 1rem }
.warn { border-left: 4px solid #e6a700; padding-left: .7rem }
details { border-bottom: 1px solid var(--line); padding: .3rem 0 } summary { cursor: pointer }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #8881; padding: .6rem; border-radius: 4px; max-height: 24rem; overflow-y: auto }
.right { color: #188038 } .wrong { color: #c5221f } .dim { opacity: .7 }
"""


def page(
    summary: Summary,
    other: Summary | None,
    comparison: Comparison | None,
    texts: Mapping[str, Sequence[Mapping[str, Any]]],
) -> str | None:
    """The page; None when plotly is not installed. texts: answers to look at, by problem"""
    try:
        import plotly.offline
    except ImportError:
        return None
    models = [summary] if other is None else [summary, other]
    figures = [_pass_at_k(models), _rates(summary, other, comparison), _lengths(models), _diversity(models)]
    title = f"{summary.label}, {summary.model}"
    body = [
        f"<h1>{_e(title)}</h1>",
        *([_partial(summary.label)] if "[" in summary.label else []),
        f"<p class=dim>{_e(_asked(summary))}</p>",
        _table(summary, other, comparison),
        "<p class=dim>Brackets: 95 % intervals over problems. Bold: the interval of a difference leaves out 0.</p>",
        *([] if comparison is None else [_solved(comparison)]),
        "<h2>Figures</h2><div class=figures>",
        *(_html(figure) for figure in figures if figure is not None),
        "</div>",
        _answers(summary, texts),
        _settings(models),
    ]
    script = plotly.offline.get_plotlyjs()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline'; "
        "style-src 'unsafe-inline'; img-src data: blob:\">"
        f"<title>{_e(title)}</title><style>{STYLE}</style><script>{script}</script></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _e(text: object) -> str:
    """Escaped, and with lone surrogates and control characters made visible."""
    printable = "".join(c if c in "\n\t" or c.isprintable() else f"\\u{ord(c):04x}" for c in str(text))
    return html.escape(printable)


def _partial(label: str) -> str:
    return f"<p class=warn>A part of {_e(label.partition('[')[0])}: no score here is that benchmark's.</p>"


def _asked(summary: Summary) -> str:
    s = summary.settings
    return (
        f"{len(summary.problems):,} problems, {summary.n:,} answers to each; temperature {s.get('temperature')}, top-p "
        f"{s.get('top_p')}, at most {s.get('max_completion_length')} tokens, reward {s.get('reward')}, seed {s.get('seed')}, "
        f"{s.get('engine')}, rlkit {s.get('rlkit')}"
    )


def _table(summary: Summary, other: Summary | None, comparison: Comparison | None) -> str:
    heads = ["", summary.model, *([] if other is None else [other.model, "difference"])]
    rows = ["<tr>" + "".join(f"<th>{_e(h)}</th>" for h in heads) + "</tr>"]
    for name, estimate in summary.estimates.items():
        cells = [f"<td>{_e(name.replace('_', ' '))}</td>", f"<td>{_e(estimate)}</td>"]
        if other is not None:
            cells.append(f"<td>{_e(other.estimates.get(name, '-'))}</td>")
            found = None if comparison is None else comparison.differences.get(name)
            cells.append(_difference(found))
        rows.append("<tr>" + "".join(cells) + "</tr>")
    unjudged = [f"{s.skips:,} skips, {s.errors:,} errors" for s in (summary, other) if s is not None]
    rows.append("<tr><td>unjudged</td>" + "".join(f"<td>{words}</td>" for words in unjudged) + "</tr>")
    return f"<table>{''.join(rows)}</table>"


def _difference(found: Estimate | None) -> str:
    if found is None:
        return "<td>-</td>"
    sure = " class=sure" if found.low > 0 or found.high < 0 else ""
    return f"<td{sure}>{'+' if found.mean > 0 else ''}{_e(found)}</td>"


def _solved(comparison: Comparison) -> str:
    s = comparison.solved
    lists = "".join(
        f"<details><summary>{name} {len(ids):,}{_beyond(sure, name)}</summary><p>{_e(', '.join(ids)) or 'none'}</p></details>"
        for name, ids, sure in (
            ("gained", s.gained, s.surely_gained),
            ("lost", s.lost, s.surely_lost),
            ("kept", s.kept, ()),
            ("never solved", s.never, ()),
        )
    )
    return (
        f"<h2>Problems solved at least once in {s.n:,} answers: {_e(comparison.model)} against {_e(comparison.against)}</h2>"
        f"<p>Gained against lost: p = {s.p:.3g} (McNemar, exact, two-sided).</p>{lists}"
    )


def _beyond(sure: Sequence[str], name: str) -> str:
    return f", {len(sure)} beyond chance (Fisher, Holm 5 %)" if name in ("gained", "lost") else ""


def _answers(summary: Summary, texts: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    known = {p.id: p for p in summary.problems}
    parts = ["<h2>Answers, from problems never solved to problems always solved</h2>"]
    for id_, rows in texts.items():
        p = known.get(id_)
        if p is None:
            continue
        shown = "".join(_answer(row) for row in rows)
        parts.append(
            f"<details><summary>{_e(id_)}: {p.right} of {p.judged} right, {len(p.votes)} distinct answers</summary>{shown}</details>"
        )
    return "".join(parts)


def _answer(row: Mapping[str, Any]) -> str:
    text = str(row["text"])
    if len(text) > SHOWN_TEXT:
        text = f"{text[: SHOWN_TEXT // 2]}\n[...]\n{text[-SHOWN_TEXT // 2 :]}"
    score = row["score"]
    mark = "wrong" if score is not None and score < 0.5 else "right" if score is not None else "dim"
    head = f"<span class={mark}>{_e(row['outcome'] if score is None else f'{score:g}')}</span> {_e(row['reason'])}"
    return f"<p>{head}</p><pre>{_e(text)}</pre>"


def _settings(models: Sequence[Summary]) -> str:
    names = [name for name in models[0].settings if name != "problem_ids"]
    rows = "".join(
        f"<tr><td>{_e(name)}</td>{''.join(f'<td>{_e(m.settings.get(name))}</td>' for m in models)}</tr>"
        for name in names
    )
    return f"<h2>How it was asked</h2><table>{rows}</table>"


# -- figures ---------------------------------------------------------------------------------------------------------------


def _html(figure: Any) -> str:
    return str(
        figure.to_html(
            full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True}
        )
    )


def _figure(title: str, x: str, y: str) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(
        title={"text": title, "font": {"size": 15}},
        xaxis_title=x,
        yaxis_title=y,
        height=380,
        margin={"l": 55, "r": 15, "t": 45, "b": 45},
        template="plotly_white",
        legend={"orientation": "h", "y": -0.22},
    )
    return figure


def _pass_at_k(models: Sequence[Summary]) -> Any:
    """pass@k with its band, maj@k dashed."""
    import plotly.graph_objects as go

    figure = _figure("pass@k (band: 95 %), maj@k dashed", "k", "share of problems")
    for colour, m in zip(COLOURS, models, strict=False):
        curves: dict[str, list[tuple[int, Estimate]]] = {"pass": [], "maj": []}
        for name, estimate in m.estimates.items():
            kind, at, k = name.partition("@")
            if at and kind in curves:
                curves[kind].append((int(k), estimate))
        for kind, points in curves.items():
            if not points:
                continue
            ks = [k for k, _ in points]
            if kind == "pass":
                band = [e.high for _, e in points] + [e.low for _, e in reversed(points)]
                figure.add_trace(
                    go.Scatter(
                        x=ks + ks[::-1],
                        y=band,
                        fill="toself",
                        fillcolor=colour,
                        opacity=0.15,
                        line={"width": 0},
                        hoverinfo="skip",
                        showlegend=False,
                    )
                )
            figure.add_trace(
                go.Scatter(
                    x=ks,
                    y=[e.mean for _, e in points],
                    customdata=[[e.low, e.high] for _, e in points],
                    hovertemplate=f"{kind}@%{{x}} %{{y:.3f}} [%{{customdata[0]:.3f}}, %{{customdata[1]:.3f}}]<extra></extra>",
                    mode="lines+markers",
                    line={"color": colour, "dash": "dash" if kind == "maj" else "solid"},
                    name=f"{kind}@k {_e(_short(m.model))}",
                )
            )
    figure.update_xaxes(type="log", dtick=0.30102999566398)  # doublings
    figure.update_yaxes(range=[0, 1.02])
    return figure


def _rates(summary: Summary, other: Summary | None, comparison: Comparison | None) -> Any:
    """Share of right answers by problem: sorted, or one model against the other with the changed problems marked."""
    import plotly.graph_objects as go

    judged = [p for p in summary.problems if p.judged]
    if other is None or comparison is None:
        figure = _figure("share of right answers, problems sorted", "problem", "right")
        ranked = sorted(judged, key=_rate)
        figure.add_trace(
            go.Bar(
                x=list(range(1, len(ranked) + 1)),
                y=[_rate(p) for p in ranked],
                customdata=[_e(p.id) for p in ranked],
                hovertemplate="%{customdata}: %{y:.3f}<extra></extra>",
                marker={"color": COLOURS[0]},
            )
        )
        return figure
    figure = _figure("share of right answers by problem", _e(_short(other.model)), _e(_short(summary.model)))
    theirs = {p.id: p for p in other.problems if p.judged}
    groups = {"gained": "#188038", "lost": "#c5221f", "kept": "#7f7f7f", "never": "#bbbbbb"}
    for name, colour in groups.items():
        ids = set(getattr(comparison.solved, name))
        pairs = [(theirs[p.id], p) for p in judged if p.id in ids and p.id in theirs]
        figure.add_trace(
            go.Scatter(
                x=[_rate(a) for a, _ in pairs],
                y=[_rate(b) for _, b in pairs],
                customdata=[_e(b.id) for _, b in pairs],
                hovertemplate="%{customdata}: %{x:.3f} -> %{y:.3f}<extra></extra>",
                mode="markers",
                marker={"color": colour, "size": 7, "opacity": 0.7},
                name=f"{name} {len(pairs)}",
            )
        )
    figure.add_trace(
        go.Scatter(
            x=[0, 1],
            y=[0, 1],
            mode="lines",
            line={"dash": "dot", "color": "#888"},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    return figure


def _lengths(models: Sequence[Summary]) -> Any:
    import plotly.graph_objects as go

    figure = _figure("length of answers", "tokens", "share of answers")
    for colour, m in zip(COLOURS, models, strict=False):
        x, y = _histogram([length for p in m.problems for length in p.lengths])
        figure.add_trace(go.Bar(x=x, y=y, opacity=0.6, marker={"color": colour}, name=_e(_short(m.model))))
    figure.update_layout(barmode="overlay", bargap=0.02)
    return figure


def _histogram(values: Sequence[int], bins: int = 40) -> tuple[list[float], list[float]]:
    """Middles and shares of at most so many bins: a page holds counts, not a million lengths."""
    import numpy as np

    edges = min(bins, max(1, max(values) - min(values) + 1))
    counts, at = np.histogram(values, bins=edges)
    return ((at[:-1] + at[1:]) / 2).tolist(), (counts / len(values)).tolist()


def _diversity(models: Sequence[Summary]) -> Any:
    import plotly.graph_objects as go

    if not any(m.votes for m in models):
        return None
    figure = _figure("distinct final answers to a problem", f"of {models[0].n:,}", "problems")
    for colour, m in zip(COLOURS, models, strict=False):
        counts: dict[int, int] = {}
        for p in m.problems:
            counts[len(p.votes)] = counts.get(len(p.votes), 0) + 1
        figure.add_trace(
            go.Bar(
                x=sorted(counts),
                y=[counts[c] for c in sorted(counts)],
                opacity=0.6,
                marker={"color": colour},
                name=_e(_short(m.model)),
            )
        )
    figure.update_layout(barmode="overlay")
    return figure


def _rate(p: Problem) -> float:
    return p.right / p.judged


def _short(model: str) -> str:
    return "/".join(model.rstrip("/").split("/")[-3:])
