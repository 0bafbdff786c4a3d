"""`rlkit score`: what it reads, what it counts, what it writes."""

import csv
import gzip
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from scipy.stats import binomtest

from rlkit.analysis.eval_summary import estimate
from rlkit.analysis.intervals import score_interval
from rlkit.errors import DataError
from rlkit.reasons import reason_kind
from rlkit.score_config import ScoreConfig
from rlkit.scoring import tally
from rlkit.scoring.completions import Completions, read_completions, read_label
from rlkit.scoring.tally import Mean, Tally, prompt_number
from rlkit.sources import find_files, read_files
from rlkit.types import Score
from tests.scoring import lengths, read, score, summary, work_in, write


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return work_in(tmp_path, monkeypatch)


# -- what is read ------------------------------------------------------------------------------------------------------


def test_columns_are_recognised_by_name_and_told(folder: Path, capsys: pytest.CaptureFixture[str]):
    write("rows.jsonl", [{"id": "a", "problem": "1+1?", "response": "\\boxed{2}", "answer": "2", "label": 1}])
    assert score("rows.jsonl", "--reward", "math") == 0
    told = capsys.readouterr().err
    assert "completion <- response, gold <- answer, prompt <- problem, id <- id; reward math" in told


def test_columns_may_be_named_and_nested(folder: Path):
    write("rows.jsonl", [{"in": {"q": "1+1?"}, "out": "2", "truth": {"value": 2}, "completion": "3"}])
    flags = "--completion out --gold truth.value --prompt in.q --reward score_rewards.py:shown --out o.jsonl"
    assert score("rows.jsonl", *flags.split()) == 0
    assert read("o.jsonl")[0]["reason"] == "('1+1?', '2', ['completion', 'in', 'truth'])"


def test_a_worked_solution_is_read_where_it_ends(folder: Path):
    write("rows.jsonl", [{"question": "q", "solution": "2*3 = 6\n#### 6", "completion": "#### 6"}])
    assert score("rows.jsonl", "--reward", "math", "--out", "o.jsonl") == 0
    assert read("o.jsonl")[0]["value"] == 1.0


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("4", ["4"]),
        ("", [""]),
        (["4", "5"], ["4", "5"]),
        ([{"role": "assistant", "content": "4"}], ["4"]),
        ([{"role": "user", "content": "q"}, {"role": "assistant", "content": "4"}], ["4"]),
        ([[{"role": "assistant", "content": "4"}], [{"role": "assistant", "content": "5"}]], ["4", "5"]),
    ],
)
def test_a_row_holds_one_completion_or_several(value: object, texts: list[str]):
    assert read_completions({"c": value}, "c") == texts


@pytest.mark.parametrize("value", [None, [], 4, float("nan"), ["4", None], [{"role": "assistant"}]])
def test_what_is_no_completion_is_told(value: object):
    with pytest.raises(DataError, match="^the completion is .* a text or a list of texts in column 'c'$"):
        read_completions({"c": value}, "c")


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (True, True),
        (False, False),
        (1, True),
        (0.0, False),
        ("Yes", True),
        ("incorrect", False),
        ("B", None),
        (None, None),
    ],
)
def test_a_label_says_right_or_wrong_or_nothing(value: object, label: bool | None):
    assert read_label(value) is label


ROWS = [
    {"id": f"r{i}", "prompt": f"{i} + 1?", "gold": f"{i + 1}", "completion": f"\\boxed{{{i + i % 2}}}"}
    for i in range(6)
]


