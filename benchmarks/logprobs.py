"""The log-prob pass over a large vocabulary: whole logits, TRL 1.16's fused head, and ours.

    python benchmarks/logprobs.py            V = 152,064, hidden 896, 2,048 and 4,096 tokens, float32
    python benchmarks/logprobs.py --small    a look in seconds; no goal is judged
    python benchmarks/logprobs.py --json     the last line is one JSON object

Each run is a fresh process: inputs, then one pass (its peak memory above the inputs), then one more (its time). Exits
with 1 when a goal is missed.
"""

import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import rlkit  # noqa: F401  before torch: threads wait here as they do in `rlkit train`

# isort: split

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

CASES = ("full", "trl", "ours")
GOALS = {
    "forward": {
        "memory_over_full": 0.25,
        "time_over_full": 1.15,
        "memory_over_trl": 1.0,
        "time_over_trl": 1.0,
    },
    "both": {"memory_over_full": 0.25, "time_over_full": 1.10, "memory_over_trl": 1.0, "time_over_trl": 1.0},
}
"""The largest ratio that is good enough, for the forward pass and for forward and backward."""


@dataclass(frozen=True)
class LogProbs:
    """Peak memory and seconds of log-probs and entropies from hidden states, forward and with the backward pass."""

    tokens: tuple[int, ...] = (2048, 4096)
    """Tokens whose log-probs are asked for."""
    vocabulary: int = 152_064
    """Qwen2.5's."""
    hidden: int = 896
    """Width of Qwen2.5-0.5B."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: float32 weights under autocast."""
    chunk: int = 0
    """Ours: tokens' worth of logits at one time; 0: what suits the device."""
    repeats: int = 5
    """Processes per case; the cases alternate."""
    threads: int = 0
    """Of torch; 0: its own choice."""
    small: bool = False
    """256 tokens, a vocabulary of 16,384 and 2 repeats."""
    json: bool = False
    """Print one JSON object as the last line."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One case in one process."""

    case: str
    tokens: int
    vocabulary: int
    hidden: int
    dtype: str
    chunk: int
    threads: int
    backward: bool


def main(args: LogProbs) -> int:
    if args.small:
        args = LogProbs(
            tokens=(256,), vocabulary=16_384, hidden=256, dtype=args.dtype, chunk=args.chunk, repeats=2,
            threads=args.threads, small=True, json=args.json,
        )  # fmt: skip
    console = Console(stderr=True)
    table = Table(
        title=f"V = {args.vocabulary:,}, hidden {args.hidden}, {args.dtype}, {args.repeats} repeats"
    )
    for column in (
        "tokens",
        "pass",
        "case",
        "peak MiB",
        "x full",
        "seconds",
        "min .. max",
        "x full",
        "off by",
    ):
        table.add_column(column, justify="left" if column in ("pass", "case") else "right")
    ratios, rows = {}, []
    for tokens in args.tokens:
        for backward in (False, True):
            kind = "both" if backward else "forward"
            found = measure(args, tokens, backward, console)
            rows += [{"tokens": tokens, "pass": kind, "case": case, **found[case]} for case in CASES]
            full, trl, ours = (found[case] for case in CASES)
            ratios[f"{tokens}/{kind}"] = {
                f"{what}_over_{name}": ours[key] / other[key]
                for what, key in (("memory", "peak"), ("time", "seconds"))
                for name, other in (("full", full), ("trl", trl))
            }
            for case in CASES:
                mine = found[case]
                table.add_row(
                    f"{tokens:,}",
                    "forward" if kind == "forward" else "forward + backward",
                    case,
                    f"{mine['peak'] / 2**20:,.0f}",
                    f"{mine['peak'] / full['peak']:.3f}",
                    f"{mine['seconds']:.2f}",
                    f"{mine['fastest']:.2f} .. {mine['slowest']:.2f}",
                    f"{mine['seconds'] / full['seconds']:.2f}",
                    f"{mine['off']:.1e}",
                )
    Console(width=120).print(table)
    print(
        "peak: above the inputs, gradients included; off by: largest difference from the whole logits, of the log-probs or "
        f"(backward) of the gradients of 8 tokens and of their words; machine: {machine(args)}"
    )
    missed = [
        f"{at} {name} = {value:.3f} > {GOALS[at.split('/')[1]][name]}"
        for at, values in ratios.items()
        for name, value in values.items()
        if not args.small and value > GOALS[at.split("/")[1]][name]
    ]
    for line in missed:
        print(f"goal missed: {line}")
    if args.json:
        print(
            json.dumps(
                {
                    "benchmark": "logprobs",
                    "machine": machine(args),
                    "summary": ratios,
                    "missed": missed,
                    "rows": rows,
                }
            )
        )
    return 1 if missed else 0


def machine(args: LogProbs) -> str:
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores"
    threads = args.threads or torch.get_num_threads()
    return (
        f"{where}, {platform.machine()}, torch {torch.__version__}, {threads} threads "
        f"(OMP_WAIT_POLICY {os.environ['OMP_WAIT_POLICY']}), python {platform.python_version()}"
    )


