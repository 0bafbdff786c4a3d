"""The run folder: one process at a time, no run over another, nothing lost and nothing kept too long."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlkit.analysis.store import Store, missing, read_metrics, read_rollouts
from rlkit.errors import RunError
from rlkit.types import Credit, Group, Score, Segment
from tests.rollouts import question, rollout, scored_group

CONTROL = "a\x00b\x1b[31m\r\n\u2028\u202eé 数 🙂"


def open_store(folder: Path, **changes: object) -> Store:
    return Store(folder, **{"tensorboard": False, **changes})  # type: ignore[arg-type]


def written(folder: Path, steps: int) -> Path:
    """A closed run of so many steps."""
    store = open_store(folder)
    for step in range(1, steps + 1):
        store.write_metrics(step, {"reward": step / 4})
        store.write_evaluation({"step": step, "pass_at_1": 0.5})
        store.write_rollouts(step, [scored_group([1.0, 0.0])], [])
    store.close()
    return folder


def test_metrics_are_on_disk_when_the_call_returns(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.write_metrics(1, {"reward": 0.5})
    assert read_metrics(tmp_path) == [{"step": 1, "reward": 0.5}]
    store.close()


def test_a_folder_in_use_is_refused_in_this_process_and_in_another(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(RunError, match="another rlkit process is writing there"):
        open_store(tmp_path)
    code = f"from pathlib import Path; from rlkit.analysis.store import Store; Store(Path({str(tmp_path)!r}))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another rlkit process is writing there" in told.stderr
    store.close()
    open_store(tmp_path, resume_from=0).close()


def test_a_folder_with_a_run_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    before = written(tmp_path, 2).joinpath("metrics.jsonl").read_bytes()
    with pytest.raises(
        RunError, match=f"holds a run already; continue it with `rlkit train --resume {tmp_path}`"
    ) as told:
        open_store(tmp_path)
    open_store(
        tmp_path, resume_from=2
    ).close()  # the refusal kept no lock, though its traceback is still held
    assert told.traceback and tmp_path.joinpath("metrics.jsonl").read_bytes() == before


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    tmp_path.joinpath("file").write_text("")
    with pytest.raises(
        RunError, match="cannot write a run here .Not a directory.; choose another --output-dir"
    ):
        open_store(tmp_path / "file" / "run")


def test_a_resume_keeps_the_steps_up_to_the_checkpoint_and_drops_the_rest(tmp_path: Path) -> None:
    written(tmp_path, 4)
    with tmp_path.joinpath("metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "rew')  # a line cut by a crash
    assert [m["step"] for m in read_metrics(tmp_path)] == [1, 2, 3, 4]
    store = open_store(tmp_path, resume_from=2)
    store.write_metrics(3, {"reward": 9.0})
    store.close()
    assert [(m["step"], m["reward"]) for m in read_metrics(tmp_path)] == [(1, 0.25), (2, 0.5), (3, 9.0)]
    evaluations = tmp_path.joinpath("evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in evaluations] == [1, 2]
    assert sorted(p.name for p in tmp_path.joinpath("rollouts").iterdir()) == [
        "step-000001.parquet",
        "step-000002.parquet",
    ]


def test_tensorboard_keeps_the_step_resumed_from(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, resume_from in ((1, None), (3, 2)):
        store = Store(tmp_path, resume_from=resume_from)
        for step in range(first, 5):
            store.write_metrics(step, {"reward": float(10 * first + step)})
        store.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("reward")] == [(1, 11), (2, 12), (3, 33), (4, 34)]


def test_rollouts_come_back_as_they_were(tmp_path: Path) -> None:
    answer = rollout(
        [50, 51, 3], logprobs=[-0.5, -0.25, -2.0], score=Score(0.5, reason="fair", parts={"math": 1.0})
    )
    segments = [
        Segment(kind="prompt", start=0, end=1),
        Segment(kind="context", start=1, end=3),
        Segment(kind="completion", start=3, end=6),
    ]
    answer = type(answer)(
        **{**{n: getattr(answer, n) for n in answer.__slots__}, "segments": segments, "text": "x"}
    )
    skipped = rollout([3], score=Score(None, reason="no gold"))
    failed = rollout([3], score=Score(1.0, reason="timed out", error=True))
    segment = rollout([60], prompt_id="q", stop=False)
    child = Group(prompt=question("q"), rollouts=[answer, skipped, failed])
    group = Group(prompt=question("q"), rollouts=[segment], children=[child])
    credit = Credit(rollout=answer, advantages=[1.5, 1.5, 1.5], weight=1.0, share=1.0)
    store = open_store(tmp_path)
    store.write_rollouts(3, [group], [credit])
    store.close()
    rows = read_rollouts(tmp_path, 3)
    assert [(r["role"], r["outcome"], r["score"]) for r in rows] == [
        ("segment", None, None),
        ("answer", "score", 0.5),
        ("answer", "skip", None),
        ("answer", "error", None),
    ]
    row = rows[1]
    assert (row["token_ids"], row["logprobs"]) == ([1, 40, 2, 50, 51, 3], [0, 0, 0, -0.5, -0.25, -2.0])
    assert (row["advantages"], rows[2]["advantages"]) == ([1.5] * 3, None)
    assert [(s["kind"], s["start"], s["end"]) for s in row["segments"]] == [
        ("prompt", 0, 1),
        ("context", 1, 3),
        ("completion", 3, 6),
    ]
    assert (row["prompt_tokens"], row["finish_reason"], row["policy_version"]) == (3, "stop", 0)
    assert (row["reason"], row["parts"], row["text"], row["step"]) == ("fair", [("math", 1.0)], "x", 3)
    assert rows[3]["reason"] == "timed out"


@pytest.mark.parametrize("text", [CONTROL, "", "\ud800 lone surrogate"])
def test_any_text_can_be_kept(tmp_path: Path, text: str) -> None:
    answer = rollout([3], score=Score(1.0, reason=text), prompt_id=text)
    answer = type(answer)(**{**{n: getattr(answer, n) for n in answer.__slots__}, "text": text})
    store = open_store(tmp_path)
    store.write_rollouts(1, [Group(prompt=question(text), rollouts=[answer])], [])
    store.write_evaluation({"step": 1, "note": text})
    store.write_summary({"algo": text})
    store.close()
    (row,) = read_rollouts(tmp_path, 1)
    kept = text.replace("\ud800", "\ufffd")
    assert (row["text"], row["reason"], row["prompt_id"]) == (kept, kept, kept)
    assert json.loads(tmp_path.joinpath("summary.json").read_text())["algo"] == text


def test_a_folder_that_is_no_run_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be read .No such file or directory.; is .* a run folder"):
        read_metrics(tmp_path)
    with pytest.raises(RunError, match="step-000007.parquet: cannot be read"):
        read_rollouts(tmp_path, 7)
    tmp_path.joinpath("rollouts").mkdir()
    tmp_path.joinpath("rollouts", "step-000007.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(RunError, match="step-000007.parquet: cannot be read"):
        read_rollouts(tmp_path, 7)


def test_a_disk_that_refuses_is_a_sentence(tmp_path: Path) -> None:
    """A real refusal: the operating system lets this process write files of at most 2 KiB."""
    code = f"""
