"""A model's name -> its folder, tokenizer and weights."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.config import ModelConfig, TrainConfig
from rlkit.errors import ModelError
from rlkit.types import Task

from .embedded import tiny_folder
from .quiet import quiet_transformers

if TYPE_CHECKING:
    from rich.console import Console

    from rlkit.models import ModelPlace


def find_model(model: ModelConfig) -> "ModelPlace":
    """Where the model is, without loading or building anything; `tiny` gets its shape."""
    from rlkit.models import resolve_model, shape_from_config

    place = resolve_model(model)
    if place.kind == "folder":
        _require_whole(Path(place.path), model.name)
    if place.kind != "tiny":
        return place
    from rlkit.tiny import make_config, make_tokenizer

    return replace(
        place, shape=shape_from_config(make_config(make_tokenizer()).to_dict()), shape_source="built in"
    )


def find_tokenizer(place: "ModelPlace") -> Any:
    from rlkit.models import load_tokenizer
    from rlkit.tiny import make_tokenizer

    return make_tokenizer() if place.kind == "tiny" else load_tokenizer(place)


def model_folder(place: "ModelPlace", task: Task | None, console: "Console") -> Path:
    """A folder with weights: downloaded if they must be; `tiny` is warm-started on the task at its first use."""
    from rlkit.models import fetch_model

    if place.kind != "tiny":
        folder = fetch_model(place)
        _require_whole(folder, place.name)
        return folder
    from rlkit.tasks import make_task as make

    return tiny_folder(task or make("task:chain"), console)


def _require_whole(folder: Path, name: str) -> None:
    """Raise ModelError when a weight file is cut or no weight file at all; reads their headers, not the weights."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="np"):
                pass
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"--model {name}: {path} is no whole weight file ({error}); copy or download it again"
            ) from error


def load_model(folder: Path, cfg: ModelConfig) -> Any:
    """Weights in float32 (rlkit.learner says why), from `folder`."""
    import torch
    from transformers import AutoModelForCausalLM

    quiet_transformers()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            trust_remote_code=cfg.trust_remote_code,
            local_files_only=True,
            use_safetensors=True,  # pytorch_model.bin is a pickle
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().split("\n")[0]
        raise ModelError(f"--model {cfg.name}: the weights in {folder} cannot be loaded ({first})") from error
    model, report = loaded
    # transformers would draw these at random
    absent = sorted({*report["missing_keys"], *(str(key[0]) for key in report["mismatched_keys"])})
    if absent:
        raise ModelError(
            f"--model {cfg.name}: the weights in {folder} do not fit its config.json: {absent[0]} is missing or of another shape"
            + (f", and {len(absent) - 1} more" if len(absent) > 1 else "")
        )
    return model


def pad_id(tokenizer: Any) -> int:
    """Padding is masked everywhere, so any token will do; the tokenizer's own where it has one."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0)


def wants_bfloat16(cfg: ModelConfig) -> bool:
    """Whether the learner's forward runs under bfloat16 autocast: asked for, or `auto` on a GPU."""
    if cfg.dtype != "auto":
        return cfg.dtype == "bfloat16"
    import torch

    return torch.cuda.is_available()


def learning_rates(cfg: TrainConfig, place: "ModelPlace") -> list[str]:
    """The table of parameter groups before any weight loads; empty when all weights learn alike, or when neither this machine
    nor the hub has the model's config.json.

    Raises ConfigError for a pattern or a target that the model has not, and for an optimizer, a compiler or peft that is not
    installed.
    """
    from rlkit.learner import compiled, lora, optim

    learner = cfg.learner
    optim.require_optimizer(learner.optimizer)
    if learner.compile:
        compiled.require_compiler()
    if not (learner.lr_multipliers or learner.weight_decay or learner.lora_rank):
        return []
    model = _empty_model(place)
    if model is None:
        return []
    if learner.lora_rank:
        lora.attach(model, learner)
    shapes = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    groups = optim.make_groups(shapes, learner.multipliers, learner.weight_decay)
    return optim.table(groups, learner.learning_rate or 0.0)


def _empty_model(place: "ModelPlace") -> Any:
    """The model without memory for its weights; None without its config.json."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from rlkit.models import hub_silence
    from rlkit.tiny import make_config, make_tokenizer

    trust = place.trust_remote_code
    if place.kind == "tiny":
        config: Any = make_config(make_tokenizer())
    else:
        local = place.kind == "folder" or hub_silence() is not None
        try:
            config = AutoConfig.from_pretrained(
                place.path, revision=place.revision or "main", trust_remote_code=trust, local_files_only=local
            )
        except (OSError, ValueError):  # the tokenizer's loading tells it better
            return None
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust)
