"""`rlkit train` in this process with its real sampler, which is asked greedily after every update: what the workers write is
compared with transformers on the learner's weights."""

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from torch import Tensor
from transformers import Qwen2ForCausalLM

from rlkit import build
from rlkit.analysis.store import read_metrics, read_rollouts
from rlkit.cli import main
from tests.processes import descendants, require_gone
from tests.unit.test_samplers import ask, flat, greedy, prompt

RUN = (
    "train --model model --data task:chain --data.pool 12 --reward tests.verdicts:Checksum --reward.workers 0 --num-generations 4 "
    "--learning-rate 1e-2 --show-every 0 --no-tensorboard --prompts-per-step 4 --max-completion-length 8 --eval-prompts 2 "
    "--max-prompt-length 128 --dtype float32 --seed 5 --save-every 100"
).split()
LENGTHS = (5, 40, 100)
"""Prompt tokens of what is asked greedily: less than a block of the cache, one, three."""
NUM_TOKENS = 16
GAP = 2e-5
"""Nats between a sampler's log-prob and the learner's, in float32."""
PATIENCE = 900.0
"""Seconds for a server to come back, on a machine that is busy."""

Watch = Callable[[int, Any], None]


def nothing(version: int, sampler: Any) -> None: ...


@dataclass
class Asked:
    """A run's sampler, asked greedily after each `load`."""

    sampler: Any
    before: Watch
    """Called before each load, with the version that comes."""
    after: Watch
    """Called after it."""
    answers: dict[int, list[list[int]]] = field(default_factory=dict)
    """By version, what it wrote after each prompt."""
    processes: set[int] = field(default_factory=set)
    """Everything that it started."""
    servers: set[int] = field(default_factory=set)
    """Of those, keepers and what is below them."""

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        self.before(version, self.sampler)
        self.sampler.load(weights, version)
        self.after(version, self.sampler)
        self.answers[version] = written(self.sampler)
        found = set(descendants(os.getpid()))
        self.processes |= found
        self.servers |= {p for p in found if b"VLLM_API_KEY=" in read(f"/proc/{p}/environ")}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sampler, name)


def train(*args: str, before: Watch = nothing, after: Watch = nothing, servers_alone: bool = False) -> Asked:
    """One whole run, after which nothing is left that it started.

    servers_alone: of all processes only the servers are the run's, as on a cluster that others started
    """
    there = set(descendants(os.getpid()))
    opened: list[Asked] = []
    make = build.make_sampler

    def watched(*given: Any, **more: Any) -> Any:
        opened.append(Asked(make(*given, **more), before, after))
        return opened[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "make_sampler", watched)
        assert main([*RUN, *args]) == 0
    (asked,) = opened
    own = asked.servers if servers_alone else asked.processes - there - helpers()
    require_gone(sorted(own), patience=60)
    return asked


def written(sampler: Any) -> list[list[int]]:
    """What a run's sampler writes greedily."""
    requests = [ask(prompt(n), max_tokens=NUM_TOKENS, temperature=0.0) for n in LENGTHS]
    answers = [r.completion_ids for r in flat(sampler.sample(requests))]
    sampler.forget()  # the run's own requests meet what they would have met
    return answers


def helpers() -> set[int]:
    """multiprocessing's own, which live as long as this process."""
    return {p for p in descendants(os.getpid()) if b"resource_tracker" in read(f"/proc/{p}/cmdline")}


def read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:  # it ended just now
        return b""


def expected(folder: Path) -> list[list[int]]:
    """What transformers writes with the weights of a folder."""
    model = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return [greedy(model, prompt(n), NUM_TOKENS) for n in LENGTHS]


def require_whole(run: Path, steps: int, async_steps: int = 0) -> None:
    """Every step is there, every group in it once, as old as it may be; where it is not old, the learner's log-probs are the
    sampler's."""
    rows = read_metrics(run)
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    for row in rows:
        groups = Counter(answer["prompt_id"] for answer in read_rollouts(run, row["step"]))
        assert len(groups) == 4 and set(groups.values()) == {4}, "four prompts, each answered four times"
        assert row["staleness"] == min(row["step"] - 1, async_steps)
        if row["staleness"] == 0:
            assert row["sampling/sampling_logp_difference/max"] < GAP


def answers_of(server: Any) -> list[list[int]]:
    """What one server writes greedily."""
    found = []
    for length in LENGTHS:
        params = {"temperature": 0.0, "max_tokens": NUM_TOKENS, "ignore_eos": True, "detokenize": False}
        said = httpx.post(
            f"{server.url}/inference/v1/generate",
            json={"token_ids": prompt(length), "sampling_params": params},
            headers={"Authorization": f"Bearer {server.key}"},
            timeout=120,
        ).json()
        found.append(said["choices"][0]["token_ids"])
    return found
