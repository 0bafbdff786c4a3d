"""The whole loop on a real (tiny, random) model: equal seeds give equal runs, and a run stopped and resumed is the run that never was."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rlkit import build, loop
from rlkit.algo_presets import ALGO_CONFIGS
from rlkit.algos.base import Sampling
from rlkit.algos.ops import seed_of
from rlkit.analysis.store import read_metrics, read_rollouts
from rlkit.commands import train
from rlkit.config import (
    DataConfig,
    LearnerConfig,
    LogConfig,
    ModelConfig,
    RewardConfig,
    SamplerConfig,
    TrainConfig,
)
from rlkit.errors import RlkitError, RolloutError
from rlkit.samplers.scripted import Answer, ScriptedSampler
from rlkit.types import Prompt, Score
from rlkit.verify import Judge
from tests import verdicts
from tests.models import save_tiny_model
from tests.rollouts import question

ROOT = Path(__file__).parents[2]
POOL = ("items_per_second", "queue_seconds", "judge_seconds", "busy")
CLOCK = ("timing_s/", "step_time", "tokens_per_second", *(f"verifier/{name}" for name in POOL))
"""Metrics that a clock makes: the only ones that two equal runs do not share."""
QUIET = Console(quiet=True)
OWN: dict[str, dict[str, Any]] = {
    "dapo": {
        "algo_changes": {"dynamic_sampling": 3},
        "data": DataConfig(name="task:chain", pool=24),
        "reward": RewardConfig(name="tests.verdicts:Uneven", workers=0),
    },
    "spo": {"algo_changes": {"num_generations": 1, "initial_samples": 2}, "prompts_per_step": 5},
    "w_reinforce": {"algo_changes": {"schedule": "stage", "positive_weight": 0.5}},
    "vineppo": {  # half of the byte tokenizer's tokens are no text by themselves, and read as U+FFFD
        "algo_changes": {"num_continuations": 2, "max_steps": 3, "step_separator": "\ufffd"}
    },
}
"""What an algorithm's runs have of their own."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), seed=3)


def config(model: Path, folder: Path, algo: str = "grpo", **changes: Any) -> TrainConfig:
    """4 steps of 4 prompts x 4 answers of at most 8 tokens, from a pool of 6; two updates a step, two checkpoints, evaluations."""
    log = {"save_every": 2, "eval_every": 2, "eval_prompts": 3, "show_every": 0, "tensorboard": False}
    log |= changes.pop("log", {})
    changes = {**OWN.get(algo, {}), **changes}
    algo_changes = {"num_generations": 4, **changes.pop("algo_changes", {})}
    return TrainConfig(
        **{
            "model": ModelConfig(name=str(model)),
            "data": DataConfig(name="task:chain", pool=6),
            "reward": RewardConfig(name="tests.verdicts:Checksum", workers=0),
            "algo": ALGO_CONFIGS[algo](**algo_changes),
            "sampler": SamplerConfig(name="hf"),
            "learner": LearnerConfig(learning_rate=1e-3, warmup_steps=3, micro_batch_tokens=150),
            "log": LogConfig(**log),
            "steps": 4,
            "prompts_per_step": 4,
            "mini_batches": 2,
            "max_completion_length": 8,
            "seed": 5,
            "output_dir": str(folder),
            **changes,
        }
    )


def run(cfg: TrainConfig, *, resume: bool = False) -> train.Outcome:
    told, ready = train.prepare(cfg)
    assert ready is not None, told.problems
    return train.run(ready, QUIET, resume=Path(cfg.output_dir or "") if resume else None)


def facts(folder: Path, steps: range = range(1, 5)) -> dict[str, Any]:
    """Everything that two equal runs share, in plain values and bytes."""
    last = folder / "checkpoints" / f"step-{steps[-1]:06d}"
    lines = read_metrics(folder)
    return {
        "metrics": [{k: v for k, v in line.items() if not k.startswith(CLOCK)} for line in lines],
        "rollouts": [read_rollouts(folder, step) for step in steps],
        "evaluations": folder.joinpath("evaluations.jsonl").read_text(),
        "weights": (last / "model.safetensors").read_bytes(),
        "optimizer": {k: v.tolist() for k, v in load_file(last / "rlkit" / "optimizer.safetensors").items()},
        "algorithm": (last / "rlkit" / "algo.safetensors").read_bytes(),
        "state": json.loads((last / "rlkit" / "state.json").read_text()),
    }


