"""Loss, gradient, advantages and metrics of every algorithm that TRL has too, beside TRL's own code.

    python benchmarks/parity_trl.py              every loss type, level and option, in a minute
    python benchmarks/parity_trl.py --json       the last line is one JSON object
    python benchmarks/parity_trl.py --wrong      TRL is given another epsilon: rows fail, to show that they can

formula    the same log-probs and entropies, float64, into both; of TRL only the method that asks the model is replaced
model      the same small model and answers through GRPOTrainer and through rlkit's Learner, float32, in the Learner's
           three layouts, at the step's first weights and at moved ones
on purpose where the two are meant to differ, and by how much: sides/differences.py, docs/papers.md section 3.4

Exits with 1 when a comparison is above its tolerance, or compares nothing.
"""

import json
import logging
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

os.environ["CUDA_VISIBLE_DEVICES"] = (
    ""  # before torch is loaded: each side would move to a GPU in its own way
)

from sides import cases, differences, formula, model, parity, rloo  # noqa: E402
from sides.cases import Case  # noqa: E402
from sides.differences import Difference  # noqa: E402
from sides.parity import Distance  # noqa: E402
from transformers.utils.logging import disable_progress_bar  # noqa: E402

Level = Literal["formula", "model"]
TOLERANCE: dict[Level, dict[str, float]] = {
    # TRL has shares in float32.
    "formula": {"clip_ratio": 1e-7, "": 1e-9},
    "model": {"loss": 1e-6, "gradient": 1e-5, "advantages": 1e-6, "": 1e-5},
}
"""By the family of the quantity. Absolute, but for the model's gradient: norm of the difference over norm."""
FAMILIES = {
    "clip_ratio": ("clip_ratio/", "cispo_clip_ratio"),
    "sampling": ("sampling/",),
}
"""Metrics that are shown as one, by how they begin."""


@dataclass(frozen=True)
class Args:
    """rlkit's numbers beside TRL's."""

    only: str = ""
    """Algorithms whose name begins so; all when empty."""
    wrong: bool = False
    """Give TRL twice the epsilon, to see that rows fail and that the exit code says so."""
    json: bool = False
    """Print one JSON object as the last line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One comparison."""

    level: Level
    algorithm: str
    option: str
    quantity: str
    gap: float
    size: float
    """TRL's number, or its norm: what is 0 on both sides shows nothing."""

    @property
    def family(self) -> str:
        begins = (name for name, starts in FAMILIES.items() if self.quantity.startswith(starts))
        return next(begins, self.quantity)

    @property
    def tolerance(self) -> float:
        limits = TOLERANCE[self.level]
        return limits.get(self.family, limits[""])

    @property
    def ok(self) -> bool:
        return self.gap <= self.tolerance  # False for nan


def main(args: Args) -> int:
    began = time.perf_counter()
    logging.getLogger("trl").setLevel(logging.ERROR)  # it comments on settings that are no paper's
    disable_progress_bar()
    chosen = [case for case in cases.ALGORITHMS if case.algorithm.startswith(args.only)]
    with_rloo = rloo.PLAIN.algorithm.startswith(args.only)
    if not chosen and not with_rloo:
        known = ", ".join(case.algorithm for case in [*cases.ALGORITHMS, rloo.PLAIN])
        raise SystemExit(f"--only {args.only}: no algorithm's name begins so; there are {known}")
    if args.wrong:
        chosen = [replace(case, overrides={"epsilon": 2 * case.cfg.epsilon}) for case in chosen]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parity.save_model(folder)
        world = model.make_world(folder)
        rows, effects = formula_rows(chosen, folder)
        rows += model_rows(chosen, world)
        rows += rloo_rows(folder, world) if with_rloo else []
        purpose = [] if args.only else differences.find(folder, world)
    console = Console(width=130)
    complaints = show_algorithms(rows, console) + show_options(rows, effects, console)
    show_differences(purpose, console)
    failed = [row for row in rows if not row.ok]
    for words in complaints:
        console.print(f"[red]{words}")
    colour = "red" if failed else "green"
    console.print(f"[{colour}]{len(rows)} comparisons, {len(failed)} above their tolerance")
    machine = f"{os.cpu_count()} cores, {platform.machine()}, python {platform.python_version()}"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl"))
    console.print(f"machine: {machine}; {versions}; {time.perf_counter() - began:.0f} s", soft_wrap=True)
    if args.json:
        report = {
            "benchmark": "parity_trl",
            "machine": machine,
            "versions": versions,
            "ok": not (failed or complaints),
            "complaints": complaints,
            "rows": [worst(some) for some in grouped(rows, lambda row: row.quantity).values()],
            "options": effects,
            "on_purpose": [asdict(difference) for difference in purpose],
        }
        print(json.dumps(report))
    return 1 if failed or complaints else 0


# -- comparisons -----------------------------------------------------------------------------------------------------------


def rows_of(level: Level, case: Case, found: Mapping[str, Distance]) -> list[Row]:
    return [
        Row(level=level, algorithm=case.algorithm, option=case.option, quantity=name, gap=gap, size=size)
        for name, (gap, size) in found.items()
    ]


def formula_rows(chosen: Sequence[Case], folder: Path) -> tuple[list[Row], dict[str, float]]:
    """Every algorithm with every option that it has; and by how much an option moves rlkit's loss or gradient, at most."""
    rows: list[Row] = []
    effects: dict[str, float] = {}
    for base in chosen:
        plain: list[parity.Side] = []
        for case in cases.options(base):
            both = formula.both(case, folder)
            for mine, theirs in both:
                found = parity.distances(mine, theirs, relative=False, apart=case.apart)
                if case.lent:
                    del found["advantages"]
                rows += rows_of("formula", case, found)
            if not plain:
                plain = [mine for mine, _ in both]
            elif case.cfg != base.cfg:
                moved = max(effect(a, b) for a, (b, _) in zip(plain, both, strict=True))
                effects[case.option] = max(moved, effects.get(case.option, 0.0))
    return rows, effects


