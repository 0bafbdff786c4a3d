"""Rows of a file -> completions to be judged, each with the prompt that its verifier reads.

A row holds one completion or a list of them, as texts or as chat messages. Its question and gold answer are found by name
as training data's are, or looked up by id in the data set that the completions answer.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlkit.columns import (
    ANSWER_NAMES,
    ID_NAMES,
    QUESTION_NAMES,
    Columns,
    Row,
    choose_column,
    find_reading,
    look_up,
    read_answer,
    read_messages,
)
from rlkit.errors import DataError
from rlkit.rows import SAMPLE_ROWS
from rlkit.score_config import ScoreConfig
from rlkit.sources import RawRow
from rlkit.types import Prompt

COMPLETION_NAMES = (
    *("completion", "completions", "response", "responses", "generation", "generations", "generated_text"),
    *("model_output", "model_response", "model_answer", "output", "outputs", "prediction", "predictions"),
    *("pred", "samples", "text"),
)
ROLLOUT_COLUMNS = (
    "step",
    "prompt_id",
    "role",
    "policy_version",
    "text",
    "finish_reason",
    "outcome",
    "score",
    "reason",
)
"""What is read of a run folder's rollouts; their token ids and log-probabilities are most of the file."""
Lookup = Callable[[str], Prompt | None]
"""The prompt of an id; None: the data set has none of that id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One answer to be judged."""

    place: str
    """For people: `outputs.jsonl, row 17`."""
    sample: int
    """Which of its row's completions, from 0."""
    prompt: Prompt
    text: str
    label: bool | None
    """Whether it is right, as somebody else says; None: nobody says."""
    group: str
    """Its value in the --by column."""
    kept: Mapping[str, Any]
    """Columns of its row that are written beside the verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreColumns:
    r"""Where a row keeps what is judged; the data set's columns are in `data`.

    >>> data = Columns(question="problem", answer="gold", reading="as it is", id="id")
    >>> print(ScoreColumns(completion="response", data=data, label=None, by="dataset"))
    completion <- response, gold <- gold, prompt <- problem, id <- id, by <- dataset
    """

    completion: str
    data: Columns
    """Its question is empty where the file has none."""
    label: str | None
    by: str | None
    joined: bool = False
    """Question and gold answer come from elsewhere, by id."""

    def __str__(self) -> str:
        reading = "" if self.data.reading == "as it is" else f" ({self.data.reading})"
        gold = f"{self.data.answer}{reading}" if self.data.answer else "nothing"
        told = {"completion": self.completion}
        if self.joined:
            told |= {"gold and prompt": f"the data, by {self.data.id}"}
        else:
            told |= {"gold": gold, "prompt": self.data.question or "nothing", "id": self.data.id or ""}
        told |= {"label": self.label or "", "by": self.by or ""}
        return ", ".join(f"{name} <- {column}" for name, column in told.items() if column)


def find_score_columns(rows: Sequence[Row], source: str, cfg: ScoreConfig, *, joined: bool) -> ScoreColumns:
    """The mapping for a source, from its first rows. Raises DataError that lists the columns there are."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    for flag, column in (("--label", cfg.label), ("--by", cfg.by)):
        choose_column(rows, source, flag, column, (), names)
    taken = {cfg.gold, cfg.prompt, cfg.label, cfg.by}
    others = [name for name in COMPLETION_NAMES if name not in taken]
    completion = choose_column(rows, source, "--completion", cfg.completion, others, names)
    if completion is None:
        raise DataError(
            f"{source}: no column is recognised as the completion. Columns: {', '.join(names)}; name one with --completion"
        )
    taken |= {completion}
    named = find_id(rows, ("prompt_id", *ID_NAMES) if joined else (*ID_NAMES, "prompt_id"))
    if joined:
        if named is None:
            raise DataError(
                f"{source}: no column names the prompt that each completion answers ({', '.join((*ID_NAMES, 'prompt_id'))}), so "
                f"--data cannot be joined to them. Columns: {', '.join(names)}"
            )
        data = Columns(question="", answer=None, reading="as it is", id=named)
        return ScoreColumns(completion=completion, data=data, label=cfg.label, by=cfg.by, joined=True)
    questions = [name for name in QUESTION_NAMES if name not in taken]
    question = choose_column(rows, source, "--prompt", cfg.prompt, questions, names)
    data = find_gold(rows, source, cfg.gold, question, taken | {question}, names)
    data = replace(data, id=named)
    return ScoreColumns(completion=completion, data=data, label=cfg.label, by=cfg.by)


