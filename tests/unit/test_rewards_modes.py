"""Async and batch verifiers in the pool, streams, threads, forks, limits: real processes throughout."""

import asyncio
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlkit.errors import ConfigError, RolloutError
from rlkit.rewards import ExactVerifier, VerifierPool, weighted_sum
from rlkit.types import Prompt, Score
from tests.waiting import wait_until

PROMPT = Prompt(id="p", token_ids=[1], reference="42")


@dataclass(frozen=True)
class Waits:
    """Async; does what the answer says. Its value is how many calls the process had running."""

    concurrency: int = 8
    running = 0

    async def __call__(self, prompt: Prompt, text: str) -> Score:
        Waits.running += 1
        try:
            if text == "forever":
                await asyncio.sleep(600)
            if text == "stubborn":
                await stay()
            if text == "block":
                time.sleep(600)
            if text == "exit":
                os._exit(3)
            if text == "raise":
                raise KeyError("no such thing")
            if text == "out":
                raise SystemExit(4)
            await asyncio.sleep(0.05)
            return Score(float(Waits.running), reason=text)
        finally:
            Waits.running -= 1


async def stay() -> None:
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass


@dataclass(frozen=True)
class Batch:
    """Its value is the size of the batch that the answer was judged in."""

    batch_size: int = 4

    def batch(self, items: Sequence[tuple[Prompt, str]]) -> Sequence[Score]:
        texts = [text for _, text in items]
        if "hang" in texts:
            time.sleep(600)
        if "exit" in texts:
            os._exit(3)
        if "raise" in texts:
            raise KeyError("no such thing")
        if "short" in texts and len(texts) > 1:
            return []
        return [Score(float(len(texts))) for _ in texts]


@dataclass(frozen=True)
class AsyncBatch(Batch):
    concurrency: int = 2

    async def batch(self, items: Sequence[tuple[Prompt, str]]) -> Sequence[Score]:  # type: ignore[override]
        if "sleep" in [text for _, text in items]:
            await asyncio.sleep(600)
        return Batch.batch(self, items)


class Obeys:
    """Does what the answer says, in one process at a time."""

    def __init__(self) -> None:
        self.leaked: list[bytes] = []
        self.seen = 0

    def __call__(self, prompt: Prompt, text: str) -> Score:
        self.seen += 1
        if text == "pid":
            return Score(float(os.getpid()))
        if text == "seen":
            return Score(float(self.seen))
        if text == "leak":
            self.leaked.append(os.urandom(1 << 20))
            return Score(float(rss()))
        if text == "devour":
            while True:
                self.leaked.append(bytearray(1 << 24))
        if text == "slow":
            time.sleep(0.2)
        if text == "hang":
            time.sleep(600)
        if text == "scream":
            for _ in range(10):
                print("A" * (1 << 20), flush=True)
        if text == "kill parent":
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)
        if text == "write":
            Path("left.txt").write_text("mine")
            return Score(1.0, reason=os.getcwd())
        return Score(0.5)


class Threaded:
    """Starts a thread when it is loaded, which no fork would copy."""

    def warm_up(self) -> None:
        self.asked, self.told = threading.Semaphore(0), threading.Semaphore(0)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            self.asked.acquire()
            self.told.release()

    def __call__(self, prompt: Prompt, text: str) -> Score:
        self.asked.release()
        return Score(float(self.told.acquire(timeout=5)))


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def score(pool: VerifierPool, *texts: str) -> list[Score]:
    return pool.score([(PROMPT, text) for text in texts])


def outcomes(scores: Sequence[Score]) -> list[str]:
    return [s.outcome for s in scores]


def judging(pool: VerifierPool) -> bool:
    """Whether an answer is with a process."""
    return pool._crew is not None and any(slot.flights for slot in pool._crew.slots)


@pytest.fixture(scope="module")
def waits() -> Iterator[VerifierPool]:
    with VerifierPool(Waits(), workers=1, timeout=1.0) as pool:
        score(pool, "warm")
        yield pool


@pytest.fixture(scope="module")
def obeys() -> Iterator[VerifierPool]:
    with VerifierPool(Obeys(), workers=2, timeout=10.0, memory_limit=200 << 20) as pool:
        score(pool, "warm")
        yield pool


# -- async ----------------------------------------------------------------------------------------------------------------


def test_one_process_runs_as_many_async_calls_at_once_as_declared(waits: VerifierPool) -> None:
    scores = score(waits, *map(str, range(40)))
    assert [s.reason for s in scores] == [*map(str, range(40))]
    assert max(s.value or 0 for s in scores) == 8


