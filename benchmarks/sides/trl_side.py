"""TRL's GRPOTrainer as the benchmarks compare with it: its own code path, at its best settings, with a clock beside it.

Nothing of TRL is replaced. `Clocked` overrides methods only to read the time and hand on what they return.
"""

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before torch is loaded, as rlkit does for itself (rlkit/__init__.py): threads that wait spin for a moment only.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when huggingface_hub is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # `rollout_func` warns that it may change
warnings.filterwarnings("ignore", message="TRL currently supports vLLM")  # vLLM plays no part on this side

from transformers import TrainerCallback  # noqa: E402
from transformers.trainer_callback import PrinterCallback  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

CHOICES: dict[str, Any] = {
    "gradient_checkpointing": False,  # on by default; it costs a third of the time
    "bf16": False,  # on by default, also on a CPU
    "use_cpu": True,
    "beta": 0.0,
    "loss_type": "grpo",  # `dapo` by default
    "importance_sampling_level": "token",
    "scale_rewards": "group",
    "epsilon": 0.2,
    "num_iterations": 1,
    "mask_truncated_completions": False,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "repetition_penalty": 1.0,
    "lr_scheduler_type": "constant",  # linear by default
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0,
    "use_vllm": False,  # hence no importance correction and no pass for old log-probs
    "remove_unused_columns": False,
    "dataloader_pin_memory": False,
    "logging_strategy": "no",
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}
"""What both benchmarks set; a comment says where TRL's default is another. The optimizer stays TRL's: AdamW, fused."""


def make_config(
    folder: Path,
    *,
    rollouts: int,
    per_device: int,
    num_generations: int,
    max_completion_length: int,
    learning_rate: float,
    max_steps: int,
    seed: int,
    shuffle: bool,
) -> GRPOConfig:
    """One optimizer step per generation of `rollouts` answers, accumulated over micro-batches of `per_device`."""
    return GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=rollouts // per_device,
        generation_batch_size=rollouts,
        num_generations=num_generations,
        max_completion_length=max_completion_length,
        learning_rate=learning_rate,
        max_steps=max_steps,
        seed=seed,
        shuffle_dataset=shuffle,
        **CHOICES,
    )


class Clocked(GRPOTrainer):  # type: ignore[misc]
    """GRPOTrainer that tells how long each step took and how much of it was learning.

    `step_seconds`: from the first micro-batch of a step to the end of its optimizer step; logging is outside.
    `learner_seconds`: the same without `_generate_and_score_completions`, that is without generation, decoding, rewards,
    advantages and padding. Left are forward, loss with its metrics, backward, clipping, optimizer, zero_grad.
    `sampling_seconds`: generation alone.
    """

    def __init__(self, *, on_update: Callable[["Clocked"], None], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.step_seconds = self.learner_seconds = self.sampling_seconds = 0.0
        self.last_loss = self.last_norm = 0.0
        self._began = self._generating = 0.0
        self.add_callback(_Clock(self, on_update))
        self.remove_callback(PrinterCallback)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        began = time.perf_counter()
        out = super()._generate_and_score_completions(inputs)
        if "old_per_token_logps" in out:
            raise RuntimeError(
                "TRL ran a forward for old log-probs inside generation; the clock would leave it out"
            )
        self._generating += time.perf_counter() - began
        return out

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        out = super()._generate_single_turn(*args, **kwargs)
        self.sampling_seconds += time.perf_counter() - began
        return out

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any) -> Any:
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.last_loss += float(loss)  # TRL divides each micro-batch by their number, so the parts add up
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        self.last_norm = float(norm)
        return norm


class _Clock(TrainerCallback):
    """Reads the time where a step begins and ends."""

    def __init__(self, trainer: Clocked, on_update: Callable[[Clocked], None]) -> None:
        self.trainer, self.on_update = trainer, on_update

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.last_loss = self.trainer.sampling_seconds = self.trainer._generating = 0.0
        self.trainer._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self.trainer
        trainer.step_seconds = time.perf_counter() - trainer._began
        trainer.learner_seconds = trainer.step_seconds - trainer._generating
        self.on_update(trainer)


class FullLogits(Clocked):
    """TRL before its fused head: all logits at once, by TRL's own `selective_log_softmax_and_entropy`."""

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, **kwargs: Any
    ) -> Any:
        from trl.trainer.utils import selective_log_softmax_and_entropy

        logits_BTV = model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            logits_to_keep=logits_to_keep + 1,
            use_cache=False,
        ).logits[:, :-1]
        logp_BT, entropy_BT = selective_log_softmax_and_entropy(
            logits_BTV,
            input_ids[:, -logits_to_keep:],
            entropy_requires_grad=False,
            temperature=self.temperature,
        )
        return logp_BT, entropy_BT, None


def stop(trainer: GRPOTrainer) -> None:
    """Let the loop end after this step."""
    trainer.control.should_training_stop = True
