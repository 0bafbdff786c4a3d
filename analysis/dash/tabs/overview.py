"""How the runs are: where they stand, what is wrong in words, and the four curves that one looks at first."""

from collections.abc import Sequence
from typing import Any

from dash import Input, Output, State, dcc, html

from rlkit.analysis.dash.board import Board
from rlkit.analysis.dash.figures import base, scores
from rlkit.analysis.dash.parts import (
    ago,
    chart,
    chip,
    empty,
    grid,
    heading,
    numbers,
    run_mark,
    sentence,
    share,
)
from rlkit.analysis.dash.run import Run
from rlkit.analysis.dash.text import plain
from rlkit.errors import RunError

STATES = {"running": "running", "finished": "finished", "silent": "silent"}
STAGES = {0.0: "exploitation", 0.5: "saturated", 1.0: "exploration"}
NO_STEP = "No step is recorded yet. The first line comes with the first step."


def page(board: Board, runs: Sequence[Run]) -> list[Any]:
    return [*now(board, runs), html.Div(diagnoses(board, runs))]


def layout(board: Board, runs: Sequence[Run]) -> list[Any]:
    waiting = html.P("Reading what the runs have recorded ...", className="empty card")
    return [
        html.Div(now(board, runs), id="overview-now"),
        dcc.Store(id="overview-shown"),
        html.Div(waiting, id="overview-diagnoses"),
    ]


def register(app: Any, board: Board) -> None:
    @app.callback(
        Output("overview-now", "children"),
        Output("overview-shown", "data"),
        Input("pulse", "data"),
        Input("runs", "value"),
        prevent_initial_call=True,  # the layout has it
    )
    def show_now(pulse: str, names: list[str] | None) -> tuple[list[Any], str]:
        return now(board, board.chosen(names)), pulse

    # after the figures: it reads whole runs, and what the page waits for first would wait for that
    @app.callback(
        Output("overview-diagnoses", "children"), Input("overview-shown", "data"), State("runs", "value")
    )
    def show_diagnoses(pulse: str | None, names: list[str] | None) -> list[Any]:
        return diagnoses(board, board.chosen(names))


def now(board: Board, runs: Sequence[Run]) -> list[Any]:
    if not runs:
        return [
            empty(
                "No run is chosen. Choose one above, or start one: rlkit train --model tiny --data task:chain"
            )
        ]
    cards = html.Div([_card(board, run) for run in runs], className="cards")

    def curve(name: str, y: str, **how: Any) -> Any:
        lines = [
            base.Line(run.name, *run.records.get(name), base.colour(board.colour_of(run.name)))
            for run in runs
        ]
        return base.lines(lines, "step", y, smooth=_window(runs), **how)

    held_out = [(run.name, run.held_out(), base.colour(board.colour_of(run.name))) for run in runs]
    return [
        cards,
        grid(
            chart(
                "Reward",
                curve("reward", "mean reward"),
                f"Mean reward of a step's answers.{_smoothed(runs)}",
                NO_STEP,
            ),
            chart(
                "Held-out score",
                scores.held_out(held_out),
                "pass@1 on prompts the run never trains on, with 95 % intervals.",
                "Not measured yet: --log.eval-every 50 scores held-out prompts during a run "
                "(a task has them; for a file name one with --data.held-out).",
            ),
            chart(
                "Entropy",
                curve("entropy", "nats per token", from_zero=True),
                f"Of the policy at trained tokens. A fall to 0 means that it no longer tries anything.{_smoothed(runs)}",
                NO_STEP,
            ),
            chart(
                "Length",
                curve("completions/mean_length", "tokens", from_zero=True),
                f"Mean tokens of an answer.{_smoothed(runs)}",
                NO_STEP,
            ),
        ),
    ]


def diagnoses(board: Board, runs: Sequence[Run]) -> list[Any]:
    """What rlkit doctor says of each run."""
    if not runs:
        return []
    return [
        heading(
            "Diagnosis",
            "What rlkit doctor finds in each run, worst first: what is so, why likely, what to try.",
        ),
        *[_diagnosis(board, run) for run in runs],
    ]


