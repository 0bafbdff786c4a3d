"""examples/: every file runs, every run file loads, and the numbers they hand on are worked out by hand."""

import importlib.util
import json
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console

from rlkit import cli
from rlkit.algo_config import AlgoConfig
from rlkit.algo_own import SkpoConfig
from rlkit.algo_presets import CispoConfig, DapoConfig, GspoConfig, GspoNConfig, NsrConfig
from rlkit.algos.base import Sampling
from rlkit.batch import TokenStats, make_minibatches
from rlkit.cli.args import TrainArgs
from rlkit.cli.settings import parse, with_algo
from rlkit.commands import train
from rlkit.config import TrainConfig
from rlkit.rewards import VerifierPool, make_verifier
from rlkit.types import Credit, Group, Prompt, Rollout, Score, Segment
from tests.models import byte_tokenizer, save_tiny_model, tiny_model

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
RUN_FILES = sorted((EXAMPLES / "runs").glob("*.toml"))
PAPERS = [path for path in RUN_FILES if not path.stem.startswith("tiny")]
CUSTOM = "examples/custom_algorithm.py:Ngrpo"
CHAIN = ("--data", "task:chain", "--data.pool", "8", "--reward.workers", "0")


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples are named from the root, and nothing is fetched."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), seed=0)


