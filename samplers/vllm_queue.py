"""One vLLM engine of this process, asked for more while it writes: requests join its next step as soon as they are known.

The order in which they join follows from the order in which earlier ones end, which in one process is the same every time: the same
talks give the same batches, and so the same bits.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from rlkit.errors import RolloutError
from rlkit.talks import Talk
from rlkit.types import Request, Rollout

if TYPE_CHECKING:
    from vllm import LLM, SamplingParams

T = TypeVar("T")

HALTED = "this sampler was halted; load() weights before the next sample()"


class NotTheEngine(Exception):
    """Something else went wrong, and the engine is as good as before."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(eq=False, slots=True)
class _Question:
    """What a talk waits for."""

    talk: int
    requests: Sequence[Request]
    answers: list[list[Rollout | None]]
    missing: int


@dataclass(slots=True)
class Prefill:
    """Prompt tokens that were asked for, and those of them that the prefix cache had. Since they were last told."""

    prompt_tokens: int = 0
    cached_tokens: int = 0

    def told(self) -> Mapping[str, float]:
        prompt, cached = self.prompt_tokens, self.cached_tokens
        self.prompt_tokens = self.cached_tokens = 0
        return {"sampler/prompt_tokens": float(prompt), "sampler/cached_tokens": float(cached)}


class EngineQueue:
    """Feeds one engine.

    params: of continuation i of a request;  rollout: a request and vLLM's output for it -> a rollout
    halted: once set, whatever is being written is given up
    """

    def __init__(
        self,
        engine: "LLM",
        params: "Callable[[Request, int], SamplingParams]",
        rollout: Callable[[Request, Any], Rollout],
        halted: threading.Event,
        prefill: Prefill,
    ) -> None:
        self._llm, self._params, self._rollout, self._halted = engine, params, rollout, halted
        self._prefill = prefill
        self._waiting: dict[str, tuple[_Question, int, int]] = {}  # by vLLM's own ids

    def follow(self, talks: Sequence[Talk[T]], check: Callable[[Sequence[Request]], None]) -> list[T]:
        """What each talk returns. Raises NotTheEngine for what a talk or `check` raised; the engine then has nothing left to do.

        check: raises RolloutError for requests that the model cannot answer
        """
        results: dict[int, T] = {}

        def take_on(i: int, answers: list[list[Rollout]] | None) -> None:
            try:
                requests = next(talks[i]) if answers is None else talks[i].send(answers)
                while not requests:
                    requests = talks[i].send([])
                check(requests)
            except StopIteration as end:
                results[i] = end.value
            except Exception as error:
                raise NotTheEngine(error) from error
            else:
                self._ask(i, requests)

        try:
            for i in range(len(talks)):
                take_on(i, None)
            while self._waiting:
                if self._halted.is_set():
                    raise NotTheEngine(RolloutError(HALTED))
                for question in self._step():
                    take_on(question.talk, [[r for r in of if r is not None] for of in question.answers])
        except NotTheEngine:
            self._llm.llm_engine.abort_request(list(self._waiting))
            self._waiting.clear()
            raise
        return [results[i] for i in range(len(talks))]

    def _ask(self, talk: int, requests: Sequence[Request]) -> None:
        from vllm import TokensPrompt

        rows = [(r, i) for r, request in enumerate(requests) for i in range(request.n)]
        question = _Question(talk, requests, [[None] * request.n for request in requests], len(rows))
        names = self._llm.enqueue(
            [TokensPrompt(prompt_token_ids=requests[r].token_ids) for r, _ in rows],
            [self._params(requests[r], i) for r, i in rows],
            use_tqdm=False,
        )
        for name, (r, i) in zip(names, rows, strict=True):
            self._waiting[name.partition("-")[0]] = question, r, i  # vLLM adds something random of its own

    def _step(self) -> list[_Question]:
        """One forward pass; the questions that it ended, in the order in which it ended them."""
        done: list[_Question] = []
        outputs: list[Any] = self._llm.llm_engine.step()
        for output in outputs:
            if not output.finished:
                continue
            question, r, i = self._waiting.pop(output.request_id)
            question.answers[r][i] = self._rollout(question.requests[r], output)
            self._prefill.prompt_tokens += len(question.requests[r].token_ids)
            self._prefill.cached_tokens += output.num_cached_tokens or 0
            question.missing -= 1
            if question.missing == 0:
                done.append(question)
        return done
