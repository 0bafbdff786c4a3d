"""The servers of a fleet: started, checked, given the current weights, watched, ended and started again.

    start -> answers /health -> same model? -> current weights -> ready -> lost -> ended -> start ...

A server is ready only with the current weights in it. Whatever goes wrong in a weight update loses the server: layers that are
half replaced are not repaired by a second update, only by a new process.

Everything here runs in one asyncio loop; what blocks (processes, tensors) is done in threads aside.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from rlkit.errors import RlkitError, RolloutError

from .beside import aside
from .lives import Launch, Life, Member, Server, Terms, Weights
from .server_facts import check_facts, last_error
from .worker_http import Connections, HttpWorker, WeightCalls, WorkerFault

POLL_SECONDS = 0.2
"""Between two looks at whether a server's process lives, or a starting one answers."""
ASK_SECONDS = 5.0
"""For a question to a server that may be gone."""
CALL_SECONDS = 60.0
"""For a call that does nearly nothing: pause, resume, facts."""
END_SECONDS = 30.0
"""For a process to be ended."""
MAX_STRIKES = 3
"""Failed answers in a row, of a server that is otherwise well, until it counts as lost."""
MAX_BACKOFF = 15.0
"""Seconds between two starts, at most."""


class Roster:
    """Tends the servers. `on_ready` and `on_lost` tell who uses them."""

    def __init__(
        self,
        terms: Terms,
        weights: Weights,
        connections: Connections,
        *,
        on_ready: Callable[[Life], None],
        on_lost: Callable[[Life], None],
        say: Callable[[str], None],
    ) -> None:
        self.terms, self.weights, self._connections = terms, weights, connections
        self._on_ready, self._on_lost, self._say = on_ready, on_lost, say
        self.members: list[Member] = []
        self.lives: set[Life] = set()
        self.counts: Counter[str] = Counter()
        self.updating = asyncio.Lock()
        """Held while weights are taken or brought: a server that joins meanwhile would get half of the old and half of the new."""
        self.still = asyncio.Event()
        """The learner waits for us, so its tensors do not move."""
        self.reading = asyncio.Lock()
        """Held while the learner's own tensors are read: it is not let go before."""
        self.last_ready = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()
        self._started: set[Server] = set()
        """Every server that has not been ended."""
        self._closed = False

    def add(self, name: str, launch: Launch) -> None:
        """A server more, from now on."""
        member = Member(name, launch)
        self.members.append(member)
        task = asyncio.create_task(self._tend(member))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @asynccontextmanager
    async def stillness(self) -> AsyncIterator[None]:
        """The learner waits inside, and until nobody reads its tensors any more."""
        self.still.set()
        try:
            yield
        finally:
            async with self.reading:
                self.still.clear()

    def hopeless(self) -> str | None:
        """Why no server will come any more; None: one is there, or may still come."""
        if self.lives:
            return None
        if self.members and all(member.state == "given up" for member in self.members):
            return "none of them comes back"
        waited = time.monotonic() - self.last_ready
        if waited > self.terms.start_timeout:
            return f"none was there for {waited:.0f} s"
        return None

    def reasons(self) -> str:
        return "; ".join(f"{m.name}: {m.why or m.state}" for m in self.members) or "no server is named"

    async def update(self) -> None:
        """Give every ready server the weights that were just taken. Those that fail are lost; it raises nothing."""
        await asyncio.gather(*(self._brought(life) for life in list(self.lives)))

    def lose(self, life: Life, why: str) -> None:
        """No request goes there any more; those under way fail over now."""
        if life.lost.is_set():
            return
        life.why = life.member.why = why
        life.lost.set()
        self.lives.discard(life)
        self.last_ready = time.monotonic()
        life.member.state = "lost"
        self._on_lost(life)
        for call in list(life.calls):
            call.cancel()

    async def judge(self, life: Life, fault: WorkerFault) -> None:
        """What a failed call says about its server."""
        self.counts[f"faults_{fault.fault}"] += 1
        if life.lost.is_set():
            return
        life.strikes += 1
        if fault.fault in ("hung", "stale") or life.strikes >= MAX_STRIKES:
            self.lose(life, str(fault))
        elif fault.fault in ("gone", "status") and not await life.worker.healthy(ASK_SECONDS):
            self.lose(life, str(fault))  # else: an idle connection was cut, or one request met a fault

    async def close(self) -> None:
        """End every server that this run started."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(self._ended(server) for server in set(self._started)), return_exceptions=True)

    def _launched(self, launch: Launch) -> Server:
        """Start a server, in a thread. One that comes when all is over is ended at once."""
        server = launch()
        self._started.add(server)
        if self._closed:
            server.kill()
        return server

    async def _tend(self, member: Member) -> None:
        while True:
            server: Server | None = None
            began = time.monotonic()
            try:
                server = await aside(
                    partial(self._launched, member.launch), self.terms.start_timeout + CALL_SECONDS
                )
                life = await self._joined(member, server)
            except (WorkerFault, RlkitError, OSError, TimeoutError, RuntimeError) as error:
                fatal = self._failed(member, server, error)
                if server is not None:
                    await self._ended(server)
                if fatal:
                    member.state = "given up"
                    self._say(f"{member.name}: given up: {member.why}")
                    return
                await asyncio.sleep(min(MAX_BACKOFF, 0.5 * 2 ** min(member.failures, 6)))
                continue
            self._say(f"{member.name} ({server.url}) is ready after {time.monotonic() - began:.0f} s")
            await self._watched(life)
            self.counts["lost"] += 1
            words = last_error(await aside(server.last_words, END_SECONDS)) if server.ours else ""
            member.why += f"; its last words: {words}" if words else ""
            self._say(f"{member.name} ({server.url}) is lost: {member.why}")
            await self._ended(server)
            member.failures += 1
            if server.ours:
                if member.failures > self.terms.restarts:
                    member.state = "given up"
                    self._say(f"{member.name}: given up after {member.failures} lost servers in a row")
                    return
                self.counts["restarts"] += 1
            member.state = "starting"

    def _failed(self, member: Member, server: Server | None, error: Exception) -> bool:
        """Note why a start failed; True: another try would fail alike."""
        member.failures += 1
        member.why = f"{type(error).__name__}: {error}" if not isinstance(error, WorkerFault) else str(error)
        if isinstance(error, RlkitError):
            member.why = str(error)
            return True
        return server is not None and server.ours and member.failures > self.terms.restarts

    async def _joined(self, member: Member, server: Server) -> Life:
        """A server that answers, has our model and the current weights."""
        worker = HttpWorker(server.url, server.key, self._connections)
        until = time.monotonic() + self.terms.start_timeout
        while not await worker.healthy(ASK_SECONDS):
            if not server.alive():
                words = last_error(await aside(server.last_words, END_SECONDS))
                raise WorkerFault(
                    "gone", f"its process ended before it answered: {words or 'without a word'}"
                )
            if time.monotonic() > until:
                raise WorkerFault("hung", f"it did not answer within {self.terms.start_timeout:.0f} s")
            await asyncio.sleep(POLL_SECONDS)
        # A learner that died after /pause left it frozen.
        await worker.post("/resume", seconds=CALL_SECONDS)
        told = await self._facts(worker)
        if told["half_updated"]:
            await self._told_to_end(worker)
            raise WorkerFault("stale", "an earlier learner left its weights half replaced, so it was ended")
        kind = self.weights.kind_for(told, server.url)
        async with self.updating:
            if not self.weights.needs_still(kind):
                return await self._brought_up(member, server, worker, kind, told)
            async with self.reading:
                await self.still.wait()
                return await self._brought_up(member, server, worker, kind, told)

    async def _brought_up(
        self, member: Member, server: Server, worker: HttpWorker, kind: str, told: Mapping[str, Any]
    ) -> Life:
        """A server with the current weights, and ready."""
        seconds = self.terms.deadline
        life = Life(
            member=member,
            server=server,
            worker=worker,
            weight_calls=WeightCalls(server.url, server.key, seconds),
            capacity=int(told["max_num_seqs"]),
            world_size=int(told["world_size"]),
            transfer=await aside(lambda: self.weights.transfer_for(kind, told, server.url), seconds),
            lost=asyncio.Event(),
            tag=self.weights.tag,
        )
        if server.ours and self.weights.fresh:
            body = {"new_version": self.weights.tag}
            await worker.post("/update_weight_version", body, seconds=CALL_SECONDS)
        else:
            await self._bring(life)
            self.counts["catch_ups"] += 1
        member.state = "ready"
        self.lives.add(life)
        self._on_ready(life)
        return life

    async def _facts(self, worker: HttpWorker) -> dict[str, Any]:
        """What the server says about itself. Raises RolloutError when it is not what this fleet needs."""
        body = {"method": "rlkit_facts", "kwargs": {"probe": self.weights.probe}}
        try:
            said = await worker.post("/collective_rpc", body, seconds=CALL_SECONDS)
        except RolloutError as error:
            raise RolloutError(
                f"{error}. Start servers with `rlkit serve`, or as docs/scaling.md shows"
            ) from error
        try:
            told: dict[str, Any] = said["results"][0]
            check_facts(worker.url, told, self.terms.facts, self.terms.max_model_len)
        except (KeyError, TypeError, IndexError) as error:
            raise WorkerFault("broken", f"it tells nothing usable about its model: {error!r}") from error
        return told

    async def _brought(self, life: Life) -> None:
        try:
            await self._bring(life)
        except (
            Exception
        ) as error:  # a thread's, a peer's, a socket's: whatever it was, the server is not whole
            self.counts["broken_updates"] += 1
            self.lose(life, f"new weights did not arrive: {type(error).__name__}: {error}")

    async def _bring(self, life: Life) -> None:
        """The current weights into one server, which writes nothing meanwhile. Raises whatever goes wrong."""
        worker, seconds = life.worker, self.terms.deadline
        whole = False
        await worker.post("/pause", params={"mode": "keep"}, seconds=CALL_SECONDS)
        try:
            sent = await aside(lambda: life.transfer.bring(life.weight_calls, life.world_size), seconds)
            self.counts["sent_bytes"] += sent
            # Keys and values of the old weights, those of requests that wait in it too.
            params = {"reset_running_requests": "true"}
            said = await worker.post("/reset_prefix_cache", params=params, seconds=CALL_SECONDS)
            if not said["success"]:
                raise WorkerFault("stale", "it did not reset its prefix cache")
            life.tag = self.weights.tag
            whole = True
        finally:
            if not whole and not life.server.ours:
                await self._told_to_end(worker)
            try:
                await worker.post("/resume", seconds=CALL_SECONDS if whole else ASK_SECONDS)
            except (WorkerFault, RolloutError):
                if whole:
                    raise

    async def _told_to_end(self, worker: HttpWorker) -> None:
        """Ask a server that others started to end: who supervises it starts it again."""
        try:
            await worker.post("/collective_rpc", {"method": "rlkit_end"}, seconds=ASK_SECONDS)
        except (WorkerFault, RolloutError):
            pass  # it cannot answer any more

    async def _watched(self, life: Life) -> None:
        """Until it is lost."""
        due = time.monotonic() + self.terms.beat
        while not life.lost.is_set():
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await life.lost.wait()
            except TimeoutError:
                pass
            if life.lost.is_set():
                return
            if not life.server.alive():
                self.lose(life, "its process ended")
            elif time.monotonic() > due:
                if not await life.worker.healthy(self.terms.beat_timeout):
                    self.counts["faults_frozen"] += 1
                    self.lose(life, f"it did not answer /health within {self.terms.beat_timeout:g} s")
                due = time.monotonic() + self.terms.beat

    async def _ended(self, server: Server) -> None:
        self._started.discard(server)
        if server.ours:
            await aside(server.kill, END_SECONDS)
