"""A checkpoint: learner, algorithm, data position and counters, all or nothing, and nothing pickled.

    step-000100/                 a model folder, as transformers and vLLM load it
      config.json  model.safetensors  tokenizer...
      rlkit/state.json           step, updates, sampled tokens, data position, algorithm state, format
      rlkit/algo.safetensors     the tensors of the algorithm's state, each named by its path as a JSON list
      rlkit/optimizer.safetensors
      adapter/                   with adapters: they alone, as peft loads them (the model folder has them merged)
      reference/                 a reference model that has been moved, a model folder too

A checkpoint is written beside its final name and renamed when it is whole and on the disk, so a name that exists can
be trusted, also after a power cut.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rlkit.errors import RunError
from rlkit.types import State

if TYPE_CHECKING:
    from torch import Tensor

    from rlkit.ranks import Ranks

FORMAT = 2


class Keeper(Protocol):
    """What a checkpoint needs of a learner."""

    updates: int
    ranks: "Ranks"

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
    """JSON values."""
    algo: State
    """JSON values, and torch tensors as values of its dictionaries."""


def folder_of(root: Path, step: int) -> Path:
    return root / f"step-{step:06d}"


def save(root: Path, learner: Keeper, tokenizer: Any, position: Position, keep: int) -> Path:
    """Write the checkpoint of `position.step` under `root` and delete all but the newest `keep`. Returns its folder.

    Raises RunError when the disk refuses, or when a state holds what it cannot keep; a checkpoint that was there before
    is untouched then.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    final = folder_of(root, position.step)
    if not learner.ranks.main:  # one rank writes; the others help it to gather what is divided
        learner.save_model(final)
        learner.optimizer_tensors()
        return final
    draft = final.with_name(f".{final.name}.draft")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        (draft / "rlkit").mkdir(parents=True)
        learner.save_model(draft)
        _save_tokenizer(tokenizer, draft)
        save_file(learner.optimizer_tensors(), draft / "rlkit" / "optimizer.safetensors")
        algo, tensors = _without_tensors(position.algo)
        save_file(tensors, draft / "rlkit" / "algo.safetensors")
        state = {
            "format": FORMAT,
            "step": position.step,
            "updates": position.updates,
            "sampled_tokens": position.sampled_tokens,
            "data": position.data,
            "algo": algo,
        }
        (draft / "rlkit" / "state.json").write_text(json.dumps(state))
        _sync(draft)
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)
    except TypeError as error:  # json's, and it names the type
        shutil.rmtree(draft, ignore_errors=True)
        raise RunError(
            f"{final}: the checkpoint could not be written: {error}. A state_dict holds JSON values, and torch tensors as "
            "values of its dictionaries"
        ) from error
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


def _without_tensors(state: State) -> "tuple[State, dict[str, Tensor]]":
    """The state without its tensors, and the tensors by path. Copies: safetensors refuses tensors that share memory."""
    import torch

    whole = torch.contiguous_format
    tensors = {
        json.dumps(path): t.detach().cpu().clone(memory_format=whole) for path, t in _tensors(state, [])
    }
    return _pruned(state), tensors


def _tensors(state: State, path: list[str]) -> "Iterator[tuple[list[str], Tensor]]":
    import torch

    for key, value in state.items():
        if isinstance(value, torch.Tensor):
            yield [*path, key], value
        elif isinstance(value, dict):
            yield from _tensors(value, [*path, key])


def _pruned(state: State) -> State:
    import torch

    return {
        key: _pruned(value) if isinstance(value, dict) else value
        for key, value in state.items()
        if not isinstance(value, torch.Tensor)
    }


def _with_tensors(state: State, tensors: "Mapping[str, Tensor]") -> State:
    for name, tensor in tensors.items():
        *path, key = json.loads(name)
        place = state
        for part in path:
            place = place[part]
        place[key] = tensor
    return state


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
    from safetensors.torch import load_file

    path = folder / "rlkit" / "state.json"
    try:
        state = json.loads(path.read_text())
        if state["format"] != FORMAT:
            raise RunError(
                f"{path}: format {state['format']}, this rlkit reads format {FORMAT}; end the run with the rlkit that began "
                f"it, or begin a new one from its weights (--model {folder})"
            )
        _require_whole(folder)
        return Position(
            step=int(state["step"]),
            updates=int(state["updates"]),
            sampled_tokens=int(state["sampled_tokens"]),
            data=state["data"],
            algo=_with_tensors(state["algo"], load_file(folder / "rlkit" / "algo.safetensors")),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path}: not a readable checkpoint ({type(error).__name__}: {error}); delete the folder {folder} to resume from an earlier one"
        ) from error


def _require_whole(folder: Path) -> None:
    """Raise RunError when a tensor file is missing or cut: told before a model or a sampler tries to load it."""
    from safetensors import SafetensorError, safe_open

    weights = sorted(folder.glob("*.safetensors")) or [folder / "model.safetensors"]
    states = [folder / "rlkit" / name for name in ("optimizer.safetensors", "algo.safetensors")]
    beside = [p for name in ("adapter", "reference") for p in sorted((folder / name).glob("*.safetensors"))]
    for path in [*weights, *states, *beside]:
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
