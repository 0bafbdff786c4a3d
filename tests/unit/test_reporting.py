"""--report-to with the real packages, and TensorBoard: what they were told, read back with their own readers.

wandb, trackio and mlflow are no part of the tests' packages (they bring a hundred others): pip install wandb trackio mlflow to run theirs.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlkit.analysis.store import Store, read_metrics
from rlkit.build import make_reporters, require_reporters
from rlkit.build.reporting import FILE, Service
from rlkit.config import LogConfig, TrainConfig
from rlkit.errors import ConfigError
from rlkit.log_config import REPORTERS
from tests.models import save_tiny_model
from tests.run_folders import token_table

ROOT = Path(__file__).parents[2]


def require(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(
            f"{name} is not installed, so nobody knows whether --report-to {name} works (pip install {name})"
        )

    if name == "mlflow":
        import mlflow

        mlflow.set_tracking_uri(
            os.environ["MLFLOW_TRACKING_URI"]
        )  # this test's, not what the process was told before


def told(name: str) -> TrainConfig:
    return TrainConfig(log=LogConfig(report_to=name))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which every service keeps what it is told, without a network."""
    for name in ("WANDB_PROJECT", "TRACKIO_PROJECT", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    found.Reload()
    return found


def scalars(folder: Path, name: str) -> dict[int, float]:
    """Step -> value; a step that is there twice fails."""
    return only_once([(e.step, e.value) for e in events(folder).Scalars(name)])


def only_once(pairs: list[tuple[int, float]]) -> dict[int, float]:
    found = dict(sorted(pairs))
    assert len(found) == len(pairs), f"steps that were told twice: {sorted(pairs)}"
    return found


@pytest.mark.parametrize("name", REPORTERS)
def test_a_missing_package_is_one_sentence(name: str) -> None:
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed here, so its absence cannot be tried")
    with pytest.raises(ConfigError, match=f"--report-to {name}: not installed; pip install {name}"):
        require_reporters(told(f"tensorboard,{name}"))


def test_tensorboard_has_the_histograms_of_a_tracked_step(tmp_path: Path) -> None:
    store = Store(tmp_path / "r")
    columns = token_table(1, [(0, "a", "right, said at length"), (1, "b", "wrong")])
    store.write_track("tokens", 1, columns)
    store.close()
    found = events(tmp_path / "r" / "tensorboard")
    rewarded = sum(a > 0 for a in columns["advantage"])
    (event,) = found.Histograms("dynamics/probs/positive_before")
    assert event.step == 1 and event.histogram_value.num == rewarded
    assert 0 <= event.histogram_value.min <= event.histogram_value.max <= 1
    (after,) = found.Histograms("dynamics/entropies/after")
    assert after.histogram_value.num == len(columns["advantage"])


def tensorboard_service(folder: Path, known: int, notes: list[int], *, start: bool = True) -> Service:
    """accelerate's tracker of the one service that is always installed."""
    from accelerate import PartialState
    from accelerate.tracking import TensorBoardTracker

    PartialState()
    tracker = TensorBoardTracker("service", logging_dir=folder)
    if start:
        tracker.start()
    return Service(tracker, known, notes.append)


def test_a_step_that_a_service_has_is_not_told_again(tmp_path: Path) -> None:
    notes: list[int] = []
    service = tensorboard_service(tmp_path, 2, notes)
    for step in (1, 2, 3, 3, 4):
        service.log({"reward": step / 8}, step)
    service.finish()
    assert notes == [3, 4]
    assert scalars(tmp_path / "service", "reward") == {3: 0.375, 4: 0.5}


def test_a_service_that_fails_is_told_once_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "r", tensorboard=False)
    store.report_to([tensorboard_service(tmp_path, 0, [], start=False)])  # it has nowhere to write
    for step in (1, 2):
        store.write_metrics(step, {"reward": 0.5})
    store.close()
    assert capsys.readouterr().err.count("the run goes on without it") == 1
    assert len(read_metrics(tmp_path / "r")) == 2