def test_every_format_gives_the_same_verdicts(folder: Path, monkeypatch: pytest.MonkeyPatch):
    write("rows.jsonl", ROWS)
    Path("rows.json").write_text(json.dumps(ROWS))
    with gzip.open("zipped.jsonl.gz", "wt") as file:
        file.write(Path("rows.jsonl").read_text())
    with open("rows.csv", "w", newline="") as file:
        table = csv.DictWriter(file, list(ROWS[0]))
        table.writeheader()
        table.writerows(ROWS)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), "rows.parquet")
    Path("parts/train").mkdir(parents=True)
    write("parts/train/a.jsonl", ROWS[:2])
    write("parts/test.jsonl", ROWS[2:])
    found = {}
    for name in ("rows.jsonl", "rows.json", "zipped.jsonl.gz", "rows.csv", "rows.parquet", "parts", "-"):
        if name == "-":
            monkeypatch.setattr(sys, "stdin", open("rows.jsonl"))
        assert score(name, "--reward", "math", "--out", "o.jsonl", "--overwrite") == 0
        found[name] = sorted(Path("o.jsonl").read_bytes().splitlines())
    assert all(lines == found["rows.jsonl"] for lines in found.values())
    assert [row["value"] for row in read("o.jsonl")] == [0.0, 1.0] * 3


def test_a_bad_row_stops_with_its_place_or_is_counted(folder: Path, capsys: pytest.CaptureFixture[str]):
    good = json.dumps({"gold": "1", "completion": "1"})
    Path("rows.jsonl").write_text(f'{good}\n{{"completion": \n{good}\n{{"gold": "2", "completion": null}}\n')
    assert score("rows.jsonl", "--reward", "math") == 2
    said = capsys.readouterr().err
    assert "rlkit: rows.jsonl, row 2: broken JSON" in said and "--on-bad-row skip" in said
    told = summary(capsys, "rows.jsonl", "--reward", "math", "--on-bad-row", "skip")
    assert (told["completions"], told["rows_skipped"], told["mean"]) == (2, 2, 1.0)
    assert told["first_row_skipped"].startswith("rows.jsonl, row 2: broken JSON")


def test_a_bad_row_late_in_the_file_keeps_what_was_judged(folder: Path, capsys: pytest.CaptureFixture[str]):
    write("rows.jsonl", lengths(200))
    with open("rows.jsonl", "a") as file:
        file.write("{\n")
    command = ("rows.jsonl", "--reward", "score_rewards.py:length", "--out", "o.jsonl")
    assert score(*command) == 2 and not Path("o.jsonl").exists()
    assert "row 201" in capsys.readouterr().err
    assert score(*command, "--on-bad-row", "skip") == 0
    assert "going on after 200 verdicts" in capsys.readouterr().err
    assert len(read("o.jsonl")) == 200


# -- what is counted ---------------------------------------------------------------------------------------------------


def mean_of(values: list[tuple[int, float]]) -> Mean:
    mean = Mean()
    for prompt, value in values:
        mean.add(prompt, value)
    return mean


def test_one_completion_to_a_prompt_has_wilsons_interval():
    """8 of 10, z = 1.96: Wilson's 0.4902 to 0.9433 (Brown, Cai and DasGupta 2001)."""
    low, high = mean_of([(i, float(i < 8)) for i in range(10)]).interval() or (0, 0)
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)


@pytest.mark.parametrize("right", [0, 1, 17, 40])
def test_wilsons_interval_is_scipys(right: int):
    ci = binomtest(right, 40).proportion_ci(method="wilson")
    found = mean_of([(i, float(i < right)) for i in range(40)]).interval()
    assert found == pytest.approx((ci.low, ci.high), abs=1e-12)


def test_answers_to_one_prompt_are_one_cluster():
    """Means 1 and 1/2 of two prompts: variance 1/16 of at most 3/16, dispersion (2/3 + 2) / 3 = 8/9, and with it
    a = 3.8415 * 8/9 / 2 = 1.7073: (0.75 + a/2) / (1 + a) = 0.5923, +- sqrt(a * 3/16 + a^2/4) / (1 + a) = 0.3783."""
    low, high = mean_of([(0, 1.0), (0, 1.0), (1, 0.0), (1, 1.0)]).interval() or (0, 0)
    assert (low, high) == pytest.approx((0.2141, 0.9706), abs=1e-4)


def test_single_answers_have_the_interval_of_a_mean_over_problems():
    """Values 0, 1/2, 1/2, 1: variance 1/8 of at most 1/4, dispersion (2 + 2) / 5 = 0.8, a = 3.8415 * 0.8 / 4 = 0.7683."""
    low, high = mean_of([(0, 0.0), (1, 0.5), (2, 0.5), (3, 1.0)]).interval() or (0, 0)
    assert (low, high) == pytest.approx((0.5 - 0.3296, 0.5 + 0.3296), abs=1e-4)


