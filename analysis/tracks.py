"""What live tracking leaves in a run folder: columns of numbers, one parquet file per table and tracked step.

dynamics/tokens/step-000005.parquet      sampled tokens of the answers looked at, before and after the step's update
dynamics/decisions/step-000005.parquet   where those answers part, and what each candidate is there
dynamics/probe/step-000005.parquet       the same few answers of the first policy, under the weights after the step
dynamics/probe/answers.parquet           those answers (step 0 of a run)

pandas, duckdb and polars read them: select * from 'runs/NAME/dynamics/tokens/*.parquet'. docs/tracking.md has every column.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rlkit.errors import RunError

FOLDER = "dynamics"
Table = Literal["tokens", "decisions", "probe"]
TABLES: tuple[Table, ...] = ("tokens", "decisions", "probe")
ANSWERS = "answers.parquet"
"""In the folder of `probe`: the answers themselves."""

_IDS, _FLOATS, _TEXTS = "list<int32>", "list<float32>", "list<string>"
COLUMNS: dict[str, dict[str, str]] = {
    "tokens": {
        "step": "int32",
        "prompt_id": "string",
        "row": "int32",
        "role": "string",
        "position": "int32",
        "token_id": "int32",
        "token": "string",
        "advantage": "float32",
        "logp_before": "float32",
        "logp_after": "float32",
        "entropy_before": "float32",
        "entropy_after": "float32",
        "top_ids": _IDS,
        "top_tokens": _TEXTS,
        "top_logp_before": _FLOATS,
        "top_logp_after": _FLOATS,
    },
    "decisions": {
        "step": "int32",
        "prompt_id": "string",
        "row": "int32",
        "position": "int32",
        "prefix": "string",
        "members": "int32",
        "mean": "float32",
        "source": "string",
        "token_ids": _IDS,
        "tokens": _TEXTS,
        "counts": _IDS,
        "values": _FLOATS,
        "pulls": _FLOATS,
        "roles": _TEXTS,
        "logp_before": _FLOATS,
        "logp_after": _FLOATS,
        "predicted": _FLOATS,
        "entropy_before": "float32",
        "entropy_after": "float32",
    },
    "probe": {
        "step": "int32",
        "prompt_id": "string",
        "answer": "int32",
        "position": "int32",
        "token_id": "int32",
        "token": "string",
        "logp": "float32",
        "entropy": "float32",
        "top_mass": "float32",
    },
    "answers": {
        "prompt_id": "string",
        "prompt_tokens": "int32",
        "token_ids": _IDS,
        "finish_reason": "string",
        "text": "string",
    },
}
"""Name -> type of every column, by table."""


def step_file(run: Path, table: Table, step: int) -> Path:
    return run / FOLDER / table / f"step-{step:06d}.parquet"


def write(path: Path, kind: str, columns: Mapping[str, Sequence[Any]]) -> None:
    """One whole file or none. Raises OSError when the disk refuses it, ValueError when a column is missing or short."""
    import pyarrow
    import pyarrow.parquet

    schema = _schema(kind)
    table = pyarrow.table([pyarrow.array(columns[f.name], f.type) for f in schema], schema=schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")  # who reads along sees whole files only
    pyarrow.parquet.write_table(table, draft)
    draft.replace(path)


def read(path: Path, columns: Sequence[str] | None = None) -> dict[str, list[Any]]:
    """Column -> values of one file. Raises RunError when it is missing or damaged."""
    import pyarrow
    import pyarrow.parquet

    try:
        found: dict[str, list[Any]] = pyarrow.parquet.read_table(
            path, columns=None if columns is None else list(columns)
        ).to_pydict()
    except (OSError, pyarrow.ArrowException) as error:
        raise RunError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); was the run made with --track.every 0?"
        ) from error
    return found


def tracked_steps(run: Path, table: Table) -> list[int]:
    """The steps that left this table, in order."""
    return sorted(
        int(path.stem.removeprefix("step-")) for path in (run / FOLDER / table).glob("step-*.parquet")
    )


def drop_after(run: Path, steps: int) -> None:
    """Forget what belongs to later steps than this one, and drafts of a process that was killed."""
    for table in TABLES:
        for path in (run / FOLDER / table).glob("step-*.parquet"):
            if int(path.stem.removeprefix("step-")) > steps:
                path.unlink()
        for draft in (run / FOLDER / table).glob(".*.draft"):
            draft.unlink()


def _schema(kind: str) -> Any:
    import pyarrow as pa

    plain = {"int32": pa.int32(), "float32": pa.float32(), "string": pa.string()}
    types = {**plain, **{f"list<{name}>": pa.list_(type_) for name, type_ in plain.items()}}
    return pa.schema([(name, types[kind_]) for name, kind_ in COLUMNS[kind].items()])
