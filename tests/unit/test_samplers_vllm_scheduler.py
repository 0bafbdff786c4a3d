"""vLLM's scheduler with the short path: the same tokens, log-probs and cache hits as vLLM's own, to the last bit.

A prompt that is read once: the same tokens, and log-probs but for rounding, with fewer tokens read.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2ForCausalLM

from rlkit.errors import RolloutError
from rlkit.talks import Talk
from rlkit.types import Request, Rollout
from tests.models import save_tiny_model

pytest.importorskip("vllm")

import vllm  # noqa: E402
from vllm.v1.core.sched.scheduler import Scheduler as VllmScheduler  # noqa: E402

from rlkit.samplers import vllm_engine, vllm_scheduler  # noqa: E402
from rlkit.samplers.vllm_engine import VllmSampler  # noqa: E402
from rlkit.samplers.vllm_scheduler import Scheduler  # noqa: E402

STOP_IDS = [1, 131]  # a random model of 260 tokens writes one of these every 130 tokens or so


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), seed=0)


@contextmanager
def engine(folder: Path, *, lean: bool) -> Iterator[VllmSampler]:
    """24 sequences at once, and room for 2,048 tokens of keys and values."""
    with pytest.MonkeyPatch.context() as patch:
        if not lean:
            patch.setattr(vllm_engine, "_scheduler", dict)
        sampler = VllmSampler(
            folder, dtype="float32", max_model_len=288, max_num_seqs=24, kv_cache_memory=1, stop_ids=STOP_IDS
        )
    assert type(scheduler(sampler)) is (Scheduler if lean else VllmScheduler)
    try:
        yield sampler
    finally:
        sampler.close()


def scheduler(sampler: VllmSampler) -> VllmScheduler:
    assert sampler._engine is not None
    return sampler._engine.llm_engine.engine_core.engine_core.scheduler


def ragged(temperature: float, longest: int) -> list[Request]:
    """Up to 50 sequences; prompts that end before, at and after the edge of a block of 32."""
    return [
        Request(
            prompt_id=f"{length}",
            token_ids=[20 + (7 * j) % 200 for j in range(length)],
            n=1 if temperature == 0 else 10,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=length,
        )
        for length, max_tokens in [(1, longest), (31, 1), (32, 33), (33, 2), (64, longest)]
    ]


def asks_twice(prompt: str, first: int) -> Talk[list[Rollout]]:
    """The second question begins with an answer to the first."""
    ask = Request(
        prompt_id=prompt, token_ids=list(range(20, 60)), n=3, max_tokens=first, temperature=1.0, seed=first
    )
    (answers,) = yield [ask]
    (more,) = yield [replace(ask, token_ids=answers[1].token_ids, max_tokens=40)]
    return [*answers, *more]


def halts_at_once(sampler: VllmSampler) -> Talk[None]:
    yield [Request(prompt_id="h", token_ids=[20], n=1, max_tokens=1, temperature=1.0, seed=0)]
    sampler.halt()


def everything(sampler: VllmSampler, folder: Path) -> list[tuple[list[int], list[float], str | None]]:
    """All that the two are compared in: more sequences than run at once, cache hits, follow-ups, a full cache, a halt, new weights."""
    rollouts = []
    for temperature in (0.0, 0.8, 0.8):  # the third finds the second's blocks in the cache
        rollouts += sampler.sample(ragged(temperature, longest=100))
    rollouts += sampler.follow([asks_twice("long", 50), asks_twice("short", 3), asks_twice("middle", 30)])
    with pytest.raises(RolloutError, match="halted"):
        sampler.follow([asks_twice("long", 50), halts_at_once(sampler)])
    weights = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    sampler.load({name: weight * 0.9 for name, weight in weights.items()}, version=1)
    sampler._stop_ids.clear()
    rollouts += sampler.sample(ragged(0.8, longest=200))  # 20 of them, 4,640 tokens in all
    return [(r.token_ids, r.logprobs, r.finish_reason) for of in rollouts for r in of]


def test_it_is_for_the_vllm_that_it_was_written_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ImportError is what vLLM's own parts are fallen back to for, with a warning."""
    monkeypatch.setattr(vllm, "__version_tuple__", (0, 33, 0))
    with pytest.raises(ImportError, match=r"the scheduler is written for 0\.32"):
        importlib.reload(vllm_scheduler)


