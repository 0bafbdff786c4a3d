"""A study's folder: whole parts, one study, and nothing of it lost."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlkit.analysis.study_store import StudyStore
from rlkit.errors import RunError

SETTINGS = {"study": "skip", "seed": 0, "sizes": {"prompts": 4}}


def row(first: int, **more: Any) -> dict[str, Any]:
    return {
        "model": "tiny",
        "prompt_id": "a",
        "kind": "skip",
        "prefix": [5, 6],
        "first": first,
        "scores": [1.0, float("nan")],
        "tokens": [3, 4],
        "finals": ["4", None],
        **more,
    }


def test_rows_come_back_in_the_order_of_their_parts(tmp_path: Path) -> None:
    store = StudyStore(tmp_path / "s", SETTINGS)
    for first in (4, 0, 2):
        store.write("draws", [row(first)])
    store.close()
    again = StudyStore(tmp_path / "s", SETTINGS)
    read = again.read("draws")
    again.close()
    assert [r["first"] for r in read] == [4, 0, 2] and read[0]["finals"] == ["4", None]
    assert again.read("answers") == []


def test_a_larger_study_of_the_same_kind_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    StudyStore(tmp_path / "s", SETTINGS).close()
    StudyStore(tmp_path / "s", SETTINGS | {"sizes": {"prompts": 8}}).close()
    assert json.loads((tmp_path / "s/study.json").read_text())["sizes"] == {"prompts": 8}
    with pytest.raises(RunError, match=r"holds another study: seed = 1 \(it was 0\)"):
        StudyStore(tmp_path / "s", SETTINGS | {"seed": 1})
    StudyStore(tmp_path / "s", SETTINGS).close()  # the refusal let go of the folder


def test_two_processes_do_not_write_one_study(tmp_path: Path) -> None:
    held = StudyStore(tmp_path / "s", SETTINGS)
    with pytest.raises(RunError, match="another rlkit process is writing there"):
        StudyStore(tmp_path / "s", SETTINGS)
    held.close()


def test_what_a_kill_leaves_half_written_is_not_read(tmp_path: Path) -> None:
    store = StudyStore(tmp_path / "s", SETTINGS)
    store.write("draws", [row(0)])
    store.close()
    (tmp_path / "s/draws/.000001.parquet.draft").write_bytes(b"half a part")
    again = StudyStore(tmp_path / "s", SETTINGS)
    assert len(again.read("draws")) == 1 and not list((tmp_path / "s/draws").glob(".*"))
    again.close()


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    store = StudyStore(tmp_path / "s", SETTINGS)
    store.write("draws", [row(0)])
    (tmp_path / "s/draws/000000.parquet").write_bytes(b"no parquet")
    with pytest.raises(RunError, match="000000.parquet: not a whole part of a study"):
        store.read("draws")
    store.close()


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="holds something else"):
        StudyStore(tmp_path, SETTINGS)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "words"),
    [("[1, 2]", "holds a list, expected a JSON object"), ("null", "holds a NoneType"), ("{", "is not JSON")],
)
def test_settings_that_are_no_settings_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(RunError, match=f"study.json: {words}.*Choose another --output-dir"):
        StudyStore(tmp_path, SETTINGS)
    assert (tmp_path / "study.json").read_text() == text
