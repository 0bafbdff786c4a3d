"""What rollouts cost: rlkit's samplers beside bare vLLM and transformers, servers beside one process, weights by every way.

    python benchmarks/rollout.py                                  everything, five turns
    python benchmarks/rollout.py --parts bare,hf                  some parts
    python benchmarks/rollout.py --small                          one turn of a little model: to see that it runs
    python benchmarks/rollout.py --json                           the last line is one JSON object

    bare      VllmSampler against vllm.LLM.generate, vLLM as it comes in a process of its own, the same ragged requests; goal 0.95
    hf        VllmSampler against transformers.generate (HfSampler's own loop is not timed: plain generate to the longest)
    servers   one vLLM server against two, and against the engine in this process
    weights   one update: in this process, by file, over gloo; and of an adapter of rank 16 alone
    skpo      SKPO's two phases against GRPO's one at equal sampled tokens; goal 1.10 (and with a barrier between them)
    affinity  prompt tokens read by two servers: each prompt on one of them, on any, and without a prefix cache

The sides of a part take turns in one run, in an order that is turned round every time; medians and the spread are shown.
A random Qwen2 of 9 million parameters in float32 on a CPU; on a GPU, in bfloat16. Engines and servers are started when the
first part needs them, and shared. Exits with 1 when a goal is missed.
"""

import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from sides.parts import asked_parts
from sides.rig import Load, Rig, dtype, fewer, make_model, tokens_of
from sides.turns import rates, spread, table_of, turns
from torch import Tensor
from transformers import AutoModelForCausalLM

from rlkit.adapted import AdaptedWeights, LowRank
from rlkit.samplers.transfer import Transfer
from rlkit.samplers.vllm_engine import VllmSampler
from rlkit.samplers.vllm_server import TransferName, VllmServerSampler
from rlkit.talks import Talk, in_rounds
from rlkit.types import Request

PARTS = ("bare", "hf", "servers", "weights", "skpo", "affinity")
GOALS = {"vs_bare_vllm": 0.95, "skpo_over_grpo": 1.10}
"""At least; at most."""


@dataclass(frozen=True)
class Args:
    """Tokens per second and seconds of rollouts, side by side."""

    parts: str = ",".join(PARTS)
    """What is measured."""
    repeats: int = 5
    """Turns of each side, after one that is not counted."""
    small: bool = False
    """One turn, few tokens."""
    json: bool = False
    """Print one JSON object as the last line."""


FULL = Load(prompts=48, group=8, prompt_tokens=32, shortest=8, longest=120)
SMALL = Load(prompts=4, group=2, prompt_tokens=32, shortest=4, longest=12)


def main(args: Args) -> int:
    parts = asked_parts(args.parts, PARTS)
    console = Console(width=120)
    repeats, load = (1, SMALL) if args.small else (args.repeats, FULL)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        with Rig(make_model(Path(place) / "model", small=args.small)) as rig:
            for part in parts:
                began = time.perf_counter()
                table, numbers = MEASURE[part](rig, load, repeats)
                found |= numbers
                console.print(table)
                console.print(f"({part}: {time.perf_counter() - began:.0f} s)\n")
    missed = [
        name
        for name, goal in GOALS.items()
        if name in found and (found[name] < goal if name == "vs_bare_vllm" else found[name] > goal)
    ]
    console.print(
        f"{platform.machine()}, {os.cpu_count()} cores, {device_words()}, torch {torch.__version__}"
    )
    console.print("every goal is met" if not missed else f"missed: {', '.join(missed)}")
    if args.json:
        print(json.dumps(found))
    return 1 if missed and not args.small else 0


def device_words() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def measure_bare(rig: Rig, load: Load, repeats: int) -> tuple[Table, dict[str, Any]]:
    """The same requests, seeds and sizes; bare vLLM is as it comes, in a process of its own."""
    ours, bare = rig.engine(), rig.bare()
    sides: dict[str, Callable[[int], object]] = {
        "rlkit": lambda turn: ours.sample(load.requests(1000 * turn)),
        "bare vLLM": lambda turn: bare.generate(load.requests(1000 * turn)),
    }
    seconds = turns(sides, repeats)
    title = f"ragged answers: {load.prompts} prompts x {load.group}, {load.shortest} to {load.longest} tokens"
    table, ratio = rates(title, lambda turn: tokens_of(load.requests(1000 * turn)), seconds, "bare vLLM")
    return table, {"vs_bare_vllm": ratio["rlkit"]}


