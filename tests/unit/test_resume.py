"""Which run is resumed, and what may be different then."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from rlkit.algo_presets import DapoConfig, GrpoConfig
from rlkit.checkpoint import About
from rlkit.commands.resume import (
    _told,
    _with_its_dtype,
    changes,
    find_run,
    require_same_maths,
    show_changes,
)
from rlkit.config import (
    LearnerConfig,
    LogConfig,
    ModelConfig,
    RewardConfig,
    SamplerConfig,
    TrackConfig,
    TrainConfig,
)
from rlkit.errors import ConfigError, RunError

BEFORE = TrainConfig()


def test_other_machinery_is_no_other_run() -> None:
    after = TrainConfig(
        steps=7,
        token_budget=100,
        output_dir="elsewhere",
        log=LogConfig(save_every=3, async_save=False),
        track=TrackConfig(every=0),
        sampler=SamplerConfig(name="hf", max_num_seqs=3),
        learner=LearnerConfig(micro_batch_tokens=100, shard="fsdp2", gradient_checkpointing=True),
        reward=RewardConfig(workers=7),
    )
    found = changes(BEFORE, after)
    assert len(found) == 12 and not any(change.maths for change in found)
    require_same_maths(found, allowed=False)


@pytest.mark.parametrize(
    "after",
    [
        replace(BEFORE, seed=1),
        replace(BEFORE, prompts_per_step=16),
        replace(BEFORE, learner=LearnerConfig(learning_rate=1e-3)),
        replace(BEFORE, learner=LearnerConfig(warmup_steps=3)),
        replace(BEFORE, sampler=SamplerConfig(temperature=0.7)),
        replace(BEFORE, reward=RewardConfig(name="exact")),
        replace(BEFORE, algo=GrpoConfig(beta=0.1)),
        replace(BEFORE, model=ModelConfig(dtype="bfloat16")),
    ],
)
def test_other_maths_is_refused_and_allowed_with_the_flag(after: TrainConfig) -> None:
    (change,) = changes(BEFORE, after)
    with pytest.raises(ConfigError, match="would make it another run; add --allow-changes") as told:
        require_same_maths([change], allowed=False)
    assert f"{change.name} = {change.new!r} (it was {change.old!r})" in str(told.value)
    require_same_maths([change], allowed=True)


def test_what_the_state_belongs_to_is_refused_with_the_flag_too() -> None:
    found = changes(BEFORE, replace(BEFORE, algo=DapoConfig()))
    with pytest.raises(ConfigError, match=r"algo.name = 'dapo' \(it was 'grpo'\) cannot change in a run"):
        require_same_maths(found, allowed=True)


def test_changes_are_shown_as_a_diff() -> None:
    console = Console(record=True, width=200, quiet=False, file=open(os.devnull, "w"))
    show_changes(changes(BEFORE, replace(BEFORE, seed=1, sampler=SamplerConfig(name="hf"))), console)
    assert console.export_text().splitlines() == [
        "changed since the checkpoint:",
        "  - sampler.name = 'auto'",
        "  + sampler.name = 'hf'   (the same maths)",
        "  - seed = 0",
        "  + seed = 1   (another run)",
    ]


def test_another_device_keeps_the_precision_that_auto_had() -> None:
    assert _with_its_dtype(BEFORE, {"dtype": "bfloat16"}).model.dtype == "bfloat16"  # this one has no GPU
    assert _with_its_dtype(BEFORE, {"dtype": "float32"}) == BEFORE == _with_its_dtype(BEFORE, {})
    asked = replace(BEFORE, model=ModelConfig(dtype="float32"))
    assert _with_its_dtype(asked, {"dtype": "bfloat16"}) == asked


def test_other_code_and_another_machine_are_told() -> None:
    now = About(versions={"torch": "2.13", "my.py": "bb"}, place={"ranks": 1, "device": "cpu"})
    assert _told({"torch": "2.12", "my.py": "aa"}, {"ranks": 8, "device": "cpu"}, now) == [
        "other code than the checkpoint's: torch 2.12 -> 2.13, my.py aa -> bb",
        "another machine than the checkpoint's: ranks 8 -> 1; the maths stays, last digits differ",
    ]
    assert _told(now.versions, now.place, now) == [] == _told({}, {}, now)


def test_latest_is_the_run_that_was_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="--resume latest: no run in .*runs; expected a folder runs/NAME"):
        find_run("latest")
    for i, name in enumerate(("b", "a", "c")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.toml").write_text("")
        os.utime(tmp_path / "runs" / name / "config.toml", (1000 + i, 1000 + i))
    (tmp_path / "runs/no-run").mkdir()
    assert find_run("latest") == Path("runs/c")
    (tmp_path / "runs/b/metrics.jsonl").write_text("")
    assert find_run("latest") == Path("runs/b") and find_run("runs/a") == Path("runs/a")