import resource
from pathlib import Path
from rlkit.analysis.store import Store
from rlkit.errors import RunError
store = Store(Path({str(tmp_path)!r}), tensorboard=False)
resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
try:
    for step in range(1, 1000):
        store.write_metrics(step, {{"reward": 0.5}})
except RunError as error:
    print(error)
store.close()
Store(Path({str(tmp_path)!r}), tensorboard=False, resume_from=0)
print("closed")
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "metrics.jsonl: cannot be written (File too large); is the disk full?" in told.stdout
    assert told.stdout.endswith("closed\n"), told.stderr


def test_a_process_that_wrote_nothing_leaves_a_folder_for_a_new_run(tmp_path: Path) -> None:
    """Killed between the lock and the first step: the folder has its files, and nothing in them."""
    open_store(tmp_path, config="steps = 3\n").close()
    store = open_store(tmp_path, config="steps = 4\n")
    assert tmp_path.joinpath("config.toml").read_text() == "steps = 4\n"
    store.write_metrics(1, {"reward": 0.5})
    store.close()
    with pytest.raises(RunError, match="holds a run already"):
        open_store(tmp_path)


def test_the_tables_are_counted_and_what_is_lost_is_told(tmp_path: Path) -> None:
    written(tmp_path, 3)
    store = open_store(tmp_path, resume_from=2)
    assert store.written() == {"metrics.jsonl": 2, "evaluations.jsonl": 2, "rollouts": 2}
    store.write_metrics(3, {"reward": 1.0})
    store.write_rollouts(3, [scored_group([1.0, 0.0])], [])
    store.sync()
    before = store.written()
    assert before == {"metrics.jsonl": 3, "evaluations.jsonl": 2, "rollouts": 3}
    store.close()
    tmp_path.joinpath("rollouts/step-000001.parquet").unlink()
    store = open_store(tmp_path, resume_from=3)
    assert missing(before, store.written()) == ["rollouts/ had 3 files and has 2"]
    store.close()