@pytest.fixture(scope="module")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows as a hub's mathematics data set has them."""
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    rows = [{"problem": f"What is {a} + 4?", "answer": str(a + 4)} for a in (3, 8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def config(*args: str) -> TrainConfig:
    """What `rlkit train ARGS` would run with."""
    cfg = parse(TrainArgs, with_algo(TrainConfig(), args), args, "rlkit train").cfg
    assert isinstance(cfg, TrainConfig)
    return cfg


# -- minimal_loop.py ----------------------------------------------------------------------------------------------------


def test_the_minimal_loop_runs(capsys: pytest.CaptureFixture[str]) -> None:
    history = example("minimal_loop").main(
        ["--model", "random", "--steps", "3", "--prompts", "2", "--group", "4"]
    )
    assert len(history) == 3
    assert capsys.readouterr().out.startswith("step   1  reward 0.000  0 of 2 groups mixed")


def test_the_minimal_loop_learns() -> None:
    """Random weights, and a reward for an answer that begins with an ASCII character."""
    loop = example("minimal_loop")
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    prompts = [Prompt(id=str(i), token_ids=[2, 10 + i, 3]) for i in range(4)]
    history = loop.train(
        tiny_model(seed=0),
        tokenizer,
        lambda step: prompts,
        lambda prompt, text: float(text[:1].isascii()),
        steps=12,
        max_tokens=3,
        learning_rate=3e-3,
        updates=2,
    )
    assert sum(history[:3]) / 3 < 0.8 < sum(history[-3:]) / 3


def test_the_minimal_loop_s_loss_by_hand() -> None:
    """Two answers of 2 and 1 tokens: -(1/2) [ (1.2 * 1 + 0.5 * 1) / 2 + (-0.8) ] with ratios 1.5, 0.5 and 0.5."""
    ratio_BT = torch.tensor([[9.0, 1.5, 0.5], [9.0, 0.5, float("inf")]])
    mask_BT = torch.tensor([[False, True, True], [False, True, False]])
    value = example("minimal_loop").loss(
        ratio_BT.log(), torch.zeros(2, 3), torch.tensor([1.0, -1.0]), mask_BT
    )
    assert value.item() == pytest.approx(-0.5 * (0.85 - 0.8), abs=1e-6)


def test_the_minimal_loop_scores_what_it_sampled() -> None:
    loop, model = example("minimal_loop"), tiny_model(seed=1)
    torch.manual_seed(0)
    answers = loop.sample(model, [[2, 10, 3], [2, 11, 3]], 4, 6, stop_id=1)
    again_BT = loop.logprobs(model, answers.ids_BT).detach().masked_fill(~answers.mask_BT, 0.0)
    assert answers.ids_BT.shape == (8, 9) and not answers.mask_BT[:, :3].any()
    assert torch.allclose(again_BT, answers.logp_BT, atol=1e-5)


# -- custom_verifier.py -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "text", "value"),
    [("6", "<now>\\boxed{6}", 1.0), ("6", "6, no, 7", 0.0), ("6", "six", 0.0), ("six", "6", None)],
)
def test_the_custom_verifier(reference: str, text: str, value: float | None) -> None:
    verify = make_verifier("examples/custom_verifier.py:LastNumber")
    score = verify(Prompt(id="a", token_ids=[], reference=reference), text)
    assert score.value == value and score.reason


def test_the_custom_function_joins_a_sum_in_worker_processes() -> None:
    verifier = make_verifier("exact+0.1*examples/custom_verifier.py:brief")
    with VerifierPool(verifier, 1, 60.0) as pool:
        (score,) = pool.score([(Prompt(id="a", token_ids=[], reference="6"), "x" * 200)])
    assert score.value == pytest.approx(0.05)
    assert score.parts == {"exact": 0.0, "brief": 0.5}


@pytest.mark.parametrize(
    "reward", ["examples/custom_verifier.py:LastNumber", "auto+0.1*examples/custom_verifier.py:brief"]
)
def test_the_custom_verifier_is_taken_by_the_command_line(reward: str, model_folder: Path) -> None:
    args = ["train", "--model", str(model_folder), *CHAIN, "--reward", reward, "--dry-run"]
    assert cli.main(args) == 0


# -- custom_algorithm.py ------------------------------------------------------------------------------------------------


def answer(value: float | None, *token_ids: int) -> Rollout:
    """A judged answer to the prompt [2]; value None: it could not be judged."""
    return Rollout(
        prompt_id="a",
        token_ids=[2, *token_ids],
        logprobs=[0.0] + [-1.0] * len(token_ids),
        segments=[
            Segment(kind="prompt", start=0, end=1),
            Segment(kind="completion", start=1, end=1 + len(token_ids)),
        ],
        policy_version=0,
        finish_reason="stop",
        score=Score(value),
    )


def group(*rollouts: Rollout) -> Group:
    return Group(prompt=Prompt(id="a", token_ids=[2]), rollouts=list(rollouts))


def made(*args: str) -> Any:
    """The example as the command line makes it."""
    from rlkit.build import make_algorithm

    cfg = config("--algo", CUSTOM, *args)
    return make_algorithm(cfg.algo, Sampling(max_completion_length=8, temperature=1.0))


def test_ngrpo_s_advantages_are_the_paper_s() -> None:
    """Its case of 1 right in 8: 1.76 and -0.50, where GRPO has 2.47 and -0.35; all wrong: -(1/9) / (1/3) = -1/3."""
    eight = [1.0] + [0.0] * 7
    algo = made("--algo.std-eps", "0")
    credits = algo.credit(
        [group(*(answer(v, 5, 1) for v in eight)), group(*(answer(0.0, 1) for _ in eight))], []
    )
    first = [c.advantages[0] for c in credits]
    assert first[0] == pytest.approx(1.76, abs=5e-3) and first[1:8] == pytest.approx([-0.50] * 7, abs=5e-3)
    assert first[8:] == pytest.approx([-1 / 3] * 8)
    assert [(c.weight, c.share, c.group) for c in credits[7:9]] == [(0.5, 1.0, 0), (1.0, 1.0, 1)]


def test_ngrpo_leaves_out_what_could_not_be_judged_and_gives_all_right_groups_nothing() -> None:
    """1 and 0.5 beside the imagined 2: mean 7/6, so -1/6 and -2/3 over the same deviation."""
    algo = made("--algo.max-reward", "2.0")
    one, half = algo.credit([group(answer(1.0, 5, 1), answer(0.5, 1), answer(None, 1))], [])
    assert half.advantages[0] == pytest.approx(4 * one.advantages[0]) and one.advantages[0] < 0
    assert [c.advantages for c in made().credit([group(answer(1.0, 1), answer(1.0, 1))], [])] == [
        [0.0],
        [0.0],
    ]


def test_ngrpo_s_loss_by_hand() -> None:
    """Ratios 1.3 at A > 0 and 0.8 at A < 0 are clipped to 1.24 and 0.84: no gradient; 0.9 at A < 0 pulls."""
    credits = [
        Credit(rollout=answer(v, 5), advantages=[a], weight=1.0, share=1.0)
        for v, a in ((1.0, 2.0), (0.0, -1.0), (0.0, -1.0))
    ]
    ((batch,),) = make_minibatches(credits, 1, 64, pad_id=0)
    old_BT = torch.zeros(3, 1)
    logp_BT = torch.tensor([[1.3], [0.8], [0.9]]).log().requires_grad_()
    stats = TokenStats(logp_BT=logp_BT, old_logp_BT=old_BT, entropy_BT=old_BT, num_high_entropy=3)
    value, metrics = made().loss(batch, stats)
    value.backward()
    assert value.item() == pytest.approx(-(1.24 * 2 - 0.84 - 0.9) / 3)
    assert logp_BT.grad is not None
    assert logp_BT.grad[:, 0].tolist() == pytest.approx([0.0, 0.0, 0.3])
    assert metrics["clip_ratio/region_mean"].value == pytest.approx(2 / 3)


def test_a_resumed_run_has_the_numbers_of_one_that_never_stopped(model_folder: Path, tmp_path: Path) -> None:
    """As the README says; with SKPO, whose memory of the prompts is part of what must survive."""
    flags = "train --algo skpo --reward examples/custom_verifier.py:brief --sampler hf --prompts-per-step 4"
    flags += " --num-generations 3 --max-completion-length 12 --learning-rate 1e-3 --eval-prompts 2 --log.no-tensorboard"
    args = [*flags.split(), *CHAIN, "--model", str(model_folder), "--output-dir"]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert cli.main([*args, str(whole), "--steps", "4"]) == 0
    assert cli.main([*args, str(halves), "--steps", "2"]) == 0
    assert cli.main(["train", "--resume", str(halves), "--steps", "4"]) == 0
    assert numbers(whole) == numbers(halves)
    assert len(numbers(whole)) == 4


def numbers(folder: Path) -> list[dict[str, float]]:
    """The metrics of a run, without what a clock measured."""
    pool = ("items_per_second", "queue_seconds", "judge_seconds", "busy")
    clocks = ("timing_s", "step_time", "tokens_per_second", *(f"verifier/{name}" for name in pool))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(clocks)} for line in lines]