def test_a_deadline_cancels_one_async_call_and_the_process_goes_on(waits: VerifierPool) -> None:
    processes, timeouts = waits.processes(), waits.timeouts
    scores = score(waits, "a", "forever", "b", "raise", "c")
    assert outcomes(scores) == ["score", "error", "score", "error", "score"]
    assert scores[1].reason == "timed out after 1 s; it was cancelled"
    assert scores[3].reason.startswith("KeyError: 'no such thing' at ")
    assert waits.processes() == processes and waits.timeouts == timeouts + 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("block", "timed out after 1 s; its process was killed"),
        ("stubborn", "timed out after 1 s; its process was killed"),
        ("exit", "the verifier process ended with exit code 3; it was replaced"),
        ("out", "the verifier process ended with exit code 4; it was replaced"),
    ],
)
def test_an_async_call_that_takes_its_process_along_costs_no_other_its_score(
    waits: VerifierPool, text: str, reason: str
) -> None:
    scores = score(waits, "a", "b", text, "c", "d")
    assert outcomes(scores) == ["score", "score", "error", "score", "score"]
    assert scores[2].reason == reason


def test_a_sum_with_an_async_term_runs_at_once_too() -> None:
    both = weighted_sum([("w", 1.0, Waits()), ("e", 100.0, ExactVerifier())])
    with VerifierPool(both, workers=1, timeout=5.0) as pool:
        scores = score(pool, *["42"] * 16)
    assert max(s.parts["w"] for s in scores) == 8 and all(s.parts["e"] == 1.0 for s in scores)


# -- batches --------------------------------------------------------------------------------------------------------------


def test_answers_go_to_a_batch_verifier_together() -> None:
    with VerifierPool(Batch(), workers=1, timeout=5.0) as pool:
        assert [s.value for s in score(pool, *"abcdefghij")] == [4, 4, 4, 4, 4, 4, 4, 4, 2, 2]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hang", "timed out after 0.5 s; its process was killed"),
        ("exit", "the verifier process ended with exit code 3; it was replaced"),
        ("raise", "KeyError: 'no such thing' at "),
    ],
)
@pytest.mark.parametrize(
    "verifier", [Batch(), pytest.param(AsyncBatch(), marks=pytest.mark.slow)], ids=["sync", "async"]
)
def test_a_bad_answer_in_a_batch_costs_no_other_its_score(verifier: Batch, text: str, reason: str) -> None:
    with VerifierPool(verifier, workers=1, timeout=0.5) as pool:
        scores = score(pool, "a", "b", text, "c", "d", "e", "f", "g")
    assert outcomes(scores) == ["score"] * 2 + ["error"] + ["score"] * 5
    assert scores[2].reason.startswith(reason)


def test_a_batch_with_too_few_verdicts_is_judged_one_by_one() -> None:
    with VerifierPool(Batch(), workers=1, timeout=5.0) as pool:
        assert [s.value for s in score(pool, "a", "short", "b", "c")] == [1.0, 1.0, 1.0, 1.0]


@pytest.mark.slow
def test_an_async_batch_is_cancelled_at_its_deadline_and_judged_one_by_one() -> None:
    with VerifierPool(AsyncBatch(), workers=1, timeout=0.5) as pool:
        scores = score(pool, "a", "sleep", "b")
        assert outcomes(scores) == ["score", "error", "score"] and "it was cancelled" in scores[1].reason


# -- streams and threads --------------------------------------------------------------------------------------------------


def test_a_stream_is_in_order_and_reads_no_further_than_asked(obeys: VerifierPool) -> None:
    read = 0

    def answers() -> Iterator[tuple[Prompt, str]]:
        nonlocal read
        for read in range(1, 301):
            yield PROMPT, "slow" if read % 100 == 1 else "pid" if read % 2 else "a"

    for given, verdict in enumerate(obeys.stream(answers(), ahead=16)):
        assert read <= given + 1 + 16
        assert (verdict.value == 0.5) == (given % 100 == 0 or given % 2 == 1)
    assert given == 299 and read == 300


def test_an_endless_stream_may_be_left_and_its_generators_fault_is_the_callers(obeys: VerifierPool) -> None:
    def endless() -> Iterator[tuple[Prompt, str]]:
        while True:
            yield PROMPT, "a"

    def broken() -> Iterator[tuple[Prompt, str]]:
        yield PROMPT, "a"
        raise LookupError("no more rows")

    stream = obeys.stream(endless())
    assert [next(stream).value for _ in range(10)] == [0.5] * 10
    stream.close()  # type: ignore[attr-defined]
    with pytest.raises(LookupError, match="no more rows"):
        list(obeys.stream(broken()))
    assert outcomes(score(obeys, "a", "b")) == ["score", "score"]
    assert list(obeys.stream([])) == []


