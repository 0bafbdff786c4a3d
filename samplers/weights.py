"""What a model folder tells a sampler, and which weights fit it.

Engines are lenient where a training loop must not be: vLLM keeps an old tensor when the new one is missing, and says
nothing. So names and shapes are compared here, before the first tensor is sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rlkit.adapted import AdaptedWeights
from rlkit.errors import ModelError, RolloutError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What both samplers must know of a model before they hold its weights."""

    shapes: Mapping[str, tuple[int, ...]]
    """Every name of its state dict, tied ones included."""
    tied: Mapping[str, str]
    """Second name -> first name of a tensor that has two, as `lm_head.weight` -> `model.embed_tokens.weight`."""
    vocab_size: int
    max_model_len: int
    """Prompt and completion together, by its position embedding."""
    stop_ids: tuple[int, ...]
    """Tokens that end an answer."""


def read_facts(
    model: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> ModelFacts:
    """The facts of a folder or hub id, without loading its weights."""
    config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    text = config.get_text_config()
    state: dict[str, Tensor] = empty.state_dict(
        keep_vars=True
    )  # keep_vars: the same object under each of its names
    first_name: dict[int, str] = {}
    for name, tensor in state.items():
        first_name.setdefault(id(tensor), name)
    return ModelFacts(
        shapes={name: tuple(tensor.shape) for name, tensor in state.items()},
        tied={
            name: first_name[id(tensor)] for name, tensor in state.items() if first_name[id(tensor)] != name
        },
        vocab_size=text.vocab_size,
        max_model_len=text.max_position_embeddings,
        stop_ids=_stop_ids(model, revision=revision, trust_remote_code=trust_remote_code),
    )


def _stop_ids(model: str | Path, *, revision: str | None, trust_remote_code: bool) -> tuple[int, ...]:
    """End tokens of the generation config (one or several) and of the tokenizer: a chat model's two often differ."""
    tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
    found = {tokenizer.eos_token_id} - {None}
    try:
        declared = GenerationConfig.from_pretrained(model, revision=revision or "main").eos_token_id
    except OSError:  # the file is optional; config.json then says it
        config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
        declared = config.get_text_config().eos_token_id
    found |= set(declared if isinstance(declared, list) else [declared]) - {None}
    if not found:
        raise ModelError(
            f"model {model}: neither generation_config.json, config.json nor the tokenizer names an end token, so no "
            "answer could end. Set eos_token_id in one of them"
        )
    return tuple(sorted(found))


def fitting_weights(weights: Mapping[str, Tensor], facts: ModelFacts) -> dict[str, Tensor]:
    """`weights` with every name of the model's state dict; RolloutError naming what is missing, extra or mis-shaped.

    A tied output embedding may be absent (model files leave it out); it is filled in, since vLLM's CPU backend keeps a
    packed copy of its own which otherwise stays stale.
    """
    full = dict(weights)
    for second, first in facts.tied.items():
        if second not in full and first in full:
            full[second] = full[first]
    faults = [f"missing {name}" for name in facts.shapes if name not in full]
    faults += [f"unexpected {name}" for name in full if name not in facts.shapes]
    faults += [
        f"{name} is {tuple(tensor.shape)} and must be {facts.shapes[name]}"
        for name, tensor in full.items()
        if name in facts.shapes and tuple(tensor.shape) != facts.shapes[name]
    ]
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise RolloutError(
            f"these weights do not fit the sampler's model: {'; '.join(faults[:5])}{more}. Nothing was loaded; "
            "learner and sampler must start from the same model, and get its whole state_dict()"
        )
    for second, first in facts.tied.items():
        if not _same(full[first], full[second]):
            raise RolloutError(
                f"these weights do not fit the sampler's model: it ties {second} to {first}, and the two tensors differ. "
                "Nothing was loaded; train with tie_word_embeddings as the model has it"
            )
    return full


def fitting_adapters(weights: AdaptedWeights, facts: ModelFacts) -> AdaptedWeights:
    """`weights`, whose base has every name of the model's state dict; RolloutError as above, for an adapter too."""
    full = fitting_weights(weights.base, facts)
    for name, change in weights.changes.items():
        shape = (change.up_OR.shape[0], change.down_RI.shape[1])
        if shape != facts.shapes.get(name) or change.up_OR.shape[1] != change.down_RI.shape[0]:
            raise RolloutError(
                f"this adapter does not fit the sampler's model: it changes {name} by {tuple(change.up_OR.shape)} x "
                f"{tuple(change.down_RI.shape)}, and that weight is {facts.shapes.get(name, 'absent')}. Nothing was loaded"
            )
    # The same base stays the same object: it need not be sent again.
    return weights if len(full) == len(weights.base) else AdaptedWeights(full, weights.changes)


def _same(left: Tensor, right: Tensor) -> bool:
    return left.data_ptr() == right.data_ptr() or torch.equal(left, right)
