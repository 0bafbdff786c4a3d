"""Diagnosis of real runs on a tiny model, each with a fault of its own and one with none, and of run folders as they are found."""

import json
import math
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rlkit.algo_presets import ALGO_CONFIGS
from rlkit.cli import main
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
from rlkit.doctor import CHECKS, Case, Finding
from rlkit.show import Terminal, show_cases
from tests.histories import history
from tests.sick_runs import save_stopping_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stopping_model(tmp_path_factory.mktemp("model"), seed=3)


def run(model: Path, folder: Path, **changes: Any) -> str:
    """4 prompts x 4 answers of at most 24 tokens per step, on a model that ends them after 6; what the terminal showed."""
    algo = ALGO_CONFIGS[changes.pop("algo", "grpo")](num_generations=4, **changes.pop("algo_changes", {}))
    cfg = TrainConfig(
        **{
            "model": ModelConfig(name=str(model)),
            "data": DataConfig(name="task:chain", pool=16),
            "reward": RewardConfig(name="tests.sick_runs:Graded", workers=0),
            "algo": algo,
            "sampler": SamplerConfig(name="hf"),
            "learner": LearnerConfig(learning_rate=1e-5),
            "log": LogConfig(save_every=0, show_every=0, eval_prompts=2, tensorboard=False),
            "steps": 4,
            "prompts_per_step": 4,
            "max_completion_length": 24,
            "seed": 5,
            "output_dir": str(folder),
            **changes,
        }
    )
    plan, ready = train.prepare(cfg)
    assert ready is not None, plan.problems
    out = StringIO()
    resume = folder if (folder / "metrics.jsonl").exists() else None
    train.run(ready, Console(file=out, width=1000), resume=resume)
    return out.getvalue()


def doctor(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, Any]]]:
    capsys.readouterr()
    code = main(["doctor", str(folder), "--json"])
    findings: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["findings"]
    return code, findings