def assert_equal_runs(one: Path, other: Path) -> None:
    a, b = facts(one), facts(other)
    for name, value in a.items():
        assert value == b[name], f"{name} differ"


whole_runs: dict[str, Path] = {}


@pytest.fixture(params=["grpo", "gspo_n", "skpo"])
def whole(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """An algorithm and its run of 4 steps, made once."""
    algo = request.param
    if algo not in whole_runs:
        folder = tmp_path_factory.mktemp(algo)
        run(config(model, folder, algo))
        whole_runs[algo] = folder
    return algo, whole_runs[algo]


def test_two_runs_with_one_seed_are_equal_bit_for_bit(
    whole: tuple[str, Path], model: Path, tmp_path: Path
) -> None:
    run(config(model, tmp_path, whole[0]))
    assert_equal_runs(whole[1], tmp_path)


def test_a_run_learns_and_says_so(whole: tuple[str, Path], model: Path) -> None:
    """The comparison above would hold for runs that do nothing, too."""
    algo, folder = whole
    lines = read_metrics(folder)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(line["grad_norm"] > 0 and line["entropy"] > 0 for line in lines)
    assert [line["learning_rate"] for line in lines] == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3])
    assert [("eval/pass@1" in line) for line in lines] == [False, True, False, True]
    assert lines[0]["sampling/sampling_logp_difference/max"] < 2e-5
    assert {line["staleness"] for line in lines} == {0.0}
    tokens = sum(
        len(r["token_ids"]) - r["prompt_tokens"] for s in range(1, 5) for r in read_rollouts(folder, s)
    )
    assert lines[-1]["num_tokens"] == tokens if algo != "skpo" else lines[-1]["num_tokens"] > tokens
    versions = [{r["policy_version"] for r in read_rollouts(folder, step)} for step in range(1, 5)]
    assert versions == [{0}, {2}, {4}, {6}]
    before = load_file(model / "model.safetensors")
    after = load_file(folder / "checkpoints" / "step-000004" / "model.safetensors")
    assert all(not torch.equal(before[n], after[n]) for n in before)


def test_another_seed_is_another_run(whole: tuple[str, Path], model: Path, tmp_path: Path) -> None:
    run(config(model, tmp_path, whole[0], seed=6, steps=1))
    assert facts(tmp_path, range(1, 2))["rollouts"][0] != facts(whole[1])["rollouts"][0]


@pytest.mark.parametrize(
    "whole", ["grpo", "gspo_n", "skpo", "dapo", "spo", "vineppo", "w_reinforce"], indirect=True
)
def test_two_steps_and_a_resume_are_the_run_that_never_stopped(
    whole: tuple[str, Path], model: Path, tmp_path: Path
) -> None:
    algo, folder = whole
    run(config(model, tmp_path, algo, steps=2))
    outcome = run(config(model, tmp_path, algo), resume=True)
    assert (outcome.steps, outcome.before) == (4, None)
    assert_equal_runs(folder, tmp_path)


@pytest.mark.parametrize("whole", ["dapo"], indirect=True)
def test_groups_of_equal_scores_are_replaced_while_rounds_are_left(whole: tuple[str, Path]) -> None:
    """Every step is played again from its stored rollouts."""
    all_rounds = []
    for step, line in zip(range(1, 5), read_metrics(whole[1]), strict=True):
        rows = read_rollouts(whole[1], step)
        groups = [rows[i : i + 4] for i in range(0, len(rows), 4)]
        assert all(len({r["prompt_id"] for r in group}) == 1 for group in groups)
        spread = [len({r["score"] for r in group}) > 1 for group in groups]
        drawn, kept, rounds = 0, 0, 0
        while kept < 4 and rounds < 4:
            missing = 4 - kept
            kept += sum(spread[drawn : drawn + missing])
            drawn, rounds = drawn + missing, rounds + 1
        assert drawn == len(groups)  # as many as were missing, round by round
        assert [line[f"groups/{name}"] for name in ("prompts", "kept", "rounds")] == [drawn, kept, rounds]
        trained = [any(r["advantages"] is not None for r in group) for group in groups]
        assert trained == spread
        right = [{r["score"] for r in group} == {1.0} for group in groups]
        assert (line["groups/total"], line["groups/all_right"]) == (drawn, sum(right))
        assert line["groups/all_wrong"] == drawn - kept - sum(right)
        assert line["reward"] == pytest.approx(sum(r["score"] for r in rows) / len(rows))
        all_rounds.append(rounds)
    assert max(all_rounds) > 1


