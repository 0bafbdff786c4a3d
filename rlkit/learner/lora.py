"""Low-rank adapters (LoRA, arXiv:2106.09685), by peft: W x becomes W x + (alpha / rank) B A x, and only A and B learn.

Checkpoints and samplers in this process get W + (alpha / rank) B A under the model's own names; servers get W once, then A and
B (rlkit.adapted). A checkpoint holds the adapter beside that, as peft loads it, and the optimizer's state is of A and B alone.
With the adapters off the model is the one training began with, which is the KL penalty's reference: there is no second copy.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlkit.adapted import LowRank
from rlkit.config import LearnerConfig
from rlkit.errors import ConfigError, RunError

FOLDER = "adapter"
"""Of a checkpoint. Not the model's own folder: transformers would add the adapter to the weights that hold it already."""
_NAME = "default"  # peft's name for the only adapter of a model
_PEFT_PREFIX = "base_model.model."  # what peft's own wrapper puts before every name in its files


def attach(
    model: Any, cfg: LearnerConfig, *, seed: int = 0, half: bool = False, adapter: Path | None = None
) -> None:
    """Freeze the model and put adapters on its linear layers, in place. A is random by `seed`, B zero: nothing changes yet.

    half: keep the frozen matrices of linear layers in bfloat16, as autocast would round them for every use
    adapter: a folder that `save` wrote, to go on from

    Raises ConfigError without peft and for targets that the model has not, RunError for an adapter of another shape.
    """
    if find_spec("peft") is None:
        raise ConfigError(
            f"--learner.lora-rank {cfg.lora_rank}: adapters come with peft, which is not installed; `pip install 'rlvrkit[lora]'`"
        )
    from peft import LoraConfig, inject_adapter_in_model

    head = model.get_output_embeddings()
    targets = _targets(model, cfg.lora_targets, head)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if half:
        for module in model.modules():
            if isinstance(module, nn.Linear) and module is not head:
                module.weight.data = module.weight.data.to(torch.bfloat16)
    settings = LoraConfig(
        r=cfg.lora_rank,
        lora_alpha=cfg.lora_alpha,
        target_modules=targets,
        task_type="CAUSAL_LM",
        base_model_name_or_path=getattr(model, "name_or_path", None),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(settings, model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # peft gives adapters the type of their layer
    model.rlkit_lora = settings
    if adapter is not None:
        _load(model, adapter)


def _targets(model: Any, wanted: str, head: Any) -> list[str]:
    """Names of layers as peft matches them: the whole name, or its last parts."""
    linear = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    body = sorted({name.rpartition(".")[2] for name, m in linear.items() if m is not head})
    if wanted == "all-linear":
        return body
    known = sorted({name.rpartition(".")[2] for name in linear})
    chosen = [word for word in wanted.replace(",", " ").split()]
    for target in chosen:
        found = [m for name, m in linear.items() if name == target or name.endswith(f".{target}")]
        if not found:
            near = difflib.get_close_matches(target, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise ConfigError(
                f"--learner.lora-targets: no linear layer is named {target!r}; {hint}There are {', '.join(known)}, and all-linear "
                "(all but the output head)"
            )
        if any(m is head for m in found) and head.weight is model.get_input_embeddings().weight:
            raise ConfigError(
                f"--learner.lora-targets: {target} is tied to the input embedding, so its adapter could not be merged; leave it out"
            )
    return chosen


def layers(model: nn.Module) -> dict[str, Any]:
    """The layers that carry an adapter, by the name they had without."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """The model training began with.

    peft's own switch would also change which weights require a gradient, and with that what DDP and FSDP have planned.
    """
    adapted = layers(model).values()
    for layer in adapted:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in adapted:
            layer._disable_adapters = False


def merged(model: nn.Module, whole: Callable[[Tensor], Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The model's state dict with the adapters added to their layers' weights, under the names it had without them.

    whole: gathers a weight of which this rank may hold only a part
    """
    adapted = layers(model)
    state: Mapping[str, Tensor] = model.state_dict()
    for name, tensor in state.items():
        layer, _, field = name.rpartition(".base_layer.")
        if layer in adapted and field == "weight":
            yield f"{layer}.weight", _change(adapted[layer], whole).added_to(whole(tensor))
        elif layer in adapted:
            yield f"{layer}.{field}", whole(tensor)
        elif ".lora_" not in name:
            yield name, whole(tensor)


def unadapted(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The state dict that training began with, as this rank holds it, under the names it had without adapters."""
    adapted = layers(model)
    for name, tensor in model.state_dict().items():
        layer, _, field = name.rpartition(".base_layer.")
        if layer in adapted:
            yield f"{layer}.{field}", tensor
        elif ".lora_" not in name:
            yield name, tensor


def changes(model: nn.Module, whole: Callable[[Tensor], Tensor]) -> dict[str, LowRank]:
    """What the adapters add, by the name of the weight that they add it to."""
    return {f"{name}.weight": _change(layer, whole) for name, layer in layers(model).items()}


def _change(layer: Any, whole: Callable[[Tensor], Tensor]) -> LowRank:
    down, up = whole(layer.lora_A[_NAME].weight), whole(layer.lora_B[_NAME].weight)
    if layer.fan_in_fan_out:  # its weight is transposed, and so is what is added
        down, up = up.T, down.T
    return LowRank(down, up, layer.scaling[_NAME])


def tensors(model: nn.Module, whole: Callable[[Tensor], Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The adapter as peft names it in its files."""
    for name, p in model.named_parameters():
        if ".lora_" in name:
            yield f"{_PEFT_PREFIX}{name.replace(f'.{_NAME}.', '.')}", whole(p.detach())


def save(model: Any, adapter: Mapping[str, Tensor], folder: Path) -> None:
    """A folder for `peft.PeftModel.from_pretrained(base, folder)`."""
    from copy import copy

    from safetensors.torch import save_file

    settings = copy(model.rlkit_lora)
    settings.inference_mode = True
    settings.save_pretrained(folder)
    save_file(dict(adapter), folder / "adapter_model.safetensors")


def _load(model: nn.Module, folder: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "adapter_model.safetensors"
    try:
        saved = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: not a readable adapter ({error})") from error
    own = dict(tensors(model, lambda t: t))
    if {n: t.shape for n, t in saved.items()} != {n: t.shape for n, t in own.items()}:
        raise RunError(f"{path}: an adapter of other layers or another rank than this run's")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])