def measure(args: LogProbs, tokens: int, backward: bool, console: Console) -> dict[str, dict[str, float]]:
    """Medians by case; the cases alternate, so that a slow minute of the machine falls on all alike."""
    results: dict[str, list[dict[str, Any]]] = {case: [] for case in CASES}
    for _ in range(args.repeats):
        for case in CASES:
            run = Run(
                case=case,
                tokens=tokens,
                vocabulary=args.vocabulary,
                hidden=args.hidden,
                dtype=args.dtype,
                chunk=args.chunk,
                threads=args.threads,
                backward=backward,
            )
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:  # a fresh process, or peaks would mix
                result = pool.submit(one, run).result()
            results[case].append(result)
            console.print(run, f"{result['peak'] / 2**20:,.0f} MiB, {result['seconds']:.2f} s")
    true = results["full"][0]["values"]
    return {
        case: {
            "peak": statistics.median(r["peak"] for r in found),
            "seconds": statistics.median(r["seconds"] for r in found),
            "fastest": min(r["seconds"] for r in found),
            "slowest": max(r["seconds"] for r in found),
            "off": max(abs(a - b) for a, b in zip(found[0]["values"], true, strict=True)),
        }
        for case, found in results.items()
    }


def one(run: Run) -> dict[str, Any]:
    """Bytes at the peak, seconds, and the values to compare: log-probs, or some of the gradients."""
    if run.threads:
        torch.set_num_threads(run.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    head = nn.Linear(run.hidden, run.vocabulary, bias=False, device=device)
    nn.init.normal_(head.weight, std=0.05)
    hidden_NH = torch.randn(run.tokens, run.hidden, device=device, requires_grad=True)
    target_N = torch.randint(0, run.vocabulary, (run.tokens,), device=device)
    pull_N = torch.randn(run.tokens, device=device)
    logprobs = CASE[run.case](hidden_NH, head, target_N, run.chunk)

    def turn() -> list[float]:
        with (
            torch.set_grad_enabled(run.backward),
            torch.autocast(device, torch.bfloat16, enabled=run.dtype == "bfloat16"),
        ):
            logp_N, _ = logprobs()
        if not run.backward:
            return logp_N.tolist()
        torch.autograd.backward((logp_N * pull_N).sum())
        assert hidden_NH.grad is not None and head.weight.grad is not None
        some = torch.cat((hidden_NH.grad[:8].flatten(), head.weight.grad[target_N[:8]].flatten())).tolist()
        hidden_NH.grad = head.weight.grad = None
        return some

    before = start_peak(device)
    values = turn()
    peak = peak_bytes(device) - before
    start = time.perf_counter()
    turn()  # ends in numbers on the CPU: a GPU has finished too
    return {"peak": peak, "seconds": time.perf_counter() - start, "values": values}


def start_peak(device: str) -> int:
    """Forget earlier peaks; what is held now, in bytes."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
    return status_bytes("VmRSS")


def peak_bytes(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else status_bytes("VmHWM")


def status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith(name))
    return int(kib) * 1024


# -- the three: log-probs and entropies of the targets, at temperature 1 -----------------------------------------------

Pass = Callable[[], tuple[Tensor, Tensor]]


def full(hidden_NH: Tensor, head: nn.Linear, target_N: Tensor, chunk: int) -> Pass:
    """All logits at once, as leanly as autograd allows: they are let go as soon as their log-softmax is there."""

    def logprobs() -> tuple[Tensor, Tensor]:
        dist_NV = head(hidden_NH).float().log_softmax(-1)
        with torch.no_grad():
            entropy_N = dist_NV.exp().mul_(dist_NV).sum(-1).neg_()
        return dist_NV.gather(1, target_N[:, None])[:, 0], entropy_N

    return logprobs


def trl(hidden_NH: Tensor, head: nn.Linear, target_N: Tensor, chunk: int) -> Pass:
    """Its fused head, added and called as GRPOTrainer does, to a model whose body costs nothing."""
    from trl.trainer.utils import add_fused_lm_head

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            text = SimpleNamespace()
            self.config = SimpleNamespace(get_text_config=lambda: text)

        def forward(self) -> None: ...

        def base_model(self, use_cache: bool) -> Any:
            last_NH = torch.cat((hidden_NH, hidden_NH[:1]))  # it drops the last position: nothing follows it
            return SimpleNamespace(last_hidden_state=last_NH[None])

        def get_output_embeddings(self) -> nn.Linear:
            return head

    model: Any = Body()
    add_fused_lm_head(model, temperature=1.0, outputs=("log_probs", "entropy"))
    labels_BT = torch.cat((target_N[:1], target_N))[None]

    def logprobs() -> tuple[Tensor, Tensor]:
        out = model(labels=labels_BT, fused_lm_head=True)
        return out.log_probs[0], out.entropy[0]

    return logprobs


def ours(hidden_NH: Tensor, head: nn.Linear, target_N: Tensor, chunk: int) -> Pass:
    from rlkit.learner.logprobs import token_stats

    def logprobs() -> tuple[Tensor, Tensor]:
        stats = token_stats(hidden_NH, head, target_N, 1.0, chunk)
        return stats.logp_N, stats.entropy_N

    return logprobs


CASE: dict[str, Callable[[Tensor, nn.Linear, Tensor, int], Pass]] = {"full": full, "trl": trl, "ours": ours}


if __name__ == "__main__":
    sys.exit(main(tyro.cli(LogProbs)))
