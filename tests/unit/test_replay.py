"""Bad values injected for real into whole runs: the step is skipped, dumped, counted, and `rlkit replay` says where it began."""

import json
from pathlib import Path

import pytest

from rlkit.analysis.store import read_metrics
from rlkit.cli import main
from tests.models import save_tiny_model

ALGO = """
from rlkit.algos.family import Family
from rlkit.algo_presets import DrGrpoConfig
from rlkit.types import Credit
from dataclasses import replace

class Config(DrGrpoConfig): ...

class Algo(Family):
    Config = DrGrpoConfig
    done = 0
    def credit(self, groups, rescored):
        credits = super().credit(groups, rescored)
        self.done += 1
        if self.done in {bad}:
            k = max(range(len(credits)), key=lambda k: len(credits[k].advantages))
            credits[k] = replace(credits[k], advantages=[1.0, float("nan"), *credits[k].advantages[2:]])
        return credits
"""
REWARD = """
def huge(prompt, text):
    return 3e38 if len(text) % 2 else -3e38

"""
SMALL = (
    "--sampler hf --data task:chain --pool 8 --prompts-per-step 2 --num-generations 4 --max-completion-length 6 --workers 0 "
    "--no-tensorboard --eval-prompts 2"
).split()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_tiny_model(tmp_path / "model", seed=0, tied=True)
    (tmp_path / "huge.py").write_text(REWARD)
    (tmp_path / "beyond.py").write_text("def beyond(prompt, text):\n    return 1e39\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*args: str) -> int:
    return main(["train", "--model", "model", "--output-dir", "run", *SMALL, *args])


def algo_file(name: str, bad: set[int]) -> str:
    """An algorithm whose advantages are not finite in these steps. name: a module is imported once."""
    Path(f"{name}.py").write_text(ALGO.replace("{bad}", str(bad)))
    return f"{name}.py:Algo"


def test_a_nan_advantage_costs_one_update_and_replay_names_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    algo = algo_file("bad_once", {2})
    assert train("--algo", algo, "--steps", "3", "--track.every", "1") == 0
    assert "`rlkit replay run/bad_updates/update-000001` says where" in capsys.readouterr().err.replace(
        "\n", " "
    )
    assert [m["skipped_updates"] for m in read_metrics(folder / "run")] == [0.0, 1.0, 0.0]
    dumps = list((folder / "run" / "bad_updates").iterdir())
    assert [d.name for d in dumps] == ["update-000001"]
    assert main(["replay", "run/bad_updates/update-000001"]) == 0
    said = capsys.readouterr().out
    assert "the loss is nan and the norm of its gradient nan (when it was skipped: nan and nan;" in said
    assert (
        "the first value that is not finite: advantage of rollout" in said
        and "completion token 1: nan" in said
    )
    assert main(["replay", "run/bad_updates/update-000001", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["repeated"] and told["places"][0]["token"] == 1


def test_too_many_end_the_run_and_at_most_three_are_dumped(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    algo = algo_file("bad_always", set(range(1, 9)))
    assert train("--algo", algo, "--steps", "9", "--max-skipped-share", "0.4", "--track.every", "0") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "5 of 5 updates were skipped, more than --learner.max-skipped-share 0.4 allows" in said
    assert "3 dumps lie in run/bad_updates already" in said
    names = sorted(p.name for p in (folder / "run" / "bad_updates").iterdir())
    assert names == ["update-000000", "update-000001", "update-000002"]


def test_a_gradient_that_overflows_for_huge_rewards_is_traced_to_a_layer(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--reward", "huge.py:huge", "--algo", "dr_grpo", "--steps", "1", "--track.every", "0"]
    assert train(*args) == 0
    assert [m["skipped_updates"] for m in read_metrics(folder / "run")] == [1.0]
    capsys.readouterr()
    assert main(["replay", "run/bad_updates/update-000000"]) == 0
    said = capsys.readouterr().out
    assert "norm of its gradient inf" in said
    assert "the first value that is not finite: gradient" in said or "overflows float32" in said


def test_a_reward_beyond_float32_is_an_error_of_the_verifier(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--reward", "beyond.py:beyond", "--steps", "1") == 3
    assert "expected a finite number that float32 can hold" in " ".join(capsys.readouterr().err.split())


def test_what_is_no_dump_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "model"]) == 2
    assert "model: not a dump, since it has no config.toml" in capsys.readouterr().err
    assert main(["replay"]) == 2
    assert "takes one dump" in capsys.readouterr().err