def measure_hf(rig: Rig, load: Load, repeats: int) -> tuple[Table, dict[str, Any]]:
    load = fewer(load)
    model: Any = AutoModelForCausalLM.from_pretrained(rig.folder, dtype=getattr(torch, dtype()))
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    @torch.inference_mode()
    def transformers(turn: int) -> None:
        requests = load.requests(1000 * turn)
        ids = torch.tensor(
            [request.token_ids for request in requests for _ in range(request.n)], device=model.device
        )
        longest = max(request.max_tokens for request in requests)
        model.generate(
            ids,
            max_new_tokens=longest,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            eos_token_id=None,
            pad_token_id=0,
        )

    ours = rig.engine()
    sides = {
        "rlkit, vLLM": lambda turn: ours.sample(load.requests(1000 * turn)),
        "transformers": transformers,
    }
    seconds = turns(sides, repeats)
    table, ratio = rates(
        "useful tokens", lambda turn: tokens_of(load.requests(1000 * turn)), seconds, "transformers"
    )
    return table, {"vs_transformers": ratio["rlkit, vLLM"]}


def measure_servers(rig: Rig, load: Load, repeats: int) -> tuple[Table, dict[str, Any]]:
    samplers: dict[str, VllmServerSampler | VllmSampler] = {
        "one server": rig.servers(1),
        "two servers": rig.servers(2),
        "in this process": rig.engine(),
    }
    sides = {name: partial(sampled, sampler, load) for name, sampler in samplers.items()}
    seconds = turns(sides, repeats)
    table, ratio = rates(
        "servers over HTTP", lambda turn: tokens_of(load.requests(1000 * turn)), seconds, "one server"
    )
    return table, {
        "two_servers_over_one": ratio["two servers"],
        "process_over_one_server": ratio["in this process"],
    }


def sampled(sampler: VllmServerSampler | VllmSampler, load: Load, turn: int) -> None:
    sampler.sample(load.requests(1000 * turn))


def measure_weights(rig: Rig, load: Load, repeats: int) -> tuple[Table, dict[str, Any]]:
    """An update as the loop makes it: names checked, server paused, tensors replaced, cache emptied, resumed."""
    model: Any = AutoModelForCausalLM.from_pretrained(rig.folder, dtype=getattr(torch, dtype()))
    weights: Mapping[str, Tensor] = model.state_dict()
    adapted = with_adapter(weights, rank=16)
    kinds: tuple[TransferName, ...] = ("nccl",) if torch.cuda.is_available() else ("file", "gloo")
    sent: dict[str, float] = {"in this process": 0.0}
    whole: dict[str, Callable[[int], object]] = {
        "in this process": lambda turn: rig.engine().load(weights, turn)
    }
    alone: dict[str, Callable[[int], object]] = {}
    for kind in kinds:
        for count in (1, 2):
            name = f"{kind}, {count} server(s)"
            way = way_of(rig.servers(count), kind)
            whole[name] = partial(update, rig.servers(count), way, weights, name, sent)
            if kind != "nccl":  # it knows no adapters
                name += ", the adapter alone"
                alone[name] = partial(update, rig.servers(count), way, adapted, name, sent)
    # Apart, since a server forgets what adapters are added to when it gets whole weights.
    seconds = turns(whole, max(repeats, 2)) | (turns(alone, max(repeats, 2)) if alone else {})
    table = table_of("one weight update", ["", "milliseconds", "MiB sent"])
    for name, times in seconds.items():
        table.add_row(name, spread([1000 * value for value in times]), f"{sent[name]:.1f}")
    return table, {
        "update_ms": {name: 1000 * statistics.median(times) for name, times in seconds.items()},
        "update_mib": sent,
    }


def way_of(sampler: VllmServerSampler, kind: TransferName) -> Transfer:
    life = next(iter(sampler.fleet._roster.lives))
    return sampler._weights.transfer_for(kind, {"dtype": dtype()}, life.server.url)


def update(
    sampler: VllmServerSampler,
    way: Transfer,
    weights: Mapping[str, Tensor],
    name: str,
    sent: dict[str, float],
    turn: int,
) -> None:
    """One update of all servers by one way alone, and into `sent` what went over."""
    sampler._weights._transfers = {way.kind: way}
    for life in sampler.fleet._roster.lives:
        life.transfer = way
    sampler.metrics()
    sampler.load(weights, turn)
    sent[name] = sampler.metrics()["sampler/sent_bytes"] / 2**20


def with_adapter(weights: Mapping[str, Tensor], rank: int) -> AdaptedWeights:
    """Adapters on all linear layers of the decoder."""
    changes = {
        name: LowRank(0.01 * torch.randn(rank, w.shape[1]), 0.01 * torch.randn(w.shape[0], rank), 2.0)
        for name, w in weights.items()
        if name.endswith("proj.weight")
    }
    return AdaptedWeights(weights, changes)


