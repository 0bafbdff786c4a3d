"""The two stages of arXiv:2510.04028 in a language model: the embedded one, whose three styles of answering are the three roles.

    python benchmarks/two_stage.py                              grpo, grpo_n, skpo x 5 seeds, 25 minutes on one core
    python benchmarks/two_stage.py --seeds 0 --steps 20         a look
    python benchmarks/two_stage.py --figure two_stage.svg       the masses as a picture too

At the start `<now>` is common and mostly wrong, `<steps>` less common and mostly right, `<check>` rare and best; a right answer pays
0.4, and 1 when its last step was worked out again (benchmarks/sides/graded.py). Same start, prompts and number of steps for all;
SKPO learns at a third of the rate (benchmarks/sides/stages.py). Finished runs are kept in --folder: a campaign that was stopped goes on when it is started again.
"""

import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from sides import stages, stages_svg
from sides.stages import Plan, Record

from rlkit.analysis.passk import pass_at_k
from rlkit.analysis.stages import Detection

KS = (1, 8, 32)
ROWS = 9
"""Steps printed."""


@dataclass(frozen=True)
class Args:
    """Mass of the three roles over a run, its stages, and pass@k at the start, at the end of exploitation and at the end."""

    algos: tuple[str, ...] = ("grpo", "grpo_n", "skpo")
    """Algorithms."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One run of each algorithm for each."""
    steps: int = 160
    """Of every run."""
    every: int = 5
    """Steps between two looks."""
    prompts_per_step: int = 8
    """Each answered 8 times."""
    learning_rate: float = 3e-4
    """AdamW's."""
    prompts: int = 64
    """Held-out questions."""
    answers: int = 32
    """To each of them, in an exam."""
    folder: Path = Path("runs/two_stage")
    """Where finished runs are kept."""
    threads: int = 1
    """Of torch."""
    figure: Path | None = None
    """An SVG file for the masses over steps."""
    json: bool = False
    """Print one JSON object as the last line."""


def main(args: Args) -> int:
    torch.set_num_threads(args.threads)
    plan = Plan(
        steps=args.steps,
        every=args.every,
        prompts_per_step=args.prompts_per_step,
        learning_rate=args.learning_rate,
        prompts=args.prompts,
        answers=args.answers,
    )
    start, runs = stages.all_runs(plan, args.algos, args.seeds, args.folder, Console(stderr=True))
    told = summarise(start, runs)
    console = Console(width=132)
    console.print(opening(plan, start, len(args.seeds)), soft_wrap=True, highlight=False)
    for table in (mass_table(start, runs), stage_table(start, runs), pass_table(start, runs)):
        console.print(table)
    console.print("\n".join(verdicts(told)), soft_wrap=True, highlight=False)
    machine = f"{platform.machine()}, python {platform.python_version()}, {args.threads} thread"
    seconds = [sum(r["seconds"]) for each in runs.values() for r in each]
    print(
        f"machine: {machine}; {sum(seconds) / 60:.0f} minutes in all, {np.median(seconds):.0f} s a run (median)"
    )
    if args.figure is not None:
        args.figure.write_text(stages_svg.draw(runs, start["roles"]))
    if args.json:
        print(json.dumps({"benchmark": "two_stage", "machine": machine, "plan": asdict(plan), **told}))
    return 0


# -- numbers ---------------------------------------------------------------------------------------------------------------


def solved(exam: Record, which: str, k: int) -> float:
    """pass@k of an exam; which: `right` (any style) or `best` (paid in full)."""
    counts = np.asarray(exam[which])
    return float(pass_at_k(np.full_like(counts, exam["n"]), counts, min(k, exam["n"])).mean())


def step_of(turn: Detection, name: str) -> float | None:
    found = getattr(turn, name)
    return None if found is None else float(found.step)


