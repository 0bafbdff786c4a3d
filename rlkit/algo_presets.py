"""The family's named members: each is a choice on the axes of FamilyConfig, and reads like its paper.

q a prompt, o_i one of G answers, |o_i| its tokens, R_i its reward, r = pi / pi_old the ratio of a token, A_i the advantage,
E the mean over prompts. What the papers leave open, and where we differ: docs/papers.md. A setting that is not named here
has the default of FamilyConfig.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from rlkit.algo_config import AlgoConfig, Baseline, FamilyConfig, Level, Normalizer, Scale
from rlkit.algo_own import SkpoConfig, SpoConfig, VinePpoConfig
from rlkit.errors import require
from rlkit.types import Surrogate


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoConfig(FamilyConfig):
    """GRPO (arXiv:2402.03300): each answer against its siblings.

    A_i = (R_i - mean_G R) / std_G R;
    J   = E[ 1/G sum_i 1/|o_i| sum_t ( min(r A_i, clip(r, 1 - eps, 1 + eps) A_i) - beta k3 ) ]
    """

    source: ClassVar[str] = "arXiv:2402.03300"

    name: str = "grpo"


@dataclass(frozen=True, slots=True, kw_only=True)
class DrGrpoConfig(FamilyConfig):
    """Dr. GRPO (arXiv:2503.20783): GRPO without the two biases, of difficulty (no std) and of length (no 1/|o_i|).

    A_i = R_i - mean_G R;
    J   = E[ 1/G sum_i 1/L sum_t min(r A_i, clip(r, 1 - eps, 1 + eps) A_i) ],   L the longest answer allowed
    """

    source: ClassVar[str] = "arXiv:2503.20783"

    name: str = "dr_grpo"
    scale_rewards: Scale = "none"
    """No division: a std would weigh prompts by their difficulty."""
    normalizer: Normalizer = "constant"
    """Token sums / max_completion_length: an answer's length does not change a token's weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BnpoConfig(FamilyConfig):
    """TRL's loss_type bnpo: GRPO as a mean over all tokens.

    J = 1/sum|o_i| sum_i sum_t min(r A_i, clip(r, 1 - eps, 1 + eps) A_i),   both sums over the whole mini-batch
    """

    source: ClassVar[str] = "TRL, loss_type bnpo"

    name: str = "bnpo"
    normalizer: Normalizer = "token"
    """Mean over all tokens: long answers weigh more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DapoConfig(FamilyConfig):
    """DAPO (arXiv:2503.14476): clip-higher, token mean, groups with spread only, soft overlong punishment.

    R_i = 2 score - 1 + R_len,   R_len = 0 up to L - Lc tokens, then linear to -1 at L;
    A_i = (R_i - mean_G R) / std_G R;
    J   = 1/sum|o_i| sum_i sum_t min(r A_i, clip(r, 1 - 0.2, 1 + 0.28) A_i),   0 < right answers < G
    """

    source: ClassVar[str] = "arXiv:2503.14476"

    name: str = "dapo"
    epsilon_high: float | None = 0.28
    """Clip-higher: unlikely tokens may rise further than they may fall."""
    signed_rewards: bool = True
    """Rewards are 2 score - 1, as the length term expects."""
    normalizer: Normalizer = "token"
    """Mean over the mini-batch's tokens (their code, TRL); the paper's formula, per group: group_token."""
    mask_truncated_completions: bool = True
    """Overlong filtering: answers cut at the limit carry no loss (their rewards still count in their group)."""
    overlong_buffer: float = 0.2
    """Lc / L: the last 4,096 of 20,480 tokens."""
    dynamic_sampling: int = 4
    """Extra rounds of sampling that may replace groups of equal rewards, which train nothing. 0: off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GspoConfig(FamilyConfig):
    """GSPO (arXiv:2507.18071): the ratio, and its clip, are of the whole answer.

    s_i = (pi(o_i) / pi_old(o_i))^(1/|o_i|),   A_i as GRPO;
    J   = E[ 1/G sum_i min(s_i A_i, clip(s_i, 1 - eps_low, 1 + eps_high) A_i) ]
    """

    source: ClassVar[str] = "arXiv:2507.18071"

    name: str = "gspo"
    importance_sampling_level: Level = "sequence"
    """One ratio for a whole answer, the geometric mean of its tokens'."""
    epsilon: float = 3e-4
    """Lower clip of the sequence ratio, which stays much closer to 1 than a token's."""
    epsilon_high: float | None = 4e-4
    """Upper clip of the sequence ratio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LuspoConfig(FamilyConfig):
    """LUSPO (arXiv:2602.05261): GSPO with each answer's term times its length.

    J = E[ 1/G sum_i |o_i| min(s_i A_i, clip(s_i, 1 - eps_low, 1 + eps_high) A_i) ]
    """

    source: ClassVar[str] = "arXiv:2602.05261"

    name: str = "luspo"
    importance_sampling_level: Level = "sequence"
    """One ratio for a whole answer, the geometric mean of its tokens'."""
    normalizer: Normalizer = "sum"
    """Sum over an answer's tokens, mean over answers."""
    epsilon: float = 3e-4
    """Lower clip of the sequence ratio: GSPO's."""
    epsilon_high: float | None = 4e-4
    """Upper clip of the sequence ratio: GSPO's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CispoConfig(FamilyConfig):
    """CISPO (arXiv:2506.13585): the ratio is a weight, capped and detached, so that no token loses its gradient.

    J = 1/sum|o_i| sum_i sum_t sg(clip(r, 1 - eps_low, 1 + eps_high)) A_i log pi,   A_i as GRPO
    """

    source: ClassVar[str] = "arXiv:2506.13585"

    name: str = "cispo"
    surrogate: Surrogate = "cispo"
    """CISPO's capped weight: no token is dropped."""
    epsilon: float = 1.0
    """No lower clip: the weight may fall to 0."""
    epsilon_high: float | None = 4.0
    """The cap is 1 + 4 = 5 (TRL's epsilon_high is the cap itself: 5)."""
    normalizer: Normalizer = "token"
    """Mean over the mini-batch's tokens (TRL); the paper's formula, per group: group_token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SapoConfig(FamilyConfig):
    """SAPO (arXiv:2511.20347): a soft gate instead of a clip.

    J = E[ 1/G sum_i 1/|o_i| sum_t f(r) A_i ],   f(x) = 4/tau sigmoid(tau (x - 1)),   A_i as GRPO

    A token's gradient is GRPO's times sech^2(tau (r - 1) / 2): 1 at r = 1, and falling on both sides.
    """

    source: ClassVar[str] = "arXiv:2511.20347"

    name: str = "sapo"
    surrogate: Surrogate = "sapo"
    """SAPO's soft gate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RlooConfig(FamilyConfig):
    """RLOO (arXiv:2402.14740): plain REINFORCE on whole answers, each against the mean of the others.

    A_i = R_i - 1/(G - 1) sum_{j != i} R_j;
    J   = E[ 1/G sum_i A_i log pi(o_i) ]
    """

    source: ClassVar[str] = "arXiv:2402.14740"

    name: str = "rloo"
    baseline: Baseline = "leave_one_out"
    """The mean of the siblings, without the answer itself: unbiased."""
    scale_rewards: Scale = "none"
    """No division."""
    surrogate: Surrogate = "plain"
    """A log pi: no ratio and no clip, so one update per step."""
    normalizer: Normalizer = "sum"
    """The log-prob of the whole answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReinforcePpConfig(FamilyConfig):
    """REINFORCE++ (arXiv:2501.03262): no groups; rewards are normalised over the whole batch.

    A_i = (R_i - mean_batch R) / std_batch R;
    J   = E[ 1/|o_i| sum_t min(r A_i, clip(r, 1 - eps, 1 + eps) A_i) ]
    """

    source: ClassVar[str] = "arXiv:2501.03262"

    name: str = "reinforce_pp"
    baseline: Baseline = "batch"
    """The mean of all rewards of the step, so one answer per prompt will do (num_generations 1)."""
    scale_rewards: Scale = "batch"
    """The standard deviation of all rewards of the step."""
    std_eps: float = 1e-8
    """Added to that standard deviation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReinforcePpBaselineConfig(FamilyConfig):
    """REINFORCE++ with baseline (arXiv:2501.03262): the group's mean goes first, then the batch's deviation.

    A'_i = R_i - mean_G R;   A_i = (A'_i - mean_batch A') / std_batch A';
    J    = E[ 1/|o_i| sum_t min(r A_i, clip(r, 1 - eps, 1 + eps) A_i) ]
    """

    source: ClassVar[str] = "arXiv:2501.03262"

    name: str = "reinforce_pp_baseline"
    scale_rewards: Scale = "batch_advantages"
    """The standard deviation of the centred rewards of the whole step (`batch` would take the raw ones)."""
    std_eps: float = 1e-8
    """Added to that standard deviation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoNConfig(FamilyConfig):
    """GRPO-N (arXiv:2510.04028): GRPO with only the negative advantages kept.

    A_i^- = min(A_i, 0), mean and std of ALL samples; the denominators G and |o_i| stay.

    "Relative": the group decides the sign, not correctness. An all-wrong group gives nothing (NSR pushes it down).
    """

    source: ClassVar[str] = "arXiv:2510.04028"

    name: str = "grpo_n"
    positive_weight: float = 0.0
    """Answers above their group's mean are not trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GspoNConfig(GspoConfig):
    """GSPO-N (arXiv:2510.04028): GSPO with only the negative advantages kept.

    J = E[ 1/G sum_i min(s_i A_i^-, clip(s_i, 1 - eps_low, 1 + eps_high) A_i^-) ]
    """

    source: ClassVar[str] = "arXiv:2510.04028"

    name: str = "gspo_n"
    positive_weight: float = 0.0
    """Answers above their group's mean are not trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WReinforceConfig(FamilyConfig):
    """W-REINFORCE (arXiv:2506.01347): constants for right and wrong, and right ones count a tenth.

    A = lambda if right, -1 if wrong,   lambda = 0.1;   no group, no baseline;
    J = 1/sum|o| sum sum_t min(r A, clip(r, 1 - eps, 1 + eps) A)
    """

    source: ClassVar[str] = "arXiv:2506.01347"

    name: str = "w_reinforce"
    baseline: Baseline = "none"
    """The reward is the advantage."""
    scale_rewards: Scale = "none"
    """No division."""
    signed_rewards: bool = True
    """Right +1, wrong -1."""
    positive_weight: float = 0.1
    """lambda, the weight of right answers. 1: REINFORCE."""
    normalizer: Normalizer = "token"
    """Mean over all tokens."""
    schedule: Literal["constant", "stage"] = "constant"
    """stage: lower positive_weight when exploitation has ended, as read off the right answers' token probabilities."""
    stage_positive_weight: float = 0.0
    """What it is lowered to."""

    def __post_init__(self) -> None:
        FamilyConfig.__post_init__(self)
        late = self.stage_positive_weight
        require(
            self.schedule == "constant" or (0 <= late < self.positive_weight and self.negative_weight > 0),
            "algo.schedule",
            self.schedule,
            f"constant, with algo.positive_weight = {self.positive_weight:g}, stage_positive_weight = {late:g} and "
            f"negative_weight = {self.negative_weight:g}: stage lowers the weight of positives and leaves the negatives",
        )
        require(
            self.schedule == "stage" or late == 0,
            "algo.stage_positive_weight",
            late,
            "0 with algo.schedule = constant: it is not used",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NsrConfig(WReinforceConfig):
    """NSR (arXiv:2506.01347): negative samples only.

    A = 0 if right, -1 if wrong: wrong answers lose probability to whatever else the model believes; all-wrong groups train.
    """

    name: str = "nsr"
    positive_weight: float = 0.0
    """Right answers are not trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PsrConfig(WReinforceConfig):
    """PSR (arXiv:2506.01347): positive samples only.

    A = 1 if right, 0 if wrong
    """

    name: str = "psr"
    positive_weight: float = 1.0
    """Right answers rise."""
    negative_weight: float = 0.0
    """Wrong answers are not trained."""


ALGO_CONFIGS: dict[str, type[AlgoConfig]] = {
    "grpo": GrpoConfig,
    "dr_grpo": DrGrpoConfig,
    "bnpo": BnpoConfig,
    "dapo": DapoConfig,
    "gspo": GspoConfig,
    "luspo": LuspoConfig,
    "cispo": CispoConfig,
    "sapo": SapoConfig,
    "rloo": RlooConfig,
    "reinforce_pp": ReinforcePpConfig,
    "reinforce_pp_baseline": ReinforcePpBaselineConfig,
    "grpo_n": GrpoNConfig,
    "gspo_n": GspoNConfig,
    "nsr": NsrConfig,
    "psr": PsrConfig,
    "w_reinforce": WReinforceConfig,
    "spo": SpoConfig,
    "vineppo": VinePpoConfig,
    "skpo": SkpoConfig,
}
"""Every shipped algorithm. build.make_algorithm says which class runs which kind of config."""
