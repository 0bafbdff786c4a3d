"""Seconds until held-out pass@1 reaches a target: TRL's GRPO, rlkit with transformers' generate, rlkit with vLLM.

    python benchmarks/time_to_reward.py                  the embedded model on task:chain, three seeds each
    python benchmarks/time_to_reward.py --seeds 0        one seed
    python benchmarks/time_to_reward.py --arms trl vllm  the two that the goal is about
    python benchmarks/time_to_reward.py --json           the last line is one JSON object

Same warm-started weights, prompts, verifier and hyper-parameters. Every run trains for the same number of steps in a
process of its own, runs take turns, and one sampler then answers the same held-out prompts with the weights that each
run kept every few steps: at temperature 1, as rlkit evaluates. Only the seconds of the steps count (sampling, verdicts,
learning, new weights for the sampler); opening and closing are shown apart. rlkit writes no rollouts and looks at no distributions
here, since TRL does not. `--async-steps 1` trains on answers of the weights
before, so it is shown beside the others and the goal is not about it.
"""

import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from sides import runs
from sides.runs import Arm, Plan, Run

from rlkit import build
from rlkit.evaluate import Evaluation, evaluate

TASK = "task:chain"
NAMES: dict[Arm, str] = {
    "trl": "TRL, generate",
    "hf": "rlkit, generate",
    "vllm": "rlkit, vLLM",
    "async": "rlkit, vLLM, --async-steps 1",
}
SWEEP, SWEEP_STEPS = (8, 16, 32, 64, 128, 256), 6
GOAL = 0.6
"""Of TRL's seconds, for rlkit with vLLM."""


@dataclass(frozen=True)
class Args:
    """Seconds to a held-out pass@1, TRL beside rlkit."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of each arm for each."""
    arms: tuple[Arm, ...] = ("trl", "hf", "vllm", "async")
    """Who trains; without vLLM installed the last two are left out."""
    target: float = 0.85
    """Held-out pass@1."""
    steps: int = 40
    """Of every run, 256 answers each."""
    every: int = 2
    """Steps between evaluations."""
    prompts: int = 500
    """Held-out prompts."""
    per_device: int | None = None
    """TRL's per_device_train_batch_size; none: the fastest, after a few steps with each."""
    json: bool = False
    """Print one JSON object as the last line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A run and what its weights scored."""

    run: Run
    pass_at_1: dict[int, float]
    """By the number of steps."""

    def seconds_at(self, step: float) -> float:
        """Seconds of the first `step` steps, a part of a step counted as that part."""
        seconds = [s.seconds for s in self.run.steps]
        whole = int(step)
        return sum(seconds[:whole]) + (seconds[whole] * (step - whole) if step > whole else 0.0)


def steps_to(target: float, pass_at_1: Mapping[int, float]) -> float | None:
    """Steps until the target is first met, on straight lines between evaluations; None: never.

    >>> steps_to(0.85, {0: 0.4, 10: 0.8, 20: 0.9}), steps_to(0.95, {0: 0.4, 10: 0.8})
    (15.0, None)
    """
    before: tuple[int, float] | None = None
    for step, value in sorted(pass_at_1.items()):
        if value >= target:
            if before is None:
                return float(step)
            share = (target - before[1]) / (value - before[1])
            return before[0] + share * (step - before[0])
        before = (step, value)
    return None


def main(args: Args) -> int:
    console = Console(width=110)
    arms = [arm for arm in args.arms if arm in ("trl", "hf") or build.sampler_name("auto") == "vllm"]
    task = build.make_task(TASK)
    assert task is not None
    plan = Plan(
        model=build.tiny_folder(task, console),
        task=TASK,
        steps=args.steps,
        every=args.every,
        trl_per_device=args.per_device or max(SWEEP),
        prompts=args.prompts,
    )
    if "trl" in arms and args.per_device is None:
        swept = sweep(plan)
        plan = replace(plan, trl_per_device=min(swept, key=lambda size: swept[size]))
        told = ", ".join(f"{size}: {seconds:.2f}" for size, seconds in swept.items())
        console.print(
            f"TRL's learner seconds per step by per_device_train_batch_size: {told}", highlight=False
        )
    curves: list[Curve] = []
    with tempfile.TemporaryDirectory() as folder, closing(Examiner(plan, Path(folder))) as examiner:
        for seed in args.seeds:
            for arm in arms:  # in turn, so that a slow hour of the machine falls on all alike
                run = in_a_process(plan, arm, seed, Path(folder) / f"{arm}-{seed}")
                curves.append(Curve(run=run, pass_at_1=examiner(run.weights)))
                console.print(line(curves[-1], args.target), highlight=False)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, python {platform.python_version()}"
    results = summarise(curves, arms, args.target)
    console.print(seconds_table(curves, arms, results, args))
    console.print(curve_table(curves, arms, plan.rollouts))
    console.print(words(results, args), soft_wrap=True, highlight=False)
    console.print(f"machine: {machine}", soft_wrap=True, highlight=False)
    if args.json:
        print(
            json.dumps(
                {
                    "benchmark": "time_to_reward",
                    "machine": machine,
                    "trl_per_device": plan.trl_per_device,
                    **results,
                }
            )
        )
    return 0


