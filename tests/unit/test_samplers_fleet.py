"""A fleet of real processes that speak vLLM's protocol (tests/fake_server.py): balance, retries, faults, weights, restarts."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen2ForCausalLM

from rlkit.adapted import AdaptedWeights, LowRank, to_tensors
from rlkit.errors import RolloutError, SamplerGone
from rlkit.samplers.contract import continuation_seed
from rlkit.samplers.servers import Address, LocalServer, announce
from rlkit.samplers.vllm_command import ServerSpec
from rlkit.samplers.vllm_server import FleetOptions, VllmServerSampler
from rlkit.talks import Talk
from rlkit.types import Request, Rollout
from tests.fake_server import logprob, token
from tests.fakes import KEY, PATIENCE, Fakes, call, child_of, fault, wait_for, weights_print
from tests.models import save_tiny_model, tiny_model
from tests.processes import require_gone

SPEC = ServerSpec(model="unused", dtype="float32", max_model_len=256, on_gpu=False)
QUICK = FleetOptions(deadline=60.0, start_timeout=PATIENCE, beat=0.5, beat_timeout=60.0)
"""Quick to look, and patient: on a busy machine a server that is well may take seconds to say so."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), seed=0, tied=True)


@pytest.fixture(scope="module")
def first(model: Path) -> dict[str, Tensor]:
    return tiny_model(seed=0, tied=True).state_dict()


@pytest.fixture(scope="module")
def second() -> dict[str, Tensor]:
    return tiny_model(seed=1, tied=True).state_dict()


class Bench:
    def __init__(self, fakes: Fakes, sampler: VllmServerSampler, weights: str) -> None:
        self.fakes, self.sampler, self.weights = fakes, sampler, weights
        self.metrics: dict[str, float] = {}

    def server(self, number: int) -> LocalServer:
        return self.fakes.now(number)

    def answered(self, number: int) -> list[list[int]]:
        found: list[list[int]] = call(self.server(number), "/told")["answered"]
        return found

    def note(self) -> dict[str, float]:
        """All counts so far."""
        for name, value in self.sampler.metrics().items():
            self.metrics[name] = self.metrics.get(name, 0.0) + value
        return self.metrics

    def all_ready(self) -> None:
        wait_for(lambda: self.sampler.fleet.size == len(self.fakes.started))

    def require_right(self, requests: list[Request], groups: list[list[Rollout]]) -> None:
        """Each continuation is there once, in its place, written from its own seed by the current weights."""
        assert len(groups) == len(requests)
        for request, group in zip(requests, groups, strict=True):
            assert len(group) == request.n
            for i, rollout in enumerate(group):
                seed = continuation_seed(request.seed, i)
                ids = [token(self.weights, request.token_ids, seed, t) for t in range(request.max_tokens)]
                assert rollout.prompt_id == request.prompt_id
                assert rollout.token_ids == [*request.token_ids, *ids]
                assert rollout.completion_logprobs == [logprob(t) for t in ids]


Open = Callable[..., Bench]


@pytest.fixture
def opened(tmp_path: Path, model: Path, first: dict[str, Tensor]) -> Iterator[Open]:
    """Opens a fleet of fakes; everything is ended afterwards, and nothing is left."""
    benches: list[Bench] = []
    weights = weights_print(first, tmp_path / "print")

    def open_one(
        replicas: int = 2, capacity: int = 64, options: FleetOptions = QUICK, **environment: str
    ) -> Bench:
        fakes = Fakes(tmp_path, model, capacity, weights, **environment)

        class Starter:
            launch = staticmethod(fakes.launch)
            close = staticmethod(fakes.close)

        sampler = VllmServerSampler.start(
            model, SPEC, replicas, starter=Starter(), options=options, stop_ids=[1]
        )
        benches.append(Bench(fakes, sampler, weights))
        return benches[-1]

    yield open_one
    for bench in benches:
        bench.sampler.close()
        require_gone(bench.fakes.groups())


def asks(count: int, n: int = 4, max_tokens: int = 6) -> list[Request]:
    return [
        Request(
            prompt_id=f"p{i}",
            token_ids=[10 + i, 11, 12],
            n=n,
            max_tokens=max_tokens,
            temperature=1.0,
            seed=100 + i,
        )
        for i in range(count)
    ]


def test_every_answer_is_in_its_place_and_each_prompt_stays_on_one_server(opened: Open) -> None:
    bench = opened(replicas=2)
    requests = asks(16)
    groups = bench.sampler.sample(requests)
    bench.require_right(requests, groups)
    assert {r.policy_version for group in groups for r in group} == {0}
    homes = [{tuple(prompt) for prompt in bench.answered(number)} for number in (0, 1)]
    assert not homes[0] & homes[1], "no prompt was read by both"
    assert {len(home) for home in homes} == {8}, "and each has half of them"
    assert bench.sampler.sample([]) == []


