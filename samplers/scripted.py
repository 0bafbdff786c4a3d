"""Answers from a list or a function: the sampler of tests and examples, with the contract of the real ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlkit.errors import RolloutError
from rlkit.types import FinishReason, Request, Rollout

from .contract import check_requests, make_rollout


@dataclass(frozen=True, slots=True)
class Answer:
    """One completion.

    >>> Answer([50, 3]).logprobs is None
    True
    """

    token_ids: Sequence[int]
    logprobs: Sequence[float] | None = None
    """None: -1.0 for every token."""


class ScriptedSampler:
    """Gives the next answer of a list, or what a function says for continuation i of a request.

    An answer is cut at the request's max_tokens; a shorter one must end with a stop token, as a policy's would.

    >>> sampler = ScriptedSampler(lambda request, i: Answer([50 + i, 3]), stop_ids=[3])
    >>> request = Request(prompt_id="a", token_ids=[1, 40, 2], n=2, max_tokens=8, temperature=1.0, seed=0)
    >>> [[r.completion_ids for r in rollouts] for rollouts in sampler.sample([request])]
    [[[50, 3], [51, 3]]]
    """

    def __init__(
        self,
        answers: Sequence[Answer] | Callable[[Request, int], Answer],
        *,
        stop_ids: Sequence[int],
        max_model_len: int = 1024,
        vocab_size: int = 2**31,
        version: int = 0,
    ) -> None:
        self._answers = answers
        self._given = 0
        self._stop_ids = frozenset(stop_ids)
        self._max_model_len = max_model_len
        self._vocab_size = vocab_size
        self.version = version
        self.weights: Mapping[str, Any] = {}
        """What the last `load` brought."""
        self.requests: list[Request] = []
        """Everything that was asked, in order."""

    def sample(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        check_requests(requests, self._max_model_len, self._vocab_size)
        self.requests.extend(requests)
        return [[self._rollout(request, i) for i in range(request.n)] for request in requests]

    def load(self, weights: Mapping[str, Any], version: int) -> None:
        self.weights, self.version = weights, version

    def rest(self) -> None:
        """Nothing is held."""

    def forget(self) -> None:
        """Nothing is remembered between calls."""

    def halt(self) -> None:
        """Every call ends at once."""

    def metrics(self) -> Mapping[str, float]:
        """Nothing to tell."""
        return {}

    def close(self) -> None:
        """Nothing is held."""

    def _next(self, request: Request, index: int) -> Answer:
        if callable(self._answers):
            return self._answers(request, index)
        if self._given == len(self._answers):
            raise RolloutError(
                f"the script has {self._given} answers, and continuation {index} of prompt {request.prompt_id!r} asks for one more"
            )
        self._given += 1
        return self._answers[self._given - 1]

    def _rollout(self, request: Request, index: int) -> Rollout:
        answer = self._next(request, index)
        logprobs = [-1.0] * len(answer.token_ids) if answer.logprobs is None else answer.logprobs
        tokens, logprobs = answer.token_ids[: request.max_tokens], logprobs[: request.max_tokens]
        reason: FinishReason = "stop" if tokens and tokens[-1] in self._stop_ids else "length"
        if len(tokens) < request.max_tokens and reason == "length":
            raise RolloutError(
                f"scripted answer {list(tokens)} to prompt {request.prompt_id!r}: it ends neither with a stop token "
                f"({sorted(self._stop_ids)}) nor at max_tokens ({request.max_tokens})"
            )
        return make_rollout(request, tokens, logprobs, policy_version=self.version, finish_reason=reason)
