"""Is the `code` verifier right, unhurt and quick: references, mutants of them, and programs that mean harm.

    python benchmarks/code_rewards.py            all of HumanEval and MBPP, 300 wrong mutants, every hostile program
    python benchmarks/code_rewards.py --small    a tenth of it, in half a minute
    python benchmarks/code_rewards.py --json     the last line is one JSON object

Reads humaneval.jsonl and mbpp.jsonl in the folder that RLKIT_DATA names. A mutant is a reference with one operator, constant,
comparison, bound or returned value changed. Whether it is wrong is found out without rlkit: program and tests in one plain
Python process, whose exit code tells; mutants that change nothing are kept, too, and must pass.
Exits with 1 when a reference fails, a verdict on a mutant differs from the plain process's, or harm is not held.
"""

import ast
import json
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from rlkit.errors import ConfigError
from rlkit.rewards import CodeVerifier
from rlkit.rewards.code_rows import gold_program
from rlkit.rewards.sandbox import Limits, run
from rlkit.types import Prompt

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests import hostile_programs as hostile  # noqa: E402

Row = dict[str, Any]
SECONDS = 30.0
"""For one program: MBPP 123 computes for 3 s on a quiet core."""


@dataclass(frozen=True)
class CodeRewards:
    """References, mutants and hostile programs under the code verifier."""

    mutants: int = 300
    """Wrong mutants to judge."""
    workers: int = os.cpu_count() or 1
    """Programs at once."""
    small: bool = False
    """A tenth of everything."""
    seed: int = 0
    json: bool = False
    """Print one JSON object as the last line."""


def main(args: CodeRewards) -> int:
    folder = os.environ.get("RLKIT_DATA")
    verifier = CodeVerifier(timeout=SECONDS)
    try:
        verifier.warm_up()
    except ConfigError as error:
        print(f"SKIPPED: {error}", file=sys.stderr)
        return 0
    if folder is None:
        print("SKIPPED: RLKIT_DATA is not set; it names the folder with humaneval.jsonl", file=sys.stderr)
        return 0
    share = 10 if args.small else 1
    sets = {name: load(Path(folder, f"{name.lower()}.jsonl"))[::share] for name in ("HumanEval", "MBPP")}
    results: dict[str, Any] = {"start": starting(20)}
    with ThreadPoolExecutor(args.workers) as pool:
        results["references"] = references(sets, verifier, pool.map)
        results["mutants"] = mutants(sets, verifier, args.mutants // share, args.seed, pool)
    results["hostile"] = harm(hostile.HOSTILE[::share], list(hostile.CHEATS.items())[::share])
    machine = f"{os.cpu_count()} cores, {platform.machine()}, python {platform.python_version()}, {args.workers} at once"
    print(f"machine: {machine}")
    if args.json:
        print(json.dumps({"benchmark": "code_rewards", "machine": machine, **results}))
    return 0 if all(results[name]["held"] for name in ("references", "mutants", "hostile")) else 1


def load(path: Path) -> list[Prompt]:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [
        Prompt(id=r["id"], token_ids=[], question=r["prompt"], reference=r["answer"], row=r) for r in rows
    ]


def fenced(program: str) -> str:
    return f"````python\n{program}\n````"


def starting(repeats: int) -> dict[str, float]:
    """Milliseconds of an empty program, by what is started for it."""
    trivial = Prompt(id="trivial", token_ids=[], row={"tests": ["assert f() == 1"]})
    verifier, base = CodeVerifier(), Path(sys.base_exec_prefix, "bin", "python3")
    ways: dict[str, Callable[[], object]] = {
        "python -I -S -c pass": lambda: subprocess.run([base, "-I", "-S", "-c", "pass"], check=True),
        "one sandbox": lambda: run("pass", b"", Limits()),
        "one verdict on a call (two sandboxes)": lambda: verifier(trivial, fenced("def f(): return 1")),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            found[name].append((time.perf_counter() - began) * 1000)
    table = Table(title="An empty program, one after the other")
    for column in ("started", "milliseconds, the least", "median"):
        table.add_column(column)
    for name, times in found.items():
        times.sort()
        table.add_row(name, f"{times[0]:.1f}", f"{times[len(times) // 2]:.1f}")
    Console(width=120).print(table)
    return {name: times[0] for name, times in found.items()}


def references(
    sets: dict[str, list[Prompt]], verifier: CodeVerifier, each: Callable[..., Iterator[Any]]
) -> dict[str, Any]:
    table = Table(title="References")
    for column in ("set", "pass", "programs per second"):
        table.add_column(column)
    failed, rates = [], {}
    for name, prompts in sets.items():
        began = time.perf_counter()
        scores = list(each(lambda prompt: verifier(prompt, verifier.gold_text(prompt) or ""), prompts))
        rates[name] = len(prompts) / (time.perf_counter() - began)
        wrong = [
            f"{prompt.id}: {score.reason}"
            for prompt, score in zip(prompts, scores, strict=True)
            if score.value != 1.0
        ]
        failed += wrong
        table.add_row(name, f"{len(prompts) - len(wrong)} / {len(prompts)}", f"{rates[name]:.1f}")
    Console(width=120).print(table)
    print("\n".join(failed), end="\n" if failed else "")
    return {
        "held": not failed,
        "failed": failed,
        "rates": rates,
        "counts": {name: len(prompts) for name, prompts in sets.items()},
    }


# -- mutants -----------------------------------------------------------------------------------------------------------

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv},
    **{
        ast.Div: ast.Mult,
        ast.Pow: ast.Mult,
        ast.Lt: ast.LtE,
        ast.LtE: ast.Lt,
        ast.Gt: ast.GtE,
        ast.GtE: ast.Gt,
    },
    **{ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.And: ast.Or, ast.Or: ast.And, ast.In: ast.NotIn},
}


