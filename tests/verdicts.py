"""A verifier as a user would bring it (`--reward tests.verdicts:Checksum`): cheap, graded, and never all right or all wrong."""

import os
import signal
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from rlkit.types import Prompt, Score

HOLD = "RLKIT_TEST_HOLD"
"""Environment: a run folder. After step 2 and its checkpoint, verdicts never come, and the folder has a file `held`."""
INTERRUPT = "RLKIT_TEST_INTERRUPT"
"""Environment: a run folder. Once it has the rollouts of step 1, a verdict presses Ctrl-C."""


@dataclass(frozen=True)
class Checksum:
    """0, 1/4, ... 1 by the checksum of the answer; one answer in nine cannot be judged."""

    def __call__(self, prompt: Prompt, text: str) -> Score:
        _interfere()
        number = zlib.crc32(f"{prompt.id} {text}".encode())
        if number % 9 == 0:
            return Score(None, reason="a multiple of nine")
        return Score(number % 5 / 4, reason=f"checksum {number}", parts={"checksum": number % 5 / 4})


@dataclass(frozen=True)
class Uneven:
    """Right or wrong; a third of the prompts are too easy, and a third too hard."""

    def __call__(self, prompt: Prompt, text: str) -> Score:
        _interfere()
        difficulty = zlib.crc32(prompt.id.encode()) % 3
        toss = zlib.crc32(f"{prompt.id} {text}".encode()) % 2
        return Score([1.0, 0.0, float(toss)][difficulty])


def _interfere() -> None:
    held = os.environ.get(HOLD)
    if held and (Path(held) / "rollouts" / "step-000002.parquet").exists():
        while not (Path(held) / "checkpoints" / "step-000002").exists():  # written beside step 3
            time.sleep(0.02)
        (Path(held) / "held").touch()
        time.sleep(600)
    interrupted = os.environ.get(INTERRUPT)
    if interrupted and (Path(interrupted) / "rollouts" / "step-000001.parquet").exists():
        del os.environ[INTERRUPT]
        signal.raise_signal(signal.SIGINT)


def even(prompt: Prompt, text: str) -> float:
    """1.0 when the characters' codes add up to an even number: what a random model meets about half the time."""
    return float(sum(map(ord, text)) % 2 == 0)