def test_a_custom_algorithm_trains(model_folder: Path, tmp_path: Path) -> None:
    """Two steps, the hf sampler, a reward that random weights do get, two updates a step."""
    folder = tmp_path / "run"
    flags = f"--algo {CUSTOM} --reward examples/custom_verifier.py:brief --sampler hf --steps 2"
    flags += " --prompts-per-step 4 --mini-batches 2 --num-generations 3 --max-completion-length 6"
    flags += " --max-prompt-length 40 --eval-prompts 2 --log.no-tensorboard --learning-rate 1e-3"
    cfg = config(*flags.split(), *CHAIN, "--model", str(model_folder), "--output-dir", str(folder))
    told, ready = train.prepare(cfg)
    assert ready is not None, told.problems
    outcome = train.run(ready, Console(quiet=True))
    assert outcome.steps == 2
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["grad_norm"] > 0 for line in lines)
    assert tomllib.loads((folder / "config.toml").read_text())["algo"]["name"] == CUSTOM
    assert config("--config", str(folder / "config.toml")) == ready.cfg


# -- runs/*.toml --------------------------------------------------------------------------------------------------------


SKPO = (
    "128 prompts x (8 segments + 8 continuations) = 2048 samples; trained: 128 segments + 1024 continuations"
)
PLANS = {
    "skpo_qwen2.5-math-7b": f"{SKPO} -> 4 updates of 288",
    "skpo_llama-3.2-3b": f"{SKPO} -> 4 updates of 288",
    "grpo_qwen2.5-math-7b": "128 prompts x 8 = 1024 rollouts -> 4 updates of 256",
    "grpo_llama-3.2-3b": "128 prompts x 8 = 1024 rollouts -> 4 updates of 256",
    "gspo_qwen2.5-math-7b": "128 prompts x 8 = 1024 rollouts -> 4 updates of 256",
    "dapo_qwen2.5-math-7b": "128 prompts x 8 = 1024 rollouts",
    "cispo_qwen2.5-math-7b": "128 prompts x 8 = 1024 rollouts",
    "grpo_n_math": "1024 prompts x 8 = 8192 rollouts -> 4 updates of 2048",
    "gspo_n_math": "1024 prompts x 8 = 8192 rollouts -> 4 updates of 2048",
    "nsr_math": "1024 prompts x 8 = 8192 rollouts -> 4 updates of 2048",
    "tiny_skpo": "trained: 32 segments + 256 continuations -> 1 update of 288",
}


def test_the_plans_are_of_all_run_files() -> None:
    assert {path.stem for path in RUN_FILES} == set(PLANS)


def local(path: Path) -> tuple[str, ...]:
    """The data of the hub replaced by a file."""
    return ("--data", str(path), "--data.held-out", str(path))


