"""Mass dynamics: which roles gain and lose, where removed probability goes, and how distributions and entropy change."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from dash import Input, Output, State, dcc, html

from rlkit.analysis.dash import looks
from rlkit.analysis.dash.board import Board
from rlkit.analysis.dash.figures import base
from rlkit.analysis.dash.figures import mass as figures
from rlkit.analysis.dash.parts import chart, empty, field, grid, heading, run_mark
from rlkit.analysis.dash.roles import story
from rlkit.analysis.dash.run import Run

TITLE = "Mass dynamics"
UNTRACKED = "This run was not tracked: --track.every 5 looks at its distributions in every fifth step."
WAIT = "Nothing here yet. The first look is taken in step 1, the next ones every --track.every steps."
LINES: tuple[tuple[str, tuple[tuple[str, str, str], ...], str, str], ...] = (
    (
        "Sampled tokens, by sign of advantage",
        (
            ("dynamics/delta_logp/positive", "rewarded", "solid"),
            ("dynamics/delta_logp/negative", "punished", "dash"),
        ),
        "change of log p, nats",
        "Mean change of log-probability that one update made, at tokens with a positive and a negative advantage.",
    ),
    (
        "Entropy by part of the answer",
        (
            ("dynamics/entropy/start", "first third", "solid"),
            ("dynamics/entropy/middle", "middle", "dash"),
            ("dynamics/entropy/end", "last third", "dot"),
        ),
        "nats per token",
        "Over all trained tokens. Decisions are made where it is high.",
    ),
    (
        "Saturated tokens",
        (("dynamics/saturated", "", "solid"),),
        "share of trained tokens",
        "Tokens whose probability is above 99 %: they take almost no gradient.",
    ),
    (
        "The first policy's answers",
        (("dynamics/probe/logp", "", "solid"),),
        "mean log p per token, nats",
        "The same few answers of step 1 under the weights of each step: how far the policy has moved from what it wrote at first.",
    ),
    (
        "Theory against measurement",
        (
            ("dynamics/predicted/correlation", "correlation", "solid"),
            ("dynamics/predicted/same_sign", "same sign", "dash"),
        ),
        "1 = agrees",
        "Predicted change of log p (Lemma 1 summed over a group) against the measured one, over the candidates of all decisions.",
    ),
)


def page(board: Board, runs: Sequence[Run]) -> list[Any]:
    parts = curves(board, runs)
    tracked = [run for run in runs if run.tracked("tokens")]
    for run in tracked[:3]:
        parts += [
            html.H3(run_mark(run.name, board.colour_of(run.name))),
            *distributions(run, run.tracked("tokens")[-1]),
        ]
    return parts


def layout(board: Board, runs: Sequence[Run]) -> list[Any]:
    tracked = [run.name for run in runs if run.tracked("tokens")]
    return [
        html.Div(id="mass-curves"),
        heading(
            "One update", "Probabilities of the sampled tokens of one step, before and after its update."
        ),
        html.Div(
            [
                field(
                    "Run", dcc.Dropdown(tracked, next(iter(tracked), None), id="mass-run", clearable=False)
                ),
                field("Step", dcc.Dropdown([], None, id="mass-step", clearable=False)),
            ],
            className="controls",
        ),
        html.Div(id="mass-distributions"),
    ]


def register(app: Any, board: Board) -> None:
    @app.callback(Output("mass-curves", "children"), Input("pulse", "data"), Input("runs", "value"))
    def show_curves(pulse: str, names: list[str] | None) -> list[Any]:
        return curves(board, board.chosen(names))

    @app.callback(
        Output("mass-step", "options"),
        Output("mass-step", "value"),
        Input("mass-run", "value"),
        Input("pulse", "data"),
        State("mass-step", "value"),
        State("mass-step", "options"),
    )
    def offer_steps(
        name: str | None, pulse: str, step: int | None, offered: list[Any]
    ) -> tuple[list[dict[str, Any]], int | None]:
        run = board.runs.get(name or "")
        return step_options(run.tracked("tokens") if run else [], step, offered)

    @app.callback(
        Output("mass-distributions", "children"), Input("mass-run", "value"), Input("mass-step", "value")
    )
    def show_distributions(name: str | None, step: int | None) -> list[Any]:
        run = board.runs.get(name or "")
        if run is None or step is None:
            return [empty(UNTRACKED)]
        return distributions(run, step)


def step_options(
    known: Sequence[int], step: int | None, offered: Sequence[Any] | None
) -> tuple[list[dict[str, Any]], int | None]:
    """Steps to choose from, newest first, and the one chosen: who stood at the newest one follows it."""
    newest = known[-1] if known else None
    before = offered[0]["value"] if offered else None
    if step is None or step not in known or step == before:
        step = newest
    return [{"label": f"{s:,}", "value": s} for s in reversed(known)], step


def curves(board: Board, runs: Sequence[Run]) -> list[Any]:
    if not runs:
        return [empty("No run is chosen. Choose one above.")]
    parts: list[Any] = []
    for run in runs[:MOST]:
        parts.append(_run_part(board, run))
    if len(runs) > MOST:
        parts.append(empty(f"Roles of the first {MOST} chosen runs; choose fewer above to see the others."))
    return [
        heading(
            "Roles and stage",
            "Where probability is, by what a token was worth when it was first seen (docs/dynamics.md).",
        ),
        *parts,
        heading("How it moves", "One colour for each run."),
        grid(*(_lines(board, runs, *which) for which in LINES)),
    ]


MOST = 4
"""Runs whose roles are drawn, each in a row of its own."""


def _run_part(board: Board, run: Run) -> Any:
    mark = html.H3(run_mark(run.name, board.colour_of(run.name)))
    told = story(run)
    nothing = UNTRACKED if run.told("track", "every") == 0 else WAIT
    if told is None:
        return html.Section([mark, html.P(nothing, className="empty")], className="card")
    figure = figures.roles(told.curves, told.turns, told.known, told.end)
    parts = {name: run.records.get(f"dynamics/removed/to_{name}") for name in figures.FLOW}
    steps, nats_PS = looks.entropy_map(run)
    return html.Div(
        [
            html.Div([mark, html.P(told.says, className="stage")], className="heading"),
            grid(
                chart(
                    "Roles",
                    figure,
                    "Probability of each role before the update. Shaded: the stage; dotted: turning points with their 95 % intervals.",
                    nothing,
                    wide=True,
                ),
                chart(
                    "Where removed mass goes",
                    figures.flow(parts),
                    "Of the probability that punished tokens lost: who got it.",
                    "No punished token lost probability in the steps looked at.",
                ),
                chart(
                    "Entropy by position",
                    figures.entropy_by_position(steps, nats_PS),
                    "Of the answers looked at, from their first token (top) to their last.",
                    nothing,
                ),
            ),
        ]
    )


def _lines(
    board: Board, runs: Sequence[Run], title: str, names: Sequence[tuple[str, str, str]], y: str, words: str
) -> Any:
    lines = [
        base.Line(
            " ".join(part for part in (run.name, kind) if part),
            *run.records.get(name),
            base.colour(board.colour_of(run.name)),
            dash,
        )
        for run in runs
        for name, kind, dash in names
    ]
    return chart(title, base.lines(lines, "step", y, share=y.startswith("share")), words, WAIT)


def distributions(run: Run, step: int) -> list[Any]:
    """Histograms before and after one update, and what changed at which probability."""
    moved = looks.moved(run, step)
    if moved is None:
        return [empty(f"The table of step {step:,} cannot be read: it is damaged, or still being written.")]
    signs = (
        ("Rewarded tokens", moved.advantage_N > 0, "a positive advantage"),
        ("Punished tokens", moved.advantage_N < 0, "a negative advantage"),
    )
    charts = [
        chart(
            title,
            figures.before_after(moved.before_N[which_N], moved.after_N[which_N], "probability"),
            f"{int(which_N.sum()):,} sampled tokens with {words}: how many had which probability.",
            f"No token with {words} among those looked at in this step.",
        )
        for title, which_N, words in signs
    ]
    pairs = [(c.predicted, c.measured, c.text) for d in looks.decisions(run, step) for c in d.candidates]
    pairs = [pair for pair in pairs if np.isfinite(pair[:2]).all()]
    known = np.array([pair[:2] for pair in pairs], np.float64).reshape(-1, 2)
    return [
        grid(
            *charts,
            chart(
                "Change by probability",
                figures.change_by_probability(moved.before_N, moved.after_N),
                "Line: median change of tokens that had about this probability; band: their middle half.",
                "Too few tokens were looked at in this step.",
            ),
            chart(
                "Candidates of decisions",
                figures.predicted(known, [repr(pair[2]) for pair in pairs]),
                "One point for each token that answers of one prompt went on with where they part.",
                "No decisions were found in this step.",
            ),
        )
    ]
