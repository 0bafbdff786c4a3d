"""The settings of `rlkit analyze`: three studies of credit. Only the standard library is imported here."""

from dataclasses import dataclass, field
from pathlib import Path

from rlkit.config import DataConfig, ModelConfig, RewardConfig, SamplerConfig
from rlkit.errors import ConfigError, require


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyConfig:
    """What the three studies have in common: whose answers, to what, judged how."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """Its name stands without a flag: a run, a checkpoint, a model folder, a hub id or `tiny`."""
    data: DataConfig = field(default_factory=DataConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    batch: int = 4096
    """Answers that go to the sampler together, at most, and are kept together."""
    max_prompt_length: int = 1024
    """Tokens; longer prompts are dropped and counted."""
    max_completion_length: int | None = None
    """Tokens of one answer; none: the run's, else what the task needs, 512 for other data."""
    seed: int = 0
    """Of all answers; the prompts are always the same ones."""
    output_dir: str | None = None
    """Where everything drawn is kept; none: studies/STUDY-MODEL-DATA-SETTINGS. The same command again goes on where it was stopped."""

    def __post_init__(self) -> None:
        require(self.batch > 0, "batch", self.batch, "at least 1 answer")
        require(self.max_prompt_length > 0, "max_prompt_length", self.max_prompt_length, "at least 1 token")
        length = self.max_completion_length
        require(length is None or length > 1, "max_completion_length", length, "at least 2 tokens")
        require(
            self.sampler.temperature > 0,
            "sampler.temperature",
            self.sampler.temperature,
            "more than 0: greedy continuations of one prefix are all the same",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class McCreditConfig(StudyConfig):
    """How many Monte-Carlo continuations a token's credit needs, by position, with GRPO's credit beside it (arXiv:2604.08690, 3 and A)."""

    prompts: int = 8
    """Problems to answer."""
    num_generations: int = 8
    """Answers to each: the group that an advantage is relative to."""
    positions: int = 8
    """Every answer is cut at 1/n, 2/n, ... of its length."""
    continuations: int = 128
    """Of each prefix: what stands for the truth."""
    deep_groups: int = 8
    """Groups of prefixes, spread over positions, that get more."""
    deep_continuations: int = 1024
    """Of each prefix in those groups."""
    k: str = "8,32,128,512"
    """Numbers of continuations to hold against the truth."""
    step_answers: int = 24
    """On `task:chain`, where every step's truth is known: answers with a slip to be looked at, and as many without. 0: none."""
    step_prompts: int = 128
    """Problems whose answers are searched for them."""

    def __post_init__(self) -> None:
        StudyConfig.__post_init__(self)
        for name, least in (
            ("prompts", 1),
            ("num_generations", 2),
            ("positions", 2),
            ("continuations", 16),
            ("deep_groups", 0),
            ("step_answers", 0),
            ("step_prompts", 1),
        ):
            require(getattr(self, name) >= least, name, getattr(self, name), f"at least {least}")
        require(
            self.deep_continuations >= self.continuations,
            "deep_continuations",
            self.deep_continuations,
            f"at least continuations = {self.continuations}",
        )
        require(min(self.ks) >= 1, "k", self.k, "whole numbers from 1")
        most = self.deep_continuations if self.deep_groups else self.continuations
        require(
            2 * max(self.ks) <= most,
            "k",
            self.k,
            f"at most half of {most} continuations: an estimate is held against those it has not seen",
        )

    @property
    def ks(self) -> tuple[int, ...]:
        return _numbers("k", self.k)


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipConfig(StudyConfig):
    """What a longer prefix does to what follows: none, as a plain prefix, and before the question (arXiv:2604.08690, figure 3)."""

    prompts: int = 64
    """Problems; each is answered once, and that answer is cut."""
    num_generations: int = 8
    """Continuations of each prefix: the group."""
    splits: int = 6
    """Cuts of an answer, spread evenly from 1/6 to 1/2 of its length."""

    def __post_init__(self) -> None:
        StudyConfig.__post_init__(self)
        require(self.prompts >= 1, "prompts", self.prompts, "at least 1")
        require(self.num_generations >= 2, "num_generations", self.num_generations, "at least 2")
        require(self.splits >= 1, "splits", self.splits, "at least 1")

    @property
    def shares(self) -> tuple[float, ...]:
        """The cuts, as shares of an answer.

        >>> [round(share, 3) for share in SkipConfig().shares]
        [0.167, 0.233, 0.3, 0.367, 0.433, 0.5]
        """
        steps = max(1, self.splits - 1)
        return tuple(1 / 6 + i * (1 / 2 - 1 / 6) / steps for i in range(self.splits))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImplicitConfig(StudyConfig):
    """How far right answers have come by each share of their length, as an outside evaluator sees it (arXiv:2604.08690, 4.3)."""

    evaluator: ModelConfig = field(default_factory=ModelConfig)
    """Who goes on from a partial answer: a model as for `rlkit eval`, or the name of one on the server of --endpoint."""
    endpoint: str | None = None
    """Address of an OpenAI-compatible server up to /v1, as http://localhost:8000/v1; none: the evaluator is a local model."""
    key: str | None = None
    """With --endpoint: name of the environment variable that holds its key (https, or this machine)."""
    template: Path | None = None
    """A text file with {problem} and {segment}, how the evaluator is asked; none: rlkit's own with --endpoint, a plain prefix without."""
    concurrency: int = 16
    """With --endpoint: requests at once."""
    timeout: float = 120.0
    """With --endpoint: seconds for one request, all tries together."""
    prompts: int = 64
    """Problems, answered by each model until one answer is right."""
    tries: int = 8
    """Answers of each model to each problem, of which the first right one counts."""
    positions: int = 20
    """Every right answer is cut at 0, 1/n, 2/n, ... of its length (the paper has 100)."""
    continuations: int = 8
    """Of the evaluator, from each cut."""

    def __post_init__(self) -> None:
        StudyConfig.__post_init__(self)
        for name in ("prompts", "tries", "positions", "continuations", "concurrency"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(0 < self.timeout < float("inf"), "timeout", self.timeout, "a positive number of seconds")
        require(
            self.endpoint is not None or self.key is None,
            "key",
            self.key,
            "none without --endpoint: a local model needs no key",
        )


def _numbers(flag: str, text: str) -> tuple[int, ...]:
    """`8,32` as numbers, smallest first. Raises ConfigError."""
    try:
        return tuple(sorted({int(word) for word in text.split(",")}))
    except ValueError as error:
        raise ConfigError(
            f"{flag} = {text!r}: expected whole numbers separated by commas, as 8,32,128"
        ) from error
