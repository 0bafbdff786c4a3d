"""Rollouts: the answers themselves, found by reward, length and reason; SKPO's segment with its continuations as a tree."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from dash import Input, Output, dcc, html

from rlkit.analysis.dash import answers
from rlkit.analysis.dash.answers import Answer, Filter, Tree
from rlkit.analysis.dash.board import Board
from rlkit.analysis.dash.parts import chip, empty, field, run_mark
from rlkit.analysis.dash.run import Run
from rlkit.analysis.dash.text import plain, shortened

TITLE = "Rollouts"
NO_ROLLOUTS = "No rollouts here: this run keeps none (--log.rollouts keeps every answer), or its first step is not done."
LIMIT, EXPORTED = 60, 40
"""Answers shown at once, and of each run in a page that was exported."""
SHOWN_TEXT, FIRST_LINE = 20_000, 110
"""Characters of an answer, and of the line that stands for it."""
OUTCOMES = {"": "any", "score": "judged", "skip": "skipped", "error": "error", "cut": "cut at the limit"}


def page(board: Board, runs: Sequence[Run]) -> list[Any]:
    parts: list[Any] = []
    for run in runs:
        steps = run.rollout_steps()
        last = steps[-1] if steps else None
        parts.append(html.H3(run_mark(run.name, board.colour_of(run.name))))
        parts += results(run, last, last, Filter(), EXPORTED)
    return parts or [empty(NO_ROLLOUTS)]


def layout(board: Board, runs: Sequence[Run], asked: Mapping[str, str]) -> list[Any]:
    names = [run.name for run in runs]
    name = asked.get("run") if asked.get("run") in names else next(iter(names), None)

    def number(words: str, id_: str, hint: str, **how: Any) -> Any:
        return field(words, dcc.Input(id=id_, type="number", placeholder=hint, debounce=0.4, **how))

    return [
        html.Div(
            [
                field("Run", dcc.Dropdown(names, name, id="rollouts-run", clearable=False)),
                number("From step", "rollouts-first", "newest", min=0, step=1),
                number("To step", "rollouts-last", "newest", min=0, step=1),
                number("Reward from", "rollouts-low", "any", step="any"),
                number("Reward to", "rollouts-high", "any", step="any"),
                number("Tokens from", "rollouts-shortest", "any", min=0, step=1),
                number("Tokens to", "rollouts-longest", "any", min=0, step=1),
                field("Verdict", dcc.Dropdown(OUTCOMES, "", id="rollouts-outcome", clearable=False)),
                field(
                    "Reason or answer holds",
                    dcc.Input(id="rollouts-reason", type="text", placeholder="any words", debounce=0.4),
                ),
            ],
            className="controls",
        ),
        html.Div(id="rollouts-found"),
    ]


def register(app: Any, board: Board) -> None:
    @app.callback(
        Output("rollouts-found", "children"),
        Input("rollouts-run", "value"),
        *[
            Input(f"rollouts-{name}", "value")
            for name in ("first", "last", "low", "high", "shortest", "longest")
        ],
        Input("rollouts-outcome", "value"),
        Input("rollouts-reason", "value"),
        Input("pulse", "data"),
    )
    def show(
        name: str | None,
        first: int | None,
        last: int | None,
        low: float | None,
        high: float | None,
        shortest: int | None,
        longest: int | None,
        outcome: str | None,
        reason: str | None,
        pulse: str,
    ) -> list[Any]:
        run = board.runs.get(name or "")
        if run is None:
            return [empty(NO_ROLLOUTS)]
        what = Filter(
            low=low, high=high, shortest=shortest, longest=longest, outcome=outcome or "", reason=reason or ""
        )
        if first is None and last is None and what == Filter():
            steps = run.rollout_steps()
            first = steps[-1] if steps else None  # without a question: the newest step
        return results(run, first, last, what, LIMIT)


def results(run: Run, first: int | None, last: int | None, what: Filter, limit: int) -> list[Any]:
    if not run.rollout_steps():
        return [empty(NO_ROLLOUTS)]
    found = answers.search(run, first, last, what, limit)
    return [
        html.P(_words(found), className="note", role="status"),
        *[_tree(run, step, tree) for step, tree in found.trees],
    ]


def _words(found: answers.Found) -> str:
    if not found.steps:
        bad = f" (step {found.unread[0]:,} is damaged)" if found.unread else ""
        return f"No step of that kind has rollouts{bad}."
    steps = f"step {found.steps[0]:,}"
    if len(found.steps) > 1:
        steps = f"{len(found.steps):,} steps from {found.steps[-1]:,} to {found.steps[0]:,}"
    damaged = f" {len(found.unread):,} steps are damaged and left out." if found.unread else ""
    shown = sum(len(tree.answers) for _, tree in found.trees)
    more = f" The first {shown:,} are shown; filter, or name steps, to see others." if found.more else ""
    return f"{found.answers:,} of {found.of:,} answers of {steps}.{damaged}{more}"


def _tree(run: Run, step: int, tree: Tree) -> Any:
    first = tree.segment or tree.answers[0]
    judged = [a.score for a in tree.answers if a.score is not None]
    mean = f"mean reward {sum(judged) / len(judged):.3f}" if judged else "none judged"
    head = [
        html.H4(plain(tree.prompt_id)),
        html.P(f"step {step:,}, {len(tree.answers)} answers, {mean}", className="dim"),
        *_prompt(run, first),
    ]
    rows = [html.Li(_row(run, a)) for a in tree.answers]
    if tree.segment is None:
        return html.Section([*head, html.Ul(rows, className="answers")], className="card")
    root = html.Li([_row(run, tree.segment), html.Ul(rows, className="answers tree")])
    words = html.P("Segment, and the answers that continue the problem behind it:", className="dim")
    return html.Section([*head, words, html.Ul([root], className="answers")], className="card")


def _prompt(run: Run, a: Answer) -> list[Any]:
    """The prompt as the policy read it; of SKPO that of the segment, which is the plain one."""
    text = run.decode(a.prompt_ids)
    if text is None:
        words = f"Prompt of {len(a.prompt_ids)} tokens; no tokenizer.json in the run's checkpoints or its model says which text."
        return [html.P(words, className="dim")]
    return [html.Pre(plain(shortened(text, 2000)), className="prompt")]


def _row(run: Run, a: Answer) -> Any:
    """One answer in a line, that opens to all of it."""
    line = " ".join(a.text.split()) or "(empty)"
    if a.role == "segment":
        verdict = chip("segment", "segment")
    elif a.score is None:
        verdict = chip(a.outcome or "not judged", "warning")
    else:
        verdict = chip(f"{a.score:.2f}", "good" if a.score >= 0.5 else "bad")
    facts = [f"{a.tokens} tokens", "cut" if a.finish_reason == "length" else "ended"]
    facts.append("not trained" if a.advantage is None else f"mean advantage {a.advantage:+.3f}")
    facts += [f"{plain(name)} {value:.3f}" for name, value in a.parts.items()]
    facts.append(f"weights of update {a.policy_version:,}")
    body = [
        html.P(" · ".join(facts), className="dim"),
        *([html.P(["Verifier: ", plain(a.reason)])] if a.reason else []),
        html.Pre(plain(shortened(a.text, SHOWN_TEXT)), tabIndex=0),
    ]
    if a.step in run.tracked("tokens"):
        where = urlencode({"run": run.name, "step": a.step, "row": a.row})
        body.append(dcc.Link("Token view of this answer, if it was looked at", href=f"/tokens?{where}"))
    return html.Details(
        [
            html.Summary(
                [
                    verdict,
                    html.Span(plain(line[:FIRST_LINE]), className="line"),
                    html.Span(f"{a.tokens} tok", className="dim"),
                ]
            ),
            *body,
        ]
    )
