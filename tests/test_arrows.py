"""Who may import whom: every import points down, or stays in its own room.

A room is a folder (algos/, rewards/, ...) or a file of rlkit/; FLOORS is the plan, and a file that is not on it fails
here until somebody says where it belongs.
"""

import ast
import fnmatch
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FLOORS: dict[int, set[str]] = {
    1: {
        *("__init__", "types", "errors", "config", "algo_config", "algo_own", "algo_presets"),
        *("userload", "toml", "flags", "boxed", "simulate_config", "score_config", "reasons"),
        *("sampler_config", "serve_config", "analyze_config", "log_config", "learner_config"),
        *("signals", "staleness", "talks"),
    },
    2: {
        *("rewards", "samplers", "analysis", "algos", "learner", "tasks"),
        *("data", "rows", "columns", "sources", "templates"),
        *(
            "adapted",
            "batch",
            "feed",
            "machine",
            "metrics",
            "models",
            "memory",
            "printable",
            "ranks",
            "verify",
        ),
        *("checkpoint", "stopping", "doctor", "environment", "rollout_metrics", "tiny", "benchmark_names"),
        *("ahead", "drawn"),
    },
    3: {"loop", "mishaps", "evaluate", "eval_show", "preflight", "sft", "show", "scoring", "tracking"},
    4: {"build", "studies"},
    5: {"commands", "examine", "simulate", "analyze_args"},
    6: {"cli"},
    7: {"__main__"},
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}

SHARED = {"adapted", "batch", "feed", "machine", "metrics", "models", "printable", "ranks"}
"""Floor 2, and free to all of floor 2."""
DATA_ROOM = {"data", "rows", "columns", "sources", "templates", "benchmark_names"}
"""Files that are one room without a folder."""
HANDED_IN = {"rewards", "samplers", "algos"}
"""Floor 3 is given these as objects, and names only protocols and plain functions (algos.base, algos.ops, rewards.contract, .grammar)."""
PROTOCOLS = {"rlkit.algos.base", "rlkit.algos.ops", "rlkit.rewards.contract", "rlkit.rewards.grammar"}
LAZY = {"build", "cli"}
"""Import floors 2 and up inside functions, so that `rlkit --help` loads neither torch nor vLLM."""

ONLY_IN = {
    "vllm": ["samplers/vllm_*.py", "samplers/weights.py"],
    "math_verify": ["rewards/symbolic.py"],
    "latex2sympy2_extended": ["rewards/symbolic.py"],
    "trl": ["rlkit/sft.py"],
    "triton": ["rlkit/learner/logprobs_triton.py"],
    "ray": ["samplers/ray_*.py"],
    "dash": ["analysis/dash/*", "rlkit/commands/dash.py"],
}
"""What changes under us changes one file."""
NEVER_IN = {"rewards": {"torch", "transformers", "accelerate", "vllm"}}
"""A reward never sees a tensor."""


@dataclass(frozen=True)
class Import:
    """One imported module, by its full name."""

    name: str
    line: int
    at_load: bool  # at the top of the file, so it runs as soon as the file is imported


def source_files() -> list[str]:
    """Paths of all modules, relative to the root; the links in rlkit/ are not followed."""
    rooms = [ROOT / "rlkit", ROOT / "rewards", ROOT / "samplers", ROOT / "analysis"]
    found = [path for room in rooms for path in room.rglob("*.py")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found if not linked(path))


def linked(path: Path) -> bool:
    return any(parent.is_symlink() for parent in path.parents if parent.is_relative_to(ROOT))


def module_of(path: str) -> str:
    """`rewards/exact.py` -> `rlkit.rewards.exact`."""
    parts = path.removesuffix(".py").removesuffix("/__init__").split("/")
    return ".".join(parts if parts[0] == "rlkit" else ["rlkit", *parts])


