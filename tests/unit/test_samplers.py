"""One contract for every sampler that runs a model, each on an untied and a tied random model: `hf`, `vllm`, and (slow) real
vLLM servers, started by this process (`server`) or by Ray (`ray`)."""

import gc
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, Qwen2ForCausalLM

from rlkit.errors import RolloutError
from rlkit.samplers.hf import HfSampler
from rlkit.types import Request, Rollout, Sampler
from tests.models import END_ID, save_tiny_model

SECOND_END_ID = 9
STOP_IDS = [END_ID, SECOND_END_ID]
MAX_MODEL_LEN = 256
TOLERANCE = 2e-5
"""Nats between a sampler's log-prob and the learner's in float32, for the same weights."""


@dataclass(frozen=True)
class Bench:
    """A sampler, the model it started from and another one of the same shapes."""

    kind: str
    sampler: Sampler
    first: Qwen2ForCausalLM
    second: Qwen2ForCausalLM
    tied: bool


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, bool], Path]:
    root = tmp_path_factory.mktemp("models")
    folders = {}
    for seed, tied in ((0, False), (1, False), (2, True), (3, True)):
        folder = save_tiny_model(root / f"{seed}", seed=seed, tied=tied)
        GenerationConfig(eos_token_id=STOP_IDS).save_pretrained(folder)
        folders[seed % 2, tied] = folder
    return folders


SLOW = [
    pytest.param(f"{kind}-{tie}", marks=pytest.mark.slow)
    for kind in ("server", "ray")
    for tie in ("untied", "tied")
]


@pytest.fixture(scope="session", params=["hf-untied", "hf-tied", "vllm-untied", "vllm-tied", *SLOW])
def opened(request: pytest.FixtureRequest, folders: dict[tuple[int, bool], Path]) -> Iterator[Bench]:
    kind, tied = request.param.split("-")[0], request.param.endswith("-tied")
    sampler: Sampler
    if kind == "vllm":
        pytest.importorskip("vllm")
        from rlkit.samplers.vllm_engine import VllmSampler

        sampler = VllmSampler(
            folders[0, tied],
            dtype="float32",
            max_model_len=MAX_MODEL_LEN,
            max_num_seqs=64,
            kv_cache_memory=64,
        )
    elif kind in ("server", "ray"):
        pytest.importorskip("vllm")
        sampler = start_servers(folders[0, tied], kind)
    else:
        sampler = HfSampler(
            folders[0, tied], dtype="float32", device="cpu", max_model_len=MAX_MODEL_LEN, max_num_seqs=64
        )
    first, second = (
        Qwen2ForCausalLM.from_pretrained(folders[i, tied], dtype=torch.float32).eval() for i in (0, 1)
    )
    yield Bench(kind=kind, sampler=sampler, first=first, second=second, tied=tied)
    sampler.close()


def start_servers(folder: Path, kind: str) -> Sampler:
    """One real vLLM server: a second would share its two cores, and one is enough for what a sampler promises."""
    from rlkit.samplers.vllm_command import ServerSpec
    from rlkit.samplers.vllm_server import VllmServerSampler

    spec = ServerSpec(
        model=str(folder),
        dtype="float32",
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=64,
        kv_cache_memory=64,
        on_gpu=False,
    )
    if kind == "server":
        return VllmServerSampler.start(folder, spec, 1)
    pytest.importorskip("ray")
    from rlkit.samplers.ray_starter import RayStarter

    return VllmServerSampler.start(folder, spec, 1, starter=RayStarter(spec, 1))


@pytest.fixture
def bench(opened: Bench) -> Bench:
    opened.sampler.load(opened.first.state_dict(), version=0)
    return opened


def prompt(length: int, seed: int = 0) -> list[int]:
    generator = random.Random(1000 * length + seed)
    return [generator.randrange(10, 260) for _ in range(length)]


def ask(token_ids: list[int], /, **changes: Any) -> Request:
    base = Request(
        prompt_id=f"p{len(token_ids)}", token_ids=token_ids, n=1, max_tokens=24, temperature=1.0, seed=7
    )
    return replace(base, **changes)


