"""Rows: from whatever source, every one checked, its question and its gold answer found.

Checking comes before any weight loads, so that nothing later meets a row that it cannot use; a bad row is named by its
place, and stops the run or is counted.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rlkit.columns import Columns, Message, Row, find_columns, look_up, read_answer, read_messages
from rlkit.config import DataConfig
from rlkit.errors import DataError
from rlkit.sources import RawRow, read_source
from rlkit.types import Task

SAMPLE_ROWS = 100
"""The first rows, whose columns decide the mapping."""
TASK_COLUMNS = Columns(question="prompt", answer="answer", reading="as it is", id=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A checked row: messages that end with the user's question, and the gold answer."""

    id: str
    messages: list[Message]
    reference: str | None
    row: Row

    @property
    def question(self) -> str:
        return self.messages[-1]["content"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The checked rows of one source: at least one, with unique ids."""

    source: str
    examples: list[Example]
    columns: Columns
    num_skipped: int = 0
    first_skipped: str = ""
    """Where the first skipped row is, and why it was skipped."""
    num_repeated: int = 0
    """Rows left out because an earlier one has the same question and answer."""

    def describe(self) -> str:
        """Source, counts and mapping in words."""
        lines = [f"data      {self.source}: {len(self.examples):,} rows", f"columns   {self.columns}"]
        if self.num_skipped:
            lines.append(f"skipped   {self.num_skipped:,} bad rows; the first: {self.first_skipped}")
        if self.num_repeated:
            lines.append(
                f"repeated  {self.num_repeated:,} rows with the question and answer of an earlier one, left out"
            )
        return "\n".join(lines)

    def distinct(self) -> "Rows":
        """Without repeated questions: a value tracker must meet a prompt again as the same prompt (papers.md 1.7)."""
        kept: dict[tuple[str, str | None], Example] = {}
        for example in self.examples:
            kept.setdefault((json.dumps(example.messages), example.reference), example)
        return replace(self, examples=list(kept.values()), num_repeated=len(self.examples) - len(kept))


def load_rows(cfg: DataConfig, *, split: str | None = None, need_answer: bool = True) -> Rows:
    """The rows of a file, a folder, a hub data set, or the user's own `file.py:attr`; a task's are `task_rows`.

    split: instead of cfg.split;  need_answer: off for a verifier that reads no gold answer.
    Raises DataError for a source that cannot be used, and for a bad row unless cfg.on_bad_row is `skip`.
    """
    source, raw = read_source(cfg.name, split or cfg.split)
    return check_rows(cfg, source, raw, need_answer=need_answer)


def check_rows(cfg: DataConfig, source: str, raw: Iterable[RawRow], *, need_answer: bool = True) -> Rows:
    """Find the columns in the first rows, then question and answer in every row, up to cfg.limit good ones."""
    skipped: list[str] = []

    def skip(place: str, problem: str) -> None:
        if cfg.on_bad_row == "error":
            raise DataError(f"{place}: {problem} (--data.on-bad-row skip leaves such rows out)")
        skipped.append(f"{place}: {problem}")

    def readable() -> Iterator[tuple[RawRow, Row]]:
        for r in raw:
            if r.row is None:
                skip(r.place, r.problem)
            else:
                yield r, r.row

    stream = readable()
    sample = list(itertools.islice(stream, SAMPLE_ROWS))
    if not sample:
        raise DataError(
            f"{source}: " + (_all_bad(skipped) if skipped else "it is empty; expected at least one row")
        )
    columns = find_columns(
        [row for _, row in sample],
        source,
        question=cfg.prompt_column,
        answer=cfg.answer_column,
        need_answer=need_answer,
    )
    examples: list[Example] = []
    for r, row in itertools.chain(sample, stream):
        if len(examples) == cfg.limit:
            break
        try:
            examples.append(_example(r.name, row, columns, need_answer))
        except DataError as error:
            skip(r.place, str(error))
    if not examples:
        raise DataError(f"{source}: {_all_bad(skipped)}")
    examples, columns = _own_ids(examples, columns)
    first = skipped[0] if skipped else ""
    return Rows(
        source=source, examples=examples, columns=columns, num_skipped=len(skipped), first_skipped=first
    )


def _all_bad(skipped: Sequence[str]) -> str:
    return f"all {len(skipped):,} rows are bad; the first: {skipped[0]}"


def _example(name: str, row: Row, columns: Columns, need_answer: bool) -> Example:
    messages = read_messages(row, columns)
    reference: str | None = None
    if columns.answer is not None:
        try:
            reference = read_answer(row, columns)
        except DataError:
            if need_answer:
                raise
    return Example(id=name, messages=messages, reference=reference, row=row)


def _own_ids(examples: list[Example], columns: Columns) -> tuple[list[Example], Columns]:
    """The ids of the id column, if every row has its own; else the rows keep the names of their places."""
    if columns.id is None:
        return examples, columns
    values = [look_up(example.row, columns.id) for example in examples]
    ids = [str(value) for value in values if value is not None]
    if len(set(ids)) < len(examples):
        return examples, replace(columns, id=None)
    return [replace(example, id=id_) for example, id_ in zip(examples, ids, strict=True)], columns


def task_rows(task: Task, split: Literal["train", "test"], count: int) -> Rows:
    """The first `count` items of a task whose questions differ; fewer, when the task has no more."""
    examples: dict[str, Example] = {}
    for index in range(20 * count):
        example = task_example(task, split, index)
        examples.setdefault(example.question, example)
        if len(examples) == count:
            break
    return Rows(source=f"{task.name} ({split})", examples=list(examples.values()), columns=TASK_COLUMNS)


def task_example(task: Task, split: Literal["train", "test"], index: int) -> Example:
    return _example(f"{task.name}-{split}-{index}", task.item(split, index), TASK_COLUMNS, need_answer=False)
