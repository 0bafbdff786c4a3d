"""One optimizer update of the same rollouts by rlkit's Learner and by TRL's GRPOTrainer: seconds, tokens/s, memory.

    python benchmarks/learner.py              three length mixes, five updates each side, and memory at V = 152,064
    python benchmarks/learner.py --small      every part in two minutes; its numbers mean nothing
    python benchmarks/learner.py --json       the last line is one JSON object

Both sides run on the CPU in float32, each in a process of its own, and take turns: same random model, same rollouts,
same rewards, GRPO without KL, AdamW. TRL is its real GRPOTrainer from rollouts to optimizer step, at the fastest of the
per_device_train_batch_size swept; rlkit runs at its defaults. Exits with 1 when the two did not compute the same update.
"""

import importlib.util
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from sides import updates
from sides.updates import Case, Job, Shape, Side, Update

MIX = {
    "equal": Case(name="equal lengths", num_groups=4, prompt_tokens=64, median=256),
    "longtail": Case(name="long tail", num_groups=8, prompt_tokens=64, median=128, sigma=1.0),
    "prefix": Case(name="long shared prefix", num_groups=4, prompt_tokens=512, median=128),
}
"""(a) and (b) with prompts of 64 tokens; (b) log-normal, sigma 1, cut at 1,024; (c) SKPO's [s, q] of 4 x |o|, where
computing every prefix once saves at most 40/12 = 3.3 times in the body at G = 8."""
GOALS = {
    "speed_equal": 1.0,
    "speed_longtail": 2.0,
    "speed_prefix": 2.5,
    "memory": 0.8,
    "memory_full_logits": 0.25,
}
"""At least (speeds, in TRL's seconds over ours) or at most (memory, ours over theirs)."""
SHAPE = Shape(
    vocab_size=4096, hidden_size=384, intermediate_size=1024, num_layers=4, num_heads=6, num_kv_heads=2
)
"""8 million parameters, which two cores update in seconds. The head has a fifth of the multiplications, between that of
Qwen2.5's 0.5B (28 %) and 7B (7 %)."""
WIDE = Shape(
    vocab_size=152_064, hidden_size=256, intermediate_size=512, num_layers=2, num_heads=4, num_kv_heads=2
)
"""Qwen2.5's vocabulary on a thin body: its memory is the head's."""
MEMORY_CASE = Case(name="memory", num_groups=1, prompt_tokens=8, median=256)
"""2,048 trained tokens, in one micro-batch on every side."""
SWEEP = (4, 8, 16, 32, 64)
SIDES: tuple[Side, ...] = ("rlkit", "trl", "trl full logits")
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3
"""Absolute; relative."""


@dataclass(frozen=True)
class Args:
    """Seconds, tokens/s and memory of one update, rlkit beside TRL."""

    repeats: int = 5
    """Timed updates of each side, after one that is not."""
    small: bool = False
    """Few tokens, a tiny model: to see that it runs."""
    json: bool = False
    """Print one JSON object as the last line."""


