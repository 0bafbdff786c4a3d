"""Servers placed by a real local Ray cluster of several nodes, and the loss of one. The servers are the tests' own
(tests/fake_server.py); a real vLLM server under Ray keeps the contract in test_samplers.py."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from rlkit.errors import RolloutError  # noqa: E402
from rlkit.samplers.ray_starter import RayStarter  # noqa: E402
from rlkit.samplers.server_process import ServerProcess  # noqa: E402
from rlkit.samplers.servers import LocalServer, free_port  # noqa: E402
from rlkit.samplers.vllm_command import ServerSpec  # noqa: E402
from rlkit.samplers.vllm_server import FleetOptions, VllmServerSampler  # noqa: E402
from tests.fakes import ROOT, Fakes, wait_for  # noqa: E402
from tests.models import save_tiny_model, tiny_model  # noqa: E402
from tests.processes import descendants, listening, members_of, require_gone  # noqa: E402
from tests.unit.test_samplers_fleet import Bench, asks, weights_print  # noqa: E402

pytestmark = pytest.mark.slow


def start_fake(spec: ServerSpec, log: Path, host: str, key: str) -> LocalServer:
    """What an actor starts here; `spec.model` names the folder with facts.json. It leaves its process group's number there."""
    port = free_port(host)
    facts = Path(spec.model) / "facts.json"
    environment = {"VLLM_API_KEY": key, "PYTHONPATH": str(ROOT), "PATH": "", "FAKE_SECONDS": "0.1"}
    process = ServerProcess(
        [sys.executable, "-m", "tests.fake_server", str(port), str(facts)], environment, log
    )
    node = ray.get_runtime_context().get_node_id()
    (Path(spec.model) / f"started-{process.pid}").write_text(json.dumps([key, node]))
    return LocalServer(f"http://{host}:{port}", key, process)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def nodes_of(folder: Path) -> dict[int, str]:
    """Process group of every server that was started -> the node it was on."""
    return {int(p.name.rpartition("-")[2]): json.loads(p.read_text())[1] for p in folder.glob("started-*")}


def test_servers_are_spread_and_a_lost_node_is_made_up_for(cluster: Any, tmp_path: Path) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    model = save_tiny_model(tmp_path / "model", seed=0, tied=True)
    weights = weights_print(tiny_model(seed=0, tied=True).state_dict(), tmp_path / "print")
    Fakes(tmp_path, model, 64, weights)  # writes facts.json
    spec = ServerSpec(model=str(tmp_path), dtype="float32", max_model_len=256, on_gpu=False)
    starter = RayStarter(spec, 2, start_timeout=100, start=start_fake)
    sampler = VllmServerSampler.start(
        model, spec, 2, starter=starter, stop_ids=[1], options=FleetOptions(deadline=30.0, beat=0.5)
    )
    bench = Bench(Fakes(tmp_path, model, 64, weights), sampler, weights)
    try:
        places = nodes_of(tmp_path)
        assert len(places) == 2 and len(set(places.values())) == 2, "one on each node"
        sampler.load(tiny_model(seed=1, tied=True).state_dict(), version=4)
        bench.weights = weights_print(tiny_model(seed=1, tied=True).state_dict(), tmp_path / "second")
        futures = [sampler.submit(request) for request in asks(40, n=8)]
        cluster.remove_node(nodes[0], allow_graceful=False)
        bench.require_right(asks(40, n=8), [future.result(120) for future in futures])
        assert sampler.metrics()["sampler/lost"] <= 1
        wait_for(lambda: sampler.fleet.size == 1)
        cluster.add_node(num_cpus=1)
        wait_for(lambda: sampler.fleet.size == 2)
        assert len(nodes_of(tmp_path)) == 3
        requests = asks(16)
        groups = sampler.sample(requests)
        bench.require_right(requests, groups)
        assert {r.policy_version for group in groups for r in group} == {4}, (
            "the new one has the current weights"
        )
    finally:
        sampler.close()
    wait_for(lambda: not any(members_of(group) for group in nodes_of(tmp_path)))


def test_a_cluster_of_the_runs_own_is_on_loopback_and_ends_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    there = set(descendants(os.getpid()))
    Fakes(tmp_path, save_tiny_model(tmp_path / "model", seed=0, tied=True), 64, "w")  # writes facts.json
    spec = ServerSpec(model=str(tmp_path), dtype="float32", max_model_len=256, on_gpu=False)
    starter = RayStarter(spec, 1, start=start_fake)
    try:
        server = starter.launch(0)()
        assert server.url.startswith("http://127.0.0.1:") and server.alive()
        own = set(descendants(os.getpid())) - there
        assert len(own) >= 4, "Ray's own, an actor, a keeper and a server"
        assert listening(sorted(own)) == {"loopback"}
    finally:
        starter.close()
    require_gone(sorted(own))


def test_a_cluster_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    spec = ServerSpec(model=str(tmp_path), dtype="float32", max_model_len=256, on_gpu=False)
    with pytest.raises(RolloutError, match="no cluster at RAY_ADDRESS = '127.0.0.1:1'"):
        RayStarter(spec, 1)
