"""The dashboard without a browser: what is read of a run folder, also while it is written or when it is damaged, and what is escaped."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from rlkit.analysis import tracks
from rlkit.analysis.dash import answers, looks, tables
from rlkit.analysis.dash.board import Board, Diagnosis
from rlkit.analysis.dash.find import find
from rlkit.analysis.dash.records import Records
from rlkit.analysis.dash.roles import story
from rlkit.analysis.dash.run import Run
from rlkit.analysis.dash.text import label
from rlkit.analysis.store import Store
from rlkit.commands.dash import in_words
from rlkit.errors import ConfigError, RunError
from rlkit.examine import cases_of
from tests.rollouts import question, rollout
from tests.run_folders import HOSTILE, group, with_text, write_evaluation, write_run

dash = pytest.importorskip("dash", reason="the dashboard's packages are not installed (rlvrkit[dash])")


def diagnose(run: Path) -> list[Diagnosis]:
    return in_words(cases_of(run))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 40 steps whose answers are hostile, and an evaluation beside it."""
    place = tmp_path_factory.mktemp("all")
    write_run(place / "runs" / "<b>one")
    write_evaluation(place / "evals" / "e")
    return place


def only_run(folder: Path) -> Run:
    board = Board([folder], lambda path: [])
    board.refresh()
    (run,) = board.runs.values()
    return run


def test_runs_and_evaluations_are_found_below_the_folders_named(tmp_path: Path) -> None:
    for name in ("a/x", "b/x", "b/y"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "metrics.jsonl").write_text("")
    write_evaluation(tmp_path / "e")
    found = find([tmp_path])
    assert {(p.kind, p.name) for p in found} == {
        ("run", "a/x"),
        ("run", "b/x"),
        ("run", "y"),
        ("evaluation", "e"),
    }
    with pytest.raises(RunError, match="no such folder"):
        find([tmp_path / "missing"])


def test_a_line_that_is_being_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "reward": 0.25, "loss": NaN, "name": "x"}\n{"step": 2, "rew')
    records = Records(path)
    records.refresh()
    assert (records.step, records.length, records.names()) == (1, 1, ["loss", "reward"])
    assert len(records.get("loss")[0]) == 0
    with path.open("a") as file:
        file.write('ard": 0.75}\n')
    records.refresh()
    steps, values = records.get("reward")
    assert steps.tolist() == [1, 2] and values.tolist() == [0.25, 0.75]


def test_lines_that_are_no_record_are_counted_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"step": 1, "a": 1}\nnot json\n[1]\n{"step": "x"}\n{"a": 1}\n\xff\xfe\n{"step": 2, "a": 2}\n'
        + b"[" * 9999
        + b"\n"
    )
    records = Records(path)
    records.refresh()
    assert (records.damaged, records.step) == (6, 2)


def test_a_file_that_a_resume_replaced_is_read_anew(tmp_path: Path) -> None:
    path, other = tmp_path / "metrics.jsonl", tmp_path / "draft"
    path.write_text("".join(f'{{"step": {i}, "a": {i}}}\n' for i in range(1, 6)))
    records = Records(path)
    records.refresh()
    other.write_text('{"step": 1, "a": 10}\n')
    other.replace(path)
    records.refresh()
    assert records.get("a")[1].tolist() == [10.0]


def test_tables_that_are_damaged_missing_or_no_utf8_break_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    assert tables.read(path, ["text"]) == {}
    path.write_bytes(b"PAR1 half a file")
    assert tables.read(path, ["text"]) == {}
    raw = pyarrow.Array.from_buffers(
        pyarrow.string(),
        1,
        [None, pyarrow.py_buffer(np.array([0, 3], np.int32)), pyarrow.py_buffer(b"a\xff<")],
    )
    pyarrow.parquet.write_table(pyarrow.table({"text": raw}), path)
    assert tables.read(path, ["text"]) == {"text": ["a\ufffd<"]}
    assert tables.read(path, ["another"]) == {}


def test_a_token_s_numbers_are_those_of_the_table(folder: Path) -> None:
    run = only_run(folder / "runs")
    step = run.tracked("tokens")[-1]
    columns = tracks.read(tracks.step_file(run.folder, "tokens", step))
    found = looks.tokens(run, step, 1)
    at = columns["row"].index(1)
    assert [t.text for t in found] == columns["token"][at : at + 12]
    assert found[3].before == pytest.approx(np.exp(columns["logp_before"][at + 3]))
    assert found[3].top[1][2] == pytest.approx(np.exp(columns["top_logp_after"][at + 3][1]))
    assert [a.row for a in looks.answers(run, step)] == list(range(len(HOSTILE)))
    assert looks.decisions(run, step)[0].candidates[2].role == "optimal"