def places(tree: ast.AST) -> list[tuple[ast.AST, str]]:
    """Where a program can be changed, and how."""
    found: list[tuple[ast.AST, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in SWAPS:
            found.append((node, "operator"))
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
            found.append((node, "comparison"))
        elif isinstance(node, ast.Constant) and type(node.value) in (int, bool):
            found.append((node, "constant"))
        elif isinstance(node, ast.Return) and node.value is not None:
            found.append((node, "returned value"))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
            found.append((node, "off by one"))
    return found


def mutate(program: str, rng: random.Random) -> tuple[str, str]:
    """The program with one thing changed, and what that is; unchanged when there is nothing to change."""
    tree = ast.parse(program)
    found = places(tree)
    if not found:
        return program, "nothing"
    kind = rng.choice(sorted({how for _, how in found}))  # by kind first: constants are everywhere
    node = rng.choice([place for place, how in found if how == kind])
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign):
        node.op = SWAPS[type(node.op)]()  # type: ignore[assignment]
    elif isinstance(node, ast.Compare):
        node.ops[0] = SWAPS[type(node.ops[0])]()  # type: ignore[assignment, call-overload]
    elif isinstance(node, ast.Constant):
        node.value = not node.value if isinstance(node.value, bool) else int(node.value) + rng.choice((-1, 1))  # type: ignore[arg-type]
    elif isinstance(node, ast.Return):
        node.value = ast.parse("None", mode="eval").body
    elif isinstance(node, ast.Call) and node.args:
        last = node.args[min(1, len(node.args) - 1)]
        node.args[min(1, len(node.args) - 1)] = ast.BinOp(
            left=last, op=ast.Sub(), right=ast.Constant(value=1)
        )
    return ast.unparse(ast.fix_missing_locations(tree)), kind


def plainly(prompt: Prompt, program: str) -> bool | None:
    """Whether the program passes its tests in one plain Python process; None: it does not end."""
    row = prompt.row
    if "entry_point" in row:
        tests = f"{row['test']}\ncheck({row['entry_point']})\n"
    else:
        tests = "\n".join([row["test_setup_code"], *row["tests"]])
    guard = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
    source = guard + f"exec({program!r})\n" + tests.replace("\r\n", "\n")
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-"],
            input=source.encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=10,
        )
    except subprocess.TimeoutExpired:
        return None
    return done.returncode == 0


