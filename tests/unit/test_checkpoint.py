"""A checkpoint is whole or not there; what is damaged is told in a sentence; what was there before stays usable."""

import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlkit import checkpoint
from rlkit.algo_config import AlgoConfig
from rlkit.checkpoint import About, Position, Saver, choose, folder_of, random_states, randomness
from rlkit.checkpoint import read as reading
from rlkit.checkpoint import write as writing
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


ABOUT = About(config="steps = 3\n", versions={"torch": "2"}, place={"ranks": 1})


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
        learner.step(0.0, [], [])
    return learner


def put(root: Path, learner: Learner, position: Position, keep: int = 2) -> Path:
    Saver(root, learner, byte_tokenizer(), keep=keep, about=ABOUT).save(position, wait=True)
    return folder_of(root, position.step)


def save(root: Path, learner: Learner | None = None, step: int = 3, keep: int = 2) -> Path:
    return put(root, learner or make_learner(), replace(POSITION, step=step, updates=step), keep)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


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
    folder = put(tmp_path, learner, POSITION)
    assert choose(tmp_path).folder == folder and checkpoint.read_position(folder) == POSITION
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
    folder = put(tmp_path, make_learner(), position)
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
        put(tmp_path, make_learner(), position)
    assert names(tmp_path) == ["latest", before.name]


def test_nothing_in_a_checkpoint_is_pickled(tmp_path: Path) -> None:
    suffixes = {p.suffix for p in save(tmp_path).rglob("*") if p.is_file()}
    assert suffixes <= {".json", ".safetensors", ".jinja", ".toml", ""}  # SHA256SUMS has none


def test_only_the_newest_are_kept_and_at_least_one(tmp_path: Path) -> None:
    learner = make_learner()
    for step in (1, 2, 10, 100):
        save(tmp_path, learner, step=step)
    assert names(tmp_path) == ["latest", "step-000010", "step-000100"]
    save(tmp_path, learner, step=101, keep=0)
    assert names(tmp_path) == ["latest", "step-000101"]
    save(tmp_path, learner, step=50, keep=1)  # after a resume from step 40, say: what was just written stays
    assert names(tmp_path) == ["latest", "step-000050"]
    assert (tmp_path / "latest").resolve() == tmp_path / "step-000050"


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, make_learner(seed=1))
    folder = save(tmp_path, make_learner(seed=2))
    loaded = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(loaded[n], w) for n, w in make_learner(seed=2).weights().items())


