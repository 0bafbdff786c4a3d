"""Settings of the learner: the optimizer, adapters, how a batch is laid out and read, and over how many devices."""

import math
from dataclasses import dataclass
from typing import Literal

from rlkit.errors import require


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerConfig:
    """The optimizer and the forward pass. AdamW with TRL's defaults; a paper's own are in its run file (examples/runs/)."""

    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "adamw_torch_8bit"] = "adamw"
    """`adamw`: torch's, in float32; `adamw_8bit` and `paged_adamw_8bit` come with bitsandbytes, `adamw_torch_8bit` with torchao."""
    learning_rate: float | None = None
    """Peak learning rate; none: 1e-4 for `tiny`, 1e-6 for anything else, and ten times that for adapters."""
    lr_multipliers: str = ""
    """Factors of the learning rate by name of weights, as `v_proj=4,lm_head=0.1`; of several that fit the last one counts."""
    lora_rank: int = 0
    """Train low-rank adapters of this rank and leave the weights (LoRA, by peft). 0: train the weights."""
    lora_alpha: float = 32.0
    """Scale of the adapters: alpha / rank multiplies what they add."""
    lora_targets: str = "all-linear"
    """Layers with an adapter, as `q_proj,v_proj`; all-linear: every linear layer but the output head."""
    warmup_steps: int = 0
    """Optimizer steps of linear warm-up, then constant."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay, on matrices only."""
    adam_beta1: float = 0.9
    """AdamW's first decay rate."""
    adam_beta2: float = 0.999
    """AdamW's second decay rate."""
    max_grad_norm: float = 1.0
    """Clip the gradient to this norm."""
    max_skipped_share: float = 0.1
    """Stop the run when a larger share of its updates was skipped, since loss or gradient was not finite (of ten updates at least; 0: at the first)."""
    micro_batch_tokens: int = 16384
    """Tokens the model reads in one forward and backward; a longer sequence goes alone. It changes memory, never the gradient."""
    packing: bool = True
    """Lay sequences end to end instead of padding them; a model that cannot (sliding windows) is padded all the same."""
    share_prefixes: bool = True
    """Read the prompt of a group once for all its answers, not once for each."""
    skip_idle: bool = True
    """Leave out answers whose gradient is zero by construction: groups of equal rewards, masked signs, truncated and masked."""
    logits_chunk: int = 0
    """At most so many tokens' worth of logits exist at one time, so [B, T, V] never does; 0: as many as suit the device."""
    shard: Literal["none", "fsdp2"] = "none"
    """`fsdp2`: divide weights, gradients and moments over the ranks of torchrun or accelerate launch; none: a whole copy on each (DDP)."""
    cpu_offload: bool = False
    """With `shard`: keep weights, gradients and moments in the host's memory, and step there."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    compile: bool = False
    """Compile the decoder layers (torch.compile): the first step is a minute slower. On a CPU it needs a C++ compiler."""

    def __post_init__(self) -> None:
        rate = self.learning_rate
        require(rate is None or rate > 0, "learner.learning_rate", rate, "a positive number")
        require(
            all(factor > 0 for factor in self.multipliers.values()),
            "learner.lr_multipliers",
            self.lr_multipliers,
            "factors above 0",
        )
        alpha, targets = self.lora_alpha, self.lora_targets
        require(self.lora_rank >= 0, "learner.lora_rank", self.lora_rank, "0 (no adapters) or more")
        require(alpha > 0, "learner.lora_alpha", alpha, "a positive number")
        require(targets.strip(", ") != "", "learner.lora_targets", targets, "all-linear, or names of layers")
        require(
            self.lora_rank > 0 or (alpha, targets) == (32.0, "all-linear"),
            "learner.lora_alpha, learner.lora_targets",
            (alpha, targets),
            "32.0 and all-linear while learner.lora_rank is 0: there are no adapters",
        )
        require(self.warmup_steps >= 0, "learner.warmup_steps", self.warmup_steps, "0 or more")
        require(self.max_grad_norm > 0, "learner.max_grad_norm", self.max_grad_norm, "a positive number")
        share = self.max_skipped_share
        require(0 <= share <= 1, "learner.max_skipped_share", share, "a share in [0, 1]")
        require(
            self.micro_batch_tokens > 0, "learner.micro_batch_tokens", self.micro_batch_tokens, "at least 1"
        )
        require(
            self.logits_chunk >= 0,
            "learner.logits_chunk",
            self.logits_chunk,
            "0 (what suits the device) or more",
        )
        require(
            self.shard != "none" or not self.cpu_offload,
            "learner.cpu_offload",
            True,
            "off without learner.shard = fsdp2, which moves the weights",
        )
        require(
            self.shard == "none" or self.optimizer == "adamw",
            "learner.optimizer",
            self.optimizer,
            "adamw with learner.shard = fsdp2",
        )

    @property
    def multipliers(self) -> dict[str, float]:
        """`lr_multipliers` as pattern -> factor, in their order. Raises ConfigError.

        >>> LearnerConfig(lr_multipliers="v_proj=4, lm_head=0.1").multipliers
        {'v_proj': 4.0, 'lm_head': 0.1}
        """
        found: dict[str, float] = {}
        for word in self.lr_multipliers.replace(",", " ").split():
            pattern, _, factor = word.partition("=")
            try:
                value = float(factor)
            except ValueError:
                value = math.nan
            expected = "NAME=FACTOR, separated by commas, as v_proj=4,lm_head=0.1"
            require(pattern != "" and math.isfinite(value), "learner.lr_multipliers", word, expected)
            require(pattern not in found, "learner.lr_multipliers", word, f"{pattern} once")
            found[pattern] = value
        return found