def flat(groups: list[list[Rollout]]) -> list[Rollout]:
    return [rollout for group in groups for rollout in group]


@torch.no_grad()
def greedy(model: Qwen2ForCausalLM, token_ids: list[int], num_tokens: int) -> list[int]:
    ids_BT = torch.tensor([token_ids])
    out_BT: Tensor = model.generate(  # type: ignore[assignment, misc]  # its own class does not fit its `self`
        ids_BT,
        attention_mask=torch.ones_like(ids_BT),
        max_new_tokens=num_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    answer: list[int] = out_BT[0, len(token_ids) :].tolist()
    return answer


@torch.no_grad()
def learner_logits(model: Qwen2ForCausalLM, rollouts: list[Rollout]) -> Tensor:
    """Logits of one right-padded forward pass, position t predicting token t + 1. [B, T, V]"""
    width = max(len(r.token_ids) for r in rollouts)
    ids_BT = torch.tensor([r.token_ids + [0] * (width - len(r.token_ids)) for r in rollouts])
    mask_BT = torch.tensor([[1] * len(r.token_ids) + [0] * (width - len(r.token_ids)) for r in rollouts])
    logits_BTV: Tensor = model(input_ids=ids_BT, attention_mask=mask_BT).logits
    return logits_BTV.float()


def largest_gap(model: Qwen2ForCausalLM, rollouts: list[Rollout], temperature: float) -> float:
    """Largest |sampler log-prob - learner log-prob| over all sampled tokens, nats."""
    logprobs_BTV = (learner_logits(model, rollouts) / temperature).log_softmax(-1)
    gaps = [
        abs(logprob - logprobs_BTV[b, t - 1, r.token_ids[t]].item())
        for b, r in enumerate(rollouts)
        for t, logprob in enumerate(r.logprobs)
        if t >= r.prompt_tokens
    ]
    return max(gaps)


def test_rollouts_come_n_per_request_in_the_order_of_the_requests(bench: Bench) -> None:
    requests = [
        ask(prompt(40), n=1, prompt_id="a"),
        ask(prompt(3), n=3, prompt_id="b"),
        ask(prompt(17), n=2, prompt_id="c"),
    ]
    groups = bench.sampler.sample(requests)
    assert [[r.prompt_id for r in group] for group in groups] == [["a"], ["b"] * 3, ["c"] * 2]
    for request, group in zip(requests, groups, strict=True):
        for r in group:
            start, end = len(request.token_ids), len(r.token_ids)
            assert r.token_ids[:start] == request.token_ids
            assert [(s.kind, s.start, s.end) for s in r.segments] == [
                ("prompt", 0, start),
                ("completion", start, end),
            ]
            assert len(r.logprobs) == len(r.token_ids)
            assert r.logprobs[:start] == [0.0] * start
            assert all(logprob < 0 for logprob in r.completion_logprobs)
            assert all(type(token) is int for token in r.token_ids)
            assert all(type(logprob) is float for logprob in r.logprobs)
    assert bench.sampler.sample([]) == []


def test_greedy_equals_transformers(bench: Bench) -> None:
    requests = [ask(prompt(length), max_tokens=32, temperature=0.0) for length in (5, 17, 33, 64)]
    for r in flat(bench.sampler.sample(requests)):
        expected = greedy(bench.first, r.token_ids[: r.prompt_tokens], 32)
        assert not set(expected) & set(STOP_IDS), "choose another prompt: this answer would end early"
        assert r.completion_ids == expected
    rollouts = flat(bench.sampler.sample(requests))
    assert largest_gap(bench.first, rollouts, temperature=1.0) < TOLERANCE  # greedy: untempered log-probs


def test_greedy_equals_transformers_on_new_weights_also_for_cached_prompts(bench: Bench) -> None:
    requests = [ask(prompt(length), max_tokens=32, temperature=0.0) for length in (5, 17, 64, 130)]
    before = bench.sampler.sample(requests)
    bench.sampler.sample(requests)  # now the long prompts have been read from the prefix cache once
    bench.sampler.load(bench.second.state_dict(), version=1)
    after = flat(bench.sampler.sample(requests))
    for r in after:
        expected = greedy(bench.second, r.token_ids[: r.prompt_tokens], 32)
        assert not set(expected) & set(STOP_IDS), "choose another prompt: this answer would end early"
        assert r.completion_ids == expected
    assert largest_gap(bench.second, after, temperature=1.0) < TOLERANCE
    bench.sampler.load(bench.first.state_dict(), version=2)
    again = bench.sampler.sample(requests)
    assert [r.completion_ids for r in flat(again)] == [r.completion_ids for r in flat(before)]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_equal_the_learners(bench: Bench, temperature: float) -> None:
    lengths = [3, 40, 11, 70, 1, 29]
    requests = [
        ask(prompt(length), n=4, max_tokens=8 + length % 31, temperature=temperature, seed=length)
        for length in lengths
    ]
    rollouts = flat(bench.sampler.sample(requests))
    assert len({len(r.completion_ids) for r in rollouts}) > 3, "ragged"
    assert largest_gap(bench.first, rollouts, temperature) < TOLERANCE


def test_the_same_seed_repeats_and_another_differs(bench: Bench) -> None:
    requests = [ask(prompt(length), n=4) for length in (6, 30, 64)]

    def tokens(requests: list[Request]) -> list[list[int]]:
        return [r.token_ids for r in flat(bench.sampler.sample(requests))]

    once = tokens(requests)
    assert tokens(requests) == once
    assert len({tuple(t) for t in once}) == 12, "every continuation is its own draw"
    neighbours = tokens([replace(r, seed=r.seed + 1) for r in requests])
    assert not {tuple(t) for t in neighbours} & {tuple(t) for t in once}, "neighbouring seeds share nothing"


def test_a_request_gives_the_same_tokens_in_any_batch(bench: Bench) -> None:
    requests = [ask(prompt(length), n=3, seed=length) for length in (6, 30, 64, 12, 50)]
    together = bench.sampler.sample(requests)
    alone = [bench.sampler.sample([request])[0] for request in requests]
    fewer = [bench.sampler.sample([replace(request, n=1)])[0] for request in requests]
    ids = [[r.token_ids for r in group] for group in together]
    assert [[r.token_ids for r in group] for group in alone] == ids
    assert [[r.token_ids for r in group] for group in fewer] == [group[:1] for group in ids]


def test_more_rollouts_than_fit_at_once(bench: Bench) -> None:
    requests = [ask(prompt(5 + i), n=8, max_tokens=4, seed=i) for i in range(20)]  # 160 rollouts, 64 at once
    groups = bench.sampler.sample(requests)
    assert [group[0].prompt_tokens for group in groups] == [5 + i for i in range(20)]
    assert all(len(group) == 8 for group in groups)


def test_greedy_and_drawn_requests_share_a_batch(bench: Bench) -> None:
    token_ids = prompt(20)
    mixed = [ask(token_ids), ask(token_ids, temperature=0.0), ask(token_ids, temperature=0.7, top_k=3)]
    together = flat(bench.sampler.sample(mixed))
    assert together[1].completion_ids == greedy(bench.first, token_ids, 24)
    assert largest_gap(bench.first, together[:2], 1.0) < TOLERANCE
    assert [r.token_ids for r in together] == [
        flat(bench.sampler.sample([request]))[0].token_ids for request in mixed
    ]


@pytest.mark.parametrize(
    "limits", [{"top_k": 5}, {"top_p": 0.6}, {"min_p": 0.1}, {"top_k": 20, "top_p": 0.5}]
)
def test_truncated_logprobs_are_those_of_the_truncated_distribution(
    bench: Bench, limits: dict[str, Any]
) -> None:
    temperature = 0.7
    rollouts = flat(bench.sampler.sample([ask(prompt(15), n=8, temperature=temperature, **limits)]))
    probs_BTV = (learner_logits(bench.first, rollouts).double() / temperature).softmax(-1).numpy()
    for b, r in enumerate(rollouts):
        for t in range(r.prompt_tokens, len(r.token_ids)):
            kept = allowed(probs_BTV[b, t - 1], **limits)
            assert r.token_ids[t] in kept
            expected = np.log(probs_BTV[b, t - 1, r.token_ids[t]] / sum(probs_BTV[b, t - 1, v] for v in kept))
            assert abs(r.logprobs[t] - expected) < TOLERANCE


def allowed(
    probs_V: np.ndarray[Any, np.dtype[np.float64]], top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> list[int]:
    """Tokens that may be drawn, by the words of the definitions: min_p, then top_k, then top_p on what is left."""
    tokens = [int(v) for v in np.argsort(-probs_V) if probs_V[v] >= min_p * probs_V.max()]
    tokens = tokens[: top_k or None]
    total = sum(probs_V[v] for v in tokens)
    kept, held = [], 0.0
    for v in tokens:
        if held >= top_p * total:
            break
        kept.append(v)
        held += probs_V[v]
    return kept


def test_draws_follow_the_distribution(bench: Bench) -> None:
    requests = [ask(prompt(12), n=200, max_tokens=1, seed=seed) for seed in range(20)]
    rollouts = flat(bench.sampler.sample(requests))
    probs_V = learner_logits(bench.first, rollouts[:1])[0, 11].softmax(-1)
    counts_V = torch.bincount(torch.tensor([r.token_ids[-1] for r in rollouts]), minlength=len(probs_V))
    likely_V = probs_V * len(rollouts) >= 5  # the usual bound for the chi-square approximation
    expected = torch.cat([probs_V[likely_V], probs_V[~likely_V].sum()[None]]) * len(rollouts)
    seen = torch.cat([counts_V[likely_V], counts_V[~likely_V].sum()[None]])
    chi_square = ((seen - expected) ** 2 / expected).sum().item()
    freedom = len(expected) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5, "four standard deviations above its mean"


def test_an_answer_ends_at_its_first_stop_token_or_at_its_own_max_tokens(bench: Bench) -> None:
    requests = [ask(prompt(10, i), n=8, max_tokens=1 + 9 * i, temperature=1.5, seed=i) for i in range(8)]
    ends: dict[object, int] = {}
    for request, group in zip(requests, bench.sampler.sample(requests), strict=True):
        for r in group:
            assert not set(r.completion_ids[:-1]) & set(STOP_IDS)
            assert 1 <= len(r.completion_ids) <= request.max_tokens
            if r.completion_ids[-1] in STOP_IDS:
                assert r.finish_reason == "stop"
            else:
                assert r.finish_reason == "length"
                assert len(r.completion_ids) == request.max_tokens
            end = r.completion_ids[-1] if r.finish_reason == "stop" else "length"
            ends[end] = ends.get(end, 0) + 1
    assert set(ends) == {END_ID, SECOND_END_ID, "length"}, f"all three ends must occur: {ends}"


def test_rollouts_carry_the_version_of_their_weights(bench: Bench) -> None:
    assert {r.policy_version for r in flat(bench.sampler.sample([ask(prompt(4), n=2)]))} == {0}
    bench.sampler.load(bench.second.state_dict(), version=41)
    assert {r.policy_version for r in flat(bench.sampler.sample([ask(prompt(4), n=2)]))} == {41}


def test_weights_that_do_not_fit_are_refused_and_the_old_ones_stay(bench: Bench) -> None:
    request = ask(prompt(9), temperature=0.0)
    before = bench.sampler.sample([request])
    name = "model.layers.1.mlp.down_proj.weight"
    good = bench.second.state_dict()
    missing = {key: value for key, value in good.items() if key != name}
    with pytest.raises(RolloutError, match=f"missing {name}"):
        bench.sampler.load(missing, version=1)
    with pytest.raises(RolloutError, match="unexpected model.extra.weight"):
        bench.sampler.load({**good, "model.extra.weight": torch.zeros(3)}, version=1)
    with pytest.raises(RolloutError, match=rf"{name} is \(3, 4\) and must be \(64, 128\)"):
        bench.sampler.load({**good, name: torch.zeros(3, 4)}, version=1)
    assert bench.sampler.sample([request]) == before


def test_output_embedding_of_a_tied_model(bench: Bench) -> None:
    weights = bench.second.state_dict()
    without = {name: tensor for name, tensor in weights.items() if name != "lm_head.weight"}
    if not bench.tied:
        with pytest.raises(RolloutError, match="missing lm_head.weight"):
            bench.sampler.load(without, version=1)
        return
    bench.sampler.load(without, version=1)
    (rollout,) = flat(bench.sampler.sample([ask(prompt(33), temperature=0.0)]))
    assert rollout.completion_ids == greedy(bench.second, prompt(33), 24)
    with pytest.raises(RolloutError, match="the two tensors differ"):
        bench.sampler.load({**weights, "lm_head.weight": weights["lm_head.weight"] + 1}, version=2)


def test_the_learner_may_change_its_tensors_after_load(bench: Bench) -> None:
    weights = {name: tensor.clone() for name, tensor in bench.second.state_dict().items()}
    bench.sampler.load(weights, version=1)
    for tensor in weights.values():
        tensor.zero_()
    (rollout,) = flat(bench.sampler.sample([ask(prompt(33), temperature=0.0)]))
    assert rollout.completion_ids == greedy(bench.second, prompt(33), 24)


def test_weights_in_another_dtype_are_converted(bench: Bench) -> None:
    bench.sampler.load(
        {name: tensor.double() for name, tensor in bench.second.state_dict().items()}, version=1
    )
    (rollout,) = flat(bench.sampler.sample([ask(prompt(33), temperature=0.0)]))
    assert rollout.completion_ids == greedy(bench.second, prompt(33), 24)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"max_tokens": 250}, "10 prompt tokens [+] max_tokens 250 = 260, and the sampler takes at most 256"),
        ({"max_tokens": 0}, "max_tokens = 0; expected at least 1"),
        ({"n": 0}, "n = 0, max_tokens = 24; expected at least 1"),
        ({"temperature": -1.0}, "temperature = -1.0; expected 0"),
        ({"token_ids": []}, "it has no token ids"),
        ({"token_ids": [5, 260]}, "token ids from 5 to 260, and the model knows 0 to 259"),
    ],
)
def test_a_request_that_cannot_be_answered_is_named(
    bench: Bench, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(RolloutError, match=f"'p10': .*{sentence}"):
        bench.sampler.sample([ask(prompt(10)), ask(prompt(10), **changes)])
    assert len(flat(bench.sampler.sample([ask(prompt(10))]))) == 1, "and the sampler still works"


def test_the_full_length_is_usable(bench: Bench) -> None:
    (rollout,) = flat(bench.sampler.sample([ask(prompt(246), max_tokens=10, temperature=0.0)]))
    assert len(rollout.token_ids) == MAX_MODEL_LEN


def test_after_a_rest_new_weights_are_sampled(bench: Bench) -> None:
    bench.sampler.sample([ask(prompt(64))])
    bench.sampler.rest()
    bench.sampler.load(bench.second.state_dict(), version=1)
    (rollout,) = flat(bench.sampler.sample([ask(prompt(64), temperature=0.0)]))
    assert rollout.completion_ids == greedy(bench.second, prompt(64), 24)


def test_the_learners_random_numbers_are_left_alone(bench: Bench) -> None:
    torch.manual_seed(3), np.random.seed(4), random.seed(5)
    expected = torch.rand(()).item(), np.random.rand(), random.random()
    torch.manual_seed(3), np.random.seed(4), random.seed(5)
    bench.sampler.sample([ask(prompt(10), n=3)])
    bench.sampler.load(bench.second.state_dict(), version=1)
    assert (torch.rand(()).item(), np.random.rand(), random.random()) == expected
    assert gc.isenabled()
    assert torch.is_grad_enabled()


def test_a_closed_hf_sampler_says_so(folders: dict[tuple[int, bool], Path]) -> None:
    sampler = HfSampler(folders[0, False], dtype="float32", device="cpu")
    sampler.close()
    sampler.close()
    with pytest.raises(RolloutError, match="was closed"):
        sampler.sample([ask(prompt(10))])
    with pytest.raises(RolloutError, match="was closed"):
        sampler.load({}, version=1)