def test_entropy_by_position_is_each_answer_s_token_at_that_place() -> None:
    rows, positions = np.array([0, 0, 1, 1, 1, 1]), np.array([1, 0, 0, 1, 2, 3])
    nats_P = looks._by_position(rows, positions, np.array([3.0, 1.0, 0.0, 0.0, 2.0, 4.0]))
    quarter = looks.MAP_ROWS // 4  # answer 0 has 1, 1, 3, 3 there, answer 1 has 0, 0, 2, 4
    assert nats_P[::quarter].tolist() == [0.5, 0.5, 2.5, 3.5]


def test_the_stage_and_the_roles_are_those_that_the_run_recorded(folder: Path) -> None:
    told = story(only_run(folder / "runs"))
    assert told is not None and told.end == 20.0
    assert {name.split()[0]: role for name, role, _, _ in told.curves} == {
        "now": "high",
        "steps": "low",
        "check": "optimal",
    }
    assert "exploitation ends at step 20 (18 to 22)" in told.says


def test_answers_are_filtered_by_reward_length_reason_and_verdict(folder: Path) -> None:
    run = only_run(folder / "runs")

    def rows(**what: Any) -> list[int]:
        found = answers.search(run, 40, 40, answers.Filter(**what), 100)
        return [a.row for _, tree in found.trees for a in tree.answers]

    assert rows() == [0, 1, 2, 3, 4, 5]
    assert rows(low=0.5) == [1, 3, 5]
    assert rows(high=0.5, shortest=6) == [2, 4]
    assert rows(longest=6) == [0, 1]
    assert rows(reason="DESREVER") == [4]
    assert rows(outcome="error") == []
    newest = answers.search(run, None, None, answers.Filter(), 8)
    assert [step for step, _ in newest.trees] == [40, 39] and newest.more


def test_skpo_s_answers_hang_under_the_segment_that_they_continue(tmp_path: Path) -> None:
    from dataclasses import replace

    from rlkit.types import Group

    groups = []
    for name in ("p", "q"):
        child, _ = group(["x", "y"], prompt_id=name)
        segment = with_text(rollout([7, 8], prompt_id=name), f"segment of {name}")
        groups.append(Group(prompt=question(name), rollouts=[segment], children=[replace(child)]))
    store = Store(tmp_path / "r", tensorboard=False)
    store.write_metrics(1, {"reward": 0.5})
    store.write_rollouts(1, groups, [])
    store.close()
    trees = answers.read_trees(only_run(tmp_path), 1) or []
    assert [(t.segment.text if t.segment else None, [a.text for a in t.answers]) for t in trees] == [
        ("segment of p", ["x", "y"]),
        ("segment of q", ["x", "y"]),
    ]


def test_the_diagnosis_is_the_doctor_s(folder: Path) -> None:
    (run,) = (folder / "runs").iterdir()
    assert "exploitation-ended" in [d.name for d in diagnose(run)]


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    from rlkit.analysis.dash.export import exported

    board = Board([folder], diagnose)
    board.refresh()
    return exported(board, board.newest())


def test_an_exported_page_holds_every_text_escaped(page: str) -> None:
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert "&lt;script&gt;window.stolen = 1&lt;/script&gt;" in markup
    for text in (
        "<script>window",
        "<img src=x",
        "<b onmouseover",
        "<b>one",
        "<b>model",
        "<u>so",
        "javascript:window.stolen=1)<",
    ):
        assert text not in markup
    for character in "\x00\x07\x1b\x9b\x7f\u202e\u2066\u200f":
        assert character not in markup
    for figure in re.findall(r'<script type="application/json">(.*?)</script>', page, re.S):
        assert "<" not in figure
        json.loads(figure)


def test_an_exported_page_loads_nothing_and_runs_only_its_own_scripts(page: str) -> None:
    head = page[: page.index("<style>")]
    assert "default-src 'none'; script-src 'sha256-" in head and "unsafe-eval" not in head
    assert not re.findall(
        r"<(?:script|link|img|iframe)[^>]*(?:src|href)=",
        re.sub(r"<script>.*?</script>", "", page, flags=re.S),
    )


def test_names_in_figures_are_no_markup_and_no_template() -> None:
    assert label("<a href='x'>%{y}\x1b") == "&lt;a href='x'&gt;%&#123;y}\\x1b"


