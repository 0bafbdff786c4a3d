"""A folder with rewards for `rlkit score`, and rows to be judged by them."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rlkit.cli import main

REWARDS = """
import time
from pathlib import Path
from rlkit.types import Score

HERE = Path(__file__).parent

def length(prompt, text):
    return Score(len(text) % 3 / 2, reason=f"{len(text)} characters", parts={"even": len(text) % 2 == 0})

def slow(prompt, text):
    time.sleep(0.005)
    return Score(float(len(text) % 2), reason=f"{len(text)} characters")

def waits(prompt, text):
    if prompt.id == "rows-40" and (HERE / "hold").exists():
        (HERE / "held").touch()
        time.sleep(600)
    return float(len(text) % 2)

def picky(prompt, text):
    if prompt.id.endswith("0"):
        raise ValueError("no tens")
    return 1.0

def silent(prompt, text):
    return None

def shown(prompt, text):
    return Score(1.0, reason=repr((prompt.question, prompt.reference, sorted(prompt.row))))
"""


def work_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, with the rewards in it and as the working folder."""
    (tmp_path / "score_rewards.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("score_rewards", None)
    return tmp_path


def write(path: str | Path, rows: list[dict[str, Any]]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def score(*args: str) -> int:
    """In this process, the verifier too."""
    return main(["score", *args, "--workers", "0"])


def summary(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    capsys.readouterr()
    assert score(*args, "--json") == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def lengths(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"q{i}", "response": "x" * (i % 7), "level": i % 2} for i in range(count)]
