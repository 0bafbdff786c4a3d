"""The same run on every sampler, by `rlkit train`: here, on servers, on Ray; with real vLLM, and with one of Ray's nodes lost."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
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
from rlkit.samplers.vllm_server import VllmServerSampler
from tests.fakes import ROOT, wait_for
from tests.models import save_tiny_model
from tests.processes import descendants, require_gone
from tests.unit.test_samplers import ask, flat, greedy, prompt

pytestmark = pytest.mark.slow

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


@dataclass
class Asked:
    """A run's sampler, asked greedily after each `load`, and what `before` does first."""

    sampler: Any
    before: Callable[[int, Any], None]
    answers: dict[int, list[list[int]]] = field(default_factory=dict)
    """By version, what it wrote after each prompt."""
    processes: set[int] = field(default_factory=set)
    """Everything that it started."""

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        self.sampler.load(weights, version)
        self.before(version, self.sampler)
        requests = [ask(prompt(n), max_tokens=NUM_TOKENS, temperature=0.0) for n in LENGTHS]
        self.answers[version] = [r.completion_ids for r in flat(self.sampler.sample(requests))]
        self.sampler.forget()  # the run's own requests meet what they would have met
        self.processes |= set(descendants(os.getpid()))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sampler, name)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("vllm")
    save_tiny_model(tmp_path / "model", seed=0, tied=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the processes that Ray starts
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def train(
    monkeypatch: pytest.MonkeyPatch, *args: str, before: Callable[[int, Any], None] = lambda version, s: None
) -> Asked:
    """One whole run, after which nothing is left that it started."""
    there = set(descendants(os.getpid()))
    opened: list[Asked] = []
    make = build.make_sampler

    def watched(*given: Any, **more: Any) -> Any:
        opened.append(Asked(make(*given, **more), before))
        return opened[-1]

    with monkeypatch.context() as patch:
        patch.setattr(build, "make_sampler", watched)
        assert main([*RUN, *args]) == 0
    (asked,) = opened
    require_gone(sorted(asked.processes - there - trackers()), patience=60)
    return asked


def trackers() -> set[int]:
    """multiprocessing's helpers live as long as this process."""
    found = set()
    for process in descendants(os.getpid()):
        try:
            command = Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:
            continue
        if b"resource_tracker" in command:
            found.add(process)
    return found


def expected(folder: Path) -> list[list[int]]:
    """What transformers writes with the weights of a folder."""
    model = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return [greedy(model, prompt(n), NUM_TOKENS) for n in LENGTHS]


def require_whole(run: Path, steps: int) -> None:
    """Every step is there, every group in it once, and the learner's log-probs are the sampler's."""
    rows = read_metrics(run)
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    for row in rows:
        groups = Counter(answer["prompt_id"] for answer in read_rollouts(run, row["step"]))
        assert len(groups) == 4 and set(groups.values()) == {4}, "four prompts, each answered four times"
        assert row["sampling/sampling_logp_difference/max"] < GAP


def test_four_samplers_finish_the_same_run_and_answer_alike(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    samplers = ("hf", "vllm", "vllm-server", "ray")
    asked = {
        name: train(monkeypatch, "--steps", "3", "--sampler", name, "--output-dir", name) for name in samplers
    }
    for name in samplers:
        require_whole(folder / name, 3)
        assert asked[name].answers[0] == expected(folder / "model"), name
        (last,) = (folder / name / "checkpoints").glob("step-*")
        assert asked[name].answers[3] == expected(last), name
        assert asked[name].answers[3] != asked[name].answers[0], "and the weights have moved"
    # vLLM draws the same tokens from the same seeds wherever it runs; transformers has another generator.
    first, *others = [
        sorted(read_rollouts(folder / name, 1), key=lambda row: (row["prompt_id"], row["token_ids"]))
        for name in samplers[1:]
    ]
    for rows in others:
        assert [row["token_ids"] for row in rows] == [row["token_ids"] for row in first]
        for row, same in zip(rows, first, strict=True):
            assert row["logprobs"] == pytest.approx(same["logprobs"], abs=GAP)


@pytest.mark.parametrize("sampler", ["vllm", "vllm-server"])
def test_a_run_with_adapters_sends_them_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    more = ("--learner.lora-rank", "4", "--steps", "3", "--sampler", sampler, "--output-dir", "run")
    asked = train(monkeypatch, *more)
    require_whole(folder / "run", 3)
    (last,) = (folder / "run/checkpoints").glob("step-*")
    assert asked.answers[3] == expected(last) != asked.answers[0]
    if sampler == "vllm-server":
        size = (folder / "model/model.safetensors").stat().st_size
        sent = [row["sampler/sent_bytes"] for row in read_metrics(folder / "run")]
        assert sent[0] > size, "what the adapters change, before the first step"
        assert 0 < max(sent[1:]) < size / 4, "then the adapters"


@pytest.fixture
def cluster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A running Ray cluster, which `rlkit train` joins by RAY_ADDRESS."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_run_on_a_ray_cluster_outlives_one_of_its_nodes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cluster: Any
) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    last = 8

    def before(version: int, sampler: VllmServerSampler) -> None:
        if version == 2:
            cluster.remove_node(nodes[0], allow_graceful=False)
        if version == 4:
            cluster.add_node(num_cpus=1)
        if version == 6:  # two again, and the new one is used
            wait_for(lambda: sampler.fleet.size == 2, PATIENCE)
        if version == last:
            answers = [answers_of(life.server) for life in sampler.fleet._roster.lives]
            assert len(answers) == 2
            told.extend(answers)

    told: list[list[list[int]]] = []
    more = ("--steps", str(last), "--sampler", "ray", "--sampler.replicas", "2", "--output-dir", "run")
    train(monkeypatch, *more, before=before)
    require_whole(folder / "run", last)
    (saved,) = (folder / "run/checkpoints").glob("step-*")
    assert told == [expected(saved)] * 2, "each of them has the learner's weights"
    assert sum(row["sampler/lost"] for row in read_metrics(folder / "run")) >= 1


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
