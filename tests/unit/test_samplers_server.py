"""Real vLLM servers under real faults: killed, frozen, cut off in an update, asked without their key. Each starts for about a
minute, so the whole file shares two, and every test leaves two that are whole."""

import importlib.util
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import torch
from torch import Tensor
from transformers import Qwen2ForCausalLM

from rlkit.adapted import AdaptedWeights, LowRank
from rlkit.samplers.lives import Life
from rlkit.samplers.vllm_command import ServerSpec
from rlkit.samplers.vllm_server import FleetOptions, LocalStarter, VllmServerSampler
from rlkit.types import Request, Rollout
from tests.models import save_tiny_model, tiny_model
from tests.processes import listening, members_of, require_gone
from tests.unit.test_samplers import ask, flat, greedy, largest_gap, learner_logits, prompt

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
START_SECONDS = 600.0
TOLERANCE = 2e-5


class Fleet:
    """Two servers, what they were started from and what they can be given."""

    def __init__(self, folder: Path) -> None:
        folders = [save_tiny_model(folder / str(seed), seed=seed, tied=True) for seed in (0, 1)]
        self.models = [Qwen2ForCausalLM.from_pretrained(f, dtype=torch.float32).eval() for f in folders]
        self.spec = ServerSpec(
            model=str(folders[0]),
            dtype="float32",
            max_model_len=256,
            max_num_seqs=32,
            kv_cache_memory=64,
            on_gpu=False,
        )
        self.folder = folders[0]
        self.version = 0
        self.seen: set[int] = set()
        """Every process that was ever part of it."""
        self.starter = LocalStarter(self.spec)
        self.sampler = VllmServerSampler.start(
            self.folder,
            self.spec,
            2,
            starter=self.starter,
            stop_ids=[1],
            options=FleetOptions(
                start_timeout=START_SECONDS, deadline=60.0, beat=1.0, beat_timeout=20.0, restarts=3
            ),
            say=print,
        )

    def lives(self) -> list[Life]:
        return sorted(self.sampler.fleet._roster.lives, key=lambda life: life.member.name)

    def load(self, which: int) -> None:
        self.version += 1
        self.sampler.load(self.models[which].state_dict(), self.version)

    def processes(self, life: Life) -> list[int]:
        """A server's whole tree: keeper, API server, engine, worker."""
        group: int = life.server.process.pid  # type: ignore[attr-defined]  # a LocalServer
        found = members_of(group)
        self.seen.update(found)
        return found

    def all_whole(self, which: int) -> None:
        """Both are there again, and each writes what transformers writes with the learner's weights."""
        until = time.monotonic() + START_SECONDS
        while len(self.lives()) < 2:
            assert time.monotonic() < until, self.sampler.fleet._roster.reasons()
            time.sleep(0.2)
        for life in self.lives():
            self.processes(life)
            for length in (5, 40, 100):
                ids = prompt(length)
                body = {
                    "token_ids": ids,
                    "sampling_params": {
                        "temperature": 0.0,
                        "max_tokens": 16,
                        "ignore_eos": True,
                        "detokenize": False,
                    },
                }
                said = httpx.post(
                    f"{life.server.url}/inference/v1/generate",
                    json=body,
                    headers={"Authorization": f"Bearer {life.server.key}"},
                    timeout=60,
                ).json()
                assert said["choices"][0]["token_ids"] == greedy(self.models[which], ids, 16)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    for life in fleet.lives():
        fleet.processes(life)
    yield fleet
    fleet.sampler.close()
    require_gone(sorted(fleet.seen), patience=60)


def many(seed: int, tokens: int = 150) -> list[Request]:
    return [ask(prompt(20 + i), n=4, max_tokens=tokens, seed=seed + i, prompt_id=f"p{i}") for i in range(12)]


def during(work: Callable[[], None], seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, work)
    timer.start()
    return timer


def require_whole(requests: list[Request], groups: list[list[Rollout]], model: Qwen2ForCausalLM) -> None:
    """Every continuation is there once, and its log-probs are the model's."""
    assert [[r.prompt_id for r in group] for group in groups] == [[q.prompt_id] * q.n for q in requests]
    assert len({tuple(r.token_ids) for r in flat(groups)}) == sum(q.n for q in requests)
    assert largest_gap(model, flat(groups), 1.0) < TOLERANCE


def test_two_servers_write_what_one_would_and_read_each_prompt_once(fleet: Fleet) -> None:
    fleet.load(0)
    fleet.sampler.metrics()
    requests = [ask(prompt(100, i), n=8, max_tokens=8, seed=i, prompt_id=f"p{i}") for i in range(8)]
    groups = fleet.sampler.sample(requests)
    require_whole(requests, groups, fleet.models[0])
    counts = fleet.sampler.metrics()
    assert counts["sampler/prompt_tokens"] == 8 * 8 * 100
    # 3 blocks of 32 of each prompt are read by the first continuation and found by the seven others.
    assert counts["sampler/cached_tokens"] >= 0.9 * 8 * 7 * 96
    alone = fleet.sampler.sample(requests[3:4])
    assert [r.token_ids for r in alone[0]] == [r.token_ids for r in groups[3]]


