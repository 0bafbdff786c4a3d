"""What live tracking costs: two runs that learn the same, one of them tracked, take turns step by step.

    python benchmarks/tracking.py            the embedded model on task:chain, 20 blocks of five steps: about six minutes
    python benchmarks/tracking.py --small    two blocks: to see that it runs
    python benchmarks/tracking.py --json     the last line is one JSON object

Both learn the same, bit for bit (tests/unit/test_tracking.py), so only seconds differ. Each side is a process of its own; while one does a
step, the other is stopped (SIGSTOP), so that whatever else the machine does falls on both. A turn lasts from one line of metrics.jsonl
to the next, with everything in between: tables, histograms, garbage collection. A block is `--track.every` steps, of which one is tracked;
its ratio is the tracked side's seconds over the other's. The first block, with compilation and the probe, is not counted. CPU seconds are
of the same turns, all threads and child processes: other work on the machine changes them less. Exits with 1 when the median ratio is above 1.05.
"""

import json
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import psutil
import tyro
from rich.console import Console
from rich.table import Table

from rlkit import build
from rlkit.analysis.store import read_metrics
from rlkit.commands.train import prepare, run
from rlkit.config import DataConfig, LogConfig, SamplerConfig, TrackConfig, TrainConfig

GOAL = 1.05
"""Seconds with tracking over seconds without, at most."""
SIDES = {"with": TrackConfig(), "without": TrackConfig(every=0)}
BLOCK = TrackConfig().every
"""Steps of a block: one of them is tracked."""
PATIENCE = 600.0
"""Seconds for a step, the first one's start and compilation among them."""
DRAWS = 10_000
"""Of the bootstrap over blocks."""


@dataclass(frozen=True)
class Args:
    """Seconds of a run with tracking at its defaults over seconds without."""

    blocks: int = 20
    """Counted blocks of five steps, of each side."""
    sampler: str = "auto"
    """auto: vllm where it is installed; hf"""
    small: bool = False
    """Two blocks."""
    json: bool = False
    """Print one JSON object as the last line."""


@dataclass
class Side:
    """One run that is let go for a step at a time."""

    process: BaseProcess
    folder: Path
    size: int = 0
    """Bytes of its metrics.jsonl at the end of its last turn."""

    def turn(self) -> tuple[float, float]:
        """Let it do one step: seconds on the clock, and CPU seconds of all its threads and processes."""
        path, pid = self.folder / "metrics.jsonl", self.process.pid
        assert pid is not None
        spent, began = cpu_seconds(pid), time.perf_counter()
        os.kill(pid, signal.SIGCONT)
        while not path.is_file() or path.stat().st_size <= self.size:
            if not self.process.is_alive() or time.perf_counter() - began > PATIENCE:
                raise SystemExit(f"{self.folder.name}: no step came (exit code {self.process.exitcode})")
            time.sleep(0.002)
        seconds = time.perf_counter() - began
        os.kill(pid, signal.SIGSTOP)
        self.size = path.stat().st_size
        return seconds, cpu_seconds(pid) - spent

    def end(self) -> None:
        """Kill it with its verifiers: the last step need not be whole."""
        for child in (
            psutil.Process(self.process.pid).children(recursive=True) if self.process.is_alive() else ()
        ):
            child.kill()
        self.process.kill()
        self.process.join()


def main(args: Args) -> int:
    blocks = 2 if args.small else args.blocks
    with tempfile.TemporaryDirectory() as place:
        turns, share = alternated(args.sampler, (1 + blocks) * BLOCK, Path(place))
    counted = {name: np.array(some)[BLOCK:].reshape(blocks, BLOCK, 2).sum(1) for name, some in turns.items()}
    ratios_B2 = counted["with"] / counted["without"]
    heads = ("a step takes", "with", "without", "ratio", "95 %", "of a block")
    table = Table(*heads, title=f"{blocks} blocks of {BLOCK} steps: medians")
    told: dict[str, list[float]] = {}
    for column, name in enumerate(("seconds", "CPU seconds")):
        low, middle, high = told[name] = interval(ratios_B2[:, column])
        sides = (f"{np.median(counted[side][:, column]) / BLOCK:.3f}" for side in SIDES)
        spread = f"{ratios_B2[:, column].min():.3f} .. {ratios_B2[:, column].max():.3f}"
        table.add_row(name, *sides, f"{middle:.3f}", f"{low:.3f} .. {high:.3f}", spread)
    Console().print(table)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    print(f"goal {GOAL}; timing_s/track is {share:.1%} of the tracked side's steps; machine: {machine}")
    if args.json:
        raw = {name: some.tolist() for name, some in counted.items()}
        print(json.dumps({"benchmark": "tracking", "machine": machine, "ratios": told, "blocks": raw}))
    return 0 if args.small or told["seconds"][1] <= GOAL else 1


def interval(ratios_B: "np.typing.NDArray[np.float64]") -> list[float]:
    """The median with its 95 % bootstrap interval: low, median, high."""
    drawn = np.random.default_rng(0).integers(len(ratios_B), size=(DRAWS, len(ratios_B)))
    low, high = np.quantile(np.median(ratios_B[drawn], axis=1), (0.025, 0.975))
    return [float(low), float(np.median(ratios_B)), float(high)]


def alternated(sampler: str, steps: int, place: Path) -> tuple[dict[str, list[tuple[float, float]]], float]:
    """Seconds and CPU seconds of each step of each side, and the share of timing_s/track in the tracked side's step_time."""
    spawn = multiprocessing.get_context("spawn")
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in SIDES}
    sides: dict[str, Side] = {}
    try:
        for name, track in SIDES.items():
            process = spawn.Process(target=train, args=(track, sampler, steps + 1, place / name))
            process.start()
            sides[name] = Side(process, place / name)
            turns[name].append(sides[name].turn())  # it starts, and stops after its first step
        for step in range(2, steps + 1):
            order: Sequence[str] = list(SIDES) if step % 2 == 0 else list(SIDES)[::-1]
            for name in order:
                turns[name].append(sides[name].turn())
    finally:
        for side in sides.values():
            side.end()
    rows = read_metrics(place / "with")[BLOCK:]
    return turns, sum(row["timing_s/track"] for row in rows) / sum(row["step_time"] for row in rows)


def cpu_seconds(pid: int) -> float:
    """Of a process and its children so far."""
    parent = psutil.Process(pid)
    times = [process.cpu_times() for process in (parent, *parent.children(recursive=True))]
    return float(sum(t.user + t.system for t in times))


def train(track: TrackConfig, sampler: str, steps: int, folder: Path) -> None:
    cfg = TrainConfig(
        data=DataConfig(name="task:chain"),
        algo=build.algo_config("grpo"),
        sampler=SamplerConfig(name=sampler),
        log=LogConfig(eval_prompts=1, show_every=0, save_every=0),
        track=track,
        steps=steps,
        output_dir=str(folder),
    )
    told, ready = prepare(cfg)
    if ready is None:
        raise SystemExit("\n".join(told.problems))
    run(ready, Console(quiet=True))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
