"""Requests to many servers: cut into parts, balanced, retried elsewhere, put together again in their order.

The servers' loop runs in a thread of its own; `sample`, `load` and `close` are called from the learner's and wait for it.
A part that fails goes to another server with the same seeds, so it comes back with the same tokens; what was already
written is kept. No group is lost and none comes twice: a group is done when each of its continuations is there, once.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from rlkit.errors import ConfigError, RolloutError, SamplerGone
from rlkit.talks import Talk
from rlkit.types import Request, Rollout

from .balance import Balance, Part, part_size, parts_of
from .beside import aside
from .lives import Launch, Life, Terms, Weights
from .roster import Roster
from .worker_http import Answer, Connections, WorkerFault

T = TypeVar("T")

MAX_FAULTS = 4
"""Failures of one part that are not its servers' death, until the run stops: then the request itself is at fault."""
CLOSE_SECONDS = 60.0
HOPE_SECONDS = 0.3
"""Between two looks at whether any server may still come, while requests wait."""


class Fleet:
    """Servers, however they were started, as one that answers requests."""

    def __init__(
        self,
        terms: Terms,
        weights: Weights,
        stop_ids: Sequence[int],
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.terms, self.weights = terms, weights
        self._stop_ids = list(stop_ids)
        self._say = say or (lambda sentence: None)
        self._balance: Balance[Life] = Balance()
        self._queue: deque[tuple[Part, frozenset[Life], asyncio.Future[Life]]] = deque()
        self._tokens = {"prompt_tokens": 0, "cached_tokens": 0, "retries": 0}
        self._load_seconds = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rlkit-fleet", daemon=True)
        self._thread.start()
        self._closed = False
        self._halted = False
        self._under_way: Future[Any] | None = None  # what `sample` waits for
        self._roster: Roster = self._wait(self._open())

    # -- called from the learner's thread

    def add(self, name: str, launch: Launch) -> None:
        """A server more; it is used as soon as it is ready."""
        self._loop.call_soon_threadsafe(self._roster.add, name, launch)

    def wait_ready(self, count: int) -> None:
        """Until so many servers are ready, or given up; raises SamplerGone when none comes."""
        self._wait(self._until_ready(count))

    def submit(self, request: Request, size: int | None = None) -> "Future[list[Rollout]]":
        """One request's rollouts, when they are written; other requests may be on their way meanwhile.

        size: continuations that stay together on one server; None: all that fit
        """
        self._require_open()
        return asyncio.run_coroutine_threadsafe(self._group(request, size), self._loop)

    def sample(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        """All rollouts, in the order of the requests."""
        self._require_open()
        size = part_size(sum(request.n for request in requests), max(1, self.size), 1 << 30)

        async def all_groups() -> list[list[Rollout]]:
            async with self._learner_waits():
                async with asyncio.TaskGroup() as tasks:
                    groups = [tasks.create_task(self._group(request, size)) for request in requests]
            return [group.result() for group in groups]

        return self._haltable(all_groups())

    def follow(self, talks: Sequence[Talk[T]], check: Callable[[Sequence[Request]], None]) -> list[T]:
        """What each talk returns; it goes on in the fleet's thread as soon as its own answers are there.

        check: raises RolloutError for requests that the model cannot answer
        """
        self._require_open()

        async def one(talk: Talk[T]) -> T:
            try:
                requests = next(talk)
                while True:
                    check(requests)
                    async with asyncio.TaskGroup() as tasks:
                        sizes = [part_size(r.n * len(talks), max(1, self.size), 1 << 30) for r in requests]
                        groups = [
                            tasks.create_task(self._group(request, size))
                            for request, size in zip(requests, sizes, strict=True)
                        ]
                    requests = talk.send([group.result() for group in groups])
            except StopIteration as end:
                result: T = end.value
                return result

        async def all_talks() -> list[T]:
            async with self._learner_waits():
                async with asyncio.TaskGroup() as tasks:
                    ends = [tasks.create_task(one(talk)) for talk in talks]
            return [end.result() for end in ends]

        return self._haltable(all_talks())

    def _haltable(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of what `halt` may end."""
        self._under_way = under_way = asyncio.run_coroutine_threadsafe(work, self._loop)
        if self._halted:
            under_way.cancel()
        try:
            return self._result(under_way, None)
        except CancelledError:
            raise RolloutError("this sampler was halted; load() weights before the next sample()") from None
        except BaseExceptionGroup as failures:
            raise _first(failures) from None
        finally:
            self._under_way = None

    def halt(self) -> None:
        """From another thread: `sample` raises, now and until the next `load`."""
        self._halted = True
        under_way = self._under_way
        if under_way is not None:
            under_way.cancel()

    def load(self, take: Callable[[], None]) -> None:
        """New weights into every ready server: `take` keeps them for those that come later. A server that fails is lost.

        Also while `sample` waits in another thread: what is being written pauses, and goes on under the new weights.
        """
        self._require_open()
        self._halted = False
        began = time.monotonic()
        self._wait(self._update(take))
        self._load_seconds = time.monotonic() - began

    def forget(self) -> None:
        """Every server's prefix cache is emptied."""
        self._require_open()
        self._wait(self._forget())

    @property
    def size(self) -> int:
        """Servers that are ready."""
        return len(self._balance)

    def urls(self) -> list[str]:
        """Of the servers that are ready."""
        return sorted(life.server.url for life in list(self._roster.lives))

    def metrics(self) -> dict[str, float]:
        """Since the last call: what was retried, lost and started again, and how many prompt tokens the caches saved."""
        counts, self._roster.counts = self._roster.counts, type(self._roster.counts)()
        tokens, self._tokens = self._tokens, dict.fromkeys(self._tokens, 0)
        always = {"lost": 0, "restarts": 0, "catch_ups": 0, "broken_updates": 0, "sent_bytes": 0}
        return {
            "sampler/servers": float(self.size),
            "sampler/load_seconds": self._load_seconds,
            **{f"sampler/{name}": float(count) for name, count in {**always, **counts, **tokens}.items()},
        }

    def close(self) -> None:
        """End what this fleet started, and its thread."""
        if self._closed:
            return
        self._closed = True
        try:
            self._wait(self._shut(), CLOSE_SECONDS)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CLOSE_SECONDS)
            if not self._thread.is_alive():
                self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T], seconds: float | None = None) -> T:
        """The result of work in the fleet's loop; Ctrl-C here cancels it there."""
        return self._result(asyncio.run_coroutine_threadsafe(work, self._loop), seconds)

    def _result(self, future: "Future[T]", seconds: float | None) -> T:
        try:
            return future.result(seconds)
        except BaseException:
            future.cancel()
            raise

    def _require_open(self) -> None:
        if self._closed:
            raise RolloutError("this sampler was closed; make a new one")

    # -- in the fleet's loop

    def _learner_waits(self) -> AbstractAsyncContextManager[None]:
        """Around answers: the learner is still while it waits for them, unless they are written beside its update."""
        return nullcontext() if self.terms.overlap else self._roster.stillness()

    async def _open(self) -> Roster:
        try:
            self._connections = Connections()
        except ImportError as error:
            raise ConfigError(
                "a fleet of servers is asked over HTTP, and httpx is not installed; `pip install 'rlvrkit[remote]'`"
            ) from error
        return Roster(
            self.terms,
            self.weights,
            self._connections,
            on_ready=self._on_ready,
            on_lost=self._on_lost,
            say=self._say,
        )

    async def _shut(self) -> None:
        for _, _, turn in self._queue:
            turn.cancel()
        await self._roster.close()
        await self._connections.close()

    async def _until_ready(self, count: int) -> None:
        async with self._roster.stillness():
            while True:
                given_up = sum(member.state == "given up" for member in self._roster.members)
                if self.size and self.size + given_up >= count:
                    return
                self._require_hope()
                await asyncio.sleep(HOPE_SECONDS)

    async def _update(self, take: Callable[[], None]) -> None:
        async with self._roster.stillness():
            async with self._roster.updating:
                self._balance.forget()
                await aside(take, self.terms.deadline)
                await self._roster.update()

    async def _forget(self) -> None:
        self._balance.forget()
        for life in list(self._roster.lives):
            try:
                await life.worker.post("/reset_prefix_cache", seconds=self.terms.deadline)
            except WorkerFault as fault:
                await self._roster.judge(life, fault)

    def _on_ready(self, life: Life) -> None:
        self._balance.add(life, life.capacity)
        self._dispatch()

    def _on_lost(self, life: Life) -> None:
        self._balance.remove(life)

    async def _group(self, request: Request, size: int | None) -> list[Rollout]:
        """One request, whole."""
        largest = max((life.capacity for life in self._balance), default=request.n)
        parts = parts_of(
            tuple(request.token_ids),
            len(request.token_ids),
            request.max_tokens,
            range(request.n),
            min(size or request.n, largest),
        )
        written: dict[int, Rollout] = {}
        try:
            async with asyncio.TaskGroup() as tasks:
                for part in parts:
                    tasks.create_task(self._part(request, part, written))
        except BaseExceptionGroup as failures:
            raise _first(failures) from None
        return [written[i] for i in range(request.n)]

    async def _part(self, request: Request, part: Part, written: dict[int, Rollout]) -> None:
        """Ask one server after another until every continuation of a part is written."""
        failed: frozenset[Life] = frozenset()  # in this round over all servers
        asked_servers: set[Life] = set()
        faults = 0
        while True:
            life = await self._turn(part, failed)
            try:
                asked = [self._one(life, request, i) for i in part.indices]
                answers = await asyncio.gather(*asked, return_exceptions=True)
            finally:
                self._balance.done(life, part)
                self._dispatch()
            fault: WorkerFault | None = None
            for i, answer in zip(part.indices, answers, strict=True):
                if isinstance(answer, Answer):
                    written[i] = answer.rollout
                    self._tokens["prompt_tokens"] += answer.prompt_tokens
                    self._tokens["cached_tokens"] += answer.cached_tokens
                elif isinstance(answer, WorkerFault):
                    fault = answer
                else:
                    raise answer
            missing = tuple(i for i in part.indices if i not in written)
            if len(missing) < len(part.indices):
                life.strikes = life.member.failures = 0
            if fault is None:
                return
            self._tokens["retries"] += len(missing)
            await self._roster.judge(life, fault)
            failed = (
                failed | {life}
                if any(other not in failed | {life} for other in self._balance)
                else frozenset({life})
            )
            asked_servers.add(life)
            faults += not life.lost.is_set()
            if faults >= MAX_FAULTS:
                raise RolloutError(
                    f"request for prompt {request.prompt_id!r}: {faults} tries on {len(asked_servers)} servers failed, the last on "
                    f"{life.server.url}: {fault}"
                )
            part = replace(part, indices=missing, tokens=part.tokens * len(missing) // len(part.indices))

    async def _one(self, life: Life, request: Request, index: int) -> Answer:
        """One continuation from one server. Raises WorkerFault, also when the server is lost meanwhile."""
        if life.lost.is_set():
            raise WorkerFault("gone", life.why)
        call = asyncio.create_task(
            life.worker.generate(
                request,
                index,
                stop_ids=self._stop_ids,
                tag=life.tag,
                version_of=partial(self._version_of, life.tag),
                seconds=self.terms.deadline,
            )
        )
        life.calls.add(call)
        call.add_done_callback(life.calls.discard)
        try:
            return await call
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if life.lost.is_set() and task is not None and not task.cancelling():
                raise WorkerFault("gone", life.why) from None
            raise

    def _version_of(self, asked: str, told: str) -> int | None:
        """The version of the weights called `told`, when they may have written what was asked of those called `asked`."""
        if not self.terms.in_flight and told != asked:
            return None
        version = self.weights.version_of(told)
        oldest, newest = self.weights.version_of(asked), self.weights.version_of(self.weights.tag)
        if version is None or oldest is None or newest is None or not oldest <= version <= newest:
            return None
        return version

    async def _turn(self, part: Part, avoid: frozenset[Life]) -> Life:
        """The server for a part, as soon as one has room. Raises SamplerGone when none will."""
        turn: asyncio.Future[Life] = self._loop.create_future()
        self._queue.append((part, avoid, turn))
        self._dispatch()
        try:
            while not turn.done():
                await asyncio.wait([turn], timeout=HOPE_SECONDS)
                if not turn.done():
                    self._require_hope()
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._balance.done(turn.result(), part)
            turn.cancel()
            raise
        return turn.result()

    def _dispatch(self) -> None:
        """Give servers to those who wait, in their order."""
        while self._queue:
            part, avoid, turn = self._queue[0]
            if turn.done():  # cancelled
                self._queue.popleft()
                continue
            life = self._balance.choose(part, avoid)
            if life is None:
                return
            self._queue.popleft()
            turn.set_result(life)

    def _require_hope(self) -> None:
        why = self._roster.hopeless()
        if why is not None:
            raise SamplerGone(
                f"all {len(self._roster.members)} rollout servers are gone, {why} ({self._roster.reasons()})"
            )


def _first(failures: "BaseExceptionGroup[Any]") -> BaseException:
    """The first exception of a tree of them."""
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
