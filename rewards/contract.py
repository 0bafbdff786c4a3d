r"""What a verifier owes, what it may tell about itself, and how it is called. Held here for the pool and for every command.

A verifier is one of three, and picklable:

    Verifier         def __call__(prompt, text) -> Score             one answer at a time
    AsyncVerifier    async def __call__(prompt, text) -> Score       `concurrency` of them at once in one process
    BatchVerifier    def batch(items) -> Sequence[Score]             up to `batch_size` answers in one call; may be async

A Score is a finite number, a skip (None: cannot judge) or an error, each with a reason; what is anything else, or raises, is
an error. Beyond that a verifier may have any of these; each is read by the one helper of that name, never by `getattr`:

    value_range: tuple[float, float]               least and greatest value; another one is an error
    concurrency: int                               of an async verifier; 8 without it
    batch_size: int                                of a batch verifier
    gold_text(prompt) -> str | None                how a right answer to the prompt is written; without it \boxed{reference}
    warm_up() -> None                              loads what the first answer would else pay for, and opens no connection
"""

import asyncio
import inspect
import math
import sysconfig
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from numbers import Real
from typing import Protocol, TypeGuard

from rlkit.errors import ConfigError, RolloutError
from rlkit.types import AnyVerifier, BatchVerifier, Prompt, Score

Item = tuple[Prompt, str]
"""A prompt and an answer to it."""
MAX_REASON = 2000
"""Characters kept of a reason: it is stored once per rollout."""
DEFAULT_CONCURRENCY = 8
WHOLE_STEP = 1 << 16
"""The `batch_size` of a verifier that compares the answers to a prompt: more than a step has, so no group is torn."""
ROUNDING = 1e-9
"""A weighted sum of values at the ends of their ranges may be off by this much, relative to the greater end."""


class Ranged(Protocol):
    """Declares the least and the greatest value that it returns; None: it cannot tell (a sum with a term that does not)."""

    @property
    def value_range(self) -> tuple[float, float] | None: ...


class Concurrent(Protocol):
    """An async verifier that declares how many of its calls one process may run at once."""

    @property
    def concurrency(self) -> int: ...


class KnowsGold(Protocol):
    r"""Reads right answers in another way than \boxed{reference}: a letter, a program, a tag."""

    def gold_text(self, prompt: Prompt) -> str | None:
        """A right answer to this prompt as a model should write it; None: there is no gold."""
        ...


def has_range(verifier: object) -> TypeGuard[Ranged]:
    return hasattr(verifier, "value_range")  # isinstance with a protocol takes as long as a cheap verdict


def has_concurrency(verifier: object) -> TypeGuard[Concurrent]:
    return hasattr(verifier, "concurrency")


def has_batch(verifier: object) -> TypeGuard[BatchVerifier]:
    return hasattr(verifier, "batch") and hasattr(verifier, "batch_size")


def knows_gold(verifier: object) -> TypeGuard[KnowsGold]:
    return hasattr(verifier, "gold_text")


def verifier_name(verifier: object) -> str:
    """What people call it: its class, or the function it is.

    >>> verifier_name(shown), verifier_name(Prompt(id="a", token_ids=[]))
    ('shown', 'Prompt')
    """
    name = getattr(verifier, "__qualname__" if inspect.isroutine(verifier) else "__name__", None)
    return name if isinstance(name, str) else type(verifier).__name__


def value_range(verifier: object) -> tuple[float, float] | None:
    """The least and greatest value that the verifier declares; None: it declares none. Raises ConfigError when it is no range."""
    declared = verifier.value_range if has_range(verifier) else None
    if declared is None:
        return None
    try:
        low, high = (float(end) for end in declared)
    except (TypeError, ValueError):
        low = high = math.nan
    if not low <= high:
        raise ConfigError(
            f"{verifier_name(verifier)}.value_range is {shown_value(declared)}, expected two numbers, the least value first"
        )
    return low, high


def full_marks(verifier: object) -> float | None:
    """What a right answer is worth: the greatest value that the verifier declares; None: it declares none.

    >>> full_marks(print) is None
    True
    """
    declared = value_range(verifier)
    return declared[1] if declared is not None and math.isfinite(declared[1]) else None


def is_async(verifier: object) -> bool:
    """Whether the verifier is to be awaited, in its call or in its `batch`."""
    if has_batch(verifier) and inspect.iscoroutinefunction(verifier.batch):
        return True
    return inspect.iscoroutinefunction(verifier) or inspect.iscoroutinefunction(type(verifier).__call__)


