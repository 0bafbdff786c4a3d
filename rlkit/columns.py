"""Which column is the question and which is the answer: read from the names, said in words.

Data sets agree on what a row holds, not on how it is called. The names below are those of TRL and open-r1, verl and
DAPO-Math-17k, SkyRL, verifiers, OpenRLHF, NeMo, open-instruct, MATH, GSM8K and DeepMath. A dot looks into a nested
column. A short gold answer is preferred to a worked solution; where only a solution is there, its end is read.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlkit.boxed import last_boxed
from rlkit.errors import DataError, unknown_name

Row = Mapping[str, Any]
Message = dict[str, str]
Reading = Literal["as it is", "last \\boxed", "after ####"]

QUESTION_NAMES = (
    *("prompt", "problem", "question", "messages", "message_log", "context_messages"),
    *("query", "instruction", "input", "conversations"),
)
ANSWER_NAMES = (
    *("answer", "final_answer", "expected_answer", "gold_answer", "ground_truth", "gold", "target", "label"),
    *("reward_model.ground_truth", "reward_spec.ground_truth", "extra_env_info.ground_truth"),
    *("info.answer", "info.ground_truth", "verification_info.ground_truth"),
    *("extra_info.answer", "extra_info.ground_truth", "reference"),
    *("reference_answer", "solution", "reference_solution", "output", "completion", "response"),
)
"""Gold answers first, worked solutions last."""
COMPLETION_COLUMNS = ("completion", "solution", "response", "output", "generation", "answer")
"""Texts to imitate."""
ID_NAMES = ("id", "unique_id", "uid", "uuid", "problem_id", "question_id", "extra_info.index")

_ONE_TEXT = re.compile(r'\[\s*"(?:[^"\\\x00-\x1f]|\\["\\])*"\s*\]')
"""A JSON list of one text, its backslashes doubled. A list of one number stays: `[5]` is mathematics."""

LONG_TEXT = 300
"""Characters. A text longer than this with no marked end is a worked solution that no verifier can compare with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    r"""Where a row keeps its question and its gold answer.

    >>> print(Columns(question="problem", answer="solution", reading="last \\boxed", id=None))
    question <- problem, answer <- solution (last \boxed)
    """

    question: str
    answer: str | None
    """None: the data has no gold answers, and its verifier needs none."""
    reading: Reading
    """How the answer is read from its column; the same for every row."""
    id: str | None
    """None: rows are named after their source and place."""

    def __str__(self) -> str:
        reading = "" if self.reading == "as it is" else f" ({self.reading})"
        answer = f"{self.answer}{reading}" if self.answer else "nothing"
        return f"question <- {self.question}, answer <- {answer}" + (f", id <- {self.id}" if self.id else "")


def find_columns(
    rows: Sequence[Row], source: str, *, question: str | None, answer: str | None, need_answer: bool
) -> Columns:
    """The mapping for a source, from its first rows; `question` and `answer` are the user's own choice of columns.

    Raises DataError that lists the columns there are.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    question = choose_column(rows, source, "--data.prompt-column", question, QUESTION_NAMES, names)
    if question is None:
        raise DataError(
            f"{source}: no column is recognised as the question. Columns: {', '.join(names)}; "
            "name one with --data.prompt-column"
        )
    others = [name for name in ANSWER_NAMES if name != question]
    answer = choose_column(rows, source, "--data.answer-column", answer, others, names)
    if answer is None and need_answer:
        raise DataError(
            f"{source}: no column is recognised as the gold answer. Columns: {', '.join(names)}; "
            "name one with --data.answer-column"
        )
    reading = find_reading(rows, source, answer, must_end=need_answer) if answer else "as it is"
    ids = [name for name in ID_NAMES if all(look_up(row, name) not in (None, "") for row in rows)]
    return Columns(question=question, answer=answer, reading=reading, id=ids[0] if ids else None)


def choose_column(
    rows: Sequence[Row],
    source: str,
    flag: str,
    wanted: str | None,
    known: Sequence[str],
    names: Sequence[str],
) -> str | None:
    """The user's column, else the first known one that most rows fill; None when there is none."""
    if wanted is not None:
        if wanted not in names and all(look_up(row, wanted) is None for row in rows):
            raise DataError(f"{source}: {flag}: " + unknown_name("column", wanted, names))
        return wanted
    filled = Counter(name for name in known for row in rows if look_up(row, name) not in (None, "", []))
    often = [name for name in known if 2 * filled[name] > len(rows)]
    # A column that few rows fill is still the column: its gaps are reported row by row.
    return next(iter(often), None) or next((name for name in known if name in names), None)


