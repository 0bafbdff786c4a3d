"""What goes wrong around a run, for real: signals, disks, clocks, damaged files, other processes; and the sentence for each."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlkit.analysis.store import read_metrics
from rlkit.cli import main
from tests.bad_inputs import SMALL
from tests.e2e.test_ctrl_c import REWARD, Running
from tests.faults.kills import hashes
from tests.models import save_tiny_model

RUN = [
    *SMALL.split(),
    "--save-every",
    "1",
    "--save-total-limit",
    "3",
    "--seed",
    "5",
    "--eval-every",
    "1",
    "--workers",
    "0",
]
FOUR = ["--steps", "4"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_tiny_model(tmp_path / "model", seed=0)
    (tmp_path / "reward.py").write_text(REWARD)
    monkeypatch.delitem(sys.modules, "reward", raising=False)  # an earlier test's
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*args: str) -> None:
    assert main(["train", *args]) == 0


def words(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said, as one line."""
    return " ".join(capsys.readouterr().err.split())


def same(one: str, other: str) -> None:
    a, b = hashes(Path("runs") / one, 4), hashes(Path("runs") / other, 4)
    assert a == b


# -- files -----------------------------------------------------------------------------------------------------------------


def test_damaged_checkpoints_are_passed_over_and_the_run_is_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bit flipped in one, another cut."""
    train(*RUN, *FOUR, "--output-dir", "runs/whole")
    shutil.copytree("runs/whole", "runs/damaged", symlinks=True)
    newest, second = (Path(f"runs/damaged/checkpoints/step-{step:06d}") for step in (4, 3))
    weights = bytearray((newest / "model.safetensors").read_bytes())
    weights[len(weights) // 3] ^= 1
    (newest / "model.safetensors").write_bytes(weights)
    moments = (second / "rlkit/optimizer.safetensors").read_bytes()
    (second / "rlkit/optimizer.safetensors").write_bytes(moments[:-1])
    capsys.readouterr()
    train("--resume", "runs/damaged")
    told = words(capsys)
    differs = "is not what was written: its checksum differs"
    assert f"passed over {newest}: model.safetensors {differs};" in told
    assert f"passed over {second}: rlkit/optimizer.safetensors {differs};" in told
    assert "going on from runs/damaged/checkpoints/step-000002, its checksums hold" in told
    same("whole", "damaged")
    left = sorted(p.name for p in Path("runs/damaged/checkpoints").iterdir())
    assert left == [
        "damaged-step-000003",
        "damaged-step-000004",
        "latest",
        *(f"step-00000{i}" for i in (2, 3, 4)),
    ]


def test_files_dated_by_a_clock_that_was_set_back_change_nothing(folder: Path) -> None:
    """The clock itself is not moved: it is the whole machine's. What it leaves behind is: the newest checkpoint is dated before the
    older ones, all the rest a year after what the resumed run will write."""
    train(*RUN, *FOUR, "--output-dir", "runs/whole")
    train(*RUN, "--steps", "2", "--output-dir", "runs/back")
    run = Path("runs/back")
    newest = run / "checkpoints/step-000002"
    in_a_year = time.time() + 365 * 86400
    for path in (run, *run.rglob("*")):
        when = 1000.0 if path == newest or newest in path.parents else in_a_year
        os.utime(path, (when, when), follow_symlinks=False)
    assert newest.stat().st_mtime < (run / "checkpoints/step-000001").stat().st_mtime
    train("--resume", "runs/back", *FOUR)
    same("whole", "back")


def test_a_lost_table_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(*RUN, "--steps", "2", "--output-dir", "runs/a")
    Path("runs/a/rollouts/step-000001.parquet").unlink()
    capsys.readouterr()
    train("--resume", "runs/a", "--steps", "3")
    assert "rollouts/ had 2 files and has 1" in words(capsys)


# -- disks -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(folder: Path) -> Iterator[Path]:
    """A disk of 3.5 MB, which holds two checkpoints and a half."""
    mount = folder / "disk"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3500k", "none", str(mount)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"NOT TESTED: a full disk needs the right to mount one ({done.stderr.strip()})")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def test_a_full_disk_ends_the_run_with_its_checkpoints_whole(
    disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(*RUN, *FOUR, "--output-dir", "runs/whole")
    capsys.readouterr()
    assert main(["train", *RUN, *FOUR, "--output-dir", f"{disk}/run"]) == 2
    told = words(capsys)
    assert "the checkpoint could not be written" in told and "o space left on device" in told.replace(
        "(os error 28)", ""
    )
    assert "is the disk full? Earlier checkpoints are untouched; --resume continues from them" in told
    assert not list((disk / "run/checkpoints").glob(".*")), "no draft is left on a full disk"
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    train("--resume", f"{disk}/run")
    assert "passed over" not in words(capsys)
    assert hashes(disk / "run", 4) == hashes(Path("runs/whole"), 4)


def test_a_disk_that_is_read_only_is_a_sentence(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(*RUN, "--steps", "1", "--output-dir", f"{disk}/run")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for args in (["--resume", f"{disk}/run", *FOUR], [*RUN, "--output-dir", f"{disk}/other"]):
        capsys.readouterr()
        assert main(["train", *args]) == 2
        assert "cannot write a run here (Read-only file system); choose another --output-dir" in words(capsys)


# -- another place ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("order", [("hf", "vllm"), ("vllm", "hf")])
def test_a_run_goes_on_with_another_sampler(
    folder: Path, capsys: pytest.CaptureFixture[str], order: tuple[str, str]
) -> None:
    """Both draw from the policy that the learner knows: their log-probs agree with its own, before and after the change."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    first, then = order
    own = ["--sampler", first, "--reward", "tests.verdicts:Checksum", "--num-generations", "4"]
    train(*RUN, *own, "--steps", "2", "--output-dir", "runs/a")
    capsys.readouterr()
    train("--resume", "runs/a", "--sampler", then, *FOUR)
    told = words(capsys)
    assert f"- sampler.name = '{first}' + sampler.name = '{then}' (the same maths)" in told
    assert "going on from runs/a/checkpoints/step-000002" in told
    rows = read_metrics(Path("runs/a"))
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    gaps = [row.get("sampling/sampling_logp_difference/max", 1.0) for row in rows]
    assert max(gaps) < 1e-3, gaps
    evaluations = [json.loads(line) for line in Path("runs/a/evaluations.jsonl").read_text().splitlines()]
    assert [row["step"] for row in evaluations] == [0, 1, 2, 3, 4]