def test_one_prompt_with_many_answers_is_divided(opened: Open) -> None:
    bench = opened(replicas=2)
    requests = asks(1, n=32)
    bench.require_right(requests, bench.sampler.sample(requests))
    assert [len(bench.answered(number)) for number in (0, 1)] == [16, 16]


@pytest.mark.slow
def test_more_requests_than_fit_wait_for_room(opened: Open) -> None:
    bench = opened(replicas=2, capacity=3)
    requests = asks(12, n=7)
    bench.require_right(requests, bench.sampler.sample(requests))


@pytest.mark.slow
def test_a_request_can_be_submitted_alone(opened: Open) -> None:
    bench = opened()
    requests = asks(3)
    futures = [bench.sampler.submit(request) for request in requests]
    bench.require_right(requests, [future.result(PATIENCE) for future in futures])


def spoken(request: Request) -> Talk[list[list[Rollout]]]:
    """The same prompt twice; the second time with its first answer in front of it."""
    (first,) = yield [request]
    again = replace(request, token_ids=first[0].token_ids, seed=request.seed + 1000)
    (second,) = yield [again]
    return [first, second]


def test_a_prompt_goes_on_while_another_waits_and_a_halt_ends_them_all(opened: Open) -> None:
    """One of two prompts meets an answer that takes 30 s. The other comes to its end meanwhile."""
    bench = opened(replicas=1)
    requests = asks(2, n=1)
    for talk in bench.sampler.follow([spoken(request) for request in requests]):
        first, second = talk
        again = replace(asks(1)[0], prompt_id=first[0].prompt_id, token_ids=first[0].token_ids, n=1)
        bench.require_right([replace(again, seed=1000 + 100 + int(first[0].prompt_id[1:]))], [second])
    ended: list[str] = []

    def told(request: Request) -> Talk[None]:
        yield from spoken(request)
        ended.append(request.prompt_id)
        bench.sampler.halt()

    fault(bench.server(0), "slow")
    with pytest.raises(RolloutError, match="this sampler was halted; load.. weights"):
        bench.sampler.follow([told(request) for request in requests])
    assert len(ended) == 1


