"""`rlkit rewards`: what there is, each explained, and each held against gold answers."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from rlkit.cli import main
from rlkit.rewards.spec import VERIFIERS
from rlkit.scoring.check import _others

REWARDS = """
from rlkit.types import Score

def credulous(prompt, text):
    return 1.0

class Letters:
    def __call__(self, prompt, text):
        return Score(float(text == f"<{prompt.reference}>"))

    def gold_text(self, prompt):
        return None if prompt.reference is None else f"<{prompt.reference}>"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "check_rewards.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("check_rewards", None)  # of another test
    return tmp_path


def write(path: str, rows: list[dict[str, Any]]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def check(capsys: pytest.CaptureFixture[str], code: int, *args: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["rewards", "check", *args, "--workers", "0", "--json"]) == code
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def test_the_list_names_every_verifier(capsys: pytest.CaptureFixture[str]):
    assert main(["rewards"]) == 0
    lines = capsys.readouterr().out.splitlines()
    named = {line.split()[0]: line for line in lines if line}
    assert {*VERIFIERS, "auto"} <= named.keys()
    assert all(len(named[name].split()) > 3 for name in VERIFIERS)


@pytest.mark.parametrize("name", list(VERIFIERS))
def test_each_verifier_is_explained(name: str, capsys: pytest.CaptureFixture[str]):
    assert main(["rewards", name]) == 0
    told = capsys.readouterr().out
    assert f"--reward {name}\n" in told and "rlkit score outputs.jsonl --reward" in told
    assert "no help" not in told


def test_options_are_shown_with_type_and_default(capsys: pytest.CaptureFixture[str]):
    assert main(["rewards", "format"]) == 0
    told = capsys.readouterr().out
    assert "  max_tail  a whole number, default 100\n      Characters, white space apart," in told
    assert "range  0 to 1" in told


def test_auto_is_explained_too(capsys: pytest.CaptureFixture[str]):
    assert main(["rewards", "auto"]) == 0
    assert "task's own verifier" in capsys.readouterr().out


def test_gold_answers_are_scored_against_themselves_and_each_other(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    golds = ["1/2", "0.5", "7", "a sentence is no mathematics that a rule can judge", None]
    write("rows.jsonl", [{"id": f"r{i}", "question": "?", "answer": gold} for i, gold in enumerate(golds)])
    told = check(capsys, 1, "math", "--data", "rows.jsonl")
    assert (told["rows"], told["right"], told["fails"], told["no_gold"]) == (5, 4, 0, 1)
    # every pair that holds the two halves against each other is suspicious, and nothing else
    crossed = {(f["id"], f["other"]) for f in told["findings"] if f["trouble"] == "suspicious"}
    assert crossed <= {("r0", "r1"), ("r1", "r0")} and told["pairs"] == 4


def test_two_words_for_one_answer_are_suspicious(folder: Path, capsys: pytest.CaptureFixture[str]):
    write("rows.jsonl", [{"id": "a", "answer": "1/2"}, {"id": "b", "answer": "0.5"}])
    told = check(capsys, 0, "math", "--data", "rows.jsonl")
    assert (told["right"], told["suspicious"]) == (2, 2)
    assert {(f["id"], f["other"], f["answer"]) for f in told["findings"]} == {
        ("a", "b", "\\boxed{0.5}"),
        ("b", "a", "\\boxed{1/2}"),
    }


@pytest.mark.parametrize(
    "reward",
    [
        "0.5*math",  # 0.5 is all there is
        "0.7*math+0.2*format+0.1*length(limit=200)",  # 1.0 but for rounding: 0.7 + 0.2 + 0.1 is 0.9999999999999999
        "math+2*format",  # 2.0 for the wrong answer in a box, 3.0 for the right one
    ],
)
def test_right_is_what_is_worth_the_most(reward: str, folder: Path, capsys: pytest.CaptureFixture[str]):
    write("rows.jsonl", [{"id": "a", "answer": "3"}, {"id": "b", "answer": "4"}])
    told = check(capsys, 0, reward, "--data", "rows.jsonl")
    assert (told["right"], told["fails"], told["suspicious"]) == (2, 0, 0)


def test_a_gold_answer_that_only_its_own_words_match_is_found(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    sentence = "It is never true that the two lines meet, since they are parallel by construction."
    write("rows.jsonl", [{"id": "a", "answer": sentence}, {"id": "b", "answer": "7"}])
    told = check(capsys, 0, "math", "--data", "rows.jsonl")
    assert (told["right"], told["unjudged"], told["suspicious"]) == (2, 1, 0)
    (finding,) = told["findings"]
    assert (finding["id"], finding["outcome"], finding["answer"]) == ("a", "skip", "\\boxed{7}")


def test_equal_gold_answers_are_held_against_others(folder: Path):
    """Three yes and a no: every yes meets the no, the no one of the yes."""
    pairs = _others(["yes", "yes", "no", "yes"], seed=3)
    assert [i for i, _ in pairs] == [0, 1, 2, 3]
    assert [j for i, j in pairs if i != 2] == [2, 2, 2] and dict(pairs)[2] != 2
    assert _others(["yes", "yes"], seed=0) == _others([], seed=0) == []


def test_a_verifier_that_accepts_anything_is_found(folder: Path, capsys: pytest.CaptureFixture[str]):
    write("rows.jsonl", [{"answer": str(i)} for i in range(9)])
    told = check(capsys, 0, "check_rewards.py:credulous", "--data", "rows.jsonl")
    assert (told["right"], told["pairs"], told["suspicious"]) == (9, 9, 9)


def test_a_verifier_with_its_own_way_of_writing_gets_it(folder: Path, capsys: pytest.CaptureFixture[str]):
    write("rows.jsonl", [{"answer": "A"}, {"answer": "B"}, {"answer": ""}])
    told = check(capsys, 0, "check_rewards.py:Letters", "--data", "rows.jsonl", "--max-failures", "0.4")
    assert (told["right"], told["no_gold"], told["suspicious"]) == (2, 1, 0)
    assert check(capsys, 1, "check_rewards.py:Letters", "--data", "rows.jsonl")["no_gold"] == 1


def test_what_fails_is_listed_with_its_reason(folder: Path, capsys: pytest.CaptureFixture[str]):
    write("rows.jsonl", [{"id": i, "answer": "{" if i % 2 else str(i)} for i in range(30)])
    command = ["rewards", "check", "exact", "--data", "rows.jsonl", "--workers", "0"]
    assert main([*command, "--out", "findings.jsonl"]) == 1
    told = capsys.readouterr().out
    assert told.startswith("15 of 30 gold answers are right by themselves (50.00%)\n")
    assert "\n15 are not right by themselves\n" in told
    assert "15  read ..., which is not ..." in told and "and 5 more\n" in told
    found = [json.loads(line) for line in Path("findings.jsonl").read_text().splitlines()]
    assert [f["id"] for f in found if f["trouble"] == "fails"] == [str(i) for i in range(1, 30, 2)]
    assert found[0]["gold"] == "{" and found[0]["answer"] == "\\boxed{{}"


def test_a_task_s_gold_answers_are_read_by_its_own_verifier(capsys: pytest.CaptureFixture[str]):
    told = check(capsys, 0, "auto", "--data", "task:chain", "--limit", "40")
    assert (told["rows"], told["right"], told["suspicious"]) == (40, 40, 0)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("mth", "reward 'mth' is not known; did you mean 'math'?"),
        ("math --jsn", "takes nothing, a NAME, or `check REWARD --data DATA`, but got math --jsn"),
        ("check math", "which gold answers? Name the data with --data train.jsonl"),
        ("check --data rows.jsonl", "takes one reward, as math or math+0.1*format, but got none"),
        ("check math --data row.jsonl", "row.jsonl: no such file; did you mean rows.jsonl?"),
        (
            "check math --data rows.jsonl --gold ansver",
            "--gold: column 'ansver' is not known; did you mean 'answer'?",
        ),
        ("check math --data empty.jsonl", "empty.jsonl: it is empty; expected at least one row"),
        ("check math --data broken.jsonl", "broken.jsonl, row 1: broken JSON"),
        ("check math --data rows.jsonl --max-failures 2", "max_failures = 2.0: expected a share in [0, 1]"),
        (
            "check math --data rows.jsonl --workers 0 --out no/where",
            "--out no/where: cannot be written (No such file",
        ),
    ],
)
def test_wrong_use_is_a_sentence(args: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]):
    write("rows.jsonl", [{"answer": "1"}])
    Path("empty.jsonl").touch()
    Path("broken.jsonl").write_text("{\n")
    assert main(["rewards", *args.split()]) == 2
    assert said in capsys.readouterr().err


def test_real_gold_answers_of_math500(folder: Path, capsys: pytest.CaptureFixture[str]):
    if "RLKIT_DATA" not in os.environ:
        pytest.skip("RLKIT_DATA is not set: no gold answers")
    data = str(Path(os.environ["RLKIT_DATA"]) / "math500_first300.jsonl")
    told = check(capsys, 0, "math", "--data", data, "--max-failures", "0.01")
    assert told["rows"] == told["pairs"] == 300 and told["right"] >= 298
    assert told["suspicious"] <= 3
