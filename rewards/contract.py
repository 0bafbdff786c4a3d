"""What a verifier owes: a finite number, a skip or an error, each with a reason. Held here, for every way of calling one."""

import math
import sysconfig
import traceback
from collections.abc import Mapping
from numbers import Real

from rlkit.errors import RolloutError
from rlkit.types import Prompt, Score, Verifier

MAX_REASON = 2000
"""Characters kept of a reason: it is stored once per rollout."""


def shown(text: str, limit: int = 80) -> str:
    """The text as a quoted line for a reason, its middle left out when it is long.

    >>> shown("42"), shown("1" * 50, limit=12)
    ("'42'", "'111111...111111'")
    """
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]}...{text[-half:]}"
    return repr(text)


def judge(verifier: Verifier, prompt: Prompt, text: str) -> Score:
    """The verifier's verdict, or an error Score when it raises or returns what is no verdict."""
    try:
        return check_score(verifier(prompt, text), type(verifier).__name__)
    except RolloutError as error:
        return Score(None, reason=str(error)[:MAX_REASON], error=True)
    except Exception as error:  # users' verifiers raise anything; it is counted and shown, and costs one item
        return Score(None, reason=f"{describe(error)} at {_place(error)}", error=True)


def check_score(result: object, name: str) -> Score:
    """`result` as a sound Score, its numbers plain floats. Raises RolloutError that says what `name` returned instead."""
    if not isinstance(result, Score):
        raise RolloutError(
            f"{name} returned {shown(repr(result))} ({type(result).__name__}), expected a Score"
        )
    if not isinstance(result.reason, str):
        raise RolloutError(f"{name} returned a Score with reason {shown(repr(result.reason))}, expected text")
    if not isinstance(result.error, bool):
        raise RolloutError(
            f"{name} returned a Score with error {shown(repr(result.error))}, expected True or False"
        )
    if result.error and result.value is not None:
        raise RolloutError(f"{name} returned an error Score with the value {result.value!r}, expected None")
    if not isinstance(result.parts, Mapping) or not all(isinstance(part, str) for part in result.parts):
        raise RolloutError(
            f"{name} returned a Score with parts {shown(repr(result.parts))}, expected names and numbers"
        )
    value = None if result.value is None else finite(result.value, f"{name} returned a Score with the value")
    parts = {
        part: finite(number, f"{name} returned a Score with part {part}")
        for part, number in result.parts.items()
    }
    return Score(value, reason=result.reason[:MAX_REASON], parts=parts, error=result.error)


def finite(number: object, whose: str) -> float:
    """`number` as a float. Raises RolloutError, a sentence that `whose` begins, when it is no finite number."""
    try:
        value = float(number) if isinstance(number, Real) else math.nan
    except OverflowError:  # an integer larger than any float
        value = math.inf
    if not math.isfinite(value):
        raise RolloutError(
            f"{whose} {shown(repr(number))} ({type(number).__name__}), expected a finite number"
        )
    return value


def describe(error: BaseException) -> str:
    """Type and message of an exception in one bounded line."""
    return f"{type(error).__name__}: {' '.join(str(error)[:MAX_REASON].split())}".removesuffix(": ")


def _place(error: Exception) -> str:
    """`file:line` of the deepest frame in code that somebody here wrote, rather than in an installed library."""
    paths = sysconfig.get_paths()
    libraries = (paths["stdlib"], paths["purelib"], paths["platlib"])
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames[1:] if not frame.filename.startswith((*libraries, "<"))]
    frame = own[-1] if own else frames[-1]
    return f"{frame.filename}:{frame.lineno}"