def find_reading(rows: Sequence[Row], source: str, answer: str, *, must_end: bool) -> Reading:
    """How most of the first rows mark their answer; must_end: raise DataError for solutions with no marked end."""
    texts = [text for row in rows if isinstance(text := look_up(row, answer), str) and text.strip()]
    if not texts:
        return "as it is"
    if 2 * sum("####" in text for text in texts) > len(texts):
        return "after ####"
    if 2 * sum(last_boxed(text) is not None for text in texts) > len(texts):
        return "last \\boxed"
    is_solution = answer.rpartition(".")[2] in ANSWER_NAMES[ANSWER_NAMES.index("solution") :]
    if must_end and is_solution and 2 * sum(len(text) > LONG_TEXT for text in texts) > len(texts):
        raise DataError(
            f"{source}: column {answer!r} holds worked solutions whose answer is marked neither by \\boxed{{}} nor by ####; "
            "name the column of the gold answer with --data.answer-column"
        )
    return "as it is"


def look_up(row: Row, name: str) -> object:
    """A column by name; `reward_model.ground_truth` looks inside a nested column (or one that holds JSON text).

    >>> look_up({"info": '{"answer": "42"}'}, "info.answer"), look_up({"a.b": 1}, "a.b"), look_up({}, "a")
    ('42', 1, None)
    """
    if name in row:
        return row[name]
    outer, dot, inner = name.partition(".")
    value = row.get(outer) if dot else None
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return look_up(value, inner) if isinstance(value, Mapping) else None


def read_messages(row: Row, columns: Columns) -> list[Message]:
    """The question as chat messages that end with the user's; a text is one user message.

    Messages after the last user turn (an imitated answer) are left out. Raises DataError with what came.
    """
    value = look_up(row, columns.question)
    where = f"column {columns.question!r}"
    if isinstance(value, str):
        if not value.strip():
            raise DataError(f"the question is empty; expected a text in {where}")
        return [{"role": "user", "content": value}]
    if value is None:
        raise DataError(f"the question is missing; expected a text or messages in {where}")
    if not isinstance(value, Sequence) or not all(isinstance(part, Mapping) for part in value):
        raise DataError(f"the question is {_shown(value)}; expected a text or a list of messages in {where}")
    messages = [{"role": _role(part), "content": _content(part)} for part in value]
    while messages and messages[-1]["role"] != "user":
        messages.pop()
    if not messages or not messages[-1]["content"].strip():
        raise DataError(f"no user message with a text in {where}: {_shown(value)}")
    return messages


def _role(message: Row) -> str:
    """Who speaks; ShareGPT's `from` too, where the user is a human and the assistant is gpt."""
    role = str(message.get("role", message.get("from", "")))
    return {"human": "user", "gpt": "assistant"}.get(role, role)


def _content(message: Row) -> str:
    """A message's text (ShareGPT's `value` too); a list of parts is joined. Anything else (an image) reads as nothing."""
    content = message.get("content", message.get("value"))
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, Sequence) else []
    return "".join(str(part.get("text") or "") for part in parts if isinstance(part, Mapping))


def read_answer(row: Row, columns: Columns) -> str:
    """The gold answer as text. Raises DataError with what came."""
    assert columns.answer is not None
    value = look_up(row, columns.answer)
    where = f"column {columns.answer!r}"
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1:
        value = value[0]  # open-instruct and verl wrap the one answer in a list
    if isinstance(value, str) and (wrapped := _ONE_TEXT.fullmatch(value.strip())):
        value = json.loads(wrapped[0])[0]  # Skywork-OR1 writes such a list as JSON
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        raise DataError(f"the answer is {_shown(value)}; expected a text or a number in {where}")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int | float):
        raise DataError(f"the answer is {_shown(value)}; expected a text or a number in {where}")
    return _READERS[columns.reading](str(value).strip(), where)


def _after_hashes(text: str, where: str) -> str:
    tail = text.rpartition("####")[2].strip() if "####" in text else ""
    if not tail:
        raise DataError(f"nothing after #### in {where}: {_shown(text)}")
    # GSM8K writes 1,450; no other answer behind #### has a comma between digits.
    return re.sub(r"(?<=\d),(?=\d{3})", "", tail)


def _last_boxed_answer(text: str, where: str) -> str:
    found = last_boxed(text)
    if not found:
        raise DataError(f"no \\boxed{{...}} in {where}: {_shown(text)}")
    return found


_READERS: Mapping[Reading, Callable[[str, str], str]] = {
    "as it is": lambda text, where: text,
    "after ####": _after_hashes,
    "last \\boxed": _last_boxed_answer,
}


def _shown(value: object) -> str:
    """A value for a person: its type and its first words."""
    if value is None or value == "":
        return "missing" if value is None else "empty"
    text = value if isinstance(value, str) else repr(value)
    short = text if len(text) <= 60 else text[:57] + "..."
    return (
        f"{type(value).__name__} {short!r}" if isinstance(value, str) else f"{type(value).__name__} {short}"
    )
