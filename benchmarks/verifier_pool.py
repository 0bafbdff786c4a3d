"""Does the pool keep its speed, its memory and its count when one answer in a hundred hangs: 100,000 answers, with and without.

    python benchmarks/verifier_pool.py               both verifiers, 100,000 answers each, some minutes
    python benchmarks/verifier_pool.py --small       2,000 answers each
    python benchmarks/verifier_pool.py --hostile     the hostile set of tests/hostile.py too
    python benchmarks/verifier_pool.py --json        the last line is one JSON object

Each answer has 0.2 s. An answer that hangs (it sleeps) costs its process the deadline, which no pool can give back: `beyond` is the
time of the run with hangs without hangs * deadline / processes, and the loss is what that is above the time of the run without
them; once by the clock and once in cpu-seconds of all processes (loading apart), which other work on the machine does not lengthen. `VerifierPool.stream`
is handed a generator, so no list of answers is ever held. The math verifier reads the GSM8K completions in the folder that RLKIT_DATA
names, or sums that it makes itself.
Exits with 1 when an answer is not counted as what it is, when memory grows, or (not with --small) when the loss in cpu-seconds is above 10 %.
"""

import gzip
import json
import os
import platform
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from rlkit.rewards import MathVerifier, VerifierPool
from rlkit.types import Prompt, Score

HANG = "hang"
MAX_LOSS = 0.10
MAX_GROWTH_MIB = 20.0
"""Over a whole run, by the slope of a line: the allocator's own breathing is a few MiB."""


@dataclass(frozen=True)
class VerifierPoolRun:
    """100,000 answers of which 1 % hang."""

    items: int = 100_000
    workers: int = 2
    deadline: float = 0.2
    hangs: float = 0.01
    """Share of the answers."""
    verifier: Literal["both", "cheap", "math"] = "both"
    """Which one judges."""
    small: bool = False
    """2,000 answers."""
    hostile: bool = False
    """Also judge the hostile set, each answer beside one that is right."""
    json: bool = False
    """Print one JSON object as the last line."""


class Hanging:
    """Hangs where the answer says so."""

    def judge(self, prompt: Prompt, text: str) -> Score:
        raise NotImplementedError

    def __call__(self, prompt: Prompt, text: str) -> Score:
        if text == HANG:
            time.sleep(600)
        return self.judge(prompt, text)


class Cheap(Hanging):
    """Two thirds of a millisecond of work."""

    def judge(self, prompt: Prompt, text: str) -> Score:
        return Score(float(sum(i * i for i in range(10_000)) % 7 == len(text) % 7))


class Maths(Hanging):
    """The real one."""

    def __init__(self) -> None:
        self._verifier = MathVerifier()

    def warm_up(self) -> None:
        self._verifier.warm_up()

    def judge(self, prompt: Prompt, text: str) -> Score:
        return self._verifier(prompt, text)


@dataclass
class Watch:
    """Resident memory of this process and of its verifier processes, twice a second, MiB."""

    pool: VerifierPool
    seconds: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    """The largest of them."""

    def __enter__(self) -> "Watch":
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._stop.wait(0.5):
            self.seconds.append(time.monotonic() - began)
            self.own.append(resident_mib(os.getpid()))
            self.theirs.append(max(map(resident_mib, self.pool.processes()), default=0.0))


def main(args: VerifierPoolRun) -> int:
    num_items = 2000 if args.small else args.items
    answers = completions()
    both: dict[str, Hanging] = {"cheap": Cheap(), "math": Maths()}
    chosen = [verifier for name, verifier in both.items() if args.verifier in (name, "both")]
    rows = [row for verifier in chosen for row in measure(args, num_items, verifier, answers)]
    show(args, rows)
    counts = hostile_counts(args) if args.hostile else {}
    for said, count in counts.items():
        print(f"hostile set: {count} {said}")
    machine = f"{os.cpu_count()} cores, {platform.machine()}, python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    print(f"machine: {machine}")
    if args.json:
        print(json.dumps({"benchmark": "verifier_pool", "machine": machine, "rows": rows, "hostile": counts}))
    wrong = [
        row for row in rows if row["miscounted"] or (not args.small and row["growth_mib"] > MAX_GROWTH_MIB)
    ]
    slow = [row for row in rows if not args.small and row["cpu_loss"] > MAX_LOSS]
    return 1 if wrong or slow or any(said != "as it is" for said in counts) else 0