def _diagnosis(board: Board, run: Run) -> Any:
    mark = html.H3(run_mark(run.name, board.colour_of(run.name)))
    if not run.records.length:
        return html.Section([mark, html.P(NO_STEP, className="empty")], className="card")
    try:
        cases = board.diagnosis(run)
    except RunError as error:
        return html.Section([mark, html.P(plain(error), className="empty")], className="card")
    if not cases:
        steps = f"Nothing wrong found in {run.records.length:,} recorded steps."
        return html.Section([mark, html.P(steps, className="good")], className="card")
    found = [
        html.Li(
            [
                html.P(
                    [
                        chip(case.severity, case.severity),
                        html.Strong(case.name),
                        html.Span(case.when, className="dim"),
                    ],
                    className="finding",
                ),
                html.P(sentence(_sentence(case.says))),
                html.P([html.B("Likely: "), *sentence(_sentence(case.cause))], className="small"),
                html.P([html.B("Try: "), *sentence(_sentence(case.remedy))], className="small"),
            ]
        )
        for case in cases
    ]
    return html.Section([mark, html.Ul(found, className="findings")], className="card")


def _sentence(words: str) -> str:
    words = plain(words)
    return f"{words[:1].upper()}{words[1:]}." if not words.startswith("--") else f"{words}."


def _card(board: Board, run: Run) -> Any:
    records, planned = run.records, run.steps_planned
    state = run.state
    of = f" of {planned:,}" if planned else ""
    told = [run.told("algo", "name") or run.told("algo"), run.told("model", "name"), run.told("data", "name")]
    head = [run_mark(run.name, board.colour_of(run.name)), chip(STATES[state], state)]
    if state != "finished":
        head.append(html.Span(f"last written {ago(run.quiet_seconds)}", className="dim"))
    if records.damaged:
        head.append(chip(f"{records.damaged:,} damaged lines left out", "warning"))
    bar = (
        html.Progress(value=str(records.step), max=str(planned), **{"aria-label": "steps done"})
        if planned
        else None
    )
    parts = [html.H3(head), html.P(" · ".join(plain(t) for t in told if isinstance(t, str)), className="dim")]
    parts += [bar] if bar is not None else []
    parts.append(numbers([("step", f"{records.step:,}{of}"), *_figures(run)]))
    return html.Section(parts, className="card run")


def _figures(run: Run) -> list[tuple[str, str]]:
    """The few numbers worth a card."""
    found: list[tuple[str, str]] = []
    _, rewards_T = run.records.get("reward")
    if len(rewards_T):
        few = max(1, min(10, len(rewards_T) // 4))
        first, last = float(rewards_T[:few].mean()), float(rewards_T[-few:].mean())
        found.append((f"reward, mean of {few}" if few > 1 else "reward", f"{first:.3f} → {last:.3f}"))
    scores = run.held_out()
    if scores:
        now = scores[-1]
        before = f"{scores[0].mean:.3f} → " if len(scores) > 1 else ""
        found.append(("held-out pass@1", f"{before}{now.mean:.3f} [{now.low:.3f}, {now.high:.3f}]"))
    for name, words, form in (
        ("entropy", "entropy, nats", "{:.3f}"),
        ("completions/mean_length", "tokens of an answer", "{:.1f}"),
        ("step_time", "seconds of a step", "{:.2f}"),
    ):
        value = run.records.newest(name)
        if value is not None:
            found.append((words, form.format(value)))
    cut = run.records.newest("completions/clipped_ratio")
    if cut:
        found.append(("cut answers", share(cut)))
    stage = run.records.newest("dynamics/stage")
    if stage in STAGES:
        found.append(("stage", STAGES[stage]))
    return found


def _window(runs: Sequence[Run]) -> int:
    """Steps of a running mean: a fiftieth of the longest run."""
    return max(1, max((run.records.length for run in runs), default=0) // 50)


def _smoothed(runs: Sequence[Run]) -> str:
    window = _window(runs)
    return "" if window == 1 else f" Faint: each step; bold: the mean of {window:,} around it."
