"""`rlkit sft` and `rlkit eval` from the command line, on a random model."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from rlkit.cli import main
from tests.models import save_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("model"), seed=1))


def write(path: Path, rows: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_sft_on_a_file_imitates_its_completions(model: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}+1=", "completion": f"{i + 1}"} for i in range(8)]
    data = write(tmp_path / "rows.jsonl", rows)
    command = ["sft", "--model", model, "--data", data, "--steps", "30", "--batch-size", "8"]
    command += ["--learning-rate", "3e-3", "--output-dir", str(tmp_path / "out")]
    assert main(command) == 0
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "out")

    from rlkit.config import ModelConfig
    from rlkit.models import folder_place, load_tokenizer

    tokenizer = load_tokenizer(folder_place(tmp_path / "out", ModelConfig(name="out")))
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "3+1="}], tokenize=False, add_generation_prompt=True
    )
    prompt = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    answer = trained.generate(**prompt, max_new_tokens=4, do_sample=False)[0, prompt.input_ids.shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True) == "4"
    assert answer[-1] == tokenizer.eos_token_id  # the end was imitated too


def test_sft_never_writes_over_a_model(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "b"}])
    assert main(["sft", "--model", model, "--data", data, "--output-dir", model]) == 2
    assert "holds a model already; choose another --output-dir" in capsys.readouterr().err


def test_sft_names_the_columns_when_there_is_nothing_to_imitate(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "rows.jsonl", [{"prompt": "a", "remark": "b"}])
    assert main(["sft", "--model", model, "--data", data, "--output-dir", str(tmp_path / "out")]) == 2
    assert "no column to imitate" in (said := capsys.readouterr().err) and "remark" in said


def test_eval_gives_means_with_their_intervals_and_allows_truncated_sampling(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "test.jsonl", [{"problem": f"{i}+1", "answer": str(i + 1)} for i in range(6)])
    command = ["eval", "--model", model, "--data", data, "--sampler", "hf", "--n", "2"]
    command += ["--output-dir", str(tmp_path / "out")]
    assert main([*command, "--top-p", "0.9", "--top-k", "5", "--max-completion-length", "4"]) == 0
    said = capsys.readouterr().out
    assert "test.jsonl: 6 problems, 2 answers to each" in said
    assert "pass@1" in said and "0.000 [0.000, 0.390]" in said  # Wilson's for 0 of 6


def test_eval_of_a_task_reads_its_held_out_questions(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", "--model", model, "--data", "task:chain", "--sampler", "hf", "--prompts", "5"]
    command += ["--output-dir", str(tmp_path / "out")]
    assert main([*command, "--max-completion-length", "4"]) == 0
    assert "task:chain: 5 problems, 1 answers to each" in capsys.readouterr().out
