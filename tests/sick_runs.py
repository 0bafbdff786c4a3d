"""Things that really go wrong in a run, small enough for a test: verifiers, an algorithm, models."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from rlkit.algo_config import AlgoConfig
from rlkit.algos.base import Sampling
from rlkit.algos.family import Family
from rlkit.types import Prompt, Score
from tests.models import END_ID, byte_tokenizer, tiny_model


@dataclass(frozen=True)
class Graded:
    """0, 1/4, ... 1 by the checksum of prompt and answer: groups differ, and no policy can learn it."""

    def __call__(self, prompt: Prompt, text: str) -> Score:
        return Score(_number(prompt, text) % 5 / 4)


@dataclass(frozen=True)
class Low:
    """`Graded` on a scale where nothing counts as right."""

    def __call__(self, prompt: Prompt, text: str) -> Score:
        return Score(_number(prompt, text) % 5 / 10)


@dataclass(frozen=True)
class FindsNothing:
    """Never finds an answer, as a verifier does whose format the model does not write."""

    def __call__(self, prompt: Prompt, text: str) -> Score:
        return Score(0.0, reason=f"no \\boxed{{}} in {len(text)} characters")


@dataclass(frozen=True)
class Raises:
    """`Graded`, but it raises on one answer in six."""

    def __call__(self, prompt: Prompt, text: str) -> Score:
        number = _number(prompt, text)
        if number % 6 == 0:
            raise ZeroDivisionError(f"answer {number} cannot be divided")
        return Score(number % 5 / 4)


def _number(prompt: Prompt, text: str) -> int:
    return zlib.crc32(f"{prompt.id} {text}".encode())


class Colder(Family):
    """GRPO that samples at half of the temperature that the learner is told."""

    def __init__(self, cfg: AlgoConfig, sampling: Sampling) -> None:
        super().__init__(cfg, replace(sampling, temperature=sampling.temperature / 2))


def save_stopping_model(folder: Path, *, seed: int, stop_tokens: Sequence[int] = (END_ID,)) -> Path:
    """The tiny model, made to write END_ID every six tokens or so; but the folder calls `stop_tokens` the end of an answer.

    One hidden unit is held at a constant, and of all tokens END_ID alone reads it: a bias for a head that has none.
    """
    model = tiny_model(seed=seed)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 8.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = layer.mlp.down_proj.weight[0] = 0.0
        model.model.norm.weight[0] = 1.0
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[END_ID, 0] = 1.0
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(stop_tokens[0])
    model.config.eos_token_id = model.generation_config.eos_token_id = list(stop_tokens)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
