"""Parameter groups: every trained weight in one of them, rates by name, and optimizers whose state goes to disk and back."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from rlkit.algo_config import AlgoConfig
from rlkit.commands.train import prepare
from rlkit.config import DataConfig, LearnerConfig, ModelConfig, RewardConfig, SamplerConfig, TrainConfig
from rlkit.errors import ConfigError, RunError
from rlkit.learner import Learner
from rlkit.learner.optim import NEEDS, make_groups, matches, require_optimizer, table
from tests.models import save_tiny_model, tiny_model

SHAPES = {
    "embed_tokens.weight": (10, 4),
    "layers.0.q_proj.weight": (4, 4),
    "layers.0.v_proj.weight": (2, 4),
    "layers.0.v_proj.bias": (2,),
    "layers.10.v_proj.weight": (2, 4),
    "norm.weight": (4,),
}


def make_learner(**cfg: Any) -> Learner:
    return Learner(
        tiny_model(seed=0),
        LearnerConfig(**cfg),
        AlgoConfig(),
        learning_rate=1e-3,
        temperature=1.0,
        num_iterations=1,
        pad_id=0,
    )


def step(learner: Learner, gradient: float = 1.0) -> dict[str, float]:
    """One optimizer step with the same gradient everywhere; how far each weight moved, on average."""
    before = {n: p.detach().clone() for n, p in learner.model.named_parameters()}
    for p in learner.model.parameters():
        p.grad = torch.full_like(p, gradient)
    learner.step(0.0, [], [])
    return {n: float((p.detach() - before[n]).abs().mean()) for n, p in learner.model.named_parameters()}


def test_every_weight_is_in_one_group_with_its_rate_and_decay() -> None:
    groups = make_groups(SHAPES, {"v_proj": 4.0}, weight_decay=0.1)
    assert [(g.pattern, g.names, g.parameters, g.multiplier, g.weight_decay) for g in groups] == [
        ("", ("embed_tokens.weight", "layers.0.q_proj.weight"), 56, 1.0, 0.1),
        ("", ("norm.weight",), 4, 1.0, 0.0),
        ("v_proj", ("layers.0.v_proj.weight", "layers.10.v_proj.weight"), 16, 4.0, 0.1),
        ("v_proj", ("layers.0.v_proj.bias",), 2, 4.0, 0.0),
    ]


def test_of_several_patterns_the_last_one_counts() -> None:
    groups = make_groups(SHAPES, {"layers.*": 0.5, "layers.0": 2.0}, weight_decay=0.0)
    rates = {name: g.multiplier for g in groups for name in g.names}
    assert rates["layers.0.v_proj.weight"] == 2.0 and rates["layers.10.v_proj.weight"] == 0.5
    with pytest.raises(ConfigError, match="every weight of 'layers.0' is taken by a later pattern"):
        make_groups(SHAPES, {"layers.0": 2.0, "layers.*": 0.5}, weight_decay=0.0)


def test_a_pattern_is_a_run_of_whole_parts() -> None:
    name = "model.layers.1.self_attn.v_proj.weight"
    assert all(
        matches(p, name) for p in ("v_proj", "self_attn.v_proj", "layers.1", "[qv]_proj", "*_proj", name)
    )
    assert not any(
        matches(p, name) for p in ("proj", "layers.v_proj", "layers.11", "weight.v_proj", f"x.{name}")
    )


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("v_porj", "no trained weight is named 'v_porj'; did you mean v_proj or q_proj?"),
        (
            "c_attn",
            "no trained weight is named 'c_attn'; names are made of embed_tokens, weight, layers, q_proj",
        ),
    ],
)
def test_a_pattern_that_fits_nothing_names_its_neighbours(pattern: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"--learner.lr-multipliers: {sentence.replace('?', '.')}"):
        make_groups(SHAPES, {pattern: 2.0}, weight_decay=0.0)


@pytest.mark.parametrize(
    "text", ["v_proj", "v_proj=", "=4", "v_proj=fast", "v_proj=0", "v_proj=-1", "a=1,a=2"]
)
def test_multipliers_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="learner.lr_multipliers = "):
        LearnerConfig(lr_multipliers=text)


def test_the_first_step_of_adam_is_each_weights_own_rate() -> None:
    """Its first step is the rate times the gradient's sign."""
    moved = step(make_learner(lr_multipliers="v_proj=4,lm_head=0.1", max_grad_norm=1e9))
    for name, distance in moved.items():
        rate = 4e-3 if "v_proj" in name else 1e-4 if "lm_head" in name else 1e-3
        assert distance == pytest.approx(rate, rel=1e-3), name


