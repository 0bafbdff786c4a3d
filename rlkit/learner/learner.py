"""Model, optimizer, update(minibatches, loss): forward, the algorithm's loss, backward, clip, optimizer step.

Weights and AdamW's moments are float32; with dtype bfloat16 the forward runs under autocast, because a step of 1e-6
would be lost in a bfloat16 weight. The ratio's old log-probs are the learner's own: when a step has one update they are
the current ones, detached; otherwise they are computed once, before the first update. The sampler's log-probs enter
only through TRL's importance correction.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlkit.algo_config import AlgoConfig
from rlkit.batch import Batch, TokenStats, make_minibatches
from rlkit.config import LearnerConfig
from rlkit.errors import ModelError, RunError
from rlkit.metrics import Metrics, Tally, merge, values
from rlkit.types import Credit, Rollout

from .correction import importance_weights
from .logprobs import token_stats

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Loss = Callable[[Batch, TokenStats], tuple[Tensor, Metrics]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one step of updates did.

    >>> Report(metrics={"loss": 0.25, "grad_norm": 1.5}, updates=1, trained_tokens=64).metrics["loss"]
    0.25
    """

    metrics: dict[str, float]
    """Means over the updates, under TRL's names."""
    updates: int
    """Optimizer steps taken."""
    trained_tokens: int
    """Tokens with a term in the loss, counted once for each pass over them."""


