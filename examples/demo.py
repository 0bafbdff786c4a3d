"""`make demo`: warm-start the embedded model, train it with SKPO and with GRPO from the same start, compare.

Both runs have the same learning rate, batch, prompts and number of sampled tokens; rollouts are written by real vLLM where
it is installed. Ends with a table and runs/demo/summary.json.

    python examples/demo.py             about 300,000 sampled tokens each
    python examples/demo.py --short     a smoke test: it runs every part and learns next to nothing
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from rlkit import build
from rlkit.commands.train import Outcome, prepare, run
from rlkit.config import LogConfig, TrainConfig

T = TypeVar("T")
FOLDER = Path("runs/demo")
ALGORITHMS = ("skpo", "grpo")


@dataclass(frozen=True)
class Demo:
    """Train the embedded model on `task:chain` with SKPO and GRPO and show what each gained."""

    short: bool = False
    """Every part, but few tokens: for continuous integration."""
    tokens: int = 300_000
    """Sampled tokens of each algorithm, discarded segments included."""
    seed: int = 0
    """Of both runs."""
    picture: Path | None = None
    """Save what the terminal showed as an SVG (docs/demo.svg is made so)."""


def main(demo: Demo) -> None:
    console, began = Console(width=100, record=demo.picture is not None), time.perf_counter()
    tokens, held_out = (15_000, 100) if demo.short else (demo.tokens, 500)

    task = build.make_task("task:chain")
    assert task is not None
    with_seconds(console, "warm start (kept for the next time)", lambda: build.tiny_folder(task, console))
    outcomes: dict[str, Outcome] = {}
    for name in ALGORITHMS:
        cfg = TrainConfig(
            algo=build.algo_config(name),
            steps=10_000,
            token_budget=tokens,
            max_prompt_length=64,
            seed=demo.seed,
            output_dir=str(FOLDER / name),
            log=LogConfig(save_every=0, show_every=40, eval_prompts=held_out),
        )
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        plan, ready = prepare(cfg)
        if ready is None:
            raise SystemExit("\n".join(plan.problems))
        outcomes[name] = with_seconds(console, name, lambda ready=ready: run(ready, console))

    seconds = time.perf_counter() - began
    console.print(table(outcomes))
    summary = {
        "before": outcomes["skpo"].before.pass_at_1,
        **{name: outcome.after.pass_at_1 for name, outcome in outcomes.items()},
        "seconds": round(seconds, 1),
        "sampler": ready.cfg.sampler.name,
    }
    (FOLDER / "summary.json").write_text(json.dumps(summary) + "\n")
    console.print(f"{seconds:.0f} s in all; {FOLDER}/summary.json: {json.dumps(summary)}", soft_wrap=True)
    console.print(f"look:   tensorboard --logdir {FOLDER}")
    console.print(
        f"read:   {FOLDER}/skpo/metrics.jsonl, {FOLDER}/skpo/rollouts/ (parquet), {FOLDER}/skpo/config.toml"
    )
    if demo.picture is not None:
        console.save_svg(str(demo.picture), title="make demo")


def with_seconds(console: Console, phase: str, work: Callable[[], T]) -> T:
    began = time.perf_counter()
    console.rule(f"[bold]{phase}", align="left")
    result = work()
    console.print(f"[dim]{phase}: {time.perf_counter() - began:.0f} s[/dim]")
    return result


def table(outcomes: dict[str, Outcome]) -> Table:
    out = Table(title="held-out pass@1, with 95 % intervals", box=SIMPLE, padding=(0, 1))
    for column in ("algorithm", "before", "after", "gain", "tokens", "steps", "seconds"):
        out.add_column(column, justify="left" if column == "algorithm" else "right", no_wrap=True)
    for name, o in outcomes.items():
        gain = f"{o.after.pass_at_1 - o.before.pass_at_1:+.3f}"
        out.add_row(
            name, str(o.before), str(o.after), gain, f"{o.sampled_tokens:,}", str(o.steps), f"{o.seconds:.0f}"
        )
    return out


if __name__ == "__main__":
    main(tyro.cli(Demo))