def in_a_process(plan: Plan, arm: Arm, seed: int, folder: Path) -> Run:
    """A fresh process: what one arm leaves in it (threads, allocators, vLLM) must not slow the next."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(runs.train, plan, arm, seed, folder).result()


def sweep(plan: Plan) -> dict[int, float]:
    """TRL's seconds of learning per step, by per_device_train_batch_size; each size in a process of its own."""
    short = replace(plan, steps=SWEEP_STEPS, every=SWEEP_STEPS)
    out = {}
    for size in (size for size in SWEEP if plan.rollouts % size == 0):
        with tempfile.TemporaryDirectory() as folder:
            run = in_a_process(replace(short, trl_per_device=size), "trl", 0, Path(folder) / "sweep")
        out[size] = min(
            step.learner for step in run.steps[1:]
        )  # the quickest: others on the machine only add
    return out


class Examiner:
    """One sampler, one judge, one list of held-out prompts for the weights of every run."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        start = runs.ready(plan, "auto", 0, folder / "examiner")
        self.cfg, self.held_out = start.cfg, start.held_out
        self.longest = self.cfg.max_completion_length or 0
        self.judge, self.pool = build.make_judge(self.cfg.reward, start.verifier, start.tokenizer)
        self.sampler = build.make_sampler(
            self.cfg.sampler,
            self.cfg.model,
            plan.model,
            max_tokens=self.cfg.max_prompt_length + self.longest,
            version=0,
        )
        self.known: dict[Path, float] = {}

    def __call__(self, weights: Mapping[int, Path]) -> dict[int, float]:
        return {step: self.score(path) for step, path in sorted(weights.items())}

    def score(self, path: Path) -> float:
        if path not in self.known:
            self.sampler.load(build.load_model(path, self.cfg.model).state_dict(), version=0)
            found: Evaluation = evaluate(
                self.sampler,
                self.judge,
                self.held_out,
                samples=1,
                max_tokens=self.longest,
                temperature=self.cfg.sampler.temperature,
                seed=0,
            )
            self.known[path] = found.pass_at_1
        return self.known[path]

    def close(self) -> None:
        self.sampler.close()
        self.pool.close()


# -- numbers ---------------------------------------------------------------------------------------------------------------


def summarise(curves: Sequence[Curve], arms: Sequence[Arm], target: float) -> dict[str, Any]:
    """Everything that is printed, and what the printed numbers came from."""
    rows: list[dict[str, Any]] = []
    for curve in curves:
        step = steps_to(target, curve.pass_at_1)
        steps = curve.run.steps
        rows.append(
            {
                "arm": curve.run.arm,
                "seed": curve.run.seed,
                "steps_to_target": step,
                "seconds_to_target": None if step is None else curve.seconds_at(step),
                "seconds_per_step": statistics.median(s.seconds for s in steps),
                "learner_per_step": statistics.median(s.learner for s in steps),
                "sampling_per_step": statistics.median(s.sampling for s in steps),
                "learner_share": sum(s.learner for s in steps) / sum(s.seconds for s in steps),
                "opening": curve.run.opening,
                "pass_at_1": curve.pass_at_1,
                "step_seconds": [s.seconds for s in steps],
            }
        )
    results: dict[str, Any] = {"target": target, "rows": rows, "arms": {}}
    for arm in arms:
        mine = [row for row in rows if row["arm"] == arm]
        reached = [row["seconds_to_target"] for row in mine if row["seconds_to_target"] is not None]
        # A run that never arrives is slower than any that does.
        padded = sorted(reached) + [float("inf")] * (len(mine) - len(reached))
        middle = statistics.median(padded)
        results["arms"][arm] = {
            "seconds_to_target": middle if middle < float("inf") else None,
            "seconds_per_step": statistics.median(row["seconds_per_step"] for row in mine),
            "learner_per_step": statistics.median(row["learner_per_step"] for row in mine),
            "sampling_per_step": statistics.median(row["sampling_per_step"] for row in mine),
            "learner_share": statistics.fmean(row["learner_share"] for row in mine),
            "opening": statistics.median(row["opening"] for row in mine),
        }
    results |= spread(curves, arms)
    base = results["arms"].get("trl", {})
    for arm in arms:
        for key, name in (("seconds_to_target", "ratio"), ("seconds_per_step", "ratio_per_step")):
            mine, theirs = results["arms"][arm][key], base.get(key)
            results[f"{name}_{arm}"] = mine / theirs if mine and theirs else None
    return results


def spread(curves: Sequence[Curve], arms: Sequence[Arm]) -> dict[str, float | None]:
    """How far the arms' mean curves are apart at most, and how far the seeds of one arm are (largest minus smallest)."""
    means, widths = 0.0, 0.0
    for step in curves[0].pass_at_1:
        values = [_values(curves, arm, step) for arm in arms]
        averages = [statistics.fmean(v) for v in values]
        means = max(means, max(averages) - min(averages))
        widths = max(widths, *(max(v) - min(v) for v in values))
    return {"gap_between_arms": means, "gap_between_seeds": widths if len(values[0]) > 1 else None}