def test_on_a_healthy_run_the_doctor_is_silent(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = run(model, tmp_path, steps=12, mini_batches=2)
    assert doctor(tmp_path, capsys) == (0, [])
    assert main(["doctor", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "step 12 of 12 (finished)\nnothing wrong found in 12 recorded steps\n" in printed
    assert all(check.name in printed for check in CHECKS)
    assert not re.search("serious|warning|hint", shown)


def test_a_loss_of_0_is_explained_once(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = run(model, tmp_path)
    assert shown.count("hint, step 1, zero-loss: the loss is 0") == 1 and shown.count("zero-loss") == 1
    code, findings = doctor(tmp_path, capsys)
    assert (code, [f["name"] for f in findings]) == (0, ["zero-loss"])


def test_a_resumed_run_does_not_say_it_again(model: Path, tmp_path: Path) -> None:
    assert "zero-loss" in run(model, tmp_path, steps=2)
    resumed = run(model, tmp_path, steps=4)
    assert "grpo 4/4" in resumed and "zero-loss" not in resumed


def test_a_verifier_that_finds_nothing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = run(model, tmp_path, steps=6, reward=RewardConfig(name="tests.sick_runs:FindsNothing", workers=0))
    assert (
        "warning, step 1, no-gradient: all 4 groups have equal rewards (0 all right, 4 all wrong), so no answer is better than "
        "its siblings and the gradient is 0. Likely: too hard" in shown
    )
    assert "serious, step 5, constant-reward: every answer of 5 steps scored 0" in shown
    code, (finding,) = doctor(tmp_path, capsys)
    assert (code, finding["name"], finding["first"], finding["last"]) == (1, "constant-reward", 5, 6)
    said = 'most frequent reason of a wrong answer: "no \\boxed{} in ... characters" (32 of 32)'
    assert finding["says"].endswith(said)


def test_a_cap_of_two_tokens(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    low = RewardConfig(name="tests.sick_runs:Low", workers=0)
    shown = run(model, tmp_path, max_completion_length=2, reward=low, mini_batches=2)
    assert re.search(
        r"warning, step 3, truncated: \d+% of the last steps' answers were cut at max_completion_length = 2 ",
        shown,
    )
    assert doctor(tmp_path, capsys)[1][0]["name"] == "truncated"


def test_an_end_that_the_sampler_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The model ends its answers with token 1, and its folder says that token 3 does."""
    model = save_stopping_model(tmp_path / "model", seed=3, stop_tokens=(3,))
    run(model, tmp_path / "run", reward=RewardConfig(name="tests.sick_runs:Low", workers=0))
    code, findings = doctor(tmp_path / "run", capsys)
    assert (code, findings[0]["name"]) == (1, "truncated")
    assert re.search(
        r"(\d+) of \1 cut answers hold the special token <\|end\|> and go on after it", findings[0]["says"]
    )
    assert (
        findings[0]["remedy"]
        == "add 1 (<|end|>) to eos_token_id in the model folder's generation_config.json"
    )


def test_a_verifier_that_raises(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raises = RewardConfig(name="tests.sick_runs:Raises", workers=0, max_error_share=0.9)
    shown = run(model, tmp_path, reward=raises)
    assert re.search(r"step \d, verifier-errors: \d+ of the last \d+ verdicts are errors", shown)
    (finding,) = [f for f in doctor(tmp_path, capsys)[1] if f["name"] == "verifier-errors"]
    assert 'most frequent reason: "ZeroDivisionError: answer ... cannot be divided' in finding["says"]


def test_a_learning_rate_that_is_far_too_high(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = run(model, tmp_path, steps=14, learner=LearnerConfig(learning_rate=0.3), num_iterations=2)
    assert "mostly-clipped" in shown and "entropy-collapse" in shown
    code, findings = doctor(tmp_path, capsys)
    by_name = {f["name"]: f for f in findings}
    assert code == 1 and by_name["no-gradient"]["cause"].startswith("no exploration")
    assert re.match(
        r"entropy fell from [\d.]+ nats per token to [\d.e-]+ by step 14 \(0%\)",
        by_name["entropy-collapse"]["says"],
    )
    assert by_name["never-stops"]["cause"].startswith("the policy has unlearnt to end its answers")


def test_an_algorithm_that_samples_at_another_temperature(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"name": f"{ROOT}/tests/sick_runs.py:Colder"}
    shown = run(model, tmp_path, steps=8, algo_changes=own)
    assert re.search(
        "serious, step .*, sampler-gap: .* Likely: (it is there from the first|another temperature)", shown
    )
    assert doctor(tmp_path, capsys)[0] == 1


def test_a_tracker_on_data_without_end(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = run(model, tmp_path, algo="skpo", steps=6, data=DataConfig(name="task:chain", pool=0))
    assert "warning, step 5, baseline-never-visited: 20 of 20 visits were to a new prompt" in shown
    assert [f["name"] for f in doctor(tmp_path, capsys)[1]] == ["baseline-never-visited"]


def test_a_warm_up_for_a_longer_run(model: Path, tmp_path: Path) -> None:
    shown = run(model, tmp_path, learner=LearnerConfig(learning_rate=1e-5, warmup_steps=50))
    assert (
        "warning, step 1, long-warm-up: the warm-up takes 50 updates and the run has 4; the learning rate ends at 8%"
        in shown
    )


# -- run folders as they are --------------------------------------------------------------------------------------------------


def folder_of(tmp_path: Path, records: list[dict[str, float]], tail: str = "") -> Path:
    text = "".join(json.dumps(r) + "\n" for r in records)
    (tmp_path / "metrics.jsonl").write_text(text + tail)
    return tmp_path


def test_half_a_last_line_and_nothing_but_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path, history(6, completions__clipped_ratio=0.95), tail='{"step": 7, "reward": 0.')
    assert main(["doctor", str(folder)]) == 1
    printed = capsys.readouterr().out
    assert "step 6 (no summary.json: still running, or ended early)" in printed
    assert "its config.toml cannot be read, so some checks stay silent" in printed
    assert "serious  truncated  (steps 3 to 6)" in printed


def test_damaged_files_beside_the_metrics_are_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path, history(6, completions__clipped_ratio=0.95))
    (folder / "config.toml").write_text("steps = ")
    (folder / "rollouts").mkdir()
    (folder / "rollouts" / "step-000006.parquet").write_bytes(b"half")
    (folder / "checkpoints" / "step-000006").mkdir(parents=True)
    (folder / "checkpoints" / "step-000006" / "tokenizer.json").write_text("{")
    code, findings = doctor(folder, capsys)
    assert (code, [f["name"] for f in findings]) == (1, ["truncated"])


def test_a_run_before_its_first_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(folder_of(tmp_path, []))]) == 0
    assert "no step is recorded yet" in capsys.readouterr().out


def test_numbers_that_are_no_numbers_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, findings = doctor(folder_of(tmp_path, history(3, grad_norm=math.nan, loss=-math.inf)), capsys)
    assert code == 1 and findings[0]["says"] == "loss is -inf and grad_norm is nan"


def test_a_warning_alone_ends_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, findings = doctor(folder_of(tmp_path, history(6, completions__clipped_ratio=0.6)), capsys)
    assert (code, findings[0]["severity"]) == (0, "warning")


def test_the_help_says_what_the_exit_code_means(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert "Exit code 0: nothing, warnings or hints; 1: something serious" in told and "--json" in told


def test_a_finding_hands_no_control_character_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = Finding(
        name="truncated", severity="warning", says="a\x1b[2J", cause="[red]b", remedy="c\r", number=1.0
    )
    out = StringIO()
    case = Case(finding=finding, first=1, last=2, present=True)
    show_cases([case], "head\x07", 2, ["truncated"], Console(file=out, width=200))
    shown = out.getvalue()
    assert all(c in "\n\t" or c.isprintable() for c in shown), shown
    assert "[red]b" in shown


def test_without_a_watch_the_terminal_diagnoses_nothing() -> None:
    out = StringIO()
    with Terminal("sft", 3, console=Console(file=out, width=200)) as view:
        view.step(1, {"loss": math.nan})
    assert "not-finite" not in out.getvalue()
