"""Several processes as one run. Every rank runs the same loop on the same numbers; what costs is divided:

    sampler     whole requests, in order: a rank writes its share, and all get all rollouts (servers are rank 0's to ask)
    verifier    the answers to whole prompts, since some verifiers compare them
    learner     micro-batches (rlkit.batch); DDP or FSDP2 averages the gradients (rlkit.learner.shard)
    disk, screen   rank 0 alone

Sampler and verifiers may work in a thread beside the update (`--async-steps`), so what ranks tell each other there goes over a process
group of its own: in one group, calls of two threads would meet in another order on each rank.

Started by torchrun, or by accelerate launch. Objects travel over gloo, also where tensors go over NCCL. An error on one rank
ends all with the one sentence of the rank that had it: each watches a word in the store that they met in, because a rank
that waits for a dead one's tensors hears nothing.
"""

import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import (
    HashStore,
    PrefixStore,
    Store,
)  # torch.distributed re-exports them, but not to mypy
from torch.distributed.rendezvous import rendezvous

from rlkit.errors import RlkitError, RunError, SamplerGone
from rlkit.printable import printable
from rlkit.talks import Follows, Talk, in_rounds
from rlkit.types import Credit, Group, Prompt, Request, Rollout, Sampler, Score

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""What one rank waits for another, as for its share of the rollouts; then the run ends."""
GRACE_SECONDS = 5.0
"""For a rank to end by itself after another failed; it may be writing."""
POLL_SECONDS = 0.2
FAILED, GONE = "failed", "gone"


class Ranks:
    """This process among those of the run.

    >>> ALONE.gather("a"), ALONE.any(False), ALONE.share(5)
    (['a'], False, slice(0, 5, None))
    """

    def __init__(
        self,
        rank: int = 0,
        world: int = 1,
        group: dist.ProcessGroup | None = None,
        beside: "Ranks | None" = None,
    ) -> None:
        """group: over which they talk; None: torch.distributed's own
        beside: the same ranks over another group, for what goes on beside the update
        """
        self.rank, self.world, self._group = rank, world, group
        self.beside = beside or self

    @property
    def main(self) -> bool:
        """The rank that writes and speaks."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in their order, on every rank."""
        if self.world == 1:
            return [value]
        out: list[Any] = [None] * self.world
        dist.all_gather_object(out, value, group=self._group)
        return out

    def first(self, value: T) -> T:
        """Rank 0's."""
        return self.gather(value)[0]

    def any(self, flag: bool) -> bool:
        return any(self.gather(flag))

    def wait(self) -> None:
        """Until every rank is here."""
        self.gather(None)

    def share(self, count: int) -> slice:
        """This rank's part of so many things, as even as they divide."""
        return slice(self.rank * count // self.world, (self.rank + 1) * count // self.world)

    def divided(self, items: Sequence[T], work: "Callable[[Sequence[T]], list[Any]]") -> list[Any]:
        """What `work` makes of all items, one result each; every rank works on its share.

        Where it raises on one rank, it raises there and the others end too.
        """
        if self.world == 1:
            return work(items)
        mine = items[self.share(len(items))]
        failure: Exception | None = None
        results: list[Any] = []
        try:
            results = work(mine) if mine else []
        except Exception as error:  # told to the others first, who wait for it
            failure = error
        parts = self.gather((failure is None, results))
        if failure is not None:
            raise failure
        if not all(whole for whole, _ in parts):
            raise _Elsewhere
        return [result for _, part in parts for result in part]


ALONE = Ranks()


class _Elsewhere(BaseException):
    """Another rank failed and has told why."""


class SharedSampler:
    """A sampler on every rank; each writes its share of the requests."""

    def __init__(self, sampler: Sampler, ranks: Ranks) -> None:
        self.sampler, self.ranks = sampler, ranks

    def sample(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        return self.ranks.divided(requests, self.sampler.sample)

    def follow(self, talks: Sequence[Talk[T]]) -> list[T]:
        """In rounds where ranks share each of them."""
        if self.ranks.world == 1 and isinstance(self.sampler, Follows):
            return self.sampler.follow(talks)
        return in_rounds(talks, self.sample)

    def load(self, weights: Mapping[str, Any], version: int) -> None:
        self.sampler.load(weights, version)

    def rest(self) -> None:
        self.sampler.rest()

    def forget(self) -> None:
        self.sampler.forget()

    def halt(self) -> None:
        self.sampler.halt()

    def metrics(self) -> Mapping[str, float]:
        return self.sampler.metrics()

    def close(self) -> None:
        self.sampler.close()


class OneSampler:
    """A sampler on rank 0 alone (None on the others), with processes of its own: it writes everything, and all get all rollouts."""

    def __init__(self, sampler: Sampler | None, ranks: Ranks) -> None:
        self.sampler, self.ranks = sampler, ranks

    def sample(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        return self._everywhere(lambda sampler: sampler.sample(requests))

    def follow(self, talks: Sequence[Talk[T]]) -> list[T]:
        """In rounds where all ranks get the answers."""
        if self.ranks.world == 1 and isinstance(self.sampler, Follows):
            return self.sampler.follow(talks)
        return in_rounds(talks, self.sample)

    def load(self, weights: Mapping[str, Any], version: int) -> None:
        self._everywhere(lambda sampler: sampler.load(weights, version))

    def rest(self) -> None:
        self._everywhere(lambda sampler: sampler.rest())

    def forget(self) -> None:
        self._everywhere(lambda sampler: sampler.forget())

    def halt(self) -> None:
        if self.sampler is not None:
            self.sampler.halt()

    def metrics(self) -> Mapping[str, float]:
        return self._everywhere(lambda sampler: sampler.metrics())

    def close(self) -> None:
        if self.sampler is not None:
            self.sampler.close()

    def _everywhere(self, work: Callable[[Sampler], T]) -> T:
        """What `work` gives on rank 0, on every rank. A sampler that is gone is gone on every rank, so that all save together."""
        if self.ranks.world == 1 and self.sampler is not None:
            return work(self.sampler)
        failure: Exception | None = None
        result: Any = None
        if self.sampler is not None:
            try:
                result = work(self.sampler)
            except Exception as error:  # told to the others first, who wait for it
                failure = error
        gone = str(failure) if isinstance(failure, SamplerGone) else None
        result, failed, gone = self.ranks.first((result, failure is not None, gone))
        if gone is not None:
            raise SamplerGone(gone)
        if failure is not None:
            raise failure
        if failed:
            raise _Elsewhere
        return cast("T", result)


class SharedScorer:
    """Verifiers on every rank; each judges all answers to its share of the prompts: some rewards compare them."""

    def __init__(self, score: Callable[[Sequence[tuple[Prompt, str]]], list[Score]], ranks: Ranks) -> None:
        self._score, self.ranks = score, ranks

    def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        places: dict[str, list[int]] = {}
        for place, (prompt, _) in enumerate(items):
            places.setdefault(prompt.id, []).append(place)

        def judged(groups: Sequence[list[int]]) -> list[list[Score]]:
            scores = iter(self._score([items[place] for group in groups for place in group]))
            return [list(islice(scores, len(group))) for group in groups]

        groups = list(places.values())
        found = self.ranks.divided(groups, judged)
        verdicts = dict(zip(chain(*groups), chain(*found), strict=True))
        return [verdicts[place] for place in range(len(items))]


class Nowhere:
    """The run folder as the other ranks see it: they read checkpoints there and write nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write_metrics(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def write_rollouts(self, step: int, groups: Sequence[Group], credits: Sequence[Credit]) -> None: ...
    def write_track(self, table: str, step: int, columns: Mapping[str, Sequence[Any]]) -> None: ...
    def write_probe_answers(self, rollouts: Sequence[Rollout]) -> None: ...
    def probe_answers(self) -> list[Rollout]:
        return []

    def written(self) -> dict[str, int]:
        return {}

    def sync(self) -> None: ...
    def write_evaluation(self, row: Mapping[str, Any]) -> None: ...
    def write_summary(self, summary: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


# -- from the first to the last word -------------------------------------------------------------------------------------


def world_size() -> int:
    """How many processes were started, by torchrun or accelerate launch."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def opened(group: bool = False) -> Iterator[Ranks]:
    """The ranks of this run. Alone when one process was started; `group` gives that one a process group too, for FSDP2.

    With several, an exception inside ends every rank: one prints its sentence, and all exit with its code.
    """
    if world_size() == 1:
        if not group:
            yield ALONE
            return
        if dist.is_initialized():  # a notebook's, or one that an engine left in this process
            yield ALONE
            return
        dist.init_process_group(_backend(), store=HashStore(), rank=0, world_size=1)
        try:
            yield ALONE
        finally:
            dist.destroy_process_group()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, world = next(rendezvous("env://", timeout=TIMEOUT))
    store = PrefixStore("rlkit", store)
    dist.init_process_group(_backend(), store=store, rank=rank, world_size=world, timeout=TIMEOUT)
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=(store, done), daemon=True)
    watch.start()
    # Over gloo whatever the update uses: a thread of its own would need an NCCL stream of its own too.
    beside = Ranks(rank, world, dist.new_group(backend="gloo", timeout=TIMEOUT))
    ranks = Ranks(rank, world, beside=beside)
    try:
        yield ranks
        ranks.wait()  # rank 0 may still be writing
    except BaseException as error:
        done.set()
        _end(error, ranks, store)
    done.set()
    watch.join(
        GRACE_SECONDS
    )  # a thread that the interpreter's end meets inside the store's C++ takes the process down with it
    dist.destroy_process_group()


def _backend() -> str:
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def _watch(store: Store, done: threading.Event) -> None:
    """End this process when another has failed: the main thread may wait for it in a place that no exception reaches."""
    while not done.wait(POLL_SECONDS):
        code = RunError.exit_code
        with suppress(Exception):  # a store that does not answer has gone with the rank that held it
            if not store.check([FAILED]):
                continue
            code = int(store.get(FAILED).split()[1])
        if not done.wait(GRACE_SECONDS):
            _leave(store, code)


def _end(error: BaseException, ranks: Ranks, store: Store) -> None:
    """Tell the others, say why unless another rank has, and exit."""
    for number in (signal.SIGINT, signal.SIGTERM):  # torchrun sends them as soon as one rank has ended
        with suppress(ValueError):  # not in the main thread
            signal.signal(number, signal.SIG_IGN)
    if not isinstance(error, RlkitError | KeyboardInterrupt | _Elsewhere) and _is_lost(error):
        _told(store, GRACE_SECONDS)  # why it was lost is for the other to tell
        what = re.sub(r"^\[.*?\] ", "", str(error).strip().splitlines()[0])
        error = RunError(
            f"rank {ranks.rank} of {ranks.world} lost another rank ({what:.80}). A process that is killed, as for its memory, says "
            "nothing itself: look at the system's log. Continue with `rlkit train --resume RUN`"
        )
    code = (
        error.exit_code
        if isinstance(error, RlkitError)
        else 130
        if isinstance(error, KeyboardInterrupt)
        else 1
    )
    mine = f"{ranks.rank} {code}"
    told = mine
    with suppress(Exception):
        if isinstance(error, _Elsewhere):
            _told(store, GRACE_SECONDS)
        told = store.compare_set(FAILED, "", mine).decode()
    if told == mine:
        if isinstance(error, RlkitError):
            print(f"rlkit: {printable(' '.join(str(error).splitlines()))}", file=sys.stderr)
        elif isinstance(error, KeyboardInterrupt):
            print("rlkit: stopped by Ctrl-C", file=sys.stderr)
        elif not isinstance(error, _Elsewhere):
            traceback.print_exception(error)
        _until_gone(store, ranks.world - 1)
        _leave(None, code)
    _leave(store, int(told.split()[1]))


def _is_lost(error: BaseException) -> bool:
    """Whether it is what a collective raises when a rank has died or does not answer."""
    words = ("closed by peer", "reset by peer", "Broken pipe", "Timed out", "timed out", "Connection refused")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def _told(store: Store, seconds: float) -> None:
    """Wait until a rank has said that it failed, at most so long."""
    until = time.monotonic() + seconds
    with suppress(Exception):
        while not store.check([FAILED]) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)


def _until_gone(store: Store, others: int) -> None:
    """The first to exit has the others ended by torchrun, in the middle of whatever they do."""
    until = time.monotonic() + GRACE_SECONDS + 1  # one that was killed never says so
    with suppress(Exception):
        while store.add(GONE, 0) < others and time.monotonic() < until:
            time.sleep(POLL_SECONDS)


def _leave(store: Store | None, code: int) -> None:
    """Exit without the interpreter's goodbyes: they would wait for the process group. store: to be counted as gone."""
    if store is not None:
        with suppress(Exception):
            store.add(GONE, 1)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)
