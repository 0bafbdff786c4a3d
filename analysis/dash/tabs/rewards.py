"""Rewards and errors: what verdicts came to, of which parts and for which reasons, and whether the update is healthy."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from dash import Input, Output, html

from rlkit.analysis.dash import tables
from rlkit.analysis.dash.board import Board
from rlkit.analysis.dash.figures import base
from rlkit.analysis.dash.parts import chart, empty, grid, heading, run_mark, share, table
from rlkit.analysis.dash.run import Run
from rlkit.analysis.dash.text import plain, shortened
from rlkit.reasons import reason_kind

TITLE = "Rewards & errors"
NOTHING = "Nothing recorded yet."
Names = tuple[tuple[str, str, str], ...]
"""Metric, what it is called beside the run, dash."""
VERDICTS: tuple[tuple[str, Names, str, str, bool], ...] = (
    ("Reward", (("reward", "", "solid"),), "mean reward", "Mean over all judged answers of a step.", False),
    (
        "Spread within a group",
        (("reward_std", "", "solid"),),
        "standard deviation",
        "Mean over prompts. Without spread there is nothing to compare and nothing to learn.",
        False,
    ),
    (
        "Groups without a signal",
        (("frac_reward_zero_std", "equal rewards", "solid"), ("frac_zero_advantage", "no advantage", "dash")),
        "share of prompts",
        "All answers worth the same; and nothing pulls anywhere.",
        True,
    ),
    (
        "All right, all wrong",
        (("groups/all_right", "all right", "solid"), ("groups/all_wrong", "all wrong", "dash")),
        "prompts",
        "Prompts that are too easy, and too hard, for this policy.",
        False,
    ),
    (
        "Unjudged answers",
        (("verifier/errors", "errors", "solid"), ("verifier/skips", "skips", "dash")),
        "answers of a step",
        "Error: the verifier failed. Skip: it cannot judge. Neither counts as wrong.",
        False,
    ),
    (
        "Verifier trouble",
        (
            ("verifier/timeouts", "timeouts", "solid"),
            ("verifier/crashes", "crashes", "dash"),
            ("verifier/restarts", "restarts", "dot"),
        ),
        "per step",
        "Verifier processes that hung, died, or were replaced.",
        False,
    ),
    (
        "Length",
        (("completions/mean_length", "mean", "solid"), ("completions/max_length", "longest", "dot")),
        "tokens",
        "Tokens of an answer.",
        False,
    ),
    (
        "Cut answers",
        (("completions/clipped_ratio", "", "solid"),),
        "share of answers",
        "Stopped at --max-completion-length before they ended.",
        True,
    ),
)
LEARNER: tuple[tuple[str, Names, str, str, bool], ...] = (
    (
        "Gradient norm",
        (("grad_norm", "", "solid"),),
        "norm",
        "Before clipping (--learner.max-grad-norm).",
        False,
    ),
    (
        "Loss",
        (("loss", "", "solid"),),
        "loss",
        "Of advantages centred in their group it is near 0 by construction.",
        False,
    ),
    (
        "Clipped tokens",
        (("clip_ratio/region_mean", "", "solid"),),
        "share of tokens",
        "Whose ratio left the clip range, so that they no longer pull.",
        True,
    ),
    (
        "Sampler against learner",
        (
            ("sampling/sampling_logp_difference/mean", "mean", "solid"),
            ("sampling/sampling_logp_difference/max", "largest", "dot"),
        ),
        "difference of log p, nats",
        "The same tokens under the same weights by both; more than rounding means that they disagree.",
        False,
    ),
    (
        "KL to the reference",
        (("kl", "", "solid"),),
        "nats per token",
        "Only with --algo.beta above 0.",
        False,
    ),
    (
        "Learning rate",
        (("learning_rate", "", "solid"),),
        "learning rate",
        "With warm-up and schedule.",
        False,
    ),
)
REASON_STEPS, REASONS = 3, 8
"""The last steps whose reasons are counted, and how many kinds are shown."""


def page(board: Board, runs: Sequence[Run]) -> list[Any]:
    if not runs:
        return [empty("No run is chosen. Choose one above.")]
    window = max(1, max(run.records.length for run in runs) // 50)

    def drawn(title: str, names: Names, y: str, words: str, is_share: bool) -> Any:
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
        return chart(title, base.lines(lines, "step", y, smooth=window, share=is_share), words, NOTHING)

    return [
        heading("Verdicts"),
        grid(*(drawn(*which) for which in VERDICTS), *_parts(board, runs, window)),
        heading(
            "Reasons",
            f"What the verifier said of the answers of the last {REASON_STEPS} steps, numbers and quotes left out.",
        ),
        grid(*(_reasons(board, run) for run in runs)),
        heading("Learner"),
        grid(*(drawn(*which) for which in LEARNER)),
    ]


def layout() -> list[Any]:
    return [html.Div(id="rewards")]


def register(app: Any, board: Board) -> None:
    @app.callback(Output("rewards", "children"), Input("pulse", "data"), Input("runs", "value"))
    def show(pulse: str, names: list[str] | None) -> list[Any]:
        return page(board, board.chosen(names))


def _parts(board: Board, runs: Sequence[Run], window: int) -> list[Any]:
    """The named parts of a weighted reward, where it has such."""
    found = sorted(
        {n for run in runs for n in run.records.names() if n.startswith("rewards/") and n.endswith("/mean")}
    )
    if not found:
        return []
    dashes = ("solid", "dash", "dot", "dashdot")
    lines = [
        base.Line(
            f"{run.name} {name.split('/')[1]}",
            *run.records.get(name),
            base.colour(board.colour_of(run.name)),
            dashes[i % len(dashes)],
        )
        for run in runs
        for i, name in enumerate(found)
    ]
    words = "The parts of a weighted sum, before their weights."
    return [chart("Parts of the reward", base.lines(lines, "step", "mean", smooth=window), words, NOTHING)]


def _reasons(board: Board, run: Run) -> Any:
    mark = html.H3(run_mark(run.name, board.colour_of(run.name)))
    counts: Counter[tuple[str, str]] = Counter()
    for step in run.rollout_steps()[-REASON_STEPS:]:
        columns = tables.rollouts(run.folder, step, ("role", "outcome", "score", "reason"))
        for role, outcome, score, reason in zip(*columns.values(), strict=True) if columns else ():
            if role == "answer":
                kind = outcome if outcome != "score" else "right" if (score or 0.0) >= 0.5 else "wrong"
                counts[kind or "unjudged", reason_kind(reason or "no reason given")] += 1
    if not counts:
        words = "No rollouts were kept: --log.rollouts keeps every answer with its reason."
        return html.Section([mark, html.P(words, className="empty")], className="card")
    total = sum(counts.values())
    rows = [
        [kind, plain(shortened(reason, 160)), f"{count:,}", share(count / total)]
        for (kind, reason), count in counts.most_common(REASONS)
    ]
    return html.Section([mark, table(["verdict", "reason", "answers", "share"], rows)], className="card")