# -- other processes -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("sent", ["SIGTERM", "SIGUSR1"])
def test_a_step_that_cannot_end_in_time_is_given_up_and_made_again(folder: Path, sent: str) -> None:
    """Its verdicts never come; the job is killed in six seconds."""
    own = ["--reward", "reward.py:score", "--timeout", "1000", "--workers", "1", "--log.grace", "6"]
    running = Running(folder, *RUN, *own, "--steps", "100000", "--output-dir", "runs/a")
    running.wait_for("grpo 1/")
    (folder / "hold").touch()
    running.wait_for((folder / "held").exists)
    running.process.send_signal(getattr(signal, sent))
    code, line = running.end()
    steps = len(read_metrics(folder / "runs/a"))
    assert (code, line) == (
        130,
        f"rlkit: stopped after step {steps} (step {steps + 1} was given up in its phase `verify`, and will be repeated as it "
        "was); continue with `rlkit train --resume runs/a`",
    )
    told = running.log.read_text()
    assert (
        f"{sent}: stopping after this step, with a checkpoint; if its update has not begun in 3 s, without it"
        in told
    )
    (folder / "hold").unlink()
    train("--resume", "runs/a", "--steps", str(steps + 2))
    train(*RUN, *own, "--steps", str(steps + 2), "--output-dir", "runs/whole")
    one, other = (hashes(Path("runs") / name, steps + 2) for name in ("a", "whole"))
    assert one == other


@pytest.mark.slow
def test_two_processes_do_not_share_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    running = Running(folder, *RUN, "--steps", "100000", "--output-dir", "runs/a")
    running.wait_for(lambda: any((folder / "runs/a/checkpoints").glob("step-*")))
    for args in (["--resume", "runs/a"], [*RUN, "--output-dir", "runs/a"]):
        capsys.readouterr()
        assert main(["train", *args]) == 2
        assert "runs/a: another rlkit process is writing there; choose another --output-dir" in words(capsys)
    running.process.kill()
    running.process.wait()
    train("--resume", "runs/a", "--steps", "1000000", "--token-budget", "1")  # the lock went with its process


@pytest.mark.slow
def test_a_run_outlives_its_verifier_processes(folder: Path) -> None:
    own = ["--reward", "reward.py:score", "--timeout", "1000", "--workers", "1", "--max-error-share", "0.9"]
    running = Running(folder, *RUN, *own, "--steps", "100000", "--output-dir", "runs/a")
    running.wait_for("grpo 1/")
    (folder / "hold").touch()
    running.wait_for((folder / "held").exists)
    (folder / "hold").unlink()
    before = len(read_metrics(folder / "runs/a"))
    for process in running.children():
        os.kill(process, signal.SIGKILL)
    running.wait_for(lambda: len(read_metrics(folder / "runs/a")) > before + 1)
    running.process.terminate()
    code, line = running.end()
    rows: list[dict[str, Any]] = read_metrics(folder / "runs/a")
    assert code == 130 and "stopped after step" in line
    assert sum(row["verifier/errors"] for row in rows) >= 1, "the answer that was being judged"
