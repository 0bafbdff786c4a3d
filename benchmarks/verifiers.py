"""Does the `math` verifier read answers better than math-verify alone, and how fast: both on the same labelled answers.

    python benchmarks/verifiers.py                   accuracy of both, and items per cpu-second, alternating
    python benchmarks/verifiers.py --repeats 0       accuracy only
    python benchmarks/verifiers.py --json            the last line is one JSON object

Reads equiv_cases.jsonl and graded_completions.jsonl.gz in the folder that RLKIT_DATA names. math-verify runs with its
default settings and timeouts; for its accuracy a bare text is tried as it is, between dollar signs and in a box, and the
best verdict counts; for its speed a gold answer is read once, between dollar signs.
Exits with 1 when rlkit is worse on a set of graded completions, or less than 5 times as fast.
"""

import gzip
import hashlib
import json
import logging
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from math_verify import parse, verify
from rich.console import Console
from rich.table import Table

from rlkit.rewards import ChoiceVerifier, MathVerifier
from rlkit.types import Prompt

Row = dict[str, Any]
Judge = Callable[[Row], bool]
FASTER = 5.0
"""Items per cpu-second of rlkit over those of math-verify, at least."""


@dataclass(frozen=True)
class Verifiers:
    """Accuracy and throughput of rlkit's math verifier beside math-verify's."""

    repeats: int = 5
    """Passes over the timed completions, by each in turn; 0: no throughput."""
    sample: int = 400
    """Completions in one timed pass, spread over the sets."""
    json: bool = False
    """Print one JSON object as the last line."""


def main(args: Verifiers) -> int:
    folder = os.environ.get("RLKIT_DATA")
    if folder is None:
        print("SKIPPED: RLKIT_DATA is not set; it names the folder with equiv_cases.jsonl", file=sys.stderr)
        return 0
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    sets = load(Path(folder))
    rlkit = MathVerifier()
    rlkit.warm_up()
    judges: dict[str, Judge] = {"math-verify": by_math_verify, "rlkit": lambda row: by_rlkit(rlkit, row)}
    rows = [
        {"set": name, "verifier": judge, **accuracy(found, judges[judge])}
        for name, found in sets.items()
        for judge in judges
    ]
    rows += choice_rows(Path(folder))
    show_accuracy(rows)
    timed = {**judges, "math-verify": once_by_math_verify}
    speed = throughput(args, sets, timed) if args.repeats else {}
    machine = f"{os.cpu_count()} cores, {platform.machine()}, python {platform.python_version()}"
    print(f"disputed cases are apart: their labels are policy or upstream errors; machine: {machine}")
    if args.json:
        print(json.dumps({"benchmark": "verifiers", "machine": machine, "rows": rows, "throughput": speed}))
    return 1 if worse(rows) or (speed and speed["ratio"] < FASTER) else 0


def load(folder: Path) -> dict[str, list[Row]]:
    """Rows with `gold`, `text`, `label`, `disputed`, by set. Bare answers are halved by a hash of their id."""
    sets: dict[str, list[Row]] = {}
    for line in (folder / "equiv_cases.jsonl").read_text("utf-8").split("\n"):
        case = json.loads(line) if line else {}
        if case.get("kind") not in ("answer", "completion"):
            continue
        half = "even" if hashlib.sha256(case["id"].encode()).digest()[0] % 2 == 0 else "odd"
        bare = case["kind"] == "answer"
        text = f"\\boxed{{{case['pred']}}}" if bare else case["pred"]
        row = {**case, "text": text, "label": case["equal"], "bare": bare}
        if "OlympiadBench" in case["source"] and isinstance(case.get("precision"), str | float | int):
            row["error"] = case["precision"]  # there it is the absolute error that the data allows
        sets.setdefault(f"{'bare answers' if bare else 'completions'}, {half} half", []).append(row)
    packed = gzip.decompress((folder / "graded_completions.jsonl.gz").read_bytes()).decode("utf-8")
    for line in packed.split("\n"):
        case = json.loads(line) if line else {}
        if case and case["dataset"] != "MMLU-Pro":
            row = {**case, "text": case["completion"], "bare": False}
            sets.setdefault(case["dataset"], []).append(row)
    return dict(sorted(sets.items()))


def choice_rows(folder: Path) -> list[dict[str, Any]]:
    """Multiple choice, by the `choice` verifier: what three models wrote about MMLU-Pro, which math-verify does not read."""
    packed = gzip.decompress((folder / "graded_completions.jsonl.gz").read_bytes()).decode("utf-8")
    cases = [json.loads(line) for line in packed.split("\n") if line]
    verify = ChoiceVerifier()

    def judge(row: Row) -> bool:
        prompt = Prompt(id=row["id"], token_ids=[], question=row["prompt"], reference=row["gold"])
        return verify(prompt, row["completion"]).value == 1.0

    found = [case for case in cases if case["dataset"] == "MMLU-Pro"]
    return [{"set": "MMLU-Pro", "verifier": "rlkit (choice)", **accuracy(found, judge)}]


