"""The hostile set (tests/hostile.py): counted as what it is, at no other answer's cost, and nothing is left behind."""

import os
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlkit.rewards import VerifierPool
from rlkit.types import Score
from tests.hostile import MARK, Case, Verifier, cases, complaint, left_processes, with_good_answers

ALL = cases()
SAMPLE = [case for case in ALL if case.sample]


@dataclass(frozen=True)
class Judged:
    """The verdicts on some cases and the good answers between them, and what was left when the pool was closed."""

    scores: dict[str, Score]
    good: list[str]
    """Complaints about the good answers."""
    processes: list[int]
    files: list[Path]


def judged(chosen: list[Case], folder: Path, timeout: float) -> Judged:
    token = f"RLKIT_HOSTILE_{uuid.uuid4().hex}"
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    os.environ[token] = "1"
    both = with_good_answers(chosen)
    try:
        with VerifierPool(Verifier(), workers=2, timeout=timeout, memory_limit=400 << 20) as pool:
            scores = pool.score([(case.prompt, case.text) for case in both])
    finally:
        tempfile.tempdir = before
        del os.environ[token]
    return Judged(
        scores={case.name: score for case, score in zip(chosen, scores[::2], strict=True)},
        good=[
            c for case, score in zip(both[1::2], scores[1::2], strict=True) if (c := complaint(case, score))
        ],
        processes=left_processes(token),
        files=[*folder.iterdir(), *Path.cwd().glob(f"*{MARK}*"), *Path("/tmp").glob(f"{MARK}*")],
    )


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judged]:
    yield judged(SAMPLE, tmp_path_factory.mktemp("hostile"), timeout=5.0)


def test_the_set_is_large_and_each_case_has_a_name_of_its_own() -> None:
    assert len({case.name for case in ALL}) == len(ALL) >= 300
    assert {case.counted for case in ALL} == {"right", "wrong", "skip", "error"}


@pytest.mark.parametrize("case", SAMPLE, ids=lambda case: case.name[:40].encode("unicode_escape").decode())
def test_a_hostile_input_is_counted_as_what_it_is(sample: Judged, case: Case) -> None:
    assert complaint(case, sample.scores[case.name]) == ""


def test_good_answers_between_them_all_get_their_score(sample: Judged) -> None:
    assert sample.good == []


def test_they_leave_no_process_and_no_file(sample: Judged) -> None:
    assert (sample.processes, sample.files) == ([], [])


@pytest.mark.slow
def test_the_whole_set_is_counted_as_what_it_is_and_leaves_nothing(tmp_path: Path) -> None:
    all_of_it = judged(ALL, tmp_path, timeout=10.0)
    complaints = [complaint(case, all_of_it.scores[case.name]) for case in ALL]
    assert [c for c in complaints if c] == []
    assert (all_of_it.good, all_of_it.processes, all_of_it.files) == ([], [], [])
