"""torch.compile for the decoder layers, one by one: they are alike, so the code made for one serves all.

Attention stays as it is: its kernels are compiled already. Sizes are dynamic, so a new batch compiles nothing.
"""

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch

from rlkit.errors import ConfigError, ModelError
from rlkit.feed import Run

from .attention import NAME, attend


class Unread:
    """Runs that the compiler does not look into: it would make new code for every batch.

    >>> list(Unread((Run(0, 4, -1),)))
    [Run(start=0, stop=4, parent=-1)]
    """

    def __init__(self, runs: tuple[Run, ...]) -> None:
        self.runs = runs

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)


def decoder_layers(model: Any, flag: str) -> list[torch.nn.Module]:
    """The model's layers, by the class that it names. Raises ModelError, naming the flag that wants them."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    layers = [m for m in model.modules() if type(m).__name__ in names]
    if not layers:
        raise ModelError(
            f"{flag}: {type(model).__name__} does not say what its decoder layers are (_no_split_modules); train it without"
        )
    return layers


def require_compiler() -> None:
    """Raise ConfigError when torch.compile could not make code for this machine's device."""
    if torch.cuda.is_available():
        missing = None if find_spec("triton") else "Triton, which comes with torch's CUDA build"
    else:
        found = any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++")))
        missing = None if found else "a C++ compiler (g++ or clang++; CXX names another)"
    if missing:
        raise ConfigError(
            f"--learner.compile: it needs {missing}, and there is none; install one or leave it out"
        )


def compile_layers(model: Any) -> None:
    """In place; the first step of a run then takes a minute longer."""
    from transformers import AttentionInterface

    require_compiler()
    disable: Any = torch.compiler.disable
    AttentionInterface.register(NAME, disable(attend))
    for layer in decoder_layers(model, "--learner.compile"):
        layer.compile(dynamic=True)