def room_of(module: str) -> str:
    """`rlkit.algos.skpo` -> `algos`; `rlkit` -> `__init__`."""
    return module.split(".")[1] if "." in module else "__init__"


def known_modules() -> set[str]:
    return {module_of(path) for path in source_files()}


def imports(path: str, source: str, modules: set[str]) -> list[Import]:
    """Everything a file imports, anywhere in it, absolute and relative."""
    package = module_of(path) if path.endswith("__init__.py") else module_of(path).rpartition(".")[0]
    return [
        Import(name, node.lineno, at_load)
        for node, at_load in statements(ast.parse(source), at_load=True)
        for name in names_of(node, package, modules)
    ]


def statements(node: ast.AST, at_load: bool) -> Iterator[tuple[ast.stmt | ast.Call, bool]]:
    """Import statements and `import_module("...")` calls, and whether each runs when the file is loaded."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom | ast.Call):
            yield child, at_load
        inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            inner = True
        yield from statements(child, at_load and not inner)


def names_of(node: ast.stmt | ast.Call, package: str, modules: set[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, base] if base else above)
        full = (f"{base}.{alias.name}" for alias in node.names)
        return list(dict.fromkeys(name if name in modules else base for name in full))
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        named = ast.unparse(node.func) in ("import_module", "importlib.import_module", "__import__")
        return [str(node.args[0].value)] if named else []
    return []


def complaints(path: str, source: str, modules: set[str] | None = None) -> list[str]:
    """What is wrong with the imports of one file, a sentence each."""
    room = room_of(module_of(path))
    if room not in FLOOR:
        return [
            f"{path}: not on the plan; add `{room}` to FLOORS in tests/test_arrows.py, on the floor it belongs to"
        ]
    found = imports(path, source, known_modules() if modules is None else modules)
    return [
        f"{path}:{entry.line}: imports {entry.name}, but {reason}"
        for entry in found
        if (reason := objection(path, room, entry)) is not None
    ]


def objection(path: str, room: str, entry: Import) -> str | None:
    """Why this file may not import that, or None."""
    top = entry.name.split(".")[0]
    if top != "rlkit":
        return outside(path, room, top)
    other = room_of(entry.name)
    if other not in FLOOR:
        return f"`{other}` is not on the plan (FLOORS in tests/test_arrows.py)"
    mine, theirs = FLOOR[room], FLOOR[other]
    if room in LAZY and room != other and theirs > 1 and entry.at_load:
        return f"{room} imports floors 2 and up inside functions, so that `rlkit --help` stays light"
    if room == other or theirs == 1:
        return None
    if theirs > mine:
        return f"floor {mine} ({room}) does not look up to floor {theirs} ({other})"
    if mine == theirs:
        shared = mine == 2 and (other in SHARED or {room, other} <= DATA_ROOM)
        return (
            None
            if shared
            else f"{room} and {other} are neighbours on floor {mine}: meet on floor 1, or in build/"
        )
    if mine == 3 and other in HANDED_IN and entry.name not in PROTOCOLS:
        return f"floor 3 is handed its {other} by build/ and names only their protocols"
    return None


def outside(path: str, room: str, top: str) -> str | None:
    """The same for packages that are not ours."""
    if FLOOR[room] == 1 and top not in sys.stdlib_module_names:
        return "floor 1 imports the standard library only"
    if top in NEVER_IN.get(room, set()):
        return f"{room}/ works without {top}"
    allowed = ONLY_IN.get(top)
    if allowed is not None and not any(fnmatch.fnmatch(path, pattern) for pattern in allowed):
        return f"{top} is imported in {' and '.join(allowed)} only"
    return None


def test_every_import_points_down():
    wrong = [line for path in source_files() for line in complaints(path, (ROOT / path).read_text())]
    assert not wrong, "\n".join(["", *wrong])


def test_files_are_found():
    files = source_files()
    assert {"rlkit/types.py", "rlkit/algos/base.py", "rewards/exact.py", "samplers/hf.py"} <= set(files)
    assert not [path for path in files if path.startswith("rlkit/rewards")]


MODULES = {
    *("rlkit", "rlkit.types", "rlkit.config", "rlkit.batch", "rlkit.loop", "rlkit.build", "rlkit.data"),
    *("rlkit.algos", "rlkit.algos.base", "rlkit.algos.family", "rlkit.learner", "rlkit.learner.learner"),
    *("rlkit.rewards", "rlkit.rewards.exact", "rlkit.samplers", "rlkit.samplers.hf"),
}


@pytest.mark.parametrize(
    ("path", "source", "reason"),
    [
        ("rlkit/types.py", "import torch", "standard library only"),
        ("rlkit/config.py", "from rlkit.batch import Batch", "does not look up"),
        ("rlkit/algos/family.py", "from rlkit.samplers.hf import HfSampler", "neighbours"),
        ("rlkit/algos/family.py", "from rlkit import loop", "does not look up"),
        ("rlkit/algos/family.py", "from ..learner import Learner", "neighbours"),
        ("rlkit/algos/family.py", "import rlkit.learner.learner as learner", "neighbours"),
        ("rlkit/algos/family.py", "def f():\n    from vllm import LLM", "samplers/vllm_*.py"),
        ("rewards/exact.py", "import torch.nn", "works without torch"),
        ("rewards/exact.py", "from math_verify import parse", "rewards/symbolic.py only"),
        ("samplers/hf.py", "from rlkit.rewards.exact import ExactVerifier", "neighbours"),
        ("samplers/hf.py", "import importlib\nimportlib.import_module('vllm')", "samplers/vllm_*.py"),
        ("rlkit/loop.py", "from rlkit.algos.family import Family", "protocols"),
        ("rlkit/loop.py", "from rlkit.rewards import VerifierPool", "protocols"),
        ("rlkit/loop.py", "from rlkit.evaluate import Evaluation", "neighbours"),
        ("rlkit/data.py", "import trl", "rlkit/sft.py only"),
        ("rlkit/build.py", "from rlkit.loop import train", "inside functions"),
        ("rlkit/cli/dispatch.py", "if True:\n    from rlkit import build", "inside functions"),
        ("rlkit/helpers.py", "", "not on the plan"),
        ("rlkit/loop.py", "from rlkit.helpers import x", "not on the plan"),
    ],
)
def test_a_wrong_arrow_is_found(path: str, source: str, reason: str):
    found = complaints(path, source, MODULES)
    assert len(found) == 1 and reason in found[0], found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("rlkit/config.py", "import tomllib\nfrom rlkit.errors import ConfigError"),
        ("rlkit/algos/family.py", "import torch\nfrom rlkit.batch import Batch\nfrom .base import Stateless"),
        ("rewards/symbolic.py", "from math_verify import parse\nfrom .contract import judge"),
        ("samplers/vllm_engine.py", "from vllm import LLM\nfrom . import weights"),
        ("rlkit/loop.py", "from rlkit.algos.base import Algorithm\nfrom rlkit import batch"),
        ("rlkit/data.py", "from rlkit.columns import find_columns"),
        (
            "rlkit/build.py",
            "from rlkit.config import TrainConfig\ndef f():\n    from rlkit.samplers import hf",
        ),
        (
            "rlkit/build.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rlkit.loop import train",
        ),
        ("rlkit/__main__.py", "from rlkit.cli import main"),
    ],
)
def test_a_right_arrow_passes(path: str, source: str):
    assert complaints(path, source, MODULES) == []


@pytest.mark.parametrize("module", ["rlkit", "rlkit.build", "rlkit.commands.train", "rlkit.cli"])
def test_the_command_line_starts_without_the_heavy_ones(module: str):
    heavy = ["torch", "vllm", "transformers", "datasets", "trl", "accelerate", "scipy", "pyarrow"]
    program = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
