"""The same optimizer update by rlkit's Learner and by TRL's GRPOTrainer, each in a process of its own.

Case      which rollouts: lengths, rewards, shared prompts; everything follows from its seed
Job       a side, a model, a case and how often
run(job)  one `Update` after each word from `wait`, so that a parent can let two sides take turns
"""

import ctypes
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rlkit.types import Group

Side = Literal["rlkit", "trl", "trl full logits"]
PAD_ID, END_ID = 0, 1
LEARNING_RATE = 1e-6
"""Small, so that every repeat works on nearly the same weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`num_groups` prompts with `num_generations` answers each, of random tokens.

    >>> Case(name="a", num_groups=1, num_generations=2, prompt_tokens=3, median=2).lengths()
    [2, 2]
    """

    name: str
    num_groups: int
    num_generations: int = 8
    prompt_tokens: int
    median: int
    """Tokens of an answer: of all of them when sigma is 0, else the median of a log-normal."""
    sigma: float = 0.0
    cap: int = 1024
    """Longest answer, tokens."""
    silent_groups: int = 0
    """Groups whose answers all have the same reward: no advantage, hence no gradient."""
    seed: int = 0

    @property
    def rollouts(self) -> int:
        return self.num_groups * self.num_generations

    def lengths(self) -> list[int]:
        """Tokens of each answer."""
        rng = random.Random(self.seed)
        drawn = [self.median * rng.lognormvariate(0.0, self.sigma) for _ in range(self.rollouts)]
        return [max(1, min(self.cap, round(x))) for x in drawn]

    @property
    def trained_tokens(self) -> int:
        return sum(self.lengths())

    def groups(self, vocab_size: int) -> "list[Group]":
        """Rollouts with random tokens and, but for the silent groups, random rewards."""
        from rlkit.types import Group, Prompt, Rollout, Score, Segment

        rng, lengths = random.Random(self.seed + 1), iter(self.lengths())
        groups = []
        for g in range(self.num_groups):
            prompt = [rng.randrange(2, vocab_size) for _ in range(self.prompt_tokens)]
            rollouts = []
            for _ in range(self.num_generations):
                answer = [rng.randrange(2, vocab_size) for _ in range(next(lengths) - 1)] + [END_ID]
                reward = 1.0 if g < self.silent_groups else round(rng.random(), 3)
                rollouts.append(
                    Rollout(
                        prompt_id=str(g),
                        token_ids=prompt + answer,
                        logprobs=[0.0] * (len(prompt) + len(answer)),
                        segments=[
                            Segment(kind="prompt", start=0, end=len(prompt)),
                            Segment(kind="completion", start=len(prompt), end=len(prompt) + len(answer)),
                        ],
                        policy_version=0,
                        finish_reason="stop",
                        score=Score(reward),
                    )
                )
            groups.append(Group(prompt=Prompt(id=str(g), token_ids=prompt), rollouts=rollouts))
        return groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A random Qwen2 with tied embeddings, float32."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int

    def build(self) -> Any:
        import torch
        from transformers import Qwen2Config, Qwen2ForCausalLM

        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=END_ID,
            pad_token_id=PAD_ID,
        )
        return Qwen2ForCausalLM(config).float()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What one process does: an update of each case in turn."""

    side: Side
    shape: Shape
    cases: tuple[Case, ...]
    """All with the same number of groups and generations."""
    per_device: int
    """TRL's per_device_train_batch_size; rlkit fills its micro-batches by tokens, at its default."""
    trim: bool = False
    """Give freed pages back before each update: they would hide what it needs. It costs time, so only where memory is measured."""
    gradient_file: Path | None = None
    """Where the first update's gradient is kept, as it enters the optimizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One optimizer update, measured."""

    seconds: float
    loss: float
    grad_norm: float
    """Before clipping."""
    peak_mib: float | None
    """Peak resident memory during the update above what was there before it, less gradients and (first update) AdamW's
    two moments. None where the system does not tell."""


def run(job: Job, wait: Callable[[], None], report: Callable[[Update], None]) -> None:
    """Do the job's updates; `wait` before each, `report` after each."""
    (_run_rlkit if job.side == "rlkit" else _run_trl)(job, wait, report)


