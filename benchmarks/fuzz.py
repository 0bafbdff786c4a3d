"""Inputs that nobody wrote, for everything that reads untrusted text or files: each must end well, or in one sentence.

    python benchmarks/fuzz.py                     two minutes for each reader
    python benchmarks/fuzz.py --seconds 5         shorter;  --only toml,flags  some of them;  --json  the last line is one JSON object

What is drawn: valid inputs with bytes flipped, cut, doubled and put in, and texts from the words that a reader knows (hypothesis). A finding
is any exception but an RlkitError, an answer of the wrong type, or more than ten seconds for one input; it is told once per place in the code,
with the smallest input that was found. Verdicts may be late: in a run the pool ends such a verifier. Exits with 1 when there is a finding.
"""

import io
import json
import math
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import tyro
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from sides.fuzz_inputs import ANSWERS, EDITS, FLAGS, ROWS, SPECS, TOML, edited

from rlkit import checkpoint, cli
from rlkit.analysis.store import Store, read_metrics, read_rollouts
from rlkit.checkpoint.read import WITHOUT_SUMS
from rlkit.config import DataConfig, TrainConfig
from rlkit.doctor import Setup, diagnose
from rlkit.errors import RlkitError
from rlkit.learner import dump
from rlkit.rewards import make_verifier
from rlkit.rewards.grammar import parse_spec
from rlkit.rows import check_rows, load_rows
from rlkit.sources import RawRow
from rlkit.types import Credit, Group, Prompt, Rollout, Score, Segment

SECONDS_PER_INPUT = 10.0
BATCH = 200
"""Inputs between two looks at the clock."""


@dataclass(frozen=True)
class Args:
    """How many inputs each reader was given, and what was found."""

    seconds: float = 120.0
    """For each reader."""
    only: str = ""
    """Names with commas; empty: all."""
    seed: int = 0
    """Of the inputs."""
    json: bool = False
    """Print one JSON object as the last line."""


@dataclass(frozen=True)
class Reader:
    """Something that reads, and what it is given."""

    inputs: st.SearchStrategy[Any]
    read: Callable[[Any, Path], None]
    """Reads one input in an empty folder. May raise RlkitError; whatever else is a finding."""


@dataclass(frozen=True)
class Finding:
    """A fault, by the place in our code that it went through last."""

    place: str
    error: str
    example: str


class Late(BaseException):
    """One input took too long."""


# -- who reads it ------------------------------------------------------------------------------------------------------


def read_toml(text: str, folder: Path) -> None:
    path = folder / "run.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    read_flags(["--config", str(path)], folder)


def read_flags(args: list[str], folder: Path) -> None:
    del folder
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            parsed = cli.parse(cli.TrainArgs, cli._start(TrainConfig(), args), args, "rlkit train")
        except SystemExit:  # --help, or a value that the parser itself refuses, in words
            return
    assert isinstance(parsed.cfg, TrainConfig)


def read_rows(rows: list[dict[str, Any]], folder: Path) -> None:
    del folder
    raw = [RawRow(place=f"line {i}", name=str(i), row=row) for i, row in enumerate(rows)]
    found = check_rows(DataConfig(on_bad_row="skip"), "rows.jsonl", raw)
    assert all(isinstance(e.reference, str) for e in found.examples)


def read_data_file(edits: Any, folder: Path) -> None:
    path = folder / "rows.jsonl"
    path.write_bytes(
        edited(b'{"question": "1+1", "answer": "2"}\n{"question": "2+2", "answer": "4", "level": 3}\n', edits)
    )
    load_rows(DataConfig(name=str(path)))


def judge(text: str, folder: Path) -> None:
    del folder
    for name, gold in JUDGES.items():
        prompt = Prompt(id="a", token_ids=[], question="q", reference=gold, row={"options": ["1", "2"]})
        with in_time():
            score = VERIFIERS[name](prompt, text)
        assert isinstance(score, Score) and (score.value is None or math.isfinite(score.value)), score
        # As the gold answer too: data rows are no more trusted than answers.
        with in_time():
            VERIFIERS[name](replace(prompt, reference=text), "\\boxed{4}")