def concurrency(verifier: object) -> int:
    """How many calls of an async verifier one process runs at once; 1 when it is not async."""
    if not is_async(verifier):
        return 1
    declared = verifier.concurrency if has_concurrency(verifier) else DEFAULT_CONCURRENCY
    return _positive(declared, f"{verifier_name(verifier)}.concurrency")


def batch_size(verifier: object) -> int:
    """Answers in one call of a batch verifier, at most; 1 when it judges one at a time."""
    if not has_batch(verifier):
        return 1
    return _positive(verifier.batch_size, f"{verifier_name(verifier)}.batch_size")


def gold_text(verifier: object, prompt: Prompt) -> str | None:
    r"""A right answer to this prompt, written as this verifier reads it; None: there is no gold answer.

    >>> gold_text(print, Prompt(id="a", token_ids=[], reference="42"))
    '\\boxed{42}'
    """
    if not knows_gold(verifier):
        return boxed_gold(prompt)
    text: object = verifier.gold_text(prompt)
    if text is None or isinstance(text, str):
        return text
    raise RolloutError(
        f"{verifier_name(verifier)}.gold_text returned {shown_value(text)} for prompt {prompt.id}, expected text or None"
    )


def boxed_gold(prompt: Prompt) -> str | None:
    r"""The reference in a box; a reference that is a solution with its own box stays as it is."""
    gold = prompt.reference
    return gold if gold is None or "\\boxed" in gold else f"\\boxed{{{gold}}}"


def warm_up(verifier: object) -> None:
    """Let the verifier load what its first answer would else pay for, if it has something to load.

    Runs once in the parent of the judging processes, which are its copies: what cannot be copied (threads, connections,
    a GPU) is opened by the first call.
    """
    warm: Callable[[], None] | None = getattr(verifier, "warm_up", None)
    if warm is not None:
        warm()


def judge(verifier: AnyVerifier, prompt: Prompt, text: str) -> Score:
    """The verdict on one answer, whichever of the three the verifier is; an error Score when it raises or returns none.

    Waits for an async verifier, so it cannot be called where an event loop is running; `judge_async` can.
    """
    if is_async(verifier):
        return asyncio.run(judge_async(verifier, prompt, text))
    try:
        return _sound(verifier, _ask(verifier, prompt, text))
    except Exception as error:  # users' verifiers raise anything; it is counted and shown, and costs one item
        return failure(error)


async def judge_async(verifier: AnyVerifier, prompt: Prompt, text: str) -> Score:
    """`judge` inside an event loop; a verifier that is not async holds the loop up."""
    try:
        result = _ask(verifier, prompt, text)
        return _sound(verifier, await result if inspect.isawaitable(result) else result)
    except Exception as error:  # as above
        return failure(error)


def judge_batch(verifier: BatchVerifier, items: Sequence[Item]) -> list[Score]:
    """One verdict per item, in order. Raises what the verifier raises, and RolloutError when the verdicts are not as many."""
    scores = verifier.batch(items)
    if inspect.isawaitable(scores):
        return asyncio.run(_sound_batch(verifier, items, scores))
    return _as_many(verifier, items, scores)


async def judge_batch_async(verifier: BatchVerifier, items: Sequence[Item]) -> list[Score]:
    """`judge_batch` inside an event loop."""
    scores = verifier.batch(items)
    if inspect.isawaitable(scores):
        return await _sound_batch(verifier, items, scores)
    return _as_many(verifier, items, scores)


async def _sound_batch(
    verifier: BatchVerifier, items: Sequence[Item], scores: Awaitable[Sequence[Score]]
) -> list[Score]:
    return _as_many(verifier, items, await scores)


def _as_many(verifier: BatchVerifier, items: Sequence[Item], scores: Sequence[Score]) -> list[Score]:
    if not isinstance(scores, Sequence) or len(scores) != len(items):
        count = f"{len(scores)} verdicts" if isinstance(scores, Sequence) else f"a {type(scores).__name__}"
        raise RolloutError(
            f"{verifier_name(verifier)}.batch returned {count} for {len(items)} answers, expected one for each"
        )
    checked = []
    for score in scores:
        try:
            checked.append(_sound(verifier, score))
        except RolloutError as error:
            checked.append(failure(error))
    return checked


def _ask(verifier: AnyVerifier, prompt: Prompt, text: str) -> object:
    """What the verifier returns for one answer: a Score, or what is to be awaited for one."""
    if callable(verifier):
        return verifier(prompt, text)
    scores = verifier.batch([(prompt, text)])
    return _first(verifier, scores) if inspect.isawaitable(scores) else _only(verifier, scores)


async def _first(verifier: BatchVerifier, scores: Awaitable[Sequence[Score]]) -> object:
    return _only(verifier, await scores)


