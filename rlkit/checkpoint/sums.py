"""Checksums of a checkpoint's files, in the form that `sha256sum -c` reads."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NAME = "rlkit/SHA256SUMS"
LOADED = (".safetensors", ".json", ".toml")
"""What is read when a run goes on. A file of this kind without a checksum was not written with the rest."""


def write(folder: Path) -> None:
    """The checksum of every file of `folder`, read back from it."""
    names = sorted(path.relative_to(folder).as_posix() for path in files(folder))
    lines = [f"{digest}  {name}\n" for name, digest in zip(names, _digests(folder, names), strict=True)]
    (folder / NAME).write_text("".join(lines))


def problem(folder: Path) -> str | None:
    """Why the files are not those that were written, in a few words; None: they are.

    Every kind of damage shows: a flipped bit in the sums themselves is a sum that does not hold, or a name that is not there.
    """
    try:
        text = (folder / NAME).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return f"{NAME} cannot be read ({getattr(error, 'strerror', None) or error})"
    if not text.endswith("\n"):
        return f"{NAME} was cut"
    expected: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        digest, two_spaces, name = line.partition("  ")
        if len(digest) != 64 or not two_spaces or not name:
            return f"{NAME}, line {number}: {line[:80]!r} is no checksum"
        expected[name] = digest
    there = {path.relative_to(folder).as_posix() for path in files(folder)}
    for name in sorted(expected.keys() - there):
        return f"{name} is missing"
    for name in sorted(there - expected.keys()):
        if name.endswith(LOADED):
            return f"{name} has no checksum in {NAME}"
    try:
        for name, digest in zip(expected, _digests(folder, list(expected)), strict=True):
            if digest != expected[name]:
                return f"{name} is not what was written: its checksum differs"
    except OSError as error:
        return f"{error.filename or folder} cannot be read ({error.strerror})"
    return None


def files(folder: Path) -> Iterator[Path]:
    """Every file but the sums. Nothing behind a link."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place) / name
            if path != folder / NAME:
                yield path


def _digests(folder: Path, names: list[str]) -> list[str]:
    """hashlib lets other threads run meanwhile, so a checkpoint in shards is read as fast as the disk gives it."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda name: _digest(folder / name), names))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
