"""The same run on every sampler, by `rlkit train`: here, on servers, on Ray; with real vLLM, and with one of Ray's nodes lost."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlkit.analysis.store import read_metrics, read_rollouts
from rlkit.samplers.vllm_server import VllmServerSampler
from tests.asked import GAP, PATIENCE, answers_of, expected, require_whole, train, written
from tests.fakes import ROOT, wait_for
from tests.models import save_tiny_model

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("vllm")
    save_tiny_model(tmp_path / "model", seed=0, tied=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the processes that Ray starts
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def test_four_samplers_finish_the_same_run_and_answer_alike(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    samplers = ("hf", "vllm", "vllm-server", "ray")
    asked = {name: train("--steps", "3", "--sampler", name, "--output-dir", name) for name in samplers}
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


@pytest.mark.parametrize("sampler", ["vllm", "vllm-server", "ray"])
def test_a_run_with_adapters_sends_them_alone_and_goes_on_after_a_resume(
    folder: Path, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sampler == "ray":
        pytest.importorskip("ray")
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    run, checkpoints = folder / "run", folder / "run/checkpoints"
    more = ("--learner.lora-rank", "4", "--sampler", sampler)
    asked = train(*more, "--steps", "3", "--output-dir", "run")
    kept = expected(checkpoints / "step-000003")
    assert asked.answers[3] == kept != asked.answers[0]
    at_first: list[list[list[int]]] = []

    def before(version: int, sampler: Any) -> None:
        if version == 4:
            at_first.append(written(sampler))

    again = train(*more, "--resume", "run", "--steps", "5", before=before)
    assert at_first == [kept], "it begins with the weights of the checkpoint"
    assert again.answers[5] == expected(checkpoints / "step-000005") != kept
    require_whole(run, 5)
    if sampler != "vllm":
        size = (folder / "model/model.safetensors").stat().st_size
        sent = [row["sampler/sent_bytes"] for row in read_metrics(run)]
        assert min(sent[0], sent[3]) > size, (
            "what the adapters change, before a run's first step and a resumed one's"
        )
        assert 0 < max(sent[1], sent[2], sent[4]) < size / 4, "then the adapters"


def test_a_run_whose_answers_go_on_under_new_weights_is_whole(folder: Path) -> None:
    more = ("--async-steps", "1", "--sampler.in-flight-updates", "--max-completion-length", "100")
    asked = train(*more, "--steps", "6", "--sampler", "vllm-server", "--output-dir", "run")
    require_whole(folder / "run", 6, async_steps=1)
    (last,) = (folder / "run/checkpoints").glob("step-*")
    assert asked.answers[6] == expected(last) != asked.answers[0]
    rows = read_metrics(folder / "run")
    assert max(row["staleness_mixed"] for row in rows) > 0
    assert {row["staleness"] for row in rows[1:]} == {1.0}
    mixed = [row for row in read_rollouts(folder / "run", 6) if row["later_versions"]]
    assert all(
        [span["version"] for span in row["later_versions"]] == [row["policy_version"] + 1] for row in mixed
    )


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


def test_a_run_on_a_ray_cluster_outlives_one_of_its_nodes(folder: Path, cluster: Any) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    last = 8

    def after(version: int, sampler: VllmServerSampler) -> None:
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
    asked = train(*more, after=after, servers_alone=True)
    assert len(asked.servers) >= 3 * 3, "three servers in all: a keeper, an API server, an engine each"
    require_whole(folder / "run", last)
    (saved,) = (folder / "run/checkpoints").glob("step-*")
    assert told == [expected(saved)] * 2, "each of them has the learner's weights"
    assert sum(row["sampler/lost"] for row in read_metrics(folder / "run")) >= 1
