"""Where rows come from: files, folders, hub data sets and the user's own Python; nothing is checked but that they are rows.

Text files are read line by line, so that a broken line costs one row and is named by its number; csv values stay texts
as they are written ("007", "0.50"). The hub goes through `datasets`, which caches; nothing else needs the network.
"""

import contextlib
import csv
import difflib
import gzip
import json
import os
import re
import socket
import sys
import time
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rlkit.errors import DataError
from rlkit.userload import is_user_object, load_user_object

FORMATS = ("jsonl", "ndjson", "json", "csv", "tsv", "parquet")
SPLIT_NAMES = ("train", "test", "validation", "valid", "val", "dev", "eval")
NOT_ROWS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"}
"""Files about a data set that lie beside its rows."""
HUB_TIMEOUT = 3.0
"""Seconds to find out whether the hub can be reached at all; its own client tries for 25 seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    """One row as it was read; `row` is None for one that could not be, and then `problem` says why."""

    place: str
    """For people: `data/train.jsonl, row 17`."""
    name: str
    """Unique in its source, the same in every run: `train-17`."""
    row: Mapping[str, Any] | None
    problem: str = ""


def read_source(name: str, split: str) -> tuple[str, Iterator[RawRow]]:
    """What `--data NAME` points to: a name for people, and its rows, read as they are asked for.

    Raises DataError for a name that leads nowhere; a broken row is a RawRow with a problem.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return name, _read_folder(path, split)
    if path.is_file():
        return name, _read_file(path, _stem(path))
    if is_user_object(name):
        return name, _read_user(name)
    if _means_file(path, name):
        raise DataError(f"--data {name}: no such file{_near_file(path)}")
    return f"{name} ({split})", _read_hub(name, split)


def is_local(name: str) -> bool:
    """Whether `read_files` is what reads it: it is there, or was meant to be."""
    path = Path(name).expanduser()
    return name == "-" or path.exists() or _means_file(path, name)


def find_files(name: str) -> list[Path]:
    """A file, or all files of a folder, whatever their split; none for `-`, which is stdin. Raises DataError."""
    path = Path(name).expanduser()
    if name == "-":
        return []
    if path.is_dir():
        files = _files_in(path)
        if not files:
            raise DataError(f"{name}: the folder holds no {', '.join(FORMATS)} file")
        return files
    if not path.is_file():
        raise DataError(f"{name}: no such file{_near_file(path)}")
    return [path]


def read_files(name: str, files: Sequence[Path], columns: Sequence[str] | None = None) -> Iterator[RawRow]:
    """The rows of what `find_files` found for this name, in constant memory (a .json file is read as a whole).

    columns: the only ones read of a parquet file; None: all
    """
    if name == "-":
        return _json_lines(sys.stdin.buffer, "stdin", "stdin")
    stems = [_stem(p) for p in files]
    labels = stems if len(set(stems)) == len(stems) else [str(p.relative_to(name)) for p in files]
    return (r for p, label in zip(files, labels, strict=True) for r in _read_file(p, label, columns))


def count_rows(files: Sequence[Path], patience: float = 1.0) -> int | None:
    """How many rows the files hold (empty lines included), for a progress bar; None: counting takes longer than `patience` seconds."""
    until = time.monotonic() + patience
    total = 0
    for path in files:
        kind = _format(path)
        if kind == "parquet":
            import pyarrow
            import pyarrow.parquet

            try:
                total += pyarrow.parquet.read_metadata(path).num_rows
            except (OSError, pyarrow.ArrowException):  # reading it will say what is wrong
                return None
            continue
        if kind == "json":
            return None
        try:
            with _open(path) as file:
                while block := file.read(1 << 20):
                    total += block.count(b"\n")
                    if time.monotonic() > until:
                        return None
        except (OSError, EOFError, zlib.error):  # likewise
            return None
    return total


def _means_file(path: Path, name: str) -> bool:
    """Whether a name that does not exist was meant as a path, and not as OWNER/NAME on the hub."""
    has_suffix = _format(path) is not None or (
        "/" not in name and re.search(r"\.[A-Za-z]+$", name) is not None
    )
    in_folder = path.parent != Path() and path.parent.is_dir()
    return has_suffix or in_folder or path.is_absolute() or name.startswith(".") or name.count("/") > 1


