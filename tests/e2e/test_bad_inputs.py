"""What rlkit says when the fault is not its own: one sentence and an exit code for each, and never a traceback."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rlkit.checkpoint import sums
from rlkit.cli import main
from tests.bad_files import FILES
from tests.bad_inputs import OUTSIDE, SMALL, TABLE, Bad, documentation

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every bad file, a model, and a run of two steps."""
    import torch
    from safetensors.torch import load_file, save_file

    from tests.models import save_tiny_model

    folder = tmp_path_factory.mktemp("bad")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    model = save_tiny_model(folder / "model", seed=0)
    for name in ("weights-only", "config-only", "cut", "mixed"):
        shutil.copytree(model, folder / name)
    (folder / "weights-only" / "config.json").unlink()
    (folder / "config-only" / "model.safetensors").unlink()
    whole = (model / "model.safetensors").read_bytes()
    (folder / "cut" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"] = torch.zeros(3)
    save_file(weights, folder / "mixed" / "model.safetensors", metadata={"format": "pt"})
    with working_in(folder):
        assert main(["train", *SMALL.split(), "--output-dir", "runs/done"]) == 0
    for name in ("other-data", "unreadable", "cut", "edited", "edited-config", "newer"):
        shutil.copytree(folder / "runs/done", folder / "runs" / name)
    other_data = folder / "runs/other-data"
    for config in (other_data / "config.toml", other_data / "checkpoints/step-000002/rlkit/config.toml"):
        config.write_text(config.read_text().replace("pool = 256", "pool = 128"))
    sums.write(other_data / "checkpoints/step-000002")
    config = folder / "runs/edited-config/config.toml"
    config.write_text(config.read_text().replace("seed = 0", "seed = 3"))
    (folder / "runs/edited/metrics.jsonl").write_text('{"step": 1, reward: 0.5}\n')
    checkpoint = "checkpoints/step-000002/rlkit"
    (folder / "runs/unreadable" / checkpoint / "state.json").write_text("{")
    (folder / "runs/cut" / checkpoint / "optimizer.safetensors").write_bytes(b"half")
    newer = folder / "runs/newer/checkpoints/step-000002"
    state = json.loads((newer / "rlkit/state.json").read_text())
    (newer / "rlkit/state.json").write_text(json.dumps(state | {"format": 9}))
    sums.write(newer)
    return folder


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A hub that refuses, and a cache that holds nothing."""
    import datasets
    from huggingface_hub import constants

    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    nowhere = "http://127.0.0.1:9"
    monkeypatch.setenv("HF_ENDPOINT", nowhere)
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.mark.parametrize("bad", [b for part in TABLE.values() for b in part], ids=lambda bad: bad.what)
def test_a_bad_input_is_told_in_one_sentence(
    bad: Bad, folder: Path, no_hub: None, capsys: pytest.CaptureFixture[str]
):
    if bad.what in OUTSIDE:
        code, told = outside(bad, folder)
    else:
        capsys.readouterr()
        with working_in(folder):
            try:
                code = main(shlex.split(bad.command)[1:])
            except SystemExit as left:
                code = left.code
        printed = capsys.readouterr()
        told = printed.out + printed.err
    told = told.replace(str(folder), "FOLDER")
    assert "Traceback" not in told, told
    sentences = re.findall(r"^(?:rlkit|problem): (.*)$", told, flags=re.MULTILINE)
    assert len(sentences) == 1, told
    assert re.fullmatch(re.escape(bad.message).replace(r"\.\.\.", ".*"), sentences[0]), sentences[0]
    assert code == bad.code


HIDE_VLLM = """
import sys

class Hidden:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] == "vllm" else self.finder.find_spec(name, path, target)

sys.meta_path = [Hidden(finder) for finder in sys.meta_path]
"""
HOLD = "from filelock import FileLock; lock = FileLock('runs/busy/.lock'); lock.acquire(); print('held', flush=True); input()"


def outside(bad: Bad, folder: Path) -> tuple[int, str]:
    """Exit code and output of the command in a process of its own, in the circumstances that its row names."""
    holder, command = None, f"{shlex.quote(sys.executable)} -m {bad.command}"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    if bad.what == "vLLM not installed":
        (folder / "hide").mkdir()
        (folder / "hide" / "sitecustomize.py").write_text(HIDE_VLLM)
        env["PYTHONPATH"] = f"{folder / 'hide'}:{ROOT}"
    if bad.what == "output folder in use":
        (folder / "runs/busy").mkdir()
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    if bad.what == "full disk":
        command = f"ulimit -f 64; {command}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    if holder is not None:
        holder.communicate(b"\n")
    return done.returncode, done.stdout


GSM8K_ROW = {
    "question": "Tom has 3 boxes with 4 pens each. How many pens has he?",
    "answer": "He has 3*4 = <<3*4=12>>12 pens.\n#### 12",
}


@pytest.mark.parametrize("dry_run", [True, False])
def test_without_a_network_a_dry_run_tells_the_plan_and_a_real_one_ends(
    dry_run: bool,
    no_hub: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    Path("gsm8k.jsonl").write_text(json.dumps(GSM8K_ROW) + "\n")
    args = shlex.split("train --algo skpo --model Qwen2.5-Math-7B --data gsm8k.jsonl")
    assert main([*args, *["--dry-run"] * dry_run]) == (0 if dry_run else 2)
    told = capsys.readouterr().err
    for line in (
        "Qwen2.5-Math-7B -> Qwen/Qwen2.5-Math-7B on the hub (weights not in the hub's cache, to be downloaded)",
        "7,615,616,512 parameters: 28 layers of 3584, 28 heads (4 kv) of 128",
        "32 prompts x (8 segments + 8 continuations) = 512 samples; trained: 32 segments + 256 continuations -> 1 update of 288",
        "columns   question <- question, answer <- answer (after ####)",
        "Tom has 3 boxes with 4 pens each.",
        "\\boxed{12} -> 1: ",
        "note: template and lengths unchecked: pass a local path (--model /path/to/folder)",
        "problem: --model Qwen2.5-Math-7B: found no tokenizer of Qwen/Qwen2.5-Math-7B in the cache folder",
        "not ready to train: 1 problem",
    ):
        assert line in told, told
    assert not Path("runs").exists()


def test_the_documentation_is_this_table():
    written = (ROOT / "docs/errors.md").read_text()
    assert written == documentation(), "run `python -m tests.bad_inputs > docs/errors.md`"


def test_no_row_is_there_twice():
    rows = [bad.what for part in TABLE.values() for bad in part]
    assert len(rows) == len(set(rows))


@pytest.mark.parametrize(
    "command", ["rlkit tasks | head -1", "rlkit train --help | head -1", "rlkit algos >&-"]
)
def test_a_reader_that_has_seen_enough_is_no_error(command: str):
    command = f"set -o pipefail; {shlex.quote(sys.executable)} -m {command}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