def main(args: Args) -> int:
    console, mix, shape, wide, memory_case = Console(width=120), MIX, SHAPE, WIDE, MEMORY_CASE
    if args.small:
        shape = replace(SHAPE, vocab_size=64, hidden_size=64, num_layers=1, num_heads=2, num_kv_heads=1)
        wide = replace(shape, vocab_size=2048)
        mix = {key: _tiny(case) for key, case in MIX.items()}
        memory_case = _tiny(MEMORY_CASE)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, python {platform.python_version()}"
    results: dict[str, Any] = {"benchmark": "learner", "machine": machine, "goals": GOALS}
    same = True
    for key, case in mix.items():
        swept = sweep(shape, case, (case.num_generations,) if args.small else SWEEP, console)
        best = min(swept, key=lambda size: swept[size])
        console.print(f"{case.name}: TRL's seconds by per_device_train_batch_size: {_swept(swept, best)}")
        row = compare(shape, case, best, args.repeats, console)
        results[key] = {**row, "sweep": swept, "per_device": best}
        results[f"speed_{key}"] = row["speed"]
        same &= row["same"]
        if key == "equal":
            silent = replace(case, name="half of the groups silent", silent_groups=case.num_groups // 2)
            results["silent"] = compare(shape, silent, best, args.repeats, console)
            same &= results["silent"]["same"]
    memory = {side: peak(wide, memory_case, side) for side in SIDES}
    results["memory_mib"] = memory
    ours, theirs, full = memory.values()
    if ours and theirs and full:
        results |= {"memory": ours / theirs, "memory_full_logits": ours / full}
    show_memory(memory, wide, memory_case, console)
    show_goals(results, console)
    console.print(f"machine: {machine}; Liger: {liger()}", soft_wrap=True)
    console.print(NOTES, soft_wrap=True)
    if args.json:
        print(json.dumps(results))
    return 0 if same else 1


NOTES = (
    "seconds: rlkit's Learner.minibatches and Learner.update; TRL's training steps of one update without generation, decoding, "
    "rewards, advantages and padding: forward, loss, backward, clipping, optimizer. TRL makes no pass for old log-probs here "
    "(one update per generation, no vLLM), nor does rlkit. Gradient checkpointing, on by default in TRL, is off; both sides' "
    "idle OpenMP threads sleep. loss: 0 at ratio 1, because advantages are centred; the gradients are compared number by number.\n"
    "TRL pads all answers of a generation to the longest, whatever the batch size, and without Triton its head scores prompts and "
    "padding too (on a GPU it would not).\n"
    "memory: peak RSS during an update above that before it, less gradients and AdamW's moments. TRL 1.16 has no setting for "
    "the size of its head's tiles (4,096 tokens x 32,768 words)."
)


def liger() -> str:
    found = "installed" if importlib.util.find_spec("liger_kernel") else "not installed"
    return f"{found}; not measured, its kernels are Triton's and need a GPU"


def _tiny(case: Case) -> Case:
    return replace(
        case,
        num_groups=2 if case.num_groups > 1 else 1,
        num_generations=4,
        prompt_tokens=case.prompt_tokens // 16 + 1,
        median=case.median // 16,
        cap=64,
    )


# -- processes that take turns ---------------------------------------------------------------------------------------------


class Worker:
    """A process that does a job's updates, one for each `turn`."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self.line, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, job), daemon=True)
        self.process.start()
        other.close()

    def turn(self) -> Update:
        """The next update. Raises ChildProcessError when the process died; it has said why."""
        try:
            self.line.send(None)
            update: Update = self.line.recv()
        except (EOFError, OSError) as error:
            self.process.join()
            raise ChildProcessError(
                f"the process ended with code {self.process.exitcode} before its update"
            ) from error
        return update

    def close(self) -> None:
        self.line.close()
        self.process.join(timeout=30)
        self.process.kill()


def _work(line: Connection, job: Job) -> None:
    # A GPU would be taken by one side's defaults and not the other's.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    updates.run(job, line.recv, line.send)


@contextmanager
def workers(*jobs: Job) -> Iterator[list[Worker]]:
    opened = [Worker(job) for job in jobs]
    try:
        yield opened
    finally:
        for worker in opened:
            worker.close()


# -- measurements ----------------------------------------------------------------------------------------------------------


def sweep(shape: Shape, case: Case, sizes: Sequence[int], console: Console) -> dict[int, float]:
    """TRL's seconds by per_device_train_batch_size: the quicker of two updates, after a small one."""
    first = replace(case, prompt_tokens=8, median=8, sigma=0.0)
    out = {}
    for size in (size for size in sizes if case.rollouts % size == 0):
        job = Job(side="trl", shape=shape, cases=(first, case, case), per_device=size)
        try:
            with workers(job) as (worker,):
                worker.turn()
                out[size] = min(worker.turn().seconds, worker.turn().seconds)
        except ChildProcessError as error:  # all answers at once may not fit into memory
            console.print(f"TRL with per_device_train_batch_size {size}: {error}")
    return out


def compare(shape: Shape, case: Case, per_device: int, repeats: int, console: Console) -> dict[str, Any]:
    """Alternating updates of both sides; prints their rows and returns the numbers."""
    import torch

    sides = SIDES[:2]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{side}.pt" for side in sides]
        jobs = [
            Job(
                side=side,
                shape=shape,
                cases=(case,) * (repeats + 1),
                per_device=per_device,
                gradient_file=file,
            )
            for side, file in zip(sides, files, strict=True)
        ]
        with workers(*jobs) as opened:
            rounds = [[worker.turn() for worker in opened] for _ in range(repeats + 1)]
        ours, theirs = (torch.load(file, weights_only=True) for file in files)
    distance = float((ours - theirs).norm() / theirs.norm())
    ours_first, theirs_first = rounds[0]
    norms = ours_first.grad_norm / theirs_first.grad_norm - 1
    same = (
        abs(ours_first.loss - theirs_first.loss) <= LOSS_TOLERANCE
        and max(abs(norms), distance) <= GRADIENT_TOLERANCE
    )
    table = Table(title=f"{case.name}: {_words(case)}", box=SIMPLE, title_justify="left")
    for column in ("side", "seconds", "min .. max", "trained tokens/s", "peak MiB", "loss", "gradient norm"):
        table.add_column(column, justify="left" if column == "side" else "right")
    row: dict[str, Any] = {"gradient_distance": distance, "same": same}
    for side, first, *rest in zip(sides, *rounds, strict=True):
        seconds = [update.seconds for update in rest]
        middle = statistics.median(seconds)
        row[side] = {
            "seconds": seconds,
            "median": middle,
            "tokens_per_second": case.trained_tokens / middle,
            "peak_mib": first.peak_mib,
            "loss": first.loss,
            "grad_norm": first.grad_norm,
        }
        table.add_row(
            side,
            f"{middle:.2f}",
            f"{min(seconds):.2f} .. {max(seconds):.2f}",
            f"{case.trained_tokens / middle:,.0f}",
            _mib(first.peak_mib),
            f"{first.loss:+.1e}",
            f"{first.grad_norm:.5f}",
        )
    row["speed"] = row["trl"]["median"] / row["rlkit"]["median"]
    row["speeds"] = [theirs.seconds / ours.seconds for ours, theirs in rounds[1:]]
    console.print(table)
    console.print(
        f"rlkit is {row['speed']:.2f} x as fast (turn by turn {min(row['speeds']):.2f} .. {max(row['speeds']):.2f}); "
        f"gradients differ by {distance:.1e} of their norm: {'the same update' if same else 'NOT the same update'}\n"
    )
    return row


def peak(shape: Shape, case: Case, side: Side) -> float | None:
    """MiB of one update in a fresh process, after a small one that loads what is loaded once."""
    first = replace(case, prompt_tokens=2, median=2)
    job = Job(side=side, shape=shape, cases=(first, case), per_device=case.rollouts, trim=True)
    with workers(job) as (worker,):
        worker.turn()
        return worker.turn().peak_mib


# -- words -----------------------------------------------------------------------------------------------------------------


def _words(case: Case) -> str:
    lengths = sorted(case.lengths())
    spread = f"{lengths[0]} to {lengths[-1]}" if case.sigma else f"{lengths[0]}"
    return (
        f"{case.num_groups} prompts of {case.prompt_tokens} tokens x {case.num_generations} answers of {spread}, "
        f"{case.trained_tokens:,} trained tokens"
    )


def _swept(swept: dict[int, float], best: int) -> str:
    return ", ".join(f"{size}: {seconds:.2f}{'*' if size == best else ''}" for size, seconds in swept.items())


def _mib(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.0f}"


def show_memory(memory: Mapping[Side, float | None], shape: Shape, case: Case, console: Console) -> None:
    title = f"memory: V = {shape.vocab_size:,}, hidden {shape.hidden_size}, {case.trained_tokens:,} trained tokens"
    table = Table(title=title, box=SIMPLE, title_justify="left")
    for column in ("side", "peak MiB", "rlkit's share"):
        table.add_column(column, justify="left" if column == "side" else "right")
    ours = memory["rlkit"]
    for side, value in memory.items():
        name = "trl, its fused head" if side == "trl" else side
        table.add_row(name, _mib(value), f"{ours / value:.2f}" if ours and value else "")
    console.print(table)


def show_goals(results: dict[str, Any], console: Console) -> None:
    table = Table(title="goals", box=SIMPLE, title_justify="left")
    for column in ("key", "measured", "goal", ""):
        table.add_column(column)
    for key, goal in GOALS.items():
        if (value := results.get(key)) is None:
            continue
        least = key.startswith("speed")
        met = value >= goal if least else value <= goal
        table.add_row(key, f"{value:.2f}", f"{'>=' if least else '<='} {goal}", "met" if met else "missed")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
