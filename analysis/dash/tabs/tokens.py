"""Token view: an answer token by token, coloured by what happened to it, and the decisions on its way."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dash import Input, Output, State, dcc, html

from rlkit.analysis.dash import looks
from rlkit.analysis.dash.board import Board
from rlkit.analysis.dash.figures.mass import role_colour
from rlkit.analysis.dash.parts import chip, empty, field, heading, run_mark, share, table
from rlkit.analysis.dash.roles import WORDS
from rlkit.analysis.dash.run import Run
from rlkit.analysis.dash.text import plain

from .mass import UNTRACKED, step_options

TITLE = "Tokens"
MAX_TOKENS = 1500
"""Tokens of an answer that are shown: each is an element of the page."""
SETS = {"looks": "answers of a step", "probe": "answers of the first policy"}
COLOURS = {
    "change": "change",
    "before": "probability before",
    "after": "probability after",
    "advantage": "advantage",
    "entropy": "entropy",
}
RISE, FALL, DEEP, WARM = "47, 158, 120", "209, 73, 91", "63, 127, 209", "221, 127, 46"
EXPORTED_ANSWERS = 6
"""Of each run, in a page that was exported."""


def page(board: Board, runs: Sequence[Run]) -> list[Any]:
    parts: list[Any] = []
    for run in runs:
        steps = run.tracked("tokens")
        if not steps:
            parts.append(
                html.Section([html.H3(run.name), html.P(UNTRACKED, className="empty")], className="card")
            )
            continue
        for answer in looks.answers(run, steps[-1])[:EXPORTED_ANSWERS]:
            head = html.Summary(
                [
                    run_mark(run.name, board.colour_of(run.name)),
                    f" step {steps[-1]:,}, {_words(run, steps[-1], answer)}",
                ]
            )
            parts.append(html.Details([head, *answer_view(run, steps[-1], answer.row)], className="card"))
    return parts or [empty(UNTRACKED)]


def layout(board: Board, runs: Sequence[Run], asked: Mapping[str, str]) -> list[Any]:
    """asked: run, step and row of an answer that another tab links to"""
    names = [run.name for run in runs if run.tracked("tokens") or run.tracked("probe")]
    name = asked.get("run") if asked.get("run") in names else next(iter(names), None)
    step = int(asked["step"]) if asked.get("step", "").isdecimal() else None
    row = int(asked["row"]) if asked.get("row", "").isdecimal() else None
    options = [] if step is None else [{"label": f"{step:,}", "value": step}]
    return [
        html.Div(
            [
                field("Run", dcc.Dropdown(names, name, id="tokens-run", clearable=False)),
                field("Of", dcc.Dropdown(SETS, "looks", id="tokens-set", clearable=False), "broad"),
                field(
                    "Step",
                    dcc.Dropdown(
                        [{"label": "", "value": -1}, *options], step, id="tokens-step", clearable=False
                    ),
                ),
                field("Answer", dcc.Dropdown([], row, id="tokens-answer", clearable=False), "broad"),
                html.Fieldset(
                    [
                        html.Legend("Colour"),
                        dcc.RadioItems(COLOURS, "change", id="tokens-colour", inline=True),
                    ],
                    className="field colours",
                ),
            ],
            className="controls",
        ),
        html.Div(id="tokens-view", className="by-change"),
    ]


def register(app: Any, board: Board) -> None:
    from dash import ClientsideFunction

    app.clientside_callback(
        ClientsideFunction(namespace="page", function_name="colour"),
        Output("tokens-view", "className"),
        Input("tokens-colour", "value"),
    )

    @app.callback(
        Output("tokens-step", "options"),
        Output("tokens-step", "value"),
        Input("tokens-run", "value"),
        Input("tokens-set", "value"),
        Input("pulse", "data"),
        State("tokens-step", "value"),
        State("tokens-step", "options"),
    )
    def offer_steps(
        name: str | None, which: str, pulse: str, step: int | None, offered: list[Any]
    ) -> tuple[list[dict[str, Any]], int | None]:
        run = board.runs.get(name or "")
        known = run.tracked("probe" if which == "probe" else "tokens") if run else []
        return step_options(known, step, offered)

    @app.callback(
        Output("tokens-answer", "options"),
        Output("tokens-answer", "value"),
        Input("tokens-run", "value"),
        Input("tokens-set", "value"),
        Input("tokens-step", "value"),
        State("tokens-answer", "value"),
    )
    def offer_answers(
        name: str | None, which: str, step: int | None, row: int | None
    ) -> tuple[list[dict[str, Any]], int | None]:
        run = board.runs.get(name or "")
        if run is None or step is None:
            return [], None
        if which == "probe":
            known = looks.probe_answers(run)
            options = [
                {"label": plain(f"{a.row}: {a.prompt_id}, {a.tokens} tokens"), "value": a.row} for a in known
            ]
        else:
            known = looks.answers(run, step)
            options = [{"label": _words(run, step, a), "value": a.row} for a in known]
        rows = [a.row for a in known]
        return options, row if row in rows else next(iter(rows), None)

    @app.callback(
        Output("tokens-view", "children"),
        Input("tokens-run", "value"),
        Input("tokens-set", "value"),
        Input("tokens-step", "value"),
        Input("tokens-answer", "value"),
    )
    def show_answer(name: str | None, which: str, step: int | None, row: int | None) -> list[Any]:
        run = board.runs.get(name or "")
        if run is None or step is None or row is None:
            return [empty(UNTRACKED)]
        return probe_view(run, step, row) if which == "probe" else answer_view(run, step, row)


def _words(run: Run, step: int, answer: looks.Answer) -> str:
    """An answer in a line: its row, reward, length, prompt."""
    found = looks.verdict(run, step, answer.row)
    score = found.get("score")
    reward = "" if score is None else f" reward {score:.2f},"
    role = "" if answer.role == "answer" else f" {answer.role},"
    return plain(f"row {answer.row}:{role}{reward} {answer.tokens} tokens, {answer.prompt_id}")


def answer_view(run: Run, step: int, row: int) -> list[Any]:
    found = looks.tokens(run, step, row)
    if not found:
        return [empty(f"The table of step {step:,} cannot be read: it is damaged, or still being written.")]
    known = looks.verdict(run, step, row)
    decisions = looks.decisions(run, step, known.get("prompt_id")) if known else looks.decisions(run, step)
    return [
        _about(run, known),
        _legend(found),
        _text(found, {d.position for d in decisions}),
        *_decisions(decisions),
    ]


def probe_view(run: Run, step: int, answer: int) -> list[Any]:
    found = looks.probe_tokens(run, step, answer)
    if not found:
        return [empty(f"The table of step {step:,} cannot be read: it is damaged, or still being written.")]
    words = f"Written by the first policy. Before: its own probabilities; after: those under the weights after step {step:,}."
    return [html.P(words, className="note"), _legend(found), _text(found, set())]


def _about(run: Run, known: Mapping[str, Any]) -> Any:
    if not known:
        return html.P(
            "Its verdict is not known: rollouts are not kept (--log.rollouts keeps them), or not written yet.",
            className="note",
        )
    chips = [chip(known["finish_reason"] or "?", "")]
    if known["score"] is not None:
        chips.insert(0, chip(f"reward {known['score']:.3f}", "good" if known["score"] >= 0.5 else "bad"))
    elif known["outcome"]:
        chips.insert(0, chip(known["outcome"], "warning"))
    prompt = run.decode(list(known["token_ids"][: known["prompt_tokens"]]))
    parts = [html.P([*chips, html.Span(plain(known["reason"] or ""), className="dim")], className="finding")]
    if prompt is not None:
        parts.append(html.Details([html.Summary("Prompt"), html.Pre(plain(prompt))]))
    return html.Div(parts)


def _legend(found: Sequence[looks.Token]) -> Any:
    """What the strongest colour means, for each way to colour."""
    change, advantage, entropy = _scales(found)
    rows = {
        "change": [("fell", FALL), (f"by up to {100 * change:.1f} points", ""), ("rose", RISE)],
        "before": [("0 %", ""), ("100 %", DEEP)],
        "after": [("0 %", ""), ("100 %", DEEP)],
        "advantage": [("punished", FALL), (f"up to {advantage:.2f}", ""), ("rewarded", RISE)],
        "entropy": [("0 nats", ""), (f"{entropy:.2f} nats", WARM)],
    }
    return html.Div(
        [
            html.Span(
                [
                    html.Span(w, className="swatch", style={"background": f"rgba({c}, .6)"} if c else {})
                    for w, c in row
                ],
                className=f"scale only-{name}",
            )
            for name, row in rows.items()
        ]
        + [
            html.Span(
                "Hover, tap or use the arrow keys for the numbers; underlined: answers part here.",
                className="dim",
            )
        ],
        className="legends",
    )


def _scales(found: Sequence[looks.Token]) -> tuple[float, float, float]:
    """The largest change, advantage and entropy: full colour."""
    change = max((abs(t.after - t.before) for t in found), default=0.0)
    advantage = max((abs(t.advantage or 0.0) for t in found), default=0.0)
    return change, advantage, max((t.entropy or 0.0 for t in found), default=0.0)


def _text(found: Sequence[looks.Token], parting: set[int]) -> Any:
    change, advantage, entropy = _scales(found)
    spans = []
    for i, t in enumerate(found[:MAX_TOKENS]):
        style = {
            "--change": _diverging(t.after - t.before, change),
            "--before": _rgba(DEEP, t.before),
            "--after": _rgba(DEEP, t.after),
            "--advantage": _diverging(t.advantage or 0.0, advantage),
            "--entropy": _rgba(WARM, (t.entropy or 0.0) / entropy if entropy else 0.0),
        }
        spans.append(
            html.Span(
                visible(t.text),
                className="tok parting" if i in parting else "tok",
                style=style,
                tabIndex=0 if i == 0 else -1,
                **{"data-card": json.dumps(_card(i, t))},
            )
        )
    left = len(found) - len(spans)
    rest = [html.P(f"{left:,} more tokens are not shown.", className="dim")] if left > 0 else []
    return html.Div(
        [
            html.Div(
                spans,
                className="tokens",
                role="group",
                **{"aria-label": "Answer, token by token; arrow keys move"},
            ),
            *rest,
        ],
        className="card",
    )


def visible(text: str) -> str:
    r"""A token's text with what would not be seen.

    >>> visible("\n"), visible(""), visible("a\x1b[0m")
    ('⏎\n', '∅', 'a\\x1b[0m')
    """
    return plain(text).replace("\n", "⏎\n").replace("\t", "⇥\t") or "∅"


def _card(position: int, t: looks.Token) -> dict[str, Any]:
    """What the hover card shows: rows of words and values, and the table of the likeliest tokens."""
    rows = [["token", f"{position}: {json.dumps(plain(t.text), ensure_ascii=False)}"]]
    rows.append(["probability", f"{share(t.before, 2)} → {share(t.after, 2)}"])
    rows.append(["change", f"{100 * (t.after - t.before):+.2f} points, {_nats(t.before, t.after)}"])
    if t.advantage is not None:
        rows.append(["advantage", f"{t.advantage:+.3f}" if t.advantage else "0 (not trained)"])
    if t.entropy is not None:
        after = "" if t.entropy_after is None else f" → {t.entropy_after:.3f}"
        rows.append(["entropy", f"{t.entropy:.3f}{after} nats"])
    if t.top_mass is not None:
        rows.append(["likeliest k hold", share(t.top_mass, 2)])
    top = [[visible(text), share(p, 2), share(q, 2)] for text, p, q in t.top]
    return {"rows": rows, "top": top}


def _nats(before: float, after: float) -> str:
    if not before > 0 or not after > 0:
        return "-"
    return f"{math.log(after / before):+.3f} nats"


def _rgba(rgb: str, amount: float) -> str:
    amount = 0.0 if math.isnan(amount) else min(max(amount, 0.0), 1.0)
    return f"rgba({rgb}, {0.75 * amount:.3f})"


def _diverging(value: float, most: float) -> str:
    """Root of the share, so that small changes are seen beside a large one."""
    amount = math.sqrt(abs(value) / most) if most > 0 and math.isfinite(value) else 0.0
    return _rgba(RISE if value > 0 else FALL, amount)


def _decisions(found: Sequence[looks.Decision]) -> list[Any]:
    if not found:
        return []
    return [
        heading("Decisions", "Where answers to this prompt part, and what each way was worth."),
        *[_decision(d) for d in found],
    ]


def _decision(d: looks.Decision) -> Any:
    rows = [
        [
            html.Code(visible(c.text)),
            html.Span(
                WORDS.get(c.role, plain(c.role)), className="chip", style={"borderColor": role_colour(c.role)}
            ),
            f"{c.count}",
            f"{c.value:.3f}",
            f"{c.pull:+.2f}",
            f"{share(c.before)} → {share(c.after)}",
            f"{c.measured:+.3f}",
            f"{c.predicted:+.3f}",
        ]
        for c in d.candidates
    ]
    worth = "sampled for it" if d.source == "sampled" else "of the group's own answers"
    return html.Section(
        [
            html.H4(f"Token {d.position}: {d.members} answers pass, mean reward {d.mean:.3f}"),
            html.P(
                ["after ", html.Code("… " + plain(d.prefix[-80:]) if d.prefix else "the prompt")],
                className="dim",
            ),
            table(
                [
                    "token",
                    "role",
                    "answers",
                    f"value ({worth})",
                    "pull",
                    "probability",
                    "change of log p",
                    "predicted",
                ],
                rows,
            ),
        ],
        className="card",
    )