def find_id(rows: Sequence[Row], known: Sequence[str] = ID_NAMES) -> str | None:
    """The first known column that every row fills; None: rows are named after their places."""
    filled = (name for name in known if all(look_up(row, name) not in (None, "") for row in rows))
    return next(filled, None)


def find_gold(
    rows: Sequence[Row],
    source: str,
    gold: str | None,
    question: str | None,
    taken: set[str | None],
    names: Sequence[str],
) -> Columns:
    """Question and gold column; the latter None when there is none."""
    others = [name for name in ANSWER_NAMES if name not in taken]
    answer = choose_column(rows, source, "--gold", gold, others, names)
    reading = find_reading(rows, source, answer, must_end=False) if answer else "as it is"
    return Columns(question=question or "", answer=answer, reading=reading, id=None)


class Completions:
    """The completions of a source, in order, read as they are asked for; their columns are found at once.

    lookup: finds question and gold answer by id; None: they are in the rows
    """

    def __init__(
        self, source: str, raw: Iterable[RawRow], cfg: ScoreConfig, lookup: Lookup | None = None
    ) -> None:
        self.source = source
        self.num_skipped = 0
        self.first_skipped = ""
        self._cfg = cfg
        self._lookup = lookup
        self._rows = self._readable(raw)
        self._sample = list(itertools.islice(self._rows, SAMPLE_ROWS))
        if not self._sample:
            bad = f"all {self.num_skipped:,} rows are bad; the first: {self.first_skipped}"
            raise DataError(
                f"{source}: " + (bad if self.num_skipped else "it is empty; expected at least one row")
            )
        rows = [row for _, row in self._sample]
        self.columns = find_score_columns(rows, source, cfg, joined=lookup is not None)
        self._kept = self._kept_columns(list(dict.fromkeys(name for row in rows for name in row)))

    @property
    def row_characters(self) -> float:
        """Of one of the first rows, on the mean: what reading ahead takes."""
        return sum(len(str(row)) for _, row in self._sample) / len(self._sample)

    @property
    def per_row(self) -> float:
        """Completions in one of the first rows, on the mean."""
        found = (look_up(row, self.columns.completion) for _, row in self._sample)
        return sum(
            1 if isinstance(c, str) or not isinstance(c, Sequence) or _is_messages(c) else len(c)
            for c in found
        ) / len(self._sample)

    def __iter__(self) -> Iterator[Completion]:
        rows = itertools.chain(self._sample, self._rows)
        found = (completion for raw, row in rows for completion in self._of_row(raw, row))
        return itertools.islice(found, self._cfg.limit)

    def _readable(self, raw: Iterable[RawRow]) -> Iterator[tuple[RawRow, Row]]:
        for r in raw:
            if r.row is None:
                self._skip(r.place, r.problem)
            elif r.row.get("role", "answer") == "answer" or "prompt_id" not in r.row:
                yield r, r.row  # a rollout that others continue has no verdict of its own

    def _skip(self, place: str, problem: str) -> None:
        if self._cfg.on_bad_row == "error":
            raise DataError(f"{place}: {problem} (--on-bad-row skip leaves such rows out)")
        self.num_skipped += 1
        self.first_skipped = self.first_skipped or f"{place}: {problem}"

    def _of_row(self, raw: RawRow, row: Row) -> list[Completion]:
        columns = self.columns
        try:
            texts = read_completions(row, columns.completion)
            prompt = self._prompt(raw, row)
        except DataError as error:
            self._skip(raw.place, str(error))
            return []
        label = None if columns.label is None else read_label(look_up(row, columns.label))
        group = "" if columns.by is None else str(look_up(row, columns.by))
        several = not isinstance(look_up(row, columns.completion), str)
        found = []
        for i, text in enumerate(texts):
            kept = {name: row.get(name) for name in self._kept}
            if several and columns.completion in kept:
                kept[columns.completion] = text
            found.append(
                Completion(
                    place=raw.place,
                    sample=i,
                    prompt=prompt,
                    text=text,
                    label=label,
                    group=group,
                    kept=kept,
                )
            )
        return found

    def _prompt(self, raw: RawRow, row: Row) -> Prompt:
        data = self.columns.data
        named = None if data.id is None else look_up(row, data.id)
        name = raw.name if named in (None, "") else str(named)
        if self._lookup is not None:
            found = self._lookup(name)
            if found is None:
                raise DataError(f"the data has no prompt {name!r} (column {data.id!r})")
            return found
        others = {column: value for column, value in row.items() if column != self.columns.completion}
        return make_prompt(name, row, data, others)

    def _kept_columns(self, names: Sequence[str]) -> list[str]:
        columns, keep = self.columns, self._cfg.keep
        always = [c for c in (columns.data.answer, columns.label, columns.by) if c is not None and c in names]
        if keep == "all":
            return [name for name in names if name != columns.data.id]
        wanted = [] if keep == "none" else [name.strip() for name in keep.split(",")]
        for name in wanted:
            choose_column([], self.source, "--keep", name, (), names)
        return list(dict.fromkeys([*always, *wanted]))


