"""What benchmarks/parity_trl.py gives to both sides: the same answers, rewards and settings.

groups()    4 prompts with 6 answers each; lengths, cuts and rewards reach every branch
trainer()   TRL's own GRPOTrainer; answers and rewards come in by its hooks `rollout_func` and `reward_funcs`
Side        what one side computed;  distances(ours, theirs): how far apart, quantity by quantity
"""

import copy
import functools
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

# First, because it sets what torch and transformers read when they are loaded.
from .trl_side import CHOICES  # isort: skip
from .cases import Case, settings  # isort: skip
from .updates import END_ID, Shape, _number_tokenizer  # isort: skip

import torch
from datasets import Dataset
from torch import Tensor
from transformers import Qwen2ForCausalLM
from trl import GRPOConfig, RLOOConfig, RLOOTrainer
from trl.rewards import get_soft_overlong_punishment

from rlkit.types import Group, Prompt, Rollout, Score, Segment

LONGEST = 16
"""max_completion_length."""
TEMPERATURE = 0.8
PROMPT_TOKENS = (3, 9, 5, 12)
LENGTHS = ((1, 7, 16, 12, 3, 9), (4, 16, 9, 2, 11, 6), (5, 16, 3, 8, 13, 10), (10, 16, 6, 14, 2, 1))
CUT = {(0, 2), (1, 1), (3, 1)}
"""Answers that were cut at 16 tokens; another of 16 ended there by itself."""
Rewards = Sequence[Sequence[float | None]]
REWARDS: Rewards = (
    (1.0, 0.0, 0.0, 1.0, 0.0, 1.0),
    (0.25, 0.875, 0.5, 0.0, 1.0, 0.125),
    (0.5, 0.5, 0.5, 0.5, 0.5, 0.5),
    (0.0, 1.0, 0.0, 0.0, 0.0, 0.0),
)
"""One group has no spread. All are exact in float32, in which TRL keeps rewards."""
ANSWERS = sum(map(len, LENGTHS))
SHAPE = Shape(vocab_size=64, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=2, num_kv_heads=1)


def groups(logprobs: Sequence[Sequence[float]], rewards: Rewards = REWARDS) -> list[Group]:
    """The answers, with the sampler's log-probabilities of their tokens (row i: answer i, as many as it has or more)."""
    rng, rows = random.Random(0), iter(logprobs)
    out = []
    for g, lengths in enumerate(LENGTHS):
        prompt = [rng.randrange(2, SHAPE.vocab_size) for _ in range(PROMPT_TOKENS[g])]
        rollouts = []
        for i, length in enumerate(lengths):
            answer = [rng.randrange(2, SHAPE.vocab_size) for _ in range(length)]
            cut = (g, i) in CUT
            if not cut:
                answer[-1] = END_ID
            rollouts.append(
                Rollout(
                    prompt_id=str(g),
                    token_ids=prompt + answer,
                    logprobs=[0.0] * len(prompt) + list(next(rows)[:length]),
                    segments=[
                        Segment(kind="prompt", start=0, end=len(prompt)),
                        Segment(kind="completion", start=len(prompt), end=len(prompt) + length),
                    ],
                    policy_version=0,
                    finish_reason="length" if cut else "stop",
                    score=Score(rewards[g][i]),
                )
            )
        out.append(Group(prompt=Prompt(id=str(g), token_ids=prompt), rollouts=rollouts))
    return out


# -- TRL's side ------------------------------------------------------------------------------------------------------------


def save_model(folder: Path) -> None:
    """A random model, sharper than a fresh one, as a folder: TRL loads its reference from there."""
    model = SHAPE.build()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.mul_(4)
    model.save_pretrained(folder)


def load_model(folder: Path) -> Qwen2ForCausalLM:
    return copy.deepcopy(_read_model(folder))


@functools.cache
def _read_model(folder: Path) -> Qwen2ForCausalLM:
    return Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)


def rewards(case: Case) -> list[Callable[..., list[float]]]:
    """TRL's reward functions; DAPO's length term is TRL's own."""

    def score(rollouts: Sequence[Rollout], **_: Any) -> list[float | None]:
        return [
            2 * r.value - 1 if case.cfg.signed_rewards and r.value is not None else r.value for r in rollouts
        ]

    buffer = int(case.cfg.overlong_buffer * LONGEST)
    return [score, get_soft_overlong_punishment(LONGEST, buffer)] if buffer else [score]


class Fed(RLOOTrainer):  # type: ignore[misc]
    """RLOOTrainer, which has no `rollout_func`, with the one method replaced that would ask a model for answers."""

    rollouts: Sequence[Rollout]

    def _generate(self, prompts: list[str]) -> tuple[list[list[int]], list[list[int]], list[str]]:
        rollouts = self.rollouts
        return (
            [r.token_ids[: r.prompt_tokens] for r in rollouts],
            [r.completion_ids for r in rollouts],
            prompts,
        )


