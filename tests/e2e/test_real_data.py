"""Real problems end to end: a random Qwen2 with its own BPE tokenizer, SKPO, math-verify, vLLM, three steps."""

import gzip
import json
import os
from pathlib import Path

import pytest

from rlkit.analysis.store import read_metrics, read_rollouts
from rlkit.cli import main


def rows(name: str, count: int) -> list[dict]:
    folder = os.environ.get("RLKIT_DATA")
    if not folder:
        pytest.skip("RLKIT_DATA is not set: no real problem sets to train on")
    path = Path(folder) / name
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="\n") as file:
        return [json.loads(next(file)) for _ in range(count)]


def save_random_qwen2(folder: Path, texts: list[str]) -> None:
    """A Qwen2 of random weights and a byte-level BPE of 2,000 tokens trained on these texts."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=2000, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<|pad|>", eos_token="<|im_end|>")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gsm8k_train.jsonl.gz", "math_train.jsonl.gz"])
def test_skpo_with_math_verify_runs_three_steps_on_real_prompts(name: str, tmp_path: Path):
    pytest.importorskip("vllm", reason="vLLM is not installed")
    problems = rows(name, 400)
    save_random_qwen2(tmp_path / "model", [row["prompt"] for row in problems])
    run = tmp_path / "run"
    code = main(
        [
            *("train", "--algo", "skpo", "--model", str(tmp_path / "model"), "--reward", "math"),
            *(
                "--data",
                str(Path(os.environ["RLKIT_DATA"]) / name),
                "--data.limit",
                "400",
                "--sampler",
                "vllm",
            ),
            *("--steps", "3", "--prompts-per-step", "8", "--num-generations", "4", "--learning-rate", "1e-4"),
            *("--max-prompt-length", "512", "--max-completion-length", "64", "--output-dir", str(run)),
        ]
    )
    assert code == 0
    metrics = read_metrics(run)
    assert [m["step"] for m in metrics] == [1, 2, 3]
    for m in metrics:
        assert m["verifier/errors"] == 0 and m["sampling/sampling_logp_difference/max"] < 2e-5
    answers = [r for r in read_rollouts(run, 3) if r["role"] == "answer"]
    assert len(answers) == 8 * 4 and all(r["outcome"] == "score" for r in answers)
    assert all(any(s["kind"] == "context" for s in r["segments"]) for r in answers)
    assert (run / "checkpoints" / "step-000003" / "model.safetensors").is_file()
