"""Held-out scores: pass@k of evaluations with bands, several together, and what a run scored while it trained."""

from collections.abc import Sequence
from typing import Any

from dash import Input, Output, html

from rlkit.analysis.dash.board import Board, Exam
from rlkit.analysis.dash.figures import scores
from rlkit.analysis.dash.figures.base import colour
from rlkit.analysis.dash.parts import chart, empty, grid, heading, run_mark, table
from rlkit.analysis.dash.run import Run
from rlkit.analysis.dash.text import plain

TITLE = "pass@k"
NO_EXAM = (
    "No evaluation here. rlkit eval --model runs/NAME/checkpoints/step-000100 --data test.jsonl --n 64 writes one; "
    "name its folder too: rlkit dash runs evals"
)
KINDS = ("pass@", "maj@", "avg@")
WORDS = {
    "length": "tokens of an answer",
    "mean_nll": "entropy, nats per token",
    "distinct_answers": "distinct final answers",
    "truncated": "share cut",
}


def page(board: Board, runs: Sequence[Run]) -> list[Any]:
    return [*_exams(board), *_runs(board, runs)]


def layout() -> list[Any]:
    return [html.Div(id="passk")]


def register(app: Any, board: Board) -> None:
    @app.callback(Output("passk", "children"), Input("pulse", "data"), Input("runs", "value"))
    def show(pulse: str, names: list[str] | None) -> list[Any]:
        return page(board, board.chosen(names))


def _runs(board: Board, runs: Sequence[Run]) -> list[Any]:
    series = [(run.name, run.held_out(), colour(board.colour_of(run.name))) for run in runs]
    rows = [
        [
            run_mark(run.name, board.colour_of(run.name)),
            f"{s.step:,}",
            f"{s.mean:.3f}",
            f"{s.low:.3f} to {s.high:.3f}",
            f"{s.prompts:,}",
        ]
        for run in runs
        for s in run.held_out()[-3:]
    ]
    return [
        heading("While training", "Held-out prompts, one answer to each, with 95 % intervals over prompts."),
        grid(
            chart(
                "pass@1 over steps",
                scores.held_out(series),
                "Lines: held-out pass@1; bands: 95 % intervals. rlkit eval --against compares two models in pairs, which finds smaller differences.",
                "Not measured: --log.eval-every 50 scores held-out prompts during a run.",
            ),
            *(
                [
                    html.Section(
                        [
                            html.H3("The last scores"),
                            table(["run", "step", "pass@1", "95 %", "prompts"], rows),
                        ],
                        className="card",
                    )
                ]
                if rows
                else []
            ),
        ),
    ]


def _exams(board: Board) -> list[Any]:
    exams = board.exams()
    if not exams:
        return [heading("Evaluations"), empty(NO_EXAM)]
    parts = [
        heading(
            "Evaluations", "Several answers to each problem (rlkit eval). Band: 95 % intervals over problems."
        )
    ]
    sets: dict[str, list[tuple[Exam, str]]] = {}
    for number, exam in enumerate(exams):
        sets.setdefault(exam.label, []).append((exam, colour(number)))
    for label, some in sets.items():
        part = "[" in label
        words = "pass@k: the chance that one of k answers is right. Dashed: maj@k, the answer that most of k give."
        if part:
            words += f" A part of {label.partition('[')[0]}: no score here is that benchmark's."
        parts.append(
            grid(
                chart(plain(label), scores.pass_at_k(some), plain(words), "This evaluation holds no pass@k."),
                html.Section([html.H3("Numbers"), _numbers([exam for exam, _ in some])], className="card"),
            )
        )
    return parts


def _numbers(exams: Sequence[Exam]) -> Any:
    names = list(dict.fromkeys(name for exam in exams for name in exam.scores))
    rows = []
    for name in names:
        cells: list[Any] = [WORDS.get(name, plain(name))]
        for exam in exams:
            score = exam.scores.get(name)
            digits = 3 if name.startswith(KINDS) or score is None or score.high < 10 else 1
            cells.append(
                "-"
                if score is None
                else f"{score.mean:.{digits}f} [{score.low:.{digits}f}, {score.high:.{digits}f}]"
            )
        rows.append(cells)
    return table(["", *(plain(exam.name) for exam in exams)], rows)
