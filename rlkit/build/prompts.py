"""Rows and tasks -> prompts to train on, to evaluate on, and examples to imitate."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rlkit.config import DataConfig, RewardConfig, SftConfig, TrainConfig
from rlkit.errors import DataError
from rlkit.types import Prompt, Task

if TYPE_CHECKING:
    from rlkit.data import PromptData
    from rlkit.rows import Rows
    from rlkit.sft import Example


def make_task(name: str) -> Task | None:
    """The task behind a data name; None when it names no task."""
    from rlkit.tasks import make_task as make

    return make(name) if name.startswith(("task:", "reasoning_gym:")) else None


def load_training_rows(cfg: DataConfig, reward: RewardConfig, task: Task | None) -> "Rows":
    """A file's rows, or the first `cfg.pool` training questions of a task. Some verifiers do without gold answers."""
    from rlkit.rewards import reads_gold
    from rlkit.rows import load_rows, task_rows

    if task is None:
        return load_rows(cfg, need_answer=reads_gold(reward.name)).distinct()
    return task_rows(task, "train", max(1, cfg.pool))


def make_data(cfg: TrainConfig, task: Task | None, rows: "Rows", tokenizer: Any) -> "PromptData":
    """The training prompts in their order; SKPO's leave room for a segment."""
    from rlkit.data import EndlessData, PoolData
    from rlkit.templates import Template

    template = Template(cfg.data, tokenizer)
    if task is not None and cfg.data.pool == 0:
        return EndlessData(
            task,
            template,
            seed=cfg.seed,
            max_prompt_length=cfg.max_prompt_length,
            with_skip=cfg.algo.given_back == "inside",
        )
    return PoolData(
        rows,
        template,
        seed=cfg.seed,
        max_prompt_length=cfg.max_prompt_length,
        shuffle=cfg.data.shuffle,
        with_skip=cfg.algo.given_back == "inside",
    )


def held_out_prompts(
    data: DataConfig, max_prompt_length: int, task: Task | None, tokenizer: Any, count: int
) -> "list[Prompt]":
    """At most `count` prompts that training never sees; none when the data has no held-out part."""
    from rlkit.data import build_prompts
    from rlkit.rows import load_rows, task_rows
    from rlkit.templates import Template

    if data.held_out is not None:
        other = make_task(data.held_out)
        if other is None:
            try:
                rows = load_rows(replace(data, name=data.held_out), split="test", need_answer=False)
            except DataError as error:
                raise DataError(f"--data.held-out: {error}") from error
        else:
            rows = task_rows(other, "test", count)
    elif task is not None:
        rows = task_rows(task, "test", count)
    else:
        return []
    return build_prompts(rows, Template(data, tokenizer), max_length=max_prompt_length)[:count]


def file_examples(cfg: SftConfig, tokenizer: Any) -> "list[Example]":
    """Prompt and completion pairs of a file or hub data set, rendered as training will render the prompts."""
    from rlkit.columns import COMPLETION_COLUMNS
    from rlkit.data import build_prompts
    from rlkit.rows import load_rows
    from rlkit.sft import Example
    from rlkit.templates import Template

    rows = load_rows(cfg.data, need_answer=False)
    prompts = build_prompts(rows, Template(cfg.data, tokenizer), max_length=cfg.max_length)
    known = list(prompts[0].row)
    column = cfg.completion_column or next((c for c in COMPLETION_COLUMNS if c in known), None)
    if column is None or column not in known:
        raise DataError(
            f"{rows.source}: no column to imitate ({column or 'none of ' + ', '.join(COMPLETION_COLUMNS)}); "
            f"it has {', '.join(known)}; name one with --completion-column"
        )
    examples = []
    for prompt in prompts:
        text = prompt.row.get(column)
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"{rows.source}, row {prompt.id}: column {column!r} holds {text!r:.80}; expected a text"
            )
        ids = tokenizer.encode(text, add_special_tokens=False)
        examples.append(Example(prompt_ids=prompt.token_ids, completion_ids=[*ids, tokenizer.eos_token_id]))
    return examples