@pytest.mark.slow  # two engines
def test_answers_are_bit_for_bit_those_of_vllms_own_scheduler(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = {"vLLM's": 0, "put off": 0}
    schedule, put_off = VllmScheduler.schedule, VllmScheduler._preempt_request

    def counted_schedule(self: Any, *args: Any) -> Any:
        steps["vLLM's"] += 1
        return schedule(self, *args)

    def counted_put_off(self: Any, *args: Any, **kwargs: Any) -> None:
        steps["put off"] += 1
        put_off(self, *args, **kwargs)

    monkeypatch.setattr(VllmScheduler, "schedule", counted_schedule)
    monkeypatch.setattr(VllmScheduler, "_preempt_request", counted_put_off)
    monkeypatch.setattr(vllm_scheduler, "LEAST_READ", 32)  # every prompt is read as vLLM reads it
    with engine(folder, lean=False) as sampler:
        own, told = everything(sampler, folder), sampler.metrics()
    all_steps, put_off_by_vllm = steps["vLLM's"], steps["put off"]
    steps.update({"vLLM's": 0, "put off": 0})
    with engine(folder, lean=True) as sampler:
        lean, lean_told = everything(sampler, folder), sampler.metrics()
        assert scheduler(sampler)._sequences == {}  # nothing is kept of what is written or given up
    assert lean == own
    assert lean_told == told
    assert {reason for *_, reason in own} == {"stop", "length"}
    assert steps["put off"] == put_off_by_vllm > 0
    assert steps["vLLM's"] < all_steps / 2  # the rest went the short way

    monkeypatch.undo()
    with engine(folder, lean=True) as sampler:
        once = everything(sampler, folder)  # prompts of 31, 32 and 64 tokens are read once
        assert scheduler(sampler)._readers == {}
    # Rounding may decide between two tokens that are as likely: then an answer goes another way, and what follows it.
    assert sum(a[0] == b[0] for a, b in zip(once, own, strict=True)) > 0.9 * len(own)


class Reads:
    """What the engine computes: by step, the number of tokens of each sequence that begins."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[list[int]] = []
        self.copied: list[int] = []
        schedule = VllmScheduler.schedule

        def watched(scheduler: Any, *args: Any) -> Any:
            step = schedule(scheduler, *args)
            begun = [step.num_scheduled_tokens[new.req_id] for new in step.scheduled_new_reqs]
            if begun:
                self.steps.append(begun)
                self.copied.append(len(step.kv_cache_block_copies or ()))
            return step

        monkeypatch.setattr(VllmScheduler, "schedule", watched)


def test_a_prompt_is_read_once_for_all_its_answers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of 20, 33 (32 in a full block and the last), 45 and 5 tokens, five answers each, 24 sequences at once."""
    asked = [
        Request(
            prompt_id=f"{length}",
            token_ids=[20 + (7 * j + length) % 200 for j in range(length)],
            n=5,
            max_tokens=40,
            temperature=0.8,
            seed=length,
        )
        for length in (20, 33, 45, 5)
    ]
    with engine(folder, lean=True) as sampler:
        with monkeypatch.context() as patch:
            patch.setattr(vllm_scheduler, "LEAST_READ", 32)
            plain, reads = sampler.sample(asked), Reads(patch)
            sampler.forget()  # what the first left in the cache
            assert sampler.sample(asked) != [] and reads.copied == [0]
            first = [20] * 5 + [33] + [1] * 4 + [45] + [13] * 4 + [5] * 5
            assert reads.steps == [first]
        sampler.forget()
        reads = Reads(monkeypatch)
        once = sampler.sample(asked)
        # 20 and 45 - 32 are read by one of five, and four begin with the last token; 33 - 1 and 5 are not worth a wait
        assert reads.steps == [[20, 33, 1, 1, 1, 1, 45, 5, 5, 5, 5, 5], [1] * 8]
        assert reads.copied == [0, 8]
        assert not scheduler(sampler)._readers  # nothing is kept of what is written
    for a, b in zip(plain, once, strict=True):
        for x, y in zip(a, b, strict=True):
            assert x.token_ids == y.token_ids
            assert torch.tensor(x.logprobs).allclose(torch.tensor(y.logprobs), rtol=0, atol=2e-5)