def summarise(start: Record, runs: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """Everything the verdicts are read from, seed by seed."""
    out: dict[str, Any] = {"roles": start["roles"], "worth": start["exam"]["worth"], "algos": {}}
    for algo, records in runs.items():
        turns = [stages.turn_of(r, start["roles"]) for r in records]
        high, low, best = (start["roles"][role] for role in ("high", "low", "optimal"))
        out["algos"][algo] = {
            "t_max1": [step_of(t, "t_max1") for t in turns],
            "t_min2": [step_of(t, "t_min2") for t in turns],
            "t_cross": [step_of(t, "t_cross") for t in turns],
            "live": [None if r["live"] is None else r["live"]["turn/max1"] for r in records],
            "peak_high": [max(r["mass"][high]) for r in records],
            "least_best": [min(r["mass"][best]) for r in records],
            "start_best": start["mass"][best],
            "end": {name: [r["mass"][name][-1] for r in records] for name in (high, low, best)},
            "entropy": [r["entropy"] for r in records],
            "reward": [float(np.mean(r["reward"][-10:])) for r in records],
            "tokens": [r["tokens"] for r in records],
            "pass": {
                f"{which}@{k}": {
                    "start": solved(start["exam"], which, k),
                    "turn": [solved(r["exams"]["turn"], which, k) for r in records],
                    "end": [solved(r["exams"]["end"], which, k) for r in records],
                }
                for which in ("right", "best")
                for k in KS
            },
        }
        out["algos"][algo]["steps"] = records[0]["steps"]
    return out


def verdicts(told: Mapping[str, Any]) -> list[str]:
    """What of the paper's story these runs show, in sentences made of their numbers."""
    lines = []
    for algo, a in told["algos"].items():
        seeds = len(a["t_max1"])
        fell = sum(least < 0.98 * a["start_best"] for least in a["least_best"])
        lines.append(
            f"{algo}: exploitation ended in {_count(a['t_max1'])} of {seeds} runs{_at(a['t_max1'])}; the best style's mass was first "
            f"pushed below its start ({a['start_best']:.3f}) in {fell}, to {_range(a['least_best'])}; it was ahead for good in "
            f"{_count(a['t_cross'])}{_at(a['t_cross'])}"
        )
    if {"grpo", "grpo_n"} <= set(told["algos"]):
        lines.append(_compared(told["algos"]["grpo"], told["algos"]["grpo_n"]))
    return lines


def _compared(grpo: Mapping[str, Any], grpo_n: Mapping[str, Any]) -> str:
    """GRPO-N against GRPO: entropy on the way, and who finds the best style first."""
    a, b = np.asarray(grpo["entropy"]), np.asarray(grpo_n["entropy"])
    ahead = (b > a).all(0) if a.shape == b.shape else (b.min(0) > a.max(0))
    steps = [step for step, yes in zip(grpo["steps"], ahead, strict=True) if yes]
    kept = f"in all seeds at {len(steps)} of {a.shape[1]} looks" + (
        f" (steps {steps[0]} to {steps[-1]})" if steps else ""
    )
    firsts = [_at(x["t_cross"]).strip() or "never" for x in (grpo, grpo_n)]
    return f"first-token entropy of grpo_n above grpo's {kept}; the best style is ahead for good: grpo {firsts[0]}, grpo_n {firsts[1]}"


def _count(values: Sequence[float | None]) -> int:
    return sum(v is not None for v in values)


def _at(values: Sequence[float | None]) -> str:
    found = [v for v in values if v is not None]
    return f" at step {_range(found, '.0f')}" if found else ""


def _range(values: Sequence[float], how: str = ".3f") -> str:
    """`median (min .. max)`.

    >>> _range([0.1, 0.3, 0.2])
    '0.200 (0.100 .. 0.300)'
    """
    return f"{np.median(values):{how}} ({min(values):{how}} .. {max(values):{how}})"


# -- tables ----------------------------------------------------------------------------------------------------------------


def opening(plan: Plan, start: Record, seeds: int) -> str:
    parts = [
        f"{role} {style}: mass {start['mass'][style]:.3f}, worth {start['exam']['worth'][style]:.3f}"
        for role, style in start["roles"].items()
    ]
    return (
        f"{stages.TASK} with graded rewards; {plan.steps} steps of {plan.prompts_per_step} prompts x 8 answers, learning rate "
        f"{plan.learning_rate:g} ({', '.join(f'{name} {plan.of(name).learning_rate:g}' for name in stages.SHARE_OF_RATE)}), {seeds} seeds. At the start: {'; '.join(parts)}. Measured every {plan.every} steps on "
        f"{plan.prompts} held-out questions, exactly for mass and entropy, by {plan.answers} answers each for pass@k."
    )


def mass_table(start: Record, runs: Mapping[str, Sequence[Record]]) -> Table:
    table = Table(
        title="mass of the roles, first-token entropy in nats: mean over seeds (min .. max)",
        box=SIMPLE,
        title_justify="left",
    )
    columns = {f"{role} {style}": _mass_of(style) for role, style in start["roles"].items()}
    columns["entropy"] = lambda record: record["entropy"]
    for name in ("", "step", *columns):
        table.add_column(name, justify="left" if not name else "right")
    for algo, records in runs.items():
        steps = records[0]["steps"]
        printed = sorted({round(i * (len(steps) - 1) / (ROWS - 1)) for i in range(ROWS)})
        for i in printed:
            cells = []
            for read in columns.values():
                values = [read(r)[i] for r in records]
                cells.append(f"{np.mean(values):.3f} ({min(values):.3f} .. {max(values):.3f})")
            table.add_row(
                algo if i == printed[0] else "", f"{steps[i]:,}", *cells, end_section=i == printed[-1]
            )
    return table


def _mass_of(style: str) -> Callable[[Record], list[float]]:
    return lambda record: list(record["mass"][style])


def stage_table(start: Record, runs: Mapping[str, Sequence[Record]]) -> Table:
    table = Table(
        title="stages, each with its 95 % interval; live: what the run itself said at its last look",
        box=SIMPLE,
        title_justify="left",
    )
    for name in ("", "seed", "stage at the end", "t_min2", "t_max1", "t_cross", "live t_max1", "tokens"):
        table.add_column(name, justify="right" if name in ("seed", "tokens") else "left")
    for algo, records in runs.items():
        for record in records:
            turn = stages.turn_of(record, start["roles"])
            live, said = record["live"], "no styles in trees"
            if live is not None:
                at, low, high = (live[f"turn/max1{end}"] for end in ("", "_low", "_high"))
                said = "-" if at is None else f"{at:.0f} [{low:.0f} .. {high:.0f}]"
            points = [
                "-" if t is None else str(t).removeprefix("step ")
                for t in (turn.t_min2, turn.t_max1, turn.t_cross)
            ]
            seed = record["settings"]["seed"]
            table.add_row(
                algo if record is records[0] else "",
                str(seed),
                turn.stage,
                *points,
                said,
                f"{record['tokens']:,}",
                end_section=record is records[-1],
            )
    return table


def pass_table(start: Record, runs: Mapping[str, Sequence[Record]]) -> Table:
    table = Table(
        title="pass@k at the start, at the end of exploitation (else at the high style's peak) and at the end: mean over seeds ± standard deviation",
        box=SIMPLE,
        title_justify="left",
    )
    kinds = [(which, k) for which in ("right", "best") for k in KS]
    for name in ("", "when", "step", *(f"{which}@{k}" for which, k in kinds)):
        table.add_column(name, justify="left" if name in ("", "when") else "right")
    for algo, records in runs.items():
        table.add_row(algo, "start", "0", *(f"{solved(start['exam'], *kind):.2f}" for kind in kinds))
        for when, words in (("turn", "exploitation ends"), ("end", "end")):
            at = [r["turn_step"] if when == "turn" else r["steps"][-1] for r in records]
            cells = []
            for kind in kinds:
                values = [solved(r["exams"][when], *kind) for r in records]
                spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
                cells.append(f"{np.mean(values):.2f} ± {spread:.2f}")
            told = f"{min(at)}" if min(at) == max(at) else f"{min(at)} .. {max(at)}"
            table.add_row("", words, told, *cells, end_section=when == "end")
    return table


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