@pytest.mark.parametrize("shift", [0.0, -2.0])
def test_score_and_eval_have_one_interval(shift: float):
    """Three answers to each of 7 prompts: what `rlkit eval` says of the prompts' means, in [0, 1] and outside."""
    worth = [[(p * k) % 4 / 3 + shift for k in (1, 2, 3)] for p in range(7)]
    per_prompt = {str(p): sum(values) / 3 for p, values in enumerate(worth)}
    said = estimate(per_prompt, seed=0, in_unit=shift == 0)
    mean = mean_of([(p, value) for p, values in enumerate(worth) for value in values])
    assert said is not None and mean.value == pytest.approx(said.mean)
    assert mean.interval() == pytest.approx((said.low, said.high), abs=1e-9)


def test_a_prompt_asked_more_often_than_others_counts_for_less_than_its_answers():
    """One answer, right, and three, wrong: variance 9/64 of at most 3/16 * 1.25, since (1 + 9) / 2 / 2^2 = 1.25."""
    found = mean_of([(0, 1.0), (1, 0.0), (1, 0.0), (1, 0.0)]).interval()
    assert found == pytest.approx(score_interval(0.25, 1.25, 2))
    low, high = mean_of([(0, 1.0)] * 100 + [(p, 0.0) for p in range(1, 101)]).interval() or (0, 0)
    assert high - low > 0.6, "half of the answers are one prompt's; 200 prompts would have 0.14"


def test_equal_values_say_nothing_about_their_spread():
    """Rule of Wilson for 4 of 4: 4 / (4 + 3.8415) = 0.5101; 3 answers to each of 4 prompts are still 4 prompts."""
    for answers in (1, 3):
        low, high = mean_of([(p, 1.0) for p in range(4) for _ in range(answers)]).interval() or (0, 0)
        assert (round(low, 4), round(high, 4)) == (0.5101, 1.0)
    low, high = mean_of([(0, 0.5), (1, 0.5)]).interval() or (
        0,
        0,
    )  # two problems' worth of doubt: dispersion 2/3
    assert (low, high) == pytest.approx((0.1253, 0.8747), abs=1e-4)
    assert mean_of([(0, 7.0)]).interval() is None and Mean().interval() is None


def test_memory_is_bounded_and_the_interval_stays(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tally, "MAX_PROMPTS", 1 << 10)
    mean, count = Mean(), 20_000
    for i in range(count):
        mean.add(prompt_number(str(i)), float(i % 2))
    assert len(mean._by_prompt) <= 1 << 10
    low, high = mean.interval() or (0, 0)
    assert mean.value == 0.5
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / count**0.5, rel=0.05)


def test_reasons_that_differ_in_what_was_read_are_one_kind():
    kinds = {
        reason_kind(r) for r in ("read '4', not '5'", "read 'it\\'s', not \"7'\"", "read '', not '-1.5'")
    }
    assert kinds == {"read ..., not ..."}
    assert reason_kind("timed out after 10 s") == "timed out after ... s"


def test_the_summary_counts_what_there_is(folder: Path, capsys: pytest.CaptureFixture[str]):
    rows = [
        {"set": "x", "gold": "1", "completion": "\\boxed{1}"},
        {"set": "x", "gold": "1", "completion": "\\boxed{2}"},
        {"set": "x", "gold": "1", "completion": "\\boxed{3}"},
        {"set": "y", "gold": None, "completion": "\\boxed{1}"},
        {"set": "y", "gold": "1", "completion": ["\\boxed{1}", "1"]},
    ]
    write("rows.jsonl", rows)
    told = summary(capsys, "rows.jsonl", "--reward", "math+0.5*format", "--by", "set")
    assert (told["completions"], told["scores"], told["skips"], told["errors"]) == (6, 5, 1, 0)
    assert told["mean"] == pytest.approx((1.5 + 0.5 + 0.5 + 1.5 + 1.0) / 5)
    assert told["by"]["x"]["mean"] == pytest.approx(2.5 / 3) and told["by"]["y"]["skips"] == 1
    assert told["parts"]["math"] == {"mean": pytest.approx(3 / 5), "scores": 5}
    assert told["parts"]["format"]["mean"] == pytest.approx(4 / 5)
    assert told["reasons"]["skip"] == [
        {"reason": "math: no gold answer", "count": 1, "example": "rows-4: math: no gold answer"}
    ]
    plain = summary(capsys, "rows.jsonl", "--reward", "math")
    assert plain["reasons"]["zero"][0]["count"] == 2
    assert plain["reasons"]["zero"][0]["reason"] == "read ... in the last box, not equal to ... (as numbers)"


