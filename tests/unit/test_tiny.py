"""The embedded model: its tokenizer, its demonstrations, and a warm start that is the same every time."""

import random
from collections import Counter
from pathlib import Path

import pytest
import torch

from rlkit.errors import DataError
from rlkit.sft import PRACTICE_SHARE, Example, task_examples, train_sft
from rlkit.tasks.chain import ChainTask, results, steps_right
from rlkit.tasks.parts import RIGHT, SHARES
from rlkit.tiny import MARKERS, make_model, make_tokenizer
from rlkit.types import Prompt


def test_every_text_survives_the_tokenizer_and_markers_are_single_tokens():
    tokenizer = make_tokenizer()
    assert len(tokenizer) == 256 + 5 + 4
    for text in ("7a+4b*3c-5d*2", "<steps>a7+4=1\\boxed{6}", "Grüße, 世界\n\t\x00", "a  b"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    for marker in MARKERS:
        assert len(tokenizer.encode(marker, add_special_tokens=False)) == 1


def test_tokenizer_is_the_same_after_saving(tmp_path: Path):
    from rlkit.config import ModelConfig
    from rlkit.models import folder_place, load_tokenizer

    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    make_model(tokenizer, 0).save_pretrained(tmp_path)
    again = load_tokenizer(folder_place(tmp_path, ModelConfig(name=str(tmp_path))))
    text = "<|user|>12a+4\n\n0<|assistant|><now>\\boxed{3}<|end|>"
    assert again.encode(text, add_special_tokens=False) == tokenizer.encode(text, add_special_tokens=False)
    assert again.eos_token_id == tokenizer.eos_token_id and again.chat_template == tokenizer.chat_template


def test_model_has_a_head_size_that_vllm_can_run_on_a_cpu():
    model = make_model(make_tokenizer(), 0)
    assert model.config.hidden_size // model.config.num_attention_heads == 32
    assert sum(p.numel() for p in model.parameters()) == 822_528


def test_demonstrations_have_the_stated_styles_and_are_right_as_often_as_stated():
    task, rng = ChainTask(), random.Random(0)
    styles, right = Counter(), Counter()
    for i in range(6000):
        item = task.item("train", i)
        text = task.demonstration(item, rng)
        style = text[: text.index(">") + 1]
        prompt = Prompt(id=str(i), token_ids=[], question=str(item["prompt"]), reference=str(item["answer"]))
        styles[style] += 1
        right[style] += task.verify(prompt, text).value == 1.0
    for style, share in SHARES.items():
        # Four standard deviations of a binomial; a wrong slip may still end at the right digit, hence one-sided for steps.
        assert abs(styles[style] / 6000 - share) < 4 * (share * (1 - share) / 6000) ** 0.5
        spread = 4 * (RIGHT[style] * (1 - RIGHT[style]) / styles[style]) ** 0.5
        assert RIGHT[style] - spread < right[style] / styles[style] < RIGHT[style] + spread + 0.05


def test_worked_steps_are_the_truth_of_the_chain():
    task, rng = ChainTask(), random.Random(1)
    item = {"prompt": "7a+4b*3c-5d*2", "answer": "6"}
    assert results("7a+4b*3c-5d*2") == [1, 3, 8, 6]  # 11 mod 10, 3, -2 mod 10 = 8, 16 mod 10
    texts = [task.demonstrate(item, "<steps>", rng) for _ in range(50)]
    assert "<steps>a7+4=1b1*3=3c3-5=8d8*2=6\\boxed{6}" in texts
    for text in texts:
        assert all(steps_right("7a+4b*3c-5d*2", text)) == text.endswith("d8*2=6\\boxed{6}")


def test_warm_start_examples_are_practice_first_then_the_stated_shares_with_segments_in_between():
    tokenizer, count = make_tokenizer(), 4000
    examples = task_examples(ChainTask(), tokenizer, count, 0.4, seed=0)
    steps = tokenizer.encode("<steps>", add_special_tokens=False)[0]
    first, rest = examples[: int(PRACTICE_SHARE * count)], examples[int(PRACTICE_SHARE * count) :]

    def share(part: list[Example]) -> float:
        return sum(e.completion_ids[0] == steps for e in part) / len(part)

    assert abs(share(first) - 0.5) < 0.04 and abs(share(rest) - 0.29) < 0.05
    with_segment = sum("\n\n" in tokenizer.decode(e.prompt_ids) for e in examples) / count
    assert abs(with_segment - 0.4) < 0.03
    assert all(e.completion_ids[-1] == tokenizer.eos_token_id for e in examples)
    assert examples == task_examples(ChainTask(), tokenizer, count, 0.4, seed=0)


def test_warm_start_lowers_the_loss_and_is_equal_bit_for_bit_for_one_seed(tmp_path: Path):
    tokenizer = make_tokenizer()
    examples = task_examples(ChainTask(), tokenizer, 8 * 16, 0.4, seed=3)
    states, losses = [], []
    for run in ("a", "b"):
        model, seen = make_model(tokenizer, 3), []
        train_sft(
            model,
            tokenizer,
            examples,
            tmp_path / run,
            steps=8,
            batch_size=16,
            learning_rate=1e-3,
            max_length=256,
            seed=3,
            on_step=lambda step, loss, seen=seen: seen.append(loss),
        )
        states.append(model.state_dict())
        losses.append(seen)
    assert len(losses[0]) == 8 and losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0] - 0.5  # from ln 265 = 5.58 nats
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_examples_that_do_not_fit_are_an_error_and_not_a_silent_nothing(tmp_path: Path):
    tokenizer = make_tokenizer()
    examples = [Example(prompt_ids=[1] * 50, completion_ids=[2] * 50)]
    with pytest.raises(DataError, match="no example of 1 fits into 64 tokens"):
        train_sft(
            make_model(tokenizer, 0),
            tokenizer,
            examples,
            tmp_path,
            steps=1,
            batch_size=1,
            learning_rate=1e-3,
            max_length=64,
            seed=0,
            on_step=lambda step, loss: None,
        )