class Learner:
    """Holds the policy open for training.

    model: a causal language model of transformers, float32 weights
    num_iterations: passes over the same mini-batches
    autocast: run the forward in bfloat16
    reference: frozen weights that the KL penalty pulls to; needed when the algorithm's beta is above 0
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        cfg: LearnerConfig,
        algo: AlgoConfig,
        *,
        learning_rate: float,
        temperature: float,
        num_iterations: int,
        pad_id: int,
        autocast: bool = False,
        reference: "PreTrainedModel | None" = None,
    ) -> None:
        from accelerate import Accelerator

        self.cfg, self.algo = cfg, algo
        self.learning_rate, self.temperature, self.num_iterations = learning_rate, temperature, num_iterations
        self.pad_id = pad_id
        self.updates = 0
        # The precision is not the accelerator's: a process has one for good, and a warm start may have set it already.
        self.accelerator, self.autocast = Accelerator(), autocast
        _check_head(model)
        module: Any
        for module in model.modules():
            # A dropped unit would make the policy's log-prob differ from its own old one.
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            elif hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.0  # transformers hands it to a function, not to a module
        if cfg.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        optimizer = torch.optim.AdamW(
            _parameter_groups(model, cfg.weight_decay),
            lr=learning_rate,
            betas=(cfg.adam_beta1, cfg.adam_beta2),
        )
        self.model, self.optimizer = self.accelerator.prepare(model.train(), optimizer)
        self.reference = None
        if reference is not None:
            frozen: torch.nn.Module = reference
            self.reference = frozen.eval().requires_grad_(False).to(self.accelerator.device)

    # -- forward -----------------------------------------------------------------------------------------------------

    def _stats(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies of the masked tokens, [B, T] float32, 0 elsewhere."""
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.autocast):
            body = model.base_model(
                input_ids=batch.ids_BT, attention_mask=batch.attention_BT, use_cache=False
            )
            predicts_BT = batch.mask_BT[:, 1:]  # token t is predicted at t - 1
            head = model.get_output_embeddings()
            logp_N, entropy_N = token_stats(
                body.last_hidden_state[:, :-1][predicts_BT],
                head.weight,
                getattr(head, "bias", None),
                batch.ids_BT[:, 1:][predicts_BT],
                self.temperature,
                self.cfg.logits_chunk,
            )
        zeros_BT = torch.zeros_like(batch.weight_BT)
        return zeros_BT.masked_scatter(batch.mask_BT, logp_N), zeros_BT.masked_scatter(
            batch.mask_BT, entropy_N
        )

    @torch.no_grad()
    def logprobs(self, rollouts: Sequence[Rollout]) -> list[list[float]]:
        """Present log-probs of each rollout's completion tokens, nats, in the order given."""
        credits = [
            Credit(rollout=r, advantages=[0.0] * len(r.completion_ids), weight=0.0, share=1.0)
            for r in rollouts
        ]
        out: list[list[float]] = [[] for _ in rollouts]
        for minibatch in (
            make_minibatches(credits, 1, self.cfg.micro_batch_tokens, self.pad_id) if credits else []
        ):
            for batch in (b.to(self.accelerator.device) for b in minibatch):
                logp_BT, _ = self._stats(self.model, batch)
                for b, i in enumerate(batch.rows):
                    out[i] = logp_BT[b][batch.mask_BT[b]].tolist()
        return out

    # -- update ------------------------------------------------------------------------------------------------------

    def update(self, minibatches: Sequence[Sequence[Batch]], loss: Loss) -> Report:
        """One optimizer step per mini-batch and iteration. Raises RunError when a gradient is not finite."""
        device = self.accelerator.device
        minis = [[batch.to(device) for batch in mini] for mini in minibatches]
        several = len(minis) * self.num_iterations > 1
        olds: list[list[Tensor | None]] = [[None] * len(mini) for mini in minis]
        if several:
            with torch.no_grad():
                olds = [[self._stats(self.model, batch)[0] for batch in mini] for mini in minis]
        reports: list[Metrics] = []
        for _ in range(self.num_iterations):
            for mini, mini_olds in zip(minis, olds, strict=True):
                total = 0.0
                for batch, old_BT in zip(mini, mini_olds, strict=True):
                    value, metrics = self._accumulate(batch, old_BT, loss)
                    total += value
                    reports.append(metrics)
                reports.append({"loss": Tally(total), **self._step()})
        tokens = sum(int(b.mask_BT.sum()) for mini in minis for b in mini)
        return Report(
            metrics=values(merge(reports)),
            updates=len(minis) * self.num_iterations,
            trained_tokens=tokens * self.num_iterations,
        )

    def _accumulate(self, batch: Batch, old_BT: Tensor | None, loss: Loss) -> tuple[float, Metrics]:
        """Forward and backward of one micro-batch: its part of the loss, and its tallies."""
        logp_BT, entropy_BT = self._stats(self.model, batch)
        old_BT = logp_BT.detach() if old_BT is None else old_BT
        ref_BT = None
        if self.reference is not None:
            with torch.no_grad():
                ref_BT = self._stats(self.reference, batch)[0]
        batch, metrics = self._corrected(batch, old_BT)
        stats = TokenStats(
            logp_BT=logp_BT, old_logp_BT=old_BT, entropy_BT=entropy_BT.detach(), ref_logp_BT=ref_BT
        )
        part, algo_metrics = loss(batch, stats)
        self.accelerator.backward(part)
        count = float(batch.mask_BT.sum())
        return float(part.detach()), {
            **metrics,
            **algo_metrics,
            "entropy": Tally(float(stats.entropy_BT[batch.mask_BT].double().sum()), count),
        }

    def _corrected(self, batch: Batch, old_BT: Tensor) -> tuple[Batch, Metrics]:
        """The batch with importance ratios multiplied into its advantages, and the sampler/learner gap as metrics.

        Advantages and not weights, because TRL corrects the policy's term alone: a KL penalty keeps its own.
        """
        mask_BT = batch.mask_BT
        delta_BT = old_BT - batch.sampler_logp_BT
        gap_N = delta_BT[mask_BT].abs().double()
        count = float(mask_BT.sum())
        if not count:
            return batch, {}
        name = "sampling/sampling_logp_difference"
        metrics = {
            f"{name}/mean": Tally(float(gap_N.sum()), count),
            f"{name}/max": Tally(float(gap_N.max()), 1, "max"),
        }
        if not self.algo.importance_sampling_correction:
            return batch, metrics
        ratio_BT = importance_weights(
            delta_BT, mask_BT, self.algo.importance_sampling_mode, self.algo.importance_sampling_clip_max
        )
        ratio_N = ratio_BT[mask_BT].double()
        name = "sampling/importance_sampling_ratio"
        metrics |= {
            f"{name}/min": Tally(float(ratio_N.min()), 1, "min"),
            f"{name}/mean": Tally(float(ratio_N.sum()), count),
            f"{name}/max": Tally(float(ratio_N.max()), 1, "max"),
        }
        fields = {n: getattr(batch, n) for n in batch.__slots__}
        return Batch(**{**fields, "adv_BT": batch.adv_BT * ratio_BT}), metrics

    def _step(self) -> dict[str, Tally]:
        """Clip, step, clear; the weights stay as they are when the gradient is not finite."""
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), self.cfg.max_grad_norm))
        if not math.isfinite(norm):
            raise RunError(
                f"update {self.updates}: the gradient's norm is {norm}; the weights are as they were before it. "
                "Lower --learner.learning-rate, or resume from the last checkpoint"
            )
        rate = self.learning_rate * min(1.0, (self.updates + 1) / max(1, self.cfg.warmup_steps))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.updates += 1
        return {"grad_norm": Tally(norm), "learning_rate": Tally(rate)}

    # -- what leaves and what must survive -----------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """Name -> tensor for a sampler; with tied embeddings `lm_head.weight` is there too (vLLM packs its own copy)."""
        state: Mapping[str, Tensor] = self.accelerator.unwrap_model(self.model).state_dict()
        return {name: tensor.detach() for name, tensor in state.items()}

    def save_model(self, folder: Path) -> None:
        """A folder that transformers and vLLM load as it is."""
        self.accelerator.unwrap_model(self.model).save_pretrained(folder)

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """AdamW's state as `NAME|field` -> tensor, for safetensors."""
        names = {id(p): n for n, p in self.model.named_parameters()}
        state = self.optimizer.state
        return {
            f"{names[id(p)]}|{key}": torch.as_tensor(value).contiguous()
            for p, fields in state.items()
            for key, value in fields.items()
        }

    def load_optimizer_tensors(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Take back what `optimizer_tensors` gave. Raises RunError when it belongs to another model."""
        parameters = dict(self.model.named_parameters())
        for key, value in tensors.items():
            name, _, field = key.rpartition("|")
            known = parameters.get(name)
            if known is None or (value.ndim and value.shape != known.shape):
                raise RunError(
                    f"optimizer state: {key} of shape {tuple(value.shape)} does not fit this model"
                )
            # AdamW keeps its step counter on the CPU and its moments beside the weights.
            self.optimizer.state[known][field] = value.to(known.device) if value.ndim else value.clone()
        self.updates = updates


def _parameter_groups(model: "PreTrainedModel", weight_decay: float) -> list[dict[str, Any]]:
    """Decay on matrices, none on biases and norms."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def _check_head(model: "PreTrainedModel") -> None:
    """Refuse models whose logits are more than a linear head: their log-probs would be wrong without a word."""
    text = model.config.get_text_config()
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(text, name, None):
            raise ModelError(
                f"{type(model).__name__} reshapes its logits ({name} = {getattr(text, name)}), which rlkit's log-probs do not "
                "follow; train a model of the Qwen or Llama families"
            )
