"""Known holes of the pinned packages, and what a reader of the code for security says. `make audit` installs the tools and runs it.

    python .ci/audit.py

pip-audit looks the pins of requirements-cpu*.txt up in PyPI's and OSV's lists. bandit reads the code; every finding of medium severity or
more is explained below, by rule and file, or fails. Exits with 1 for a hole, or a finding that nobody has explained; what could
not be asked (no network) is said, and is no pass.
"""

import json
import linecache
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("rlkit", "rewards", "samplers", "analysis", "benchmarks", "examples")
LISTS = ("requirements-cpu.txt", "requirements-cpu-test.txt")

EXPLAINED = {
    (
        "B102",
        "rewards/inside",
    ): "programs under test, in the sandbox or behind the limits that the user chose",
    ("B108", "rewards/bubblewrap.py"): "the sandbox's own /tmp, which vanishes with it",
    ("B108", "samplers/keeper.py"): "names in shared memory that are looked for, not made",
    ("B108", "samplers/transfer.py"): "files are made by tempfile in a folder that only this user can open",
    ("B104", "rlkit/serve_config.py"): "the addresses that are refused",
    ("B113", "samplers/fleet.py"): "every request has a deadline of its own (samplers/worker_http.py)",
    ("B301", "rewards"): "over pipes that only the pool writes; what judged processes send is JSON",
    ("B614", "benchmarks"): "files that this benchmark wrote itself a moment ago, weights_only",
    (
        "B615",
        "",
    ): "a folder, or a revision that the user gives with --model.revision; hub code is never run unasked",
}
"""(rule, beginning of the path) -> why it is no hole."""


@dataclass(frozen=True)
class Found:
    """One finding of bandit."""

    rule: str
    path: str
    line: int
    words: str

    @property
    def reason(self) -> str | None:
        """None: nobody has explained it."""
        return next(
            (
                why
                for (rule, path), why in EXPLAINED.items()
                if rule == self.rule and self.path.startswith(path)
            ),
            None,
        )


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)


def code() -> list[Found]:
    done = run("bandit", "-q", "-r", *ROOMS, "-f", "json", "-ll")
    return [
        Found(r["test_id"], r["filename"].removeprefix("./"), r["line_number"], r["issue_text"])
        for r in json.loads(done.stdout)["results"]
    ]


def packages(requirements: str) -> tuple[str, bool]:
    """What the lists of holes say of the pins, in words, and whether they were asked and said nothing bad."""
    said = []
    for service in ("pypi", "osv"):
        done = run(
            "pip_audit",
            "-s",
            service,
            "--no-deps",
            "--disable-pip",
            "--progress-spinner",
            "off",
            "-f",
            "json",
            "-r",
            requirements,
        )
        try:
            pins = json.loads(done.stdout)["dependencies"]
        except ValueError:
            said.append(
                f"{service}: cannot be asked ({(done.stderr.strip() or 'no words').splitlines()[-1][:90]})"
            )
            continue
        asked = [p for p in pins if "skip_reason" not in p]
        holes = [f"{p['name']} {p['version']}: {v['id']}" for p in asked for v in p["vulns"]]
        said.append(
            f"{service}: {len(asked)} of {len(pins)} pins known there, {len(holes)} holes {' '.join(holes)}".rstrip()
        )
        if asked:
            return "; ".join(said), not holes
    return "; ".join([*said, "NOT CHECKED: no list of holes could be asked"]), False


def show(found: Sequence[Found]) -> bool:
    """Print bandit's findings with their reasons; whether all have one."""
    for finding in found:
        text = linecache.getline(
            str(ROOT / finding.path), finding.line
        ).strip()  # a number would soon be another's
        print(
            f"  {finding.path}: {finding.rule} {finding.words}\n      {text}\n      {finding.reason or 'NOT EXPLAINED'}"
        )
    unexplained = sum(finding.reason is None for finding in found)
    print(f"bandit: {len(found)} findings of medium severity or more, {unexplained} of them not explained")
    return not unexplained


def main() -> int:
    good = True
    for name in LISTS:
        words, clean = packages(name)
        good &= clean
        print(f"pip-audit {name}: {words}")
    return 0 if show(code()) and good else 1


if __name__ == "__main__":
    sys.exit(main())
