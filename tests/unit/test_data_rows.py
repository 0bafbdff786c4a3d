"""Rows: every layout that peers write, and every bad row and bad source with its sentence."""

import gzip
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rlkit import sources
from rlkit.config import DataConfig
from rlkit.data import Rows, load_rows
from rlkit.errors import DataError

GOOD = [{"prompt": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(5)]


def write_lines(path: Path, rows: list[Any]) -> str:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def load_one(tmp_path: Path, row: Mapping[str, Any], **settings: Any) -> Rows:
    return load_rows(DataConfig(name=write_lines(tmp_path / "rows.jsonl", [row]), **settings))


def refused(name: str, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_rows(DataConfig(name=name, **settings))
    return str(caught.value)


# Layouts

USER = [{"role": "user", "content": "6*7?"}]
LAYOUTS: dict[str, tuple[dict[str, Any], str]] = {
    "trl": ({"prompt": "6*7?", "solution": "42"}, "question <- prompt, answer <- solution"),
    "trl chat": ({"prompt": USER, "ground_truth": 42}, "question <- prompt, answer <- ground_truth"),
    "open-r1": (
        {"problem": "6*7?", "solution": "So it is $\\boxed{42}$."},
        "question <- problem, answer <- solution (last \\boxed)",
    ),
    "verl, dapo": (
        {
            "data_source": "math_dapo",
            "prompt": USER,
            "ability": "MATH",
            "reward_model": {"style": "rule", "ground_truth": "42"},
            "extra_info": {"split": "train", "index": "9a-7", "answer": "long work #### 42"},
        },
        "question <- prompt, answer <- reward_model.ground_truth, id <- extra_info.index",
    ),
    "skyrl": (
        {
            "data_source": "gsm8k",
            "prompt": USER,
            "env_class": "gsm8k",
            "reward_spec": {"method": "rule", "ground_truth": "42"},
            "extra_info": {"split": "train"},
        },
        "question <- prompt, answer <- reward_spec.ground_truth",
    ),
    "verifiers": (
        {"question": "6*7?", "answer": "42", "info": "{}"},
        "question <- question, answer <- answer",
    ),
    "verifiers, info": (
        {"prompt": USER, "info": '{"answer": "42"}'},
        "question <- prompt, answer <- info.answer",
    ),
    "openrlhf": ({"input": "6*7?", "label": "42"}, "question <- input, answer <- label"),
    "nemo": (
        {"message_log": USER, "extra_env_info": {"ground_truth": "42"}, "task_name": "math"},
        "question <- message_log, answer <- extra_env_info.ground_truth",
    ),
    "open-instruct": (
        {
            "messages": [*USER, {"role": "assistant", "content": "42"}],
            "ground_truth": ["42"],
            "dataset": "gsm8k",
        },
        "question <- messages, answer <- ground_truth",
    ),
    "math": (
        {"problem": "6*7?", "solution": "It is \\boxed{43}, no: \\boxed{42}.", "level": "Level 1"},
        "question <- problem, answer <- solution (last \\boxed)",
    ),
    "math-500": (
        {"problem": "6*7?", "solution": "worked \\boxed{41}", "answer": "42", "unique_id": "test/7.json"},
        "question <- problem, answer <- answer, id <- unique_id",
    ),
    "gsm8k": (
        {"question": "6*7?", "answer": "6*7 = <<6*7=42>>42\n#### 42"},
        "question <- question, answer <- answer (after ####)",
    ),
    "deepmath": (
        {"question": "6*7?", "final_answer": "42", "r1_solution_1": "long"},
        "question <- question, answer <- final_answer",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_columns_of_every_peer_are_found_and_said(tmp_path: Path, layout: str) -> None:
    row, mapping = LAYOUTS[layout]
    rows = load_one(tmp_path, row)
    assert str(rows.columns) == mapping
    assert (rows.examples[0].question, rows.examples[0].reference) == ("6*7?", "42")
    assert rows.examples[0].row == row  # verifiers get the other columns
    assert mapping in rows.describe()


def test_the_users_choice_of_columns_wins(tmp_path: Path) -> None:
    row = {"prompt": "no", "text": "6*7?", "answer": "no", "extra": {"gold": 42}}
    rows = load_one(tmp_path, row, prompt_column="text", answer_column="extra.gold")
    assert (rows.examples[0].question, rows.examples[0].reference) == ("6*7?", "42")


def test_a_column_that_is_mostly_empty_is_not_the_answer(tmp_path: Path) -> None:
    rows = [{"prompt": "6*7?", "answer": "", "solution": "\\boxed{42}"}] * 3
    found = load_rows(DataConfig(name=write_lines(tmp_path / "rows.jsonl", rows)))
    assert found.examples[2].reference == "42"


def test_numbers_and_thousands_become_plain_texts(tmp_path: Path) -> None:
    assert load_one(tmp_path, {"prompt": "?", "answer": 72.0}).examples[0].reference == "72"
    assert load_one(tmp_path, {"prompt": "?", "answer": 0.5}).examples[0].reference == "0.5"
    assert load_one(tmp_path, {"prompt": "?", "answer": "so\n#### 1,450"}).examples[0].reference == "1450"


def test_the_last_box_is_read_with_its_braces(tmp_path: Path) -> None:
    row = {"problem": "?", "solution": r"\boxed{\left\{ \frac{1}{2} \right\}} is it"}
    assert load_one(tmp_path, row).examples[0].reference == r"\left\{ \frac{1}{2} \right\}"


def test_the_question_of_messages_is_the_last_user_turn(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": [{"type": "text", "text": "6*7?"}]},
        {"role": "assistant", "content": "42"},
    ]
    example = load_one(tmp_path, {"prompt": messages, "answer": "42"}).examples[0]
    assert example.question == "6*7?"
    assert [m["role"] for m in example.messages] == ["system", "user", "assistant", "user"]


# Formats


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(GOOD), tmp_path / "rows.parquet")
    write_lines(tmp_path / "rows.jsonl", GOOD)
    write_lines(tmp_path / "packed.jsonl.gz", GOOD)
    (tmp_path / "rows.json").write_text(json.dumps(GOOD))
    (tmp_path / "wrapped.json").write_text(json.dumps({"version": 1, "data": GOOD}))
    write_lines(tmp_path / "lines.json", GOOD)
    csv = "prompt,answer\r\n" + "".join(f"{row['prompt']},{row['answer']}\r\n" for row in GOOD)
    (tmp_path / "rows.csv").write_text("\ufeff" + csv)
    (tmp_path / "rows.tsv").write_text(csv.replace(",", "\t"))
    for name in os.listdir(tmp_path):
        rows = load_rows(DataConfig(name=str(tmp_path / name)))
        found = [(e.question, e.reference) for e in rows.examples]
        assert found == [(row["prompt"], row["answer"]) for row in GOOD], name
        assert len({e.id for e in rows.examples}) == len(GOOD), name


def test_csv_values_stay_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('prompt,answer\n"two\nlines, quoted",007\nhalf,0.50\n')
    rows = load_rows(DataConfig(name=str(path)))
    assert [(e.question, e.reference) for e in rows.examples] == [
        ("two\nlines, quoted", "007"),
        ("half", "0.50"),
    ]
    assert [e.id for e in rows.examples] == ["rows-3", "rows-4"]


def test_a_folder_gives_the_files_of_one_split(tmp_path: Path) -> None:
    write_lines(tmp_path / "train-00000-of-00002.jsonl", GOOD[:2])
    write_lines(tmp_path / "train-00001-of-00002.jsonl", GOOD[2:3])
    (tmp_path / "test").mkdir()
    write_lines(tmp_path / "test" / "part.jsonl.gz", GOOD[3:])
    (tmp_path / "dataset_infos.json").write_text("{}")
    cfg = DataConfig(name=str(tmp_path))
    assert [e.reference for e in load_rows(cfg).examples] == ["0", "2", "4"]
    assert [e.reference for e in load_rows(cfg, split="test").examples] == ["6", "8"]
    assert "no file of split 'dev'" in refused(str(tmp_path), split="dev")


def test_a_folder_written_by_datasets_is_read(tmp_path: Path) -> None:
    import datasets

    datasets.DatasetDict({"train": datasets.Dataset.from_list(GOOD)}).save_to_disk(str(tmp_path / "saved"))
    assert len(load_rows(DataConfig(name=str(tmp_path / "saved"))).examples) == 5
    assert "it holds train" in refused(str(tmp_path / "saved"), split="test")


def test_rows_from_the_users_own_python(tmp_path: Path) -> None:
    (tmp_path / "own_rows_a.py").write_text(
        "def rows():\n    for i in range(3):\n        yield {'prompt': f'{i}?', 'answer': i}\n"
        "LIST = [{'prompt': '6*7?', 'answer': '42'}]\n"
        "def broken():\n    yield {'prompt': '0?', 'answer': 0}\n    raise KeyError('x')\n"
        "NUMBER = 5\n"
    )
    name = f"{tmp_path}/own_rows_a.py"
    assert [e.reference for e in load_rows(DataConfig(name=f"{name}:rows")).examples] == ["0", "1", "2"]
    assert [e.id for e in load_rows(DataConfig(name=f"{name}:LIST")).examples] == ["own_rows_a-LIST-1"]
    assert "giving its rows failed: KeyError: 'x'" in refused(f"{name}:broken")
    assert "expected rows, or a function without arguments" in refused(f"{name}:NUMBER")


def test_ids_come_from_the_id_column_only_if_they_are_unique(tmp_path: Path) -> None:
    unique = [{**row, "id": 10 + i} for i, row in enumerate(GOOD)]
    twice = [{**row, "id": "same"} for row in GOOD]
    rows = load_rows(DataConfig(name=write_lines(tmp_path / "a.jsonl", unique)))
    assert [e.id for e in rows.examples] == ["10", "11", "12", "13", "14"]
    rows = load_rows(DataConfig(name=write_lines(tmp_path / "b.jsonl", twice)))
    assert [e.id for e in rows.examples] == ["b-1", "b-2", "b-3", "b-4", "b-5"]
    assert rows.columns.id is None


def test_a_repeated_question_is_one_prompt_but_another_answer_makes_it_another(tmp_path: Path) -> None:
    rows = [
        {"prompt": "6*7", "answer": "42"},
        {"prompt": "6*7", "answer": "42"},
        {"prompt": "6*7", "answer": "24"},
    ]
    found = load_rows(DataConfig(name=write_lines(tmp_path / "rows.jsonl", rows)))
    assert len(found.examples) == 3 and "repeated  " not in found.describe()
    assert [e.reference for e in found.distinct().examples] == ["42", "24"]
    assert "repeated  1 rows" in found.distinct().describe()


def test_limit_uses_the_first_rows(tmp_path: Path) -> None:
    name = write_lines(tmp_path / "a.jsonl", [*GOOD[:2], "not read at all"])
    assert len(load_rows(DataConfig(name=name, limit=2, on_bad_row="skip")).examples) == 2


# Bad rows

BAD_ROWS: dict[str, tuple[Any, str]] = {
    "broken": ('{"prompt": "6*7?", "ans', "broken JSON"),
    "not an object": ("[1, 2]", "a list, '[1, 2]'; expected an object with named columns"),
    "no question": (
        {"answer": "42"},
        "the question is missing; expected a text or messages in column 'prompt'",
    ),
    "empty question": ({"prompt": " ", "answer": "42"}, "the question is empty"),
    "question of a wrong type": ({"prompt": 7, "answer": "42"}, "the question is int 7; expected a text"),
    "no user message": (
        {"prompt": [{"role": "system", "content": "x"}], "answer": "42"},
        "no user message with a text in column 'prompt'",
    ),
    "no answer": (
        {"prompt": "6*7?"},
        "the answer is missing; expected a text or a number in column 'answer'",
    ),
    "answer null": ({"prompt": "6*7?", "answer": None}, "the answer is missing"),
    "answer empty": ({"prompt": "6*7?", "answer": ""}, "the answer is empty"),
    "answer of a wrong type": ({"prompt": "6*7?", "answer": {"a": 1}}, "the answer is dict {'a': 1}"),
    "two answers": ({"prompt": "6*7?", "answer": ["1", "2"]}, "the answer is list ['1', '2']"),
    "answer NaN": ('{"prompt": "6*7?", "answer": NaN}', "the answer is float nan"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_stops_with_its_place_or_is_skipped_and_counted(tmp_path: Path, kind: str) -> None:
    bad, reason = BAD_ROWS[kind]
    name = write_lines(tmp_path / "rows.jsonl", [*GOOD, "", bad, GOOD[0]])
    said = refused(name)
    assert said.startswith(f"{name}, row 7: {reason}") and "\n" not in said
    rows = load_rows(DataConfig(name=name, on_bad_row="skip"))
    assert (len(rows.examples), rows.num_skipped) == (6, 1)
    assert rows.first_skipped.startswith(f"{name}, row 7: {reason}")
    assert "skipped   1 bad rows" in rows.describe()


def test_a_solution_without_its_end_is_a_bad_row(tmp_path: Path) -> None:
    rows = [{"problem": "?", "solution": "\\boxed{1}"}] * 3 + [{"problem": "?", "solution": "it depends"}]
    name = write_lines(tmp_path / "rows.jsonl", rows)
    assert "row 4: no \\boxed{...} in column 'solution': str 'it depends'" in refused(name)
    rows = [{"question": "?", "answer": "work\n#### 1"}] * 3 + [{"question": "?", "answer": "work ####"}]
    name = write_lines(tmp_path / "rows.jsonl", rows)
    assert "row 4: nothing after ####" in refused(name)


def test_a_line_that_is_not_utf8_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(GOOD[0]).encode() + b'\n{"prompt": "\xff", "answer": "1"}\n')
    assert "row 2: not UTF-8 text" in refused(str(path))
    assert load_rows(DataConfig(name=str(path), on_bad_row="skip")).num_skipped == 1


def test_a_csv_row_with_too_many_values_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt,answer\n6*7?,42\none, two,3\n")
    assert "row 3: 3 values for 2 columns (prompt, answer)" in refused(str(path))


# Bad sources


def test_sources_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    good = write_lines(tmp_path / "train.jsonl", GOOD)
    assert f"did you mean {good}?" in refused(str(tmp_path / "trian.jsonl"))
    assert "no folder" in refused(str(tmp_path / "nowhere" / "train.jsonl"))
    (tmp_path / "rows.xlsx").write_text("x")
    assert "files of this kind are not read; expected jsonl" in refused(str(tmp_path / "rows.xlsx"))
    (tmp_path / "empty").mkdir()
    assert "the folder holds no jsonl" in refused(str(tmp_path / "empty"))
    for kind in ("jsonl", "json", "csv", "jsonl.gz"):
        write_lines(tmp_path / f"none.{kind}", [])
        assert "it is empty; expected at least one row" in refused(str(tmp_path / f"none.{kind}"))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:-10])
    assert "not a whole gzip file" in refused(str(tmp_path / "cut.jsonl.gz"))
    (tmp_path / "plain.jsonl.gz").write_text("{}")
    assert "not a whole gzip file" in refused(str(tmp_path / "plain.jsonl.gz"))
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 nothing")
    assert "not a whole parquet file" in refused(str(tmp_path / "cut.parquet"))
    (tmp_path / "cut.json").write_text('[{"prompt": "a",')
    assert "broken JSON" in refused(str(tmp_path / "cut.json"))
    all_bad = write_lines(tmp_path / "bad.jsonl", ["x"] * 300)
    assert "all 300 rows are bad; the first" in refused(all_bad, on_bad_row="skip")


def test_columns_that_cannot_be_found_are_listed(tmp_path: Path) -> None:
    name = write_lines(tmp_path / "a.jsonl", [{"prompt": "?", "foo": "1"}])
    assert "no column is recognised as the gold answer. Columns: prompt, foo" in refused(name)
    assert load_rows(DataConfig(name=name), need_answer=False).examples[0].reference is None
    name = write_lines(tmp_path / "b.jsonl", [{"bar": "?", "answer": "1"}])
    assert "no column is recognised as the question. Columns: bar, answer" in refused(name)
    name = write_lines(tmp_path / "c.jsonl", GOOD)
    said = refused(name, prompt_column="promt")
    assert (
        "--data.prompt-column: column 'promt' is not known; did you mean 'prompt'? Known: answer, prompt"
        in said
    )
    assert "--data.answer-column: column 'gold'" in refused(name, answer_column="gold")
    essays = [{"problem": "?", "solution": "It is known that " * 30}] * 3
    name = write_lines(tmp_path / "d.jsonl", essays)
    assert "holds worked solutions whose answer is marked neither by \\boxed{} nor by ####" in refused(name)
    assert len(load_rows(DataConfig(name=name), need_answer=False).examples) == 3


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for proxy in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(sources, "HUB_TIMEOUT", 0.5)
    yield


def test_a_hub_that_cannot_be_reached_is_said_at_once(no_network: None) -> None:
    said = refused("nobody/no-such-data")
    assert (
        "the hub cannot be reached" in said
        and "tried http://127.0.0.1:9/datasets/nobody/no-such-data" in said
    )
    assert "datasets" in said and "Pass a local path: --data path/to/train.jsonl" in said


# Real files


@pytest.mark.parametrize(
    ("name", "num_rows"), [("gsm8k_train.jsonl.gz", 7473), ("math500_first300.jsonl", 300)]
)
def test_real_files(name: str, num_rows: int) -> None:
    folder = os.environ.get("RLKIT_DATA")
    if folder is None:
        pytest.skip("RLKIT_DATA is not set: real data sets are NOT tested")
    rows = load_rows(DataConfig(name=str(Path(folder) / name)))
    assert len(rows.examples) == num_rows
    assert str(rows.columns) == "question <- prompt, answer <- answer, id <- id"
    assert all(e.reference for e in rows.examples)


def test_real_solutions_end_in_the_real_answers() -> None:
    folder = os.environ.get("RLKIT_DATA")
    if folder is None:
        pytest.skip("RLKIT_DATA is not set: real data sets are NOT tested")
    name = str(Path(folder) / "math_test_minus500.jsonl.gz")
    rows = load_rows(DataConfig(name=name, answer_column="solution", limit=1000))
    assert str(rows.columns) == "question <- prompt, answer <- solution (last \\boxed), id <- id"
    assert all(e.reference == str(e.row["answer"]).strip() for e in rows.examples)