def test_warm_up_multiplies_every_rate() -> None:
    learner = make_learner(lr_multipliers="v_proj=4", warmup_steps=2, max_grad_norm=1e9)
    rates = []
    for _ in range(3):
        step(learner)
        rates.append([group["lr"] for group in learner.optimizer.param_groups])
    rest, fast = ([r[k] for r in rates] for k in (0, -1))
    assert rest == pytest.approx([5e-4, 1e-3, 1e-3]) and fast == pytest.approx([2e-3, 4e-3, 4e-3])


def test_the_table_says_what_learns_how_fast() -> None:
    assert table(make_groups(SHAPES, {"v_proj": 4.0}, 0.0)[:3], 1e-6) == [
        "pattern   tensors  parameters  learning rate  decay",
        "the rest        2          56          1e-06      0",
        "the rest        1           4          1e-06      0",
        "v_proj          2          16          4e-06      0",
    ]


def plan_of(folder: Path, **learner: Any) -> tuple[str, ...]:
    """The pre-flight's section on learning rates."""
    cfg = TrainConfig(
        model=ModelConfig(name=str(folder)),
        data=DataConfig(name="task:chain", pool=4),
        reward=RewardConfig(workers=0),
        sampler=SamplerConfig(name="hf"),
        learner=LearnerConfig(learning_rate=1e-3, **learner),
        output_dir=str(folder / "run"),
    )
    plan, _ = prepare(cfg)
    return next((s.lines for s in plan.sections if s.title == "Learning rates"), ())


def test_the_pre_flight_knows_the_groups_before_a_weight_loads(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path, seed=0)
    (folder / "model.safetensors").unlink()
    assert plan_of(folder) == ()
    lines = plan_of(folder, lr_multipliers="v_proj=4")
    trained = {n: tuple(p.shape) for n, p in tiny_model(seed=0).named_parameters()}
    assert list(lines) == table(make_groups(trained, {"v_proj": 4.0}, 0.0), 1e-3)
    with pytest.raises(ConfigError, match="no trained weight is named 'v_porj'; did you mean v_proj"):
        plan_of(folder, lr_multipliers="v_porj=4")


@pytest.mark.parametrize("name", NEEDS)
def test_an_optimizer_that_is_not_installed_is_a_sentence(name: str) -> None:
    package = NEEDS[name]
    if importlib.util.find_spec(package):
        require_optimizer(name)
        return
    with pytest.raises(ConfigError, match=f"--learner.optimizer {name}: .* `pip install {package}`"):
        make_learner(optimizer=name)


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "adamw_torch_8bit"])
def test_a_restored_optimizer_goes_on_bit_for_bit(name: str) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} is not installed")
    learner, other = (
        make_learner(optimizer=name, lr_multipliers="v_proj=4", weight_decay=0.1) for _ in range(2)
    )
    step(learner)
    other.model.load_state_dict(learner.weights())
    saved = {key: tensor.clone() for key, tensor in learner.optimizer_tensors().items()}
    other.load_optimizer_tensors(saved, learner.updates)
    for gradient in (-0.5, 2.0):
        step(learner, gradient), step(other, gradient)
    assert all(
        torch.equal(p, q) for p, q in zip(learner.model.parameters(), other.model.parameters(), strict=True)
    )
    assert other.updates == 3


def test_a_state_that_names_other_weights_is_refused() -> None:
    with pytest.raises(RunError, match="optimizer state: nowhere.weight.exp_avg of shape .3,. does not fit"):
        make_learner().load_optimizer_tensors({"nowhere.weight|exp_avg": torch.zeros(3)}, 1)
