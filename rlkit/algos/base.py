"""An algorithm answers three questions: what to sample, whom to credit, what to minimise. It knows no GPU, process or HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from rlkit.algo_config import AlgoConfig
from rlkit.batch import Batch, TokenStats
from rlkit.metrics import Metrics
from rlkit.types import Credit, Group, Prompt, Rollout, Sample, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """What an algorithm may ask of a sampler.

    >>> Sampling(max_completion_length=512, temperature=1.0).temperature
    1.0
    """

    max_completion_length: int
    """Tokens of one answer, all its parts together."""
    temperature: float
    step_ends: frozenset[int] = frozenset()
    """Tokens that end a step of an answer (AlgoConfig.separator); none: answers have no steps."""


class Algorithm(Protocol):
    """What to sample, whom to credit, what to minimise; and what must survive a restart.

    One step of the loop calls, in this order: prompt_weights, collect, (verification), select, and these again while too
    few groups are kept and rounds are left; then rescore and credit with the kept groups, and loss for every micro-batch.
    """

    def __init__(self, cfg: AlgoConfig, sampling: Sampling) -> None: ...

    def collect(self, prompts: Sequence[Prompt], sample: Sample, seed: int) -> list[Group]:
        """One group per prompt. `seed` is new in every step; all randomness comes from it."""
        ...

    @property
    def rounds(self) -> int:
        """How often a step may sample: the first time, and then to replace groups that `select` left out."""
        ...

    def select(self, groups: Sequence[Group]) -> list[Group]:
        """Those of the verified groups of one round that are worth training on, in their order."""
        ...

    def credit(self, groups: Sequence[Group], rescored: Sequence[Sequence[float]]) -> list[Credit]:
        """What every rollout is trained on. Rollouts without a usable score are left out.

        rescored: for each rollout that `rescore` returned, the learner's present log-probs of its completion.
        """
        ...

    def loss(self, batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        """The micro-batch's part of the loss (a scalar; parts add up) and its tallies."""
        ...

    def prompt_weights(self, ids: Sequence[str]) -> list[float] | None:
        """Weights to draw the next prompts with; None: in the data's own order."""
        ...

    def rescore(self, groups: Sequence[Group]) -> list[Rollout]:
        """Stored rollouts whose log-probs under the present weights `credit` needs."""
        ...

    def metrics(self) -> dict[str, float]:
        """Numbers of the last `collect` and `credit`."""
        ...

    def state_dict(self) -> State:
        """JSON values, and torch tensors as values of its dictionaries."""
        ...

    def load_state_dict(self, state: State) -> None: ...


class KeepsAll:
    """The answers of an algorithm that samples once per step and trains on every group."""

    @property
    def rounds(self) -> int:
        return 1

    def select(self, groups: Sequence[Group]) -> list[Group]:
        return list(groups)


class Stateless(KeepsAll):
    """The answers of an algorithm that remembers nothing and takes prompts as they come."""

    def prompt_weights(self, ids: Sequence[str]) -> list[float] | None:
        return None

    def rescore(self, groups: Sequence[Group]) -> list[Rollout]:
        return []

    def metrics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, but was given {sorted(state)}")
