"""A checkpoint is whole or not there; what is damaged is told in a sentence; what was there before stays usable."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlkit import checkpoint
from rlkit.algo_config import AlgoConfig
from rlkit.checkpoint import Position
from rlkit.config import LearnerConfig
from rlkit.errors import RunError
from rlkit.learner import Learner
from tests.models import byte_tokenizer, tiny_model

POSITION = Position(
    step=3,
    updates=6,
    sampled_tokens=123,
    data={"epoch": 1, "owed": [2]},
    algo={"records": {"a": {"value": 0.1}}},
)


def make_learner(seed: int = 0, tied: bool = False, steps: int = 1) -> Learner:
    """A learner whose optimizer has made `steps` steps."""
    learner = Learner(
        tiny_model(seed=seed, tied=tied),
        LearnerConfig(),
        AlgoConfig(),
        learning_rate=1e-3,
        temperature=1.0,
        num_iterations=1,
        pad_id=0,
    )
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in learner.model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        learner._step()
    return learner


def save(root: Path, learner: Learner | None = None, step: int = 3, keep: int = 2) -> Path:
    position = Position(
        step=step,
        updates=step,
        sampled_tokens=POSITION.sampled_tokens,
        data=POSITION.data,
        algo=POSITION.algo,
    )
    return checkpoint.save(root, learner or make_learner(), byte_tokenizer(), position, keep)


@pytest.mark.parametrize("tied", [False, True])
def test_a_checkpoint_is_a_model_folder_with_the_same_logits(tmp_path: Path, tied: bool) -> None:
    learner = make_learner(tied=tied)
    folder = save(tmp_path, learner)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    ids_BT = torch.arange(2, 40)[None]
    with torch.no_grad():
        assert torch.equal(loaded(ids_BT).logits, learner.model.eval()(ids_BT).logits)
    assert loaded.dtype == torch.float32
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.encode("abc") == byte_tokenizer().encode("abc")
    assert tokenizer.chat_template == byte_tokenizer().chat_template


def test_position_and_optimizer_come_back_bit_for_bit(tmp_path: Path) -> None:
    learner = make_learner()
    folder = checkpoint.save(tmp_path, learner, byte_tokenizer(), POSITION, 2)
    assert checkpoint.newest(tmp_path) == folder and checkpoint.read_position(folder) == POSITION
    other = make_learner(steps=0)
    checkpoint.restore_optimizer(folder, other, POSITION.updates)
    before, after = learner.optimizer_tensors(), other.optimizer_tensors()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert other.updates == 6 and all(k.split("|")[1] in ("step", "exp_avg", "exp_avg_sq") for k in before)


def test_tensors_in_an_algorithm_s_state_come_back_bit_for_bit(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    row = torch.rand(3, 4, dtype=torch.float64, generator=generator)
    tensors = {
        "doubles": row[1],  # a view: only its own numbers are kept
        "singles": torch.rand(2, 3, generator=generator).t(),  # not contiguous
        "whole": torch.tensor([-1, 2**40]),
        "same": row[1],  # shares memory with another
        "none": torch.empty(0, dtype=torch.int32),
        "number": torch.tensor(0.1),
    }
    state: dict[str, Any] = {
        "steps": 7,
        "of no tensors": {"deeper": [1, 0.1]},
        'a "b"/c': {"x": {}, "deeper": {"still": {"singles": tensors["singles"]}}, **tensors},
        **tensors,
    }
    position = Position(step=3, updates=6, sampled_tokens=123, data={}, algo=state)
    folder = checkpoint.save(tmp_path, make_learner(), byte_tokenizer(), position, 2)
    got = checkpoint.read_position(folder).algo
    assert torch.equal(got['a "b"/c']["deeper"]["still"]["singles"], tensors["singles"])
    assert (got["steps"], got["of no tensors"], got['a "b"/c']["x"]) == (7, {"deeper": [1, 0.1]}, {})
    assert got.keys() == state.keys()
    for place in (got, got['a "b"/c']):
        for name, tensor in tensors.items():
            assert place[name].dtype == tensor.dtype and torch.equal(place[name], tensor)
    assert set(state) - set(tensors) == {"steps", "of no tensors", 'a "b"/c'}  # and nothing was taken out
    assert (folder / "rlkit" / "algo.safetensors").stat().st_size < 3000


@pytest.mark.parametrize("value", [{1, 2}, [torch.zeros(2)]], ids=["a set", "a tensor in a list"])
def test_a_state_that_cannot_be_kept_is_a_sentence(tmp_path: Path, value: object) -> None:
    before = save(tmp_path, step=1)
    position = Position(step=2, updates=2, sampled_tokens=0, data={}, algo={"odd": value})
    with pytest.raises(
        RunError, match="not JSON serializable. A state_dict holds JSON values, and torch tensors"
    ):
        checkpoint.save(tmp_path, make_learner(), byte_tokenizer(), position, 2)
    assert list(tmp_path.iterdir()) == [before]


def test_nothing_in_a_checkpoint_is_pickled(tmp_path: Path) -> None:
    suffixes = {p.suffix for p in save(tmp_path).rglob("*") if p.is_file()}
    assert suffixes <= {".json", ".safetensors", ".jinja"}


def test_only_the_newest_are_kept_and_at_least_one(tmp_path: Path) -> None:
    learner = make_learner()
    for step in (1, 2, 10, 100):
        save(tmp_path, learner, step=step)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000010", "step-000100"]
    save(tmp_path, learner, step=101, keep=0)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000101"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, make_learner(seed=1))
    folder = save(tmp_path, make_learner(seed=2))
    loaded = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(loaded[n], w) for n, w in make_learner(seed=2).weights().items())


def test_a_draft_is_no_checkpoint(tmp_path: Path) -> None:
    save(tmp_path).rename(tmp_path / ".step-000004.draft")
    assert checkpoint.newest(tmp_path) is None
    save(tmp_path, step=4)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000004"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("whole"))


DAMAGES = {
    "state.json cut": ("rlkit/state.json", lambda b: b[:40], "state.json: not a readable checkpoint"),
    "state.json not text": (
        "rlkit/state.json",
        lambda b: b"\xff\xfe\x00",
        "state.json: not a readable checkpoint",
    ),
    "state.json another thing": (
        "rlkit/state.json",
        lambda b: b"[1, 2]",
        "state.json: not a readable checkpoint",
    ),
    "state.json without a step": ("rlkit/state.json", lambda b: b'{"format": 2}', "KeyError: 'step'"),
    "state.json of the future": (
        "rlkit/state.json",
        lambda b: b'{"format": 9}',
        "format 9, this rlkit reads format 2; end the run with the rlkit that began it",
    ),
    "state.json of the past": (
        "rlkit/state.json",
        lambda b: b'{"format": 1}',
        "format 1, this rlkit reads format 2; end the run with the rlkit that began it",
    ),
    "algorithm cut": ("rlkit/algo.safetensors", lambda b: b[:-3], "algo.safetensors: not readable"),
    "algorithm gone": ("rlkit/algo.safetensors", lambda b: None, "algo.safetensors: not readable"),
    "optimizer cut": ("rlkit/optimizer.safetensors", lambda b: b[:-9], "optimizer.safetensors: not readable"),
    "optimizer empty": ("rlkit/optimizer.safetensors", lambda b: b"", "optimizer.safetensors: not readable"),
    "optimizer gone": ("rlkit/optimizer.safetensors", lambda b: None, "optimizer.safetensors: not readable"),
    "weights cut": ("model.safetensors", lambda b: b[:-9], "model.safetensors: not readable"),
    "weights zeroed": ("model.safetensors", lambda b: b"\0" * len(b), "model.safetensors: not readable"),
    "weights gone": ("model.safetensors", lambda b: None, "model.safetensors: not readable"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_a_sentence_that_says_which_folder_to_delete(
    tmp_path: Path, whole: Path, damage: str
) -> None:
    name, change, words = DAMAGES[damage]
    folder = tmp_path / whole.name
    shutil.copytree(whole, folder)
    data = change((folder / name).read_bytes())
    if data is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(data)
    with pytest.raises(RunError) as told:
        checkpoint.read_position(folder)
    assert words in str(told.value) and "\n" not in str(told.value)
    way_out = f"--model {folder}" if "state.json of the" in damage else f"delete the folder {folder}"
    assert way_out in str(told.value)


def test_an_optimizer_of_another_model_is_refused(tmp_path: Path, whole: Path) -> None:
    other = Learner(
        tiny_model(seed=0, intermediate_size=96),
        LearnerConfig(),
        AlgoConfig(),
        learning_rate=1e-3,
        temperature=1.0,
        num_iterations=1,
        pad_id=0,
    )
    with pytest.raises(RunError, match="does not fit this model"):
        checkpoint.restore_optimizer(whole, other, 1)


def tensors_of(folder: Path) -> dict[str, Tensor]:
    learner = make_learner(steps=0)
    checkpoint.restore_optimizer(folder, learner, 1)
    return learner.optimizer_tensors()


def test_a_disk_that_refuses_leaves_the_checkpoint_before_it(tmp_path: Path) -> None:
    """Real refusals: the operating system lets a process write files of at most so many bytes."""
    before = save(tmp_path, make_learner(), step=1)
    files = {p: p.read_bytes() for p in before.rglob("*") if p.is_file()}
    code = f"""
        import os
        import resource
        from pathlib import Path
        from rlkit.errors import RunError
        from tests.unit.test_checkpoint import make_learner, save
        learner, root = make_learner(steps=2), Path({str(tmp_path)!r})
        for limit in (500, 200_000, 600_000):  # too few for config.json, for the weights, for the optimizer
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                save(root, learner, step=2, keep=1)
            except RunError as error:
                print(error, os.listdir(root))
    """
    told = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    lines = told.stdout.splitlines()
    assert len(lines) == 3, told.stderr
    for line in lines:
        assert "step-000002: the checkpoint could not be written" in line and "File too large" in line
        assert "Earlier checkpoints are untouched" in line
        assert line.endswith("['step-000001']")  # no draft is left on the full disk
    assert {p: p.read_bytes() for p in before.rglob("*") if p.is_file()} == files
    assert checkpoint.read_position(tmp_path / "step-000001").step == 1
    assert len(tensors_of(before)) > 0


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(RunError, match="could not be written .Not a directory."):
        save(tmp_path / "checkpoints")


def test_state_json_holds_what_a_person_looks_for(whole: Path) -> None:
    state = json.loads((whole / "rlkit" / "state.json").read_text())
    assert (state["format"], state["step"], state["sampled_tokens"]) == (2, 3, 123)
    assert state["algo"] == POSITION.algo and state["data"] == POSITION.data
