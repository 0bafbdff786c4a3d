"""Settings that do nothing are told before a run begins, and no setting that does something is."""

import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest

from rlkit import cli
from rlkit.algo_config import AlgoConfig
from rlkit.algo_own import SkpoConfig, SpoConfig
from rlkit.algo_presets import ALGO_CONFIGS, GrpoConfig, WReinforceConfig
from rlkit.build import algo_config, algorithm_class, idle_settings
from rlkit.build.idle import COMES_AS, READ_BY_OTHERS, names_read
from rlkit.cli.args import TrainArgs
from rlkit.cli.settings import parse, with_algo
from rlkit.commands import train
from rlkit.config import TrainConfig
from tests.bad_inputs import SMALL
from tests.models import save_tiny_model

RUNS = Path(__file__).parents[2] / "examples" / "runs"

REINFORCE = '''
"""A whole algorithm: log-probs pushed by the reward, and nothing else."""

from rlkit.algos.base import Stateless
from rlkit.algos.groups import collect_groups, judged
from rlkit.types import Credit


def credit_of(rollout, group):
    return Credit(
        rollout=rollout, advantages=[rollout.value - 0.5] * len(rollout.completion_ids), weight=1.0, share=1.0, group=group
    )


class Reinforce(Stateless):
    def __init__(self, cfg, sampling):
        self.cfg, self.sampling = cfg, sampling

    def collect(self, prompts, sample, seed):
        return collect_groups(prompts, sample, seed, self.cfg.num_generations, self.sampling)

    def credit(self, groups, rescored):
        return [credit_of(r, g) for g, group in enumerate(groups) for r in judged(group)]

    def loss(self, batch, out):
        term_BT = (out.logp_BT * batch.adv_BT).masked_fill(~batch.mask_BT, 0.0)
        return -term_BT.sum() / batch.denominator, {}
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def idle(cfg: AlgoConfig) -> list[str]:
    """The flags that are told."""
    return [told.partition(" does nothing")[0] for told in idle_settings(cfg, algorithm_class(cfg))]


def test_a_run_of_an_own_algorithm_tells_the_flags_that_it_never_reads(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file as a user writes it, through the command line, and it trains."""
    save_tiny_model(folder / "model", seed=0)
    (folder / "reinforce_alone.py").write_text(REINFORCE)
    own = "reinforce_alone.py:Reinforce"
    flags = f"{SMALL} --algo {own} --num-generations 3 --algo.beta 0.04 --algo.epsilon 0.3 --algo.top-entropy-quantile 0.5"
    assert cli.main(["train", *flags.split(), "--workers", "0", "--output-dir", "runs/own"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    for flag, name in (
        ("--algo.beta 0.04", "beta"),
        ("--algo.epsilon 0.3", "epsilon"),
        ("--algo.top-entropy-quantile 0.5", "high_entropy_BT"),
    ):
        assert f"{flag} does nothing: the code of {own} never reads `{name}`" in told
    assert told.count("does nothing") == 3, "num_generations is read"
    assert (folder / "runs/own/summary.json").is_file()


def test_every_setting_of_every_shipped_algorithm_is_read() -> None:
    refused = {"stage_positive_weight"}  # by the config, without the schedule that reads it
    for cfg in (*(kind() for kind in ALGO_CONFIGS.values()), WReinforceConfig(schedule="stage")):
        names = names_read(algorithm_class(cfg), type(cfg))
        assert names is not None
        known = {f.name for f in fields(cfg) if COMES_AS.get(f.name, f.name) in names} | READ_BY_OTHERS
        assert {f.name for f in fields(cfg)} - known <= refused, cfg.name


def test_a_setting_that_another_one_turns_off_is_told() -> None:
    assert idle(GrpoConfig(use_bias_correction_kl=False)) == ["--algo.no-use-bias-correction-kl"]
    assert idle(GrpoConfig(use_bias_correction_kl=False, beta=0.1)) == []
    assert idle(GrpoConfig(ref_model_sync_steps=9, beta=0.1)) == ["--algo.ref-model-sync-steps 9"]
    off = GrpoConfig(importance_sampling_correction=False, importance_sampling_clip_max=2.0)
    assert idle_settings(off, algorithm_class(off)) == [
        "--algo.importance-sampling-clip-max 2.0 does nothing with --algo.no-importance-sampling-correction"
    ]
    unscaled = SpoConfig(scale_rewards="none", scale_std="population")
    assert idle_settings(unscaled, algorithm_class(unscaled)) == [
        "--algo.scale-std population does nothing with --algo.scale-rewards none"
    ]
    assert idle(SkpoConfig(scale_rewards="none", scale_std="sample")) == [], (
        "its segments are scaled all the same"
    )
    assert idle(SkpoConfig(skip=False, skip_format="raw")) == ["--algo.skip-format raw"]


def test_no_run_file_of_ours_has_an_idle_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RUNS.parents[1])
    files = sorted(RUNS.glob("*.toml"))
    assert len(files) > 5
    for path in files:
        told = tomllib.loads(path.read_text())["algo"]
        cfg = replace(algo_config(told.pop("name")), **told)
        assert idle(cfg) == [], path.name


HEAD = """
from dataclasses import asdict, dataclass
from functools import cached_property, partial, wraps
from rlkit.algo_config import AlgoConfig
from rlkit.algos.family import Family
import rlkit.algos.ops as ops


class Helper:
    def __init__(self, cfg):
        self.eps = cfg.epsilon


def helper(cfg):
    return cfg.epsilon


def counted(method):
    @wraps(method)
    def inner(*args):
        return method(*args)
    return inner


"""


@pytest.mark.parametrize(
    ("number", "loss", "reads"),
    [
        (0, "def loss(self, batch, out): return 0, {}", False),
        (1, "def loss(self, batch, out): return self.cfg.epsilon, {}", True),
        (2, "def loss(self, batch, out): return [x * self.cfg.epsilon for x in (lambda: [1])()], {}", True),
        (3, "def loss(self, batch, out): return helper(self.cfg), {}", True),
        (4, "def loss(self, batch, out): return Helper(self.cfg), {}", True),
        (5, "def loss(self, batch, out): return super().loss(batch, out)", True),
        (6, "def loss(self, batch, out): return self.low, {}\n    @property\n    def low(self): return self.cfg.epsilon", True),
        (7, "@counted\n    def loss(self, batch, out): return self.cfg.epsilon, {}", True),
        (8, "def loss(self, batch, out): return partial(helper, self.cfg)(), {}", True),
        (9, "def loss(self, batch, out): return self.cfg.clip_high, {}", True),  # epsilon, where epsilon_high is none
        (10, "def loss(self, batch, out): return getattr(self.cfg, 'epsi' + 'lon'), {}", True),
        (11, "def loss(self, batch, out): return asdict(self.cfg), {}", True),
        (12, "def loss(self, batch, out): return self.low, {}\n    @cached_property\n    def low(self): return self.cfg.epsilon", True),
        (13, "def loss(self, batch, out): return 0, {}\n    def unused(self): return self.cfg.epsilon", False),
        (14, "def loss(self, batch, out): return ops.ppo_terms, {}", False),
    ],
)  # fmt: skip
def test_what_an_own_algorithm_reads(folder: Path, number: int, loss: str, reads: bool) -> None:
    """Derived from the family, with a loss of its own; `__init__` and `_shape` of the parent read the clip, so they go."""
    body = f"class Own(Family):\n    def __init__(self, cfg, sampling): self.cfg = cfg\n    {loss}\n"
    (folder / f"own_algorithm_{number}.py").write_text(HEAD + body)
    cfg = algo_config(f"own_algorithm_{number}.py:Own")
    assert idle(replace(cfg, epsilon=0.3)) == ([] if reads else ["--algo.epsilon 0.3"])


def test_a_default_of_the_author_s_own_is_no_setting_of_the_user_s(folder: Path) -> None:
    code = REINFORCE + (
        "\nfrom dataclasses import dataclass\nfrom rlkit.algo_config import AlgoConfig\n\n"
        "@dataclass(frozen=True, slots=True, kw_only=True)\nclass Mine(AlgoConfig):\n    epsilon: float = 0.05\n    push: float = 1.0\n\n"
        "Reinforce.Config = Mine\n"
    )
    (folder / "reinforce_mine.py").write_text(code)
    cfg = algo_config("reinforce_mine.py:Reinforce")
    assert idle(cfg) == []
    assert idle(replace(cfg, push=2.0)) == ["--algo.push 2.0"]  # type: ignore[call-arg]


def test_the_pre_flight_says_so(folder: Path) -> None:
    save_tiny_model(folder / "model", seed=0)
    words = [*SMALL.split(), "--algo.ref-model-sync-steps", "9"]
    cfg = parse(TrainArgs, with_algo(TrainConfig(), words), words, "rlkit train")
    told, ready = train.prepare(cfg.cfg)
    assert ready is not None and any(
        "--algo.ref-model-sync-steps 9 does nothing with" in w for w in told.warnings
    )
