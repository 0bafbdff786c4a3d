"""The settings of the algorithms: what all share, and each one's own. Every default names its source in docs/papers.md.

Names are TRL's where TRL has one. Only the standard library is imported here.
"""

from dataclasses import dataclass
from typing import Literal

from rlkit.errors import require


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgoConfig:
    """What all algorithms of the family share. Defaults are TRL's GRPO with 1/|o| and no KL."""

    name: str = "grpo"
    """`grpo`, `grpo_n`, `gspo_n`, `skpo` (see `rlkit algos`), or your own `file.py:attr`."""
    num_generations: int = 8
    """G, the rollouts of one prompt."""
    epsilon: float = 0.2
    """Lower clip: ratios below 1 - epsilon stop pulling."""
    epsilon_high: float | None = None
    """Upper clip: 1 + epsilon_high; none: the same as epsilon."""
    beta: float = 0.0
    """Weight of the KL penalty to the starting weights (k3 estimator). 0: no reference model is loaded."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Divide centred rewards by the standard deviation of their group, of the batch, or not at all."""
    scale_std: Literal["sample", "population"] = "sample"
    """Standard deviation with n - 1 (TRL) or n."""
    std_eps: float = 1e-4
    """Added to that standard deviation."""
    importance_sampling_correction: bool = True
    """Weigh by learner / sampler probability, so that a sampler that rounds differently does not bias the gradient (TRL: vllm_importance_sampling_correction)."""
    importance_sampling_mode: Literal[
        "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"
    ] = "sequence_mask"
    """Per token or per sequence; cap the ratio, or drop what is above the cap (TRL: vllm_importance_sampling_mode)."""
    importance_sampling_clip_max: float = 3.0
    """That cap (TRL: vllm_importance_sampling_clip_max)."""

    def __post_init__(self) -> None:
        require(
            self.num_generations >= 2,
            "algo.num_generations",
            self.num_generations,
            "at least 2: one rollout has nothing to be compared with, so its advantage is always 0",
        )
        require(0 < self.epsilon < 1, "algo.epsilon", self.epsilon, "0 < epsilon < 1")
        high = self.epsilon_high
        require(high is None or high > 0, "algo.epsilon_high", high, "a positive number, or none")
        require(self.beta >= 0, "algo.beta", self.beta, "0 or more")
        require(self.std_eps >= 0, "algo.std_eps", self.std_eps, "0 or more")
        require(
            self.importance_sampling_clip_max > 0,
            "algo.importance_sampling_clip_max",
            self.importance_sampling_clip_max,
            "a positive ratio",
        )

    @property
    def room_for_segment(self) -> bool:
        """Whether prompts are rendered a second time with room for a segment before the question (Prompt.skip_ids)."""
        return False

    @property
    def clip_high(self) -> float:
        return self.epsilon if self.epsilon_high is None else self.epsilon_high


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoNConfig(AlgoConfig):
    """GRPO-N: GRPO with only the negative advantages kept (arXiv:2510.04028)."""

    name: str = "grpo_n"


@dataclass(frozen=True, slots=True, kw_only=True)
class GspoNConfig(AlgoConfig):
    """GSPO-N: sequence ratios, only negative advantages. Clip range of GSPO (arXiv:2507.18071)."""

    name: str = "gspo_n"
    epsilon: float = 3e-4
    """Lower clip of the length-normalised sequence ratio."""
    epsilon_high: float | None = 4e-4
    """Upper clip of the length-normalised sequence ratio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SkpoConfig(AlgoConfig):
    """SKPO (arXiv:2604.08690). Each default names its source in docs/papers.md."""

    name: str = "skpo"
    epsilon_high: float | None = 0.28
    """Upper clip of the downstream objective (Clip-Higher); upstream keeps epsilon on both sides."""
    scale_std: Literal["sample", "population"] = "population"
    """Standard deviation of the downstream groups and of the upstream batch."""
    std_eps: float = 1e-6
    """Added to that standard deviation."""
    split_low: float = 1 / 6
    """Earliest split, as a share of the prompt's running response length."""
    split_high: float = 1 / 2
    """Latest split, likewise."""
    initial_length: int = 1024
    """The running response length of a prompt never met; at most max_completion_length."""
    rho_min: float = 0.875
    """Least memory of the value tracker: 1 / (1 - rho) visits."""
    rho_max: float = 0.96
    """Most memory of the value tracker."""
    tau_half: float = 8.0
    """Drift of a stored segment's log-probs, in nats per token, that halves the tracker's memory."""
    priority_eps: float = 0.05
    """Prompts are drawn with weight sqrt(v (1 - v)) + this."""
    upstream_weight: float = 0.5
    """Weight of the segments' objective."""
    downstream_weight: float = 0.5
    """Weight of the continuations' objective."""
    skip_format: Literal["chat", "raw"] = "chat"
    """How [s, q] is written: s, a blank line and q inside the user turn (chat), or s in front of the whole rendered prompt (raw)."""
    skip: bool = True
    """Off (ablation `w/o Skip`): continuations follow s as a plain prefix, [q, s]."""
    upstream_reward: Literal["mc", "own"] = "mc"
    """The mean outcome of the continuations, or (ablation `w/o MC`) the outcome of the segment's own full answer."""
    split: Literal["uniform", "fixed"] = "uniform"
    """Uniform in the range, or (ablation `Split@Fixed`) its two ends in turn."""
    selection: Literal["median", "extreme"] = "median"
    """The segment of median likelihood, or (ablation `Selection:Extreme`) the least and most likely in turn."""

    def __post_init__(self) -> None:
        AlgoConfig.__post_init__(self)
        low, high = self.split_low, self.split_high
        require(0 < low <= high < 1, "algo split range", (low, high), "0 < split_low <= split_high < 1")
        rho = (self.rho_min, self.rho_max)
        require(0 < rho[0] <= rho[1] < 1, "algo rho range", rho, "0 < rho_min <= rho_max < 1")
        require(self.tau_half > 0, "algo.tau_half", self.tau_half, "a positive number of nats")
        require(self.priority_eps > 0, "algo.priority_eps", self.priority_eps, "a positive number")
        require(self.initial_length > 1, "algo.initial_length", self.initial_length, "at least 2 tokens")

    @property
    def room_for_segment(self) -> bool:
        return self.skip and self.skip_format == "chat"


ALGO_CONFIGS: dict[str, type[AlgoConfig]] = {
    "grpo": AlgoConfig,
    "grpo_n": GrpoNConfig,
    "gspo_n": GspoNConfig,
    "skpo": SkpoConfig,
}