def _run_rlkit(job: Job, wait: Callable[[], None], report: Callable[[Update], None]) -> None:
    """Timed: Learner.minibatches and Learner.update. Rewards to advantages are outside, as they are at TRL's."""
    from rlkit import build
    from rlkit.algos.base import Sampling
    from rlkit.config import LearnerConfig
    from rlkit.learner import Learner

    first = job.cases[0]
    algo_cfg = replace(
        build.algo_config("grpo"),
        num_generations=first.num_generations,
        # The rollouts were drawn from no model, so there is no sampler to correct for; neither does TRL without vLLM.
        importance_sampling_correction=False,
    )
    algo = build.make_algorithm(algo_cfg, Sampling(max_completion_length=first.cap, temperature=1.0))
    model = job.shape.build()
    learner = Learner(
        model,
        LearnerConfig(),
        algo_cfg,
        learning_rate=LEARNING_RATE,
        temperature=1.0,
        num_iterations=1,
        pad_id=PAD_ID,
    )
    _keep_gradient(learner.optimizer, model, job.gradient_file)
    for turn, case in enumerate(job.cases):
        credits = algo.credit(case.groups(job.shape.vocab_size), [])
        wait()
        memory = _Memory(model, has_moments=turn > 0, trim=job.trim)
        began = time.perf_counter()
        done = learner.update(learner.minibatches(credits, 1), algo.loss)
        seconds = time.perf_counter() - began
        report(
            Update(
                seconds=seconds,
                loss=done.metrics["loss"],
                grad_norm=done.metrics["grad_norm"],
                peak_mib=memory.peak(),
            )
        )


def _run_trl(job: Job, wait: Callable[[], None], report: Callable[[Update], None]) -> None:
    """Timed: see `Clocked.learner_seconds`. The rollouts come in by TRL's own hook, `rollout_func`."""
    # First, because it sets what torch reads when it is loaded.
    from .trl_side import Clocked, FullLogits, make_config  # isort: skip
    from datasets import Dataset

    first = job.cases[0]
    groups = [case.groups(job.shape.vocab_size) for case in job.cases]
    turns: Iterator[list[Group]] = iter(groups)
    state: dict[str, Any] = {}

    def rollout_func(prompts: list[str], trainer: Any) -> dict[str, Any]:
        rollouts = [r for group in next(turns) for r in group.rollouts]
        state["rewards"] = [r.value for r in rollouts]
        wait()
        state["memory"] = _Memory(trainer.model, has_moments=trainer.state.global_step > 0, trim=job.trim)
        return {
            "prompt_ids": [r.token_ids[: r.prompt_tokens] for r in rollouts],
            "completion_ids": [r.completion_ids for r in rollouts],
            "logprobs": None,
        }

    def reward(prompts: list[str], **kwargs: Any) -> list[float]:
        return list(state["rewards"])

    def on_update(trainer: Clocked) -> None:
        report(
            Update(
                seconds=trainer.learner_seconds,
                loss=trainer.last_loss,
                grad_norm=trainer.last_norm,
                peak_mib=state["memory"].peak(),
            )
        )

    with tempfile.TemporaryDirectory() as folder:
        kind = FullLogits if job.side == "trl full logits" else Clocked
        trainer = kind(
            on_update=on_update,
            model=job.shape.build(),
            args=make_config(
                Path(folder),
                rollouts=first.rollouts,
                per_device=job.per_device,
                num_generations=first.num_generations,
                max_completion_length=first.cap,
                learning_rate=LEARNING_RATE,
                max_steps=len(job.cases),
                seed=0,
                shuffle=False,
            ),
            processing_class=_number_tokenizer(job.shape.vocab_size),
            reward_funcs=[reward],
            train_dataset=Dataset.from_dict({"prompt": [str(g + 2) for g in range(first.num_groups)]}),
            rollout_func=rollout_func,
        )
        trainer.create_optimizer()
        _keep_gradient(trainer.optimizer, trainer.model, job.gradient_file)
        trainer.train()


def _number_tokenizer(vocab_size: int) -> Any:
    """Token i is the text "i": TRL decodes every answer for its rewards."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({str(i): i for i in range(vocab_size)}, unk_token=str(PAD_ID)))
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=str(PAD_ID), eos_token=str(END_ID))


def _keep_gradient(optimizer: Any, model: "torch.nn.Module", path: Path | None) -> None:
    """Write the gradient to `path` when the optimizer takes its first step."""
    if path is None:
        return
    import torch

    def save(*_: Any) -> None:
        handle.remove()
        gradients: list[Tensor] = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        torch.save(torch.cat(gradients), path)

    torch_optimizer: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
    handle = torch_optimizer.register_step_pre_hook(save)


class _Memory:
    """Peak resident memory from now on, above now (Linux; elsewhere None)."""

    def __init__(self, model: "torch.nn.Module", *, has_moments: bool, trim: bool) -> None:
        # float32 gradients, and at the first step AdamW's moments, come on top whoever computes them.
        self._due_mib = sum(p.numel() for p in model.parameters()) * 4 * (1 if has_moments else 3) / 2**20
        self._before_mib: float | None = None
        try:
            if trim:
                ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
            self._before_mib = _status_mib("VmRSS")
        except (OSError, AttributeError):
            pass

    def peak(self) -> float | None:
        return None if self._before_mib is None else _status_mib("VmHWM") - self._before_mib - self._due_mib


def _status_mib(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {name}")
