"""A state of JSON values and tensors, taken apart for its two files, and put together again."""

import json
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from rlkit.types import State


def without_tensors(state: State) -> tuple[State, dict[str, Tensor]]:
    """The state without its tensors, and the tensors by path. Copies: safetensors refuses tensors that share memory."""
    whole = torch.contiguous_format
    tensors = {
        json.dumps(path): t.detach().cpu().clone(memory_format=whole) for path, t in _tensors(state, [])
    }
    return _pruned(state), tensors


def _tensors(state: State, path: list[str]) -> Iterator[tuple[list[str], Tensor]]:
    for key, value in state.items():
        if isinstance(value, Tensor):
            yield [*path, key], value
        elif isinstance(value, dict):
            yield from _tensors(value, [*path, key])


def _pruned(state: State) -> State:
    return {
        key: _pruned(value) if isinstance(value, dict) else value
        for key, value in state.items()
        if not isinstance(value, Tensor)
    }


def with_tensors(state: State, tensors: Mapping[str, Tensor]) -> State:
    for name, tensor in tensors.items():
        *path, key = json.loads(name)
        place = state
        for part in path:
            place = place[part]
        place[key] = tensor
    return state
