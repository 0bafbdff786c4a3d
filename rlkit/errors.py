"""What rlkit raises when the fault is not its own: one base class and its children, one sentence each.

The command line prints an `RlkitError` as one sentence and exits with its `exit_code`; any other exception is a
defect of rlkit and keeps its traceback.
"""

import difflib
import errno
from collections.abc import Iterable

DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says when it will not write more (full, over the quota, file too large)."""


class RlkitError(Exception):
    """Says where, what came, what was expected and what to do next."""

    exit_code = 2


class ConfigError(RlkitError):
    """A flag, a name or a config file that cannot be what the user meant."""


class DataError(RlkitError):
    """A data set, a row or a column that cannot be used."""


class ModelError(RlkitError):
    """A model or tokenizer that cannot be found or cannot be used."""


class RolloutError(RlkitError):
    """A sampler or a verifier that broke its contract, or failed more often than allowed."""

    exit_code = 3


class SamplerGone(RolloutError):
    """Nobody is left who could write; the learner itself is whole, so its last step can be kept."""


class RunError(RlkitError):
    """A run folder or a checkpoint that cannot be read, written or continued."""


class Interrupted(RlkitError):
    """A run that ended early because its user, or a scheduler, asked for it."""

    exit_code = 130


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name nobody knows: what came, the nearest known name, all known names.

    >>> unknown_name("algorithm", "gropo", ["grpo", "skpo"])
    "algorithm 'gropo' is not known; did you mean 'grpo'? Known: grpo, skpo"
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{kind} {name!r} is not known{hint} Known: {', '.join(known)}"


def require(ok: bool, name: str, value: object, expected: str) -> None:
    """Raise ConfigError, naming the setting, what came and what was expected, unless `ok`."""
    if not ok:
        raise ConfigError(f"{name} = {value!r}: expected {expected}")
