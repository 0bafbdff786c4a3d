"""What pool and processes say to each other: answers in pickles, which only the pool writes; verdicts in JSON, which it reads."""

import json
import pickle
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from rlkit.errors import RolloutError
from rlkit.types import Score

from .contract import Item, check_score, describe

MAX_ITEM = 1 << 26
"""Bytes of a prompt with its answer: 64 MiB, a thousand times what a model writes."""


class CannotSend(Exception):
    """Why an answer cannot go to a process, in a sentence."""


def packed(items: Sequence[Item]) -> bytes:
    """The answers for a process. Raises CannotSend."""
    prompt = items[0][0]
    size = sum(len(text) for _, text in items)
    payload = b""
    if size <= MAX_ITEM:
        try:
            payload = pickle.dumps(items, protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # a column of a data row may hold anything, whose pickling raises anything
            raise CannotSend(
                f"prompt {prompt.id} cannot go to a verifier process ({describe(error)}); check the columns of its row"
            ) from error
        size = len(payload)
    if size > MAX_ITEM:
        raise CannotSend(
            f"prompt {prompt.id} and its answer are {size:,} bytes long, a verifier process takes at most {MAX_ITEM:,}"
        )
    return payload


def said(message: bytes) -> dict[str, object]:
    """The fields of a message; none when it is no message."""
    try:
        fields = json.loads(message)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a judge says to one message of answers."""

    scores: list[Score]
    """One for each; when the call failed, one error."""
    failed: bool
    timed_out: bool
    """An async call was cancelled at its deadline."""
    worn: bool
    """The judge is no good any more."""


def answer_in(word: dict[str, object], num_asked: int, timeout: float) -> Answer | None:
    """The answer in a message; None: it holds none for so many."""
    timed_out = word.get("timed_out") is True
    if "failed" in word:
        reason = f"timed out after {timeout:g} s; it was cancelled" if timed_out else str(word["failed"])
        scores = [Score(None, reason=reason, error=True)]
    else:
        try:
            scores = _scores(word.get("scores"))
        except (ValueError, TypeError, RolloutError):
            return None
        if len(scores) != num_asked:
            return None
    return Answer(scores=scores, failed="failed" in word, timed_out=timed_out, worn=word.get("worn") is True)


def _scores(fields: object) -> list[Score]:
    """The verdicts in a message. Raises ValueError, TypeError or RolloutError when they are none."""
    if not isinstance(fields, list):
        raise TypeError("no list")
    return [
        check_score(Score(value, reason=reason, parts=parts, error=error), "the verifier process")
        for value, reason, parts, error in fields
    ]


def ending(code: object) -> str:
    """How a process ended, in words.

    >>> ending(3), ending(-11)
    ('ended with exit code 3', 'was ended by SIGSEGV')
    """
    if not isinstance(code, int) or code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    hint = " (the system does this when memory runs out)" if -code == signal.SIGKILL else ""
    return f"was ended by {name}{hint}"