def test_a_short_call_does_not_wait_for_a_long_one(obeys: VerifierPool) -> None:
    begun, over = threading.Event(), threading.Event()
    judged = 0

    def long() -> None:  # 200 answers are in the pool at any time: 20 s of work for its two processes
        nonlocal judged
        stream = obeys.stream(((PROMPT, "slow") for _ in range(2000)), ahead=200)
        for judged, _ in enumerate(stream, 1):  # noqa: B007
            begun.set()
            if over.is_set():
                break
        stream.close()  # type: ignore[attr-defined]

    thread = threading.Thread(target=long)
    thread.start()
    assert begun.wait(60)
    before = judged
    score(obeys, *["slow"] * 2)
    meanwhile = judged - before
    over.set()
    thread.join(60)
    assert not thread.is_alive()
    assert meanwhile < 100, "a call that waits its turn behind the long one sees 200 of its answers go by"


def hang_in_a_thread(pool: VerifierPool) -> tuple[threading.Thread, list[str]]:
    """A call whose answer is with a process and never comes back, and the errors that it raises."""
    faults: list[str] = []

    def call() -> None:
        try:
            score(pool, "hang")
        except RolloutError as error:
            faults.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    assert wait_until(lambda: judging(pool))
    return thread, faults


def test_closing_while_another_thread_waits_is_an_error_there_and_no_verdict() -> None:
    pool = VerifierPool(Obeys(), workers=1, timeout=60.0)
    thread, faults = hang_in_a_thread(pool)
    pool.close()
    thread.join(timeout=60)
    assert faults == ["the verifier pool was closed while it was judging"]


def test_a_fault_of_the_pool_itself_is_a_sentence_and_the_next_call_works() -> None:
    with VerifierPool(Obeys(), workers=1, timeout=60.0) as pool:
        thread, faults = hang_in_a_thread(pool)
        assert pool._crew is not None
        pool._crew._selector.close()  # as if the system had taken it
        pool._crew._desk.wake()
        thread.join(timeout=60)
        assert len(faults) == 1
        assert re.fullmatch(r"the verifier pool failed: .*; this is a fault of rlkit", faults[0])
        assert outcomes(score(pool, "a")) == ["score"]


def test_a_pool_works_in_a_fork_of_its_owner_and_the_owner_keeps_its_own(obeys: VerifierPool) -> None:
    mine = {s.value for s in score(obeys, *["pid"] * 10)}
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            theirs = {s.value for s in score(obeys, *["pid"] * 10)}
            os.write(write, b"y" if theirs and not theirs & mine else b"n")
            obeys.close()
        finally:
            os._exit(0)
    assert os.read(read, 1) == b"y"
    os.waitpid(child, 0)
    assert {s.value for s in score(obeys, *["pid"] * 10)} & mine


def in_spawned(queue: "multiprocessing.Queue[list[str]]") -> None:
    """In a process of its own, from a thread that is not the main one."""

    def judge() -> None:
        with VerifierPool(Obeys(), workers=1, timeout=0.5) as pool:
            queue.put(outcomes(score(pool, "a", "hang", "b")))

    thread = threading.Thread(target=judge)
    thread.start()
    thread.join()


@pytest.mark.slow
def test_a_pool_works_in_a_thread_of_a_spawned_process() -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=in_spawned, args=(queue,))
    process.start()
    assert queue.get(timeout=60) == ["score", "error", "score"]
    process.join(timeout=30)
    assert process.exitcode == 0


@pytest.mark.slow
def test_a_pool_works_in_a_ray_task_and_in_a_ray_actor() -> None:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)

    def judge() -> list[str]:
        with VerifierPool(Obeys(), workers=1, timeout=0.5) as pool:
            return outcomes(score(pool, "a", "hang", "b"))

    class Owner:
        def __init__(self) -> None:
            self.pool = VerifierPool(Obeys(), workers=1, timeout=0.5)

        def judge(self) -> list[str]:
            return outcomes(score(self.pool, "a", "hang", "b"))

    try:
        owner = ray.remote(Owner).options(max_concurrency=2).remote()
        asked = [ray.remote(judge).remote(), owner.judge.remote(), owner.judge.remote()]
        assert ray.get(asked, timeout=120) == [["score", "error", "score"]] * 3
    finally:
        ray.shutdown()


# -- limits ---------------------------------------------------------------------------------------------------------------


