"""Benchmarks by name: `--data aime24` is the file in the folder RLKIT_DATA when it is there, else the data set on the hub.

A name stands for a whole set of a known size. What holds fewer problems (a file with the first 300 of MATH-500, --prompts 50,
prompts too long) is called `math500[300/500]` wherever its score is shown.

Rows come with `asked` and `gold` beside the columns that verifiers read, wherever they are from. The hub's data sets follow
their pages of summer 2026.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rlkit.columns import Row, look_up
from rlkit.config import DataConfig
from rlkit.errors import DataError
from rlkit.rows import Rows, check_rows
from rlkit.sources import RawRow, read_source

FOLDER = "RLKIT_DATA"
"""The environment variable that names a folder of benchmark files."""
MAX_COMPLETION_LENGTH = 3072
"""Tokens of an answer when the user does not say: what SKPO's paper allows (docs/papers.md, SKPO)."""
ASKED, GOLD = "asked", "gold"
"""Columns that are added to a row: its question in words, and its answer."""
Asking = Literal["as it is", "with options", "complete the function", "write the function"]

_BBH = (
    *("boolean_expressions", "causal_judgement", "date_understanding", "disambiguation_qa", "dyck_languages"),
    *("formal_fallacies", "geometric_shapes", "hyperbaton", "logical_deduction_five_objects"),
    *("logical_deduction_seven_objects", "logical_deduction_three_objects", "movie_recommendation"),
    *("multistep_arithmetic_two", "navigate", "object_counting", "penguins_in_a_table"),
    *("reasoning_about_colored_objects", "ruin_names", "salient_translation_error_detection", "snarks"),
    *("sports_understanding", "temporal_sequences", "tracking_shuffled_objects_five_objects"),
    *("tracking_shuffled_objects_seven_objects", "tracking_shuffled_objects_three_objects", "web_of_lies"),
    "word_sorting",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """What a name stands for.

    >>> BENCHMARKS["aime24"].size, BENCHMARKS["aime24"].n
    (30, 32)
    """

    name: str
    size: int
    """Problems of the whole set."""
    files: tuple[str, ...]
    """Names in the folder RLKIT_DATA, the first that is there counts."""
    hub: tuple[str, ...]
    """Data sets on the hub, `OWNER/NAME` or `OWNER/NAME:CONFIG`; together they are the set."""
    split: str = "test"
    """On the hub."""
    columns: tuple[str, str] = ("problem", "answer")
    """Of question and gold answer, on the hub."""
    reward: str = "math"
    n: int = 3
    """Answers to each problem: avg@32 for AIME and avg@3 for the rest, as the SKPO paper reports (docs/papers.md, Evaluation)."""
    asking: Asking = "as it is"
    keep: tuple[str, str] | None = None
    """Only the rows of the file whose column holds this; None: all."""


_ALL = (
    Benchmark(
        name="aime24", size=30, files=("aime24.jsonl",), hub=("HuggingFaceH4/aime_2024",), split="train", n=32
    ),
    Benchmark(name="aime25", size=30, files=("aime25.jsonl",), hub=("math-ai/aime25",), n=32),
    Benchmark(
        name="amc23", size=40, files=("amc23.jsonl",), hub=("math-ai/amc23",), columns=("question", "answer")
    ),
    Benchmark(
        name="math500",
        size=500,
        files=("math500.jsonl", "math500_first300.jsonl"),
        hub=("HuggingFaceH4/MATH-500",),
    ),
    Benchmark(
        name="minerva",
        size=272,
        files=("minerva_math.jsonl",),
        hub=("math-ai/minervamath",),
        columns=("question", "answer"),
    ),
    Benchmark(
        name="olympiadbench",
        size=675,  # the text-only English maths with answers as Qwen2.5-Math evaluates it; the hub's copy has one less
        files=("olympiadbench_math_en.jsonl",),
        hub=("Hothan/OlympiadBench:OE_TO_maths_en_COMP",),
        split="train",
        columns=("question", "final_answer"),
    ),
    Benchmark(
        name="gsm8k",
        size=1319,
        files=("gsm8k_test.jsonl",),
        hub=("openai/gsm8k:main",),
        columns=("question", "answer"),
    ),
    Benchmark(
        name="mmlu_pro",
        size=12032,
        files=("mmlu_pro.jsonl.gz",),
        hub=("TIGER-Lab/MMLU-Pro",),
        columns=("question", "answer"),
        reward="choice",
        asking="with options",
    ),
    Benchmark(
        name="bbh",
        size=6511,
        files=("bbh.jsonl.gz",),
        hub=tuple(f"lukaemon/bbh:{task}" for task in _BBH),
        columns=("input", "target"),
        reward="choice",
    ),
    Benchmark(
        name="humaneval",
        size=164,
        files=("humaneval.jsonl",),
        hub=("openai/openai_humaneval",),
        columns=("prompt", "canonical_solution"),
        reward="code",
        asking="complete the function",
    ),
    Benchmark(
        name="mbpp",
        size=500,  # the test split; the other 474 are for prompts and training
        files=("mbpp.jsonl",),
        hub=("google-research-datasets/mbpp:full",),
        columns=("text", "code"),
        reward="code",
        asking="write the function",
        keep=("split", "test"),
    ),
)
BENCHMARKS: Mapping[str, Benchmark] = {b.name: b for b in _ALL}


def benchmark(name: str) -> Benchmark | None:
    """The benchmark of this name, unless a file or folder here is called the same."""
    return None if Path(name).exists() else BENCHMARKS.get(name)


def label(name: str, used: int, whole: int) -> str:
    """How a set is called wherever its score is shown.

    >>> label("math500", 300, 500), label("aime24", 30, 30)
    ('math500[300/500]', 'aime24')
    """
    return name if used == whole else f"{name}[{used}/{whole}]"


def load_benchmark(which: Benchmark, cfg: DataConfig) -> Rows:
    """Its rows, checked. Raises DataError when neither the folder nor the hub has them."""
    path = _file(which)
    rows = _from_hub(which) if path is None else _from_file(which, path)
    source = ", ".join(which.hub[:2]) if path is None else str(path)
    own = replace(cfg, prompt_column=ASKED, answer_column=GOLD)
    return check_rows(own, f"{which.name} ({source})", rows)


def _file(which: Benchmark) -> Path | None:
    folder = os.environ.get(FOLDER)
    paths = [Path(folder) / name for name in which.files] if folder else []
    return next((path for path in paths if path.is_file()), None)


def _from_file(which: Benchmark, path: Path) -> Iterator[RawRow]:
    for raw in read_source(str(path), "test")[1]:
        if raw.row is None or which.keep is None or raw.row.get(which.keep[0]) == which.keep[1]:
            yield _asked(which, raw, ("prompt", "answer"))


def _from_hub(which: Benchmark) -> Iterator[RawRow]:
    for name in which.hub:
        try:
            rows = read_source(name, which.split)[1]
        except DataError as error:
            folder = os.environ.get(FOLDER)
            looked = (
                f"the folder {FOLDER} = {folder} has no {' or '.join(which.files)}"
                if folder
                else f"{FOLDER} is not set"
            )
            said = str(error).removeprefix(f"--data {name}: ")
            raise DataError(f"--data {which.name}: {looked}; on the hub, {name}: {said}") from error
        config = name.partition(":")[2]
        for raw in rows:
            known = replace(raw, name=f"{config}-{raw.name}") if len(which.hub) > 1 else raw
            yield _asked(which, known, which.columns)


def _asked(which: Benchmark, raw: RawRow, columns: tuple[str, str]) -> RawRow:
    """The row with the question as the model will read it and the answer as the verifier will; its own columns stay."""
    if raw.row is None:
        return raw
    question, answer = (look_up(raw.row, name) for name in columns)
    if isinstance(answer, list) and len(answer) > 1:
        answer = ", ".join(map(str, answer))  # OlympiadBench: every value that is asked for
    text = question if question is None else _words(which.asking, str(question), raw.row)
    return replace(raw, row={**raw.row, ASKED: text, GOLD: answer})


def _words(asking: Asking, question: str, row: Row) -> str:
    r"""The question with what belongs to it.

    >>> print(_words("with options", "Which?", {"options": ["one", "two"]}))
    Which?
    <BLANKLINE>
    A. one
    B. two
    """
    if asking == "with options":
        options = row.get("options")
        listed = [
            f"{chr(65 + i)}. {text}" for i, text in enumerate(options if isinstance(options, list) else [])
        ]
        return "\n".join([question, "", *listed])
    if asking == "complete the function":
        return f"Complete this Python function. Answer with the whole function in a ```python block.\n\n```python\n{question}```"
    if asking == "write the function":
        tests = row.get("tests", row.get("test_list"))
        shown = "\n".join(map(str, tests if isinstance(tests, list) else []))
        return (
            f"{question}\nAnswer with Python code in a ```python block. It must pass these tests:\n\n{shown}"
        )
    return question
