"""How an evaluation folder is laid out: the answers of one model to one set of problems; its only writer and reader.

evals/NAME/
  evaluation.json             what was asked and of whom: model, problems, sampling, versions of what ran
  answers/B0003-S0016.parquet one row per answer of problem block 3 from sample 16 on: tokens, text, verdict with reason
  summary.json                what it came to
  report.html                 the same to look at
  .lock                       held while a process writes here

A part is renamed into place when it is whole, so a killed evaluation has lost the batch it was at and nothing else. Answers
already here are never drawn again, also when more are asked for.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlkit.errors import RunError
from rlkit.types import Rollout

from .store import encodable, lock

SETTINGS, SUMMARY, REPORT = "evaluation.json", "summary.json", "report.html"
COLUMNS = ("prompt_id", "sample", "num_tokens", "nll", "finish_reason", "answer", "outcome", "score")
"""What a summary needs: neither texts nor tokens."""
MAY_DIFFER = ("n", "problem_ids", "model")
"""Settings that do not decide what an answer is: weights do, not where they lie."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, without its text.

    >>> Answer("a", 0, 12, 3.5, "stop", "42", "score", 1.0).right(0.5)
    True
    """

    prompt_id: str
    sample: int
    num_tokens: int
    nll: float
    """Minus its log-probability under the distribution it was drawn from, nats."""
    finish_reason: str
    answer: str | None
    """The final answer as votes count it; None: it has none."""
    outcome: str
    """score, skip or error."""
    score: float | None

    def right(self, right_from: float) -> bool:
        return self.score is not None and self.score >= right_from


class EvalStore:
    """An open evaluation folder; one process at a time. Close it.

    Raises RunError when the folder holds another evaluation, is in use, or cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        try:
            self._lock = lock(folder)
            try:
                _require_same(folder, settings)
                (folder / "answers").mkdir(exist_ok=True)
                for draft in (folder / "answers").glob(".*.draft"):
                    draft.unlink()
                _write(folder / SETTINGS, json.dumps(dict(settings), indent=2) + "\n")
            except BaseException:
                self._lock.release()
                raise
        except OSError as error:
            raise RunError(
                f"{folder}: cannot write an evaluation here ({error.strerror or error}); choose another --output-dir"
            ) from error

    def have(self) -> dict[str, set[int]]:
        """The samples of each problem that are stored."""
        found: dict[str, set[int]] = {}
        for row in _rows(self.folder, ("prompt_id", "sample")):
            found.setdefault(row["prompt_id"], set()).add(row["sample"])
        return found

    def write(self, block: int, first: int, answers: Sequence[tuple[int, Rollout, str | None]]) -> None:
        """The judged answers of a batch, each with its sample number and its final answer, on disk as one part before this
        returns."""
        import pyarrow
        import pyarrow.parquet

        path = self.folder / "answers" / f"B{block:04d}-S{first:04d}.parquet"
        table = pyarrow.Table.from_pylist([_row(*answer) for answer in answers], schema=_schema())
        draft = path.with_name(f".{path.name}.draft")
        try:
            pyarrow.parquet.write_table(table, draft, compression="zstd")
            draft.replace(path)
        except OSError as error:
            raise RunError(
                f"{path}: cannot be written ({error.strerror or error}); make room and give the same command again, which goes on "
                "from here"
            ) from error

    def close(self) -> None:
        self._lock.release()


def is_evaluation(folder: Path) -> bool:
    return (folder / SETTINGS).is_file()


def read_settings(folder: Path) -> dict[str, Any]:
    """What was asked. Raises RunError when it cannot be read."""
    path = folder / SETTINGS
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: cannot be read ({error}); expected the folder of an evaluation") from error
    if not isinstance(settings, dict) or not {"problem_ids", "n", "label"} <= settings.keys():
        raise RunError(f"{path}: holds no evaluation's settings; was it edited?")
    return settings


def read_answers(folder: Path, n: int) -> dict[str, list[Answer]]:
    """The first `n` answers to each problem, in their order. Raises RunError for a part that cannot be read."""
    found: dict[str, list[Answer]] = {}
    for row in _rows(folder, COLUMNS):
        if row["sample"] < n:
            found.setdefault(row["prompt_id"], []).append(Answer(*(row[name] for name in COLUMNS)))
    return {id_: sorted(answers, key=lambda a: a.sample) for id_, answers in found.items()}


def read_texts(folder: Path, prompt_ids: Sequence[str], samples: int) -> dict[str, list[dict[str, Any]]]:
    """Text, verdict and reason of the first answers to some problems, to be looked at."""
    wanted = set(prompt_ids)
    columns = ("prompt_id", "sample", "text", "answer", "outcome", "score", "reason", "finish_reason")
    found: dict[str, list[dict[str, Any]]] = {}
    for row in _rows(folder, columns):
        if row["prompt_id"] in wanted and row["sample"] < samples:
            found.setdefault(row["prompt_id"], []).append(row)
    return {id_: sorted(rows, key=lambda row: int(row["sample"])) for id_, rows in found.items()}


def _rows(folder: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    rows: list[dict[str, Any]] = []
    for path in sorted((folder / "answers").glob("B*.parquet")):
        try:
            rows += pyarrow.parquet.read_table(path, columns=list(columns)).to_pylist()
        except (OSError, pyarrow.ArrowException) as error:
            raise RunError(
                f"{path}: not a whole part of an evaluation ({error}); delete this file, and its answers are drawn again"
            ) from error
    return rows


def _require_same(folder: Path, settings: Mapping[str, Any]) -> None:
    if not is_evaluation(folder):
        if (folder / "answers").exists() or (folder / "metrics.jsonl").exists():
            raise RunError(f"{folder}: holds something else; choose another --output-dir")
        return
    before = read_settings(folder)
    changed = [
        f"{name} = {settings.get(name)!r} (it was {before.get(name)!r})"
        for name in sorted(before.keys() | settings.keys())
        if before.get(name) != settings.get(name) and name not in MAY_DIFFER
    ]
    if changed:
        raise RunError(
            f"{folder}: holds another evaluation: {', '.join(changed)}; choose another --output-dir, or leave it out"
        )


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            ("prompt_id", pa.string()),
            ("sample", pa.int32()),
            ("num_tokens", pa.int32()),
            ("nll", pa.float64()),
            ("finish_reason", pa.string()),
            ("answer", pa.string()),
            ("outcome", pa.string()),
            ("score", pa.float64()),
            ("reason", pa.string()),
            ("text", pa.string()),
            ("token_ids", pa.list_(pa.int32())),
        ]
    )


def _row(sample: int, r: Rollout, answer: str | None) -> dict[str, Any]:
    assert r.score is not None
    return {
        "prompt_id": encodable(r.prompt_id),
        "sample": sample,
        "num_tokens": len(r.completion_ids),
        "nll": -sum(r.completion_logprobs),
        "finish_reason": r.finish_reason,
        "answer": None if answer is None else encodable(answer),
        "outcome": r.score.outcome,
        "score": r.value,
        "reason": encodable(r.score.reason),
        "text": encodable(r.text or ""),
        "token_ids": r.completion_ids,
    }
