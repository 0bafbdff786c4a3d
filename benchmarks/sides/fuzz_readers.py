"""Who reads untrusted text or files, and what fuzz.py gives each of them."""

import copy
import io
import json
import math
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import save_file

from rlkit import build, checkpoint, memory
from rlkit.algo_own import SkpoConfig
from rlkit.algos.base import Sampling
from rlkit.analysis.store import Store, missing, read_metrics, read_rollouts
from rlkit.checkpoint import About, randomness, sums
from rlkit.checkpoint.read import FORMAT, WITHOUT_SUMS, was_at
from rlkit.checkpoint.state_tensors import without_tensors
from rlkit.cli.args import TrainArgs
from rlkit.cli.settings import parse, with_algo
from rlkit.commands.resume import _told as told
from rlkit.config import DataConfig, ModelConfig, TrainConfig
from rlkit.data import PoolData
from rlkit.doctor import Setup, diagnose
from rlkit.errors import RlkitError
from rlkit.examine import cases_of
from rlkit.learner import dump
from rlkit.machine import Machine
from rlkit.models import folder_place, stop_ids
from rlkit.rewards import make_verifier
from rlkit.rewards.grammar import parse_spec
from rlkit.rows import check_rows, load_rows
from rlkit.sources import RawRow
from rlkit.templates import Template
from rlkit.tiny import make_tokenizer
from rlkit.types import Credit, Group, Prompt, Rollout, Score, Segment

from .fuzz_inputs import (
    ANSWERS,
    EDITS,
    FLAGS,
    JSON_EDITS,
    ROWS,
    SPECS,
    TENSOR_EDITS,
    TOML,
    edited,
    json_edited,
    tensors_edited,
)

SECONDS_PER_INPUT = 10.0


@dataclass(frozen=True)
class Reader:
    """Something that reads, and what it is given."""

    inputs: st.SearchStrategy[Any]
    read: Callable[[Any, Path], None]
    """Reads one input in an empty folder. May raise RlkitError; whatever else is a finding."""


class Late(BaseException):
    """One input took too long."""


@contextmanager
def alarm() -> Iterator[None]:
    """Raises Late after SECONDS_PER_INPUT."""

    def late(signum: int, frame: FrameType | None) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS_PER_INPUT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def in_time() -> Iterator[None]:
    """A verdict that is late is no finding: in a run the pool ends it."""
    try:
        with alarm():
            yield
    except Late:
        pass


def ends_well(reader: Reader, value: Any) -> Exception | None:
    """Let it read the value in an empty folder. Returns what went wrong; a sentence of ours is no fault."""
    with tempfile.TemporaryDirectory() as place:
        try:
            with alarm():
                reader.read(value, Path(place))
        except RlkitError:
            return None
        except Late as late:
            return TimeoutError(f"more than {SECONDS_PER_INPUT:.0f} s").with_traceback(late.__traceback__)
        except Exception as error:
            return error
    return None


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


def read_toml(text: str, folder: Path) -> None:
    path = folder / "run.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    read_flags(["--config", str(path)], folder)


def read_flags(args: list[str], folder: Path) -> None:
    del folder
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            parsed = parse(TrainArgs, with_algo(TrainConfig(), args), args, "rlkit train")
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


@cache
def _learned() -> tuple[PoolData, Any]:
    """Prompts that were taken in part, and an SKPO that has met some of them."""
    raw = [RawRow(place=str(i), name=str(i), row={"prompt": f"q{i}", "answer": "4"}) for i in range(5)]
    rows = check_rows(DataConfig(name="hand"), "hand", raw)
    data = PoolData(rows, Template(DataConfig(), make_tokenizer()), max_prompt_length=64, seed=0)
    algo = build.make_algorithm(SkpoConfig(), Sampling(max_completion_length=8, temperature=1.0))
    for prompt in data.take(3):
        algo.tracker.visit(_rollout(prompt.id), [-1.0, -1.0], score=1.0, length=2.0, drift=0.1)
    return data, algo


def read_whole_checkpoint(case: tuple[Any, Any, Any], folder: Path) -> None:
    """Its checksums hold, and its values are others: all that a resume does with them before it samples."""
    state_edits, algo_edits, random_edits = case
    data, algo = _learned()
    place = folder / "step-000003"
    (place / "rlkit").mkdir(parents=True)
    kept, tensors = without_tensors(algo.state_dict())
    state = {
        **{"format": FORMAT, "step": 3, "updates": 3, "sampled_tokens": 9, "data": data.state_dict()},
        **{"algo": kept, "written": {"metrics.jsonl": 3, "rollouts": 3}, "versions": {"torch": "2"}},
        "place": {"ranks": 1, "device": "cpu", "dtype": "float32"},
    }
    (place / "rlkit/state.json").write_text(json.dumps(json_edited(state, state_edits)))
    save_file(tensors_edited(tensors, algo_edits), place / "rlkit/algo.safetensors")
    generators = {f"0|{name}": tensor for name, tensor in randomness.states().items()}
    save_file(tensors_edited(generators, random_edits), place / "rlkit/random.safetensors")
    sums.write(place)
    found = checkpoint.choose(folder).folder
    assert found is not None
    versions, where = was_at(found)
    told(versions, where, About(place=state["place"]))
    start = checkpoint.read_position(found)
    missing(start.written, {"metrics.jsonl": 1, "rollouts": 1})
    data, algo = copy.deepcopy(data), copy.deepcopy(algo)
    checkpoint.put_back(found, "data", data.load_state_dict, start.data)
    data.take(3)
    checkpoint.put_back(found, "algorithm", algo.load_state_dict, start.algo)
    checkpoint.put_back(found, "generators", randomness.restore, checkpoint.random_states(found, 0))


