"""Which weights learn how fast: groups by name, their table, the optimizer over them, and its state as plain tensors.

A pattern is a run of the dotted parts of a weight's name, with `*` inside a part: `v_proj`, `layers.0`, `lora_B`, `layers.1*.mlp`.
Rates per pattern are what "fine-tuning W_q and W_v with a faster W_v" (arXiv:2410.02247) and LoRA+ (`lora_B=16`,
arXiv:2402.12354) ask for.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from importlib.util import find_spec
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from rlkit.config import LearnerConfig
from rlkit.errors import ConfigError, RunError

from .shard import part_like, whole

NEEDS = {
    "adamw_8bit": "bitsandbytes",
    "paged_adamw_8bit": "bitsandbytes",
    "adamw_torch_8bit": "torchao",
}
"""Optimizers that come with another package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Weights with one learning rate and one decay.

    >>> make_groups({"q_proj.weight": (4, 4), "norm.weight": (4,)}, {}, 0.1)[1].names
    ('norm.weight',)
    """

    pattern: str
    """What chose them; empty: no pattern did."""
    names: tuple[str, ...]
    parameters: int
    multiplier: float
    """Of the learning rate."""
    weight_decay: float


def make_groups(
    shapes: Mapping[str, Sequence[int]], multipliers: Mapping[str, float], weight_decay: float
) -> list[Group]:
    """The trained weights (name -> shape) by pattern and decay. Of several patterns that fit a name the last one counts.

    Decay is for matrices; biases and norms have none. Raises ConfigError for a pattern that no weight takes.
    """
    chosen: dict[str, list[str]] = {pattern: [] for pattern in ["", *multipliers]}
    fits = {pattern: [n for n in shapes if matches(pattern, n)] for pattern in multipliers}
    for name in shapes:
        chosen[next((p for p in reversed(list(multipliers)) if name in fits[p]), "")].append(name)
    for pattern in multipliers:
        if not fits[pattern]:
            raise ConfigError(f"--learner.lr-multipliers: {_unknown(pattern, shapes)}")
        if not chosen[pattern]:
            raise ConfigError(
                f"--learner.lr-multipliers: every weight of {pattern!r} is taken by a later pattern, and the last one counts; "
                "leave it out, or write it behind them"
            )
    groups = []
    for pattern, names in chosen.items():
        for decays in (True, False):
            own = tuple(n for n in names if (len(shapes[n]) >= 2) == decays)
            if own:
                groups.append(
                    Group(
                        pattern=pattern,
                        names=own,
                        parameters=sum(prod(shapes[n]) for n in own),
                        multiplier=multipliers.get(pattern, 1.0),
                        weight_decay=weight_decay if decays else 0.0,
                    )
                )
    return groups


def matches(pattern: str, name: str) -> bool:
    """Whether a run of the name's parts is the pattern's.

    >>> [matches(p, "model.layers.10.self_attn.v_proj.weight") for p in ("v_proj", "layers.1", "layers.1*", "proj")]
    [True, False, True, False]
    """
    wanted, parts = pattern.split("."), name.split(".")
    return any(
        all(fnmatchcase(part, want) for part, want in zip(parts[i:], wanted, strict=False))
        for i in range(len(parts) - len(wanted) + 1)
    )


def _unknown(pattern: str, names: Iterable[str]) -> str:
    """The sentence for a pattern that fits no trained weight: the nearest parts of names, or all of them."""
    parts = list(dict.fromkeys(p for n in names for p in n.split(".") if not p.isdecimal()))
    near = difflib.get_close_matches(pattern, parts, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"names are made of {', '.join(parts)}"
    return f"no trained weight is named {pattern!r}; {hint}"


def table(groups: Sequence[Group], learning_rate: float) -> list[str]:
    """The groups as lines: pattern, tensors, parameters, peak learning rate, decay."""
    rows = [("pattern", "tensors", "parameters", "learning rate", "decay")]
    for g in groups:
        rate, decay = f"{learning_rate * g.multiplier:g}", f"{g.weight_decay:g}"
        rows.append((g.pattern or "the rest", f"{len(g.names):,}", f"{g.parameters:,}", rate, decay))
    wide = [max(len(row[k]) for row in rows) for k in range(5)]
    return [
        "  ".join(
            [row[0].ljust(wide[0]), *(cell.rjust(w) for cell, w in zip(row[1:], wide[1:], strict=True))]
        )
        for row in rows
    ]


# -- the optimizer -----------------------------------------------------------------------------------------------------


def require_optimizer(name: str) -> None:
    """Raise ConfigError when the optimizer's package is not installed."""
    package = NEEDS.get(name)
    if package is not None and find_spec(package) is None:
        raise ConfigError(
            f"--learner.optimizer {name}: it comes with {package}, which is not installed; `pip install {package}`, or leave it "
            "at adamw"
        )


