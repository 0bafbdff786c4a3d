"""The files of a model on this disk, in a folder or in the hub's cache: which are there, and the JSON in them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlkit.errors import ModelError


def in_folder(folder: Path, name: str) -> Path | None:
    return folder / name if (folder / name).is_file() else None


def in_cache(repo: str, revision: str | None, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"--model {name}: {path} cannot be read ({error}); expected a JSON object"
        ) from error
    if not isinstance(value, dict):
        raise ModelError(f"--model {name}: {path} holds a {type(value).__name__}; expected a JSON object")
    return value


def missing_weights(find: Callable[[str], Path | None], name: str) -> tuple[str, ...]:
    """Weight files that transformers would look for and `find` does not find. Pickled ones (pytorch_model.bin) do not count."""
    path = find("model.safetensors.index.json")
    if path is not None:
        shards = read_json(path, name).get("weight_map")
        files = sorted({str(f) for f in shards.values()}) if isinstance(shards, dict) else []
        return tuple(f for f in files if find(f) is None)
    return () if find("model.safetensors") else ("model.safetensors",)


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip().rstrip(".")