def read_run(case: tuple[str, Any], folder: Path) -> None:
    """One file of a run folder, damaged: read, diagnosed, and continued."""
    name, edits = case
    run = folder / "run"
    shutil.copytree(_whole_run().name, run)
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


def _rollout(prompt_id: str) -> Rollout:
    return Rollout(
        prompt_id=prompt_id,
        token_ids=[1, 2, 3],
        logprobs=[0.0, -1.0, -1.0],
        segments=[Segment(kind="prompt", start=0, end=1), Segment(kind="completion", start=1, end=3)],
        policy_version=0,
        finish_reason="stop",
        text="4",
        score=Score(1.0, reason="right"),
    )


@cache
def _whole_run() -> tempfile.TemporaryDirectory[str]:
    """The run folder that copies are damaged of; it is deleted when the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="rlkit-fuzz-")
    rollout = _rollout("a")
    group = Group(prompt=Prompt(id="a", token_ids=[1], question="q", reference="4"), rollouts=[rollout])
    store = Store(Path(folder.name), tensorboard=False)
    for step in (1, 2):
        store.write_metrics(step, {"loss": 0.1, "reward": 0.5, "grad_norm": 1.0, "entropy": 1.0})
        store.write_rollouts(
            step, [group], [Credit(rollout=rollout, advantages=[1.0, 1.0], weight=1.0, share=1.0)]
        )
        store.write_evaluation({"step": step, "pass_at_1": 0.5})
    store.close()
    return folder


def read_dump(case: tuple[str, Any], folder: Path) -> None:
    """One file of a dump, damaged."""
    name, edits = case
    (folder / "dump.json").write_text(json.dumps(_told_dump()))
    save_file(_dumped_numbers(), folder / "numbers.safetensors")
    path = folder / name
    path.write_bytes(edited(path.read_bytes(), edits))
    dump.read(folder)


def read_dump_values(case: tuple[Any, Any], folder: Path) -> None:
    """Both files are whole, and say something else."""
    json_edits, tensor_edits = case
    (folder / "dump.json").write_text(json.dumps(json_edited(_told_dump(), json_edits)))
    save_file(tensors_edited(_dumped_numbers(), tensor_edits), folder / "numbers.safetensors")
    dump.read(folder)


def _told_dump() -> dict[str, Any]:
    segments = [{"kind": "prompt", "start": 0, "end": 1}, {"kind": "completion", "start": 1, "end": 3}]
    one = {
        **{
            "row": 0,
            "prompt_id": "a",
            "tokens": 3,
            "policy_version": 0,
            "finish_reason": "stop",
            "text": "4",
        },
        **{"score": "1.0", "reason": "right", "surrogate": "ppo", "group": 0, "segments": segments},
    }
    return {
        **{"format": dump.FORMAT, "update": 1, "loss": "nan", "grad_norm": "inf", "num_tokens": 2},
        **{"num_high": 0, "versions": {}, "rollouts": [one]},
    }


def _dumped_numbers() -> dict[str, torch.Tensor]:
    one = torch.ones(1, dtype=torch.float64)
    numbers = {"token_ids": torch.tensor([1, 2, 3]), "logprobs": one.repeat(3), "advantages": one.repeat(2)}
    return {**numbers, "weight": one, "share": one.clone(), "denominator": torch.tensor(1.0)}


def read_model_config(edits: Any, folder: Path) -> None:
    """config.json of a model folder."""
    shape = {
        **{"model_type": "qwen2", "vocab_size": 300, "hidden_size": 64, "intermediate_size": 128},
        **{
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "eos_token_id": [1, 2],
        },
        **{
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
            "architectures": ["Qwen2ForCausalLM"],
        },
    }
    (folder / "config.json").write_text(json.dumps(json_edited(shape, edits)))
    (folder / "generation_config.json").write_text(json.dumps(json_edited({"eos_token_id": 1}, edits)))
    place = folder_place(folder, ModelConfig(name=str(folder)))
    stop_ids(place, None)
    machine = Machine(name="CPU", device="cpu", memory_gib=8.0, free_gib=4.0, disk_free_gib=9.0)
    if place.shape is not None:
        memory.memory_needs(TrainConfig(), place.shape, machine)


def read_metric_values(edits: Any, folder: Path) -> None:
    """Lines that are JSON, of another form than rlkit writes."""
    records = [{"step": i, "loss": 0.1, "reward": 0.5, "grad_norm": 1.0, "entropy": 1.0} for i in (1, 2, 3)]
    changed = json_edited(records, edits)
    lines = changed if isinstance(changed, list) else [changed]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    cases_of(folder)
    Store(folder, resume_from=2, tensorboard=False).close()


READERS = {
    "toml": Reader(TOML, read_toml),
    "flags": Reader(FLAGS, read_flags),
    "rows": Reader(ROWS, read_rows),
    "data file": Reader(EDITS, read_data_file),
    "answers": Reader(ANSWERS, judge),
    "rewards": Reader(SPECS, read_spec),
    "checkpoint": Reader(st.tuples(st.sampled_from(CHECKPOINT_FILES), EDITS), read_checkpoint),
    "checkpoint values": Reader(st.tuples(JSON_EDITS, TENSOR_EDITS, TENSOR_EDITS), read_whole_checkpoint),
    "run folder": Reader(st.tuples(st.sampled_from(RUN_FILES), EDITS), read_run),
    "dump": Reader(st.tuples(st.sampled_from(["dump.json", "numbers.safetensors"]), EDITS), read_dump),
    "dump values": Reader(st.tuples(JSON_EDITS, TENSOR_EDITS), read_dump_values),
    "model config": Reader(JSON_EDITS, read_model_config),
    "metrics values": Reader(JSON_EDITS, read_metric_values),
}
