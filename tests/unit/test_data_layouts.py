"""The data sets of other projects, in parquet as their own scripts write them: question, gold answer and id are found."""

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from rlkit.config import DataConfig
from rlkit.data import load_rows

SYSTEM = {"role": "system", "content": "Reason step by step."}
USER = {"role": "user", "content": "What is 6 * 7?"}

LAYOUTS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "verl, GSM8K": (
        [
            {
                "data_source": "openai/gsm8k",
                "prompt": [USER],
                "ability": "math",
                "reward_model": {"style": "rule", "ground_truth": answer},
                "extra_info": {
                    "split": "train",
                    "index": i,
                    "answer": f"6 * 7 is {answer}.\n#### {answer}",
                    "question": "What is 6 * 7?",
                },
            }
            for i, answer in enumerate(("42", "43"))
        ],
        "question <- prompt, answer <- reward_model.ground_truth, id <- extra_info.index",
    ),
    "DAPO-Math-17k": (
        [
            {
                "data_source": "math_dapo",
                "prompt": [USER],
                "ability": "MATH",
                "reward_model": {"ground_truth": "42", "style": "rule-lighteval/MATH_v2"},
                "extra_info": {"index": "9a9b6eb4-a1cb-49d1-8c1e-62eaf2f74079"},
            }
        ],
        "question <- prompt, answer <- reward_model.ground_truth, id <- extra_info.index",
    ),
    "DAPO-Math-17k-Processed": (
        [
            {
                "prompt": "What is 6 * 7?",
                "solution": "42",
                "data_source": "math_dapo",
                "source_prompt": [USER],
                "ability": "MATH",
                "reward_model": {"ground_truth": "42", "style": "rule-lighteval/MATH_v2"},
                "extra_info": {"index": "9a9b6eb4"},
            }
        ],
        "question <- prompt, answer <- reward_model.ground_truth, id <- extra_info.index",
    ),
    "Skywork-OR1": (
        [
            {
                "data_source": "train-math-numinamath1.5",
                "prompt": [USER],
                "ability": "math",
                "reward_model": {"ground_truth": '["42"]', "style": "rule"},
                "extra_info": {"index": 0, "model_difficulty": {"DeepSeek-R1-Distill-Qwen-7B": 3}},
            }
        ],
        "question <- prompt, answer <- reward_model.ground_truth, id <- extra_info.index",
    ),
    "SkyRL": (
        [
            {
                "data_source": "openai/gsm8k",
                "prompt": [SYSTEM, USER],
                "env_class": "gsm8k",
                "reward_spec": {"method": "rule", "ground_truth": "42"},
                "extra_info": {"split": "train", "index": 0, "answer": "#### 42"},
            }
        ],
        "question <- prompt, answer <- reward_spec.ground_truth, id <- extra_info.index",
    ),
    "OpenRLHF": ([{"input": "What is 6 * 7?", "label": "42"}], "question <- input, answer <- label"),
    "OpenRLHF, chat": (
        [{"context_messages": [SYSTEM, USER], "label": "42"}],
        "question <- context_messages, answer <- label",
    ),
    "NeMo-RL": (
        [
            {
                "message_log": [{**USER, "token_ids": [1, 2, 3]}],
                "length": 3,
                "extra_env_info": {"ground_truth": "42"},
                "loss_multiplier": 1.0,
                "idx": 0,
                "task_name": "math",
            }
        ],
        "question <- message_log, answer <- extra_env_info.ground_truth",
    ),
    "verifiers": (
        [{"question": "What is 6 * 7?", "answer": "42", "info": {"level": 2}, "task": "default"}],
        "question <- question, answer <- answer",
    ),
    "verifiers, messages and info": (
        [{"prompt": [SYSTEM, USER], "info": '{"answer": "42", "level": 2}', "example_id": 0}],
        "question <- prompt, answer <- info.answer",
    ),
    "prime-rl": (
        [
            {
                "problem_id": "vfm_7",
                "task_type": "verifiable_math",
                "prompt": "What is 6 * 7?",
                "verification_info": '{"ground_truth": "42"}',
            }
        ],
        "question <- prompt, answer <- verification_info.ground_truth, id <- problem_id",
    ),
    "open-r1": (
        [
            {
                "problem": "What is 6 * 7?",
                "solution": "It is $\\boxed{42}$.",
                "answer": "42",
                "messages": [USER],
            }
        ],
        "question <- problem, answer <- answer",
    ),
    "open-instruct": (
        [{"messages": [USER], "ground_truth": ["42"], "dataset": ["math"]}],
        "question <- messages, answer <- ground_truth",
    ),
    "slime": (
        [{"prompt": [USER], "label": "42", "metadata": {"rm_type": "math"}}],
        "question <- prompt, answer <- label",
    ),
    "AReaL": (
        [{"messages": [USER], "answer": "6 * 7 is 42.\n#### 42", "question": "What is 6 * 7?"}],
        "question <- question, answer <- answer (after ####)",
    ),
    "ms-swift, ShareGPT": (
        [
            {
                "conversations": [
                    {"from": "human", "value": "What is 6 * 7?"},
                    {"from": "gpt", "value": "It is 42."},
                ],
                "solution": "42",
            }
        ],
        "question <- conversations, answer <- solution",
    ),
    "OpenMathReasoning": (
        [{"problem": "What is 6 * 7?", "expected_answer": "42", "generated_solution": "a long way"}],
        "question <- problem, answer <- expected_answer",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_peer_s_parquet_is_read_as_it_is(tmp_path: Path, layout: str) -> None:
    raw, mapping = LAYOUTS[layout]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(raw), tmp_path / "train.parquet")
    rows = load_rows(DataConfig(name=str(tmp_path / "train.parquet")))
    assert str(rows.columns) == mapping
    assert (rows.examples[0].question, rows.examples[0].reference) == ("What is 6 * 7?", "42")
    assert rows.examples[0].row == raw[0]


def test_a_list_that_is_mathematics_stays_a_list(tmp_path: Path) -> None:
    lists = ["[5]", '["a", "b"]', r'["\frac12"]']
    table = pyarrow.Table.from_pylist([{"prompt": "?", "answer": answer} for answer in lists])
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    rows = load_rows(DataConfig(name=str(tmp_path / "train.parquet")))
    assert [e.reference for e in rows.examples] == lists


def test_a_wrapped_answer_keeps_its_latex(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist([{"prompt": "?", "answer": r'["\\frac{1}{2}"]'}])
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    assert load_rows(DataConfig(name=str(tmp_path / "train.parquet"))).examples[0].reference == r"\frac{1}{2}"
