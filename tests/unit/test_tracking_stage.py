"""The stage of a run, from the masses that it wrote down itself."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from rlkit.analysis.stages import LEAST_STEPS
from rlkit.analysis.store import read_metrics
from rlkit.config import TrackConfig
from rlkit.tracking.stage import StageSoFar
from rlkit.tracking.tables import style_values
from rlkit.types import Group, Score
from tests.models import save_tiny_model
from tests.rollouts import question, rollout
from tests.unit.test_loop import CLOCK, config, run

STYLES = ("fast", "slow", "rare")
START = {"dynamics/style_value/fast": 0.1, "dynamics/style_value/slow": 0.8, "dynamics/style_value/rare": 1.0}


def two_stages(step: int) -> dict[str, float]:
    """`slow` rises from 0.45 to 0.85 at step 100 and falls again, to the good of `rare`; `fast` has the rest."""
    slow = 0.85 - 0.4 * ((step - 100) / 100) ** 2
    rare = 0.02 + 0.5 * max(0.0, (step - 100) / 100) ** 2
    masses = {"fast": 1 - slow - rare, "slow": slow, "rare": rare}
    shaken = 0.005 * math.sin(7.0 * step)
    told = {f"dynamics/style/{name}": mass + shaken * (name == "slow") for name, mass in masses.items()}
    return told | (START if step == 1 else {})


def tracked(last: int, every: int = 5) -> list[int]:
    return [1, *range(every, last + 1, every)]


def test_the_end_of_exploitation_is_found_where_the_mass_turns() -> None:
    stage, said = StageSoFar(STYLES, 5), {}
    for step in tracked(160):
        said = stage.add(step, two_stages(step))
    assert said["dynamics/stage"] == 1.0 and said["dynamics/stage_fixed"] == 1.0
    assert said["dynamics/turn/max1_low"] <= 100 <= said["dynamics/turn/max1_high"]
    assert said["dynamics/turn/max1"] == pytest.approx(100, abs=15)


def test_before_the_turn_it_has_not_turned_and_too_few_looks_say_nothing() -> None:
    stage = StageSoFar(STYLES, 5)
    said = {step: stage.add(step, two_stages(step)) for step in tracked(80)}
    known = [step for step, words in said.items() if words]
    assert known[0] == 5 * LEAST_STEPS  # step 1 fixes the roles and is no point of the even series
    assert {said[step]["dynamics/stage"] for step in known} == {0.0}
    assert not any(name.startswith("dynamics/turn/max1") for step in known for name in said[step])


def test_a_run_that_goes_on_says_what_it_would_have_said() -> None:
    whole, records, said = StageSoFar(STYLES, 5), [], {}
    for step in tracked(200):
        said[step] = whole.add(step, two_stages(step))
        records.append({"step": step, "reward": 0.5, **two_stages(step), **said[step]})
        records.append({"step": step + 1, "reward": 0.5})  # a step that is not tracked
    past = [json.loads(json.dumps(record)) for record in records if record["step"] <= 101]
    resumed = StageSoFar(STYLES, 5, past)
    assert [resumed.add(step, two_stages(step)) for step in tracked(200) if step > 101] == [
        said[step] for step in said if step > 101
    ]


def test_roles_stay_those_of_the_start_and_without_values_there_are_none() -> None:
    """`rare` becomes the likeliest style and is worth most: with roles read anew it would be `high`, and nothing would fall."""
    stage = StageSoFar(STYLES, 5)
    for step in tracked(200):
        said = stage.add(step, two_stages(step) | START)
    assert said["dynamics/stage"] == 1.0 and said["dynamics/turn/cross"] > said["dynamics/turn/max1"]
    blind = StageSoFar(STYLES, 5)
    for step in tracked(200):
        values = {name: v for name, v in two_stages(step).items() if "value" not in name}
        assert blind.add(step, values) == {}


def test_without_styles_the_masses_of_the_decisions_are_read_and_gaps_are_no_mass() -> None:
    stage = StageSoFar((), 5)
    for step in tracked(200):
        masses = {} if step % 3 == 0 else {"dynamics/mass/high": two_stages(step)["dynamics/style/slow"]}
        said = stage.add(step, {"dynamics/decisions": 4.0, **masses})
    assert (said["dynamics/stage"], said["dynamics/stage_fixed"]) == (1.0, 0.0)
    assert "dynamics/turn/min2" not in said


def test_a_style_is_worth_the_mean_of_the_answers_that_begin_with_it() -> None:
    scores = [(7, 1.0), (7, 0.0), (8, 0.5), (9, 1.0), (8, None)]
    answers = [replace(rollout([first, 3]), score=Score(value, reason="")) for first, value in scores]
    group = Group(prompt=question("a"), rollouts=answers)
    assert style_values([group], {7: "fast", 8: "slow", 5: "rare"}) == {"fast": 0.5, "slow": 0.5}


def test_a_stopped_and_resumed_run_has_the_same_stages(tmp_path: Path) -> None:
    """Metric lines are thinned, which must not thin the series."""
    model = save_tiny_model(tmp_path / "model", seed=3)
    log = {"every": 50, "save_every": 7, "eval_every": 0, "rollouts": False}
    track = TrackConfig(all=True, probe=0, top_k=2)
    cfg = config(model, tmp_path / "whole", track=track, log=log, steps=16)
    run(cfg)
    stopped = replace(cfg, output_dir=str(tmp_path / "stopped"))
    run(replace(stopped, steps=7))
    run(stopped, resume=True)
    whole, resumed = (
        [{k: v for k, v in line.items() if not k.startswith(CLOCK)} for line in read_metrics(tmp_path / name)]
        for name in ("whole", "stopped")
    )
    assert whole == resumed and len(whole) == 16
    assert "dynamics/stage" in whole[-1]