def test_every_round_has_seeds_of_its_own_and_the_first_keeps_the_step_s(model: Path, tmp_path: Path) -> None:
    cfg = config(model, tmp_path, "dapo")

    def first_seeds(dynamic_sampling: int) -> list[list[int]]:
        algo = build.make_algorithm(
            replace(cfg.algo, dynamic_sampling=dynamic_sampling),
            Sampling(max_completion_length=8, temperature=1.0),
        )
        sampler = ScriptedSampler(lambda request, i: Answer([1]), stop_ids=[1])
        judge = Judge(AllRight(), lambda ids: "", max_error_share=0.0)
        drawn = loop._sample(cfg, 7, Endless(), loop._Counted(sampler), judge, algo, loop._Clock(Silent()))
        assert (len(drawn.groups), drawn.rounds) == (len(sampler.requests), dynamic_sampling + 1)
        seeds = [r.seed for r in sampler.requests]
        assert len(set(seeds)) == len(seeds)
        return [seeds[i : i + 4] for i in range(0, len(seeds), 4)]

    assert first_seeds(2)[0] == first_seeds(0)[0] == [seed_of(seed_of(5, "step", 7), i) for i in range(4)]


class Endless:
    """Data of ever new questions."""

    def __init__(self) -> None:
        self.taken = 0

    def take(self, n: int, weights: object) -> list[Prompt]:
        self.taken += n
        return [question(str(i)) for i in range(self.taken - n, self.taken)]

    def state_dict(self) -> dict[str, Any]:
        return {}


class AllRight:
    """A scorer."""

    def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        return [Score(1.0)] * len(items)


class Silent:
    """A view."""

    def phase(self, name: str) -> None: ...
    def step(self, step: int, metrics: object) -> None: ...
    def sample(self, step: int, groups: object) -> None: ...
    def say(self, sentence: str) -> None: ...


def test_a_step_whose_groups_all_have_equal_scores_trains_nothing_and_goes_on(
    model: Path, tmp_path: Path
) -> None:
    reward = RewardConfig(name="tests.unit.test_loop:right", workers=0)
    cfg = config(model, tmp_path, "dapo", reward=reward, steps=2, log={"eval_every": 0})
    run(cfg)
    lines = read_metrics(tmp_path)
    assert [(m["groups/kept"], m["groups/rounds"], m["groups/prompts"]) for m in lines] == [(0, 4, 16)] * 2
    assert [m["trained_tokens"] for m in lines] == [0, 0]
    before = load_file(model / "model.safetensors")
    after = load_file(tmp_path / "checkpoints" / "step-000002" / "model.safetensors")
    assert all(torch.equal(before[n], after[n]) for n in before)


@pytest.mark.parametrize("whole", ["spo", "vineppo"], indirect=True)
def test_what_is_sampled_for_values_is_judged_and_stored_but_not_trained(whole: tuple[str, Path]) -> None:
    algo, folder = whole
    lines = read_metrics(folder)
    for step, line in enumerate(lines, start=1):
        rows = read_rollouts(folder, step)
        trained = [r for r in rows if r["advantages"] is not None]
        assert 0 < len(trained) < len(rows) or (algo, step) != ("spo", 1)
        assert all(r["outcome"] in ("score", "skip") for r in rows)
        assert line["groups/prompts"] == line["groups/kept"] == (5 if algo == "spo" else 4)
        assert line["grad_norm"] > 0
    if algo == "spo":
        assert lines[0]["spo/drift"] == 0.0 < lines[-1]["spo/drift"]
        assert len(read_rollouts(folder, 1)) == 5 * (1 + 2)
        assert lines[-1]["spo/prompts_met"] == 6
    else:
        assert all(1 < line["vineppo/steps"] <= 3 for line in lines)
        assert lines[0]["vineppo/continuations"] == len(read_rollouts(folder, 1)) - 4 * 4


