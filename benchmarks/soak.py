"""A long run with everything on: do memory, open files and the time of a step stay what they are?

    python benchmarks/soak.py              2,000 steps of a random model of 0.8 million parameters, on one core
    python benchmarks/soak.py --small      30 steps: to see that it runs
    python benchmarks/soak.py --json       the last line is one JSON object

The run is `rlkit train` in a process of its own: tracking of every step's answers, a checkpoint every 25 steps, an evaluation every 50,
TensorBoard, rollouts as parquet, verifiers in two processes. From outside, twice a second, /proc is read for it and its children.
What was read from the tenth part of the run on is averaged in 20 blocks; a line is laid through the block means (least squares), and its
slope's 95 % interval is Student's of 18 degrees of freedom. Blocks, since neighbouring readings are alike.

Exits with 1 when something grows: when the interval lies above 0, and the growth over all steps is more than 2 % of the mean.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from scipy import stats

from rlkit.analysis.store import read_metrics
from rlkit.tiny import make_model, make_tokenizer

BLOCKS = 20
WARM = 0.1
"""Share of the run that is not looked at: allocators and caches fill."""
GROWTH = 0.02
"""Of the mean, over the whole run: what counts as growth when it is also beyond chance."""
POLL_SECONDS = 0.5
MIB = 2**20
REWARD = "def score(prompt, text):\n    return sum(map(ord, text)) % 7 / 6\n"
"""A random model is never right, and would learn nothing from a task."""


@dataclass(frozen=True)
class Args:
    """Slopes of memory, open files and step time over a long run."""

    steps: int = 2000
    """Of the run."""
    small: bool = False
    """30 steps."""
    json: bool = False
    """Print one JSON object as the last line."""


@dataclass(frozen=True)
class Reading:
    """What /proc told at one time."""

    step: int
    rss_mib: float
    children_mib: float
    files: int
    threads: int
    children: int


@dataclass(frozen=True)
class Slope:
    """Growth per 1,000 steps, with its 95 % interval."""

    name: str
    unit: str
    mean: float
    slope: float
    low: float
    high: float

    def grows(self, steps: int) -> bool:
        return self.low > 0 and self.slope * steps / 1000 > GROWTH * self.mean


def main(args: Args) -> int:
    steps = 30 if args.small else args.steps
    with tempfile.TemporaryDirectory() as place:
        readings, seconds = watched(steps, Path(place))
        rows = read_metrics(Path(place) / "run")
        kept = sum(1 for _ in (Path(place) / "run" / "rollouts").glob("*.parquet"))
    late = [r for r in readings if WARM * steps < r.step < steps]  # at the last step everything closes
    slopes = [
        slope(name, unit, [r.step for r in late], [getattr(r, field) for r in late])
        for name, unit, field in (
            ("memory of the run", "MiB", "rss_mib"),
            ("memory of its children", "MiB", "children_mib"),
            ("open files", "", "files"),
            ("threads", "", "threads"),
            ("child processes", "", "children"),
        )
    ]
    slow = [r for r in rows if r["step"] > WARM * steps]
    for name, key in (
        ("time of a step", "step_time"),
        ("of that, sampling", "timing_s/sample"),
        ("training", "timing_s/train"),
        ("tracking", "timing_s/track"),
    ):
        slopes.append(slope(name, "ms", [r["step"] for r in slow], [1000 * r[key] for r in slow]))
    grown = [s.name for s in slopes if s.grows(steps)]
    show(slopes, steps, len(rows), kept, len(readings), seconds, grown)
    if args.json:
        print(
            json.dumps(
                {"steps": steps, "seconds": seconds, "grown": grown, "slopes": [vars(s) for s in slopes]}
            )
        )
    return int(bool(grown) or len(rows) != steps or kept != steps)


def watched(steps: int, place: Path) -> tuple[list[Reading], float]:
    """Run it, and read what it takes until it ends."""
    tokenizer = make_tokenizer()
    make_model(tokenizer, seed=0).save_pretrained(place / "model")
    tokenizer.save_pretrained(place / "model")
    (place / "uneven.py").write_text(REWARD)
    command = [
        *(sys.executable, "-m", "rlkit", "train", "--model", str(place / "model"), "--data", "task:chain"),
        *(
            "--reward",
            f"{place / 'uneven.py'}:score",
            "--sampler",
            "hf",
            "--steps",
            str(steps),
            "--prompts-per-step",
            "2",
            "--num-generations",
            "4",
        ),
        *(
            "--max-completion-length",
            "12",
            "--learning-rate",
            "1e-5",
            "--track.every",
            "1",
            "--track.share",
            "0.5",
        ),
        *("--log.save-every", "25", "--log.eval-every", "50", "--log.eval-prompts", "16"),
        *("--output-dir", str(place / "run")),
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    began = time.monotonic()
    readings: list[Reading] = []
    with (place / "said").open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=env)
        log = place / "run" / "metrics.jsonl"
        done, at = 0, 0
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            if log.exists():
                with log.open("rb") as file:
                    file.seek(at)
                    fresh = file.read()
                done, at = done + fresh.count(b"\n"), at + len(fresh)
            if done and (reading := read(process.pid, done)) is not None:
                readings.append(reading)
    if process.returncode:
        raise SystemExit(f"the run ended with {process.returncode}:\n{(place / 'said').read_text()[-3000:]}")
    return readings, time.monotonic() - began


def read(pid: int, step: int) -> Reading | None:
    """None: it has just ended."""
    try:
        below = descendants(pid)
        return Reading(
            step=step,
            rss_mib=rss_mib(pid),
            children_mib=sum(rss_mib(child) for child in below),
            files=len(os.listdir(f"/proc/{pid}/fd")),
            threads=len(os.listdir(f"/proc/{pid}/task")),
            children=len(below),
        )
    except (OSError, IndexError):
        return None


def descendants(pid: int) -> list[int]:
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def rss_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def slope(name: str, unit: str, steps: Sequence[float], values: Sequence[float]) -> Slope:
    """The line through the means of blocks, per 1,000 steps.

    >>> s = slope("x", "", list(range(100)), [2.0 + 0.001 * i for i in range(100)])
    >>> round(s.slope, 6), round(s.mean, 4)
    (1.0, 2.0495)
    """
    order = np.argsort(steps, kind="stable")
    x_N, y_N = np.asarray(steps, float)[order], np.asarray(values, float)[order]
    blocks = min(BLOCKS, len(x_N))
    x = np.array([part.mean() for part in np.array_split(x_N, blocks)])
    y = np.array([part.mean() for part in np.array_split(y_N, blocks)])
    if np.ptp(y) == 0:  # scipy's standard error of a constant is nan
        return Slope(name, unit, float(y[0]), 0.0, 0.0, 0.0)
    fit = stats.linregress(x, y)
    half = float(stats.t.ppf(0.975, max(1, blocks - 2)) * fit.stderr)
    return Slope(
        name,
        unit,
        float(y.mean()),
        1000 * float(fit.slope),
        1000 * (float(fit.slope) - half),
        1000 * (float(fit.slope) + half),
    )


def show(
    slopes: Sequence[Slope],
    steps: int,
    rows: int,
    kept: int,
    readings: int,
    seconds: float,
    grown: Sequence[str],
) -> None:
    console = Console(width=110)
    table = Table(
        title=f"{steps:,} steps with tracking, checkpoints, evaluation, TensorBoard and rollouts on"
    )
    for column in ("", "mean", "growth per 1,000 steps", "95 % interval", "% of the mean"):
        table.add_column(column, justify="left" if not column else "right")
    for s in slopes:
        table.add_row(
            f"{s.name}{f', {s.unit}' if s.unit else ''}",
            f"{s.mean:,.2f}",
            f"{s.slope:+.3f}",
            f"{s.low:+.3f} .. {s.high:+.3f}",
            f"{100 * s.slope / s.mean if s.mean else 0.0:+.2f}",
        )
    console.print(table)
    console.print(
        f"{rows:,} lines of metrics, {kept:,} files of rollouts, {readings:,} readings, {seconds:,.0f} s",
        highlight=False,
    )
    console.print(f"grows: {', '.join(grown)}" if grown else "nothing grows", highlight=False)
    console.print(
        f"command: python benchmarks/soak.py; {platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
