"""kill -9 in the middle of everything a step does, again and again; at the end the run is the one that never stopped.

    python -m tests.faults.kills                                   30 kills for each of grpo, skpo x hf, vllm: some minutes
    python -m tests.faults.kills --algo grpo --sampler hf --kills 5
    python -m tests.faults.kills --async-steps 1         with the rollouts of the next step beside each update

A run of a very small random model is made twice: without a stop, and killed and resumed until it ends. Every process is one of
its own, forked from a nursery that has imported torch and vLLM and started nothing; it runs `rlkit train` and writes down in shared
memory which phases it is in. The campaign waits for the phase that is due, then for a random moment of it, and sends SIGKILL;
which phases a process was in when it died, the memory tells. Compared are the bytes of weights, optimizer, algorithm state and
rollouts, the metrics without timings, the evaluations, and the position. Exits with 1 when anything differs.
"""

import argparse
import hashlib
import json
import mmap
import os
import platform
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

PHASES = ("rollout", "update", "weight load", "checkpoint", "parquet write")
POOL = ("items_per_second", "queue_seconds", "judge_seconds", "busy")
CLOCK = ("timing_s/", "step_time", "tokens_per_second", *(f"verifier/{name}" for name in POOL))
"""Metrics that a clock makes."""
STEPS = 100
TURN = 2
"""Of a phase in a process, the one that ends it: the first tells how long it takes."""
PATIENCE = 600.0
"""Seconds for a phase to come, on a machine that is busy."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Before torch is imported: what is forked must not have had threads."""


def command(
    model: Path, run: Path, algo: str, sampler: str, steps: int = STEPS, async_steps: int = 0
) -> list[str]:
    small = (
        f"train --model {model} --algo {algo} --data task:chain --data.pool 6 --sampler {sampler} --reward "
        "tests.verdicts:Checksum --reward.workers 0 --num-generations 4 --prompts-per-step 4 --mini-batches 2 "
        "--max-completion-length 16 --max-prompt-length 64 --learning-rate 1e-3 --seed 5 --show-every 0 --no-tensorboard "
        f"--save-every 1 --save-total-limit 3 --eval-every 4 --eval-prompts 3 --steps {steps} --async-steps {async_steps} "
        f"--output-dir {run}"
    )
    return small.split()


class Marks:
    """In memory that outlives a process: how often each phase was entered and left, and when it was entered last (seconds)."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 24 * len(PHASES) + 8)
        self._gate = 24 * len(PHASES)

    def ask(self, phase: str, turn: int) -> None:
        """Let the process wait at this turn of the phase, until `go`: however busy the machine, the killer is there in time."""
        struct.pack_into("<HHH", self._memory, self._gate, PHASES.index(phase) + 1, turn, 0)

    @property
    def waits(self) -> bool:
        return struct.unpack_from("<HHH", self._memory, self._gate)[2] == 1

    def go(self) -> None:
        struct.pack_into("<HHH", self._memory, self._gate, 0, 0, 0)

    def clear(self) -> None:
        self._memory[:] = bytes(len(self._memory))

    def entered(self, phase: str) -> int:
        return int(struct.unpack_from("<q", self._memory, 24 * PHASES.index(phase))[0])

    def inside(self, phase: str) -> bool:
        at = 24 * PHASES.index(phase)
        entered, left = struct.unpack_from("<qq", self._memory, at)
        return bool(entered > left)

    def seconds(self, phase: str) -> float:
        """What the phase took last."""
        return float(struct.unpack_from("<d", self._memory, 24 * PHASES.index(phase) + 16)[0])

    @contextmanager
    def of(self, phase: str) -> Iterator[None]:
        at, began = 24 * PHASES.index(phase), time.perf_counter()
        entered, left = struct.unpack_from("<qq", self._memory, at)
        wanted, turn, _ = struct.unpack_from("<HHH", self._memory, self._gate)
        if wanted == PHASES.index(phase) + 1 and turn == entered + 1:
            struct.pack_into("<H", self._memory, self._gate + 4, 1)
            while self.waits:
                time.sleep(0.001)
        struct.pack_into("<q", self._memory, at, entered + 1)
        try:
            yield
        finally:
            struct.pack_into("<d", self._memory, at + 16, time.perf_counter() - began)
            struct.pack_into("<q", self._memory, at + 8, left + 1)

    def wrap(self, owner: Any, name: str, phase: str) -> None:
        """Note the phase around a function of rlkit, which does what it always does."""
        inner: Callable[..., Any] = getattr(owner, name)

        @wraps(inner)
        def noted(*args: Any, **kwargs: Any) -> Any:
            with self.of(phase):
                return inner(*args, **kwargs)

        setattr(owner, name, noted)


def note_phases(marks: Marks, sampler: str) -> None:
    """In a process that is about to train."""
    from rlkit.analysis.store import Store
    from rlkit.checkpoint import saver
    from rlkit.learner import Learner

    if sampler == "vllm":
        from rlkit.samplers.vllm_engine import VllmSampler as Sampler
    else:
        from rlkit.samplers.hf import HfSampler as Sampler  # type: ignore[assignment]
    marks.wrap(Sampler, "sample", "rollout")
    marks.wrap(Sampler, "load", "weight load")
    marks.wrap(Learner, "update", "update")
    marks.wrap(Store, "write_rollouts", "parquet write")
    marks.wrap(saver, "write", "checkpoint")


def forked(args: list[str], marks: Marks, sampler: str, log: Path) -> int:
    """A process of its own that runs `rlkit` with these arguments. Returns its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        from rlkit.cli import main

        note_phases(marks, sampler)
        code = main(args)
    finally:
        os._exit(code)


