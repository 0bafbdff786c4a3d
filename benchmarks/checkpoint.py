"""What a checkpoint costs: seconds and stall per GB, beside torch.distributed.checkpoint's own async save.

    python benchmarks/checkpoint.py            0.42 GB of weights and moments, three saves of each kind, about six minutes
    python benchmarks/checkpoint.py --small    a tiny model, one save: to see that it runs
    python benchmarks/checkpoint.py --json     the last line is one JSON object

A real learner makes updates of real batches. The stall is what an update and its save take longer than the median update without
one: the copy, and what the writing beside it takes from the two or so updates it goes on for. A step of RL also samples, so the
stall is given as seconds, and as a share of a step of which the update is `--update-share` (0.3: docs/results/time_to_reward.txt
has shares). Both write to the same disk and fsync; rlkit also checksums what it wrote and writes a model folder.
"""

import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from rlkit.algo_presets import GrpoConfig
from rlkit.algos.base import Sampling
from rlkit.algos.family import Family
from rlkit.batch import make_minibatches
from rlkit.checkpoint import Position, Saver
from rlkit.config import LearnerConfig
from rlkit.learner import Learner
from rlkit.tiny import make_tokenizer
from rlkit.types import Credit, Rollout, Segment

GOAL = 0.10
"""Of a step, at most."""
KINDS = ("rlkit, waited for", "rlkit, beside", "torch.distributed.checkpoint, async")


@dataclass(frozen=True)
class Args:
    """Seconds and stall of a checkpoint."""

    saves: int = 3
    """Of each kind, taking turns."""
    between: int = 1
    """Updates from one save to the next, its own among them."""
    tokens: int = 8192
    """Of one update: 32 for each of the 256 answers of a step with rlkit's defaults, which is little for a model of this size."""
    update_share: float = 0.3
    """Share of a step that is its update."""
    small: bool = False
    """A tiny model and one save."""
    json: bool = False
    """Print one JSON object as the last line."""


def make_learner(small: bool, tokenizer: PreTrainedTokenizerBase) -> Learner:
    """0.1 M or 37 M parameters."""
    hidden, layers = (64, 2) if small else (512, 12)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64,
    )
    torch.manual_seed(0)
    learner = Learner(
        Qwen2ForCausalLM(config).float(),
        LearnerConfig(),
        GrpoConfig(),
        learning_rate=1e-5,
        temperature=1.0,
        num_iterations=1,
        pad_id=0,
    )
    return learner


