"""`rlkit score` stopped at any moment: the same command goes on, and its file is the one of a command that never stopped."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlkit.cli import main
from rlkit.scoring import judging
from tests.processes import require_gone
from tests.scoring import REWARDS, lengths, read, score, work_in, write

ROOT = Path(__file__).parents[2]
PATIENCE = 100.0
"""Seconds for anything that is waited for, on a machine that is busy."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return work_in(tmp_path, monkeypatch)


class Running:
    """`rlkit score` in a process group of its own, as a terminal starts it."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.log = folder / "log"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rlkit", "score", *args],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=self.log.open("w"),
            start_new_session=True,
        )

    def wait_for_verdicts(self, partial: Path, count: int) -> None:
        """Until so many are kept."""
        until = time.monotonic() + PATIENCE
        while kept(partial) < count:
            assert self.process.poll() is None and time.monotonic() < until, self.log.read_text()
            time.sleep(0.02)

    def children(self) -> list[int]:
        found = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(child) for tasks in found for child in tasks.read_text().split()]


def kept(partial: Path) -> int:
    """Verdicts that are on disk and known to be."""
    path = partial / "progress.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return int(json.loads(lines[-1])[0]) if lines and lines[-1].endswith("]") else 0


@pytest.mark.parametrize("out", ["o.jsonl", pytest.param("o.parquet", marks=pytest.mark.slow)])
def test_a_killed_command_goes_on_and_its_file_is_the_same(out: str, folder: Path):
    write("rows.jsonl", lengths(800))
    command = ["rows.jsonl", "--reward", "score_rewards.py:slow", "--label", "level"]
    assert score(*command, "--out", f"whole-{out}") == 0
    journal = folder / f"{out}.partial"
    for _ in range(2):
        before = kept(journal)
        running = Running(folder, *command, "--out", out)
        running.wait_for_verdicts(journal, before + 1)
        children = running.children()
        running.process.kill()
        running.process.wait()
        require_gone(children)
    assert not Path(out).exists() and children
    assert score(*command, "--out", out) == 0
    assert Path(out).read_bytes() == Path(f"whole-{out}").read_bytes()
    listed = [Path(f"{stem}-disagreements.jsonl").read_bytes() for stem in ("o", f"whole-{Path(out).stem}")]
    assert listed[0] == listed[1] != b""
    left = {path.name for path in folder.iterdir()} - {"log", "__pycache__", "score_rewards.py", "rows.jsonl"}
    assert left == {out, f"whole-{out}", "o-disagreements.jsonl", "whole-o-disagreements.jsonl"}


def test_wherever_the_journal_is_cut_the_file_is_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(judging, "BATCH", 64)
    write("rows.jsonl", [*lengths(150), {"prompt": "é" * 40, "response": "ü\n"}])
    with open("rows.jsonl", "a") as file:
        file.write("{\n")  # so that the command ends with its journal left
    command = ("rows.jsonl", "--reward", "score_rewards.py:length", "--out", "o.jsonl")
    assert score(*command) == 2
    partial = Path("o.jsonl.partial")
    verdicts, progress = ((partial / name).read_bytes() for name in ("verdicts.jsonl", "progress.jsonl"))
    assert progress.count(b"\n") >= 2
    assert score(*command, "--on-bad-row", "skip") == 0
    whole = Path("o.jsonl").read_bytes()
    settings = None
    for cut_verdicts, cut_progress in [
        (len(verdicts), len(progress) - 5),
        (len(verdicts) - 3, len(progress)),
        (10, 30),
        (0, 0),
    ]:
        Path("o.jsonl").unlink()
        if settings is None:
            assert score(*command) == 2
            settings = (partial / "settings.json").read_bytes()
        partial.mkdir(exist_ok=True)
        (partial / "settings.json").write_bytes(settings)
        (partial / "verdicts.jsonl").write_bytes(verdicts[:cut_verdicts])
        (partial / "progress.jsonl").write_bytes(progress[:cut_progress])
        assert score(*command, "--on-bad-row", "skip") == 0
        assert Path("o.jsonl").read_bytes() == whole


def test_ctrl_c_says_how_to_go_on(folder: Path):
    write("rows.jsonl", lengths(3000))
    command = ["rows.jsonl", "--reward", "score_rewards.py:slow", "--out", "my file.jsonl"]
    running = Running(folder, *command)
    journal = folder / "my file.jsonl.partial"
    running.wait_for_verdicts(journal, 1)
    children = running.children()
    os.killpg(running.process.pid, signal.SIGINT)
    assert running.process.wait(PATIENCE) == 130
    require_gone(children)
    said = running.log.read_text().strip().split("\n")[-1]
    count = kept(journal)
    assert count > 0
    assert said == (
        f"rlkit: stopped by Ctrl-C after {count:,} verdicts, which are kept; continue with `{shlex.join(['rlkit', 'score', *command])}`"
    )
    going_on = shlex.split(said.partition("`")[2].rstrip("`"))
    assert main([*going_on[1:], "--limit", str(count), "--workers", "0"]) == 0
    assert Path("my file.jsonl").read_bytes().count(b"\n") == count


def test_ctrl_c_without_a_file_says_what_would_have_kept_them(folder: Path):
    write("rows.jsonl", lengths(100))
    (folder / "hold").touch()
    running = Running(folder, *"rows.jsonl --reward score_rewards.py:waits --timeout 1000".split())
    until = time.monotonic() + PATIENCE
    while not (folder / "held").exists():
        assert running.process.poll() is None and time.monotonic() < until, running.log.read_text()
        time.sleep(0.02)
    running.process.terminate()
    assert running.process.wait(PATIENCE) == 130
    assert "with --out FILE the verdicts would be kept" in running.log.read_text()


def partial(folder: Path, *args: str) -> None:
    """An unfinished o.jsonl of 150 verdicts, and rows.jsonl mended."""
    write("rows.jsonl", lengths(150))
    with open("rows.jsonl", "a") as file:
        file.write("{\n")
    assert score("rows.jsonl", "--out", "o.jsonl", *args) == 2
    assert read("o.jsonl.partial/progress.jsonl")[-1][0] == 150
    write("rows.jsonl", lengths(160))


def test_another_reward_does_not_go_on(folder: Path, capsys: pytest.CaptureFixture[str]):
    partial(folder, "--reward", "score_rewards.py:length")
    assert score("rows.jsonl", "--out", "o.jsonl", "--reward", "exact") == 2
    said = capsys.readouterr().err
    assert "reward = exact (it was score_rewards.py:length)" in said and "--overwrite" in said
    assert score("rows.jsonl", "--out", "o.jsonl", "--reward", "score_rewards.py:silent", "--overwrite") == 1
    assert [row["outcome"] for row in read("o.jsonl")] == ["skip"] * 160


def test_changed_reward_code_is_another_reward(folder: Path, capsys: pytest.CaptureFixture[str]):
    partial(folder, "--reward", "score_rewards.py:length")
    Path("score_rewards.py").write_text(REWARDS + "\n# changed\n")
    assert score("rows.jsonl", "--out", "o.jsonl", "--reward", "score_rewards.py:length") == 2
    assert "reward code = " in capsys.readouterr().err


@pytest.mark.parametrize("change", ["order", "text", "shorter"])
def test_changed_completions_are_noticed(change: str, folder: Path, capsys: pytest.CaptureFixture[str]):
    partial(folder, "--reward", "score_rewards.py:length")
    rows = lengths(160)
    rows = {
        "order": rows[::-1],
        "text": [*rows[:3], rows[3] | {"response": "?"}, *rows[4:]],
        "shorter": rows[:9],
    }[change]
    write("rows.jsonl", rows)
    assert score("rows.jsonl", "--out", "o.jsonl", "--reward", "score_rewards.py:length") == 2
    assert "the first 150 completions are not those that were judged before" in capsys.readouterr().err
    assert not Path("o.jsonl").exists()


def test_two_commands_do_not_write_one_file(folder: Path, capsys: pytest.CaptureFixture[str]):
    write("rows.jsonl", lengths(3000))
    running = Running(folder, *"rows.jsonl --reward score_rewards.py:slow --out o.jsonl".split())
    running.wait_for_verdicts(folder / "o.jsonl.partial", 1)
    assert score(*"rows.jsonl --reward score_rewards.py:slow --out o.jsonl".split()) == 2
    assert "--out o.jsonl: another rlkit process is writing it" in capsys.readouterr().err
    running.process.kill()
    running.process.wait()


# -- the world is hostile ----------------------------------------------------------------------------------------------


def shell(folder: Path, command: str) -> tuple[int, str]:
    command = command.replace("rlkit ", f"{shlex.quote(sys.executable)} -m rlkit ")
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr.strip().split("\n")[-1]


def test_a_full_disk_is_told_and_room_helps(folder: Path):
    write("rows.jsonl", [row | {"prompt": "q" * 500} for row in lengths(1000)])
    command = "rlkit score rows.jsonl --reward score_rewards.py:length --workers 1 --out o.jsonl"
    code, said = shell(folder, f"ulimit -f 200; {command}")
    assert code == 2
    assert said.startswith("rlkit: o.jsonl.partial: the disk is full (File too large); make room")
    assert not Path("o.jsonl").exists()
    assert shell(folder, command)[0] == 0
    assert score(*"rows.jsonl --reward score_rewards.py:length --out whole.jsonl".split()) == 0
    assert Path("o.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_a_reader_that_has_seen_enough_is_no_error(folder: Path):
    write("rows.jsonl", [row | {"prompt": "q" * 500} for row in lengths(2000)])
    command = "rlkit score rows.jsonl --reward score_rewards.py:length --workers 1 --out - | head -1 > first"
    assert shell(folder, command)[0] == 0
    assert read("first")[0]["id"] == "rows-1"


@pytest.mark.slow
def test_a_file_larger_than_the_memory_it_may_use(folder: Path):
    """Rows of 400 MB in all, one with a list of 8 MB among them; the process may take 250 MiB."""
    with open("rows.jsonl", "w") as file:
        for i in range(25_000):
            file.write(
                json.dumps({"prompt": f"q{i}", "completion": [str(i % 3)] * 4, "extra": "x" * 16_000}) + "\n"
            )
        file.write(json.dumps({"prompt": "long", "completion": ["x" * 80_000] * 100, "extra": ""}) + "\n")
    assert Path("rows.jsonl").stat().st_size > 400e6
    program = (
        "import sys; from rlkit.cli import main; code = main(sys.argv[1:])\n"
        "most = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(code, int(most.split()[1]) // 1024)"  # ru_maxrss would begin with the parent's
    )
    args = "score rows.jsonl --reward score_rewards.py:length --workers 0 --out o.jsonl --keep none --json"
    done = subprocess.run(
        [sys.executable, "-c", program, *args.split()],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    code, mebibytes = map(int, done.stdout.splitlines()[-1].split())
    assert code == 0, done.stderr
    assert mebibytes < 250
    assert '"completions": 100100' in done.stdout