@contextmanager
def sending(fleet: Fleet, kind: str) -> Iterator[None]:
    """Both servers get their weights by this way."""
    weights = fleet.sampler._weights
    before = {life: life.transfer for life in fleet.lives()}
    for life in fleet.lives():
        told = {"backend": "rlkit", "sees_probe": kind == "file", "dtype": "float32"}
        life.transfer = weights.transfer_for(weights.kind_for(told, ""), told, life.server.url)
        assert life.transfer.kind == kind
    try:
        yield
    finally:
        for life, transfer in before.items():
            life.transfer = transfer


@pytest.mark.parametrize("kind", ["file", "gloo"])
def test_weights_arrive_by_file_and_by_gloo(fleet: Fleet, kind: str) -> None:
    requests = [ask(prompt(length), max_tokens=24, temperature=0.0) for length in (5, 33, 100)]
    with sending(fleet, kind):
        for which in (1, 0, 1):
            fleet.load(which)
            for r in flat(fleet.sampler.sample(requests)):
                assert r.completion_ids == greedy(fleet.models[which], r.token_ids[: r.prompt_tokens], 24)
                assert r.policy_version == fleet.version


@pytest.mark.parametrize("kind", ["file", "gloo"])
def test_an_adapter_arrives_alone_and_is_added_to_what_was_kept(fleet: Fleet, kind: str) -> None:
    base = fleet.models[0].state_dict()

    def adapted(seed: int) -> AdaptedWeights:
        generator = torch.Generator().manual_seed(seed)
        return AdaptedWeights(
            base,
            {
                name: LowRank(
                    torch.randn(4, weight.shape[1], generator=generator),
                    0.05 * torch.randn(weight.shape[0], 4, generator=generator),
                    2.0,
                )
                # k_proj has none, and shares a fused layer with two that have
                for name, weight in base.items()
                if name.endswith(("q_proj.weight", "v_proj.weight", "down_proj.weight"))
            },
        )

    requests = [ask(prompt(length), max_tokens=24, temperature=0.0) for length in (5, 33, 100)]
    sent = []
    with sending(fleet, kind):
        fleet.load(1)  # whatever was kept before is of no use
        for seed in (1, 2):
            fleet.sampler.metrics()
            fleet.version += 1
            fleet.sampler.load(adapted(seed), fleet.version)
            sent.append(fleet.sampler.metrics()["sampler/sent_bytes"])
            model = tiny_model(seed=0, tied=True)
            model.load_state_dict(adapted(seed))
            rollouts = flat(fleet.sampler.sample(requests))
            for r in rollouts:
                assert r.completion_ids == greedy(model, r.token_ids[: r.prompt_tokens], 24)
                assert r.policy_version == fleet.version
            assert largest_gap(model, rollouts, 1.0) < TOLERANCE
        assert sent[1] < sent[0] / 4, "the second time without the weights that it changes"
        fleet.load(1)
        for r in flat(fleet.sampler.sample(requests)):
            assert r.completion_ids == greedy(fleet.models[1], r.token_ids[: r.prompt_tokens], 24)


def test_an_answer_goes_on_under_new_weights_and_says_from_where(fleet: Fleet) -> None:
    """Each token's log-prob is that of the weights which wrote it, given all before it: nothing of the older ones' cache is left."""
    terms = fleet.sampler.fleet.terms
    fleet.sampler.fleet.terms = replace(terms, in_flight=True)
    mixed: list[Rollout] = []
    with ThreadPoolExecutor(1) as beside:
        for turn in range(1, 9):  # the update has to fall into the writing, on machines of any speed
            fleet.load(0)
            old, requests = fleet.version, many(seed=1000 * turn, tokens=200)
            written = beside.submit(fleet.sampler.sample, requests)
            time.sleep(0.2 * turn)
            fleet.load(1)
            rollouts = flat(written.result())
            assert len(rollouts) == sum(request.n for request in requests)
            by_version = {old: fleet.models[0], fleet.version: fleet.models[1]}
            assert {r.policy_version for r in rollouts} <= by_version.keys()
            mixed = [r for r in rollouts if r.later_versions]
            if mixed:
                break
    fleet.sampler.fleet.terms = terms
    assert mixed and {r.newest_version for r in mixed} == {fleet.version}
    logprobs = {v: learner_logits(model, mixed).log_softmax(-1) for v, model in by_version.items()}
    for b, r in enumerate(mixed):
        ((turned, newer),) = r.later_versions
        assert r.prompt_tokens < turned < len(r.token_ids)
        for t in range(r.prompt_tokens, len(r.token_ids)):
            of_t = logprobs[r.policy_version if t < turned else newer][b, t - 1, r.token_ids[t]].item()
            assert r.logprobs[t] == pytest.approx(of_t, abs=TOLERANCE)