def measure(
    args: VerifierPoolRun, num_items: int, verifier: Hanging, answers: list[tuple[Prompt, str]]
) -> list[dict[str, Any]]:
    """One run without hangs, one with."""
    rows: list[dict[str, Any]] = []
    idle = cpu_seconds()
    with VerifierPool(verifier, args.workers, args.deadline) as pool:
        pool.score(answers[:200])
    loading = cpu_seconds() - idle
    for every in (0, round(1 / args.hangs)):
        cpu = cpu_seconds()
        with VerifierPool(verifier, args.workers, args.deadline) as pool:
            pool.score(answers[:200])
            pool.metrics()
            hanging, miscounted, outcomes = 0, 0, Counter[str]()
            began = time.monotonic()
            with Watch(pool) as watch:
                items = generated(answers, num_items, every)
                for index, score in enumerate(pool.stream(items)):
                    hangs = is_hang(index, every)
                    hanging += hangs
                    miscounted += (score.outcome == "error") != hangs
                    outcomes[score.outcome] += 1
            seconds = time.monotonic() - began
            metrics = pool.metrics()
        beyond = seconds - hanging * args.deadline / args.workers
        rows.append(
            {
                "verifier": type(verifier).__name__,
                "hangs": hanging,
                "seconds": seconds,
                "seconds_beyond": beyond,
                "loss": beyond / rows[0]["seconds"] - 1 if rows else 0.0,
                "cpu_seconds": cpu_seconds() - cpu - loading,
                "cpu_loss": (cpu_seconds() - cpu - loading) / rows[0]["cpu_seconds"] - 1 if rows else 0.0,
                "items_per_second": num_items / beyond,
                "restarts": int(metrics["verifier/restarts"]),
                "outcomes": dict(outcomes),
                "miscounted": miscounted + abs(num_items - outcomes.total()),
                **growth(watch),
            }
        )
    return rows


def cpu_seconds() -> float:
    """Of this process and of all that it has waited for, and they in turn."""
    return sum(os.times()[:4])


def generated(answers: list[tuple[Prompt, str]], num_items: int, every: int) -> Iterator[tuple[Prompt, str]]:
    for index in range(num_items):
        prompt, text = answers[index % len(answers)]
        yield prompt, HANG if is_hang(index, every) else text


def is_hang(index: int, every: int) -> bool:
    return bool(every) and index % every == every // 2


def growth(watch: Watch) -> dict[str, float]:
    """MiB over the run by a least-squares line, with half of its 95 % interval; the first fifth is left out (caches fill)."""
    start = len(watch.seconds) // 5
    x, y = np.array(watch.seconds[start:]), np.array(watch.own[start:])
    result = {"own_mib": max(watch.own, default=0.0), "process_mib": max(watch.theirs, default=0.0)}
    if len(x) < 10:
        return {**result, "growth_mib": 0.0, "growth_error_mib": 0.0}
    (slope, _), covariance = np.polyfit(x, y, 1, cov=True)
    span = float(x[-1] - x[0])
    return {
        **result,
        "growth_mib": slope * span,
        "growth_error_mib": 1.96 * float(covariance[0, 0]) ** 0.5 * span,
    }


def resident_mib(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0  # it has just ended


def completions() -> list[tuple[Prompt, str]]:
    """Graded completions that take no longer than an answer should; sums where there is no such file."""
    folder = os.environ.get("RLKIT_DATA")
    if folder is None:
        sums = [Prompt(id=str(i), token_ids=[], reference=str(2 * i + 1)) for i in range(2000)]
        return [(p, f"{p.id} + {p.id} + 1, so \\boxed{{{p.reference}}}") for p in sums]
    packed = gzip.decompress((Path(folder) / "graded_completions.jsonl.gz").read_bytes()).decode("utf-8")
    rows = [json.loads(line) for line in packed.split("\n") if line]
    rows = [row for row in rows if row["dataset"].startswith("GSM8K")]
    return [(Prompt(id=row["id"], token_ids=[], reference=row["gold"]), row["completion"]) for row in rows]


def hostile_counts(args: VerifierPoolRun) -> dict[str, int]:
    from tests.hostile import Verifier, cases, complaint, with_good_answers

    judged = with_good_answers(cases())
    with VerifierPool(Verifier(), args.workers, 10.0, memory_limit=500 << 20) as pool:
        scores = pool.score([(case.prompt, case.text) for case in judged])
    told = [complaint(case, score) for case, score in zip(judged, scores, strict=True)]
    for sentence in filter(None, told):
        print(sentence)
    return {"as it is": told.count(""), **({"otherwise": n} if (n := len(told) - told.count("")) else {})}


def show(args: VerifierPoolRun, rows: list[dict[str, Any]]) -> None:
    table = Table(title=f"{args.workers} processes, {args.deadline:g} s for an answer, from a generator")
    for column in (
        "verifier",
        "hang",
        "seconds",
        "beyond",
        "items / s",
        "loss",
        "cpu s",
        "cpu loss",
        "counted",
        "restarts",
        "MiB here",
        "growth",
        "MiB there",
    ):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["verifier"],
            str(row["hangs"]),
            f"{row['seconds']:.1f}",
            f"{row['seconds_beyond']:.1f}",
            f"{row['items_per_second']:,.0f}",
            f"{row['loss']:+.1%}" if row["hangs"] else "",
            f"{row['cpu_seconds']:.1f}",
            f"{row['cpu_loss']:+.1%}" if row["hangs"] else "",
            ", ".join(f"{count:,} {said}" for said, count in row["outcomes"].items())
            + (f", {row['miscounted']} WRONGLY" if row["miscounted"] else ""),
            str(row["restarts"]),
            f"{row['own_mib']:.0f}",
            f"{row['growth_mib']:+.1f} ± {row['growth_error_mib']:.1f}",
            f"{row['process_mib']:.0f}",
        )
    Console(width=150).print(table)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(VerifierPoolRun)))
