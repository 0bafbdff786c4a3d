"""A short, seeded part of the fuzz campaign (benchmarks/fuzz.py): every reader of untrusted input ends well, or in one sentence."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from rlkit.analysis.store import Store, read_metrics
from rlkit.columns import look_up
from rlkit.config import ModelConfig
from rlkit.errors import ModelError, RunError
from rlkit.learner import dump
from rlkit.models import folder_place
from rlkit.rewards.options import option_texts

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
INPUTS = {"toml": 6, "flags": 10, "answers": 8, "run folder": 10}
"""Of readers that take longer than a millisecond; others are given 40."""


@pytest.fixture(scope="module")
def fuzz() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import fuzz
    finally:
        sys.path.remove(str(BENCHMARKS))
    return fuzz


NAMES = [
    *("toml", "flags", "rows", "data file", "answers", "rewards", "checkpoint", "checkpoint values"),
    *("run folder", "dump", "dump values", "model config", "metrics values"),
]


def test_every_reader_is_tried(fuzz: Any) -> None:
    assert list(fuzz.READERS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_no_input_ends_in_a_traceback(name: str, fuzz: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "BATCH", INPUTS.get(name, 40))
    ran, findings = fuzz.campaign(fuzz.READERS[name], 0.0, 7)
    assert ran > 0 and not findings, findings


def test_a_reader_that_raises_is_a_finding_with_its_smallest_input(fuzz: Any) -> None:
    def read(value: bytes, folder: Path) -> None:
        if b"\x07" in value:
            raise KeyError("bell")

    reader = fuzz.Reader(st.binary(max_size=20), read)
    ran, (finding,) = fuzz.campaign(reader, 0.0, 1)
    assert (finding.error, finding.example) == ("KeyError: 'bell'", "b'\\x07'") and ran > 1


# -- what the campaign has found -------------------------------------------------------------------------------------------


def test_metrics_that_are_not_utf_8_are_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'\xfb{"step": 1}\n')
    with pytest.raises(RunError, match="holds a line that is not JSON"):
        read_metrics(tmp_path)


@pytest.mark.parametrize("line", [b"3", b"[1]", b'{"step": null}', b'{"step": Infinity}', b"\xff"])
def test_a_run_with_a_damaged_line_goes_on_without_it(line: bytes, tmp_path: Path) -> None:
    good = json.dumps({"step": 1, "loss": 0.5}).encode()
    (tmp_path / "metrics.jsonl").write_bytes(good + b"\n" + line + b"\n")
    Store(tmp_path, resume_from=5, tensorboard=False).close()
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.5}]


DEEP = "[" * 20_000
"""More than a parser can hold that calls itself."""


def test_brackets_in_brackets_in_brackets_are_broken_json_and_no_traceback(tmp_path: Path) -> None:
    assert look_up({"info": '{"a": ' + DEEP}, "info.a") is None
    assert option_texts(DEEP) == ()
    (tmp_path / "config.json").write_text(DEEP)
    with pytest.raises(ModelError, match="cannot be read .maximum recursion depth"):
        folder_place(tmp_path, ModelConfig(name=str(tmp_path)))
    (tmp_path / "dump.json").write_text(DEEP)
    with pytest.raises(RunError, match="not a readable dump .RecursionError"):
        dump.read(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"a": ' + DEEP + "}\n")
    with pytest.raises(RunError, match="holds a line that is not JSON"):
        read_metrics(tmp_path)
    Store(tmp_path, resume_from=5, tensorboard=False).close()
    assert read_metrics(tmp_path) == []