def make_prompt(name: str, row: Row, columns: Columns, others: Row) -> Prompt:
    """What the verifier reads of a row; a question or a gold answer that is missing or no text is left out.

    others: the columns that it is shown
    """
    question, reference = "", None
    try:
        question = read_messages(row, columns)[-1]["content"] if columns.question else ""
    except DataError:
        pass  # few verifiers read it; those that do say so in their reason
    try:
        reference = read_answer(row, columns) if columns.answer else None
    except DataError:
        pass  # the verifier skips: `no gold answer`
    return Prompt(id=name, token_ids=[], text=question, question=question, reference=reference, row=others)


def read_completions(row: Row, column: str) -> list[str]:
    """The completions of a row: one text or conversation, or a list of them. Raises DataError with what came.

    >>> read_completions({"c": ["4", [{"role": "assistant", "content": "5"}]]}, "c")
    ['4', '5']
    """
    value = look_up(row, column)
    if _is_messages(value):
        value = [value]
    several = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
    texts = [_completion_text(one) for one in several]
    if not texts or any(text is None for text in texts):
        came = "an empty list" if not texts else f"a {type(value).__name__}, {str(value)[:60]!r}"
        came = "missing" if value is None else came
        raise DataError(f"the completion is {came}; expected a text or a list of texts in column {column!r}")
    return [text for text in texts if text is not None]


def _is_messages(value: object) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str | bytes)
        and len(value) > 0
        and all(isinstance(part, Mapping) and "content" in part for part in value)
    )


def _completion_text(value: object) -> str | None:
    """A text, or the last message of a conversation; None: neither."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        value = [value]
    if _is_messages(value):
        assert isinstance(value, Sequence)
        content = value[-1]["content"]
        return content if isinstance(content, str) else None
    return None


YES = {"true", "1", "1.0", "yes", "correct", "right"}
NO = {"false", "0", "0.0", "no", "incorrect", "wrong"}


def read_label(value: object) -> bool | None:
    """Whether a label says right; None: it says neither.

    >>> read_label(True), read_label(0), read_label("Correct"), read_label("B")
    (True, False, True, None)
    """
    word = str(value).strip().lower()
    return True if word in YES else False if word in NO else None
