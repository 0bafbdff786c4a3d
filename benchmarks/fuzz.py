"""Inputs that nobody wrote, for everything that reads untrusted text or files: each must end well, or in one sentence.

    python benchmarks/fuzz.py                     two minutes for each reader
    python benchmarks/fuzz.py --seconds 5         shorter;  --only toml,flags  some of them;  --json  the last line is one JSON object
    python benchmarks/fuzz.py --engine atheris    inputs are kept that reach new branches of rlkit, and changed further (pip install atheris)

What is drawn: valid inputs with bytes flipped, cut, doubled and put in, and texts from the words that a reader knows (hypothesis). A finding
is any exception but an RlkitError, an answer of the wrong type, or more than ten seconds for one input; it is told once per place in the code,
with the smallest input that was found. Verdicts may be late: in a run the pool ends such a verifier. Exits with 1 when there is a finding.
"""

import io
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import tyro
from hypothesis import HealthCheck, Phase, given, seed, settings
from rich.console import Console
from rich.table import Table
from sides.fuzz_readers import READERS, Reader, ends_well, place_of

BATCH = 200
"""Inputs between two looks at the clock."""
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Args:
    """How many inputs each reader was given, and what was found."""

    engine: Literal["hypothesis", "atheris"] = "hypothesis"
    """Who draws the inputs; atheris watches which branches they reach."""
    seconds: float = 120.0
    """For each reader."""
    only: str = ""
    """Names with commas; empty: all."""
    seed: int = 0
    """Of the inputs."""
    json: bool = False
    """Print one JSON object as the last line."""


@dataclass(frozen=True)
class Finding:
    """A fault, by the place in our code that it went through last."""

    place: str
    error: str
    example: str


def campaign(reader: Reader, seconds: float, first_seed: int) -> tuple[int, list[Finding]]:
    """So many inputs as fit into the time, at least one batch; how many they were, and what was found."""
    ran = 0
    findings: dict[str, Finding] = {}
    until = time.monotonic() + seconds
    turn = first_seed

    def once(value: Any) -> None:
        nonlocal ran
        ran += 1
        error = ends_well(reader, value)
        if error is not None and place_of(error) not in findings:  # known ones would hide the others
            raise error

    while True:
        drawn = settings(
            max_examples=BATCH,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
            print_blob=False,
        )(seed(turn)(given(reader.inputs)(_shown(once))))
        try:
            with redirect_stdout(io.StringIO()):
                drawn()
            turn += 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            errors = error.exceptions if isinstance(error, BaseExceptionGroup) else [error]
            for one in errors:
                findings[place_of(one)] = Finding(
                    place_of(one), f"{type(one).__name__}: {one}"[:200], LAST[0][:300]
                )
        if time.monotonic() > until:
            return ran, list(findings.values())


LAST = [""]
"""The input that was read last, as text: after shrinking, the smallest that fails."""


def _shown(once: Callable[[Any], None]) -> Callable[[Any], None]:
    def reading(value: Any) -> None:
        LAST[0] = repr(value)
        once(value)

    return reading


def guided(name: str, seconds: float, first_seed: int) -> tuple[int, int, list[Finding]]:
    """The same by atheris, which ends its process. Inputs, branches of rlkit that they reached, findings."""
    with tempfile.TemporaryDirectory(prefix="rlkit-fuzz-") as folder:
        told = Path(folder) / "told.json"
        command = [sys.executable, "-m", "sides.fuzz_guided", name, str(seconds), str(first_seed), str(told)]
        done = subprocess.run(
            command,
            cwd=FOLDER,
            env=os.environ
            | {"TMPDIR": folder, "PYTHONPATH": os.pathsep.join([str(FOLDER.parent), *sys.path])},
            capture_output=True,
            text=True,
        )
        if not told.exists():
            raise SystemExit(f"{name}: atheris ended with {done.returncode}:\n{done.stderr[-2000:]}")
        said = json.loads(told.read_text())
    reached = [int(count) for count in re.findall(r"\bcov: (\d+)", done.stderr)]
    return said["inputs"], reached[-1] if reached else 0, [Finding(**finding) for finding in said["findings"]]


def engine_words(engine: str) -> str:
    """Its name and version. A sentence for a person who has not installed it."""
    try:
        return f"{engine} {version(engine)}"
    except PackageNotFoundError:
        raise SystemExit(f"--engine {engine}: not installed; `pip install {engine}`") from None


def main(args: Args) -> int:
    chosen = [name.strip() for name in args.only.split(",") if name.strip()] or list(READERS)
    watched = args.engine == "atheris"
    table = Table(title=f"{engine_words(args.engine)}, seed {args.seed}")
    for column in ("reader", "inputs", "minutes", "findings", *(["branches reached"] if watched else [])):
        table.add_column(column, justify="left" if column == "reader" else "right")
    found: list[tuple[str, Finding]] = []
    told: list[dict[str, Any]] = []
    for name in chosen:
        began = time.monotonic()
        if watched:
            ran, reached, findings = guided(name, args.seconds, args.seed)
        else:
            (ran, findings), reached = campaign(READERS[name], args.seconds, args.seed), 0
        minutes = (time.monotonic() - began) / 60
        table.add_row(
            name, f"{ran:,}", f"{minutes:.1f}", str(len(findings)), *([f"{reached:,}"] if watched else [])
        )
        told.append({"reader": name, "inputs": ran, "minutes": minutes, "findings": len(findings)})
        found += [(name, finding) for finding in findings]
    console = Console(width=110)
    console.print(table)
    inputs, minutes = sum(row["inputs"] for row in told), sum(row["minutes"] for row in told)
    print(
        f"{inputs:,} inputs in {minutes:.0f} minutes, {len(found)} findings; "
        f"{os.cpu_count()} cores, {platform.machine()}, python {platform.python_version()}"
    )
    for name, finding in found:
        console.print(
            f"{name}, {finding.place}: {finding.error}\n    {finding.example}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if args.json:
        print(json.dumps(told))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
