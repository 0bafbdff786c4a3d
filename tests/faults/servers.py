"""Servers killed and frozen at random while a run goes on: real vLLM servers, by `rlkit train`.

    python -m tests.faults.servers                      20 faults in 30 steps, two servers: a quarter of an hour on two cores
    python -m tests.faults.servers --faults 3 --steps 6
    python -m tests.faults.servers --async-steps 1      with the next step's rollouts beside each update

Each fault meets one server at random: any of its processes gets SIGKILL or SIGSTOP, at a random moment of an update or of the
sampling after it. At the end every step is there and every group was trained once; the log-probs of every step are the learner's;
each server writes what transformers writes with the learner's weights; no process is left. Exits with 1 when it is not so.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlkit.analysis.store import read_metrics
from tests.asked import PATIENCE, answers_of, expected, require_whole, train
from tests.fakes import wait_for
from tests.models import save_tiny_model
from tests.processes import members_of

SERVERS = 2
UPDATE_SECONDS, SAMPLE_SECONDS = 0.3, 1.0
"""About what an update and a step's sampling take: within them a fault comes."""


@dataclass
class Faults:
    """Which steps have a fault, and of what kind; deals them out as the run goes on."""

    dice: random.Random
    due: set[int]
    last: int
    done: Counter[str] = field(default_factory=Counter)
    answers: list[list[list[int]]] = field(default_factory=list)
    """Of each server, when all is over."""
    _timers: list[threading.Timer] = field(default_factory=list)

    def before(self, version: int, sampler: Any) -> None:
        if version in self.due and self.dice.random() < 0.5:
            self.due.discard(version)
            self._soon(sampler, "update", UPDATE_SECONDS)

    def after(self, version: int, sampler: Any) -> None:
        if version in self.due:
            self.due.discard(version)
            self._soon(sampler, "sampling", SAMPLE_SECONDS)
        if version == self.last:
            for timer in self._timers:
                timer.join()
            wait_for(lambda: sampler.fleet.size == SERVERS, PATIENCE)
            self.answers = [answers_of(life.server) for life in sampler.fleet._roster.lives]

    def _soon(self, sampler: Any, moment: str, seconds: float) -> None:
        how = signal.SIGSTOP if self.dice.random() < 0.3 else signal.SIGKILL
        timer = threading.Timer(
            self.dice.uniform(0, seconds), self._fault, (sampler, moment, how, self.dice.random())
        )
        timer.start()
        self._timers.append(timer)

    def _fault(self, sampler: Any, moment: str, how: signal.Signals, where: float) -> None:
        """One process of one server, one that starts included."""
        keepers = sorted(server.process.pid for server in sampler.fleet._roster._started)
        processes = [process for keeper in keepers for process in members_of(keeper)]
        if not processes:
            self.done["nobody there"] += 1
            return
        try:
            os.kill(processes[int(where * len(processes))], how)
        except ProcessLookupError:
            self.done["it had just ended"] += 1
            return
        self.done[f"{how.name} in {moment}"] += 1


def campaign(folder: Path, faults: int, steps: int, seed: int, async_steps: int = 0) -> Counter[str]:
    """Run it in this folder, which is the working directory. Fails where something is not as it should be."""
    save_tiny_model(folder / "model", seed=0, tied=True)
    dice = random.Random(seed)
    plan = Faults(dice, set(dice.sample(range(1, steps), min(faults, steps - 1))), steps)
    words = f"--steps {steps} --sampler vllm-server --sampler.replicas {SERVERS} --output-dir run"
    patience = "--sampler.deadline 20 --sampler.restarts 1000 --sampler.start-timeout 300 --sampler.kv-cache-memory 64"
    words += f" --async-steps {async_steps}"
    train(*words.split(), *patience.split(), before=plan.before, after=plan.after)
    require_whole(folder / "run", steps, async_steps)
    (saved,) = (folder / "run/checkpoints").glob("step-*")
    assert plan.answers == [expected(saved)] * SERVERS, "each server has the learner's weights"
    rows = read_metrics(folder / "run")
    counts = ("lost", "restarts", "retries", "catch_ups", "broken_updates")
    return plan.done + Counter({name: int(sum(row[f"sampler/{name}"] for row in rows)) for name in counts})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in (("faults", 20), ("steps", 30), ("seed", 0), ("async-steps", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        try:
            counts = campaign(Path(place), args.faults, args.steps, args.seed, args.async_steps)
        finally:
            os.chdir("/")
    print(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    print(
        f"{args.steps} steps, every group once; {SERVERS} servers write what the learner would; no process is left"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
