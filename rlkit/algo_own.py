"""The settings of the algorithms that sample in their own way: SKPO, SPO, VinePPO. Each default names its source in docs/papers.md.

Only the standard library is imported here.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from rlkit.algo_config import AlgoConfig, Draws, GivenBack, Scale
from rlkit.errors import require


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
    def given_back(self) -> GivenBack:
        if not self.skip:
            return "behind"
        return "in front" if self.skip_format == "raw" else "inside"

    def draws(self, length: int) -> Draws:
        group, own = self.num_generations, int(self.upstream_reward == "own")
        segment = max(1, min(round(self.split_high * length), length // 2))
        return Draws(
            sampled={"segments": group, "continuations": group, **({"own answer": 1} if own else {})},
            trained={"segments": 1, "continuations": group},
            tokens=group * segment + (group + own) * (length - 1),  # the kept segment may be cut to one token
            why=f"segments of at most {segment}, segment + continuation of at most {length}",
        )

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

    def draws(self, length: int) -> Draws:
        answers, first = {"answers": self.num_generations}, self.initial_samples
        return Draws(
            sampled={**answers, "at a first visit": first} if first else answers,
            trained=answers,
            tokens=(self.num_generations + first) * length,
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

    def draws(self, length: int) -> Draws:
        answers = self.num_generations
        values = self.num_continuations * (1 + answers * (self.max_steps - 1))
        return Draws(
            sampled={"answers": answers, "continuations": values},
            trained={"answers": answers},
            tokens=(answers + values) * length,
            why=f"{self.num_continuations} continuations from the prompt and from each of {self.max_steps - 1} later steps of every answer",
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
