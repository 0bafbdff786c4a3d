"""--report-to: a missing package is said before anything loads, a real tracker gets every number, a broken one costs no run."""

from pathlib import Path

import pytest

from rlkit.analysis.store import Store, read_metrics
from rlkit.build import make_reporters, require_reporters
from rlkit.config import LogConfig, TrainConfig
from rlkit.errors import ConfigError


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="--report-to trackio: not installed; pip install trackio"):
        require_reporters(TrainConfig(log=LogConfig(report_to="tensorboard,trackio")))


class Broken:
    name = "broken"

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        raise ConnectionError("no route to host")

    def finish(self) -> None: ...


def test_a_service_that_fails_is_told_once_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "r", tensorboard=False)
    store.report_to([Broken()])
    for step in (1, 2):
        store.write_metrics(step, {"reward": 0.5})
    store.close()
    assert capsys.readouterr().err.count("no route to host; the run goes on without it") == 1
    assert len(read_metrics(tmp_path / "r")) == 2


def test_wandb_gets_every_number_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed, so its tracker is not tried")
    monkeypatch.setenv("WANDB_MODE", "offline")
    store = Store(tmp_path / "r", tensorboard=False)
    store.report_to(make_reporters(TrainConfig(log=LogConfig(report_to="wandb")), store.folder))
    store.write_metrics(1, {"reward": 0.5})
    store.close()
    assert list((tmp_path / "r").rglob("*.wandb")) and (tmp_path / "r" / "report_to.json").is_file()