def test_nothing_but_health_is_answered_without_the_key_and_only_on_loopback(fleet: Fleet) -> None:
    life = fleet.lives()[0]
    url = life.server.url
    assert httpx.get(f"{url}/health").status_code == 200
    for key in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {life.server.key}"}):
        for path in (
            "/collective_rpc",
            "/update_weights",
            "/pause",
            "/inference/v1/generate",
            "/abort_requests",
        ):
            assert httpx.post(url + path, json={"method": "rlkit_facts"}, headers=key).status_code == 401, (
                path
            )
        for path in ("/v1/models", "/metrics", "/weight_info", "/docs"):
            assert httpx.get(url + path, headers=key).status_code == 401, path
    assert listening(fleet.processes(life)) == {"loopback"}


def test_a_server_killed_in_the_middle_of_writing_is_replaced(fleet: Fleet) -> None:
    fleet.load(1)
    victim = fleet.lives()[0]
    tree = fleet.processes(victim)
    requests = many(seed=100)
    timer = during(lambda: os.kill(tree[1], signal.SIGKILL), 0.4)  # the API server; its engine is orphaned
    groups = fleet.sampler.sample(requests)
    timer.join()
    require_whole(requests, groups, fleet.models[1])
    require_gone(tree, patience=60)
    fleet.all_whole(1)
    counts = fleet.sampler.metrics()
    assert counts["sampler/lost"] == counts["sampler/restarts"] == 1


def test_an_engine_that_freezes_is_found_by_the_deadline(fleet: Fleet) -> None:
    fleet.load(0)
    victim = fleet.lives()[1]
    tree = fleet.processes(victim)
    os.kill(tree[-1], signal.SIGSTOP)  # the worker: its API server goes on answering /health
    terms = fleet.sampler.fleet.terms
    fleet.sampler.fleet.terms = replace(terms, deadline=20.0)
    requests = many(seed=200, tokens=20)
    groups = fleet.sampler.sample(requests)
    fleet.sampler.fleet.terms = terms
    require_whole(requests, groups, fleet.models[0])
    require_gone(tree, patience=60)
    fleet.all_whole(0)


def test_a_server_killed_in_the_middle_of_an_update_is_replaced_and_the_other_is_whole(fleet: Fleet) -> None:
    fleet.load(0)
    fleet.sampler.metrics()
    victim = fleet.lives()[0]
    tree = fleet.processes(victim)
    os.kill(tree[-1], signal.SIGSTOP)  # so that the update has begun and cannot end
    timer = during(lambda: os.kill(tree[-1], signal.SIGKILL), 2.0)
    fleet.load(1)
    timer.join()
    requests = many(seed=300, tokens=12)
    require_whole(requests, fleet.sampler.sample(requests), fleet.models[1])
    require_gone(tree, patience=60)
    fleet.all_whole(1)
    assert fleet.sampler.metrics()["sampler/broken_updates"] == 1


def test_an_update_that_breaks_off_half_way_is_never_sampled_from(fleet: Fleet) -> None:
    """Tensors that stop in the middle: vLLM cannot repair what they leave, so that server has to go."""
    fleet.load(0)
    victim = fleet.lives()[0]

    class Half:
        kind, keeps_copy = "half", True

        def take(self, weights: dict[str, Tensor], tag: str) -> None: ...
        def close(self) -> None: ...
        def bring(self, calls: object, world_size: int) -> None:
            calls.init_weight_transfer_engine({"kind": "file"})  # type: ignore[attr-defined]
            calls.start_weight_update()  # type: ignore[attr-defined]
            raise ConnectionError("the learner's line was cut")

    victim.transfer = Half()  # type: ignore[assignment]
    fleet.load(1)
    requests = many(seed=400, tokens=12)
    require_whole(requests, fleet.sampler.sample(requests), fleet.models[1])
    fleet.all_whole(1)


def test_servers_that_a_dead_learner_left_paused_or_half_updated_are_made_whole(fleet: Fleet) -> None:
    """Two learners share the servers one after the other; the first was killed in the middle of its update."""
    fleet.load(0)
    paused, half = fleet.lives()
    for life in (paused, half):
        headers = {"Authorization": f"Bearer {life.server.key}"}
        assert httpx.post(f"{life.server.url}/pause?mode=keep", headers=headers).status_code == 200
        if life is half:
            for path, body in (
                ("init_weight_transfer_engine", {"init_info": {"kind": "file"}}),
                ("start_weight_update", None),
            ):
                url = f"{life.server.url}/{path}"
                assert httpx.post(url, json=body, headers=headers, timeout=60).status_code == 200
    second = VllmServerSampler.connect(
        fleet.folder,
        fleet.spec,
        paused.server.url,
        key=paused.server.key,
        stop_ids=[1],
        options=FleetOptions(start_timeout=START_SECONDS),
    )
    requests = [ask(prompt(40), max_tokens=16, temperature=0.0)]
    (rollout,) = flat(second.sample(requests))
    assert rollout.completion_ids == greedy(fleet.models[0], prompt(40), 16)
    # The half updated one ends itself when a learner meets it, and is started again by whoever started it.
    with pytest.raises(Exception, match="half replaced|gone"):
        VllmServerSampler.connect(
            fleet.folder,
            fleet.spec,
            half.server.url,
            key=half.server.key,
            stop_ids=[1],
            options=FleetOptions(start_timeout=5.0),
        )
    second.close()
    fleet.load(1)
    fleet.all_whole(1)