def effect(before: parity.Side, after: parity.Side) -> float:
    return max(abs(after.loss - before.loss), float((after.gradient - before.gradient).abs().max()))


def model_rows(chosen: Sequence[Case], world: model.World) -> list[Row]:
    """Every algorithm as it is, and the first one with every option."""
    rows = []
    for base in (case for case in chosen if not case.lent):
        first = base.algorithm == cases.ALGORITHMS[0].algorithm
        for case in cases.options(base) if first else [base]:
            if case.micro_batches > 1:
                continue
            for found in model.compare(case, world):
                rows += rows_of("model", case, found)
    return rows


def rloo_rows(folder: Path, world: model.World) -> list[Row]:
    rows = []
    for case in rloo.CASES:
        at_model: list[tuple[Level, dict[str, Distance]]]
        at_model = [("model", found) for found in rloo.at_model_level(case, world)]
        for level, found in [("formula", rloo.at_formula_level(case, folder)), *at_model]:
            del found["loss"]  # another on purpose
            rows += rows_of(level, case, found)
    return rows


# -- tables ----------------------------------------------------------------------------------------------------------------


NUMBERS = ("compared", "largest", "difference", "tolerance", "moves by", "loss", "gradient", "metrics")


def table(title: str, columns: Sequence[str]) -> Table:
    made = Table(title=title, box=SIMPLE, title_justify="left", pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in NUMBERS else "left")
    return made


def show_algorithms(rows: Sequence[Row], console: Console) -> list[str]:
    """A row for each algorithm and quantity; returns what was 0 on both sides throughout."""
    complaints = []
    for level in TOLERANCE:
        of_level = [row for row in rows if row.level == level]
        words = "float64" if level == "formula" else "float32"
        made = table(
            f"{level} level, {words}: TRL's largest number, and the largest difference from it, over all options",
            (
                "algorithm",
                "quantity",
                "compared",
                "largest",
                "difference",
                "tolerance",
                "at option",
                "",
            ),
        )
        before = ""
        for (_, algorithm, quantity), some in grouped(of_level, lambda row: row.family).items():
            told = worst(some)
            if not told["size"]:
                complaints.append(f"{level}, {algorithm}: {quantity} is 0 on both sides in every comparison")
            made.add_row(
                "" if algorithm == before else algorithm,
                quantity,
                str(told["compared"]),
                f"{told['size']:.3g}",
                f"{told['gap']:.1e}",
                f"{told['tolerance']:.0e}",
                told["option"] if told["gap"] else "",
                verdict(some),
            )
            before = algorithm
        if of_level:
            console.print(made)
    return complaints


def show_options(rows: Sequence[Row], effects: Mapping[str, float], console: Console) -> list[str]:
    """A row for each option at the formula level; returns those that change nothing."""
    made = table(
        "formula level, by option: largest difference over all algorithms that have it",
        ("option", "moves by", "algorithms", "loss", "gradient", "metrics", ""),
    )
    parts: dict[str, list[Row]] = {}
    for row in (row for row in rows if row.level == "formula"):
        parts.setdefault(row.option, []).append(row)
    for option, some in parts.items():
        loss, gradient = ([row for row in some if row.quantity == name] for name in ("loss", "gradient"))
        metrics = [row for row in some if row.quantity not in ("loss", "gradient", "advantages")]
        made.add_row(
            option,
            f"{effects[option]:.3g}" if option in effects else "",
            str(len({row.algorithm for row in some})),
            *(f"{max(row.gap for row in part):.1e}" if part else "" for part in (loss, gradient, metrics)),
            verdict(some),
        )
    console.print(made)
    console.print(
        "moves by: how far an option takes rlkit's loss or gradient from what it is without, at most\n"
    )
    return [f"{option} changes nothing" for option, moved in effects.items() if moved < 1e-6]


def show_differences(purpose: Sequence[Difference], console: Console) -> None:
    if not purpose:
        return
    made = table("on purpose: not failures", ("what", "TRL", "rlkit", "in", "differs by"))
    for row in purpose:
        made.add_row(row.name, row.trl, row.rlkit, row.quantity.split("/")[0], f"{row.gap:.2g}")
    console.print(made)


Key = tuple[Level, str, str]


def grouped(rows: Sequence[Row], quantity: Callable[[Row], str]) -> dict[Key, list[Row]]:
    """By level, algorithm and quantity, or its family."""
    parts: dict[Key, list[Row]] = {}
    for row in rows:
        parts.setdefault((row.level, row.algorithm, quantity(row)), []).append(row)
    return parts


def worst(rows: Sequence[Row]) -> dict[str, Any]:
    """The row furthest from its tolerance, with how many were compared and the largest number among them."""
    row = max(rows, key=excess)
    return {
        **asdict(row),
        "size": max(row.size for row in rows),
        "compared": len(rows),
        "tolerance": row.tolerance,
        "ok": all(row.ok for row in rows),
    }


def excess(row: Row) -> float:
    return math.inf if math.isnan(row.gap) else row.gap / row.tolerance


def verdict(rows: Iterable[Row]) -> str:
    return "ok" if all(row.ok for row in rows) else "[red]FAIL"


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
