"""What --async-steps gives and what it costs: seconds of a step, and reward after equal samples by age of the answers.

    python benchmarks/overlap.py                    both parts, about ten minutes on two cores
    python benchmarks/overlap.py --parts time       one of them
    python benchmarks/overlap.py --small            a few steps: to see that it runs
    python benchmarks/overlap.py --json             the last line is one JSON object

    time     a vLLM server pinned to one core, the learner to another: the step at 0, at 1, and at 1 with new weights for answers that are
             being written; goal: at 1 at most 1.10 of the longer of generation (data, rollouts, verdicts) and training (credit, update,
             new weights), both as they are at 0, side by side
    reward   the embedded model on task:chain, the same number of answers each: 0, 1 and 4 steps old, with and without correction

The runs are those of `rlkit train`, each in a process of its own, and their numbers are those of metrics.jsonl. Runs of `time` take turns, which
begins is turned round every time. The generating model is a random Qwen2 of 9 million parameters. Exits with 1 when the goal is missed.
"""

import json
import multiprocessing
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from sides.parts import asked_parts

PARTS = ("time", "reward")
GOAL = 1.10
"""Of the longer of generation and training, for a step with --async-steps 1."""
GENERATION = ("timing_s/data", "timing_s/sample", "timing_s/verify")
TRAINING = ("timing_s/credit", "timing_s/train", "timing_s/load")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Of each process: it has one core."""
WARM_UP = 2
"""Steps of a run that are not counted."""
START_SECONDS = 300.0
TASK = "task:chain"
Row = Mapping[str, float]


@dataclass(frozen=True)
class Args:
    """Seconds of overlapped steps, and reward by age of the answers."""

    parts: str = ",".join(PARTS)
    """What is measured."""
    repeats: int = 5
    """Runs of each side of `time`."""
    steps: int = 24
    """Of each run of `reward`."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of each kind of `reward` for each."""
    small: bool = False
    """Few steps, one repeat, one seed."""
    json: bool = False
    """Print one JSON object as the last line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of `time`."""

    prompts: int = 8
    group: int = 4
    tokens: int = 48
    steps: int = 5 + WARM_UP


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of run of `reward`."""

    async_steps: int
    corrected: bool

    def __str__(self) -> str:
        if self.async_steps == 0:
            return "on-policy"
        old = f"{self.async_steps} step{'s' * (self.async_steps > 1)} old"
        return f"{old}, {'corrected' if self.corrected else 'as it is'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A kind of run of `time`."""

    async_steps: int
    in_flight: bool = False

    def __str__(self) -> str:
        return f"{self.async_steps}{', in flight' if self.in_flight else ''}"


ALONE, BESIDE = Side(async_steps=0), Side(async_steps=1)
SIDES = (ALONE, BESIDE, replace(BESIDE, in_flight=True))
KINDS = [Kind(async_steps=k, corrected=c) for k in (0, 1, 4) for c in ((True, False) if k else (True,))]


def main(args: Args) -> int:
    parts = asked_parts(args.parts, PARTS)
    console = Console(width=150)
    os.environ |= ONE_THREAD
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        if "time" in parts:
            found |= measure_time(args, Path(place), console)
        if "reward" in parts:
            found |= measure_reward(args, Path(place), console)
    ratio = found.get("step_over_longer")
    missed = ratio is not None and ratio > GOAL
    if ratio is not None:
        console.print(
            f"a step with --async-steps 1 takes {ratio:.2f} of the longer of generation and training; goal <= {GOAL}: "
            f"{'missed' if missed else 'met'}"
        )
    machine = f"{os.cpu_count()} cores, {platform.machine()}, python {platform.python_version()}"
    console.print(f"machine: {machine}", highlight=False)
    if args.json:
        print(json.dumps({"benchmark": "overlap", "machine": machine, **found}))
    return 1 if missed and not args.small else 0