def updates_of(learner: Learner, tokens: int) -> Callable[[], float]:
    """An update of so many tokens, and the seconds it took."""
    length, prompt = 128, 8
    credits = []
    for i in range(max(2, tokens // length)):
        ids = [int(t) for t in torch.randint(10, 250, (length,), generator=torch.Generator().manual_seed(i))]
        rollout = Rollout(
            prompt_id=str(i // 2),
            token_ids=ids,
            logprobs=[-5.0] * length,
            segments=[
                Segment(kind="prompt", start=0, end=prompt),
                Segment(kind="completion", start=prompt, end=length),
            ],
            policy_version=0,
            finish_reason="stop",
        )
        # The learner's own, as a sampler's are: others make weights, and with them gradients, too small for normal floats,
        # which a CPU computes a hundred times slower.
        own = learner.logprobs([rollout])[0]
        rollout = replace(rollout, logprobs=[0.0] * prompt + own[-(length - prompt) :])
        advantages = [1.0 if i % 2 else -1.0] * (length - prompt)
        credits.append(
            Credit(
                rollout=rollout, advantages=advantages, weight=1 / (length - prompt), share=1.0, group=i // 2
            )
        )
    algo = Family(GrpoConfig(), Sampling(max_completion_length=length, temperature=1.0))

    def update() -> float:
        began = time.perf_counter()
        learner.update(make_minibatches(credits, 1, 10**6, pad_id=0), algo.loss)
        return time.perf_counter() - began

    return update


class Dcp:
    """The same tensors by torch's own async save."""

    def __init__(self, root: Path, learner: Learner) -> None:
        import torch.distributed as dist

        if not dist.is_initialized():
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        self.root, self.learner = root, learner

    def save(self, step: int) -> Callable[[], None]:
        import torch.distributed.checkpoint as dcp

        state = {
            "model": {name: tensor for _, name, tensor in self.learner.model_tensors()},
            "optimizer": self.learner.optimizer_tensors(),
        }
        future = dcp.async_save(state, checkpoint_id=str(self.root / str(step)))
        return lambda: future.result() and None


def main(args: Args) -> int:
    if args.small:
        args = replace(args, saves=1, tokens=256)
    tokenizer = make_tokenizer()
    learner = make_learner(args.small, tokenizer)
    update = updates_of(learner, args.tokens)
    update()  # makes the moments
    alone = [update() for _ in range(3)]
    gigabytes = 12 * sum(p.numel() for p in learner.model.parameters()) / 1e9
    stalls: dict[str, list[float]] = {kind: [] for kind in KINDS}
    calls: dict[str, list[float]] = {kind: [] for kind in KINDS}
    whole: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory(dir=".") as place:
        savers = {
            kind: Saver(Path(place) / kind[7:10], learner, tokenizer, keep=1, background=kind == KINDS[1])
            for kind in KINDS[:2]
        }
        theirs = Dcp(Path(place) / "dcp", learner)
        step = 0
        # The first turn makes memory and files warm, and is not counted.
        for turn in range(args.saves + 1):
            for kind in KINDS if turn % 2 else KINDS[::-1]:
                step += 1
                began = time.perf_counter()
                if kind in savers:
                    position = Position(step=step, updates=step, sampled_tokens=0, data={}, algo={})
                    savers[kind].save(position, wait=kind == KINDS[0])
                    finish = savers[kind].finish
                else:
                    finish = theirs.save(step)
                call = time.perf_counter() - began
                seconds = [update() for _ in range(args.between if turn else 1)]
                finish()
                done = time.perf_counter() - began
                if kind in savers:
                    done = savers[kind].seconds
                else:
                    shutil.rmtree(theirs.root / str(step))
                alone += [update()]
                if turn:
                    calls[kind].append(call)
                    whole[kind].append(done)
                    stalls[kind].append(call + sum(seconds) - args.between * statistics.median(alone))
    return report(args, gigabytes, statistics.median(alone), calls, stalls, whole)


def report(
    args: Args,
    gigabytes: float,
    update: float,
    calls: dict[str, list[float]],
    stalls: dict[str, list[float]],
    whole: dict[str, list[float]],
) -> int:
    step = update / args.update_share
    table = Table(
        "kind", "call, s/GB", "stall, s/GB", "min .. max", "written after, s/GB", "stall of one step"
    )
    rows = {}
    for kind in KINDS:
        a, b, c = (statistics.median(x[kind]) for x in (calls, stalls, whole))
        rows[kind] = {"call": a, "stall": b, "written": c, "share": b / step}
        low, high = min(stalls[kind]) / gigabytes, max(stalls[kind]) / gigabytes
        table.add_row(
            kind,
            f"{a / gigabytes:.2f}",
            f"{b / gigabytes:.2f}",
            f"{low:.2f} .. {high:.2f}",
            f"{c / gigabytes:.2f}",
            f"{b / step:.1%}",
        )
    Console(width=120).print(table)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, python {platform.python_version()}"
    share = rows[KINDS[1]]["share"]
    print(
        f"{gigabytes:.2f} GB of weights and moments, {args.saves} saves of each; an update takes {update:.2f} s, a step with it "
        f"{step:.2f} s; goal: beside, at most {GOAL:.0%} of the step that saves; machine: {machine}"
    )
    if args.json:
        print(
            json.dumps(
                {
                    "benchmark": "checkpoint",
                    "machine": machine,
                    "gigabytes": gigabytes,
                    "update": update,
                    "kinds": rows,
                }
            )
        )
    return 0 if args.small or share <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