@dataclass
class Tally:
    """What a campaign did to one run."""

    hits: Counter[str] = field(default_factory=Counter)
    """Kills by the phases that the process was in; `between` for none."""
    kills: int = 0
    lost: list[str] = field(default_factory=list)
    """What the resumes said they passed over: nothing should be there."""


def killed_until_it_ends(
    model: Path,
    run: Path,
    algo: str,
    sampler: str,
    kills: int,
    seed: int,
    log: Path,
    steps: int = STEPS,
    async_steps: int = 0,
) -> Tally:
    """A run that is killed so many times and resumed, always in the phase that was hit least."""
    rng, marks, tally = random.Random(seed), Marks(), Tally()
    least = kills // (2 * len(PHASES))
    """Times that each phase must be hit, however many kills more that takes: a parquet file is written in a blink."""
    targets = list(PHASES)
    rng.shuffle(targets)
    while True:
        marks.clear()
        args = command(model, run, algo, sampler, steps, async_steps)
        if (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_size:
            args = ["train", "--resume", str(run)]
        ended = tally.kills >= kills and all(tally.hits[phase] >= least for phase in PHASES)
        if not ended:
            marks.ask(targets[-1], TURN)
        child = forked(args, marks, sampler, log)
        if ended:
            _, status = os.waitpid(child, 0)
            if status:
                raise SystemExit(f"the run failed:\n{log.read_text()[-3000:]}")
            return tally
        if not _kill_in(targets[-1], child, marks, rng):
            raise SystemExit(f"the run ended before {tally.kills + 1} kills:\n{log.read_text()[-3000:]}")
        hit = [phase for phase in PHASES if marks.inside(phase)] or ["between"]
        tally.kills += 1
        tally.hits.update(hit)
        print(f"{algo}, {sampler}: kill {tally.kills}, {' in '.join(hit)}", file=sys.stderr, flush=True)
        targets = sorted(PHASES, key=lambda phase: (tally.hits[phase], rng.random()), reverse=True)


def _kill_in(phase: str, child: int, marks: Marks, rng: random.Random) -> bool:
    """SIGKILL at a random moment of the phase; False: the process ended before."""
    until = time.monotonic() + PATIENCE
    while not marks.waits:
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            return False
        if time.monotonic() > until:
            raise SystemExit(f"{phase} never came")
        time.sleep(0.001)
    marks.go()
    while not marks.inside(phase) and marks.entered(phase) < TURN:
        pass
    time.sleep(rng.random() * 0.7 * marks.seconds(phase))  # of the turn before
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def hashes(run: Path, steps: int = STEPS) -> dict[str, str]:
    """Of everything that two equal runs share."""
    last = run / "checkpoints" / f"step-{steps:06d}"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in line.items() if not k.startswith(CLOCK)} for line in lines]
    state = json.loads((last / "rlkit/state.json").read_text())
    rollouts = sorted((run / "rollouts").glob("*"))
    tracks = sorted((run / "dynamics").rglob("*.parquet"))
    parts: dict[str, list[bytes]] = {
        "weights": [(last / "model.safetensors").read_bytes()],
        "optimizer": [(last / "rlkit/optimizer.safetensors").read_bytes()],
        "algorithm": [(last / "rlkit/algo.safetensors").read_bytes()],
        "rollouts that wait": [p.read_bytes() for p in sorted((last / "rlkit").glob("ahead.*"))],
        "generators": [(last / "rlkit/random.safetensors").read_bytes()],
        "position": [json.dumps(state, sort_keys=True).encode()],
        f"metrics of {len(lines)} steps": [json.dumps(metrics, sort_keys=True).encode()],
        f"rollouts, {len(rollouts)} files": [p.name.encode() + p.read_bytes() for p in rollouts],
        f"dynamics, {len(tracks)} files": [p.name.encode() + p.read_bytes() for p in tracks],
        "evaluations": [(run / "evaluations.jsonl").read_bytes()],
    }
    return {name: hashlib.sha256(b"".join(data)).hexdigest()[:16] for name, data in parts.items()}


