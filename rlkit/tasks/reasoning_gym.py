r"""`reasoning_gym:NAME`: any data set of the reasoning-gym package, with its own scoring.

Both splits come from one stream of generated items; an item belongs to the split that its question's hash says, so no
question is in both, although a data set with few different questions repeats them within a split. The answer is read
from the last \boxed{} and scored by the data set, in [0, 1]; some of those scorers parse the answer with sympy, so leave
them in verifier processes (`--reward.workers`), where they can be stopped. A demonstration is the gold answer alone: the
package knows no way of working.
"""

import functools
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlkit.boxed import last_boxed
from rlkit.errors import ConfigError, DataError, unknown_name
from rlkit.types import Prompt, Score

from .parts import Split, split_of

ATTEMPTS = 64
"""Generated items among which one of the wanted split is looked for: all miss it once in 10^8."""
BLOCK = 8192
"""Items of the stream that one data set object generates; some generate all of them when they are made."""
LARGEST_SEED = 2**31
HINT = "\n\nPut your final answer in \\boxed{}."


@functools.lru_cache(maxsize=8)
def _dataset(name: str, block: int) -> Any:
    """One block of the stream. Raises ConfigError with what to install, or with the names there are."""
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise ConfigError(
            f"reasoning_gym:{name}: {error}; install it with pip install 'rlvrkit[reasoning-gym]'"
        ) from error
    if name not in DATASETS:
        raise ConfigError(unknown_name("reasoning_gym data set", name, DATASETS))
    try:
        return reasoning_gym.create_dataset(name, seed=block * BLOCK % LARGEST_SEED, size=BLOCK)
    except AssertionError as error:  # how the package refuses a configuration
        raise ConfigError(f"reasoning_gym:{name} cannot be made with its defaults: {error}") from error


@dataclass(frozen=True, slots=True)
class ReasoningGymTask:
    """One data set of reasoning-gym; the package is asked for when the task is made."""

    dataset: str
    """Its name in the package: `chain_sum`."""
    max_completion_length: int = 512

    def __post_init__(self) -> None:
        _dataset(self.dataset, 0)

    @property
    def name(self) -> str:
        return f"reasoning_gym:{self.dataset}"

    @property
    def styles(self) -> Mapping[str, str]:
        return {}

    def item(self, split: Split, index: int) -> Mapping[str, Any]:
        block, start = divmod(index * ATTEMPTS, BLOCK)
        items = _dataset(self.dataset, block)
        for place in range(start, start + ATTEMPTS):
            entry = items[place]
            if split_of(entry["question"]) == split:
                answer = None if entry["answer"] is None else str(entry["answer"])
                return {"prompt": entry["question"] + HINT, "answer": answer, "entry": entry}
        raise DataError(
            f"{self.name}: {ATTEMPTS} items in a row are not of the {split} split; it repeats its questions"
        )

    def verify(self, prompt: Prompt, text: str) -> Score:
        """The data set's own score of what the last \\boxed{} holds."""
        found = last_boxed(text)
        if found is None:
            return Score(0.0, reason="no \\boxed{} in the answer")
        value = float(_dataset(self.dataset, 0).score_answer(answer=found, entry=prompt.row["entry"]))
        return Score(value, reason=f"read {found[:60]!r}, expected {str(prompt.reference)[:60]!r}")

    def demonstration(self, item: Mapping[str, Any], rng: random.Random, practice: bool = False) -> str:
        if item["answer"] is None:
            raise DataError(f"{self.name}: its items have no gold answer to imitate")
        return f"\\boxed{{{item['answer']}}}"
