"""`rlkit env`: what a bug report needs."""

import json
import os
import shutil
from dataclasses import asdict
from typing import Any

from rlkit import environment
from rlkit.printable import printable

from .self_test import Tried
from .self_test import self_test as tried

LINE = "{:<18}{}"


def env(*, self_test: bool, as_json: bool) -> int:
    """Exit code 1: packages that do not work together, or a part of the self-test that failed."""
    known = _known()
    tests: list[Tried] = []
    if self_test:
        tests = list(tried())
    failed = [test.name for test in tests if test.outcome == "failed"]
    if as_json:
        print(json.dumps(known | {"self_test": [asdict(test) for test in tests]}, indent=2))
        return int(bool(known["conflicts"] or failed))
    lines = [
        *(LINE.format(name, version) for name, version in known["versions"].items()),
        LINE.format("python is in a", known["python_home"]),
        "",
        *(LINE.format(name, words) for name, words in known["devices"].items()),
        *(LINE.format(name, value) for name, value in known["variables"].items()),
        "",
        *(
            LINE.format(
                f"[{extra['name']}]",
                f"{'there' if not extra['missing'] else 'not there (' + ', '.join(extra['missing']) + ')'}: {extra['enables']}",
            )
            for extra in known["extras"]
        ),
        LINE.format("bubblewrap", known["bubblewrap"]),
        LINE.format("C++ compiler", known["compiler"]),
        "",
        *(f"does not work together: {sentence}" for sentence in known["conflicts"]),
        *([] if known["conflicts"] else ["no packages are known not to work together"]),
    ]
    if tests:
        lines += ["", *(f"{t.outcome:<10}{t.name}: {t.words} ({t.seconds:.1f} s)" for t in tests)]
    print(printable("\n".join(lines)))
    return int(bool(known["conflicts"] or failed))


def _known() -> dict[str, Any]:
    """Everything that is told without trying anything."""
    return {
        "versions": environment.versions(),
        "python_home": environment.python_home(),
        "devices": environment.devices(),
        "variables": environment.variables(os.environ),
        "extras": [asdict(extra) for extra in environment.extras()],
        "bubblewrap": "there (--reward code)"
        if shutil.which("bwrap")
        else "not there: --reward code needs it",
        "compiler": next(
            (name for name in ("g++", "clang++", "c++") if shutil.which(name)),
            "none: --learner.compile needs one on a CPU",
        ),
        "conflicts": environment.conflicts(),
    }