def test_agreement_with_labels_is_a_table_and_a_list(folder: Path, capsys: pytest.CaptureFixture[str]):
    cases = [
        ("1", "1", True),
        ("1", "2", True),
        ("1", "1", False),
        ("1", "2", False),
        (None, "1", False),
        ("1", "1", "?"),
    ]
    write("rows.jsonl", [{"gold": g, "completion": c, "label": label} for g, c, label in cases])
    told = summary(capsys, *"rows.jsonl --reward math --label label --out o.parquet".split())
    assert told["agreement"]["table"] == {
        "right": {"right": 1, "wrong": 1, "skip": 0, "error": 0},
        "wrong": {"right": 1, "wrong": 1, "skip": 1, "error": 0},
        "none": {"right": 1, "wrong": 0, "skip": 0, "error": 0},
    }
    assert (told["agreement"]["agree"], told["agreement"]["labelled"]) == (2, 5)
    listed = read("o-disagreements.jsonl")
    assert [row["id"] for row in listed] == ["rows-2", "rows-3", "rows-5"]
    assert listed[0] | {"reason": ""} == {
        **{"id": "rows-2", "sample": 0, "label": True, "value": 0.0, "outcome": "score", "reason": ""},
        **{"gold": "1", "completion": "2"},
    }


def test_the_table_for_people(folder: Path, capsys: pytest.CaptureFixture[str]):
    write(
        "rows.jsonl", [{"gold": "1", "completion": str(i), "ok": i == 1, "\x1b[2J": 0} for i in (1, 1, 2, 3)]
    )
    assert score(*"rows.jsonl --reward math --by ok --label ok --out o.jsonl".split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("4 completions, mean 0.5000 [0.1500, 0.8500]: 4 scores, 0 skips, 0 errors; ")
    assert [" ".join(line.split()) for line in lines[1:4]] == [
        "group completions mean 95 % interval skips errors",
        "True 2 1.0000 [0.3424, 1.0000] 0 0",
        "False 2 0.0000 [0.0000, 0.6576] 0 0",
    ]
    assert "labels     4 of 4 verdicts are what the label says (100.00%)" in lines
    assert lines[-1] == "verdicts   o.jsonl"


def test_too_many_errors_are_exit_code_1(folder: Path, capsys: pytest.CaptureFixture[str]):
    write("rows.jsonl", [{"completion": "x"} for _ in range(20)])
    assert score("rows.jsonl", "--reward", "score_rewards.py:picky", "--out", "o.jsonl") == 0  # 2 of 20
    assert score("rows.jsonl", "--reward", "score_rewards.py:picky", "--max-error-share", "0.05") == 1
    said = capsys.readouterr().err
    assert "rlkit: 2 of 20 verdicts are errors, more than --reward.max-error-share 0.05" in said
    assert "rows-10: ValueError: no tens" in said
    assert [row["outcome"] for row in read("o.jsonl")].count("error") == 2


def test_nothing_judged_is_exit_code_1(folder: Path, capsys: pytest.CaptureFixture[str]):
    write("rows.jsonl", [{"completion": "x"}])
    assert score("rows.jsonl", "--reward", "math") == 1
    assert (
        "none of 1 completions could be judged (rows-1: no gold answer); check --reward and --gold"
        in capsys.readouterr().err
    )


# -- what is written ---------------------------------------------------------------------------------------------------


def test_a_verdict_is_a_line_beside_its_columns(folder: Path):
    write(
        "rows.jsonl",
        [{"id": 7, "prompt": "q", "completion": ["ab", "abc"], "reason": "old", "odd": "\ud800"}],
    )
    assert score("rows.jsonl", "--reward", "score_rewards.py:length", "--out", "o.jsonl") == 0
    assert Path("o.jsonl").read_text() == (
        '{"id": "7", "sample": 0, "value": 1.0, "outcome": "score", "reason": "2 characters", "parts": {"even": 1.0}, '
        '"prompt": "q", "completion": "ab", "input_reason": "old", "odd": "\ufffd"}\n'
        '{"id": "7", "sample": 1, "value": 0.0, "outcome": "score", "reason": "3 characters", "parts": {"even": 0.0}, '
        '"prompt": "q", "completion": "abc", "input_reason": "old", "odd": "\ufffd"}\n'
    )


@pytest.mark.parametrize(
    ("keep", "columns"),
    [
        ("none", {"answer", "ok"}),
        ("model", {"answer", "ok", "model"}),
        ("all", {"answer", "ok", "model", "completion"}),
    ],
)
def test_columns_are_kept_as_told(keep: str, columns: set[str], folder: Path):
    write("rows.jsonl", [{"id": "a", "answer": "1", "completion": "1", "model": "m", "ok": True}])
    assert score(*f"rows.jsonl --reward math --label ok --out o.jsonl --keep {keep}".split()) == 0
    assert set(read("o.jsonl")[0]) == {"id", "sample", "value", "outcome", "reason", "parts"} | columns


def test_parquet_holds_what_json_lines_hold(folder: Path):
    rows: list[dict[str, Any]] = [
        {
            "response": "x" * i,
            "n": i,
            "f": i / 2 if i else 1,
            "list": [i],
            "map": {"k": [str(i)]},
            "void": None,
        }
        for i in range(30)
    ]
    rows[20] |= {"mixed": "text", "late": 1}
    rows[25] |= {"mixed": {"a": 1}, "empty": {}}
    write("rows.jsonl", rows)
    for out in ("o.jsonl", "o.parquet"):
        assert score("rows.jsonl", "--reward", "score_rewards.py:length", "--out", out) == 0
    found = pyarrow.parquet.read_table("o.parquet").to_pylist()
    for one, other in zip(found, read("o.jsonl"), strict=True):
        one["parts"] = dict(one["parts"])
        for name in ("mixed", "empty"):
            one[name] = None if one[name] is None else json.loads(one[name])
        assert one == {name: other.get(name) for name in one}
        assert other.keys() <= one.keys()


def test_verdicts_to_stdout_are_lines_and_the_summary_is_not(folder: Path, capfdbinary: Any):
    write("rows.jsonl", lengths(5))
    assert score("rows.jsonl", "--reward", "score_rewards.py:length", "--out", "-") == 0
    printed = capfdbinary.readouterr()
    assert [json.loads(line)["id"] for line in printed.out.splitlines()] == [f"rows-{i}" for i in range(1, 6)]
    assert b"5 completions, mean" in printed.err


# -- a run's rollouts --------------------------------------------------------------------------------------------------


def save_run(run: Path, pool: int) -> list[str]:
    """A run folder with two steps of answers, one right and one wrong to each of two prompts; their ids."""
    import tomli_w

    from rlkit.analysis.store import Store
    from rlkit.config import DataConfig, TrainConfig
    from rlkit.rows import task_example
    from rlkit.tasks import make_task
    from rlkit.toml import to_toml
    from rlkit.types import Group, Prompt, Rollout, Segment

    task = make_task("task:chain")
    examples = [task_example(task, "train", i) for i in (0, 1)]
    store = Store(run, tensorboard=False)
    for step in (1, 2):
        groups = []
        for e in examples:
            rollouts = [
                Rollout(
                    prompt_id=e.id,
                    token_ids=[1, 2],
                    logprobs=[0.0, -1.0],
                    segments=[
                        Segment(kind="prompt", start=0, end=1),
                        Segment(kind="completion", start=1, end=2),
                    ],
                    policy_version=step,
                    finish_reason="stop",
                    text=text,
                    score=Score(0.25, reason="of the run"),
                )
                for text in (f"\\boxed{{{e.reference}}}", "\\boxed{none}")
            ]
            groups.append(Group(prompt=Prompt(id=e.id, token_ids=[1]), rollouts=rollouts))
        store.write_rollouts(step, groups, [])
    store.close()
    cfg = TrainConfig(data=DataConfig(name="task:chain", pool=pool))
    (run / "config.toml").write_text(tomli_w.dumps(to_toml(cfg)))
    return [e.id for e in examples]


@pytest.mark.parametrize("pool", [4, 0])
def test_a_run_s_rollouts_are_judged_anew(pool: int, folder: Path, capsys: pytest.CaptureFixture[str]):
    ids = save_run(folder / "run", pool)
    for name, count in (("run", 8), ("run/rollouts", 8), ("run/rollouts/step-000002.parquet", 4)):
        told = summary(capsys, name, "--reward", "exact", "--by", "step", "--out", "o.jsonl", "--overwrite")
        assert (told["completions"], told["mean"]) == (count, 0.5)
    rows = read("o.jsonl")
    assert [row["id"] for row in rows] == [ids[0], ids[0], ids[1], ids[1]]
    assert rows[0]["input_reason"] == "of the run" and "token_ids" not in rows[0]
    assert summary(capsys, "run")["reward"] == "auto"  # the run's own: its task's verifier
    assert summary(capsys, "run")["mean"] == 0.5


def test_data_is_joined_by_id(folder: Path, capsys: pytest.CaptureFixture[str]):
    write(
        "data.jsonl",
        [{"id": "a", "question": "1+1?", "answer": "2"}, {"id": "b", "question": "1+2?", "answer": "3"}],
    )
    write("rows.jsonl", [{"prompt_id": "b", "text": "3"}, {"prompt_id": "a", "text": "3"}])
    told = summary(capsys, *"rows.jsonl --data data.jsonl --reward math".split())
    assert (told["mean"], told["completions"]) == (0.5, 2)
    write("rows.jsonl", [{"prompt_id": "c", "text": "3"}])
    assert score(*"rows.jsonl --data data.jsonl --reward math".split()) == 2
    assert "rows.jsonl, row 1: the data has no prompt 'c' (column 'prompt_id')" in capsys.readouterr().err


# -- more than fits ----------------------------------------------------------------------------------------------------


def test_many_groups_and_reasons_take_bounded_memory():
    many = Tally(right_at=1.0, by=True, labelled=False)
    for i in range(20_000):
        word = "".join(chr(97 + int(d)) for d in str(i))
        many.add(name=str(i), prompt=i, group=word, label=None, score=Score(0.0, reason=word))
    told: Mapping[str, Any] = many.told()
    assert len(told["by"]) == 501 and told["by"]["(other)"]["completions"] == 19_500
    assert told["reasons"]["zero"][0] == {"reason": "(other)", "count": 10_000, "example": "19999: bjjjj"}


def test_completions_are_read_as_they_are_asked_for(folder: Path):
    """The first hundred rows decide the columns; the rest of an endless source is left alone."""
    write("rows.jsonl", lengths(150))
    with open("rows.jsonl", "a") as file:
        file.write("{\n")
    raw = read_files("rows.jsonl", find_files("rows.jsonl"))
    stream = iter(Completions("rows.jsonl", raw, ScoreConfig()))
    assert [next(stream).prompt.id for _ in range(150)][-1] == "rows-150"
    with pytest.raises(DataError, match="row 151"):
        next(stream)


# -- real completions --------------------------------------------------------------------------------------------------


def test_real_graded_completions(folder: Path, capsys: pytest.CaptureFixture[str]):
    if "RLKIT_DATA" not in os.environ:
        pytest.skip("RLKIT_DATA is not set: no graded completions")
    graded = str(Path(os.environ["RLKIT_DATA"]) / "graded_completions.jsonl.gz")
    flags = "--reward math --gold gold --completion completion --label label --by dataset --limit 300"
    told = summary(capsys, graded, *flags.split())
    assert told["scores"] == 300 and told["agreement"]["share"] > 0.99
    assert sum(group["completions"] for group in told["by"].values()) == 300
