"""What `rlkit eval` tells: from the stored answers alone, as a table, as JSON and as a page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlkit.config import EvalConfig
from rlkit.errors import DataError, RunError

from .eval_exam import Exam, Sitting

if TYPE_CHECKING:
    from rich.console import Console

    from rlkit.analysis.eval_compare import Comparison
    from rlkit.analysis.eval_summary import Summary


def stored_sitting(path: Path, exam: Exam) -> Sitting | None:
    """The stored evaluation of these problems at a path, or in a folder of several there; None: it is none."""
    from rlkit.analysis.eval_store import is_evaluation, read_settings

    folders = [path, *(sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else [])]
    for folder in folders:
        if is_evaluation(folder):
            settings = read_settings(folder)
            if settings.get("data") == exam.name:
                return Sitting(exam=exam, folder=folder, settings=settings)
    return None


def report(
    cfg: EvalConfig, mine: Sequence[Sitting], theirs: Sequence[Sitting], console: "Console", as_json: bool
) -> None:
    from rlkit.analysis.eval_compare import compare
    from rlkit.analysis.eval_compare import json_of as comparison_json
    from rlkit.analysis.eval_page import page
    from rlkit.analysis.eval_store import REPORT, SUMMARY, read_texts
    from rlkit.analysis.eval_summary import json_of
    from rlkit.eval_show import show_comparison, show_summary

    printed = []
    for i, sitting in enumerate(mine):
        exam = sitting.exam
        with console.status(f"working out {exam.label}"):
            summary = _summary(sitting, exam.drawing.n, exam.ks, cfg.seed)
            other: Summary | None = None
            comparison: Comparison | None = None
            if theirs:
                _require_same_questions(sitting, theirs[i])
                n = min(exam.drawing.n, int(theirs[i].settings["n"]))
                ks = [k for k in exam.ks if k <= n]
                other = _summary(theirs[i], n, ks, cfg.seed)
                both = summary if n == summary.n else _summary(sitting, n, ks, cfg.seed)
                comparison = compare(both, other, ks, cfg.seed)
        out = {
            "summary": json_of(summary),
            "against": None if other is None else json_of(other),
            "comparison": None if comparison is None else comparison_json(comparison),
        }
        printed.append(out)
        text = json.dumps(out, indent=2)
        texts = read_texts(sitting.folder, _worth_reading(summary), samples=SHOWN_ANSWERS)
        html = page(summary, other, comparison, texts)
        for name, content in ((SUMMARY, text + "\n"), (REPORT, html)):
            if content is not None:
                _write(sitting.folder / name, content)
        if as_json:
            continue
        show_summary(summary, other, comparison, whole=exam.whole)
        if comparison is not None:
            show_comparison(comparison, _other_sampling(sitting, theirs[i]))
        files = (
            f"{sitting.folder} ({REPORT}, {SUMMARY}, answers/)"
            if html
            else f"{sitting.folder} ({SUMMARY}, answers/)"
        )
        console.print(f"kept in {files}", soft_wrap=True, highlight=False, markup=False)
        if html is None:
            console.print("no page: plotly is not installed (pip install 'rlvrkit[dash]')", markup=False)
    if as_json:
        print(json.dumps({"evaluations": printed}, indent=2))


SHOWN_PROBLEMS, SHOWN_ANSWERS = 40, 3
"""On the page: so many problems with the texts of so many answers."""


def _worth_reading(summary: "Summary") -> list[str]:
    """Problems from never solved to always solved, spread evenly."""
    ranked = sorted(summary.problems, key=lambda p: p.right / max(1, p.judged))
    step = max(1, len(ranked) // SHOWN_PROBLEMS)
    return [p.id for p in ranked[::step]][:SHOWN_PROBLEMS]


def _summary(sitting: Sitting, n: int, ks: Sequence[int], seed: int) -> "Summary":
    from rlkit.analysis.eval_store import read_answers
    from rlkit.analysis.eval_summary import summarise
    from rlkit.rewards import no_answer, reader_of
    from rlkit.rollout_metrics import RIGHT_FROM

    exam, settings = sitting.exam, sitting.settings
    answers = read_answers(sitting.folder, n)
    known = settings["problem_ids"]
    short = [id_ for id_ in known if len(answers.get(id_, ())) < n]
    if short:
        raise RunError(
            f"{sitting.folder}: {len(short)} of {len(known)} problems have fewer than {n} answers; that evaluation was not "
            "finished: give its command again first"
        )
    return summarise(
        {id_: answers[id_] for id_ in known},
        label=settings["label"],
        model=settings["model"],
        n=n,
        ks=ks,
        votes=reader_of(settings["reward"], exam.task is not None) is not no_answer,
        right_from=RIGHT_FROM,
        seed=seed,
        settings=settings,
    )


def _require_same_questions(mine: Sitting, theirs: Sitting) -> None:
    ours, other = mine.settings["problem_ids"], theirs.settings["problem_ids"]
    shared = [id_ for id_ in ours if id_ in other]
    if not shared or any(ours[id_] != other[id_] for id_ in shared):
        raise DataError(
            f"--against {theirs.folder}: was asked other questions under the same names; evaluate its model again on "
            f"--data {mine.exam.name}"
            if shared
            else f"--against {theirs.folder}: has none of the problems of --data {mine.exam.name}"
        )


def _other_sampling(mine: Sitting, theirs: Sitting) -> list[str]:
    """How the two were asked differently, in words."""
    names = (
        "reward",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "max_completion_length",
        "engine",
        "device",
        "dtype",
        "prompts",
    )
    return [
        "other prompts around the questions (template or tokenizer)"
        if name == "prompts"
        else f"{name} {mine.settings.get(name)} against {theirs.settings.get(name)}"
        for name in names
        if mine.settings.get(name) != theirs.settings.get(name)
    ]


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror or error})") from error
