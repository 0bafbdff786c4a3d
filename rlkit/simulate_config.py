"""The settings of `rlkit simulate`: a softmax policy over a few actions. Only the standard library is imported here."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from rlkit.errors import ConfigError, require

MAX_NUMBERS = 200_000_000
"""Probabilities kept of one algorithm's runs: 1.6 GB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateConfig:
    """Watch where an algorithm moves the probability of a few actions.

    A softmax policy chooses among actions with known rewards, and is updated by an algorithm of GRPO's family. With the default
    rewards the two stages of arXiv:2510.04028 appear: first action 1, often sampled and good, takes the mass of action 3
    (exploitation, entropy falls); once it holds nearly all, action 2, better and rare, takes the mass of action 1 (exploration).

    Try `rlkit simulate --algo grpo,grpo_n --figure stages.html`, then `--sampled`, then `--normalize none --learning-rate 0.5`.
    docs/dynamics.md explains the columns. Nothing is trained and no model is loaded.
    """

    rewards: str = "0.8,1,0"
    """What each action pays, by commas."""
    p0: str = "0.45,0.05,0.5"
    """How likely each action is before the first update; they sum to 1."""
    algo: str = "grpo"
    """Algorithms of GRPO's family, by commas or given several times; see `rlkit algos`."""
    expected: bool = False
    """Expected updates, a group without end (Theorem 1 of the paper). This is the default."""
    sampled: bool = False
    """Sampled groups instead, in independent runs."""
    seeds: int = 40
    """Independent runs, with --sampled."""
    group_size: int = 8
    """G, the samples of one group, with --sampled."""
    groups: int = 1
    """Groups of one update, with --sampled; the batch that `--normalize batch` is over."""
    seed: int = 0
    """Of all randomness."""
    learning_rate: float = 0.1
    """Step size on the logits."""
    steps: int = 600
    """Updates."""
    normalize: Literal["own", "group", "batch", "none"] = "own"
    """Divide advantages by the standard deviation of the group's rewards, of the batch's, or not; own: as the algorithm does."""
    std: Literal["population", "sample"] = "population"
    """That deviation, with n (as in theory) or n - 1 (as rlkit and TRL train)."""
    std_eps: float = 0.0
    """Added to it; rlkit and TRL train with 1e-4."""
    positive_weight: float | None = None
    """Weight of positive advantages (W-REINFORCE's lambda); none: the algorithm's own."""
    at: str = ""
    """Steps to print, by commas; empty: nine of them."""
    k: str = "1,8,64,256"
    """The k of pass@k: the chance that one of k samples is a best action."""
    figure: Path | None = None
    """Write a page with the curves (HTML, everything inside); needs plotly."""
    json: bool = False
    """Print one JSON object instead of tables."""

    def __post_init__(self) -> None:
        require(
            not (self.expected and self.sampled), "--expected --sampled", "both", "one of them (or neither)"
        )
        for name, least in (("seeds", 1), ("group_size", 1), ("groups", 1), ("steps", 1), ("seed", 0)):
            require(
                getattr(self, name) >= least, _flag(name), getattr(self, name), f"a whole number from {least}"
            )
        require(
            0 < self.learning_rate < float("inf"), "--learning-rate", self.learning_rate, "a positive number"
        )
        require(self.std_eps >= 0, "--std-eps", self.std_eps, "0 or more")
        require(min(self.ks) >= 1, "--k", self.k, "whole numbers from 1")
        outside = [step for step in self.printed_steps if not 0 <= step <= self.steps]
        require(not outside, "--at", self.at, f"steps from 0 to --steps {self.steps}")
        kept = (self.seeds if self.sampled else 1) * (self.steps + 1) * len(self.reward_numbers)
        if kept > MAX_NUMBERS:
            raise ConfigError(
                f"--steps {self.steps}, --seeds {self.seeds}: {kept:,} probabilities, more than the {MAX_NUMBERS:,} that are kept; "
                "expected fewer steps or seeds"
            )

    @property
    def reward_numbers(self) -> tuple[float, ...]:
        return _numbers("--rewards", self.rewards, float)

    @property
    def p0_numbers(self) -> tuple[float, ...]:
        return _numbers("--p0", self.p0, float)

    @property
    def ks(self) -> tuple[int, ...]:
        return _numbers("--k", self.k, int)

    @property
    def algos(self) -> tuple[str, ...]:
        """Each once, in the order given."""
        return tuple(dict.fromkeys(word.strip() for word in self.algo.split(",")))

    @property
    def printed_steps(self) -> tuple[int, ...]:
        if self.at:
            return _numbers("--at", self.at, int)
        # 0, 25, 50, 100, 150, 200, 300, 400 and 600 of 600
        return tuple(sorted({round(self.steps * part / 24) for part in (0, 1, 2, 4, 6, 8, 12, 16, 24)}))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


Number = TypeVar("Number", int, float)


def _numbers(flag: str, text: str, kind: Callable[[str], Number]) -> tuple[Number, ...]:
    """`0.8,1,0` as numbers. Raises ConfigError."""
    words = "whole numbers" if kind is int else "numbers"
    try:
        return tuple(kind(word) for word in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{flag} {text!r}: expected {words} separated by commas, as 1,2,3") from error