@pytest.mark.slow
def test_a_server_that_is_gone_costs_no_run(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require("mlflow")
    import mlflow

    store = Store(elsewhere / "r", tensorboard=False)
    store.report_to(make_reporters(told("mlflow"), store.folder))
    store.write_metrics(1, {"reward": 0.5, "num_tokens": 8.0})
    here = mlflow.get_tracking_uri()
    mlflow.environment_variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(0)
    mlflow.set_tracking_uri("http://127.0.0.1:1")  # nobody listens there
    store.write_metrics(2, {"reward": 0.5, "num_tokens": 16.0})
    store.write_metrics(3, {"reward": 0.5, "num_tokens": 24.0})
    store.close()
    mlflow.set_tracking_uri(here)
    mlflow.end_run()
    assert capsys.readouterr().err.count("the run goes on without it") == 1
    assert len(read_metrics(elsewhere / "r")) == 3


def read_mlflow(place: Path, run: str, name: str) -> dict[int, float]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{place / 'mlflow.db'}")
    return only_once([(m.step, m.value) for m in client.get_metric_history(run, name)])


def read_trackio(place: Path, run: str, name: str) -> dict[int, float]:
    """By its command, as a person would."""
    command = [sys.executable, "-m", "trackio.cli", "get", "metric", "--project", "rlkit", "--run", run]
    done = subprocess.run([*command, "--metric", name, "--json"], check=True, capture_output=True, text=True)
    return only_once([(int(e["step"]), float(e["value"])) for e in json.loads(done.stdout)["values"]])


def read_wandb(place: Path, run: str, name: str) -> dict[int, float]:
    """Of all offline folders of the run. wandb has no reader of its files in Python; what it packs into them it has."""
    from wandb.proto.wandb_internal_pb2 import Record

    pairs = []
    for path in sorted(place.rglob(f"run-{run}.wandb")):
        for data in _logged(path.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            told = {(i.key or ".".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item}
            if name in told:
                pairs.append((int(told["_step"]), float(told[name])))
    return only_once(pairs)


def _logged(content: bytes) -> Iterator[bytes]:
    """Records of LevelDB's log format, in which wandb writes: 32 KiB blocks of pieces (checksum, length, kind), after 7 bytes of its own."""
    at, record = 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # no piece begins in the last bytes of a block
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        record += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


READERS = {"wandb": read_wandb, "trackio": read_trackio, "mlflow": read_mlflow}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_what_a_killed_run_could_not_tell_is_told_on_resume(elsewhere: Path, name: str) -> None:
    require(name)
    rows = [{"step": step, "reward": step / 8, "num_tokens": 8.0 * step} for step in range(1, 7)]
    folder = elsewhere / "r"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    (first,) = make_reporters(told(name), folder)  # told 1 and 2
    first.finish()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:4]))
    (second,) = make_reporters(told(name), folder)  # 3 and 4 were written, and the process ended untold
    for row in rows[2:]:
        second.log({"reward": row["reward"], "num_tokens": row["num_tokens"]}, int(row["step"]))
    second.finish()
    id_ = json.loads((folder / FILE).read_text())[name]["id"]
    assert READERS[name](elsewhere, id_, "reward") == {step: step / 8 for step in range(1, 7)}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_real_run_and_its_resume_are_there_step_by_step(elsewhere: Path, name: str) -> None:
    require(name)
    model, folder = save_tiny_model(elsewhere / "model", seed=0), elsewhere / "runs" / "r"
    flags = (
        "--data task:chain --sampler hf --dtype float32 --prompts-per-step 2 --num-generations 2 --max-completion-length 8 "
        "--eval-prompts 1 --workers 1 --track.every 2 --save-every 2"
    )
    start = [sys.executable, "-m", "rlkit", "train"]
    first = ["--model", str(model), "--output-dir", str(folder), *flags.split(), "--steps", "4"]
    for arguments in ([*first, "--report-to", name], ["--resume", str(folder), "--steps", "6"]):
        done = subprocess.run(
            [*start, *arguments],
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr.decode()
        shutil.rmtree(
            folder / "checkpoints" / "step-000004", ignore_errors=True
        )  # so that 3 and 4 are done again
    rows = {row["step"]: row for row in read_metrics(folder)}
    assert sorted(rows) == [1, 2, 3, 4, 5, 6]
    id_ = json.loads((folder / FILE).read_text())[name]["id"]
    for metric in ("reward", "grad_norm", "num_tokens"):
        expected = {step: pytest.approx(row[metric], rel=1e-6) for step, row in rows.items()}
        assert READERS[name](elsewhere, id_, metric) == expected
        assert scalars(folder / "tensorboard", metric) == expected
