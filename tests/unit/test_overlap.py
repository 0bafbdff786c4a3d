"""`--async-steps`: rollouts of later steps beside the update, on a real (tiny, random) model."""

import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from rlkit import build
from rlkit.analysis.store import read_metrics, read_rollouts
from rlkit.config import RewardConfig, TrainConfig
from rlkit.errors import ConfigError, RlkitError, RolloutError, SamplerGone
from rlkit.learner import Learner
from rlkit.samplers.hf import HfSampler
from rlkit.stopping import Stop
from rlkit.types import Prompt, Request, Rollout
from tests.models import save_tiny_model
from tests.unit.test_loop import config, facts, run
from tests.verdicts import even

PATIENCE = 120.0
"""Seconds until something that comes at once on an idle machine is given up."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), seed=3)


def nothing_is_left() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name == "rlkit-rollouts"]


def versions(folder: Path, steps: int) -> list[set[int]]:
    return [{r["policy_version"] for r in read_rollouts(folder, step)} for step in range(1, steps + 1)]


def prompts(folder: Path, steps: int) -> list[list[str]]:
    return [[r["prompt_id"] for r in read_rollouts(folder, step)] for step in range(1, steps + 1)]


@pytest.mark.parametrize(("algo", "k"), [("skpo", 1), pytest.param("grpo", 3, marks=pytest.mark.slow)])
def test_a_stopped_and_resumed_overlapped_run_is_the_one_that_never_stopped(
    algo: str, k: int, model: Path, tmp_path: Path
) -> None:
    whole, parts = (config(model, tmp_path / name, algo, async_steps=k) for name in ("whole", "parts"))
    run(whole)
    run(replace(parts, steps=2))
    run(parts, resume=True)
    one, other = facts(tmp_path / "whole"), facts(tmp_path / "parts")
    assert [name for name in one if one[name] != other[name]] == []
    # Two updates a step: step t learns from weights that had seen k steps less.
    assert versions(tmp_path / "whole", 4) == [{max(0, 2 * (step - 1 - k))} for step in range(1, 5)]
    ages = [line["staleness"] for line in read_metrics(tmp_path / "whole")]
    assert ages == [min(2.0 * step, 2.0 * k) for step in range(4)]
    kept = tmp_path / "whole" / "checkpoints" / "step-000004" / "rlkit"
    assert (kept / "ahead.json").exists() and nothing_is_left()


def test_overlap_of_0_is_strictly_on_policy_and_keeps_nothing(model: Path, tmp_path: Path) -> None:
    run(config(model, tmp_path, steps=2))
    assert versions(tmp_path, 2) == [{0}, {2}]
    assert not list((tmp_path / "checkpoints" / "step-000002" / "rlkit").glob("ahead.*"))
    assert all("timing_s/wait" not in line for line in read_metrics(tmp_path))


BESIDE = "rlkit-rollouts"
ANSWERS = 16
"""Of one step."""


class Verdicts:
    """A reward in this process: what happens at the first verdict of the second draw, while step 1 trains."""

    at_first: Callable[[], None] = staticmethod(lambda: None)
    given = 0

    @classmethod
    def begin(cls, at_first: Callable[[], None]) -> None:
        cls.at_first, cls.given = staticmethod(at_first), 0


def verdict(prompt: Prompt, text: str) -> float:
    if threading.current_thread().name == BESIDE:
        Verdicts.given += 1
        if Verdicts.given == ANSWERS + 1:
            Verdicts.at_first()
    return even(prompt, text)


def overlapped(model: Path, folder: Path, **changes: Any) -> TrainConfig:
    reward = RewardConfig(name="tests.unit.test_overlap:verdict", workers=0)
    log = {"eval_every": 0, "save_every": 0} | changes.pop("log", {})
    return config(model, folder, **({"reward": reward, "async_steps": 1, "log": log} | changes))


def test_rollouts_of_the_next_step_are_made_while_this_one_trains(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They meet: one after the other, neither would come to the meeting of the other."""
    meeting, update = threading.Barrier(2), Learner.update

    def meets(self: Learner, *args: Any, **more: Any) -> Any:
        if self.updates == 0:
            meeting.wait(PATIENCE)
        return update(self, *args, **more)

    monkeypatch.setattr(Learner, "update", meets)
    Verdicts.begin(lambda: meeting.wait(PATIENCE) and None)
    run(overlapped(model, tmp_path, steps=2))
    assert Verdicts.given == 3 * ANSWERS  # for the step after the last one too: a run may be resumed
    assert not meeting.broken and nothing_is_left()