def measure_skpo(rig: Rig, load: Load, repeats: int) -> tuple[Table, dict[str, Any]]:
    """One step's sampling: G answers of T tokens; or G segments of T/3, one kept, and G continuations of 2T/3 after [s, q].

    T differs from prompt to prompt. All sides sample the same number of tokens; SKPO reads s once more.
    """
    sampler = rig.engine()

    def talk(request: Request) -> Talk[None]:
        """A prompt's two phases."""
        first = request.max_tokens // 3
        ((kept, *_),) = yield [replace(request, max_tokens=first)]
        after = [*kept.completion_ids, *request.token_ids]
        yield [replace(request, token_ids=after, max_tokens=request.max_tokens - first)]

    def talks(turn: int) -> list[Talk[None]]:
        return [talk(request) for request in load.requests(1000 * turn)]

    def alone(work: Callable[[int], object], turn: int) -> None:
        """The sides ask the same in one turn, so none may find what another one read."""
        sampler.forget()
        work(turn)

    sides: dict[str, Callable[[int], object]] = {
        "grpo": lambda turn: sampler.sample(load.requests(1000 * turn)),
        "skpo": lambda turn: sampler.follow(talks(turn)),
        "skpo, phase after phase": lambda turn: in_rounds(talks(turn), sampler.sample),
    }
    seconds = turns({name: partial(alone, work) for name, work in sides.items()}, repeats)
    over = {
        name: [a / b for a, b in zip(times, seconds["grpo"], strict=True)] for name, times in seconds.items()
    }
    table = table_of("a step's sampling, the same tokens on all sides", ["", "seconds", "over grpo"])
    for name, times in seconds.items():
        table.add_row(name, spread(times, 2), spread(over[name], 2))
    return table, {
        "skpo_over_grpo": statistics.median(over["skpo"]),
        "skpo_in_phases_over_grpo": statistics.median(over["skpo, phase after phase"]),
    }


def measure_affinity(rig: Rig, load: Load, repeats: int) -> tuple[Table, dict[str, Any]]:
    """Prompt tokens that two servers had to read for groups with long prompts, of all that were asked."""
    load = fewer(load)
    long = replace(load, prompt_tokens=256 if load.prompts > 8 else 96, longest=load.shortest)
    read: dict[str, list[float]] = {"each prompt on one server": [], "each answer on any server": []}
    sampler = rig.servers(2)
    for turn in range(repeats):
        for name in read:
            requests = long.requests(1000 * turn + (500 if name.startswith("each answer") else 0))
            sampler.forget()
            sampler.metrics()
            if name.startswith("each prompt"):
                sampler.sample(requests)
            else:  # a balancer that knows no groups: every answer is a request of its own
                dice = random.Random(turn)
                single = [replace(r, n=1, seed=r.seed * 1000 + i) for r in requests for i in range(r.n)]
                dice.shuffle(single)
                scattered(sampler, single)
            counts = sampler.metrics()
            asked = counts["sampler/prompt_tokens"]
            read[name].append((asked - counts["sampler/cached_tokens"]) / asked)
    table = table_of(
        f"prompt tokens read, of all ({long.group} answers to each prompt of {long.prompt_tokens})",
        ["", "share"],
    )
    for name, shares in read.items():
        table.add_row(name, spread(shares, 3))
    table.add_row("no prefix cache", "1.000")
    medians = {name: statistics.median(shares) for name, shares in read.items()}
    return table, {
        "prompt_share_read": medians,
        "prompt_share_saved": {name: 1 - share for name, share in medians.items()},
    }


def scattered(sampler: VllmServerSampler, requests: Sequence[Request]) -> None:
    """Requests by turns to each server, whatever their prompts."""
    roster = sampler.fleet._roster
    lives = list(roster.lives)

    async def all_of() -> None:
        import asyncio

        weights = sampler.fleet.weights
        answers = await asyncio.gather(
            *(
                lives[i % len(lives)].worker.generate(
                    r, 0, stop_ids=[], tag=weights.tag, version_of=weights.version_of, seconds=600
                )
                for i, r in enumerate(requests)
            )
        )
        for answer in answers:
            sampler.fleet._tokens["prompt_tokens"] += answer.prompt_tokens
            sampler.fleet._tokens["cached_tokens"] += answer.cached_tokens

    sampler.fleet._wait(all_of())


MEASURE: dict[str, Callable[[Rig, Load, int], tuple[Table, dict[str, Any]]]] = {
    "bare": measure_bare,
    "hf": measure_hf,
    "servers": measure_servers,
    "weights": measure_weights,
    "skpo": measure_skpo,
    "affinity": measure_affinity,
}

if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
