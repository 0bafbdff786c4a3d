"""What live tracking costs: the same run with and without it, taking turns.

    python benchmarks/tracking.py            the embedded model on task:chain, five runs of each, 20 steps
    python benchmarks/tracking.py --small    one run of each, 6 steps: to see that it runs
    python benchmarks/tracking.py --json     the last line is one JSON object

Both learn the same (tests/unit/test_tracking.py), so only seconds differ. A run's time is the sum of its steps; the ratio is
of runs of one turn. Exits with 1 when the median ratio is above 1.05.
"""

import json
import os
import platform
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from rlkit import build
from rlkit.analysis.store import read_metrics
from rlkit.commands.train import prepare, run
from rlkit.config import DataConfig, LogConfig, SamplerConfig, TrackConfig, TrainConfig

GOAL = 1.05
"""Seconds with tracking over seconds without, at most."""


@dataclass(frozen=True)
class Args:
    """Seconds of a run with tracking at its defaults over seconds without."""

    repeats: int = 5
    """Runs of each side."""
    steps: int = 20
    """Of one run; every fifth is tracked, and the first."""
    small: bool = False
    """One short run of each."""
    json: bool = False
    """Print one JSON object as the last line."""


def main(args: Args) -> int:
    repeats, steps = (1, 6) if args.small else (args.repeats, args.steps)
    sides = {"with": TrackConfig(), "without": TrackConfig(every=0)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    tracking: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        for turn in range(repeats):
            order = list(sides) if turn % 2 == 0 else list(sides)[::-1]
            for name in order:
                rows = timed(sides[name], steps, Path(place) / f"{name}-{turn}")
                seconds[name].append(sum(row["step_time"] for row in rows))
                if name == "with":
                    tracking.append(sum(row["timing_s/track"] for row in rows) / seconds[name][-1])
    ratios = [a / b for a, b in zip(seconds["with"], seconds["without"], strict=True)]
    table = Table("side", "seconds", "min .. max", title=f"{steps} steps, tracking at its defaults")
    for name, values in seconds.items():
        table.add_row(name, f"{statistics.median(values):.2f}", f"{min(values):.2f} .. {max(values):.2f}")
    Console().print(table)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, python {platform.python_version()}"
    ratio, share = statistics.median(ratios), statistics.median(tracking)
    print(
        f"with over without: {ratio:.3f} (turn by turn {min(ratios):.3f} .. {max(ratios):.3f}; goal {GOAL}); "
        f"timing_s/track is {share:.1%} of the steps; machine: {machine}"
    )
    if args.json:
        print(json.dumps({"benchmark": "tracking", "machine": machine, "ratios": ratios, "share": tracking}))
    return 0 if args.small or ratio <= GOAL else 1


def timed(track: TrackConfig, steps: int, folder: Path) -> list[dict[str, float]]:
    cfg = TrainConfig(
        data=DataConfig(name="task:chain"),
        algo=build.algo_config("grpo"),
        sampler=SamplerConfig(name="auto"),
        log=LogConfig(eval_prompts=1, show_every=0, save_every=0, tensorboard=False),
        track=track,
        steps=steps,
        output_dir=str(folder),
    )
    told, ready = prepare(cfg)
    if ready is None:
        raise SystemExit("\n".join(told.problems))
    run(ready, Console(quiet=True))
    return read_metrics(folder)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