def dry_run(path: Path, *args: str) -> int:
    return cli.main(["train", "--config", str(path), "--reward.workers", "0", *args, "--dry-run"])


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.stem)
def test_a_run_file_is_planned_without_a_network(
    path: Path, data_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = local(data_file) if path in PAPERS else ()
    assert dry_run(path, *data) == 0
    plan = " ".join(capsys.readouterr().err.split())
    assert PLANS[path.stem] in plan


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_a_run_file_is_ready_with_a_model_at_hand(path: Path, model_folder: Path, data_file: Path) -> None:
    """Nothing but model and data, which a test cannot fetch, stands between a run file and its first step."""
    flags = ("--config", str(path), "--model", str(model_folder), "--reward.workers", "0")
    told, ready = train.prepare(config(*flags, *local(data_file)))
    assert ready is not None, told.problems


def test_skpo_s_run_files_are_the_paper_s_and_so_are_the_defaults() -> None:
    for path in (path for path in PAPERS if path.stem.startswith("skpo")):
        cfg = config("--config", str(path))
        assert cfg.algo == SkpoConfig()
        assert (cfg.steps, cfg.prompts_per_step, cfg.mini_batches) == (500, 128, 4)
        assert (cfg.learner.learning_rate, cfg.learner.warmup_steps, cfg.learner.weight_decay) == (
            1e-6,
            10,
            0.1,
        )


def test_the_two_models_of_a_pair_differ_in_the_model_alone() -> None:
    for algo in ("skpo", "grpo"):
        one, other = (
            tomllib.loads((EXAMPLES / "runs" / f"{algo}_{model}.toml").read_text())
            for model in ("qwen2.5-math-7b", "llama-3.2-3b")
        )
        assert one.pop("model") != other.pop("model")
        assert one == other


def settings(table: dict[str, Any], prefix: str = "") -> Sequence[str]:
    return [
        name
        for key, value in table.items()
        for name in (settings(value, f"{key}.") if isinstance(value, dict) else [f"{prefix}{key}"])
    ]


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_every_setting_of_a_run_file_names_its_source(path: Path) -> None:
    marks = ("[paper", "[code", "[secondary", "[inferred", "[ours")
    told, lines = 0, path.read_text().splitlines()
    for number, line in enumerate(lines):
        if "=" in line.partition("#")[0]:
            above = number
            while lines[above - 1].startswith("#"):
                above -= 1
            words = " ".join(lines[above : number + 1])
            told += 1
            is_the_subject = lines[number - 1] == "[algo]"
            assert is_the_subject or any(mark in words for mark in marks), f"{path.name}:{number + 1}: {line}"
    assert told == len(settings(tomllib.loads(path.read_text())))


def test_a_custom_algorithm_s_settings_are_its_own(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(f'[algo]\nname = "{CUSTOM}"\nmax_reward = 2.0\n')
    cfg = config("--config", str(file)).algo
    assert isinstance(cfg, AlgoConfig) and type(cfg).__name__ == "NgrpoConfig"
    assert (cfg.max_reward, cfg.epsilon, cfg.clip_high) == (2.0, 0.16, 0.24)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("nsr_math", NsrConfig(entropy_coef=1e-4)),
        ("gspo_n_math", GspoNConfig()),
        ("gspo_qwen2.5-math-7b", GspoConfig()),
        ("dapo_qwen2.5-math-7b", DapoConfig()),
        ("cispo_qwen2.5-math-7b", CispoConfig(overlong_buffer=0.2, dynamic_sampling=4)),
    ],
)
def test_the_presets_are_the_papers_settings(file: str, expected: AlgoConfig) -> None:
    """What a run file says of its algorithm is the preset's default, but for what docs/papers.md calls the paper's own."""
    assert config("--config", str(EXAMPLES / "runs" / f"{file}.toml")).algo == expected


def test_the_baselines_of_skpo_s_paper_differ_in_the_algorithm_alone() -> None:
    one, *others = (
        tomllib.loads((EXAMPLES / "runs" / f"{algo}_qwen2.5-math-7b.toml").read_text())
        for algo in ("grpo", "gspo", "dapo", "cispo")
    )
    for other in others:
        assert one["algo"] != other.pop("algo") and {**one, **other} == one


def test_an_algorithm_without_the_small_answers_is_told_where_they_are(tmp_path: Path) -> None:
    from rlkit.build import algo_config
    from rlkit.errors import ConfigError

    file = tmp_path / "mine.py"
    methods = "\n".join(
        f"    def {name}(self, *args): ..." for name in ("collect", "credit", "loss", "metrics")
    )
    file.write_text(f"class Mine:\n{methods}\n")
    with pytest.raises(
        ConfigError, match="has no prompt_weights, .*load_state_dict; derive it from .*Stateless"
    ):
        algo_config(f"{file}:Mine")
