"""The settings: bounds where they are declared, and a run's config.toml gives the run's config back."""

import random
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import tomli_w

from rlkit.algo_config import AlgoConfig, FamilyConfig
from rlkit.algo_own import SkpoConfig
from rlkit.algo_presets import (
    ALGO_CONFIGS,
    CispoConfig,
    GrpoConfig,
    GspoNConfig,
    NsrConfig,
    ReinforcePpConfig,
    RlooConfig,
    SapoConfig,
)
from rlkit.cli.args import EvalArgs, SftArgs, TrainArgs
from rlkit.cli.settings import parse, with_algo
from rlkit.config import (
    DataConfig,
    EvalConfig,
    LearnerConfig,
    ModelConfig,
    RewardConfig,
    SamplerConfig,
    SftConfig,
    TrainConfig,
)
from rlkit.errors import ConfigError
from rlkit.toml import to_toml


def read_back(cfg: Any, file: Path, kind: Any = TrainArgs) -> Any:
    """`cfg` as TOML, read by the command line."""
    file.write_text(tomli_w.dumps(to_toml(cfg)))
    args = ["--config", str(file)]
    start = with_algo(TrainConfig(), args) if kind is TrainArgs else type(cfg)()
    return parse(kind, start, args, "rlkit train").cfg


@pytest.mark.parametrize("name", ALGO_CONFIGS)
def test_a_run_s_config_gives_the_run_s_config_back(name: str, tmp_path: Path):
    default = TrainConfig(algo=ALGO_CONFIGS[name]())
    assert read_back(default, tmp_path / "config.toml") == default
    changed = replace(
        default,
        model=ModelConfig(name="my/model", dtype="bfloat16", revision="v1"),
        algo=replace(
            default.algo, num_generations=5, epsilon_high=None, importance_sampling_correction=False
        ),
        learner=LearnerConfig(learning_rate=3e-7, gradient_checkpointing=True),
        steps=7,
        token_budget=10**12,
        output_dir="runs/x",
    )
    assert read_back(changed, tmp_path / "config.toml") == changed


@pytest.mark.parametrize("cfg", [SkpoConfig(epsilon_high=None), GspoNConfig(epsilon_high=None)])
def test_none_overrules_a_default_that_is_not_none(cfg: AlgoConfig, tmp_path: Path):
    back = read_back(TrainConfig(algo=cfg), tmp_path / "config.toml")
    assert back.algo == cfg and back.algo.epsilon_high is None


def test_eval_and_sft_read_their_settings_back(tmp_path: Path):
    evaluation = EvalConfig(prompts=3, sampler=SamplerConfig(top_p=0.9, top_k=5, min_p=0.1))
    assert read_back(evaluation, tmp_path / "a.toml", EvalArgs) == evaluation
    warm_start = SftConfig(steps=3, completion_column="solution", data=DataConfig(name="x.jsonl"))
    assert read_back(warm_start, tmp_path / "b.toml", SftArgs) == warm_start


TEXTS = [
    "",
    "a b",
    "--help",
    "-h",
    "tab\tand\nline",
    'quote " and \\ back',
    "é 数 \u202e",
    "=",
    "@x",
    "[x]",
    "7",
    "true",
]
"""Not "None" or "none": the word for no value, where a setting may have none."""


def a_value(hint: Any, rng: random.Random) -> Any:
    """Any value of a field's type."""
    if get_origin(hint) is Literal:
        return rng.choice(get_args(hint))
    kind = rng.choice(get_args(hint) or (hint,))
    if kind is type(None):
        return None
    if kind is bool:
        return rng.random() < 0.5
    if kind is int:
        return rng.choice([rng.randint(-3, 3), rng.randint(2, 10**15)])
    if kind is float:
        return rng.choice([0.0, 1.0, rng.random(), 10 ** rng.uniform(-12, 12)])
    return rng.choice(TEXTS)


def a_config(kind: Any, rng: random.Random) -> Any:
    """A config of the class with some fields changed at random, within the bounds."""
    hints = get_type_hints(kind)
    cfg = kind()
    for f in fields(kind):
        if f.name == "name" and issubclass(kind, AlgoConfig):
            continue
        if rng.random() < 0.5:
            inner = getattr(cfg, f.name)
            value = a_config(type(inner), rng) if is_dataclass(inner) else a_value(hints[f.name], rng)
            try:
                cfg = replace(cfg, **{f.name: value})
            except ConfigError:
                continue
    return cfg


