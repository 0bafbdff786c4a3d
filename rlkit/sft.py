"""Warm start: a model learns to imitate demonstrations, by TRL's SFTTrainer.

A procedural task writes its own demonstrations in stated shares of styles (`Task.demonstration`), so the warm-started
model is a base model whose modes are known. About 40 % of the examples have the prompt [segment, problem], where the
segment is the beginning of some answer to that problem, at most half of it: SKPO's continuations read such prompts, and
must not be the first time the model sees one. In half of those the answer keeps the style of the segment, as text in a
context does sway a language model; in the other half it is drawn anew.

The first part of the examples is practice, rich in long answers, so that a small model learns to work the problems in
seconds; the rest are in the stated shares, which is what the model then does.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.errors import DataError
from rlkit.types import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


PRACTICE_SHARE = 0.6
"""Of a task's demonstrations, the first ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A prompt and the completion to imitate, as token ids; the loss is on the completion alone."""

    prompt_ids: list[int]
    completion_ids: list[int]


def task_examples(
    task: Task, tokenizer: "PreTrainedTokenizerBase", count: int, segment_share: float, seed: int
) -> list[Example]:
    """`count` demonstrations of training questions, each question once, as chat with one user turn."""
    rng = random.Random(f"demonstrations {task.name} {seed}")
    practice = int(PRACTICE_SHARE * count)
    return [_task_example(task, tokenizer, i, segment_share, i < practice, rng) for i in range(count)]


def _task_example(
    task: Task,
    tokenizer: "PreTrainedTokenizerBase",
    index: int,
    segment_share: float,
    practice: bool,
    rng: random.Random,
) -> Example:
    # Far from the first indices, which are the training pool of reinforcement learning.
    item = task.item("train", 1_000_000 + index)
    answer = task.demonstration(item, rng, practice)
    user = str(item["prompt"])
    if rng.random() < segment_share:
        segment = answer if rng.random() < 0.5 else task.demonstration(item, rng, practice)
        segment_ids = tokenizer.encode(segment, add_special_tokens=False)
        kept = segment_ids[: rng.randint(1, max(1, len(segment_ids) // 2))]
        if segment is answer:
            answer = _same_style(task, item, answer, practice, rng)
        user = f"{tokenizer.decode(kept)}\n\n{user}"
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": user}], tokenize=False, add_generation_prompt=True
    )
    end = tokenizer.eos_token_id
    return Example(
        prompt_ids=tokenizer.encode(text, add_special_tokens=False),
        completion_ids=[*tokenizer.encode(answer, add_special_tokens=False), end],
    )


def _same_style(task: Task, item: Any, answer: str, practice: bool, rng: random.Random) -> str:
    """Another demonstration whose style marker is that of `answer` (the answer itself when none turns up)."""
    marker = answer.split(">")[0]
    for _ in range(64):
        other = task.demonstration(item, rng, practice)
        if other.split(">")[0] == marker:
            return other
    return answer


def train_sft(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    examples: Sequence[Example],
    output_dir: Path,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    max_length: int,
    seed: int,
    on_step: Callable[[int, float], None],
) -> float:
    """Train `model` in place and save it with its tokenizer to `output_dir`; returns the last loss, nats per token.

    AdamW with betas 0.9 and 0.95; 5 % linear warm-up, then cosine to zero. `on_step(step, loss)` is called after every optimizer step.
    Raises DataError when no example fits into `max_length` tokens.
    """
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig as TrlSftConfig
    from trl import SFTTrainer

    fitting = [e for e in examples if len(e.prompt_ids) + len(e.completion_ids) <= max_length]
    if not fitting:
        raise DataError(f"no example of {len(examples)} fits into {max_length} tokens; raise --max-length")
    columns = {
        "input_ids": [e.prompt_ids + e.completion_ids for e in fitting],
        "labels": [[-100] * len(e.prompt_ids) + e.completion_ids for e in fitting],
    }
    last = [float("nan")]

    class Report(TrainerCallback):
        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
        ) -> None:
            if logs and "loss" in logs:
                last[0] = float(logs["loss"])
                on_step(int(state.global_step), last[0])

    config = TrlSftConfig(
        output_dir=str(output_dir),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        adam_beta2=0.95,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, steps // 20),
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        seed=seed,
        data_seed=seed,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        gradient_checkpointing=False,
        bf16=torch.cuda.is_available() and next(model.parameters()).dtype == torch.bfloat16,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_dict(columns),
        processing_class=tokenizer,
        callbacks=[Report()],
    )
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    return last[0]
