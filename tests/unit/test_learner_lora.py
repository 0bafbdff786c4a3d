"""Adapters: only they learn; samplers, checkpoints and peft read the same model; the reference is the model without them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from rlkit import memory
from rlkit.adapted import AdaptedWeights, from_tensors, scales, to_tensors
from rlkit.algo_config import AlgoConfig
from rlkit.algo_presets import GrpoConfig
from rlkit.algos.family import Family
from rlkit.commands.train import prepare
from rlkit.config import LearnerConfig, SamplerConfig, TrainConfig
from rlkit.errors import ConfigError, RunError
from rlkit.learner import ADAPTER, REFERENCE, Learner
from rlkit.learner.lora import switched_off
from rlkit.learner.optim import make_groups
from rlkit.machine import Machine
from rlkit.models import ModelShape
from rlkit.samplers.hf import HfSampler
from rlkit.types import Request
from tests.models import save_tiny_model, tiny_model
from tests.rollouts import rollout
from tests.unit.test_learner import SAMPLING, grpo_credits
from tests.unit.test_loop import assert_equal_runs, config, run

IDS_BT = torch.arange(2, 40)[None]
QV = {"lora_rank": 4, "lora_alpha": 8.0, "lora_targets": "q_proj,v_proj"}
ALL = {"lora_rank": 4, "lora_alpha": 8.0}


def make_learner(
    *,
    algo: AlgoConfig | None = None,
    seed: int = 0,
    tied: bool = False,
    autocast: bool = False,
    reference: Any = None,
    adapter: Path | None = None,
    everywhere: bool = True,
    **cfg: Any,
) -> Learner:
    return Learner(
        tiny_model(seed=0, tied=tied),
        LearnerConfig(**cfg),
        algo or AlgoConfig(importance_sampling_correction=False),
        learning_rate=1e-2,
        temperature=1.0,
        num_iterations=1,
        pad_id=0,
        autocast=autocast,
        reference=reference,
        adapter=adapter,
        seed=seed,
        everywhere=everywhere,
    )


def step(learner: Learner, times: int = 1) -> None:
    """Optimizer steps by gradients drawn at random, the same for two learners at the same update."""
    for _ in range(times):
        generator = torch.Generator().manual_seed(learner.updates)
        for p in learner.model.parameters():
            if p.requires_grad:
                p.grad = torch.randn(p.shape, generator=generator)
        learner.step(0.0, [], [])


def logits_of(weights: Mapping[str, Tensor], tied: bool = False) -> Tensor:
    """Of a plain model that holds these weights."""
    model = tiny_model(seed=5, tied=tied)
    model.load_state_dict(weights)
    with torch.no_grad():
        return model(IDS_BT).logits


@pytest.mark.parametrize("cfg", [QV, ALL], ids=["q_proj,v_proj", "all-linear"])
def test_only_adapters_learn_and_at_first_they_change_nothing(cfg: dict[str, Any]) -> None:
    learner, plain = make_learner(**cfg), make_learner()
    trained = {n: p for n, p in learner.model.named_parameters() if p.requires_grad}
    layers = {"q_proj", "v_proj"} if cfg is QV else {n.split(".")[-2] for n in plain.weights() if "proj" in n}
    assert {n.split(".lora_")[0].split(".")[-1] for n in trained} == layers
    assert len(trained) == 2 * 2 * len(layers)
    moments = {key for key in learner.optimizer_tensors()}
    assert moments == set()
    weights = plain.weights()
    assert all(torch.equal(t, weights[n]) for n, t in learner.weights().items()) and len(weights) == len(
        learner.weights()
    )
    frozen = {n: p.clone() for n, p in learner.model.named_parameters() if n not in trained}
    step(learner, 2)
    parameters = dict(learner.model.named_parameters())
    assert all(torch.equal(parameters[n], p) for n, p in frozen.items())
    assert {key.split("|")[0] for key in learner.optimizer_tensors()} == set(trained)


def test_adapters_are_random_by_the_seed_alone() -> None:
    first, same, other = (
        [p.clone() for p in make_learner(seed=s, **ALL).model.parameters()] for s in (1, 1, 2)
    )
    assert all(map(torch.equal, first, same)) and not all(map(torch.equal, first, other))


@pytest.mark.parametrize("tied", [False, True])
def test_weights_are_bit_for_bit_those_of_the_model_that_peft_merges(tied: bool) -> None:
    learner = make_learner(tied=tied, **ALL)
    theirs = get_peft_model(
        tiny_model(seed=0, tied=tied),
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    step(learner)
    state = {n: p for n, p in learner.model.named_parameters() if "lora_" in n}
    names = dict(theirs.base_model.model.named_parameters())
    with torch.no_grad():
        for name, p in state.items():
            names[name].copy_(p)
    merged = theirs.merge_and_unload().state_dict()
    ours = learner.weights()
    assert ours.keys() == merged.keys() and all(torch.equal(t, merged[n]) for n, t in ours.items())
    with torch.no_grad():
        own = learner.model(IDS_BT).logits
    assert not torch.equal(own, logits_of(make_learner(tied=tied).weights(), tied))
    torch.testing.assert_close(logits_of(ours, tied), own, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
def test_for_servers_the_adapter_is_apart_and_merges_to_the_same_bits(tied: bool) -> None:
    whole, apart = (make_learner(tied=tied, everywhere=where, **ALL) for where in (True, False))
    first = apart.weights()
    for learner in (whole, apart):
        step(learner, 2)
    merged, weights = whole.weights(), apart.weights()
    assert isinstance(first, AdaptedWeights) and isinstance(weights, AdaptedWeights)
    assert weights.base is first.base, "one object, so that a sender knows it again"
    assert all(torch.equal(t, weights.base[n]) for n, t in tiny_model(seed=0, tied=tied).state_dict().items())
    assert list(weights) == list(merged) and all(map(torch.equal, weights.values(), merged.values()))
    # Seven layers in each of two blocks, of rank 4.
    assert len(weights.changes) == 14 and {c.down_RI.shape[0] for c in weights.changes.values()} == {4}
    again = from_tensors(to_tensors(weights.changes), scales(weights.changes))
    assert all(map(torch.equal, AdaptedWeights(weights.base, again).values(), merged.values()))


def test_a_sampler_takes_the_merged_weights(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path, seed=0)
    learner = make_learner(**ALL)
    step(learner, 3)
    sampler = HfSampler(folder)
    sampler.load(learner.weights(), 3)
    ask = Request(prompt_id="a", token_ids=[5, 6, 7], n=4, max_tokens=12, temperature=1.0, seed=1)
    (drawn,) = sampler.sample([ask])
    assert {r.policy_version for r in drawn} == {3}
    scored = learner.logprobs(drawn)
    for r, logps in zip(drawn, scored, strict=True):
        assert logps == pytest.approx(r.completion_logprobs, abs=1e-4)


def test_with_adapters_off_the_model_is_the_reference() -> None:
    """The same penalty, bit for bit, as from a second copy of the starting weights."""
    algo = GrpoConfig(beta=0.1, importance_sampling_correction=False)
    credits = grpo_credits()
    metrics = []
    for reference in (None, tiny_model(seed=0)):
        learner = make_learner(algo=algo, reference=reference, **ALL)
        step(learner, 2)
        report = learner.update(learner.minibatches(credits, 1), Family(algo, SAMPLING).loss)
        metrics.append(report.metrics)
        assert report.metrics["kl"] > 0.001
    assert metrics[0] == metrics[1]
    learner = make_learner(**ALL)
    step(learner)
    before = learner.logprobs([rollout([5, 6, 7])])
    with switched_off(learner.model):
        assert learner.logprobs([rollout([5, 6, 7])]) == make_learner().logprobs([rollout([5, 6, 7])])
    assert learner.logprobs([rollout([5, 6, 7])]) == before
    assert all(p.requires_grad == ("lora_" in n) for n, p in learner.model.named_parameters())


def test_rates_go_by_the_names_of_adapters_too() -> None:
    learner = make_learner(lr_multipliers="lora_B=16,v_proj=4", **QV)
    rates = {n: g.multiplier for g in learner.groups for n in g.names}
    assert {n.split(".")[-4] + n.split("lora_")[1][0]: m for n, m in rates.items()} == {
        "q_projA": 1.0,
        "q_projB": 16.0,
        "v_projA": 4.0,
        "v_projB": 4.0,
    }


@pytest.mark.parametrize("tied", [False, True])
def test_a_checkpoint_is_a_model_folder_and_an_adapter_that_peft_loads(tmp_path: Path, tied: bool) -> None:
    learner = make_learner(tied=tied, **ALL)
    step(learner, 2)
    learner.save_model(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    weights = learner.weights()
    assert model.dtype == torch.float32 and all(
        torch.equal(t, weights[n]) for n, t in model.state_dict().items()
    )
    base = tiny_model(seed=0, tied=tied)
    theirs = PeftModel.from_pretrained(base, str(tmp_path / ADAPTER))
    with torch.no_grad():
        assert torch.equal(theirs(IDS_BT).logits, learner.model.eval()(IDS_BT).logits)
    assert sorted(p.name for p in (tmp_path / ADAPTER).iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_a_resumed_learner_goes_on_bit_for_bit(tmp_path: Path) -> None:
    learner = make_learner(**ALL)
    step(learner, 2)
    learner.save_model(tmp_path)
    other = make_learner(adapter=tmp_path / ADAPTER, seed=9, **ALL)
    other.load_optimizer_tensors({k: t.clone() for k, t in learner.optimizer_tensors().items()}, 2)
    step(learner), step(other)
    assert all(map(torch.equal, learner.weights().values(), other.weights().values()))
    with pytest.raises(RunError, match="an adapter of other layers or another rank"):
        make_learner(adapter=tmp_path / ADAPTER, **QV)
    (tmp_path / ADAPTER / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(RunError, match="not a readable adapter"):
        make_learner(adapter=tmp_path / ADAPTER, **ALL)


def test_in_bfloat16_the_frozen_matrices_are_too_and_weights_leave_in_one_type(tmp_path: Path) -> None:
    learner = make_learner(autocast=True, **ALL)
    types = {n: p.dtype for n, p in learner.model.named_parameters()}
    matrices = {n for n, t in types.items() if t == torch.bfloat16}
    assert matrices == {n for n in types if n.endswith("base_layer.weight")}
    report = learner.update(learner.minibatches(grpo_credits(), 1), Family(GrpoConfig(), SAMPLING).loss)
    assert report.metrics["grad_norm"] > 0
    learner.save_model(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert {t.dtype for t in saved.values()} == {torch.float32}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"


def test_targets_that_the_model_has_not_are_a_sentence() -> None:
    with pytest.raises(
        ConfigError, match="no linear layer is named 'v_porj'; did you mean v_proj .*all-linear"
    ):
        make_learner(lora_rank=2, lora_targets="q_proj,v_porj")
    with pytest.raises(ConfigError, match="no linear layer is named 'embed_tokens'"):
        make_learner(lora_rank=2, lora_targets="embed_tokens")
    with pytest.raises(ConfigError, match="lm_head is tied to the input embedding"):
        make_learner(lora_rank=2, lora_targets="lm_head", tied=True)


@pytest.mark.parametrize(
    "cfg",
    [{"lora_targets": "q_proj"}, {"lora_alpha": 8.0}, {"lora_rank": -1}, {"lora_rank": 4, "lora_alpha": 0.0}],
)
def test_settings_that_mean_nothing_are_refused(cfg: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="learner.lora_"):
        LearnerConfig(**cfg)


def test_without_peft_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlkit.learner.lora.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="--learner.lora-rank 4: .* `pip install 'rlvrkit.lora.'`"):
        make_learner(**ALL)


# -- the whole loop ------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Path]:
    yield save_tiny_model(tmp_path / "model", seed=3)


def test_a_run_with_adapters_stopped_and_resumed_is_the_run_that_never_stopped(
    model: Path, tmp_path: Path
) -> None:
    settings = {
        "learner": LearnerConfig(learning_rate=1e-2, micro_batch_tokens=150, **ALL),
        "algo_changes": {"beta": 0.1},
    }
    run(config(model, tmp_path / "whole", **settings))
    run(config(model, tmp_path / "parts", steps=2, **settings))
    run(config(model, tmp_path / "parts", **settings), resume=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    last = tmp_path / "whole" / "checkpoints" / "step-000004"
    adapters = [
        load_file(tmp_path / r / "checkpoints" / "step-000004" / ADAPTER / "adapter_model.safetensors")
        for r in ("whole", "parts")
    ]
    assert all(torch.equal(t, adapters[1][n]) for n, t in adapters[0].items())
    merged, start = load_file(last / "model.safetensors"), load_file(model / "model.safetensors")
    changed = {n.split(".")[-2] for n in start if not torch.equal(merged[n], start[n])}
    assert changed == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_the_pre_flight_tells_what_adapters_learn_and_what_they_spare(model: Path) -> None:
    cfg = config(model, model / "run", learner=LearnerConfig(learning_rate=1e-2, **ALL))
    plan, ready = prepare(cfg)
    assert ready is not None
    (lines,) = (s.lines for s in plan.sections if s.title == "Learning rates")
    shapes = {n: p.shape for n, p in make_learner(**ALL).model.named_parameters() if p.requires_grad}
    (group,) = make_groups(shapes, {}, 0.0)
    assert lines[1].split() == ["the", "rest", "28", f"{group.parameters:,}", "0.01", "0"]
    (rows,) = (s.lines for s in plan.sections if s.title.startswith("Memory"))
    assert any(f"{group.parameters:,} parameters of rank 4, float32" in row for row in rows)
    with pytest.raises(ConfigError, match="no linear layer is named 'nope'"):
        prepare(config(model, model / "run", learner=LearnerConfig(lora_rank=2, lora_targets="nope")))


def test_memory_of_adapters_by_hand() -> None:
    """Two layers of 64, 4 heads and 2 key-value heads of 16, MLP 96, vocabulary 40, tied."""
    shape = ModelShape(
        hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, mlp=96, vocab=40, tied=True, positions=99
    )
    assert memory.adapter_parameters(shape, 8, "q_proj, v_proj") == 8 * 2 * ((64 + 64) + (64 + 32))
    assert memory.adapter_parameters(shape, 1, "self_attn.o_proj,lm_head") == 2 * (64 + 64) + (64 + 40)
    every = 2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 96)
    assert memory.adapter_parameters(shape, 8, "all-linear") == 8 * 2 * every
    machine = Machine(device="cpu", name="CPU", memory_gib=1, free_gib=1, disk_free_gib=1)
    cfg = TrainConfig(
        learner=LearnerConfig(lora_rank=8), sampler=SamplerConfig(name="hf"), algo=GrpoConfig(beta=0.1)
    )
    needs = {n.what: n.gib for n in memory.memory_needs(cfg, shape, machine)}
    adapters = 8 * 2 * every * 4 / memory.GIB
    assert needs["learner: adapters"] == needs["learner: gradients"] == adapters
    assert needs["learner: AdamW"] == 2 * adapters and "learner: reference" not in needs
    matrices = 2 * 64 * (2 * 64 + 2 * 32 + 3 * 96)
    assert needs[memory.COPY] == matrices * 4 / memory.GIB


# -- a reference that is moved -------------------------------------------------------------------------------------------


def moving(**cfg: Any) -> GrpoConfig:
    return GrpoConfig(
        beta=0.1, sync_ref_model=True, ref_model_mixup_alpha=0.25, ref_model_sync_steps=2, **cfg
    )


def test_the_reference_is_mixed_every_so_many_updates(tmp_path: Path) -> None:
    reference = tiny_model(seed=1)
    start = {n: p.clone() for n, p in reference.named_parameters()}
    learner = make_learner(algo=moving(), reference=reference)
    step(learner)
    assert all(torch.equal(p, start[n]) for n, p in reference.named_parameters())
    step(learner)
    policy = dict(learner.model.named_parameters())
    for name, p in reference.named_parameters():
        torch.testing.assert_close(p, 0.75 * start[name] + 0.25 * policy[name])
    learner.save_model(tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / REFERENCE).state_dict()
    assert all(torch.equal(t, saved[n]) for n, t in reference.state_dict().items())


def test_a_run_whose_reference_moves_can_be_resumed(model: Path, tmp_path: Path) -> None:
    changes = {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 3}
    run(config(model, tmp_path / "whole", algo_changes=changes))
    run(config(model, tmp_path / "parts", steps=2, algo_changes=changes))
    run(config(model, tmp_path / "parts", algo_changes=changes), resume=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def test_adapters_have_no_reference_to_move() -> None:
    with pytest.raises(ConfigError, match="algo.sync_ref_model = True: expected off with adapters"):
        TrainConfig(algo=moving(), learner=LearnerConfig(lora_rank=4))


def test_the_output_head_may_carry_an_adapter() -> None:
    """Its log-probs are taken in tiles, through the layer and not from its weight."""
    learner = make_learner(lora_rank=4, lora_targets="v_proj,lm_head")
    step(learner, 2)
    plain = make_learner()
    plain.model.load_state_dict(learner.weights())
    rollouts = [c.rollout for c in grpo_credits()]
    assert not torch.equal(learner.weights()["lm_head.weight"], make_learner().weights()["lm_head.weight"])
    for ours, theirs in zip(learner.logprobs(rollouts), plain.logprobs(rollouts), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    before = learner.weights()["lm_head.weight"]
    report = learner.update(learner.minibatches(grpo_credits(), 1), Family(GrpoConfig(), SAMPLING).loss)
    assert report.metrics["grad_norm"] > 0 and not torch.equal(learner.weights()["lm_head.weight"], before)
