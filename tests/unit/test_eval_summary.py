"""What an evaluation came to, by hand: estimates, votes, unjudged answers, and two models beside each other."""

from dataclasses import replace
from pathlib import Path

import pytest

from rlkit.analysis.eval_compare import compare
from rlkit.analysis.eval_page import page
from rlkit.analysis.eval_store import Answer, EvalStore, read_answers, read_settings
from rlkit.analysis.eval_summary import Summary, json_of, summarise
from rlkit.errors import RunError
from rlkit.types import Rollout, Score, Segment

SKIP, ERROR = "skip", "error"
Given = list[tuple[str | None, float | str]]
"""Final answer and score, or outcome."""


def answers(id_: str, given: Given) -> list[Answer]:
    """12 tokens and 3 nats each; the last one of 20 tokens and cut."""
    rows = []
    for i, (text, verdict) in enumerate(given):
        last = i == len(given) - 1
        outcome = verdict if isinstance(verdict, str) else "score"
        score = None if isinstance(verdict, str) else verdict
        rows.append(
            Answer(id_, i, 20 if last else 12, 3.0, "length" if last else "stop", text, outcome, score)
        )
    return rows


def summary(given: dict[str, Given], n: int = 4, model: str = "m", **more: object) -> Summary:
    return summarise(
        {id_: answers(id_, rows) for id_, rows in given.items()},
        label="set",
        model=model,
        n=n,
        ks=[1, 2, 4],
        votes=True,
        right_from=0.5,
        seed=0,
        settings={"temperature": 1.0},
        **more,  # type: ignore[arg-type]
    )


A: Given = [("7", 1.0), ("7", 1.0), ("3", 0.0), ("5", 0.0)]
B: Given = [("1", 0.0), ("1", 0.0), ("2", 0.0), (None, 0.0)]


def test_two_problems_by_hand() -> None:
    """a: 2 of 4 right, pass@2 = 1 - 1/6; b: none. Pairs of a: 77; 73 73 75 75: half; 35: 0. maj@2 = (1 + 4/2) / 6."""
    got = summary({"a": A, "b": B})
    means = {name: e.mean for name, e in got.estimates.items()}
    assert means["pass@1"] == means["avg@4"] == 0.25
    assert means["pass@2"] == pytest.approx(5 / 12) and means["pass@4"] == 0.5
    assert means["maj@2"] == pytest.approx(0.25) and means["maj@4"] == 0.5
    assert means["distinct_answers"] == 2.5 and means["truncated"] == 0.25 and means["length"] == 14.0
    assert means["mean_nll"] == pytest.approx(24 / 112)
    for e in got.estimates.values():
        assert e.low <= e.mean <= e.high and e.problems == 2


def test_unjudged_answers_leave_every_score_and_are_counted() -> None:
    """a: 1 right of 2 judged, so it has no pass@4; c has no judged answer at all and no score."""
    given: dict[str, Given] = {
        "a": [("7", 1.0), ("3", 0.0), (None, SKIP), (None, ERROR)],
        "b": B,
        "c": [(None, SKIP)] * 4,
    }
    got = summary(given)
    assert got.skips == 5 and got.errors == 1 and got.unjudged == 6
    assert got.estimates["pass@1"].mean == 0.25 and got.estimates["pass@1"].problems == 2
    assert got.estimates["pass@2"].mean == 0.5  # a: both of its judged answers; b: 0
    assert got.estimates["pass@4"].mean == 0.0 and got.estimates["pass@4"].problems == 1
    assert got.estimates["length"].problems == 3


def test_graded_scores_have_their_mean_as_avg_and_a_threshold_for_pass() -> None:
    got = summary({"a": [("1", 1.1), ("2", 0.1), ("3", 0.1), ("4", 0.1)]})
    assert got.estimates["avg@4"].mean == pytest.approx(0.35)
    assert got.estimates["pass@1"].mean == 0.25


def test_a_vote_is_worth_the_share_of_those_who_gave_it_that_were_right() -> None:
    """The verifier read one of three 7s as wrong: the vote for 7 is worth 2/3."""
    got = summary({"a": [("7", 1.0), ("7", 1.0), ("7", 0.0), ("3", 0.0)]})
    assert got.estimates["maj@4"].mean == pytest.approx(2 / 3)


def test_two_models_are_compared_problem_by_problem() -> None:
    mine = summary({"a": A, "b": A, "c": B, "d": B}, model="new")
    theirs = summary({"a": B, "b": A, "c": A, "e": A}, model="old")
    got = compare(mine, theirs, [1, 2, 4], seed=0)
    assert (got.solved.gained, got.solved.lost, got.solved.kept) == (("a",), ("c",), ("b",))
    assert got.left_out == 2 and got.solved.p == 1.0
    assert got.differences["mean_nll"].mean == 0.0
    d = got.differences["pass@1"]
    assert d.mean == 0.0 and d.low < 0 < d.high and d.problems == 3 and -1 <= d.low and d.high <= 1


