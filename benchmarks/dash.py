"""How long a person waits for the dashboard: a long run, looked at in a real headless Chromium.

    python benchmarks/dash.py            10,000 steps, 1,000,000 tracked tokens, three runs of it beside each other
    python benchmarks/dash.py --small    200 steps: to see that it runs
    python benchmarks/dash.py --json     the last line is one JSON object

The folders are written as the store writes them, tables of a few looks many times over. A view counts as there when the
tab has its content and every figure of it its curves. `first view` begins where a browser with an empty cache asks a new server, which
has read the metrics before it said its address (`server starts`), and ends when the overview has the runs' cards and its four charts;
the diagnosis below them comes after. CPU seconds are those of browser and server together, which other work on the machine changes less
than the seconds on the clock. Needs chromium and chromedriver. Exits with 1 when the first view takes more than 2 s.
"""

import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tyro
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from rlkit.analysis import tracks  # noqa: E402
from tests import browser, run_folders  # noqa: E402

GOAL_SECONDS = 2.0
"""Of the first view."""
EVERY, PATTERNS = 5, 8
"""Steps between looks; different tables among them, which are written many times over."""
TEXTS = ["First 3 + 4 = 7, then 7 * 2 = 14. So \\boxed{14}.", "\\boxed{13}"] * 4


@dataclass(frozen=True)
class Args:
    """Seconds from asking for a view to seeing it."""

    steps: int = 10_000
    tokens: int = 1_000_000
    """Tracked, in all looks of a run together."""
    runs: int = 3
    """Runs of that length in the second row of measurements."""
    repeats: int = 3
    """Servers that are started, each with a new browser."""
    small: bool = False
    """One short run, once."""
    json: bool = False
    """Print one JSON object as the last line."""


def main(args: Args) -> int:
    why = browser.missing()
    if why is not None:
        print(f"cannot be measured: {why}")
        return 0
    steps, tokens, repeats = (200, 4_000, 1) if args.small else (args.steps, args.tokens, args.repeats)
    with tempfile.TemporaryDirectory() as place:
        first = long_run(Path(place) / "runs" / "run-0", steps, tokens)
        size = sum(path.stat().st_size for path in first.rglob("*") if path.is_file()) / 1e6
        print(
            f"{steps:,} steps, {tokens:,} tracked tokens: {size:.0f} MB in {sum(1 for _ in first.rglob('*')):,} files"
        )
        alone = [measured(first) for _ in range(repeats)]
        for i in range(1, args.runs):
            shutil.copytree(first, first.with_name(f"run-{i}"))
        together = [measured(first.parent) for _ in range(repeats)]
    table = Table("view", "one run", f"{args.runs} runs", title="seconds until it is drawn, median (largest)")
    for name in alone[0]:
        table.add_row(name, *(words([found[name] for found in some]) for some in (alone, together)))
    Console().print(table)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, python {platform.python_version()}"
    machine += f", load {os.getloadavg()[0]:.1f}"
    print(f"goal for the first view: {GOAL_SECONDS} s; machine: {machine}")
    if args.json:
        print(json.dumps({"benchmark": "dash", "machine": machine, "one": alone, "together": together}))
    seen = statistics.median(found["first view"] for found in alone)
    return 0 if args.small or seen <= GOAL_SECONDS else 1


def words(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({max(seconds):.2f})"


def measured(folder: Path) -> dict[str, float]:
    """Seconds of each view, in a new browser, from a new server."""
    found: dict[str, float] = {}
    with browser.chromium() as driver:
        began = time.perf_counter()
        with browser.dashboard(folder) as address:
            found["server starts"] = time.perf_counter() - began
            spent, began = cpu_seconds(), time.perf_counter()
            driver.get(address)
            browser.shown(driver)
            found["first view"] = time.perf_counter() - began
            found["first view, CPU"] = cpu_seconds() - spent
            browser.until(lambda: "Reading what" not in browser.text_of(driver), "the diagnosis")
            found["diagnosis in words"] = time.perf_counter() - began
            for number in range(1, len(browser.tabs(driver))):
                tab = browser.tabs(driver)[number]
                name = tab.text
                began = time.perf_counter()
                tab.click()
                browser.until(
                    lambda n=name: driver.find_element("css selector", "nav a.here").text == n, name
                )
                browser.settled(driver)
                found[name] = time.perf_counter() - began
            browser.tabs(driver)[0].click()
            browser.settled(driver)
            found["a new step is seen"] = live(driver, next(folder.rglob("metrics.jsonl")))
            complaints = browser.complaints(driver)
            assert not complaints, complaints
    return found


def cpu_seconds() -> float:
    """Of the browser's and the server's processes so far."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            times = process.cpu_times()
            total += times.user + times.system
    return total


def live(driver: Any, path: Path) -> float:
    """Seconds from a line that a run writes to its step on the page."""
    before = path.read_bytes()
    last = json.loads(before.splitlines()[-1])
    began = time.perf_counter()
    with path.open("a") as file:
        file.write(json.dumps({**last, "step": last["step"] + 1}) + "\n")
    browser.until(lambda: f"{last['step'] + 1:,} of" in browser.text_of(driver), "the new step")
    seconds = time.perf_counter() - began
    path.write_bytes(before)
    return seconds


def long_run(folder: Path, steps: int, tokens: int) -> Path:
    """A run folder of that many steps."""
    import tomli_w

    looks = steps // EVERY
    run_folders.write_run(
        folder, steps=PATTERNS, every=1, texts=TEXTS, tokens=max(1, tokens // looks // len(TEXTS))
    )
    told = {
        "algo": {"name": "grpo"},
        "model": {"name": "tiny"},
        "data": {"name": "task:chain"},
        "steps": steps,
    }
    (folder / "config.toml").write_text(tomli_w.dumps(told))
    rng = np.random.default_rng(0)
    lines = []
    for step in range(1, steps + 1):
        tracked = step == 1 or step % EVERY == 0
        lines.append(json.dumps({"step": step, **run_folders.metrics(step, steps, tracked=tracked, rng=rng)}))
        pattern = 1 + step % PATTERNS
        source = folder / "rollouts" / f"step-{pattern:06d}.parquet"
        if step > PATTERNS:
            shutil.copyfile(source, folder / "rollouts" / f"step-{step:06d}.parquet")
        for table in ("tokens", "decisions") if tracked and step > PATTERNS else ():
            shutil.copyfile(tracks.step_file(folder, table, pattern), tracks.step_file(folder, table, step))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "summary.json").unlink()
    return folder


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