def trainer(kind: type[Any], case: Case, folder: Path) -> Any:
    """A GRPOTrainer, or a `Fed`, that will be given `rollouts` (an attribute), and the log-probs of the step's start as old ones."""

    def rollout_func(_: list[str], trainer: Any) -> dict[str, Any]:
        rollouts: list[Rollout] = trainer.rollouts
        return {
            "prompt_ids": [r.token_ids[: r.prompt_tokens] for r in rollouts],
            "completion_ids": [r.completion_ids for r in rollouts],
            "logprobs": [r.completion_logprobs for r in rollouts],
        }

    args = {
        **CHOICES,
        "output_dir": str(folder / "trl"),
        "per_device_train_batch_size": ANSWERS // case.micro_batches,
        "gradient_accumulation_steps": case.micro_batches // case.updates,
        "steps_per_generation": case.micro_batches,
        "num_generations": len(LENGTHS[0]),
        "max_completion_length": LONGEST,
        "num_iterations": 2,  # with one, TRL takes the present log-probs for the old ones
        "temperature": TEMPERATURE,
        **settings(case),
    }
    if issubclass(kind, RLOOTrainer):
        known = {field.name for field in fields(RLOOConfig)}
        config = RLOOConfig(
            normalize_advantages=case.cfg.scale_rewards == "batch_advantages",
            **{name: value for name, value in args.items() if name in known},
        )
        more = {}
    else:
        config, more = GRPOConfig(**args), {"rollout_func": rollout_func}
    made = kind(
        model=load_model(folder),
        args=config,
        processing_class=_number_tokenizer(SHAPE.vocab_size),
        reward_funcs=rewards(case),
        train_dataset=Dataset.from_dict({"prompt": ["2"]}),
        **more,
    )
    # What its training loop does first.
    made.model.train()
    made.current_gradient_accumulation_steps = made.args.gradient_accumulation_steps
    if case.cfg.importance_sampling_correction:
        # Its correction goes with vLLM alone, which writes nothing here: the weights count as sent.
        made.use_vllm, made._last_loaded_step = True, made.state.global_step
    return made


def collected(made: Any, rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """What TRL makes of the answers before its loss: padding, rewards, advantages, old and reference log-probs."""
    made.rollouts = list(rollouts)
    made._metrics["train"].clear()
    # Columns beside the prompt go to the reward functions.
    inputs: dict[str, Any] = made._generate_and_score_completions(
        [{"prompt": "2", "rollouts": r} for r in rollouts]
    )
    return inputs


def told(made: Any) -> dict[str, float]:
    """TRL's metrics of its loss and correction since it was last asked; rlkit's Learner has the same ones."""
    fold: dict[str, Callable[..., float]] = {"min": min, "max": max}
    found = {
        name: fold.get(name[-3:], statistics.fmean)(values)
        for name, values in made._metrics["train"].items()
        if name.startswith(("clip_ratio/", "cispo_clip_ratio", "kl", "policy_loss", "entropy", "sampling/"))
    }
    found.pop("entropy_coef", None)  # a setting
    made._metrics["train"].clear()
    return found


# -- what is compared ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one side computed."""

    advantages: list[float]
    """One for each answer, in the order of `groups`."""
    loss: float
    gradient: Tensor
    """One dimension."""
    metrics: dict[str, float]


class Distance(NamedTuple):
    """How far rlkit's number is from TRL's, and how large TRL's is."""

    gap: float
    size: float


def distances(
    ours: Side, theirs: Side, *, relative: bool, apart: tuple[str, ...] = ()
) -> dict[str, Distance]:
    """By quantity: absolute; of the gradient the largest element, or (relative) the norm of the difference over the norm.

    apart: beginnings of metrics to leave out. Raises ValueError when a metric is on one side alone.
    """
    if ours.metrics.keys() != theirs.metrics.keys():
        raise ValueError(f"metrics of one side alone: {sorted(ours.metrics.keys() ^ theirs.metrics.keys())}")
    gap, norm = ours.gradient - theirs.gradient, float(theirs.gradient.norm())
    both = zip(ours.advantages, theirs.advantages, strict=True)
    return {
        "loss": Distance(abs(ours.loss - theirs.loss), abs(theirs.loss)),
        "gradient": Distance(float(gap.norm()) / norm if relative else float(gap.abs().max()), norm),
        "advantages": Distance(max(abs(a - b) for a, b in both), max(map(abs, theirs.advantages))),
        **{
            name: Distance(abs(ours.metrics[name] - value), abs(value))
            for name, value in theirs.metrics.items()
            if not name.startswith(apart)
        },
    }