@pytest.mark.slow
def test_a_resume_on_vllm_is_the_run_that_never_stopped_too(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    vllm = {"sampler": SamplerConfig(name="vllm"), "max_prompt_length": 64}
    run(config(model, tmp_path / "whole", "skpo", **vllm))
    run(config(model, tmp_path / "parts", "skpo", steps=2, **vllm))
    run(config(model, tmp_path / "parts", "skpo", **vllm), resume=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def test_a_run_stopped_before_its_first_checkpoint_goes_on_from_its_beginning(
    whole: tuple[str, Path], model: Path, tmp_path: Path
) -> None:
    algo, folder = whole
    run(config(model, tmp_path, algo, steps=1))
    shutil.rmtree(tmp_path / "checkpoints")
    run(config(model, tmp_path, algo), resume=True)
    assert_equal_runs(folder, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("whole", ["skpo", "grpo", "gspo_n"], indirect=True)
def test_a_killed_process_and_a_resume_are_the_run_that_never_stopped(
    whole: tuple[str, Path], model: Path, tmp_path: Path
) -> None:
    """Killed by the operating system in the middle of step 3, after the checkpoint of step 2."""
    algo, folder = whole
    cfg = config(model, tmp_path, algo)
    code = (
        "from tests.unit.test_loop import *\nrun(config(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(model), str(tmp_path), algo],
        env={**os.environ, verdicts.HOLD: str(tmp_path)},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "held").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert (tmp_path / "held").exists(), errors.decode()[-2000:]
    assert [m["step"] for m in read_metrics(tmp_path)] == [1, 2]
    run(cfg, resume=True)
    assert_equal_runs(folder, tmp_path)


def test_ctrl_c_finishes_the_step_saves_it_and_can_be_resumed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setenv(verdicts.INTERRUPT, str(tmp_path / "stopped"))
    cfg = config(model, tmp_path / "stopped", "skpo", log={"save_every": 0, "eval_every": 0})
    with pytest.raises(RlkitError, match="stopped after step 2; continue with `rlkit train --resume"):
        run(cfg)
    assert signal.getsignal(signal.SIGINT) is handler
    assert sorted(p.name for p in (tmp_path / "stopped" / "checkpoints").iterdir()) == [
        "latest",
        "step-000002",
    ]
    run(cfg, resume=True)
    run(replace(cfg, output_dir=str(tmp_path / "whole")))
    assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")


def test_a_token_budget_ends_the_run_after_the_step_that_spends_it(model: Path, tmp_path: Path) -> None:
    outcome = run(config(model, tmp_path, token_budget=150, steps=50, log={"eval_every": 0}))
    spent = [line["num_tokens"] for line in read_metrics(tmp_path)]
    assert spent[-2] < 150 <= spent[-1] == outcome.sampled_tokens and outcome.steps == len(spent)
    assert (tmp_path / "checkpoints" / f"step-{outcome.steps:06d}").is_dir()


def test_metric_lines_can_be_thinned_but_those_of_tracked_steps_and_the_last(
    model: Path, tmp_path: Path
) -> None:
    run(
        config(
            model, tmp_path, steps=5, log={"every": 3, "eval_every": 0, "rollouts": False, "save_every": 0}
        )
    )
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 3, 5]
    assert list((tmp_path / "rollouts").iterdir()) == []
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["latest", "step-000005"]


def test_the_last_checkpoint_is_the_policy_that_was_trained(whole: tuple[str, Path]) -> None:
    folder = whole[1] / "checkpoints" / "step-000004"
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    saved = load_file(folder / "model.safetensors")
    assert all(torch.equal(loaded.state_dict()[n], w) for n, w in saved.items())
    with torch.no_grad():
        assert torch.isfinite(loaded(torch.arange(2, 20)[None]).logits).all()


def test_a_verifier_that_mostly_fails_stops_the_run(model: Path, tmp_path: Path) -> None:
    reward = RewardConfig(name="tests.unit.test_loop:broken", workers=0)
    with pytest.raises(
        RolloutError, match="1 of 1 verdicts are errors, more than --reward.max-error-share 0.2"
    ):
        run(
            config(
                model,
                tmp_path,
                reward=reward,
                log={"eval_prompts": 1, "eval_every": 0},
                data=DataConfig(name="task:chain", pool=6),
            )
        )


def test_code_that_draws_from_global_generators_is_resumed_too(model: Path, tmp_path: Path) -> None:
    """A reward of somebody's own, in this process."""
    reward = RewardConfig(name="tests.unit.test_loop:lucky", workers=0)
    for name, steps in (("whole", 4), ("parts", 2)):
        run(config(model, tmp_path / name, reward=reward, steps=steps))
    random.seed(0)  # whatever it was
    np.random.seed(0)
    run(config(model, tmp_path / "parts", reward=reward), resume=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    assert len({r["score"] for r in read_rollouts(tmp_path / "whole", 4)}) > 4


def lucky(prompt: object, text: str) -> float:
    return (random.random() + np.random.rand() + float(torch.rand(()))) / 3


def broken(prompt: object, text: str) -> None:
    raise ValueError("not today")


def right(prompt: object, text: str) -> float:
    return 1.0
