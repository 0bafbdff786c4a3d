"""Which checkpoint to go on from, and its parts.

Checksums are compared before anything is loaded, so a damaged file is told here and not as garbage in a model. Formats: 3 is
this one; 2 (no checksums, no generators) is read as it is; 1 is refused.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.errors import RunError

from . import sums
from .snapshot import Keeper, Position
from .state_tensors import with_tensors
from .write import FORMAT, steps_in

if TYPE_CHECKING:
    from torch import Tensor

WITHOUT_SUMS = 2
"""Format of checkpoints that can be read though they have no checksums: what else they lack is optional."""
KINDS: dict[str, type] = {
    **{"step": int, "updates": int, "sampled_tokens": int},
    **{"data": dict, "algo": dict, "written": dict, "versions": dict, "place": dict},
}
"""What state.json holds."""
OPTIONAL = ("written", "versions", "place")
WORDS = {int: "a whole number", dict: "an object"}
NO_USE = (ArithmeticError, AttributeError, LookupError, RuntimeError, StopIteration, TypeError, ValueError)
"""What taking a state back raises that is not of the right form."""
UNREADABLE = (OSError, ValueError, LookupError, TypeError, RecursionError)
"""What reading and taking apart a damaged JSON file raises; brackets in brackets in brackets are too deep for the parser."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a run goes on from.

    >>> Found(folder=None).passed_over
    ()
    """

    folder: Path | None
    """None: there is no checkpoint yet, and the run begins anew."""
    passed_over: tuple[tuple[Path, str], ...] = ()
    """Newer ones, and why each was not taken."""
    unchecked: bool = False
    """Its format has no checksums; only the headers of its files were looked at."""

    def __str__(self) -> str:
        """For the person who resumes."""
        words = [f"passed over {folder}: {why}" for folder, why in self.passed_over]
        if self.folder is None:
            return "; ".join([*words, "no checkpoint yet: going on from the beginning"])
        how = "written before rlkit kept checksums" if self.unchecked else "its checksums hold"
        return "; ".join([*words, f"going on from {self.folder}, {how}"])


def choose(root: Path) -> Found:
    """The newest checkpoint under `root` that is what was written.

    Raises RunError when there are some and none of them is: to begin anew is for the user to decide. Of a format that this
    rlkit cannot read, too.
    """
    passed: list[tuple[Path, str]] = []
    for folder in reversed(steps_in(root)):
        why, unchecked = _problem(folder)
        if why is None:
            return Found(folder=folder, passed_over=tuple(passed), unchecked=unchecked)
        passed.append((folder, why))
    if passed:
        told = "; ".join(f"{folder.name}: {why}" for folder, why in passed)
        raise RunError(
            f"{root}: no checkpoint can be used ({told}). Put a copy of one back, or delete the folder {root} to go on from the "
            "beginning"
        )
    return Found(folder=None)


def set_aside(found: Found) -> None:
    """Rename what was passed over, so that it is neither counted nor taken again; nothing is deleted."""
    for folder, _ in found.passed_over:
        aside = folder.with_name(f"damaged-{folder.name}")
        number = 1
        while aside.exists():
            number += 1
            aside = folder.with_name(f"damaged-{folder.name}-{number}")
        folder.rename(aside)


def _problem(folder: Path) -> tuple[str | None, bool]:
    """Why a checkpoint is not to be used, in a few words, and whether it lacks checksums."""
    from safetensors import SafetensorError

    try:
        state = _state(folder)
    except UNREADABLE as error:
        return f"rlkit/state.json cannot be read ({type(error).__name__}: {error})", False
    if state["format"] != WITHOUT_SUMS:
        return sums.problem(folder), False
    try:
        _require_whole(folder)
    except (OSError, SafetensorError) as error:
        return f"{error}", True
    return None, True


def _state(folder: Path) -> dict[str, Any]:
    """state.json. Raises what reading and parsing raise, and RunError for a format that is not known."""
    path = folder / "rlkit" / "state.json"
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if state["format"] not in (FORMAT, WITHOUT_SUMS):
        # A flipped bit may have made the number.
        damage = sums.problem(folder) if (folder / sums.NAME).exists() else None
        if damage is not None:
            raise ValueError(damage)
        raise RunError(
            f"{path}: format {state['format']}, this rlkit reads format {FORMAT}; end the run with the rlkit that began "
            f"it, or begin a new one from its weights (--model {folder})"
        )
    if state["step"] != int(folder.name.removeprefix("step-")):
        raise ValueError(f"it is of step {state['step']}")
    for name, kind in KINDS.items():
        if name in OPTIONAL and name not in state:
            continue
        if not isinstance(state[name], kind) or isinstance(state[name], bool):
            raise TypeError(f"{name} is {str(state[name])[:40]}, expected {WORDS[kind]}")
    if not all(type(count) is int for count in state.get("written", {}).values()):
        raise TypeError("written holds what is no whole number")
    return state


def read_position(folder: Path) -> Position:
    """Raises RunError when it cannot be read; `choose` has found out before."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = _state(folder)
        return Position(
            step=state["step"],
            updates=state["updates"],
            sampled_tokens=state["sampled_tokens"],
            data=state["data"],
            algo=with_tensors(state["algo"], load_file(folder / "rlkit" / "algo.safetensors")),
            written=state.get("written", {}),
            ahead=_ahead(folder / "rlkit"),
        )
    except (*UNREADABLE, SafetensorError) as error:
        raise RunError(f"{folder}: not a readable checkpoint ({type(error).__name__}: {error})") from error


