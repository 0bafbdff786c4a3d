"""One training run by rlkit or by TRL from the same weights, prompts, verifier and hyper-parameters; weights kept on the way.

Plan      what both train with
train     one run in this process: seconds of every step, and a model folder every few steps
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlkit import build
from rlkit.commands.train import Ready, prepare, run
from rlkit.config import (
    DataConfig,
    LearnerConfig,
    LogConfig,
    ModelConfig,
    SamplerConfig,
    TrackConfig,
    TrainConfig,
)
from rlkit.types import Prompt

if TYPE_CHECKING:
    from rich.console import Console

Arm = Literal["trl", "hf", "vllm", "async"]
"""TRL with transformers' generate, rlkit with the same, rlkit with vLLM, that with rollouts written one step ahead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What every run of the comparison has in common."""

    model: Path
    """The folder of the weights all runs begin with."""
    task: str
    steps: int
    every: int
    """Steps between kept weights."""
    prompts_per_step: int = 32
    pool: int = 256
    """Training prompts, met again every epoch in a new order."""
    num_generations: int = 8
    learning_rate: float = 1e-4
    trl_per_device: int
    """TRL's per_device_train_batch_size; whatever it is, an optimizer step takes all answers of a step."""
    prompts: int
    """Held-out prompts."""

    @property
    def rollouts(self) -> int:
        return self.prompts_per_step * self.num_generations


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Seconds of one step."""

    seconds: float
    learner: float
    """Of those: forward, backward and optimizer."""
    sampling: float
    """Of those: generation. The rest is verdicts, advantages, tensors, new weights for the sampler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one training run left."""

    arm: Arm
    seed: int
    opening: float
    """Seconds outside the steps: imports, loading, starting the sampler, keeping weights, closing."""
    steps: list[Step]
    weights: dict[int, Path]
    """Model folders by the number of steps they have seen."""


def train(plan: Plan, arm: Arm, seed: int, folder: Path) -> Run:
    """Train for `plan.steps` steps and keep the weights below `folder`."""
    began = time.perf_counter()
    steps, weights = _train_trl(plan, seed, folder) if arm == "trl" else _train_rlkit(plan, arm, seed, folder)
    opening = time.perf_counter() - began - sum(step.seconds for step in steps)
    return Run(arm=arm, seed=seed, opening=opening, steps=steps, weights={0: plan.model, **weights})


def ready(
    plan: Plan, sampler: Literal["auto", "hf", "vllm"], seed: int, folder: Path, async_steps: int = 0
) -> Ready:
    """rlkit's run as `rlkit train` would begin it. TRL takes prompts, verifier and length from the same place."""
    cfg = TrainConfig(
        model=ModelConfig(name=str(plan.model)),
        data=DataConfig(name=plan.task, pool=plan.pool),
        algo=replace(build.algo_config("grpo"), num_generations=plan.num_generations),
        sampler=SamplerConfig(name=sampler),
        learner=LearnerConfig(learning_rate=plan.learning_rate),
        steps=plan.steps,
        prompts_per_step=plan.prompts_per_step,
        max_prompt_length=96,
        seed=seed,
        async_steps=async_steps,
        output_dir=str(folder),
        log=LogConfig(
            save_every=plan.every,
            save_total_limit=plan.steps + 1,
            async_save=False,  # after the step's clock has stopped, as TRL's weights are kept
            show_every=0,
            eval_prompts=plan.prompts,
            rollouts=False,
            tensorboard=False,
        ),
        track=TrackConfig(every=0),  # nor does TRL look where probability goes
    )
    told, found = prepare(cfg)
    if found is None:
        raise SystemExit("\n".join(told.problems))
    return found


def _train_rlkit(
    plan: Plan, arm: Literal["hf", "vllm", "async"], seed: int, folder: Path
) -> tuple[list[Step], dict[int, Path]]:
    from rlkit.analysis.store import read_metrics

    sampler, ahead = ("vllm", 1) if arm == "async" else (arm, 0)
    outcome = run(replace(ready(plan, sampler, seed, folder, ahead), held_out=[]), quiet())
    rows: list[Mapping[str, float]] = list(read_metrics(outcome.folder))
    steps = [
        Step(seconds=row["step_time"], learner=row["timing_s/train"], sampling=row["timing_s/sample"])
        for row in rows
    ]
    kept = {int(path.name.split("-")[1]): path for path in (outcome.folder / "checkpoints").glob("step-*")}
    return steps, kept


def _train_trl(plan: Plan, seed: int, folder: Path) -> tuple[list[Step], dict[int, Path]]:
    # First, because it sets what torch reads when it is loaded.
    from .trl_side import Clocked, make_config  # isort: skip
    from datasets import Dataset

    start = ready(plan, "hf", seed, folder)
    task = start.task
    if task is None or start.cfg.max_completion_length is None:
        raise SystemExit(f"{plan.task}: expected a procedural task")
    prompts = start.data.take(plan.pool)
    chats = [[{"role": "user", "content": prompt.question}] for prompt in prompts]
    steps: list[Step] = []
    kept: dict[int, Path] = {}

    def reward(completions: list[Any], index: list[int], **_: Any) -> list[float | None]:
        return [
            task.verify(prompts[i], chat[0]["content"]).value
            for i, chat in zip(index, completions, strict=True)
        ]

    def on_update(trainer: Clocked) -> None:
        steps.append(
            Step(
                seconds=trainer.step_seconds,
                learner=trainer.learner_seconds,
                sampling=trainer.sampling_seconds,
            )
        )
        done = len(steps)
        if done % plan.every == 0 or done == plan.steps:
            kept[done] = folder / f"step-{done:06d}"
            trainer.model.save_pretrained(kept[done])

    trainer = Clocked(
        on_update=on_update,
        model=build.load_model(plan.model, start.cfg.model),
        args=make_config(
            folder,
            rollouts=plan.rollouts,
            per_device=min(plan.trl_per_device, plan.rollouts),
            num_generations=plan.num_generations,
            max_completion_length=start.cfg.max_completion_length,
            learning_rate=plan.learning_rate,
            max_steps=plan.steps,
            seed=seed,
            shuffle=True,
        ),
        processing_class=start.tokenizer,
        reward_funcs=[reward],
        train_dataset=Dataset.from_dict({"prompt": chats, "index": list(range(len(prompts)))}),
    )
    require_same_prompts(prompts, trainer._tokenize_prompts(chats)[0], trainer.eos_token_ids, start.tokenizer)
    trainer.train()
    return steps, kept


def require_same_prompts(
    prompts: list[Prompt], theirs: list[list[int]], stop_ids: list[int], tokenizer: Any
) -> None:
    """Raises SystemExit when TRL would feed other tokens than rlkit, or end an answer elsewhere."""
    for prompt, ids in zip(prompts, theirs, strict=True):
        if prompt.token_ids != list(ids):
            raise SystemExit(f"prompt {prompt.id}: TRL reads {list(ids)}, rlkit {prompt.token_ids}")
    if list(stop_ids) != [tokenizer.eos_token_id]:
        raise SystemExit(f"TRL ends answers at {stop_ids}, rlkit at {tokenizer.eos_token_id}")


def quiet() -> "Console":
    from rich.console import Console

    return Console(quiet=True)