def _near_file(path: Path) -> str:
    """The nearest name in the folder, or which folder is missing."""
    if not path.parent.is_dir():
        return f", and no folder {path.parent} (looked from {Path.cwd()})"
    near = difflib.get_close_matches(path.name, os.listdir(path.parent), n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else f" in {path.parent.resolve()}"


def _format(path: Path) -> str | None:
    """The format that a file's name tells; None for one that is not read here."""
    suffixes = [s.lstrip(".").lower() for s in path.suffixes]
    if suffixes[-1:] == ["gz"]:
        suffixes.pop()
        if suffixes[-1:] == ["parquet"]:
            return None
    return suffixes[-1] if suffixes and suffixes[-1] in FORMATS else None


def _stem(path: Path) -> str:
    return re.sub(rf"\.({'|'.join(FORMATS)})(\.gz)?$", "", path.name, flags=re.IGNORECASE)


# Folders


def _read_folder(folder: Path, split: str) -> Iterator[RawRow]:
    """The rows of a folder's files for one split, in the order of their names."""
    if (folder / "dataset_info.json").is_file() or (folder / "dataset_dict.json").is_file():
        return _read_saved(folder, split)
    files = _files_in(folder)
    if not files:
        raise DataError(f"{folder}: the folder holds no {', '.join(FORMATS)} file")
    named = {p: _split_names(p.relative_to(folder)) for p in files}
    chosen = [p for p in files if split in named[p]]
    # Files that name no split at all are training data.
    chosen = chosen or [p for p in files if not named[p] and split == "train"]
    if not chosen:
        raise DataError(
            f"{folder}: no file of split {split!r} (--data.split); it holds "
            + ", ".join(str(p.relative_to(folder)) for p in files)
        )
    stems = [_stem(p) for p in chosen]
    labels = stems if len(set(stems)) == len(stems) else [str(p.relative_to(folder)) for p in chosen]
    return (row for p, label in zip(chosen, labels, strict=True) for row in _read_file(p, label))


def _files_in(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and _format(p) and p.name not in NOT_ROWS]


def _split_names(path: Path) -> set[str]:
    """The splits that a path names: `data/train-00000-of-00002.parquet` names train."""
    return set(re.split(r"[-_./\\]", str(path).lower())) & set(SPLIT_NAMES)


def _read_saved(folder: Path, split: str) -> Iterator[RawRow]:
    """A folder written by `datasets`' save_to_disk."""
    import datasets

    saved = datasets.load_from_disk(str(folder))
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise DataError(f"{folder}: no split {split!r} (--data.split); it holds {', '.join(saved)}")
        saved = saved[split]
    return _numbered(iter(saved), str(folder), folder.name)


# Files


def _read_file(path: Path, label: str, columns: Sequence[str] | None = None) -> Iterator[RawRow]:
    kind = _format(path)
    if kind is None:
        raise DataError(
            f"{path}: files of this kind are not read; expected {', '.join(FORMATS)} (or .gz of a text format)"
        )
    if kind == "parquet":
        return _refusing_broken_files(path, _read_parquet(path, label, columns))
    reader = {"json": _read_json, "csv": _read_csv, "tsv": _read_csv}.get(kind, _read_lines)
    return _refusing_broken_files(path, reader(path, label))


def _refusing_broken_files(path: Path, rows: Iterator[RawRow]) -> Iterator[RawRow]:
    try:
        yield from rows
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file ({error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _read_lines(path: Path, label: str) -> Iterator[RawRow]:
    with _open(path) as file:
        yield from _json_lines(file, str(path), label)


def _json_lines(file: IO[bytes], source: str, label: str) -> Iterator[RawRow]:
    """One JSON object per line; empty lines are passed over, but counted as rows."""
    for number, line in enumerate(file, start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            continue
        place, name = f"{source}, row {number}", f"{label}-{number}"
        try:
            value = json.loads(line.decode())
        except UnicodeDecodeError as error:
            problem = f"not UTF-8 text ({error.reason} at byte {error.start} of the line)"
            yield RawRow(place=place, name=name, row=None, problem=problem)
        except (ValueError, RecursionError) as error:
            came = line.decode(errors="replace").strip()[:60]
            problem = f"broken JSON ({error}): {came!r}; expected one JSON object per line"
            yield RawRow(place=place, name=name, row=None, problem=problem)
        else:
            yield _raw(place, name, value)


def _read_json(path: Path, label: str) -> Iterator[RawRow]:
    """A list of objects, or an object that holds one such list (`{"data": [...]}`); also JSON lines by that name."""
    with _open(path) as file:
        text = file.read().decode("utf-8-sig")
    if not text.strip():
        return iter(())
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        first = text.lstrip().partition("\n")[0]
        if first.startswith("{") and first.rstrip().endswith("}"):
            return _read_lines(path, label)
        raise DataError(f"{path}: broken JSON ({error}); expected a list of objects") from error
    if isinstance(value, Mapping):
        lists = [v for v in value.values() if isinstance(v, list) and v and isinstance(v[0], Mapping)]
        value = lists[0] if len(lists) == 1 else [value]
    if not isinstance(value, list):
        raise DataError(f"{path}: holds a {type(value).__name__}; expected a list of objects")
    return _numbered(iter(value), str(path), label)


def _read_csv(path: Path, label: str) -> Iterator[RawRow]:
    """Comma- or tab-separated with a header line; the number of a row is that of its last line."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the default refuses a worked solution of 128 KiB
    delimiter = "\t" if _format(path) == "tsv" else ","
    with _open(path) as file:
        lines = (line.decode("utf-8-sig" if i == 0 else "utf-8") for i, line in enumerate(file))
        reader = csv.reader(lines, delimiter=delimiter)
        header = next(reader, [])
        for values in reader:
            if not values:
                continue
            place, name = f"{path}, row {reader.line_num}", f"{label}-{reader.line_num}"
            if len(values) != len(header):
                problem = f"{len(values)} values for {len(header)} columns ({', '.join(header)})"
                yield RawRow(place=place, name=name, row=None, problem=problem)
            else:
                yield RawRow(place=place, name=name, row=dict(zip(header, values, strict=True)))


def _read_parquet(path: Path, label: str, columns: Sequence[str] | None) -> Iterator[RawRow]:
    import pyarrow
    import pyarrow.parquet

    def rows() -> Iterator[object]:
        try:
            with pyarrow.parquet.ParquetFile(path) as table:
                for batch in table.iter_batches(batch_size=1024, columns=columns):
                    yield from batch.to_pylist()
        except pyarrow.ArrowException as error:
            raise DataError(f"{path}: not a whole parquet file ({error})") from error

    return _numbered(rows(), str(path), label)


def _numbered(values: Iterator[object], place: str, label: str) -> Iterator[RawRow]:
    return (_raw(f"{place}, row {i}", f"{label}-{i}", value) for i, value in enumerate(values, start=1))


def _raw(place: str, name: str, value: object) -> RawRow:
    if isinstance(value, Mapping):
        return RawRow(place=place, name=name, row=value)
    problem = f"a {type(value).__name__}, {str(value)[:60]!r}; expected an object with named columns"
    return RawRow(place=place, name=name, row=None, problem=problem)


# The user's own


def _read_user(name: str) -> Iterator[RawRow]:
    """A callable without arguments, or an iterable, that gives rows; it must end."""
    found = load_user_object(name, "--data")
    module, _, attr = name.rpartition(":")
    try:
        values: Any = found() if callable(found) else found
        if isinstance(values, str | Mapping):
            raise TypeError(f"it is a {type(values).__name__}")
        rows = iter(values)
    except Exception as error:  # user code may raise anything; say whose it is and keep the cause
        problem = f"{type(error).__name__}: {error}"
        raise DataError(
            f"--data {name}: expected rows, or a function without arguments that gives rows; {problem}"
        ) from error
    return _numbered(_blaming(rows, name), name, f"{Path(module).stem}-{attr}")


def _blaming(rows: Iterator[object], name: str) -> Iterator[object]:
    try:
        yield from rows
    except Exception as error:  # likewise
        raise DataError(f"--data {name}: giving its rows failed: {type(error).__name__}: {error}") from error


# The hub


def _read_hub(name: str, split: str) -> Iterator[RawRow]:
    """A hub data set, `OWNER/NAME` or `OWNER/NAME:CONFIG`; from the cache when the hub cannot be reached."""
    import datasets

    repo, _, config = name.partition(":")
    reached = _hub_reached()
    try:
        with contextlib.nullcontext() if reached else _offline():
            rows = datasets.load_dataset(repo, config or None, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        if not reached or isinstance(error, ConnectionError):
            raise DataError(
                f"--data {name}: no such file or folder here, and the hub cannot be reached to look for a data set of that "
                f"name (tried {_endpoint()}/datasets/{repo} and the cache {datasets.config.HF_DATASETS_CACHE}). "
                "Pass a local path: --data path/to/train.jsonl"
            ) from error
        said = " ".join(str(error).split())
        hint = f"; pass it as --data {repo}:CONFIG" if "config" in said.lower() and not config else ""
        raise DataError(
            f"--data {name}: no such file or folder here, and the hub says: {said[:400]}{hint}"
        ) from error
    return _numbered(iter(rows), name, repo.rpartition("/")[2])


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _hub_reached() -> bool:
    if urllib.request.getproxies():
        return True  # whoever configured a proxy waits for its answer
    url = urllib.parse.urlsplit(_endpoint())
    try:
        port = url.port or (80 if url.scheme == "http" else 443)
        socket.create_connection((url.hostname or "", port), timeout=HUB_TIMEOUT).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """`datasets` looks into its cache alone, at once, instead of retrying the network."""
    import datasets
    from huggingface_hub import constants

    before = (datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE)
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before