def put_back(folder: Path, what: str, load: Callable[[Any], None], state: Any) -> None:
    """`load(state)`: what a part of the run kept in the checkpoint. Raises RunError when the part can make nothing of it.

    Checksums say that a file is what was written, not who wrote it: the state may be another rlkit's, or a stranger's.
    """
    try:
        load(state)
    except NO_USE as error:
        raise RunError(
            f"{folder}: {what} cannot go on from what it holds ({type(error).__name__}: {error}); was it written by other code, or "
            "edited?"
        ) from error


def _ahead(own: Path) -> dict[str, Any]:
    """Rollouts that wait for their step; none where steps were not overlapped."""
    from safetensors.torch import load_file

    if not (own / "ahead.json").is_file():
        return {}
    told: dict[str, Any] = json.loads((own / "ahead.json").read_text(encoding="utf-8"))
    return with_tensors(told, load_file(own / "ahead.safetensors"))


def was_at(folder: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Versions and place (About) of who wrote it; empty where its format has none."""
    state = _state(folder)
    return state.get("versions", {}), state.get("place", {})


def config_of(root: Path) -> Path | None:
    """The config.toml in the newest checkpoint that has one: the settings that the run was really made with."""
    for folder in reversed(steps_in(root)):
        path = folder / "rlkit" / "config.toml"
        if path.is_file() and path.stat().st_size:
            return path
    return None


def random_states(folder: Path, rank: int) -> "dict[str, Tensor]":
    """A rank's global generators (randomness.py); empty when it has none there."""
    from safetensors.torch import load_file

    path = folder / "rlkit" / "random.safetensors"
    found = load_file(path) if path.is_file() else {}
    mine = f"{rank}|"
    return {name.removeprefix(mine): t for name, t in found.items() if name.startswith(mine)}


def restore_optimizer(folder: Path, learner: Keeper, updates: int) -> None:
    """Raises RunError when the files are damaged or belong to another model."""
    from safetensors import SafetensorError

    try:
        learner.load_optimizer_tensors(_Tensors(_optimizer_files(folder)), updates)
    except (OSError, SafetensorError, *NO_USE) as error:
        raise RunError(f"{folder / 'rlkit'}: not a readable optimizer state ({error})") from error


def _optimizer_files(folder: Path) -> list[Path]:
    own = folder / "rlkit"
    return sorted(own.glob("optimizer*.safetensors")) or [own / "optimizer.safetensors"]


class _Tensors(Mapping[str, "Tensor"]):
    """The tensors of several files, each read when it is asked for: all of them may be most of the host's memory."""

    def __init__(self, files: list[Path]) -> None:
        from safetensors import safe_open

        self._files: list[Any] = [safe_open(path, framework="pt") for path in files]
        self._where = {name: file for file in self._files for name in file.keys()}

    def __getitem__(self, name: str) -> "Tensor":
        tensor: Tensor = self._where[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def _require_whole(folder: Path) -> None:
    """Open every tensor file, which reads its header and compares its size with it. Raises what says that one is not whole."""
    from safetensors import safe_open

    weights = sorted(folder.glob("*.safetensors")) or [folder / "model.safetensors"]
    states = [folder / "rlkit" / name for name in ("optimizer.safetensors", "algo.safetensors")]
    beside = [p for name in ("adapter", "reference") for p in sorted((folder / name).glob("*.safetensors"))]
    for path in [*weights, *states, *beside]:
        if not path.is_file():
            raise FileNotFoundError(f"{os.path.relpath(path, folder)} is missing")
        with safe_open(path, framework="pt"):
            pass