JUDGES = {
    "math": "4",
    "exact": "4",
    "numeric": "4",
    "choice": "A",
    "format": "4",
    "length(limit=20)": "4",
    "repetition": "4",
}
VERIFIERS: dict[str, Any] = {name: make_verifier(name) for name in JUDGES}


def read_spec(spec: str, folder: Path) -> None:
    del folder
    parse_spec(spec)
    make_verifier(spec)


def read_checkpoint(case: tuple[str, Any], folder: Path) -> None:
    """One file of a checkpoint, damaged; the rest as it was."""
    name, edits = case
    place = folder / "step-000003"
    (place / "rlkit").mkdir(parents=True)
    save_file({"w": torch.ones(2)}, place / "model.safetensors")
    save_file({"w|exp_avg": torch.ones(2)}, place / "rlkit" / "optimizer.safetensors")
    save_file({'["values", "a"]': torch.ones(2)}, place / "rlkit" / "algo.safetensors")
    state = {
        "format": WITHOUT_SUMS,  # with checksums nothing damaged is read at all
        "step": 3,
        "updates": 3,
        "sampled_tokens": 9,
        "data": {"epoch": 0},
        "algo": {"values": {}},
    }
    (place / "rlkit" / "state.json").write_text(json.dumps(state))
    path = place / name
    path.write_bytes(edited(path.read_bytes(), edits))
    found = checkpoint.choose(folder).folder
    if found is not None:
        checkpoint.read_position(found)


CHECKPOINT_FILES = [
    "rlkit/state.json",
    "rlkit/algo.safetensors",
    "rlkit/optimizer.safetensors",
    "model.safetensors",
]


def read_run(case: tuple[str, Any], folder: Path) -> None:
    """One file of a run folder, damaged: read, diagnosed, and continued."""
    name, edits = case
    run = folder / "run"
    shutil.copytree(RUN, run)
    path = run / name
    path.write_bytes(edited(path.read_bytes(), edits))
    try:
        records = read_metrics(run)
        diagnose([r for r in records if isinstance(r.get("step"), int)], Setup())
    except RlkitError:
        pass
    try:
        read_rollouts(run, 1)
    except RlkitError:
        pass
    Store(run, resume_from=1, tensorboard=False).close()


RUN_FILES = ["metrics.jsonl", "evaluations.jsonl", "rollouts/step-000001.parquet"]
RUN = Path(tempfile.mkdtemp(prefix="rlkit-fuzz-")) / "run"


def make_run() -> None:
    """The run folder that copies are damaged of."""
    rollout = Rollout(
        prompt_id="a",
        token_ids=[1, 2, 3],
        logprobs=[0.0, -1.0, -1.0],
        segments=[Segment(kind="prompt", start=0, end=1), Segment(kind="completion", start=1, end=3)],
        policy_version=0,
        finish_reason="stop",
        text="4",
        score=Score(1.0, reason="right"),
    )
    group = Group(prompt=Prompt(id="a", token_ids=[1], question="q", reference="4"), rollouts=[rollout])
    store = Store(RUN, tensorboard=False)
    for step in (1, 2):
        store.write_metrics(step, {"loss": 0.1, "reward": 0.5, "grad_norm": 1.0, "entropy": 1.0})
        store.write_rollouts(
            step, [group], [Credit(rollout=rollout, advantages=[1.0, 1.0], weight=1.0, share=1.0)]
        )
        store.write_evaluation({"step": step, "pass_at_1": 0.5})
    store.close()