def test_a_draft_is_no_checkpoint(tmp_path: Path) -> None:
    save(tmp_path).rename(tmp_path / ".step-000004.draft")
    assert choose(tmp_path).folder is None
    save(tmp_path, step=4)
    assert names(tmp_path) == ["latest", "step-000004"]


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    folder = save(tmp_path)
    for left in (".step-000004.draft", ".step-000001.old"):  # killed while it wrote, and while it deleted
        shutil.copytree(folder, tmp_path / left)
    writing.clean(tmp_path)
    assert names(tmp_path) == ["latest", "step-000003"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("whole"))


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "a bit flipped in the middle": lambda b: flipped(b, len(b) // 2),
    "a bit flipped at the end": lambda b: flipped(b, len(b) - 1),
    "a bit flipped at the start": lambda b: flipped(b, 0),
    "the last byte gone": lambda b: b[:-1],
    "half of it": lambda b: b[: len(b) // 2],
    "empty": lambda b: b"",
    "zeros": lambda b: b"\0" * len(b),
    "gone": lambda b: None,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_is_found_before_anything_is_loaded(
    tmp_path: Path, whole: Path, damage: str
) -> None:
    """Every file of a checkpoint in turn; the one before it is taken, and what is wrong names the file."""
    good = shutil.copytree(whole, tmp_path / "step-000002")
    for name in ("state.json", "SHA256SUMS"):  # made into what a save of step 2 would have left
        path = good / "rlkit" / name
        path.write_text(path.read_text().replace('"step": 3', '"step": 2'))
    writing.sums.write(good)
    files = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file())
    assert len(files) >= 10
    for file in files:
        folder = shutil.copytree(whole, tmp_path / whole.name)
        data = DAMAGES[damage]((folder / file).read_bytes())
        if data is None:
            (folder / file).unlink()
        else:
            (folder / file).write_bytes(data)
        found = choose(tmp_path)
        assert found.folder == good, f"{file}: {found}"
        ((passed, why),) = found.passed_over
        assert passed == folder and "\n" not in str(found)
        if file.as_posix() != "rlkit/SHA256SUMS":
            assert file.as_posix() in why, why
        shutil.rmtree(folder)


def test_what_is_passed_over_is_told_and_set_aside(tmp_path: Path) -> None:
    learner = make_learner()
    for step in (1, 2, 3):
        save(tmp_path, learner, step=step, keep=3)
    for step, file in ((2, "rlkit/optimizer.safetensors"), (3, "model.safetensors")):
        path = folder_of(tmp_path, step) / file
        path.write_bytes(flipped(path.read_bytes(), 5000))
    found = choose(tmp_path)
    differs = "is not what was written: its checksum differs"
    assert str(found) == (
        f"passed over {tmp_path}/step-000003: model.safetensors {differs}; "
        f"passed over {tmp_path}/step-000002: rlkit/optimizer.safetensors {differs}; "
        f"going on from {tmp_path}/step-000001, its checksums hold"
    )
    reading.set_aside(found)
    assert names(tmp_path) == ["damaged-step-000002", "damaged-step-000003", "latest", "step-000001"]
    save(
        tmp_path, learner, step=2, keep=1
    )  # the damaged ones are no checkpoints, so none of them is kept instead
    assert names(tmp_path)[2:] == ["latest", "step-000002"] and choose(tmp_path).passed_over == ()


def test_without_one_good_checkpoint_the_user_decides(tmp_path: Path) -> None:
    folder = save(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        RunError, match=r"no checkpoint can be used \(step-000003: model.safetensors is missing\)"
    ):
        choose(tmp_path)


def test_sha256sum_reads_the_checksums(whole: Path) -> None:
    told = subprocess.run(
        ["sha256sum", "--check", "--strict", "rlkit/SHA256SUMS"], cwd=whole, capture_output=True, text=True
    )
    assert told.returncode == 0 and "model.safetensors: OK" in told.stdout
    listed = {line.partition(":")[0] for line in told.stdout.splitlines()}
    assert listed | {"rlkit/SHA256SUMS"} == {
        p.relative_to(whole).as_posix() for p in whole.rglob("*") if p.is_file()
    }


def test_a_file_that_would_be_loaded_needs_a_checksum_and_a_note_does_not(tmp_path: Path) -> None:
    folder = save(tmp_path)
    (folder / "NOTES.md").write_text("the one of the paper")
    assert choose(tmp_path).folder == folder
    shutil.copy(folder / "model.safetensors", folder / "model-00002-of-00002.safetensors")
    with pytest.raises(RunError, match="model-00002-of-00002.safetensors has no checksum"):
        choose(tmp_path)


def as_format(folder: Path, number: int) -> None:
    """A checkpoint as an older rlkit left it."""
    for name in ("SHA256SUMS", "random.safetensors", "config.toml"):
        (folder / "rlkit" / name).unlink()
    path = folder / "rlkit" / "state.json"
    state = json.loads(path.read_text())
    for name in ("written", "versions", "place"):
        del state[name]
    path.write_text(json.dumps({**state, "format": number}))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("updates", "3", "updates is 3, expected a whole number"),
        ("sampled_tokens", float("inf"), "sampled_tokens is inf, expected a whole number"),
        ("data", [], "data is [], expected an object"),
        ("algo", None, "algo is None, expected an object"),
        ("versions", 7, "versions is 7, expected an object"),
        ("written", {"metrics.jsonl": "many"}, "written holds what is no whole number"),
    ],
)
def test_a_state_of_another_form_is_refused_though_its_checksums_hold(
    tmp_path: Path, name: str, value: object, words: str
) -> None:
    folder = save(tmp_path)
    path = folder / "rlkit" / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    writing.sums.write(folder)
    with pytest.raises(RunError) as told:
        choose(tmp_path)
    assert f"step-000003: rlkit/state.json cannot be read (TypeError: {words})" in str(told.value)


def test_a_part_that_can_make_nothing_of_its_state_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the algorithm cannot go on from what it holds .KeyError: 'steps'"):
        checkpoint.put_back(tmp_path, "the algorithm", lambda state: state["steps"], {})
    with pytest.raises(RunError, match="the generators cannot go on from what it holds .KeyError"):
        checkpoint.put_back(tmp_path, "the generators", randomness.restore, {"torch": torch.zeros(1)})


def test_format_2_is_read_as_it_is_and_its_headers_are_checked(tmp_path: Path) -> None:
    learner = make_learner()
    folder = save(tmp_path, learner)
    as_format(folder, 2)
    found = choose(tmp_path)
    assert found.unchecked and "written before rlkit kept checksums" in str(found)
    assert checkpoint.read_position(folder) == replace(POSITION, step=3, updates=3)
    assert random_states(folder, 0) == {} and reading.was_at(folder) == ({}, {})
    assert reading.config_of(tmp_path) is None
    for file in ("model.safetensors", "rlkit/optimizer.safetensors"):
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes(whole[:-9])
        with pytest.raises(RunError, match="no checkpoint can be used .step-000003: .*ncomplete"):
            choose(tmp_path)
        (folder / file).write_bytes(whole)


@pytest.mark.parametrize("number", [1, 9])
def test_another_format_is_refused_with_a_way_out(tmp_path: Path, number: int) -> None:
    folder = save(tmp_path)
    as_format(folder, number)
    with pytest.raises(RunError) as told:
        choose(tmp_path)
    assert f"format {number}, this rlkit reads format 3; end the run with the rlkit that began it" in str(
        told.value
    )
    assert f"--model {folder}" in str(told.value)


