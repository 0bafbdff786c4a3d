"""Verdicts on their way to a file: a folder beside it holds what is done, and the file appears when all are there.

OUT.partial/
  settings.json    what the verdicts depend on: another reward does not continue them
  verdicts.jsonl   one line per completion, in order; becomes OUT, or is made a parquet file
  progress.jsonl   after each batch: lines and bytes that are on disk, and a digest of the completions they judge

A batch is on disk (fsync) before its line of progress is, so a process that is killed at any time leaves whole batches;
what lies behind the last one is cut off. Going on replays the completions and compares their digest, so that a file that
changed in between is noticed. Lines depend on nothing but completion and verdict: a run that was killed ten times leaves
the bytes of one that was not.
"""

import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

from rlkit.errors import DISK_FULL_ERRORS, DataError, RunError
from rlkit.types import Score

from .completions import Completion

VERDICT_COLUMNS = ("id", "sample", "value", "outcome", "reason", "parts")
PARQUET_ROWS = 10_000
"""Lines that become one row group."""


def verdict_line(completion: Completion, score: Score) -> bytes:
    """A verdict with its completion's id and columns, as a line of JSON."""
    line = {
        "id": completion.prompt.id,
        "sample": completion.sample,
        "value": score.value,
        "outcome": score.outcome,
        "reason": score.reason,
        "parts": dict(score.parts),
    }
    # The verdict's names are its own: a column of the file that has one of them is repeated as input_NAME.
    line |= {
        (f"input_{name}" if name in VERDICT_COLUMNS else name): _json(value)
        for name, value in completion.kept.items()
    }
    return json_line(line)


def json_line(row: Mapping[str, Any]) -> bytes:
    text = json.dumps(row, ensure_ascii=False)
    try:
        return f"{text}\n".encode()
    except UnicodeEncodeError:  # lone surrogates, which JSON can hold and UTF-8 cannot
        return (text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") + "\n").encode()


def _json(value: object) -> Any:
    """A column's value as JSON has it: no number that is none, no bytes, no dates."""
    if isinstance(value, str | int | bool) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _json(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json(inner) for inner in value]
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


class Sink(Protocol):
    """Where verdicts go."""

    num_kept: int
    """Verdicts that are there already."""

    def kept(self) -> Iterator[Mapping[str, Any]]:
        """Those verdicts, oldest first."""
        ...

    def require_same(self, digest: str) -> None:
        """Raises DataError when the kept verdicts belong to completions of another digest."""
        ...

    def write(self, lines: Sequence[bytes], digest: str) -> None: ...

    def finish(self) -> None: ...

    def close(self) -> None: ...


class NoSink:
    """Verdicts that only the summary is made of, or that go to a stream."""

    num_kept = 0

    def __init__(self, stream: IO[bytes] | None = None) -> None:
        self._stream = stream

    def kept(self) -> Iterator[Mapping[str, Any]]:
        return iter(())

    def require_same(self, digest: str) -> None:
        pass

    def write(self, lines: Sequence[bytes], digest: str) -> None:
        if self._stream is not None:
            self._stream.writelines(lines)
            self._stream.flush()

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


class VerdictFile:
    """Verdicts for `out`; close it. Raises RunError when it cannot be written, or holds what would be lost."""

    def __init__(self, out: Path, settings: Mapping[str, str], *, overwrite: bool) -> None:
        self.out = out
        self.folder = out.with_name(f"{out.name}.partial")
        self._path = self.folder / "verdicts.jsonl"
        if out.is_dir():
            raise RunError(f"--out {out}: is a folder; expected the name of a file")
        if out.exists() and not overwrite:
            raise RunError(f"--out {out}: is there already; choose another name, or add --overwrite")
        if not out.parent.is_dir():
            raise RunError(
                f"--out {out}: no folder {out.parent} (looked from {Path.cwd()}); make it, or choose another"
            )
        try:
            self.folder.mkdir(exist_ok=True)
            self._file = self._path.open("a+b")
            self._lock()
            self._require_settings(settings, overwrite)
            self.num_kept, end, self._digest = self._state()
            self._file.truncate(end)
            self._progress = (self.folder / "progress.jsonl").open("ab")
        except OSError as error:
            raise self._refused(error) from error

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
        except BlockingIOError as error:
            raise RunError(
                f"--out {self.out}: another rlkit process is writing it; choose another name"
            ) from error

    def _require_settings(self, settings: Mapping[str, str], overwrite: bool) -> None:
        path = self.folder / "settings.json"
        try:
            before = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):  # new, or killed before anything was kept
            before = None
        if before is not None and before != settings:
            changed = [
                f"{name} = {settings.get(name)} (it was {before.get(name)})"
                for name in sorted(before.keys() | settings.keys())
                if before.get(name) != settings.get(name)
            ]
            if not overwrite:
                raise RunError(
                    f"{self.folder}: holds verdicts of a command with other settings: {', '.join(changed)}. Finish that one, choose "
                    "another --out, or drop them with --overwrite"
                )
            before = None
        if before is None:
            self._file.truncate(0)
            (self.folder / "progress.jsonl").unlink(missing_ok=True)
            draft = path.with_name("settings.json.draft")
            draft.write_text(json.dumps(dict(settings), indent=2) + "\n")
            draft.replace(path)

    def _state(self) -> tuple[int, int, str]:
        """Lines, bytes and digest of the last batch that is whole on disk."""
        size = self._path.stat().st_size
        found = (0, 0, "")
        with suppress(FileNotFoundError):
            for line in (self.folder / "progress.jsonl").read_text().splitlines():
                try:
                    lines, end, digest = json.loads(line)
                except ValueError:  # cut by a crash
                    break
                if end > size:
                    break
                found = (lines, end, digest)
        return found

    def kept(self) -> Iterator[Mapping[str, Any]]:
        with self._path.open("rb") as file:
            for _ in range(self.num_kept):
                yield json.loads(file.readline())

    def require_same(self, digest: str) -> None:
        if digest != self._digest:
            raise DataError(
                f"{self.folder}: the first {self.num_kept:,} completions are not those that were judged before; the data, its columns or "
                "its order changed. Choose another --out, or begin anew with --overwrite"
            )

    def write(self, lines: Sequence[bytes], digest: str) -> None:
        """Append a batch; digest: of all completions up to its end."""
        try:
            self._file.writelines(lines)
            self._file.flush()
            os.fsync(self._file.fileno())
            self.num_kept += len(lines)
            self._progress.write(f"{json.dumps([self.num_kept, self._file.tell(), digest])}\n".encode())
            self._progress.flush()
        except OSError as error:
            raise self._refused(error) from error

    def finish(self) -> None:
        """All verdicts are there: they become the file, and the folder goes."""
        try:
            if self.out.suffix.lower() == ".parquet":
                draft = self.folder / "verdicts.parquet"
                write_parquet(self._path, draft)
                draft.replace(self.out)
            else:
                self._path.replace(self.out)
            self.close()
            shutil.rmtree(self.folder)
        except OSError as error:
            raise self._refused(error) from error

    def close(self) -> None:
        for file in (self._file, self._progress):
            with suppress(OSError):  # what a full disk refused has been told
                file.close()

    def _refused(self, error: OSError) -> RunError:
        if error.errno in DISK_FULL_ERRORS:
            return RunError(
                f"{self.folder}: the disk is full ({error.strerror}); make room, and the same command goes on where it stopped"
            )
        return RunError(f"--out {self.out}: cannot be written ({error.strerror or error}); choose another")


