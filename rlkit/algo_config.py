"""The settings of the algorithms: what all honour, and the axes of the family.

The family's named members are in algo_presets.py, the algorithms that sample in their own way in algo_own.py. Every default names its source in docs/papers.md; names are TRL's where
TRL has one. Only the standard library is imported here.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from rlkit.errors import require
from rlkit.types import Surrogate

Baseline = Literal["group", "leave_one_out", "batch", "none"]
Scale = Literal["group", "batch", "batch_advantages", "none"]
Level = Literal["token", "sequence"]
GivenBack = Literal["behind", "in front", "inside"]
Normalizer = Literal["sequence", "token", "group_token", "constant", "sum"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """What one prompt costs, at most.

    >>> AlgoConfig(num_generations=4).draws(100)
    Draws(sampled={'rollouts': 4}, trained={'rollouts': 4}, tokens=400, why='')
    """

    sampled: dict[str, int]
    """Kind -> how many are sampled."""
    trained: dict[str, int]
    """Kind -> how many of those are trained."""
    tokens: int
    """Sampled tokens, all kinds together."""
    why: str = ""
    """How the tokens come about, where it is not G times the longest answer."""


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
    def given_back(self) -> GivenBack | None:
        """Where a second prompt holds what the policy wrote to the first: behind it, in front of it, or before the question in
        the user's turn, for which prompts are rendered with room (Prompt.skip_ids). None: there is no second prompt."""
        return None

    @property
    def separator(self) -> str | None:
        """The text that ends a step of an answer; None: answers are not cut into steps."""
        return None

    def draws(self, length: int) -> Draws:
        """What is sampled for one prompt and what of it is trained, answers having at most `length` tokens."""
        group = {"rollouts": self.num_generations}
        return Draws(sampled=group, trained=group, tokens=self.num_generations * length)

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

    def draws(self, length: int) -> Draws:
        group, rounds = {"rollouts": self.num_generations}, 1 + self.dynamic_sampling
        why = f"{rounds} rounds, when every group is replaced every time" if rounds > 1 else ""
        return Draws(sampled=group, trained=group, tokens=rounds * self.num_generations * length, why=why)

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