def campaign(
    algo: str, sampler: str, kills: int, seed: int, folder: Path, steps: int = STEPS, async_steps: int = 0
) -> tuple[Tally, dict[str, str], dict[str, str]]:
    """The killed run's story, its hashes, and those of the run that never stopped."""
    from tests.models import save_tiny_model

    model, log = folder / "model", folder / "log"
    if not model.exists():
        save_tiny_model(model, seed=3)
    whole, parts = folder / f"{algo}-{sampler}-whole", folder / f"{algo}-{sampler}-killed"
    child = forked(command(model, whole, algo, sampler, steps, async_steps), Marks(), sampler, log)
    if os.waitpid(child, 0)[1]:
        raise SystemExit(f"the run failed:\n{log.read_text()[-3000:]}")
    tally = killed_until_it_ends(model, parts, algo, sampler, kills, seed, log, steps, async_steps)
    left = [p.name for p in (parts / "checkpoints").iterdir() if not p.name.startswith(("step-", "latest"))]
    tally.lost += left
    return tally, hashes(whole, steps), hashes(parts, steps)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="kill -9 a run again and again, and compare it with one that never stopped"
    )
    parser.add_argument("--algo", nargs="+", default=["grpo", "skpo"])
    parser.add_argument("--sampler", nargs="+", default=["hf", "vllm"])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=STEPS, help="of a run")
    parser.add_argument("--async-steps", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    imported(args.sampler)
    print(setting(args.sampler, args.seed), flush=True)
    wrong = 0
    for sampler in args.sampler:
        for algo in args.algo:
            began = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                tally, whole, killed = campaign(
                    algo, sampler, args.kills, args.seed, Path(folder), args.steps, args.async_steps
                )
            same = whole == killed and not tally.lost
            wrong += not same
            print(
                f"\n{algo}, {sampler}, async-steps {args.async_steps}: {tally.kills} x kill -9 in {args.steps} steps, {time.monotonic() - began:.0f} s"
            )
            print("  killed in: " + ", ".join(f"{p} {tally.hits[p]}" for p in (*PHASES, "between")))
            for name in whole:
                mark = "=" if whole[name] == killed.get(name) else "DIFFERS FROM"
                print(f"  {name:<24} {whole[name]} {mark} {killed.get(name)}")
            print(
                f"  {'equal, bit for bit' if same else 'NOT EQUAL'}{' left: ' + str(tally.lost) if tally.lost else ''}",
                flush=True,
            )
    return 1 if wrong else 0


def setting(samplers: list[str], seed: int) -> str:
    """Code, machine and libraries that the hashes are of."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    names = ["torch", "transformers", *(["vllm"] if "vllm" in samplers else [])]
    return (
        f"commit {commit}, seed {seed}, one thread per process\n"
        f"{os.cpu_count()} x {cpu[0].split(':')[1].strip() if cpu else platform.machine()}, "
        f"Linux {platform.release()}, python {platform.python_version()}, "
        + ", ".join(f"{name} {sys.modules[name].__version__}" for name in names)
    )


def imported(samplers: list[str]) -> None:
    """Everything heavy, before anything is forked; nothing is computed, so no thread has been started."""
    import accelerate  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    import rlkit.commands.train
    import rlkit.loop
    import rlkit.samplers.hf  # noqa: F401

    if "vllm" in samplers:
        from rlkit.samplers.vllm_engine import ENVIRONMENT

        os.environ.update(ENVIRONMENT)
        import vllm  # noqa: F401


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.faults.kills", *sys.argv[1:]],
            os.environ | ONE_THREAD,
        )
    sys.exit(main())