def test_a_problem_solved_64_times_against_never_is_gained_beyond_chance() -> None:
    right, wrong = [("1", 1.0)] * 64, [("2", 0.0)] * 64
    one: Given = [("1", 1.0), *wrong[1:]]
    mine = summary({"a": right, "b": one, "c": wrong}, n=64)  # type: ignore[dict-item]
    theirs = summary({"a": wrong, "b": wrong, "c": wrong}, n=64)  # type: ignore[dict-item]
    got = compare(mine, theirs, [1, 64], seed=0).solved
    assert got.gained == ("a", "b") and got.surely_gained == ("a",) and got.never == ("c",) and got.p == 0.5


def test_unlike_numbers_of_answers_are_not_compared() -> None:
    with pytest.raises(ValueError, match="2 answers to each problem against 4"):
        compare(replace(summary({"a": A}), n=2), summary({"a": A}), [1], seed=0)


def test_the_same_answers_give_the_same_numbers_to_the_last_bit() -> None:
    assert json_of(summary({"a": A, "b": B})) == json_of(summary({"a": A, "b": B}))


# -- the folder ------------------------------------------------------------------------------------------------------------


def rollout(id_: str, score: Score, text: str = "so 4") -> Rollout:
    segments = [Segment(kind="prompt", start=0, end=1), Segment(kind="completion", start=1, end=3)]
    return Rollout(
        prompt_id=id_,
        token_ids=[1, 5, 3],
        logprobs=[0.0, -0.5, -0.25],
        segments=segments,
        policy_version=0,
        finish_reason="stop",
        text=text,
        score=score,
    )


SETTINGS = {"label": "set", "n": 2, "problem_ids": {"a": "1"}, "temperature": 1.0}


def test_a_folder_gives_back_what_was_written(tmp_path: Path) -> None:
    store = EvalStore(tmp_path, SETTINGS)
    store.write(0, 1, [(1, rollout("a", Score(None, reason="no gold")), None)])
    store.write(0, 0, [(0, rollout("a", Score(1.0, reason="read 4"), "lone \ud800 half"), "4")])
    assert store.have() == {"a": {0, 1}}
    store.close()
    want = [
        Answer("a", 0, 2, 0.75, "stop", "4", "score", 1.0),
        Answer("a", 1, 2, 0.75, "stop", None, "skip", None),
    ]
    assert read_answers(tmp_path, 2) == {"a": want} and read_answers(tmp_path, 1) == {"a": want[:1]}
    assert read_settings(tmp_path) == SETTINGS


def test_a_folder_of_other_settings_is_refused_and_more_answers_are_not(tmp_path: Path) -> None:
    EvalStore(tmp_path, SETTINGS).close()
    EvalStore(tmp_path, {**SETTINGS, "n": 8}).close()
    with pytest.raises(
        RunError, match=r"another evaluation: temperature = 0.6 \(it was 1.0\); choose another"
    ):
        EvalStore(tmp_path, {**SETTINGS, "temperature": 0.6})
    EvalStore(tmp_path, SETTINGS).close()  # the refused one holds no lock


def test_a_part_cut_short_is_named_and_a_draft_is_dropped(tmp_path: Path) -> None:
    store = EvalStore(tmp_path, SETTINGS)
    store.write(0, 0, [(0, rollout("a", Score(1.0)), "4")])
    store.close()
    part = tmp_path / "answers/B0000-S0000.parquet"
    (tmp_path / "answers/.B0000-S0001.parquet.draft").write_bytes(b"half")
    EvalStore(tmp_path, SETTINGS).close()
    assert [p.name for p in (tmp_path / "answers").iterdir()] == [part.name]
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(RunError, match="B0000-S0000.parquet: not a whole part.*delete this file"):
        read_answers(tmp_path, 1)


def test_two_processes_do_not_write_into_one_folder(tmp_path: Path) -> None:
    store = EvalStore(tmp_path, SETTINGS)
    with pytest.raises(RunError, match="another rlkit process is writing there"):
        EvalStore(tmp_path, SETTINGS)
    store.close()


# -- the page --------------------------------------------------------------------------------------------------------------

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def test_what_a_model_wrote_is_text_on_the_page_and_nothing_is_loaded() -> None:
    pytest.importorskip("plotly")
    mine = summary({EVIL: A, "b": B}, model=EVIL)
    theirs = summary({EVIL: B, "b": B}, model="old")
    row = {"text": EVIL + "\x1b[2J", "outcome": "score", "score": 1.0, "reason": EVIL, "answer": EVIL}
    got = page(mine, theirs, compare(mine, theirs, [1, 2, 4], 0), {EVIL: [row]})
    assert got is not None
    script = got.index("</script></head>")  # plotly's own ends here
    ours = got[:200] + got[script:]
    assert EVIL not in ours and "<img" not in ours and "\x1b" not in ours
    assert "&lt;script&gt;alert(1)" in ours and "\\u001b[2J" in ours
    assert "src=" not in ours.replace("src=x", "") and "<link" not in ours and "default-src 'none'" in got


def test_a_part_of_a_benchmark_is_called_one_on_the_page() -> None:
    pytest.importorskip("plotly")
    got = page(replace(summary({"a": A}), label="math500[300/500]"), None, None, {})
    assert got is not None and "A part of math500: no score here is that benchmark" in got