def mutants(
    sets: dict[str, list[Prompt]], verifier: CodeVerifier, wanted: int, seed: int, pool: ThreadPoolExecutor
) -> dict[str, Any]:
    rng = random.Random(seed)
    prompts = [prompt for each in sets.values() for prompt in each]

    def one(case: tuple[Prompt, str, str]) -> tuple[Prompt, str, bool | None, float | None, str]:
        prompt, program, kind = case
        truth = plainly(prompt, program)
        score = verifier(prompt, fenced(program)) if truth is not None else None
        return (
            prompt,
            kind,
            truth,
            None if score is None else score.value,
            "" if score is None else score.reason,
        )

    wrong: dict[str, int] = {}
    survived = hung = caught = 0
    differ: list[str] = []
    while sum(wrong.values()) < wanted:
        chosen = rng.choices(prompts, k=min(wanted - sum(wrong.values()), 50))
        cases = [(prompt, *mutate(gold_program(prompt) or "", rng)) for prompt in chosen]
        for prompt, kind, truth, value, reason in pool.map(one, cases):
            if truth is None:
                hung += 1
                continue
            if value != float(truth):
                differ.append(f"{prompt.id} ({kind}): plain process {truth}, verifier {value}: {reason}")
            if truth:
                survived += 1
            else:
                wrong[kind] = wrong.get(kind, 0) + 1
                caught += value == 0.0
    total = sum(wrong.values())
    table = Table(title="Mutants of references")
    for column in ("changed", "wrong on a test", ""):
        table.add_column(column)
    for kind, count in sorted(wrong.items()):
        table.add_row(kind, str(count), "")
    table.add_row("all", str(total), f"{caught} fail")
    table.add_row("that change no verdict", str(survived), "all pass" if not differ else "see below")
    Console(width=120).print(table)
    print(f"{hung} mutants that do not end in a plain process are left out")
    print("\n".join(differ), end="\n" if differ else "")
    return {
        "held": not differ and caught == total,
        "wrong": total,
        "failed": caught,
        "survived": survived,
        "differ": differ,
    }


# -- harm --------------------------------------------------------------------------------------------------------------

KINDS = {
    "endless": hostile.ENDLESS,
    "memory": hostile.MEMORY_BOMBS,
    "processes, signals": hostile.PROCESSES,
    "files, system calls": hostile.FILES,
    "network": hostile.NETWORK,
    "output": hostile.OUTPUT,
}


def harm(programs: Sequence[hostile.Hostile], cheats: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """One at a time, so that what is left behind can be told to be whose."""
    hostile.adopt_orphans()
    table = Table(title="Programs that mean harm")
    for column in ("kind", "programs", "held", "longest, seconds", "ended by"):
        table.add_column(column)
    problems: list[str] = []
    with hostile.parent() as here:
        for kind, members in KINDS.items():
            rans, bad = [], 0
            for one in [one for one in members if one in programs]:
                ran, wrong = hostile.let_loose(one, here)
                left = hostile.children()
                wrong += [f"left {left}"] if left else []
                bad += bool(wrong)
                problems += [f"{one.name}: {text}" for text in wrong]
                rans.append(ran)
            ends = [ran.ended for ran in rans]
            told = ", ".join(f"{ends.count(end)} {end}" for end in sorted(set(ends)))
            longest = max((ran.seconds for ran in rans), default=0.0)
            table.add_row(kind, str(len(rans)), str(len(rans) - bad), f"{longest:.1f}", told)
    passed = []
    began = time.perf_counter()
    for name, program in cheats:
        score = hostile.judge_cheat(program)
        if score.value != 0.0:
            passed.append(f"cheat {name}: {score.outcome} {score.value}: {score.reason}")
    seconds = (time.perf_counter() - began) / max(1, len(cheats))
    table.add_row(
        "cheats", str(len(cheats)), str(len(cheats) - len(passed)), f"{seconds:.1f} on average", "scored 0"
    )
    Console(width=120).print(table)
    problems += passed
    print("\n".join(problems), end="\n" if problems else "")
    return {"held": not problems, "programs": len(programs), "cheats": len(cheats), "problems": problems}


if __name__ == "__main__":
    sys.exit(main(tyro.cli(CodeRewards)))
