"""The settings of `rlkit score` and `rlkit rewards check`, which judge what is in a file and load no model."""

from dataclasses import dataclass, field
from typing import Literal

from rlkit.config import RewardConfig
from rlkit.errors import require


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreConfig:
    """Score the completions in a file."""

    reward: RewardConfig = field(default_factory=RewardConfig)
    completion: str | None = None
    """Column of the completions, a text or a list of them; none: recognised by name (completion, response, output, ...)."""
    gold: str | None = None
    """Column of the gold answer; none: recognised by name (answer, gold, ground_truth, ...), or the verifier does without."""
    prompt: str | None = None
    """Column of the question; none: recognised by name (prompt, problem, question, ...), or the verifier does without."""
    label: str | None = None
    """Column that says which completions are right (true, 1, yes, correct, ...): shows how far the verdicts agree."""
    by: str | None = None
    """Column whose values are groups with a mean of their own, as `dataset`."""
    data: str | None = None
    """Data set with questions and gold answers, joined to the completions by id; none: a run folder's own, else the file's columns."""
    out: str | None = None
    """File for the verdicts, .jsonl or .parquet (`-`: JSON lines on stdout); none: the summary alone. Stopped half way, the same command goes on."""
    keep: str = "all"
    """Columns of the file to repeat beside each verdict: `all`, `none` or names as `model,level`; gold, label and by always are."""
    overwrite: bool = False
    """Replace an older --out."""
    disagreements: str | None = None
    """JSON lines file for completions whose verdict is not their label; none: beside --out, NAME-disagreements.jsonl."""
    right_at: float = 1.0
    """A value of at least this is called right when it is compared with a label."""
    limit: int | None = None
    """Only the first completions; none: all."""
    on_bad_row: Literal["error", "skip"] = "error"
    """A row that cannot be read or has no completion: stop with its place, or skip and count it."""

    def __post_init__(self) -> None:
        require(self.limit is None or self.limit > 0, "limit", self.limit, "a positive number of completions")
        suffixes = (".jsonl", ".parquet")
        known = self.out is None or self.out == "-" or self.out.lower().endswith(suffixes)
        require(known, "out", self.out, "a name that ends in .jsonl or .parquet, or - for stdout")
        require(
            self.disagreements is None or self.label is not None,
            "disagreements",
            self.disagreements,
            "a label column beside it (--label COLUMN) to disagree with",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckConfig:
    """Score each gold answer of a data set against itself and against another row's."""

    data: str = ""
    """`task:NAME`, a file (jsonl, csv, parquet) or folder of them, or a hub data set."""
    gold: str | None = None
    """Column of the gold answer; none: recognised by name (answer, gold, ground_truth, ...)."""
    prompt: str | None = None
    """Column of the question; none: recognised by name, or the verifier does without."""
    split: str = "train"
    """Split of a hub data set."""
    limit: int | None = None
    """Only the first rows; none: all (of a task: 256)."""
    on_bad_row: Literal["error", "skip"] = "error"
    """A row that cannot be read or has no gold answer: stop with its place, or skip and count it."""
    max_failures: float = 0.0
    """Share of the gold answers that may fail before the exit code is 1."""
    right_at: float | None = None
    """A value of at least this is called right; none: the most that the verifier declares, else 1.0."""
    workers: int = 2
    """Verifier processes."""
    timeout: float = 10.0
    """Seconds for one answer; then its process is killed and replaced, and the verdict is an error."""
    out: str | None = None
    """JSON lines file for all that failed or is suspicious; none: the first ones are printed."""
    seed: int = 0
    """Of the other row that each gold answer is held against."""

    def __post_init__(self) -> None:
        require(self.limit is None or self.limit > 0, "limit", self.limit, "a positive number of rows")
        require(0 <= self.max_failures <= 1, "max_failures", self.max_failures, "a share in [0, 1]")
        require(self.workers >= 0, "workers", self.workers, "0 or more processes")
        require(self.timeout > 0, "timeout", self.timeout, "a positive number of seconds")
