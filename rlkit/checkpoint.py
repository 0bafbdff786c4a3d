"""A checkpoint: learner, algorithm, data position and counters, all or nothing, and nothing pickled.

    step-000100/                 a model folder, as transformers and vLLM load it
      config.json  model.safetensors  tokenizer...
      rlkit/state.json           step, updates, sampled tokens, data position, algorithm state, format
      rlkit/optimizer.safetensors

A checkpoint is written beside its final name and renamed when it is whole and on the disk, so a name that exists can
be trusted, also after a power cut.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rlkit.errors import RunError
from rlkit.types import State

FORMAT = 1


class Keeper(Protocol):
    """What a checkpoint needs of a learner."""

    updates: int

    def save_model(self, folder: Path) -> None: ...
    def optimizer_tensors(self) -> dict[str, Any]: ...
    def load_optimizer_tensors(self, tensors: Mapping[str, Any], updates: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a run stands, apart from its weights.

    >>> Position(step=100, updates=100, sampled_tokens=51200, data={}, algo={}).step
    100
    """

    step: int
    """Steps done; the next one has this number."""
    updates: int
    """Optimizer steps done."""
    sampled_tokens: int
    data: State
    algo: State


def folder_of(root: Path, step: int) -> Path:
    return root / f"step-{step:06d}"


def save(root: Path, learner: Keeper, tokenizer: Any, position: Position, keep: int) -> Path:
    """Write the checkpoint of `position.step` under `root` and delete all but the newest `keep`. Returns its folder.

    Raises RunError when the disk refuses; a checkpoint that was there before is untouched then.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    final = folder_of(root, position.step)
    draft = final.with_name(f".{final.name}.draft")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        (draft / "rlkit").mkdir(parents=True)
        learner.save_model(draft)
        _save_tokenizer(tokenizer, draft)
        save_file(learner.optimizer_tensors(), draft / "rlkit" / "optimizer.safetensors")
        state = {
            "format": FORMAT,
            "step": position.step,
            "updates": position.updates,
            "sampled_tokens": position.sampled_tokens,
            "data": position.data,
            "algo": position.algo,
        }
        (draft / "rlkit" / "state.json").write_text(json.dumps(state))
        _sync(draft)
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as its own error
        shutil.rmtree(draft, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise RunError(
            f"{final}: the checkpoint could not be written ({reason}); is the disk full? "
            "Earlier checkpoints are untouched; --resume continues from them"
        ) from error
    for old in sorted(root.glob("step-*"))[: -max(1, keep)]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    try:
        tokenizer.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:  # tokenizers raises a bare Exception when the disk refuses
        if type(error) is not Exception:
            raise
        raise OSError(str(error)) from error


def _sync(folder: Path) -> None:
    """Wait until every file of `folder` is on the disk, and the names too."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def newest(root: Path) -> Path | None:
    """The newest whole checkpoint under `root`; None when there is none yet."""
    found = sorted(p for p in root.glob("step-*") if (p / "rlkit" / "state.json").is_file())
    return found[-1] if found else None


def read_position(folder: Path) -> Position:
    """Raises RunError when the checkpoint is damaged (its tensor files included) or of another format."""
    path = folder / "rlkit" / "state.json"
    _require_whole(folder)
    try:
        state = json.loads(path.read_text())
        if state["format"] != FORMAT:
            raise RunError(f"{path}: format {state['format']}, this rlkit reads format {FORMAT}")
        return Position(
            step=int(state["step"]),
            updates=int(state["updates"]),
            sampled_tokens=int(state["sampled_tokens"]),
            data=state["data"],
            algo=state["algo"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path}: not a readable checkpoint ({type(error).__name__}: {error}); delete the folder {folder} to resume from an earlier one"
        ) from error


def _require_whole(folder: Path) -> None:
    """Raise RunError when a tensor file is missing or cut: told before a model or a sampler tries to load it."""
    from safetensors import SafetensorError, safe_open

    weights = sorted(folder.glob("*.safetensors"))
    for path in [*(weights or [folder / "model.safetensors"]), folder / "rlkit" / "optimizer.safetensors"]:
        try:
            with safe_open(path, framework="pt"):  # reads the header and compares the file's size with it
                pass
        except (OSError, SafetensorError) as error:
            raise RunError(
                f"{path}: not readable ({error}); delete the folder {folder} to resume from an earlier one"
            ) from error


def restore_optimizer(folder: Path, learner: Keeper, updates: int) -> None:
    """Raises RunError when the file is damaged or belongs to another model."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "rlkit" / "optimizer.safetensors"
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{path}: not a readable optimizer state ({error}); delete the folder {folder} to resume from an earlier one"
        ) from error
    learner.load_optimizer_tensors(tensors, updates)