def in_a_process(work: Any, *arguments: Any) -> Any:
    """A fresh process: no side inherits threads or memory of another."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(work, *arguments).result()


# -- seconds of a step ---------------------------------------------------------------------------------------------------


def measure_time(args: Args, place: Path, console: Console) -> dict[str, Any]:
    from rollout import make_model

    cores = sorted(os.sched_getaffinity(0))
    learner_core, server_core = cores[0], cores[1 % len(cores)]
    shape = Shape(prompts=2, group=2, tokens=8, steps=2 + WARM_UP) if args.small else Shape()
    model = make_model(place / "model", small=args.small)
    rows: dict[Side, list[list[Row]]] = {side: [] for side in SIDES}
    with server(model, place / "servers.jsonl", server_core) as announced:
        for turn in range(1 if args.small else args.repeats):
            for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
                folder = place / f"run-{turn}-{SIDES.index(side)}"
                rows[side].append(
                    in_a_process(timed_run, model, folder, announced, learner_core, shape, side)
                )
    return report_time(rows, len(cores), console)


@contextmanager
def server(model: Path, announced: Path, core: int) -> Iterator[Path]:
    """One vLLM server on one core; the file with its address."""

    def pinned() -> None:
        os.sched_setaffinity(0, {core})

    command = [sys.executable, "-m", "rlkit", "serve", "--model", str(model), "--announce", str(announced)]
    command += ["--max-model-len", "512", "--kv-cache-memory", "256"]
    log = announced.with_suffix(".log")
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, preexec_fn=pinned)
    try:
        until = time.monotonic() + START_SECONDS
        while not (announced.exists() and announced.read_text().strip()):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the server did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)
        yield announced
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def timed_run(model: Path, folder: Path, announced: Path, core: int, shape: Shape, side: Side) -> list[Row]:
    """The lines of metrics.jsonl of a run whose process has one core."""
    os.sched_setaffinity(0, {core})
    from rlkit import build
    from rlkit.analysis.store import read_metrics
    from rlkit.commands.train import prepare, run
    from rlkit.config import (
        DataConfig,
        LearnerConfig,
        LogConfig,
        ModelConfig,
        RewardConfig,
        SamplerConfig,
        TrackConfig,
        TrainConfig,
    )

    cfg = TrainConfig(
        model=ModelConfig(name=str(model), dtype="float32"),
        data=DataConfig(name=TASK, pool=64),
        reward=RewardConfig(name="sides.checksum_reward:Spread", workers=0),
        algo=replace(build.algo_config("grpo"), num_generations=shape.group),
        sampler=SamplerConfig(name="vllm-server", urls=f"@{announced}", in_flight_updates=side.in_flight),
        learner=LearnerConfig(learning_rate=1e-5),
        log=LogConfig(save_every=0, show_every=0, eval_every=0, rollouts=False, tensorboard=False),
        track=TrackConfig(every=0),
        steps=shape.steps,
        async_steps=side.async_steps,
        prompts_per_step=shape.prompts,
        max_prompt_length=96,
        max_completion_length=shape.tokens,
        output_dir=str(folder),
    )
    told, ready = prepare(cfg)
    if ready is None:
        raise SystemExit("\n".join(told.problems))
    outcome = run(replace(ready, held_out=[]), Console(quiet=True))
    return list(read_metrics(outcome.folder))


def report_time(rows: Mapping[Side, Sequence[Sequence[Row]]], cores: int, console: Console) -> dict[str, Any]:
    """Ratios run by run, each to the run at 0 of its own turn."""
    own = {
        side: [(_seconds(run, GENERATION), _seconds(run, TRAINING)) for run in runs]
        for side, runs in rows.items()
    }
    steps = {side: [_seconds(run, ("step_time",)) for run in runs] for side, runs in rows.items()}
    over = {
        side: [step / max(pair) for step, pair in zip(steps[side], own[ALONE], strict=True)] for side in rows
    }
    saved = {side: [b / a for a, b in zip(steps[ALONE], steps[side], strict=True)] for side in rows}
    table = Table(
        title="seconds, median of runs (each the median of its steps)", box=SIMPLE, title_justify="left"
    )
    for column in ("--async-steps", "generation", "training", "step", "over the longer", "over 0"):
        table.add_column(column, justify="left" if column == "--async-steps" else "right")
    for side, pairs in own.items():
        table.add_row(
            str(side),
            f"{statistics.median(generation for generation, _ in pairs):.2f}",
            f"{statistics.median(training for _, training in pairs):.2f}",
            _spread(steps[side]),
            _spread(over[side]) if side != ALONE else "",
            _spread(saved[side]) if side != ALONE else "",
        )
    console.print(table)
    pinned = cores > 1
    if not pinned:
        console.print("there is one core only, so nothing could go on beside anything", highlight=False)
    return {
        "step_over_longer": statistics.median(over[BESIDE]),
        "step_over_longer_in_flight": statistics.median(over[SIDES[-1]]),
        "step_over_on_policy": statistics.median(saved[BESIDE]),
        "own_cores": pinned,
        "runs": [
            {"side": str(side), "generation": pair[0], "training": pair[1], "step": step}
            for side, pairs in own.items()
            for pair, step in zip(pairs, steps[side], strict=True)
        ],
    }


def _seconds(run: Sequence[Row], names: Sequence[str]) -> float:
    return statistics.median(sum(row[name] for name in names) for row in run[WARM_UP:])


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} .. {max(values):.2f})"


# -- reward by age -------------------------------------------------------------------------------------------------------


def measure_reward(args: Args, place: Path, console: Console) -> dict[str, Any]:
    from rlkit import build

    task = build.make_task(TASK)
    if task is None:
        raise SystemExit(f"{TASK}: no such task")
    model = build.tiny_folder(task, console)
    steps, seeds = (3, (0,)) if args.small else (args.steps, args.seeds)
    jobs = [(kind, seed) for seed in seeds for kind in KINDS]
    context = multiprocessing.get_context("spawn")
    # One thread each, so as many at a time as there are cores; seconds are not compared here.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, max_tasks_per_child=1) as pool:
        futures = [
            pool.submit(learnt, model, place / f"reward-{i}", kind, seed, steps)
            for i, (kind, seed) in enumerate(jobs)
        ]
        ends = [future.result() for future in futures]
    return report_reward(list(zip(jobs, ends, strict=True)), steps, console)


def learnt(model: Path, folder: Path, kind: Kind, seed: int, steps: int) -> dict[str, float]:
    """What a run came to: means over its last quarter, and the held-out score of its last weights."""
    from rlkit import build
    from rlkit.analysis.store import read_metrics
    from rlkit.commands.train import prepare, run
    from rlkit.config import (
        DataConfig,
        LearnerConfig,
        LogConfig,
        ModelConfig,
        RewardConfig,
        SamplerConfig,
        TrackConfig,
        TrainConfig,
    )

    algo = replace(
        build.algo_config("grpo"), num_generations=8, importance_sampling_correction=kind.corrected
    )
    cfg = TrainConfig(
        model=ModelConfig(name=str(model)),
        data=DataConfig(name=TASK),
        reward=RewardConfig(workers=0),
        algo=algo,
        sampler=SamplerConfig(name="hf"),
        learner=LearnerConfig(learning_rate=2e-4),
        log=LogConfig(
            save_every=0, show_every=0, eval_every=0, eval_prompts=300, rollouts=False, tensorboard=False
        ),
        track=TrackConfig(every=0),
        steps=steps,
        async_steps=kind.async_steps,
        prompts_per_step=16,
        mini_batches=2,
        max_prompt_length=96,
        seed=seed,
        output_dir=str(folder),
    )
    told, ready = prepare(cfg)
    if ready is None:
        raise SystemExit("\n".join(told.problems))
    outcome = run(ready, Console(quiet=True))
    rows: list[Row] = list(read_metrics(outcome.folder))
    late = rows[-max(1, len(rows) // 4) :]
    if outcome.before is None or outcome.after is None:
        raise SystemExit(f"{TASK}: it has no held-out prompts")
    return {
        "reward": statistics.fmean(row["reward"] for row in rows),
        "late_reward": statistics.fmean(row["reward"] for row in late),
        "staleness": late[-1]["staleness"],
        # Of the trained answers: a step without any has none.
        "entropy": statistics.fmean([row["entropy"] for row in late if "entropy" in row] or [float("nan")]),
        "before": outcome.before.pass_at_1,
        "after": outcome.after.pass_at_1,
    }


def report_reward(
    ends: Sequence[tuple[tuple[Kind, int], dict[str, float]]], steps: int, console: Console
) -> dict[str, Any]:
    title = f"after {steps} steps of 128 answers and 2 updates each; mean of seeds (min .. max)"
    table = Table(title=title, box=SIMPLE, title_justify="left")
    for column in (
        "answers",
        "updates old",
        "reward, all steps",
        "last quarter",
        "held-out pass@1",
        "entropy",
    ):
        table.add_column(column, justify="left" if column == "answers" else "right")
    found = []
    for kind in KINDS:
        mine = [end for (other, _), end in ends if other == kind]
        table.add_row(
            str(kind),
            f"{mine[0]['staleness']:.0f}",
            *(_mean([end[name] for end in mine]) for name in ("reward", "late_reward", "after", "entropy")),
        )
        found.append({"async_steps": kind.async_steps, "corrected": kind.corrected, "seeds": mine})
    console.print(table)
    before = statistics.fmean(end["before"] for _, end in ends)
    console.print(f"held-out pass@1 before the first step: {before:.3f}", highlight=False)
    return {"reward": found}


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f} ({min(values):.2f} .. {max(values):.2f})"


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