def make_optimizer(
    groups: Sequence[Group], parameters: Mapping[str, Tensor], cfg: LearnerConfig, learning_rate: float
) -> torch.optim.Optimizer:
    """AdamW over the groups; each carries its `multiplier` for the schedule. Raises ConfigError as require_optimizer."""
    require_optimizer(cfg.optimizer)
    settings: list[dict[str, Any]] = [
        {
            "params": [parameters[n] for n in g.names],
            "weight_decay": g.weight_decay,
            "lr": learning_rate * g.multiplier,
            "multiplier": g.multiplier,
        }
        for g in groups
    ]
    # Fused: the others hold copies as large as the weights during a step.
    kind: Any = partial(torch.optim.AdamW, fused=True)
    if cfg.optimizer in ("adamw_8bit", "paged_adamw_8bit"):
        from bitsandbytes import optim

        kind = optim.AdamW8bit if cfg.optimizer == "adamw_8bit" else optim.PagedAdamW8bit
    elif cfg.optimizer == "adamw_torch_8bit":
        from torchao.optim import AdamW8bit

        kind = AdamW8bit
    made: torch.optim.Optimizer = kind(
        settings, lr=learning_rate, betas=(cfg.adam_beta1, cfg.adam_beta2), weight_decay=cfg.weight_decay
    )
    return made


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """This update's learning rate, times each group's multiplier."""
    for group in optimizer.param_groups:
        own = rate * group["multiplier"]
        if isinstance(group["lr"], Tensor):  # torchao's is compiled around it
            group["lr"].fill_(own)
        else:
            group["lr"] = own


def state_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """The optimizer's state as `NAME|field` -> tensor, for safetensors. names: of each parameter, by its id()."""
    return {
        f"{names[id(p)]}|{key}{part}": tensor
        for p, fields in optimizer.state.items()
        for key, value in fields.items()
        for part, tensor in _plain(value).items()
    }


def _plain(value: Any) -> dict[str, Tensor]:
    """One field as plain tensors: `|codes`, `|scale`, ... of torchao's quantised ones, `` of any other."""
    if isinstance(value, DTensor):
        return {"": whole(value).cpu()}
    if hasattr(value, "__tensor_flatten__"):
        return {f"|{part}": getattr(value, part) for part in value.__tensor_flatten__()[0]}
    return {"": torch.as_tensor(value).contiguous()}


def load_state_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> None:
    """Take back what `state_tensors` gave. Raises RunError when it belongs to another model or optimizer."""
    if tensors and type(optimizer) is not torch.optim.AdamW:
        _make_state(optimizer)
    for key, value in tensors.items():
        name, field, *part = key.split("|")
        known = parameters.get(name)
        is_moment = field in ("exp_avg", "exp_avg_sq") and not part
        if known is None or (is_moment and value.shape != known.shape):
            raise RunError(f"optimizer state: {key} of shape {tuple(value.shape)} does not fit this model")
        state = optimizer.state[known]
        if part:
            getattr(state[field], part[0]).copy_(value)
        elif isinstance(state.get(field), int):
            state[field] = int(value)
        else:
            state[field] = part_like(value, known) if value.ndim else value.to(known.device, copy=True)


def _make_state(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer make its state in its own types: a step of no length."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    set_rate(optimizer, 0.0)
    optimizer.step()
    optimizer.zero_grad()
