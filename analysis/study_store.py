"""How a study's folder is laid out: what was drawn for `rlkit analyze`, part by part; its only writer and reader.

studies/NAME/
  study.json                  what was asked of whom
  answers/000000.parquet      whole answers of the model, with their verdicts
  draws/000000.parquet ...    what was drawn from them (TABLES says which columns)
  result.json, figure.html    what it came to
  .lock                       held while a process writes here

A part is renamed into place when it is whole: a study that was killed has lost the batch it was at, and the same command goes on.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rlkit.errors import RunError

from .store import lock

SETTINGS, RESULT, FIGURE = "study.json", "result.json", "figure.html"
MAY_DIFFER = ("figure", "model", "sizes")
"""Settings that decide how much is drawn, or how it is shown, but not what a draw is."""

Table = Literal["answers", "draws"]
Row = dict[str, Any]


class StudyStore:
    """An open study folder; one process at a time. Close it.

    Raises RunError when the folder holds another study, is in use, or cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        try:
            self._lock = lock(folder)
            try:
                _require_same(folder, settings)
                for draft in folder.glob("*/.*.draft"):
                    draft.unlink()
                self.write_json(SETTINGS, settings)
            except BaseException:
                self._lock.release()
                raise
        except OSError as error:
            raise RunError(
                f"{folder}: cannot write a study here ({error.strerror or error}); choose another --output-dir"
            ) from error

    def read(self, table: Table) -> list[Row]:
        """All rows, in the order in which they were written."""
        import pyarrow
        import pyarrow.parquet

        rows: list[Row] = []
        for path in sorted((self.folder / table).glob("*.parquet")):
            try:
                rows += pyarrow.parquet.read_table(path).to_pylist()
            except (OSError, pyarrow.ArrowException) as error:
                raise RunError(
                    f"{path}: not a whole part of a study ({error}); delete this file, and it is drawn again"
                ) from error
        return rows

    def write(self, table: Table, rows: Sequence[Row]) -> None:
        """One part, on disk before this returns."""
        import pyarrow
        import pyarrow.parquet

        place = self.folder / table
        number = 1 + max((int(path.stem) for path in place.glob("*.parquet")), default=-1)
        path = place / f"{number:06d}.parquet"
        draft = place / f".{path.name}.draft"
        try:
            place.mkdir(exist_ok=True)
            built = pyarrow.Table.from_pylist(list(rows), schema=_schema(table))
            pyarrow.parquet.write_table(built, draft, compression="zstd")
            draft.replace(path)
        except OSError as error:
            raise _full(path, error) from error

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        path = self.folder / name
        draft = path.with_name(f".{name}.draft")
        try:
            draft.write_text(json.dumps(dict(content), indent=2) + "\n", encoding="utf-8")
            draft.replace(path)
        except OSError as error:
            raise _full(path, error) from error

    def close(self) -> None:
        self._lock.release()


def _full(path: Path, error: OSError) -> RunError:
    return RunError(
        f"{path}: cannot be written ({error.strerror or error}); make room and give the same command again, which goes on from here"
    )


def _require_same(folder: Path, settings: Mapping[str, Any]) -> None:
    path = folder / SETTINGS
    if not path.is_file():
        if any(p.name != ".lock" for p in folder.iterdir()):
            raise RunError(f"{folder}: holds something else; choose another --output-dir")
        return
    try:
        before = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunError(
            f"{path}: is not JSON ({error}); was it edited? Choose another --output-dir"
        ) from error
    if not isinstance(before, dict):
        raise RunError(
            f"{path}: holds a {type(before).__name__}, expected a JSON object of settings; was it edited? "
            "Choose another --output-dir"
        )
    changed = [
        f"{name} = {settings.get(name)!r} (it was {before.get(name)!r})"
        for name in sorted(before.keys() | settings.keys())
        if before.get(name) != settings.get(name) and name not in MAY_DIFFER
    ]
    if changed:
        raise RunError(
            f"{folder}: holds another study: {', '.join(changed)}; choose another --output-dir, or leave it out"
        )


def _schema(table: Table) -> Any:
    import pyarrow as pa

    ids, text, number = pa.list_(pa.int32()), pa.string(), pa.int32()
    if table == "answers":
        return pa.schema(
            [
                ("model", text),
                ("prompt_id", text),
                ("member", number),
                ("token_ids", ids),
                ("ended", pa.bool_()),
                ("score", pa.float64()),
                ("text", text),
            ]
        )
    return pa.schema(
        [
            ("model", text),
            ("prompt_id", text),
            ("kind", text),
            ("prefix", ids),
            ("first", number),
            ("scores", pa.list_(pa.float64())),
            ("tokens", pa.list_(pa.int32())),
            ("finals", pa.list_(pa.string())),
        ]
    )
