"""What only the vLLM sampler must be held to: a guest in the learner's process, and an engine that can be lost."""

import gc
import os
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen2ForCausalLM

from rlkit.errors import ModelError, RolloutError
from rlkit.talks import Talk, in_rounds
from rlkit.types import Request
from tests.models import save_tiny_model

pytest.importorskip("vllm")

from rlkit.samplers.vllm_engine import VllmSampler  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), seed=0)


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), seed=1)


def start(folder: Path) -> VllmSampler:
    return VllmSampler(folder, dtype="float32", max_model_len=128, max_num_seqs=16, kv_cache_memory=32)


@pytest.fixture
def sampler(folder: Path) -> Iterator[VllmSampler]:
    sampler = start(folder)
    yield sampler
    sampler.close()


def greedy(sampler: VllmSampler) -> list[int]:
    request = Request(
        prompt_id="p", token_ids=list(range(20, 70)), n=1, max_tokens=16, temperature=0.0, seed=0
    )
    return sampler.sample([request])[0][0].completion_ids


def test_a_start_leaves_the_process_as_it_was_and_prints_nothing(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def state() -> list[object]:
        return [
            torch.get_rng_state().tolist(),
            random.getstate(),
            str(np.random.get_state()),
            torch.set_num_threads,
            torch.get_num_threads(),
            torch.get_default_dtype(),
            os.environ.get("LD_PRELOAD"),
            gc.isenabled(),
        ]

    before = state()
    sampler = start(folder)
    greedy(sampler)
    sampler.close()
    assert state() == before
    assert capfd.readouterr() == ("", "")


def test_an_engine_that_failed_is_lost_and_says_so_and_a_new_one_works(
    folder: Path, sampler: VllmSampler
) -> None:
    before = greedy(sampler)
    weights = Qwen2ForCausalLM.from_pretrained(folder).state_dict()
    name = "model.layers.1.mlp.down_proj.weight"
    with pytest.raises(RolloutError, match="new weights arrived only in part: .*The vLLM engine is lost"):
        sampler.load({**weights, name: torch.empty_like(weights[name], device="meta")}, version=1)
    with pytest.raises(RolloutError, match="lost since new weights arrived only in part"):
        greedy(sampler)
    with pytest.raises(RolloutError, match="lost since new weights arrived only in part"):
        sampler.load(weights, version=1)
    sampler.close()
    with pytest.raises(RolloutError, match="was closed"):
        greedy(sampler)
    again = start(folder)
    assert greedy(again) == before
    again.close()


def test_sampling_compiles_nothing_so_no_compiler_is_needed(sampler: VllmSampler) -> None:
    torch._dynamo.reset()
    frames = torch._dynamo.utils.counters["frames"]
    before = dict(frames)
    greedy(sampler)
    assert dict(frames) == before


def test_two_engines_share_a_process_and_one_may_close(
    folder: Path, other_folder: Path, sampler: VllmSampler
) -> None:
    before = greedy(sampler)
    other = start(other_folder)
    assert greedy(other) != before
    assert greedy(sampler) == before
    other.close()
    sampler.load(Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict(), version=1)
    assert greedy(sampler) == before


def test_an_engine_that_is_dropped_closes_itself(folder: Path, sampler: VllmSampler) -> None:
    before = greedy(sampler)
    start(folder)
    gc.collect()
    assert greedy(sampler) == before


def test_a_start_that_fails_says_why(folder: Path) -> None:
    with pytest.raises(ModelError, match="vLLM did not start with .*: No available memory for the cache"):
        VllmSampler(folder, dtype="float32", max_model_len=1024, kv_cache_memory=0)
    sampler = start(folder)
    assert len(greedy(sampler)) == 16
    sampler.close()


def test_an_engine_starts_beside_modules_that_do_not_let_themselves_be_looked_at(folder: Path) -> None:
    """As `rlkit train --report-to mlflow` does, whose package imports flask."""
    flask = pytest.importorskip("flask")
    with pytest.raises(RuntimeError, match="Working outside of application context"):
        hasattr(flask.current_app, "__dict__")
    sampler = start(folder)
    assert len(greedy(sampler)) == 16
    sampler.close()
    assert sys.modules["flask"] is flask


def spoken(prompt: str, first: int, told: list[str]) -> Talk[list[list[int]]]:
    """Two questions; the second begins with an answer to the first, which has `first` tokens."""
    ask = Request(
        prompt_id=prompt, token_ids=list(range(20, 60)), n=2, max_tokens=first, temperature=1.0, seed=first
    )
    (answers,) = yield [ask]
    told.append(f"{prompt} goes on")
    more = yield [replace(ask, token_ids=answers[1].token_ids, max_tokens=3, n=1)]
    told.append(f"{prompt} is done")
    return [r.token_ids for of in more for r in of]


def test_a_prompt_goes_on_as_soon_as_its_own_answers_are_there(sampler: VllmSampler) -> None:
    """The long one has 30 tokens to write when the short one asks for 3 more; what is written is the same in rounds."""
    told: list[str] = []
    together = sampler.follow([spoken("long", 30, told), spoken("short", 2, told)])
    assert told == ["short goes on", "short is done", "long goes on", "long is done"]
    # 40 tokens and 42 to 70: three questions of two prompts, of which whole blocks of 32 are read once.
    assert sampler.metrics() == {
        "sampler/prompt_tokens": 4 * 40 + 42 + 70,
        "sampler/cached_tokens": 3 * 32 + 32 + 64,
    }
    sampler.forget()
    assert in_rounds([spoken("long", 30, told), spoken("short", 2, told)], sampler.sample) == together


def test_what_fails_in_a_talk_and_what_is_halted_leave_the_engine_as_it_was(
    folder: Path, sampler: VllmSampler
) -> None:
    short = Request(prompt_id="a", token_ids=[20], n=1, max_tokens=2, temperature=1.0, seed=0)

    def fails() -> Talk[None]:
        yield [short]
        raise KeyError("mine")

    def halts() -> Talk[None]:
        yield [short]
        sampler.halt()

    before = greedy(sampler)
    with pytest.raises(KeyError, match="mine"):
        sampler.follow([spoken("long", 30, []), fails()])
    with pytest.raises(RolloutError, match="takes at most 128"):
        sampler.sample([replace(short, max_tokens=500)])
    assert greedy(sampler) == before
    with pytest.raises(RolloutError, match="halted; load"):
        sampler.follow([spoken("long", 30, []), halts()])
    with pytest.raises(RolloutError, match="halted; load"):
        greedy(sampler)
    sampler.load(Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict(), version=1)
    assert greedy(sampler) == before


@pytest.mark.slow
def test_the_engine_keeps_its_weights_when_the_learner_s_move_on(sampler: VllmSampler, folder: Path) -> None:
    """With --async-steps the optimizer steps while the engine writes."""
    model = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    sampler.load(model.state_dict(), version=1)
    before = greedy(sampler)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    sampler.forget()
    assert greedy(sampler) == before