def write_parquet(lines: Path, path: Path) -> None:
    """Verdict lines as a parquet file; a column whose values are of several types becomes JSON text."""
    import pyarrow
    import pyarrow.parquet

    schema = _parquet_schema(lines)
    texts = {f.name for f in schema if f.metadata == {b"json": b"1"}}
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for rows in _batches(lines):
            for row in rows:
                row["parts"] = list(row["parts"].items())
                for name in texts & row.keys():
                    row[name] = json.dumps(row[name], ensure_ascii=False)
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))


def _parquet_schema(lines: Path) -> Any:
    import pyarrow as pa

    fixed = {
        "id": pa.string(),
        "sample": pa.int32(),
        "value": pa.float64(),
        "outcome": pa.string(),
        "reason": pa.string(),
        "parts": pa.map_(pa.string(), pa.float64()),
    }
    found: dict[str, Any] = {}
    for rows in _batches(lines):
        for name in dict.fromkeys(name for row in rows for name in row if name not in fixed):
            kind = _kind([row.get(name) for row in rows])
            found[name] = kind if name not in found else _common(found[name], kind)
    fields = [pa.field(name, kind) for name, kind in fixed.items()]
    for name, kind in found.items():
        json_text = kind is None
        metadata = {"json": "1"} if json_text else None
        fields.append(pa.field(name, pa.string() if json_text else kind, metadata=metadata))
    return pa.schema(fields)


def _kind(values: list[Any]) -> Any:
    """The one type of these values; None: they have several."""
    import pyarrow as pa

    try:
        kind = pa.infer_type(values)
        pa.array(values, type=kind)
    except (pa.ArrowException, OverflowError):
        return None
    return kind if _storable(kind) else None


def _storable(kind: Any) -> bool:
    """Whether parquet has it: not an object without fields."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(_storable(f.type) for f in kind)
    if pa.types.is_list(kind):
        return _storable(kind.value_type)
    return True


def _common(one: Any, other: Any) -> Any:
    import pyarrow as pa

    if one is None or other is None:
        return None
    try:
        schemas = [pa.schema([("x", one)]), pa.schema([("x", other)])]
        return pa.unify_schemas(schemas, promote_options="permissive").field("x").type
    except pa.ArrowException:
        return None


def _batches(lines: Path) -> Iterator[list[dict[str, Any]]]:
    with lines.open("rb") as file:
        while rows := [json.loads(line) for _, line in zip(range(PARQUET_ROWS), file, strict=False)]:
            yield rows
