"""The `http` verifier: another server says what an answer is worth."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlkit.errors import RolloutError, require
from rlkit.types import Prompt, Score

from .contract import MAX_REASON, finite, shown_value
from .web import check_url, post_json


@dataclass(frozen=True, slots=True)
class HttpVerifier:
    """What a server of yours answers: it gets {prompt, completion, reference, row} and gives {score, reason, parts} as JSON.

    A score of null is a skip. A server that fails, hangs, or says anything else is an error, never a 0.
    """

    url: str
    """Where to POST, http or https. Redirects are not followed."""
    timeout: float = 8.0
    """Seconds for one answer, all tries together; keep it under --reward.timeout."""
    retries: int = 2
    """Further tries after a broken connection, a 429 (its Retry-After is waited for) or a 5xx."""
    key: str | None = None
    """Name of an environment variable whose value is sent as bearer token, over https or to this machine only."""
    concurrency: int = 16
    """Requests at once, for each verifier process."""
    low: float = 0.0
    """Least score that the server may give."""
    high: float = 1.0
    """Greatest score that the server may give."""

    def __post_init__(self) -> None:
        check_url(self.url, self.key, "http url")
        require(0 < self.timeout < math.inf, "http timeout", self.timeout, "a positive number of seconds")
        require(self.retries >= 0, "http retries", self.retries, "0 or more")
        require(self.concurrency >= 1, "http concurrency", self.concurrency, "1 or more")
        require(self.low < self.high, "http low", self.low, f"less than high = {self.high}")

    @property
    def value_range(self) -> tuple[float, float]:
        return self.low, self.high

    async def __call__(self, prompt: Prompt, text: str) -> Score:
        question = prompt.question or prompt.text
        payload = {
            "prompt": question,
            "completion": text,
            "reference": prompt.reference,
            "row": dict(prompt.row),
        }
        said = await post_json(self.url, payload, key=self.key, timeout=self.timeout, retries=self.retries)
        return read_verdict(said, self.url)


def read_verdict(said: Any, url: str) -> Score:
    """The Score in a server's JSON. Raises RolloutError when there is none: what a server says is not trusted.

    >>> read_verdict({"score": 0.5, "reason": "half"}, "http://localhost")
    Score(value=0.5, reason='half', parts={}, error=False)
    """
    if not isinstance(said, Mapping) or "score" not in said:
        raise RolloutError(f"{url}: expected a JSON object with a score, but got {shown_value(said)}")
    reason, parts = said.get("reason", ""), said.get("parts", {})
    if not isinstance(reason, str) or not isinstance(parts, Mapping):
        raise RolloutError(
            f"{url}: expected reason as text and parts as an object, but got {shown_value(said)}"
        )
    value = said["score"]
    if isinstance(value, bool):
        value = float(value)
    score = None if value is None else finite(value, f"{url}: the score is")
    numbers = {str(name): finite(number, f"{url}: part {name} is") for name, number in parts.items()}
    return Score(score, reason=reason[:MAX_REASON] or "no reason given", parts=numbers)