def line(curve: Curve, target: float) -> str:
    step = steps_to(target, curve.pass_at_1)
    reached = "not reached" if step is None else f"{curve.seconds_at(step):.1f} s, {step:.1f} steps"
    last = curve.pass_at_1[max(curve.pass_at_1)]
    return f"{NAMES[curve.run.arm]:{max(len(name) for name in NAMES.values())}} seed {curve.run.seed}: {target} after {reached}; {last:.3f} at the end"


def seconds_table(
    curves: Sequence[Curve], arms: Sequence[Arm], results: Mapping[str, Any], args: Args
) -> Table:
    table = Table(title=f"seconds to a held-out pass@1 of {args.target}", box=SIMPLE, title_justify="left")
    columns = ("", *(f"seed {seed}" for seed in args.seeds), "median", "/ TRL")
    columns += ("s/step", "/ TRL", "sampling", "learner", "opening")
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    for arm in arms:
        mine = {row["seed"]: row["seconds_to_target"] for row in results["rows"] if row["arm"] == arm}
        total = results["arms"][arm]
        table.add_row(
            NAMES[arm],
            *(_number(mine[seed], 1) for seed in args.seeds),
            _number(total["seconds_to_target"], 1),
            _number(results[f"ratio_{arm}"], 2),
            f"{total['seconds_per_step']:.2f}",
            _number(results[f"ratio_per_step_{arm}"], 2),
            f"{total['sampling_per_step']:.2f}",
            f"{total['learner_per_step']:.2f} ({total['learner_share']:.0%})",
            f"{total['opening']:.0f}",
        )
    return table


def curve_table(curves: Sequence[Curve], arms: Sequence[Arm], rollouts: int) -> Table:
    table = Table(
        title="held-out pass@1 by answers sampled, mean (min .. max)", box=SIMPLE, title_justify="left"
    )
    table.add_column("answers", justify="right")
    for arm in arms:
        table.add_column(NAMES[arm])
    steps = sorted(curves[0].pass_at_1)
    for step in steps[:: -(-len(steps) // 12)]:
        cells = []
        for arm in arms:
            values = _values(curves, arm, step)
            cells.append(f"{statistics.fmean(values):.3f} ({min(values):.3f} .. {max(values):.3f})")
        table.add_row(f"{step * rollouts:,}", *cells)
    return table


def _values(curves: Sequence[Curve], arm: Arm, step: int) -> list[float]:
    return [curve.pass_at_1[step] for curve in curves if curve.run.arm == arm]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def words(results: Mapping[str, Any], args: Args) -> str:
    lines = [
        "seconds: of the steps alone, to where straight lines between evaluations cross the target. sampling: generation. learner: forward, backward, "
        "optimizer, and its share of the steps. opening: seconds outside the steps (imports, loading, starting vLLM, keeping "
        "weights). TRL: see benchmarks/sides/trl_side.py; its verdicts are computed in its process, rlkit's in two workers."
    ]
    seeds = results["gap_between_seeds"]
    told = "one seed" if seeds is None else f"seeds of one arm by up to {seeds:.3f}"
    lines.append(
        f"the arms' mean curves differ by up to {results['gap_between_arms']:.3f}; {told}; one score of {args.prompts} answers "
        f"has a standard error of up to {0.5 / args.prompts**0.5:.3f}"
    )
    if (ratio := results.get("ratio_vllm")) is not None:
        lines.append(
            f"rlkit with vLLM takes {ratio:.2f} of TRL's seconds; goal <= {GOAL}: {'met' if ratio <= GOAL else 'missed'}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
