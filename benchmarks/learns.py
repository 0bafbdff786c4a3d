"""Does it learn: each algorithm from the same warm start, several seeds, held-out pass@1 before and after.

    python benchmarks/learns.py                      grpo, grpo_n, skpo x 3 seeds, 300,000 sampled tokens each
    python benchmarks/learns.py --seeds 0 --json     one seed; the last line is one JSON object

Exits with 1 when a seed ends below its start.
"""

import json
import os
import platform
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.table import Table

from rlkit import build
from rlkit.commands.train import prepare, run
from rlkit.config import DataConfig, LogConfig, SamplerConfig, TrainConfig


@dataclass(frozen=True)
class Learns:
    """Held-out pass@1 of the embedded model before and after training, by algorithm and seed."""

    algos: tuple[str, ...] = ("grpo", "grpo_n", "skpo")
    """Algorithms to compare; all have the same learning rate, batch and warm start."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run each."""
    tokens: int = 300_000
    """Sampled tokens of one run."""
    data: str = "task:chain"
    """A procedural task."""
    prompts: int = 500
    """Held-out prompts."""
    sampler: Literal["auto", "vllm", "hf"] = "auto"
    """As in `rlkit train`."""
    json: bool = False
    """Print one JSON object as the last line."""


def main(args: Learns) -> int:
    console = Console(stderr=True)
    rows = []
    for seed in args.seeds:  # alternating, so that a slow hour of the machine falls on all algorithms alike
        for name in args.algos:
            rows.append({"algo": name, "seed": seed, **one(args, name, seed, console)})
            console.print(rows[-1])
    table = Table(title=f"{args.data}, {args.tokens:,} sampled tokens, {args.prompts} held-out prompts")
    for column in ("algorithm", "seeds", "before", "after", "min .. max", "gain", "seconds"):
        table.add_column(column)
    summary = {}
    for name in args.algos:
        mine = [r for r in rows if r["algo"] == name]
        before, after = ([r[k] for r in mine] for k in ("before", "after"))
        spread = statistics.stdev(after) if len(after) > 1 else 0.0
        gain = statistics.fmean(after) - statistics.fmean(before)
        summary[name] = {"before": statistics.fmean(before), "after": statistics.fmean(after), "std": spread}
        table.add_row(
            name,
            " ".join(str(r["seed"]) for r in mine),
            f"{statistics.fmean(before):.3f}",
            f"{statistics.fmean(after):.3f} ± {spread:.3f}",
            f"{min(after):.3f} .. {max(after):.3f}",
            f"{gain:+.3f}",
            f"{statistics.median(r['seconds'] for r in mine):.0f}",
        )
    machine = f"{os.cpu_count()} cores, {platform.machine()}, python {platform.python_version()}"
    Console(width=120).print(table)
    print(f"± is the standard deviation over seeds; seconds: median of the runs' steps; machine: {machine}")
    if args.json:
        print(json.dumps({"benchmark": "learns", "machine": machine, "summary": summary, "rows": rows}))
    return 1 if any(r["after"] < r["before"] for r in rows) else 0


def one(args: Learns, name: str, seed: int, console: Console) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        cfg = TrainConfig(
            algo=build.algo_config(name),
            data=DataConfig(name=args.data),
            sampler=SamplerConfig(name=args.sampler),
            steps=10_000,
            token_budget=args.tokens,
            max_prompt_length=96,
            seed=seed,
            output_dir=str(Path(folder) / "run"),
            log=LogConfig(
                save_every=0, show_every=0, eval_prompts=args.prompts, rollouts=False, tensorboard=False
            ),
        )
        plan, ready = prepare(cfg)
        if ready is None:
            raise SystemExit("\n".join(plan.problems))
        outcome = run(ready, console)
    return {
        "before": outcome.before.pass_at_1,
        "after": outcome.after.pass_at_1,
        "low": outcome.after.low,
        "high": outcome.after.high,
        "steps": outcome.steps,
        "tokens": outcome.sampled_tokens,
        "seconds": round(outcome.seconds, 1),
    }


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Learns)))
