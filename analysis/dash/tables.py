"""Parquet files of a run as columns. A file that is not whole yet, or damaged, has none: the page goes on without it."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlkit.analysis import tracks
from rlkit.analysis.tracks import Table

Columns = dict[str, list[Any]]
KEPT_FILES = 256
"""Read tables that are kept in memory: the step looked at, and those that a heatmap is made of."""


def track(run: Path, table: Table, step: int, columns: Sequence[str]) -> Columns:
    """Columns of one tracked step; {} when there is nothing to read."""
    return read(tracks.step_file(run, table, step), columns)


def rollouts(run: Path, step: int, columns: Sequence[str]) -> Columns:
    """Columns of one step's rollouts; {} when there is nothing to read."""
    return read(run / "rollouts" / f"step-{step:06d}.parquet", columns)


def read(path: Path, columns: Sequence[str]) -> Columns:
    try:
        stat = path.stat()
    except OSError:
        return {}
    return _read(path, tuple(columns), stat.st_mtime_ns, stat.st_size)


def steps_in(folder: Path) -> list[int]:
    """The steps that left a file there, in order."""
    try:
        return _steps_in(folder, folder.stat().st_mtime_ns)
    except OSError:
        return []


@lru_cache(maxsize=64)
def _steps_in(folder: Path, mtime_ns: int) -> list[int]:
    words = (path.stem.removeprefix("step-") for path in folder.glob("step-*.parquet"))
    return sorted(int(word) for word in words if word.isdecimal())


@lru_cache(maxsize=KEPT_FILES)
def _read(path: Path, columns: tuple[str, ...], mtime_ns: int, size: int) -> Columns:
    """mtime_ns, size: of the file, so that another one is read again"""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, columns=list(columns))
    except (OSError, pyarrow.ArrowException):
        return {}
    if set(table.column_names) != set(columns):
        return {}
    return {name: _values(table.column(name)) for name in columns}


def _values(column: Any) -> list[Any]:
    """Python values. Bytes that are no UTF-8 are replaced: parquet says that its strings are, and nobody checks."""
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        import pyarrow

        binary = pyarrow.binary() if column.type == pyarrow.string() else pyarrow.list_(pyarrow.binary())
        values = [_decoded(value) for value in column.cast(binary).to_pylist()]
    return values


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(inner) for inner in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