def test_a_process_is_recycled_so_that_a_leak_stays_small() -> None:
    with VerifierPool(Obeys(), workers=1, timeout=5.0, recycle_after=10) as pool:
        before = score(pool, "leak")[0].value
        sizes = [s.value for s in score(pool, *["leak"] * 60)]
        assert before is not None and max(size or 0.0 for size in sizes) < before + (12 << 20)
        assert max(s.value or 0 for s in score(pool, *["seen"] * 40)) == 10
        assert pool.metrics()["verifier/restarts"] == 10


def test_memory_above_the_limit_is_an_error_of_that_answer_and_the_process_is_replaced(
    obeys: VerifierPool,
) -> None:
    scores = score(obeys, "a", "devour", "b", "seen")
    assert outcomes(scores) == ["score", "error", "score", "score"]
    assert re.search(r"^MemoryError at .*; judging may take 209,715,200 bytes", scores[1].reason)


def test_what_a_verifier_prints_without_end_is_cut_and_told_once(
    obeys: VerifierPool, capfd: pytest.CaptureFixture[str]
) -> None:
    assert outcomes(score(obeys, "scream", "a", "scream")) == ["score"] * 3
    told = "the verifier Obeys has printed 20,000 bytes; what else it prints is not shown"
    err = ""

    def has_told() -> bool:
        nonlocal err
        err += capfd.readouterr().err
        return told in err

    assert wait_until(has_told)
    score(obeys, "scream")
    err += capfd.readouterr().err
    assert len(err) < 25_000 and err.count(told) == 1


def test_an_answer_too_large_to_send_is_an_error_and_one_of_40_mb_is_judged(obeys: VerifierPool) -> None:
    scores = score(obeys, "a", "x" * 100_000_000, "y" * 40_000_000, "b")
    assert outcomes(scores) == ["score", "error", "score", "score"]
    assert scores[1].reason.endswith("bytes long, a verifier process takes at most 67,108,864")


def test_a_row_that_cannot_be_pickled_is_an_error_of_its_answer(obeys: VerifierPool) -> None:
    prompt = Prompt(id="odd", token_ids=[], row={"f": lambda: 1})
    scores = obeys.score([(PROMPT, "a"), (prompt, "b"), (PROMPT, "c")])
    assert outcomes(scores) == ["score", "error", "score"]
    assert "prompt odd cannot go to a verifier process" in scores[1].reason


def test_a_verifier_that_kills_its_parent_costs_one_answer(obeys: VerifierPool) -> None:
    scores = score(obeys, "a", "kill parent", "b", "c")
    assert outcomes(scores) == ["score", "error", "score", "score"]
    assert scores[1].reason.startswith("the parent of the verifier process was ended by SIGKILL")


def test_what_a_verifier_writes_in_its_working_directory_goes_with_its_process(tmp_path: Path) -> None:
    here = set(Path.cwd().iterdir())
    with VerifierPool(Obeys(), workers=1, timeout=5.0) as pool:
        (verdict,) = score(pool, "write")
        assert Path(verdict.reason, "left.txt").exists()
    assert not Path(verdict.reason).exists() and not Path(verdict.reason).parents[1].exists()
    assert set(Path.cwd().iterdir()) == here


@pytest.mark.slow
def test_a_verifier_with_threads_is_loaded_by_each_process() -> None:
    with VerifierPool(Threaded(), workers=2, timeout=10.0) as pool:
        assert [s.value for s in score(pool, *"abcd")] == [1.0] * 4


def test_a_step_is_told_speed_and_faults_since_the_last_one() -> None:
    with VerifierPool(Obeys(), workers=1, timeout=0.5) as pool:
        score(pool, "warm", "hang", "slow")
        first = pool.metrics()
        score(pool, "slow", "slow")
        second = pool.metrics()
    assert (first["verifier/timeouts"], first["verifier/restarts"], first["verifier/crashes"]) == (1, 1, 0)
    assert (second["verifier/timeouts"], second["verifier/restarts"]) == (0, 0)
    assert 0.2 <= second["verifier/judge_seconds"] and second["verifier/queue_seconds"] >= 0.1
    assert 0 < second["verifier/items_per_second"] <= 5 and 0 < second["verifier/busy"] <= 1


@pytest.mark.parametrize("sizes", [{"memory_limit": 0}, {"recycle_after": 0}])
def test_impossible_limits_are_told_at_once(sizes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="expected a positive number"):
        VerifierPool(ExactVerifier(), workers=1, timeout=1.0, **sizes)


def test_this_file_is_importable_by_the_processes() -> None:
    assert Obeys.__module__ in sys.modules
