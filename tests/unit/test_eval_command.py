"""`rlkit eval` from the command line, on random models: it goes on where it was killed, and never lends a part a whole's name."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pyarrow.parquet import read_table

from rlkit.benchmark_names import BENCHMARKS, load_benchmark
from rlkit.cli import main
from rlkit.config import DataConfig
from rlkit.errors import ConfigError, DataError
from tests.models import save_tiny_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [str(save_tiny_model(tmp_path_factory.mktemp(f"model{seed}"), seed=seed)) for seed in (1, 2)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "test.jsonl"
    rows = [{"problem": f"{i}+1", "answer": str(i + 1)} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def command(model: str, data: Path | str, folder: Path, *more: str, sampler: str = "hf") -> list[str]:
    flags = ["eval", "--model", model, "--data", str(data), "--sampler", sampler, "--reward", "exact"]
    flags += ["--max-completion-length", "6", "--workers", "0", "--output-dir", str(folder), *more]
    return flags


def table(answers: Path) -> list[dict[str, Any]]:
    return [row for part in sorted(answers.glob("B*.parquet")) for row in read_table(part).to_pylist()]


def results(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


@pytest.mark.parametrize("sampler", ["hf", pytest.param("vllm", marks=pytest.mark.slow)])
def test_a_killed_evaluation_goes_on_and_has_the_numbers_of_one_that_was_not(
    models: list[str], sampler: str, tmp_path: Path
) -> None:
    """kill -9 after its first parts are there; then the same command again. Prompts fill several blocks of vLLM's cache."""
    if sampler == "vllm":
        pytest.importorskip("vllm")
    data = tmp_path / "long.jsonl"
    write(
        data,
        [{"problem": f"What is, after {'all ' * 25}this, {i}+1", "answer": str(i + 1)} for i in range(4)],
    )

    def start(folder: Path) -> subprocess.Popen[bytes]:
        """In a process of its own: logits may differ in their last bits from those of one that did other things before."""
        flags = ("--n", "24", "--batch", "4")
        return subprocess.Popen(
            [*(sys.executable, "-m", "rlkit"), *command(models[0], data, folder, *flags, sampler=sampler)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    assert start(tmp_path / "whole").wait() == 0
    process = start(tmp_path / "killed")
    answers = tmp_path / "killed/answers"
    deadline = time.monotonic() + 180
    while len(list(answers.glob("B*.parquet"))) < 3 and time.monotonic() < deadline:
        assert process.poll() is None, "it ended by itself"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {p.name: p.stat().st_mtime_ns for p in answers.glob("B*.parquet")}
    assert 3 <= len(before) < 24
    assert start(tmp_path / "killed").wait() == 0
    assert table(answers) == table(tmp_path / "whole/answers")  # the rows first: they say what differs
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    after = {p.name: p.stat().st_mtime_ns for p in answers.glob("B*.parquet")}
    assert len(after) == 24 and before.items() <= after.items()  # nothing was drawn twice


def test_more_answers_later_are_those_of_a_fresh_evaluation(
    models: list[str], data: Path, tmp_path: Path
) -> None:
    assert main(command(models[0], data, tmp_path / "a", "--n", "4")) == 0
    first = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "a/answers").iterdir()}
    assert main(command(models[0], data, tmp_path / "a", "--n", "16")) == 0
    assert main(command(models[0], data, tmp_path / "b", "--n", "16")) == 0
    assert first.items() <= {p.name: p.stat().st_mtime_ns for p in (tmp_path / "a/answers").iterdir()}.items()
    assert results(tmp_path / "a") == results(tmp_path / "b")