def test_rollouts_that_a_scheduler_does_not_leave_time_for_are_written_anew_after_a_resume(
    model: Path, tmp_path: Path
) -> None:
    """The update that has begun is made and saved; the place in the data is from before the lost rollouts."""

    main = threading.get_ident()

    def stuck() -> None:
        signal.pthread_kill(main, signal.SIGUSR1)
        until = time.monotonic() + PATIENCE
        while not (tmp_path / "parts" / "checkpoints" / "step-000001").exists() and time.monotonic() < until:
            time.sleep(0.02)

    Verdicts.begin(stuck)
    parts = overlapped(model, tmp_path / "parts", log={"grace": 0.2})
    with pytest.raises(RlkitError, match="stopped after step 1 .rollouts of a later step were given up"):
        run(parts)
    assert nothing_is_left() and [line["step"] for line in read_metrics(tmp_path / "parts")] == [1]
    Verdicts.begin(lambda: None)
    assert run(parts, resume=True).steps == 4
    run(overlapped(model, tmp_path / "whole"))
    assert prompts(tmp_path / "parts", 4) == prompts(tmp_path / "whole", 4)
    assert versions(tmp_path / "parts", 4) == [{0}, {2}, {2}, {4}]  # the lost ones by the newer weights


class Leaving(HfSampler):
    """Answers so many calls, and is gone."""

    calls = 2

    def sample(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        self.calls -= 1
        if self.calls < 0:
            raise SamplerGone("all 2 rollout servers are gone")
        return super().sample(requests)


def test_when_the_sampler_is_gone_beside_an_update_the_update_is_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluation and step 1 are answered, step 2 is not."""
    make = build.make_sampler
    with monkeypatch.context() as patch:
        patch.setattr(build, "make_sampler", lambda cfg, own, folder, **_: Leaving(folder))
        with pytest.raises(SamplerGone, match="servers are gone"):
            run(overlapped(model, tmp_path / "parts"))
    assert build.make_sampler is make and nothing_is_left()
    assert [line["step"] for line in read_metrics(tmp_path / "parts")] == [1]
    assert run(overlapped(model, tmp_path / "parts", steps=2), resume=True).steps == 2
    assert versions(tmp_path / "parts", 2) == [{0}, {2}]


def test_an_error_beside_the_update_ends_the_run_with_its_own_words(model: Path, tmp_path: Path) -> None:
    def fail() -> None:
        Verdicts.given = ANSWERS  # and again at the next
        raise ValueError("not today")

    Verdicts.begin(fail)
    with pytest.raises(
        RolloutError, match="16 of 32 verdicts are errors.*not today|16 of 16 verdicts are errors.*not today"
    ):
        run(overlapped(model, tmp_path))
    assert nothing_is_left()


def test_a_second_ctrl_c_ends_the_thread_beside_too(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, pressed, handle = threading.Event(), threading.get_ident(), Stop._ctrl_c

    def noted(self: Stop, number: int, frame: FrameType | None) -> None:
        handle(self, number, frame)
        told.set()

    def pressed_twice() -> None:
        signal.pthread_kill(pressed, signal.SIGINT)
        assert told.wait(PATIENCE)  # two that come at once are one
        signal.pthread_kill(pressed, signal.SIGINT)

    monkeypatch.setattr(Stop, "_ctrl_c", noted)
    Verdicts.begin(pressed_twice)
    with pytest.raises(KeyboardInterrupt):
        run(overlapped(model, tmp_path))
    assert nothing_is_left() and not list((tmp_path / "checkpoints").glob("step-*"))


def test_a_sampler_of_this_process_can_be_halted_in_the_middle_of_an_answer(model: Path) -> None:
    sampler = HfSampler(model, stop_ids=[])
    long = Request(prompt_id="a", token_ids=[5, 6], n=1, max_tokens=1000, temperature=1.0, seed=0)
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            sampler.sample([long])
        except RolloutError as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    sampler.halt()
    thread.join(PATIENCE)
    assert not thread.is_alive() and "was halted" in str(failures[0])
    with pytest.raises(RolloutError, match="halted; load"):
        sampler.sample([replace(long, max_tokens=1)])
    sampler.load(AutoModelForCausalLM.from_pretrained(model).state_dict(), 1)
    assert len(sampler.sample([replace(long, max_tokens=2)])[0][0].completion_ids) == 2


def test_a_negative_number_of_steps_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="async_steps = -1: expected 0"):
        config(model, tmp_path, async_steps=-1)