def test_every_empty_run_says_what_to_do(tmp_path: Path) -> None:
    from rlkit.analysis.dash.export import exported

    for name, text in (("new", ""), ("broken", "{{{\n"), ("untracked", '{"step": 1, "reward": 0.5}\n')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(text)
        (tmp_path / name / "evaluations.jsonl").write_text('{"step": 1}\n{"pass')
        (tmp_path / name / "config.toml").write_text("[track]\nevery = 0\n" if name == "untracked" else "= =")
    (tmp_path / "new" / "rollouts").mkdir()
    (tmp_path / "new" / "rollouts" / "step-000001.parquet").write_bytes(b"PAR1")
    board = Board([tmp_path], diagnose)
    board.refresh()
    page = exported(board, board.newest())
    assert "--track.every 5" in page and "No evaluation here" in page and "No step is recorded yet" in page


def client(folder: Path, token: str | None = None) -> Any:
    from rlkit.analysis.dash.app import make_app
    from rlkit.analysis.dash.serve import guard

    app = make_app(
        Board(
            [folder],
            lambda path: [Diagnosis(severity="hint", name="a", when="", says="", cause="", remedy="")],
        )
    )
    guard(app, token)
    return app.server.test_client()


def test_only_this_machine_s_names_are_answered(folder: Path) -> None:
    asked = client(folder)
    assert asked.get("/", headers={"Host": "localhost:8050"}).status_code == 200
    assert asked.get("/", headers={"Host": "127.0.0.1:8050"}).status_code == 200
    assert asked.get("/", headers={"Host": "evil.example"}).status_code == 400


def test_with_a_token_nobody_gets_in_without_it(folder: Path) -> None:
    asked = client(folder, "secret")
    assert asked.get("/").status_code == asked.get("/?token=wrong").status_code == 403
    assert asked.get("/_dash-layout").status_code == 403
    assert asked.get("/?token=secret").status_code == 302
    assert asked.get("/").status_code == asked.get("/_dash-layout").status_code == 200


def test_the_live_page_may_run_only_our_own_files(folder: Path) -> None:
    policy = client(folder).get("/").headers["Content-Security-Policy"]
    scripts = next(part for part in policy.split(";") if "script-src" in part)
    assert "unsafe" not in scripts and "'self'" in scripts and "default-src 'none'" in policy


def test_another_address_needs_a_token_and_a_port_in_use_is_said(folder: Path) -> None:
    import socket

    from rlkit.analysis.dash.serve import make_server

    board = Board([folder], lambda path: [])
    with pytest.raises(ConfigError, match="expected a token"):
        make_server(board, "0.0.0.0", 0, None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="choose another --port"):
            make_server(board, "127.0.0.1", taken.getsockname()[1], None)


def test_a_page_follows_the_newest_look_and_stays_where_a_person_went() -> None:
    from rlkit.analysis.dash.tabs.mass import step_options

    offered, step = step_options([1, 5], None, [])
    assert step == 5 and [o["value"] for o in offered] == [5, 1]
    assert step_options([1, 5, 10], 5, offered)[1] == 10
    assert step_options([1, 5, 10], 1, offered)[1] == 1


def test_new_numbers_change_the_mark_and_old_ones_do_not(tmp_path: Path) -> None:
    path = write_run(tmp_path / "r", steps=3, every=0, finished=False)
    board = Board([tmp_path], lambda folder: [])
    first = board.refresh()
    assert board.refresh() == first
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "reward": 1.0}\n')
    assert board.refresh() != first
    assert os.listdir(tmp_path) == ["r"]


def test_the_overview_comes_with_its_charts_and_without_the_diagnosis(folder: Path) -> None:
    from rlkit.analysis.dash.tabs import overview

    def never(run: Path) -> list[Diagnosis]:
        raise AssertionError("the first view waits for a whole run to be read")

    board = Board([folder / "runs"], never)
    board.refresh()
    parts = dash.html.Div(overview.layout(board, list(board.runs.values())))
    assert sum(isinstance(part, dash.dcc.Graph) for part in parts._traverse()) == 4


def test_shares_begin_at_zero_and_a_constant_one_too() -> None:
    from rlkit.analysis.dash.figures import base

    steps_T = np.arange(1.0, 9.0)
    for values_T in (np.full(8, 0.01), np.linspace(0.5, 0.9, 8)):
        made = base.lines(
            [base.Line("r", steps_T, values_T, base.colour(0))], "step", "share of answers", share=True
        )
        assert made is not None and made.layout.yaxis.rangemode == "tozero"