def by_rlkit(verifier: MathVerifier, row: Row) -> bool:
    prompt = Prompt(id=row["id"], token_ids=[], reference=row["gold"], row={"error": row.get("error")})
    return verifier(prompt, row["text"]).value == 1.0


def by_math_verify(row: Row) -> bool:
    answer = row["pred"] if row["bare"] else row["text"]
    golds, answers = dressed(row["gold"]), dressed(answer) if row["bare"] else [answer]
    try:
        return any(verify(parse(gold), parse(text)) for gold in golds for text in answers)
    except Exception:  # it raises what sympy raises; an answer that breaks it is not accepted
        return False


def dressed(text: str) -> list[str]:
    """A text as it is, between dollar signs and in a box: math-verify reads one better, or the other."""
    return [text] if "$" in text or "boxed" in text else [text, f"${text}$", f"\\boxed{{{text}}}"]


def once_by_math_verify(row: Row) -> bool:
    """As a reward function calls it."""
    return bool(verify(parse(f"${row['gold']}$"), parse(row["text"])))


def accuracy(rows: list[Row], judge: Judge) -> dict[str, int]:
    verdicts = [(row, judge(row)) for row in rows]
    clear = [(row, verdict) for row, verdict in verdicts if not row["disputed"]]
    disputed = [(row, verdict) for row, verdict in verdicts if row["disputed"]]
    return {
        "items": len(clear),
        "right": sum(verdict == row["label"] for row, verdict in clear),
        "false_positives": sum(verdict and not row["label"] for row, verdict in clear),
        "false_negatives": sum(row["label"] and not verdict for row, verdict in clear),
        "disputed": len(disputed),
        "disputed_right": sum(verdict == row["label"] for row, verdict in disputed),
    }


def show_accuracy(rows: list[Row]) -> None:
    table = Table(title="Verdicts that agree with the label")
    for column in ("set", "verifier", "right", "share", "false +", "false -", "disputed"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["set"],
            row["verifier"],
            f"{row['right']} / {row['items']}",
            f"{row['right'] / row['items']:.2%}",
            str(row["false_positives"]),
            str(row["false_negatives"]),
            f"{row['disputed_right']} / {row['disputed']}",
        )
    Console(width=120).print(table)


def throughput(args: Verifiers, sets: dict[str, list[Row]], judges: dict[str, Judge]) -> dict[str, Any]:
    """Items per cpu-second of this process, each verifier in turn, so that a slow minute falls on both."""
    graded = [row for name, rows in sets.items() if is_graded(name) for row in rows]
    chosen = graded[:: max(1, len(graded) // args.sample)]
    rates: dict[str, list[float]] = {name: [] for name in judges}
    for _ in range(args.repeats):
        for name, judge in judges.items():
            clear_caches()
            began = time.process_time()
            for row in chosen:
                judge(row)
            rates[name].append(len(chosen) / (time.process_time() - began))
    table = Table(
        title=f"{len(chosen)} graded completions, {args.repeats} passes each, caches emptied before each"
    )
    for column in ("verifier", "items per cpu-second", "min .. max"):
        table.add_column(column)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    for name, found in rates.items():
        table.add_row(name, f"{medians[name]:,.0f}", f"{min(found):,.0f} .. {max(found):,.0f}")
    Console(width=120).print(table)
    ratio = medians["rlkit"] / medians["math-verify"]
    print(f"rlkit is {ratio:.1f} times as fast, at least {FASTER:g} is asked for")
    return {"items": len(chosen), "rates": rates, "ratio": ratio}


def clear_caches() -> None:
    """Forget what earlier passes read: a pass must not profit from the one before."""
    for name, module in list(sys.modules.items()):
        if name.startswith("rlkit.rewards"):
            for thing in vars(module).values():
                if hasattr(thing, "cache_clear"):
                    thing.cache_clear()


def is_graded(name: str) -> bool:
    """Whether a set holds graded completions of models, rather than pairs from other projects' tests."""
    return not name.startswith(("bare answers", "completions"))


def worse(rows: list[Row]) -> list[str]:
    """Graded sets on which rlkit is right less often."""
    right = {(row["set"], row["verifier"]): row["right"] for row in rows}
    graded = {row["set"] for row in rows if is_graded(row["set"]) and (row["set"], "math-verify") in right}
    return sorted(name for name in graded if right[name, "rlkit"] < right[name, "math-verify"])


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Verifiers)))
