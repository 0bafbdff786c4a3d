"""A snapshot as a folder: written beside, checksummed, fsynced, renamed, and then linked to."""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.errors import RunError

from . import sums
from .snapshot import Keeper, Snapshot
from .state_tensors import without_tensors

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 3
SHARD_SIZE = 4 * 10**9
"""Bytes of a file of optimizer state, at most; one tensor is never divided. The model's files have it from the learner."""
LATEST = "latest"


def folder_of(root: Path, step: int) -> Path:
    return root / f"step-{step:06d}"


def write(root: Path, learner: Keeper, tokenizer: Any, snapshot: Snapshot, keep: int) -> Path:
    """The checkpoint of `snapshot` under `root`; then all but the newest `keep` are deleted. Returns its folder.

    Raises RunError when the disk refuses, or when a state holds what it cannot keep; every checkpoint that was there before
    is untouched then. The learner is asked for the form of its files only: its weights may have moved on.
    """
    from safetensors import SafetensorError

    final = folder_of(root, snapshot.position.step)
    draft = final.with_name(f".{final.name}.draft")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        (draft / "rlkit").mkdir(parents=True)
        _fill(draft, learner, tokenizer, snapshot)
        sums.write(draft)
        _sync(draft)
        _put_in_place(draft, final)
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
    _prune(root, final, keep)
    return final


def _fill(draft: Path, learner: Keeper, tokenizer: Any, snapshot: Snapshot) -> None:
    from safetensors.torch import save_file

    position, own = snapshot.position, draft / "rlkit"
    learner.write_model(draft, snapshot.model)
    _save_tokenizer(tokenizer, draft)
    _save_shards(own, "optimizer", snapshot.optimizer)
    save_file(dict(snapshot.random), own / "random.safetensors")
    algo, tensors = without_tensors(position.algo)
    save_file(tensors, own / "algo.safetensors")
    if position.ahead:
        ahead, tensors = without_tensors(position.ahead)
        save_file(tensors, own / "ahead.safetensors")
        (own / "ahead.json").write_text(json.dumps(ahead))
    (own / "config.toml").write_text(snapshot.about.config)
    state = {
        "format": FORMAT,
        "step": position.step,
        "updates": position.updates,
        "sampled_tokens": position.sampled_tokens,
        "data": position.data,
        "algo": algo,
        "written": dict(position.written),
        "versions": dict(snapshot.about.versions),
        "place": dict(snapshot.about.place),
    }
    (own / "state.json").write_text(json.dumps(state))


def _save_shards(folder: Path, name: str, tensors: "Mapping[str, Tensor]") -> None:
    """NAME.safetensors, or NAME-00001-of-00002.safetensors and so on. Which tensor is where, the files say themselves."""
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    plan = split_torch_state_dict_into_shards(
        dict(tensors), filename_pattern=f"{name}{{suffix}}.safetensors", max_shard_size=SHARD_SIZE
    )
    shards = plan.filename_to_tensors or {f"{name}.safetensors": []}
    for file, names in shards.items():
        save_file({n: tensors[n] for n in names}, folder / file)


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


def _put_in_place(draft: Path, final: Path) -> None:
    """Give the draft its name, and the link `latest` its target; each of them at once."""
    if final.exists():  # a damaged one, or one that somebody copied here
        _discard(final)
    draft.rename(final)
    link = final.with_name(f".{LATEST}.draft")
    # Not every file system has links, a copy may have made a folder of it, and no part of rlkit needs this one.
    with suppress(OSError):
        link.unlink(missing_ok=True)
        link.symlink_to(final.name)
        if not final.with_name(LATEST).is_symlink() and final.with_name(LATEST).exists():
            link.unlink()
        else:
            link.replace(final.with_name(LATEST))
    handle = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(handle)  # the names
    finally:
        os.close(handle)


def steps_in(root: Path) -> list[Path]:
    """The checkpoints under `root` by their names, oldest first. Steps and not the files' times: a clock can be set back."""
    found = [p for p in root.glob("step-*") if p.name.removeprefix("step-").isdecimal() and p.is_dir()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def _prune(root: Path, new: Path, keep: int) -> None:
    """`new`, which has just been read back, stays whatever its number is; beside it the newest."""
    others = [path for path in steps_in(root) if path != new]
    for old in others[: max(0, len(others) + 1 - max(1, keep))]:
        _discard(old)


def _discard(folder: Path) -> None:
    """Under its name it would look whole while it is being deleted."""
    aside = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def clean(root: Path) -> None:
    """Delete what a process left that was killed while it wrote or deleted."""
    for left in (*root.glob(".step-*.draft"), *root.glob(".step-*.old")):
        shutil.rmtree(left, ignore_errors=True)
