"""Which runs and evaluations lie at the paths that were named."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlkit.analysis.eval_store import SETTINGS
from rlkit.errors import RunError

Kind = Literal["run", "evaluation"]
DEPTH = 3
"""Folders below a named one in which runs are looked for: runs/NAME, evals/NAME, sweeps/NAME/runs/NAME."""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder with something to look at.

    name: its shortest path that no other one of its kind has
    """

    kind: Kind
    folder: Path
    name: str


def find(paths: Sequence[Path]) -> list[Place]:
    """Runs and evaluations at the paths and below them, in the order named. Raises RunError for a path that is no folder."""
    folders: dict[Path, Kind] = {}
    for path in paths:
        if not path.is_dir():
            raise RunError(
                f"{path}: no such folder (looked from {Path.cwd()}); expected a run folder, as runs/NAME, or a folder of runs"
            )
        for kind, folder in _below(path.resolve(), DEPTH):
            folders.setdefault(folder, kind)
    names = {
        folder: name
        for kind in ("run", "evaluation")
        for folder, name in _names([f for f, k in folders.items() if k == kind]).items()
    }
    return [Place(kind, folder, names[folder]) for folder, kind in folders.items()]


def kind_of(folder: Path) -> Kind | None:
    """A run that has begun has its config.toml; a folder without is none yet."""
    if (folder / SETTINGS).is_file():
        return "evaluation"
    return "run" if (folder / "metrics.jsonl").is_file() or (folder / "rollouts").is_dir() else None


def _below(folder: Path, depth: int) -> Iterator[tuple[Kind, Path]]:
    kind = kind_of(folder)
    if kind is not None:
        yield kind, folder
    elif depth:
        try:
            inner = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[:1] != ".")
        except OSError:  # not ours to read, or gone while we looked: nothing to show
            return
        for path in inner:
            yield from _below(path, depth - 1)


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """The last parts of each path, as many as it takes to tell all apart.

    >>> list(_names([Path("/a/runs/x"), Path("/b/runs/x"), Path("/a/runs/y")]).values())
    ['a/runs/x', 'b/runs/x', 'y']
    """
    length = dict.fromkeys(folders, 1)
    while True:
        names = {f: "/".join(f.parts[-length[f] :]) for f in folders}
        counts = Counter(names.values())
        doubled = [f for f in folders if counts[names[f]] > 1 and length[f] < len(f.parts)]
        if not doubled:
            return names
        for f in doubled:
            length[f] += 1