def test_large_files_are_divided_and_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "SHARD_SIZE", 200_000)
    monkeypatch.setattr("rlkit.learner.outgoing.SHARD_SIZE", 200_000)
    learner = make_learner()
    folder = save(tmp_path, learner)
    assert (folder / "model.safetensors.index.json").is_file()
    for pattern in ("model-0*.safetensors", "rlkit/optimizer-0*.safetensors"):
        assert len(list(folder.glob(pattern))) > 1
    assert choose(tmp_path).folder == folder
    loaded = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(loaded[n], w) for n, w in learner.weights().items())
    before, after = learner.optimizer_tensors(), tensors_of(folder)
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


def test_global_generators_come_back(tmp_path: Path) -> None:
    import random

    import numpy as np

    def draw() -> list[float]:
        return [random.random(), random.gauss(), np.random.rand(), np.random.randn(), float(torch.rand(()))]

    randomness.seed(3)
    first = draw()  # an odd number of normals: both hold the other of the pair back
    folder = put(tmp_path, make_learner(), replace(POSITION, random=randomness.states()))
    # make_learner has drawn from torch's; what counts is the moment of the position.
    kept = random_states(folder, 0)
    assert random_states(folder, 1) == {}
    randomness.restore(kept)
    second = draw()
    randomness.seed(3)
    assert draw() == first != second
    randomness.restore(kept)
    assert draw() == second


def test_a_save_beside_the_steps_holds_the_weights_of_its_moment(tmp_path: Path) -> None:
    learner = make_learner()
    before = {n: w.clone() for n, w in learner.weights().items()}
    moments = {n: t.clone() for n, t in learner.optimizer_tensors().items()}
    with Saver(tmp_path, learner, byte_tokenizer(), keep=2, background=True) as saver:
        for step in (1, 2):  # the second copy goes into the memory of the first
            saver.save(replace(POSITION, step=step))
            with torch.no_grad():
                for p in learner.model.parameters():
                    p.add_(1.0)
    first = AutoModelForCausalLM.from_pretrained(folder_of(tmp_path, 1)).state_dict()
    second = AutoModelForCausalLM.from_pretrained(folder_of(tmp_path, 2)).state_dict()
    assert all(torch.equal(first[n], w) for n, w in before.items())
    assert all(torch.equal(second[n], w + 1.0) for n, w in before.items())
    saved = tensors_of(folder_of(tmp_path, 1))
    assert all(torch.equal(saved[k], t) for k, t in moments.items())
    assert choose(tmp_path) == reading.Found(folder=folder_of(tmp_path, 2))


def test_a_save_beside_the_steps_that_fails_is_told_at_the_next(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    saver = Saver(tmp_path / "checkpoints", make_learner(), byte_tokenizer(), keep=2, background=True)
    saver.save(POSITION)
    with pytest.raises(RunError, match="could not be written .Not a directory."):
        saver.save(replace(POSITION, step=4))


def test_without_memory_for_a_copy_the_step_waits_and_it_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    saver = Saver(
        tmp_path,
        make_learner(),
        byte_tokenizer(),
        keep=2,
        background=True,
        free_bytes=lambda: 10**5,
        say=said.append,
    )
    saver.save(POSITION)
    assert choose(tmp_path).folder is not None, "it is there when the call returns"
    assert len(said) == 1 and "checkpoints are written while the step waits" in said[0]


def test_a_step_that_is_saved_already_is_not_written_again(tmp_path: Path) -> None:
    folder = save(tmp_path)
    made = folder.stat().st_ino
    saver = Saver(tmp_path, make_learner(seed=1), byte_tokenizer(), keep=2, saved_step=3)
    saver.save(POSITION, wait=True)
    assert folder.stat().st_ino == made


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
                print(error, sorted(os.listdir(root)))
    """
    told = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    lines = told.stdout.splitlines()
    assert len(lines) == 3, told.stderr
    for line in lines:
        assert "step-000002: the checkpoint could not be written" in line and "File too large" in line
        assert "Earlier checkpoints are untouched" in line
        assert line.endswith("['latest', 'step-000001']")  # no draft is left on the full disk
    assert {p: p.read_bytes() for p in before.rglob("*") if p.is_file()} == files
    assert checkpoint.read_position(tmp_path / "step-000001").step == 1
    assert len(tensors_of(before)) > 0


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(RunError, match="could not be written .Not a directory."):
        save(tmp_path / "checkpoints")


def test_state_json_holds_what_a_person_looks_for(whole: Path) -> None:
    state = json.loads((whole / "rlkit" / "state.json").read_text())
    assert (state["format"], state["step"], state["sampled_tokens"]) == (3, 3, 123)
    assert state["algo"] == POSITION.algo and state["data"] == POSITION.data