def _only(verifier: BatchVerifier, scores: object) -> object:
    if not isinstance(scores, Sequence) or len(scores) != 1:
        raise RolloutError(
            f"{verifier_name(verifier)}.batch returned {shown_value(scores)} for one answer, expected a list of one Score"
        )
    return scores[0]


def _sound(verifier: AnyVerifier, result: object) -> Score:
    """The result as a Score within the declared range, or RolloutError."""
    name = verifier_name(verifier)
    if inspect.iscoroutine(result):
        result.close()
        raise RolloutError(f"{name} returned something to await: define it with `async def`")
    score = check_score(result, name)
    declared = value_range(verifier)
    if declared is not None and score.value is not None:
        low, high = declared
        slack = ROUNDING * max(1.0, *(abs(end) for end in declared if math.isfinite(end)))
        if not low - slack <= score.value <= high + slack:
            raise RolloutError(
                f"{name} returned {score.value}, outside its declared range [{low:g}, {high:g}]"
            )
    return score


def failure(error: Exception) -> Score:
    """The error Score of a verifier that raised: our own sentences as they are, other exceptions with type and place."""
    if isinstance(error, RolloutError):
        return Score(None, reason=str(error)[:MAX_REASON], error=True)
    return Score(None, reason=f"{describe(error)} at {_place(error)}"[:MAX_REASON], error=True)


def check_score(result: object, name: str) -> Score:
    """`result` as a sound Score, its numbers plain floats. Raises RolloutError that says what `name` returned instead."""
    if not isinstance(result, Score):
        raise RolloutError(
            f"{name} returned {shown_value(result)} ({type(result).__name__}), expected a Score"
        )
    if not isinstance(result.reason, str):
        raise RolloutError(f"{name} returned a Score with reason {shown_value(result.reason)}, expected text")
    if not isinstance(result.error, bool):
        raise RolloutError(
            f"{name} returned a Score with error {shown_value(result.error)}, expected True or False"
        )
    if result.error and result.value is not None:
        raise RolloutError(f"{name} returned an error Score with the value {result.value!r}, expected None")
    if not isinstance(result.parts, Mapping) or not all(isinstance(part, str) for part in result.parts):
        raise RolloutError(
            f"{name} returned a Score with parts {shown_value(result.parts)}, expected names and numbers"
        )
    value = None if result.value is None else finite(result.value, f"{name} returned a Score with the value")
    parts = {
        part: finite(number, f"{name} returned a Score with part {part}")
        for part, number in result.parts.items()
    }
    return Score(value, reason=result.reason[:MAX_REASON], parts=parts, error=result.error)


LARGEST = 3.4028234663852886e38
"""float32's largest number: what is beyond it would be infinite in the learner."""


def finite(number: object, whose: str) -> float:
    """`number` as a float. Raises RolloutError, a sentence that `whose` begins, when it is no finite number."""
    try:
        value = float(number) if isinstance(number, Real) else math.nan
    except OverflowError:  # an integer larger than any float
        value = math.inf
    if not abs(value) <= LARGEST:
        raise RolloutError(
            f"{whose} {shown_value(number)} ({type(number).__name__}), expected a finite number"
            + (" that float32 can hold, up to 3.4e38" if math.isfinite(value) else "")
        )
    return value


def shown(text: str, limit: int = 80) -> str:
    """The text as a quoted line for a reason, its middle left out when it is long.

    >>> shown("42"), shown("1" * 50, limit=12)
    ("'42'", "'111111...111111'")
    """
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]}...{text[-half:]}"
    return repr(text)


def shown_value(value: object) -> str:
    """Any value as a quoted line for a reason: users' classes, and integers of a million digits, may have no repr."""
    try:
        return shown(repr(value))
    except Exception:  # whatever their __repr__ raises: the type is said beside it anyway
        return "what has no repr"


def describe(error: BaseException) -> str:
    """Type and message of an exception in one bounded line."""
    return f"{type(error).__name__}: {' '.join(str(error)[:MAX_REASON].split())}".removesuffix(": ")


def _positive(number: object, whose: str) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ConfigError(f"{whose} is {shown_value(number)}, expected a whole number from 1 on")
    return number


def _place(error: Exception) -> str:
    """`file:line` of the deepest frame in code that somebody here wrote, rather than in an installed library."""
    paths = sysconfig.get_paths()
    libraries = (paths["stdlib"], paths["purelib"], paths["platlib"])
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames[1:] if not frame.filename.startswith((*libraries, "<"))]
    frame = own[-1] if own else frames[-1]
    return f"{frame.filename}:{frame.lineno}"
