"""One vLLM engine of this process, asked for more while it writes: requests join its next step as soon as they are known.

It speaks with the engine's core: token ids go in and come out, and `LLM.generate` would make text, and an object, of each token.
The order in which they join follows from the order in which earlier ones end, which in one process is the same every time: the same
talks give the same batches, and so the same bits.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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


@dataclass(eq=False, slots=True)
class _Answer:
    """Continuation i of a question's request r, as far as it is written."""

    question: _Question
    r: int
    i: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


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

    params: of continuation i of a request
    rollout: a request, tokens and log-probs that were written to it, and vLLM's word for how they ended -> a rollout
    halted: once set, whatever is being written is given up
    """

    def __init__(
        self,
        engine: "LLM",
        params: "Callable[[Request, int], SamplingParams]",
        rollout: Callable[[Request, list[int], list[float], str], Rollout],
        halted: threading.Event,
        prefill: Prefill,
    ) -> None:
        self._llm, self._params, self._rollout, self._halted = engine, params, rollout, halted
        self._core: Any = engine.llm_engine.engine_core
        self._prefill = prefill
        self._waiting: dict[str, _Answer] = {}  # by vLLM's ids

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
            self._core.abort_requests(list(self._waiting))
            self._waiting.clear()
            raise
        return [results[i] for i in range(len(talks))]

    def _ask(self, talk: int, requests: Sequence[Request]) -> None:
        from vllm.inputs import tokens_input

        engine = self._llm.llm_engine
        tasks = engine.get_supported_tasks()
        num_answers = sum(request.n for request in requests)
        question = _Question(talk, requests, [[None] * request.n for request in requests], num_answers)
        for r, request in enumerate(requests):
            for i in range(request.n):
                name = str(next(self._llm.request_counter))
                prompt = tokens_input(request.token_ids)
                asked = engine.input_processor.process_inputs(name, prompt, self._params(request, i), tasks)
                self._core.add_request(asked)
                self._waiting[name] = _Answer(question, r, i)

    def _step(self) -> list[_Question]:
        """One forward pass; the questions that it ended, in the order in which it ended them."""
        done: list[_Question] = []
        for output in self._core.get_output().outputs:
            answer = self._waiting.get(output.request_id)
            if answer is None:  # given up while it was being written
                continue
            question, request = answer.question, answer.question.requests[answer.r]
            answer.token_ids += output.new_token_ids
            if output.new_logprobs is not None:
                answer.logprobs += output.new_logprobs.logprobs[:, 0].tolist()
            if output.prefill_stats is not None:
                self._prefill.prompt_tokens += len(request.token_ids)
                self._prefill.cached_tokens += output.prefill_stats.num_cached_tokens
            if output.finish_reason is None:
                continue
            del self._waiting[output.request_id]
            question.answers[answer.r][answer.i] = self._rollout(
                request, answer.token_ids, answer.logprobs, str(output.finish_reason)
            )
            question.missing -= 1
            if question.missing == 0:
                done.append(question)
        return done