@pytest.mark.parametrize("name", ALGO_CONFIGS)
def test_any_config_survives_toml(name: str, tmp_path: Path):
    rng = random.Random(name)
    tried = 0
    while tried < 8:
        try:
            cfg = replace(a_config(TrainConfig, rng), algo=a_config(ALGO_CONFIGS[name], rng))
        except ConfigError:  # two rooms that do not go together
            continue
        tried += 1
        assert read_back(cfg, tmp_path / "config.toml") == cfg


BOUNDS: list[tuple[type[Any], dict[str, Any], str]] = [
    (DataConfig, {"pool": -1}, r"data.pool = -1: expected 0 \(endless\) or more"),
    (DataConfig, {"limit": 0}, "data.limit = 0: expected a positive number of rows"),
    (
        DataConfig,
        {"template": "Q:"},
        "data.template = 'Q:': expected auto, chat, plain or a text that contains",
    ),
    (RewardConfig, {"workers": -1}, "reward.workers = -1: expected 0 or more processes"),
    (RewardConfig, {"timeout": 0.0}, "reward.timeout = 0.0: expected a positive number of seconds"),
    (RewardConfig, {"max_error_share": 1.5}, r"reward.max_error_share = 1.5: expected a share in \[0, 1\]"),
    (
        SamplerConfig,
        {"temperature": -0.5},
        r"sampler.temperature = -0.5: expected 0 \(greedy\), or at least 0.01",
    ),
    (
        SamplerConfig,
        {"temperature": 0.005},
        r"sampler.temperature = 0.005: expected 0 \(greedy\), or at least",
    ),
    (TrainConfig, {"sampler": SamplerConfig(temperature=0.0)}, "temperature = 0.0: expected more than 0"),
    (
        EvalConfig,
        {"n": 2, "sampler": SamplerConfig(temperature=0.0)},
        "n = 2: expected 1 at sampler.temperature 0",
    ),
    (EvalConfig, {"n": 4, "k": "1,8"}, "k = '1,8': expected at most n = 4"),
    (EvalConfig, {"k": "1,..."}, "k = '1,...': expected a number after ..."),
    (EvalConfig, {"k": "one"}, "k = 'one': expected whole numbers"),
    (EvalConfig, {"batch": 0}, "batch = 0: expected at least 1 answer"),
    (SamplerConfig, {"top_p": 0.0}, "sampler.top_p = 0.0: expected 0 < top_p <= 1"),
    (
        SamplerConfig,
        {"gpu_memory_utilization": 1.0},
        "sampler.gpu_memory_utilization = 1.0: expected a share",
    ),
    (LearnerConfig, {"learning_rate": -1.0}, "learner.learning_rate = -1.0: expected a positive number"),
    (
        LearnerConfig,
        {"max_grad_norm": float("nan")},
        "learner.max_grad_norm = nan: expected a positive number",
    ),
    (AlgoConfig, {"num_generations": 0}, "algo.num_generations = 0: expected at least 1"),
    (AlgoConfig, {"epsilon": 1.1}, "algo.epsilon = 1.1: expected 0 < epsilon <= 1"),
    (AlgoConfig, {"beta": -0.1}, "algo.beta = -0.1: expected 0 or more"),
    (AlgoConfig, {"sync_ref_model": True}, "algo.sync_ref_model = True: expected off while algo.beta is 0"),
    (
        AlgoConfig,
        {"ref_model_mixup_alpha": 0.0},
        "algo.ref_model_mixup_alpha = 0.0: expected a share above 0",
    ),
    (AlgoConfig, {"ref_model_sync_steps": 0}, "algo.ref_model_sync_steps = 0: expected at least 1"),
    (AlgoConfig, {"entropy_coef": -1.0}, "algo.entropy_coef = -1.0: expected 0 or more"),
    (AlgoConfig, {"top_entropy_quantile": 0.0}, "algo.top_entropy_quantile = 0.0: expected a share above 0"),
    (AlgoConfig, {"off_policy_mask_threshold": 0.0}, "algo.off_policy_mask_threshold = 0.0: expected a pos"),
    (SkpoConfig, {"num_generations": 1}, "algo.num_generations = 1: expected at least 2"),
    (GrpoConfig, {"num_generations": 1}, "algo.num_generations = 1: expected at least 2"),
    (RlooConfig, {"num_generations": 1}, "algo.num_generations = 1: expected at least 2"),
    (
        ReinforcePpConfig,
        {"scale_rewards": "group"},
        "algo.scale_rewards = 'group': expected batch or batch_advantages or none, with algo.baseline = batch",
    ),
    (
        NsrConfig,
        {"scale_rewards": "batch"},
        "algo.scale_rewards = 'batch': expected none, with algo.baseline",
    ),
    (GrpoConfig, {"positive_weight": -1.0}, r"algo.negative_weight = \(-1.0, 1.0\): expected 0 or more"),
    (NsrConfig, {"negative_weight": 0.0}, r"= \(0.0, 0.0\): expected 0 or more, one of them above 0"),
    (RlooConfig, {"epsilon_high": 0.28}, r"= \(0.2, 0.28\): expected 0.2 and none, .* it does not clip"),
    (SapoConfig, {"epsilon": 0.1}, r"= \(0.1, None\): expected 0.2 and none, .* it does not clip"),
    (SapoConfig, {"sapo_temperature_neg": 0.0}, r"= \(1.0, 0.0\): expected positive numbers"),
    (
        GrpoConfig,
        {"sapo_temperature_pos": 2.0},
        r"= \(2.0, 1.05\): expected 1.0 and 1.05, with algo.surrogate",
    ),
    (GrpoConfig, {"delta": 1.2}, "algo.delta = 1.2: expected none, or .* above 1 . epsilon_high = 1.2"),
    (CispoConfig, {"delta": 9.0}, "algo.delta = 9.0: expected none, or with algo.surrogate = ppo"),
    (
        RlooConfig,
        {"importance_sampling_level": "sequence"},
        "algo.importance_sampling_level = 'sequence': expected token, with algo.surrogate = plain",
    ),
    (GrpoConfig, {"overlong_buffer": 1.0}, r"algo.overlong_buffer = 1.0: expected a share in \[0, 1\)"),
    (
        GrpoConfig,
        {"overlong_penalty": 0.5},
        "algo.overlong_penalty = 0.5: expected 1.0 while algo.overlong_b",
    ),
    (
        GrpoConfig,
        {"overlong_buffer": 0.2, "overlong_penalty": 0.0},
        "algo.overlong_penalty = 0.0: expected a positive number",
    ),
    (GrpoConfig, {"dynamic_sampling": -1}, r"algo.dynamic_sampling = -1: expected 0 \(off\) or more rounds"),
    (NsrConfig, {"dynamic_sampling": 2}, "algo.dynamic_sampling = 2: expected 0 with algo.baseline = none"),
    (
        SkpoConfig,
        {"split_low": 0.6},
        r"algo split range = \(0.6, 0.5\): expected 0 < split_low <= split_high < 1",
    ),
    (TrainConfig, {"steps": 0}, "steps = 0: expected at least 1"),
    (TrainConfig, {"mini_batches": 33}, "mini_batches = 33: expected at most prompts_per_step = 32"),
    (TrainConfig, {"max_completion_length": 1}, "max_completion_length = 1: expected at least 2 tokens"),
    (TrainConfig, {"sampler": SamplerConfig(top_k=5)}, "sampler.top_k = 5 in training: .* Leave it at 0"),
    (
        TrainConfig,
        {"sampler": SamplerConfig(min_p=0.1)},
        "sampler.min_p = 0.1 in training: .* Leave it at 0.0",
    ),
    (EvalConfig, {"n": 0}, "n = 0: expected at least 1"),
    (SftConfig, {"segment_share": 1.0}, r"segment_share = 1.0: expected a share in \[0, 1\)"),
]


@pytest.mark.parametrize(("kind", "values", "sentence"), BOUNDS)
def test_a_value_out_of_bounds_is_told_with_what_was_expected(
    kind: type[Any], values: dict[str, Any], sentence: str
):
    with pytest.raises(ConfigError, match=sentence):
        kind(**values)


def test_evaluation_may_truncate():
    assert EvalConfig(sampler=SamplerConfig(top_p=0.9, top_k=20, min_p=0.05)).sampler.top_k == 20


def test_the_upper_clip_follows_the_lower_unless_told():
    assert AlgoConfig(epsilon=0.1).clip_high == 0.1
    assert AlgoConfig(epsilon=0.1, epsilon_high=0.28).clip_high == 0.28


@pytest.mark.parametrize("config", [NsrConfig, ReinforcePpConfig])
def test_an_answer_that_is_not_compared_with_siblings_may_be_alone(config: type[FamilyConfig]):
    assert config(num_generations=1).traits["sample"] == "1 answer"


def test_updates_per_step():
    assert TrainConfig(mini_batches=4, num_iterations=3).updates_per_step == 12


def test_every_algorithm_names_itself():
    assert {name: config().name for name, config in ALGO_CONFIGS.items()} == {
        name: name for name in ALGO_CONFIGS
    }
