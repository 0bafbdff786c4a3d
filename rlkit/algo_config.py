"""The settings of the algorithms: what all honour, the axes of the family, and SKPO's own.

The family's named members are in algo_presets.py. Every default names its source in docs/papers.md; names are TRL's where
TRL has one. Only the standard library is imported here.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from rlkit.errors import require
from rlkit.types import Surrogate

Baseline = Literal["group", "leave_one_out", "batch", "none"]
Scale = Literal["group", "batch", "batch_advantages", "none"]
Level = Literal["token", "sequence"]
Normalizer = Literal["sequence", "token", "group_token", "constant", "sum"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgoConfig:
    """What every shipped algorithm honours."""

    source: ClassVar[str] = ""
    """Its paper."""

    name: str = "grpo"
    """See `rlkit algos`; or your own `file.py:attr`."""
    num_generations: int = 8
    """G, the rollouts of one prompt."""
    epsilon: float = 0.2
    """Lower clip: ratios below 1 - epsilon stop pulling; 1: no lower clip."""
    epsilon_high: float | None = None
    """Upper clip: 1 + epsilon_high; none: the same as epsilon."""
    beta: float = 0.0
    """Weight of the KL penalty to the starting weights (k3 estimator). 0: no reference model is loaded."""
    use_bias_correction_kl: bool = True
    """Multiply the KL term by the ratio, so that its gradient is that of the reverse KL (DeepSeek-V3.2)."""
    sync_ref_model: bool = False
    """Move the reference model after the policy as training goes on (TR-DPO)."""
    ref_model_mixup_alpha: float = 0.6
    """Share of the policy in the reference model at each move; 1: a copy."""
    ref_model_sync_steps: int = 512
    """Optimizer steps between two moves."""
    entropy_coef: float = 0.0
    """Weight of a bonus: the mean entropy of the mini-batch's trained tokens, nats."""
    top_entropy_quantile: float = 1.0
    """Train the policy only on this share of the mini-batch's tokens, those of highest entropy; the KL term is on all."""
    mask_truncated_completions: bool = False
    """Answers cut at the length limit carry no loss (their rewards still count in their group)."""
    off_policy_mask_threshold: float | None = None
    """Drop a negative answer whose mean log-prob has fallen by more than this since it was sampled, nats per token; none: keep all."""
    scale_rewards: Scale = "group"
    """Divide by the standard deviation of the group's rewards, of the batch's, of the batch's centred ones, or not at all."""
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
        require(self.num_generations >= 1, "algo.num_generations", self.num_generations, "at least 1")
        require(0 < self.epsilon <= 1, "algo.epsilon", self.epsilon, "0 < epsilon <= 1 (1: no lower clip)")
        high = self.epsilon_high
        require(high is None or high > 0, "algo.epsilon_high", high, "a positive number, or none")
        require(self.beta >= 0, "algo.beta", self.beta, "0 or more")
        require(
            self.beta > 0 or not self.sync_ref_model,
            "algo.sync_ref_model",
            self.sync_ref_model,
            "off while algo.beta is 0: there is no reference model to move",
        )
        alpha, quantile = self.ref_model_mixup_alpha, self.top_entropy_quantile
        require(0 < alpha <= 1, "algo.ref_model_mixup_alpha", alpha, "a share above 0, at most 1")
        require(
            self.ref_model_sync_steps > 0,
            "algo.ref_model_sync_steps",
            self.ref_model_sync_steps,
            "at least 1",
        )
        require(self.entropy_coef >= 0, "algo.entropy_coef", self.entropy_coef, "0 or more")
        require(0 < quantile <= 1, "algo.top_entropy_quantile", quantile, "a share above 0, at most 1 (all)")
        limit = self.off_policy_mask_threshold
        require(
            limit is None or limit > 0,
            "algo.off_policy_mask_threshold",
            limit,
            "a positive number of nats, or none",
        )
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
    def separator(self) -> str | None:
        """The text that ends a step of an answer; None: answers are not cut into steps."""
        return None

    @property
    def clip_high(self) -> float:
        return self.epsilon if self.epsilon_high is None else self.epsilon_high

    @property
    def traits(self) -> dict[str, str]:
        """What sets it apart on each axis, in a word or two, as `rlkit algos` prints it."""
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyConfig(AlgoConfig):
    """GRPO and its relatives: one choice on each axis, from the reward to the loss.

    R_i    the score; 2 R - 1 with signed_rewards; minus the overlong penalty
    A_i    (R_i - baseline) / scale, times positive_weight or negative_weight by its sign
    loss   -sum_tokens(weight * surrogate(ratio, A)) / sum_answers(share), weight and share by the normalizer
    """

    baseline: Baseline = "group"
    """What a reward is compared with: its group's mean, the mean of its siblings, the batch's mean, nothing."""
    positive_weight: float = 1.0
    """Multiplies advantages above 0. 0: only negatives are trained."""
    negative_weight: float = 1.0
    """Multiplies advantages below 0. 0: only positives are trained."""
    signed_rewards: bool = False
    """Rewards are 2 score - 1: wrong is -1, not 0."""
    surrogate: Surrogate = "ppo"
    """Each token's objective: PPO's clip, CISPO's capped weight, SAPO's soft gate, or A log pi without a ratio."""
    importance_sampling_level: Level = "token"
    """A ratio for each token, or GSPO's one for a whole answer: the geometric mean of its tokens'."""
    normalizer: Normalizer = "sequence"
    """Mean over answers of their token means, over all tokens, over groups of their token means, over answers of token sums / max_completion_length, over answers of token sums."""
    delta: float | None = None
    """A second upper bound, for the ratios of negative tokens (two-sided clip); none: no bound."""
    sapo_temperature_pos: float = 1.0
    """How fast SAPO's gate closes for tokens of positive advantage."""
    sapo_temperature_neg: float = 1.05
    """The same for the others."""
    overlong_buffer: float = 0.0
    """Share of max_completion_length, at its end, over which the reward falls linearly (soft overlong punishment). 0: off."""
    overlong_penalty: float = 1.0
    """How far it falls by the end of that share."""
    dynamic_sampling: int = 0
    """Extra rounds of sampling that may replace groups of equal rewards, which train nothing. 0: off."""

    def __post_init__(self) -> None:
        AlgoConfig.__post_init__(self)
        compares = self.baseline in ("group", "leave_one_out") or self.scale_rewards == "group"
        require(
            self.num_generations >= 2 or not (compares or self.dynamic_sampling),
            "algo.num_generations",
            self.num_generations,
            "at least 2: one rollout has nothing to be compared with, so its advantage is always 0",
        )
        scales = {"batch": ("batch", "batch_advantages", "none"), "none": ("none",)}.get(self.baseline)
        require(
            scales is None or self.scale_rewards in scales,
            "algo.scale_rewards",
            self.scale_rewards,
            f"{' or '.join(scales or ())}, with algo.baseline = {self.baseline}",
        )
        signs = (self.positive_weight, self.negative_weight)
        require(
            min(signs) >= 0 < max(signs),
            "algo.positive_weight, algo.negative_weight",
            signs,
            "0 or more, one of them above 0",
        )
        self._check_surrogate()
        buffer, penalty = self.overlong_buffer, self.overlong_penalty
        require(0 <= buffer < 1, "algo.overlong_buffer", buffer, "a share in [0, 1)")
        require(penalty > 0, "algo.overlong_penalty", penalty, "a positive number")
        require(
            buffer > 0 or penalty == 1.0,
            "algo.overlong_penalty",
            penalty,
            "1.0 while algo.overlong_buffer is 0: nothing is punished",
        )
        rounds = self.dynamic_sampling
        require(rounds >= 0, "algo.dynamic_sampling", rounds, "0 (off) or more rounds")
        require(
            rounds == 0 or self.baseline in ("group", "leave_one_out"),
            "algo.dynamic_sampling",
            rounds,
            f"0 with algo.baseline = {self.baseline}: groups of equal rewards train there",
        )

    def _check_surrogate(self) -> None:
        """Each surrogate has its own settings; another's would change nothing."""
        name = self.surrogate
        require(
            name in ("ppo", "cispo") or (self.epsilon, self.epsilon_high) == (0.2, None),
            "algo.epsilon, algo.epsilon_high",
            (self.epsilon, self.epsilon_high),
            f"0.2 and none, with algo.surrogate = {name}: it does not clip",
        )
        delta = self.delta
        require(
            delta is None or (name == "ppo" and delta > 1 + self.clip_high),
            "algo.delta",
            delta,
            f"none, or with algo.surrogate = ppo a ratio above 1 + epsilon_high = {1 + self.clip_high:g}",
        )
        temperatures = (self.sapo_temperature_pos, self.sapo_temperature_neg)
        require(
            min(temperatures) > 0 if name == "sapo" else temperatures == (1.0, 1.05),
            "algo.sapo_temperature_pos, algo.sapo_temperature_neg",
            temperatures,
            "positive numbers" if name == "sapo" else f"1.0 and 1.05, with algo.surrogate = {name}",
        )
        require(
            name != "plain" or self.importance_sampling_level == "token",
            "algo.importance_sampling_level",
            self.importance_sampling_level,
            "token, with algo.surrogate = plain: it has no ratio",
        )

    @property
    def traits(self) -> dict[str, str]:
        scale = {
            "group": " / std",
            "batch": " / batch std",
            "batch_advantages": " / batch std of A",
            "none": "",
        }
        level = "" if self.surrogate == "plain" else f", {self.importance_sampling_level}"
        return {
            "sample": "1 answer" if self.num_generations == 1 else "G answers",
            "baseline": self.baseline.replace("_", " ") + scale[self.scale_rewards],
            "signs": f"+{self.positive_weight:g} -{self.negative_weight:g}",
            "surrogate": self.surrogate + level,
            "clip": self._clip(),
            "normalizer": self.normalizer.replace("_", " "),
            "source": self.source,
        }

    def _clip(self) -> str:
        if self.surrogate == "plain":
            return ""
        if self.surrogate == "sapo":
            return f"soft {self.sapo_temperature_pos:g}, {self.sapo_temperature_neg:g}"
        return f"{1 - self.epsilon:g} to {1 + self.clip_high:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SkpoConfig(AlgoConfig):
    """SKPO (arXiv:2604.08690): one segment, many futures. Each default names its source in docs/papers.md."""

    source: ClassVar[str] = "arXiv:2604.08690"

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
        require(
            self.num_generations >= 2,
            "algo.num_generations",
            self.num_generations,
            "at least 2: one continuation has nothing to be compared with",
        )
        low, high = self.split_low, self.split_high
        require(0 < low <= high < 1, "algo split range", (low, high), "0 < split_low <= split_high < 1")
        _check_tracker(self.rho_min, self.rho_max, self.tau_half, self.priority_eps)
        require(self.initial_length > 1, "algo.initial_length", self.initial_length, "at least 2 tokens")

    @property
    def room_for_segment(self) -> bool:
        return self.skip and self.skip_format == "chat"

    @property
    def traits(self) -> dict[str, str]:
        return {
            "sample": "segment, G answers",
            "baseline": "tracker; group / std",
            "signs": "+1 -1",
            "surrogate": "ppo; cispo, token",
            "clip": f"{1 - self.epsilon:g} to {1 + self.epsilon:g}; {1 + self.clip_high:g}",
            "normalizer": "sequence; group token",
            "source": self.source,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoConfig(AlgoConfig):
    """SPO (arXiv:2509.13232): one answer per prompt, compared with the prompt's own past."""

    source: ClassVar[str] = "arXiv:2509.13232"

    name: str = "spo"
    num_generations: int = 1
    """Answers to one prompt; several are each compared with the same value, which then moves by their mean."""
    epsilon_high: float | None = 0.28
    """Upper clip (Clip-Higher)."""
    scale_rewards: Scale = "batch_advantages"
    """The standard deviation of all advantages of the step, or no division (`none`); their mean goes in any case."""
    std_eps: float = 1e-8
    """Added to that standard deviation."""
    rho_min: float = 0.875
    """Least memory of the value tracker: 1 / (1 - rho) visits."""
    rho_max: float = 0.96
    """Most memory of the value tracker."""
    tau_half: float = 0.06
    """Drift of the last answer's log-probs, in nats per token, that halves the tracker's memory."""
    priority_eps: float = 0.05
    """Prompts are drawn with weight sqrt(v (1 - v)) + this."""
    initial_samples: int = 0
    """Further answers to a prompt never met, which set its first value and are not trained; 0: it begins at 0.5."""

    def __post_init__(self) -> None:
        AlgoConfig.__post_init__(self)
        _check_tracker(self.rho_min, self.rho_max, self.tau_half, self.priority_eps)
        require(self.initial_samples >= 0, "algo.initial_samples", self.initial_samples, "0 or more")
        require(
            self.scale_rewards in ("batch_advantages", "none"),
            "algo.scale_rewards",
            self.scale_rewards,
            "batch_advantages or none: one answer has no group",
        )

    @property
    def traits(self) -> dict[str, str]:
        return {
            "sample": "1 answer" if self.num_generations == 1 else "G answers",
            "baseline": "tracker" + (" / batch std of A" if self.scale_rewards != "none" else ""),
            "signs": "+1 -1",
            "surrogate": "ppo, token",
            "clip": f"{1 - self.epsilon:g} to {1 + self.clip_high:g}",
            "normalizer": "token",
            "source": self.source,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class VinePpoConfig(AlgoConfig):
    """VinePPO (arXiv:2410.01679): each step of an answer is credited with how far it moved the chance of success."""

    source: ClassVar[str] = "arXiv:2410.01679"

    name: str = "vineppo"
    scale_rewards: Scale = "none"
    """No division, or `batch_advantages`: minus the mean and over the standard deviation of all trained tokens' advantages."""
    num_continuations: int = 4
    """K, fresh continuations from the beginning of each step; their mean score is the value there."""
    step_separator: str = "\\n"
    """A step ends with a token that holds this text; \\n is a line break."""
    max_steps: int = 8
    """Steps of an answer at most; one with more separators is cut at an even choice of them. Each step costs K continuations."""

    def __post_init__(self) -> None:
        AlgoConfig.__post_init__(self)
        require(self.num_continuations >= 1, "algo.num_continuations", self.num_continuations, "at least 1")
        require(self.max_steps >= 1, "algo.max_steps", self.max_steps, "at least 1")
        require(bool(self.step_separator), "algo.step_separator", repr(self.step_separator), "some text")
        require(
            self.scale_rewards in ("batch_advantages", "none"),
            "algo.scale_rewards",
            self.scale_rewards,
            "batch_advantages or none: a step is compared with its own beginning, not with a group",
        )

    @property
    def separator(self) -> str | None:
        return self.step_separator.replace("\\n", "\n").replace("\\t", "\t")

    @property
    def traits(self) -> dict[str, str]:
        return {
            "sample": "G answers, K per step",
            "baseline": "value of each step" + (" / batch std of A" if self.scale_rewards != "none" else ""),
            "signs": "+1 -1",
            "surrogate": "ppo, token",
            "clip": f"{1 - self.epsilon:g} to {1 + self.clip_high:g}",
            "normalizer": "token",
            "source": self.source,
        }


def _check_tracker(rho_min: float, rho_max: float, tau_half: float, priority_eps: float) -> None:
    """The settings of rlkit/algos/tracker.py."""
    rho = (rho_min, rho_max)
    require(0 < rho_min <= rho_max < 1, "algo rho range", rho, "0 < rho_min <= rho_max < 1")
    require(tau_half > 0, "algo.tau_half", tau_half, "a positive number of nats")
    require(priority_eps > 0, "algo.priority_eps", priority_eps, "a positive number")