def test_two_models_and_a_stored_evaluation_are_compared(
    models: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = command(models[0], data, tmp_path / "one", "--n", "8", "--k", "1,2,...,8", "--against", models[1])
    assert main(both) == 0
    said = capsys.readouterr().out
    assert "difference" in said and "problems solved at least once in 8 answers" in said and "McNemar" in said
    live = results(tmp_path / "one")["comparison"]
    assert list(live["differences"])[:4] == ["pass@1", "pass@2", "pass@4", "pass@8"]

    stored = command(
        models[0], data, tmp_path / "one", "--n", "8", "--against", str(tmp_path / "one/against"), "--json"
    )
    assert main(stored) == 0
    printed = json.loads(capsys.readouterr().out)["evaluations"][0]
    assert printed["comparison"] == live and printed == results(tmp_path / "one")
    assert (tmp_path / "one/report.html").is_file()


def test_a_folder_of_other_weights_or_settings_is_refused(
    models: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(models[0], data, tmp_path / "a")) == 0
    assert main(command(models[1], data, tmp_path / "a")) == 2
    assert "holds another evaluation: weights = " in capsys.readouterr().err
    assert main(command(models[0], data, tmp_path / "a", "--temperature", "0.5")) == 2
    assert "temperature = 0.5 (it was 1.0)" in capsys.readouterr().err


def test_greedy_answers_are_asked_once(
    models: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(models[0], data, tmp_path / "a", "--temperature", "0", "--n", "2")) == 2
    assert "n = 2: expected 1 at sampler.temperature 0" in capsys.readouterr().err
    assert main(command(models[0], data, tmp_path / "a", "--temperature", "0")) == 0
    assert "4 problems, 1 answers" in capsys.readouterr().out


def test_a_bad_against_says_what_it_is(
    models: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(models[0], data, tmp_path / "a")) == 0
    other = tmp_path / "other.jsonl"
    other.write_text('{"problem": "1+1", "answer": "2"}\n')
    assert main(command(models[0], other, tmp_path / "b", "--against", str(tmp_path / "a"))) == 2
    assert "holds an evaluation of other data than --data" in capsys.readouterr().err


# -- benchmarks by name ----------------------------------------------------------------------------------------------------


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_part_of_a_benchmark_is_never_called_by_its_name_alone(
    models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RLKIT_DATA", str(tmp_path))
    write(tmp_path / "math500_first300.jsonl", [{"prompt": f"{i}+0", "answer": str(i)} for i in range(3)])
    write(tmp_path / "amc23.jsonl", [{"prompt": f"{i}+1", "answer": str(i)} for i in range(40)])
    assert main(command(models[0], "math500,amc23", tmp_path / "out", "--n", "2")) == 0
    said = capsys.readouterr()
    assert "math500[3/500]: 3 problems" in said.out and "a part of math500: no score here is" in said.out
    assert "amc23: 40 problems" in said.out and "a part of amc23" not in said.out
    assert "math500[3/500]: 3 problems x 2 answers" in said.err
    assert results(tmp_path / "out/math500")["summary"]["label"] == "math500[3/500]"
    assert "A part of math500" in (tmp_path / "out/math500/report.html").read_text()

    assert main(command(models[0], "amc23", tmp_path / "few", "--n", "1", "--prompts", "5")) == 0
    assert "amc23[5/40]" in capsys.readouterr().out


def test_a_benchmark_s_own_settings_are_told(
    models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RLKIT_DATA", str(tmp_path))
    write(tmp_path / "aime24.jsonl", [{"prompt": f"{i}+1", "answer": i} for i in range(30)])
    flags = [
        "eval",
        "--model",
        models[0],
        "--data",
        "aime24",
        "--sampler",
        "hf",
        "--max-completion-length",
        "2",
    ]
    assert main([*flags, "--workers", "1", "--output-dir", str(tmp_path / "out")]) == 0
    assert (
        "aime24: 30 problems x 32 answers" in (said := capsys.readouterr()).err and "reward math" in said.err
    )
    assert "avg@32" in said.out


def test_without_file_and_hub_the_sentence_names_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RLKIT_DATA", str(tmp_path))
    with pytest.raises(
        DataError, match="--data aime25: .* has no aime25.jsonl; on the hub, math-ai/aime25: .*hub"
    ):
        load_benchmark(BENCHMARKS["aime25"], DataConfig(name="aime25"))
    monkeypatch.delenv("RLKIT_DATA")
    with pytest.raises(
        DataError, match="--data aime24: RLKIT_DATA is not set; on the hub, HuggingFaceH4/aime_2024"
    ):
        load_benchmark(BENCHMARKS["aime24"], DataConfig(name="aime24"))


def test_rows_from_the_hub_are_asked_as_rows_of_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The hub's columns, as its pages show them, read from local folders in the place of the hub's names."""
    from dataclasses import replace

    monkeypatch.delenv("RLKIT_DATA", raising=False)
    hub: dict[str, dict[str, Any]] = {
        "gsm8k": {"question": "6*7?", "answer": "It is 6*7.\n#### 1,042"},
        "mmlu_pro": {"question": "Which?", "options": ["one", "two"], "answer": "B", "answer_index": 1},
        "olympiadbench": {"question": "Roots?", "final_answer": ["1", "2"]},
        "humaneval": {
            "prompt": "def f():\n",
            "canonical_solution": "    return 1\n",
            "test": "t",
            "entry_point": "f",
        },
        "mbpp": {"text": "Add.", "code": "def add(): ...", "test_list": ["assert add(1, 2) == 3"]},
    }
    got = {}
    for name, row in hub.items():
        write(tmp_path / f"{name}.jsonl", [row])
        which = replace(BENCHMARKS[name], hub=(str(tmp_path / f"{name}.jsonl"),))
        got[name] = load_benchmark(which, DataConfig(name=name)).examples[0]
    assert {name: e.reference for name, e in got.items()} == {
        "gsm8k": "1042",
        "mmlu_pro": "B",
        "olympiadbench": "1, 2",
        "humaneval": "return 1",
        "mbpp": "def add(): ...",
    }
    assert got["mmlu_pro"].question == "Which?\n\nA. one\nB. two"
    assert (
        "```python\ndef f():\n```" in got["humaneval"].question and got["humaneval"].row["entry_point"] == "f"
    )
    assert got["mbpp"].question.endswith("must pass these tests:\n\nassert add(1, 2) == 3")


def test_mbpp_is_its_test_split(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RLKIT_DATA", str(tmp_path))
    rows = [
        {"prompt": "a", "answer": "x", "tests": [], "split": split} for split in ("train", "test", "prompt")
    ]
    write(tmp_path / "mbpp.jsonl", rows)
    assert len(load_benchmark(BENCHMARKS["mbpp"], DataConfig(name="mbpp")).examples) == 1


@pytest.mark.skipif("RLKIT_DATA" not in os.environ, reason="RLKIT_DATA names no folder")
def test_the_files_that_are_there_hold_the_benchmarks_they_are_named_after() -> None:
    """Whole sets but for two: 300 problems of MATH-500, and MMLU-Pro without 3. AIME 2025 is not there."""
    parts = {"math500": 300, "mmlu_pro": 12029}
    for name, which in BENCHMARKS.items():
        if name != "aime25":
            assert len(load_benchmark(which, DataConfig(name=name)).examples) == parts.get(
                name, which.size
            ), name


@pytest.mark.parametrize("names", ["aime24,", "aime24,aime24", ",math500"])
def test_names_between_commas_are_different_names(names: str) -> None:
    from rlkit.commands.eval_exam import names_of

    with pytest.raises(ConfigError, match="expected different names between the commas"):
        names_of(names)
