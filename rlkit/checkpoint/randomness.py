"""The global random generators of a process: python's, numpy's, torch's, and the GPU's.

rlkit draws from none of them (its numbers come from the seed and the step), but a user's algorithm or reward in this process
may: so they are seeded with the run, kept in its checkpoints, and put back. Verifier processes are not reached.
"""

import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def seed(number: int) -> None:
    """Start all of them from one number."""
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)  # every GPU's too


def states() -> dict[str, Tensor]:
    """All of them as tensors. The numbers that python and numpy may hold back (of a normal pair) have names of their own."""
    _, words, spare = random.getstate()
    _, keys, position, has_spare, numpy_spare = np.random.get_state(legacy=True)
    found = {
        "python": torch.tensor(words, dtype=torch.int64),
        "python_spare": torch.tensor([] if spare is None else [spare], dtype=torch.float64),
        "numpy": torch.tensor([*map(int, keys), int(position)], dtype=torch.int64),
        "numpy_spare": torch.tensor([numpy_spare] if has_spare else [], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        found |= {f"cuda:{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return found


def restore(states: Mapping[str, Tensor]) -> None:
    """Put back what `states` gave. A GPU that is not here any more is left out."""
    spare = states["python_spare"].tolist()
    random.setstate((3, tuple(states["python"].tolist()), spare[0] if spare else None))
    *keys, position = states["numpy"].tolist()
    spare = states["numpy_spare"].tolist()
    np.random.set_state(
        ("MT19937", np.array(keys, dtype=np.uint32), position, len(spare), spare[0] if spare else 0.0)
    )
    torch.set_rng_state(states["torch"])
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if f"cuda:{i}" in states:
            torch.cuda.set_rng_state(states[f"cuda:{i}"], i)