def test_a_server_that_is_killed_in_the_middle_is_replaced_and_nothing_is_lost(
    opened: Open, second: dict[str, Tensor], tmp_path: Path
) -> None:
    bench = opened()
    bench.sampler.load(second, version=7)
    bench.weights = weights_print(second, tmp_path / "second")
    victim = bench.server(0)
    requests = asks(16)
    fault(victim, "slow", 1000)  # so that it is killed with requests in hand, whenever that is

    def kill() -> None:
        wait_for(lambda: call(victim, "/told")["calls"].get("/inference/v1/generate", 0) > 0)
        os.kill(child_of(victim), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    groups = bench.sampler.sample(requests)
    killer.join()
    bench.require_right(requests, groups)
    assert {r.policy_version for group in groups for r in group} == {7}
    bench.all_ready()
    assert bench.server(0) is not victim
    told = call(bench.server(0), "/told")
    assert told["weights"] == bench.weights, "the new one has the current weights, not those of its folder"
    counts = bench.note()
    assert counts["sampler/lost"] == counts["sampler/restarts"] == counts["sampler/catch_ups"] == 1
    assert counts["sampler/retries"] > 0
    again = asks(8)
    bench.require_right(again, bench.sampler.sample(again))


def test_a_frozen_server_is_noticed_and_replaced(opened: Open) -> None:
    bench = opened(options=replace(QUICK, beat_timeout=3.0))
    victim = bench.server(1)
    os.kill(child_of(victim), signal.SIGSTOP)
    requests = asks(16)
    bench.require_right(requests, bench.sampler.sample(requests))
    bench.all_ready()
    assert bench.server(1) is not victim
    require_gone([victim.process.pid])
    assert bench.note()["sampler/lost"] >= 1


@pytest.mark.parametrize("kind", ["status", "short"])
def test_a_single_bad_answer_is_asked_again_elsewhere_and_its_server_stays(opened: Open, kind: str) -> None:
    bench = opened()
    fault(bench.server(0), kind)
    requests = asks(8, n=1)
    bench.require_right(requests, bench.sampler.sample(requests))
    counts = bench.note()
    assert (counts["sampler/retries"], counts["sampler/lost"]) == (1, 0)
    assert counts["sampler/faults_status" if kind == "status" else "sampler/faults_broken"] == 1


@pytest.mark.slow
def test_a_server_that_goes_on_failing_is_replaced(opened: Open) -> None:
    bench = opened()
    fault(bench.server(0), "short", 1000)
    requests = asks(16, n=1)
    bench.require_right(requests, bench.sampler.sample(requests))
    bench.all_ready()
    assert bench.note()["sampler/lost"] == 1


def test_a_request_that_every_server_answers_badly_stops_the_run(opened: Open) -> None:
    bench = opened(FAKE_ALWAYS="short")
    with pytest.raises(RolloutError, match="'p0': 4 tries on 2 servers failed.*5 log-probs for 6 tokens"):
        bench.sampler.sample(asks(1, n=1))
    assert bench.note()["sampler/lost"] == 0


def test_new_weights_are_in_every_server_before_anything_is_asked(
    opened: Open, second: dict[str, Tensor], tmp_path: Path
) -> None:
    bench = opened()
    bench.sampler.load(second, version=3)
    bench.weights = weights_print(second, tmp_path / "second")
    requests = asks(16)
    groups = bench.sampler.sample(requests)
    bench.require_right(requests, groups)
    assert {r.policy_version for group in groups for r in group} == {3}
    for number in (0, 1):
        told = call(bench.server(number), "/told")
        assert told["weights"] == bench.weights and told["version"].endswith("-3") and not told["paused"]
        assert told["calls"]["/reset_prefix_cache"] >= 1


def test_weights_that_do_not_fit_are_refused_before_any_server_hears_of_them(
    opened: Open, second: dict[str, Tensor]
) -> None:
    bench = opened()
    name = "model.layers.1.mlp.down_proj.weight"
    with pytest.raises(RolloutError, match=f"missing {name}"):
        bench.sampler.load({key: value for key, value in second.items() if key != name}, version=1)
    assert "/start_weight_update" not in call(bench.server(0), "/told")["calls"]
    requests = asks(4)
    bench.require_right(requests, bench.sampler.sample(requests))


def test_adapters_go_alone_once_a_server_has_what_they_change(
    opened: Open, first: dict[str, Tensor], tmp_path: Path
) -> None:
    bench = opened(replicas=2)
    name = "model.layers.0.self_attn.q_proj.weight"

    def adapted(number: int) -> AdaptedWeights:
        down, up = torch.full((2, 64), 1.0 + number), torch.full((64, 2), 0.5)
        return AdaptedWeights(first, {name: LowRank(down, up, 2.0)})

    def told() -> list[str]:
        return [call(bench.server(n), "/told")["weights"] for n in (0, 1)]

    # What fakes call base and adapter.
    one, two = (
        f"{bench.weights}+{weights_print(to_tensors(adapted(number).changes), tmp_path / str(number))}"
        for number in (1, 2)
    )
    bench.sampler.metrics()
    bench.sampler.load(adapted(1), version=1)
    assert told() == [one, one]
    sent = bench.sampler.metrics()["sampler/sent_bytes"]
    bench.sampler.load(adapted(2), version=2)
    assert told() == [two, two]
    alone = bench.sampler.metrics()["sampler/sent_bytes"]
    # 256 numbers of 4 bytes to each of two servers, and the files' own words; before, all weights too.
    assert 2 * 1024 < alone < 2 * 1024 + 1000 and sent > alone + 2 * 4 * sum(
        t.numel() for t in first.values()
    )
    bench.server(0).kill()
    wait_for(lambda: bench.sampler.metrics()["sampler/restarts"] > 0)
    bench.all_ready()
    assert told() == [two, two], "the new one was given both"
    bench.sampler.load(first, version=3)
    assert told() == [bench.weights, bench.weights]
    wrong = AdaptedWeights(first, {name: LowRank(torch.zeros(2, 63), torch.zeros(64, 2), 2.0)})
    with pytest.raises(
        RolloutError, match=r"changes model.layers.0.self_attn.q_proj.weight by .* \(64, 64\)"
    ):
        bench.sampler.load(wrong, version=4)


@pytest.mark.parametrize("kind", ["die_in_update", "fail_update"])
def test_an_update_that_breaks_off_ends_that_server_and_no_other(
    opened: Open, second: dict[str, Tensor], tmp_path: Path, kind: str
) -> None:
    bench = opened()
    victim, other = bench.server(0), bench.server(1)
    fault(victim, kind)
    bench.sampler.load(second, version=1)
    bench.weights = weights_print(second, tmp_path / "second")
    requests = asks(8)
    bench.require_right(requests, bench.sampler.sample(requests))
    bench.all_ready()
    require_gone([victim.process.pid])
    assert bench.server(0) is not victim and bench.server(1) is other
    assert call(bench.server(0), "/told")["weights"] == bench.weights
    assert bench.note()["sampler/broken_updates"] == 1


@pytest.mark.slow
def test_rollouts_of_other_weights_are_never_taken(
    opened: Open, second: dict[str, Tensor], tmp_path: Path
) -> None:
    bench = opened()
    victim = bench.server(0)
    fault(victim, "stale")
    bench.sampler.load(second, version=1)
    bench.weights = weights_print(second, tmp_path / "second")
    requests = asks(8)
    bench.require_right(requests, bench.sampler.sample(requests))
    bench.all_ready()
    assert bench.note()["sampler/faults_stale"] >= 1 and bench.server(0) is not victim


def test_when_all_are_gone_the_run_is_told_in_one_sentence(opened: Open) -> None:
    bench = opened(options=replace(QUICK, restarts=0))
    bench.fakes.facts.unlink()  # no server can start any more
    for number in (0, 1):
        os.kill(child_of(bench.server(number)), signal.SIGKILL)
    with pytest.raises(
        SamplerGone, match="all 2 rollout servers are gone, none of them comes back [(]server 1 of 2: "
    ):
        bench.sampler.sample(asks(4))
    assert SamplerGone("").exit_code != 0


def test_a_closed_fleet_says_so_and_leaves_no_process(opened: Open) -> None:
    bench = opened()
    bench.sampler.close()
    bench.sampler.close()
    require_gone(bench.fakes.groups())
    with pytest.raises(RolloutError, match="was closed"):
        bench.sampler.sample(asks(1))


# -- servers that somebody else started


def test_given_servers_get_the_learners_weights_and_those_that_come_later_are_used(
    opened: Open, model: Path, second: dict[str, Tensor], tmp_path: Path
) -> None:
    fakes = Fakes(tmp_path, model, 64, "weights of somebody else")
    fakes.launch(2)
    listed = tmp_path / "servers.jsonl"
    announce(listed, Address(fakes.start(0).url, KEY))
    assert listed.stat().st_mode & 0o777 == 0o600, "it holds the key"
    sampler = VllmServerSampler.connect(model, SPEC, f"@{listed}", options=QUICK, stop_ids=[1])
    try:
        loaded = Qwen2ForCausalLM.from_pretrained(model).state_dict()
        bench = Bench(fakes, sampler, weights_print(loaded, tmp_path / "own"))
        requests = asks(4)
        bench.require_right(requests, sampler.sample(requests))
        announce(listed, Address(fakes.start(1).url, KEY))
        wait_for(lambda: sampler.fleet.size == 2)
        sampler.load(second, version=1)
        bench.weights = weights_print(second, tmp_path / "second")
        requests = asks(16)
        bench.require_right(requests, sampler.sample(requests))
        assert len(bench.answered(1)) == 32, "the new one writes half of them"
        # One that is killed and started again by its own supervisor comes back with the current weights.
        port = int(fakes.now(0).url.rpartition(":")[2])
        fakes.now(0).kill()
        bench.require_right(requests, sampler.sample(requests))
        fakes.start(0, port)
        wait_for(lambda: sampler.fleet.size == 2)
        assert call(fakes.now(0), "/told")["weights"] == bench.weights
        # An update that breaks off has such a server end itself.
        fault(fakes.now(0), "fail_update")
        sampler.load({name: tensor * 2 for name, tensor in second.items()}, version=2)
        wait_for(lambda: not fakes.now(0).alive())
    finally:
        sampler.close()
        assert fakes.now(1).alive(), "it is not ours to end"
        fakes.close()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"logprobs_mode": "raw_logprobs"}, "--logprobs-mode raw_logprobs; expected processed_logprobs"),
        ({"max_model_len": 64}, "takes 64 tokens; prompt and completion need 256"),
        ({"backend": None}, "without --weight-transfer-config"),
        ({"shapes": {"model.norm.weight": [65]}}, "runs another model: .*is absent there"),
    ],
)
def test_a_server_that_is_not_what_the_learner_needs_is_named(
    model: Path, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    fakes = Fakes(tmp_path, model, 64, "w")
    fakes.launch(0)
    fakes.facts.write_text(json.dumps(json.loads(fakes.facts.read_text()) | change))
    server = fakes.start(0)
    try:
        with pytest.raises(SamplerGone, match=sentence):
            VllmServerSampler.connect(model, SPEC, server.url, key=KEY, options=QUICK, stop_ids=[1])
        with pytest.raises(SamplerGone, match="status 401 .*RLKIT_SERVER_KEY"):
            VllmServerSampler.connect(model, SPEC, server.url, key="wrong", options=QUICK, stop_ids=[1])
    finally:
        fakes.close()
