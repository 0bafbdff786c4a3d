"""Compiled layers: the same numbers, and no new code for a new batch."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rlkit.config import LearnerConfig
from rlkit.errors import ConfigError, ModelError
from rlkit.learner.compiled import compile_layers, decoder_layers, require_compiler
from rlkit.ranks import ALONE, opened
from tests.models import tiny_model
from tests.unit.test_learner_ranks import assert_learnt_alike, case, layout, learnt, made

COMPILED = {
    "padded": case(**layout("padded")),
    "shared, adapters": case(lora_rank=4, **layout("shared")),
    "shared, divided, checkpointing": case(
        shard="fsdp2", gradient_checkpointing=True, tied=True, **layout("shared")
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_layers_learn_the_same(name: str) -> None:
    torch._dynamo.reset()
    with opened(group=True):
        plain, compiled = (learnt({**COMPILED[name], "compile": c}, ALONE) for c in (False, True))
    assert_learnt_alike(plain, compiled)


@pytest.mark.slow
def test_another_batch_compiles_nothing() -> None:
    """One code with gradients and one without, whatever the lengths and the runs are."""
    torch._dynamo.reset()
    learner, algo, credits = made(case(compile=True, **layout("shared")), ALONE)
    counts = []
    for size in (15, 4, 9, 12):
        learner.update(learner.minibatches(credits[:size], 1), algo.loss)
        learner.logprobs([c.rollout for c in credits[:size]])
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert counts[0] > 0 and len(set(counts[1:])) == 1, counts


def test_without_a_compiler_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="--learner.compile: it needs a C.. compiler .*, and there is none"):
        require_compiler()
    with pytest.raises(ConfigError, match="a C.. compiler"):
        made(case(compile=True), ALONE)


def test_a_model_that_does_not_name_its_layers_is_a_sentence() -> None:
    model: Any = tiny_model(seed=0)
    assert len(decoder_layers(model, "--learner.compile")) == 2
    model._no_split_modules = None
    with pytest.raises(
        ModelError, match="--learner.compile: Qwen2ForCausalLM does not say what its decoder layers are"
    ):
        compile_layers(model)
    assert not LearnerConfig().compile