def read_dump(case: tuple[str, Any], folder: Path) -> None:
    name, edits = case
    told = {
        **{
            "format": dump.FORMAT,
            "update": 1,
            "loss": "nan",
            "grad_norm": "inf",
            "num_tokens": 2,
            "num_high": 0,
            "versions": {},
        },
        "rollouts": [
            {
                **{
                    "row": 0,
                    "prompt_id": "a",
                    "tokens": 3,
                    "policy_version": 0,
                    "finish_reason": "stop",
                    "text": "4",
                },
                **{"score": "1.0", "reason": "right", "surrogate": "ppo", "group": 0},
                "segments": [
                    {"kind": "prompt", "start": 0, "end": 1},
                    {"kind": "completion", "start": 1, "end": 3},
                ],
            }
        ],
    }
    (folder / "dump.json").write_text(json.dumps(told))
    one = torch.ones(1, dtype=torch.float64)
    numbers = {
        "token_ids": torch.tensor([1, 2, 3]),
        "logprobs": one.repeat(3),
        "advantages": one.repeat(2),
        "weight": one,
        "share": one.clone(),
    }
    save_file({**numbers, "denominator": torch.tensor(1.0)}, folder / "numbers.safetensors")
    path = folder / name
    path.write_bytes(edited(path.read_bytes(), edits))
    dump.read(folder)


READERS = {
    "toml": Reader(TOML, read_toml),
    "flags": Reader(FLAGS, read_flags),
    "rows": Reader(ROWS, read_rows),
    "data file": Reader(EDITS, read_data_file),
    "answers": Reader(ANSWERS, judge),
    "rewards": Reader(SPECS, read_spec),
    "checkpoint": Reader(st.tuples(st.sampled_from(CHECKPOINT_FILES), EDITS), read_checkpoint),
    "run folder": Reader(st.tuples(st.sampled_from(RUN_FILES), EDITS), read_run),
    "dump": Reader(st.tuples(st.sampled_from(["dump.json", "numbers.safetensors"]), EDITS), read_dump),
}


# -- the campaign ------------------------------------------------------------------------------------------------------


@contextmanager
def in_time() -> Iterator[None]:
    """A verdict that is late is no finding: in a run the pool ends it."""
    try:
        with _alarm():
            yield
    except Late:
        pass


@contextmanager
def _alarm() -> Iterator[None]:
    def late(signum: int, frame: FrameType | None) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS_PER_INPUT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def place_of(error: BaseException) -> str:
    """The last of our own lines that the error went through."""
    ours = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if "/benchmarks/" not in f.filename and "site-packages" not in f.filename
    ]
    last = next(
        (f for f in reversed(ours) if "/lib/python" not in f.filename and "<frozen" not in f.filename), None
    )
    return "?" if last is None else f"{Path(last.filename).name}:{last.lineno}"


def campaign(reader: Reader, seconds: float, first_seed: int) -> tuple[int, list[Finding]]:
    """So many inputs as fit into the time, at least one batch; how many they were, and what was found."""
    if not RUN.exists():
        make_run()
    ran = 0
    findings: dict[str, Finding] = {}
    until = time.monotonic() + seconds
    turn = first_seed

    def once(value: Any) -> None:
        nonlocal ran
        ran += 1
        with tempfile.TemporaryDirectory() as place:
            try:
                reader.read(value, Path(place))
            except RlkitError:
                return
            except Exception as error:
                if place_of(error) not in findings:  # known ones would hide the others
                    raise

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


def main(args: Args) -> int:
    chosen = [name.strip() for name in args.only.split(",") if name.strip()] or list(READERS)
    table = Table(title=f"hypothesis, seed {args.seed}")
    for column in ("reader", "inputs", "minutes", "findings"):
        table.add_column(column, justify="left" if column == "reader" else "right")
    found: list[tuple[str, Finding]] = []
    told = []
    for name in chosen:
        began = time.monotonic()
        ran, findings = campaign(READERS[name], args.seconds, args.seed)
        minutes = (time.monotonic() - began) / 60
        table.add_row(name, f"{ran:,}", f"{minutes:.1f}", str(len(findings)))
        told.append({"reader": name, "inputs": ran, "minutes": minutes, "findings": len(findings)})
        found += [(name, finding) for finding in findings]
    console = Console(width=110)
    console.print(table)
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
