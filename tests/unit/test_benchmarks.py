"""benchmarks/: both sides really do the same work, and the numbers they are judged by are worked out by hand."""

import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlkit.tiny import make_model, make_tokenizer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True, scope="module")
def benchmarks_can_be_imported() -> Any:
    """As when one of them is run."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def do(job: Any) -> list[Any]:
    """A job's updates, in this process."""
    from sides import updates

    done: list[Any] = []
    updates.run(job, lambda: None, done.append)
    return done


# -- learner.py ------------------------------------------------------------------------------------------------------------


def test_both_sides_compute_the_same_update_of_the_same_rollouts(tmp_path: Path) -> None:
    from sides.updates import Case, Job, Shape

    shape = Shape(
        vocab_size=48, hidden_size=32, intermediate_size=64, num_layers=1, num_heads=2, num_kv_heads=1
    )
    case = Case(
        name="tail",
        num_groups=4,
        num_generations=4,
        prompt_tokens=5,
        median=6,
        sigma=1.0,
        cap=20,
        silent_groups=1,
    )
    assert len(set(case.lengths())) > 4, "padding must matter"
    job = Job(side="rlkit", shape=shape, cases=(case, case), per_device=4, gradient_file=tmp_path / "rlkit")
    jobs = {
        "rlkit": job,
        "trl": replace(job, side="trl", gradient_file=tmp_path / "trl"),
        "trl full logits": replace(job, side="trl full logits", gradient_file=tmp_path / "full"),
        "other rewards": replace(job, cases=(replace(case, seed=1),) * 2, gradient_file=tmp_path / "other"),
    }
    norms = {name: [update.grad_norm for update in do(each)] for name, each in jobs.items()}
    gradients = {name: torch.load(each.gradient_file) for name, each in jobs.items() if each.gradient_file}
    for name in ("trl", "trl full logits"):
        assert norms[name] == pytest.approx(norms["rlkit"], rel=1e-4)
        torch.testing.assert_close(gradients[name], gradients["rlkit"], rtol=1e-3, atol=1e-6)
    assert not torch.allclose(gradients["other rewards"], gradients["rlkit"], rtol=0.1)


def test_the_lengths_are_log_normal_and_cut() -> None:
    from sides.updates import Case

    case = Case(name="tail", num_groups=500, prompt_tokens=1, median=128, sigma=1.0)
    lengths = case.lengths()
    assert len(lengths) == 4000 and max(lengths) == 1024
    assert statistics.median(lengths) == pytest.approx(128, rel=0.05)
    # P(z < -1) = 0.159: a share of them is shorter than 128 / e = 47.1
    assert sum(length < 47 for length in lengths) / 4000 == pytest.approx(0.159, abs=0.02)
    assert Case(name="equal", num_groups=1, prompt_tokens=1, median=7).lengths() == [7] * 8


def test_silent_groups_have_one_reward_and_the_others_do_not() -> None:
    from sides.updates import Case

    groups = Case(name="half", num_groups=2, prompt_tokens=3, median=4, silent_groups=1).groups(16)
    assert [len({r.value for r in group.rollouts}) for group in groups] == [1, 8]
    assert {len(r.completion_ids) for group in groups for r in group.rollouts} == {4}
    assert len({tuple(r.token_ids[:3]) for group in groups for r in group.rollouts}) == 2


# -- time_to_reward.py -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model, untrained."""
    folder = tmp_path_factory.mktemp("weights")
    tokenizer = make_tokenizer()
    make_model(tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("arm", ["trl", "hf"])
def test_a_run_keeps_its_weights_and_the_seconds_of_its_steps(
    arm: Any, weights: Path, tmp_path: Path
) -> None:
    from sides.runs import Plan, train

    plan = Plan(
        model=weights,
        task="task:chain",
        steps=3,
        every=2,
        prompts_per_step=2,
        pool=4,
        num_generations=2,
        trl_per_device=2,
        prompts=2,
    )
    run = train(plan, arm, seed=0, folder=tmp_path / "run")
    assert len(run.steps) == 3 and sorted(run.weights) == [0, 2, 3]
    assert all(0 < step.learner < step.seconds - step.sampling < step.seconds for step in run.steps)
    kept = [load_file(folder / "model.safetensors") for _, folder in sorted(run.weights.items())]
    assert kept[0].keys() == kept[1].keys() == kept[2].keys()


def test_prompts_that_differ_are_refused() -> None:
    from sides.runs import require_same_prompts

    from rlkit.types import Prompt

    tokenizer = make_tokenizer()
    prompt = Prompt(id="a", token_ids=[2, 40])
    require_same_prompts([prompt], [[2, 40]], [tokenizer.eos_token_id], tokenizer)
    with pytest.raises(SystemExit, match=r"TRL reads \[2, 41\], rlkit \[2, 40\]"):
        require_same_prompts([prompt], [[2, 41]], [tokenizer.eos_token_id], tokenizer)
    with pytest.raises(SystemExit, match="ends answers at"):
        require_same_prompts([prompt], [[2, 40]], [0, 1], tokenizer)


def test_seconds_to_a_target_are_read_off_straight_lines() -> None:
    from sides.runs import Run, Step
    from time_to_reward import Curve, steps_to, summarise

    steps = [Step(seconds=float(s), learner=1.0, sampling=0.5) for s in (2, 4, 6, 8)]

    def curve(arm: Any, scores: dict[int, float]) -> Curve:
        return Curve(run=Run(arm=arm, seed=0, opening=0.0, steps=steps, weights={}), pass_at_1=scores)

    slow, quick = curve("trl", {0: 0.5, 2: 0.6, 4: 0.8}), curve("vllm", {0: 0.5, 2: 0.7, 4: 0.9})
    assert steps_to(0.7, slow.pass_at_1) == pytest.approx(3.0)
    assert slow.seconds_at(3.0) == 12 and slow.seconds_at(2.5) == 9  # 2 + 4 + 6; 2 + 4 + half of 6
    results = summarise([slow, quick], ["trl", "vllm"], 0.7)
    assert results["ratio_vllm"] == pytest.approx(0.5)  # 6 seconds for two steps, of 12
    assert results["ratio_per_step_vllm"] == 1.0
    assert results["arms"]["trl"]["learner_share"] == pytest.approx(4 / 20)


def test_a_target_that_is_never_met_is_no_number() -> None:
    from sides.runs import Run, Step
    from time_to_reward import Curve, steps_to, summarise

    run = Run(
        arm="trl", seed=0, opening=0.0, steps=[Step(seconds=1.0, learner=0.5, sampling=0.2)], weights={}
    )
    results = summarise([Curve(run=run, pass_at_1={0: 0.1, 1: 0.2})], ["trl"], 0.85)
    assert steps_to(0.85, {0: 0.1, 1: 0.2}) is None
    assert results["arms"]["trl"]["seconds_to_target"] is None and results["ratio_trl"] is None
    assert steps_to(0.85, {0: 0.9}) == 0.0


# -- stage_detector.py -----------------------------------------------------------------------------------------------------


def test_the_detector_is_judged_by_what_the_exact_curves_say() -> None:
    import numpy as np
    from stage_detector import Judged, offline, online, truth_of

    from rlkit.analysis.stages import Detection, Turn

    high, best = [0.5, 0.7, 0.9, 0.85, 0.4], [0.1, 0.05, 0.05, 0.1, 0.6]
    turns = truth_of(np.array([high, best]).T)
    stays = truth_of(np.array([high[:3], best[:3]]).T)
    assert (turns.turns.t_min2, turns.turns.t_max1, turns.turns.t_cross) == (1, 2, 4)
    assert (turns.drop, turns.rise, turns.visible_from) == (pytest.approx(0.5), pytest.approx(0.55), 3)
    assert turns.has("t_max1") and not stays.has("t_max1") and stays.visible_from is None

    def judged(truth: Any, low: float | None, alarm: int | None) -> Judged:
        """Found within 4 steps above `low`, called at `alarm`."""
        turn = None if low is None else Turn(step=low + 2, low=low, high=low + 4)
        found = Detection(
            last_step=4, stage="exploitation", exploration=0.0, t_min2=None, t_max1=turn, t_cross=None
        )
        seen = replace(truth, saturated_from=1)
        return Judged(truths={"the run's": seen}, found=found, alarm=alarm, saturated=3)

    runs = [judged(turns, 1, 4), judged(turns, 5, 3), judged(turns, None, 1), judged(stays, 0, 2)]
    row = offline(runs, "the run's", "t_max1")
    assert (row["runs_with"], row["found"], row["false"]) == (3, pytest.approx(2 / 3), 1.0)
    assert (row["median_error"], row["coverage"]) == (3.0, 0.5)  # medians at 3 and 7, the truth at 2
    past = online(runs)
    assert (past["too_early"], past["false_without"], past["never"]) == (pytest.approx(1 / 3), 1.0, 0.0)
    assert past["median_delay"] == 1.5 and past["saturation_delay"] == 2


def test_settings_that_turn_and_that_do_not_are_drawn_in_their_shares() -> None:
    import numpy as np
    from stage_detector import STEPS, chosen, truth_of

    from rlkit.analysis.bandit import simulate_expected

    settings = chosen(np.random.default_rng(0), 6)
    runs = [simulate_expected(s.bandit, s.algo, steps=STEPS, rate=s.rate) for s in settings]
    assert sorted(truth_of(run).has("t_max1") for run in runs) == [False] * 3 + [True] * 6


# -- code_rewards.py -------------------------------------------------------------------------------------------------------


def test_a_mutant_differs_in_one_place_and_the_plain_process_tells() -> None:
    import random

    from code_rewards import mutate, plainly

    from rlkit.types import Prompt

    program = "def f(x):\n    return x + 1"
    found = {mutate(program, random.Random(seed)) for seed in range(20)}
    head = "def f(x):\n    return "
    assert found == {
        (f"{head}x - 1", "operator"),
        (f"{head}x + 0", "constant"),
        (f"{head}x + 2", "constant"),
        (f"{head}None", "returned value"),
    }
    prompt = Prompt(id="a", token_ids=[], row={"test_setup_code": "", "tests": ["assert f(1) == 2"]})
    assert plainly(prompt, program) is True and plainly(prompt, f"{head}x - 1") is False


# -- two_stage.py ----------------------------------------------------------------------------------------------------------

ROLES = {"high": "steps", "low": "now", "optimal": "check"}


def stage_record(seed: int, turn: int | None) -> dict[str, Any]:
    """Looks at steps 0, 5, ... 95: `steps` rises until `turn` and falls to the good of `check`; None: it never falls."""
    steps = list(range(0, 100, 5))
    high = [
        min(0.9, 0.3 + 0.6 * s / (turn or 95)) - (0 if turn is None else max(0.0, 0.012 * (s - turn)))
        for s in steps
    ]
    check = [0.03 if turn is None else 0.01 + max(0.0, 0.012 * (s - turn)) for s in steps]
    mass = {"steps": high, "check": check, "now": [1 - a - b for a, b in zip(high, check, strict=True)]}
    exam = {"n": 4, "right": [4, 2], "best": [0, 1], "worth": {"now": 0.1, "steps": 0.5, "check": 0.9}}
    return {
        "settings": {"seed": seed},
        "steps": steps,
        "mass": mass,
        "entropy": [0.5] * 20,
        "reward": [0.5] * 20,
        "live": None,
        "tokens": 1000,
        "turn_step": turn or 95,
        "exams": {"turn": exam, "end": exam},
        "seconds": [1.0, 2.0],
    }


def test_only_a_right_answer_with_a_right_second_look_pays_in_full() -> None:
    from sides.graded import PLAIN, checked

    from rlkit.types import Prompt

    ask = Prompt(id="a", token_ids=[], question="7a+4b*3c-5d*2")
    work = "a7+4=1b1*3=3c3-5=8d8*2=6"
    paid = {
        f"<check>{work};d8*2=6\\boxed{{6}}": 1.0,
        f"<check>{work}\\boxed{{6}}": PLAIN,
        f"<check>{work};d8*2=5\\boxed{{6}}": PLAIN,
        f"<steps>{work};d8*2=6\\boxed{{6}}": PLAIN,
        "<now>\\boxed{6}": PLAIN,
        f"<check>{work};d8*2=6\\boxed{{5}}": 0.0,
        "<check>": 0.0,
    }
    assert {text: checked(ask, text).value for text in paid} == paid


def test_roles_are_read_off_the_start_and_a_start_without_them_is_refused() -> None:
    from sides.stages import roles_at_start

    mass = {"now": 0.68, "steps": 0.29, "check": 0.03}
    assert roles_at_start(mass, {"now": 0.1, "steps": 0.5, "check": 0.9}) == ROLES
    with pytest.raises(SystemExit, match="expected one style for each role"):
        roles_at_start(mass, {"now": 0.1, "steps": 0.5, "check": 0.4})


def test_the_end_of_exploitation_is_looked_at_where_weights_were_kept() -> None:
    from sides.stages import turn_of, turn_step

    turned, stays = stage_record(0, 40), stage_record(1, None)
    turn = turn_of(turned, ROLES)
    assert turn.t_max1 is not None and abs(turn.t_max1.step - 40) <= 10
    assert turn_step(turned, turn, "steps") in range(30, 55, 5)
    never = turn_of(stays, ROLES)
    assert never.t_max1 is None and turn_step(stays, never, "steps") == 95, "the peak, which is the end"


def test_the_tables_and_verdicts_of_a_campaign() -> None:
    import two_stage
    from sides import stages_svg

    start = {"mass": {k: v[0] for k, v in stage_record(0, 40)["mass"].items()}, "roles": ROLES}
    start |= {"exam": stage_record(0, 40)["exams"]["end"], "entropy": 0.5}
    runs = {"grpo": [stage_record(0, 40), stage_record(1, 50)], "grpo_n": [stage_record(0, None)] * 2}
    told = two_stage.summarise(start, runs)
    # pass@8 of 4 answers is pass@4: 1 where one of them is right.
    assert told["algos"]["grpo"]["pass"]["right@8"] == {"start": 1.0, "turn": [1.0, 1.0], "end": [1.0, 1.0]}
    assert told["algos"]["grpo"]["pass"]["best@1"]["end"] == [0.125, 0.125]
    words = two_stage.verdicts(told)
    assert (
        "grpo: exploitation ended in 2 of 2 runs" in words[0]
        and "grpo_n: exploitation ended in 0 of 2" in words[1]
    )
    from rich.console import Console

    console = Console(width=132, record=True, quiet=False, file=open("/dev/null", "w"))
    for table in (
        two_stage.mass_table(start, runs),
        two_stage.stage_table(start, runs),
        two_stage.pass_table(start, runs),
    ):
        console.print(table)
    text = console.export_text()
    assert "optimal check" in text and "exploration" in text and "no styles in trees" in text
    import xml.etree.ElementTree as ET

    drawn = ET.fromstring(stages_svg.draw(runs, ROLES))
    kinds = [element.tag.rpartition("}")[2] for element in drawn]
    assert kinds.count("polyline") == kinds.count("polygon") == 2 * 3


def test_a_record_of_other_settings_is_not_used(tmp_path: Path) -> None:
    from sides.stages import read, write

    path = tmp_path / "grpo-0.json"
    assert read(path, {"seed": 0}) is None
    write(path, {"settings": {"seed": 0}, "tokens": 3})
    assert read(path, {"seed": 0}) == {"settings": {"seed": 0}, "tokens": 3}
    assert read(path, {"seed": 0, "steps": 5}) is None


@pytest.mark.slow
def test_a_run_is_measured_once(tmp_path: Path) -> None:
    """Four steps of the real thing, and a second start that finds them."""
    from rich.console import Console
    from sides.stages import Plan, all_runs

    plan = Plan(steps=4, every=2, prompts_per_step=2, learning_rate=1e-4, prompts=6, answers=256)
    start, runs = all_runs(plan, ("skpo",), (0,), tmp_path, Console(quiet=True))
    assert start["roles"] == ROLES and runs["skpo"][0]["steps"] == [0, 2, 4]
    assert sum(runs["skpo"][0]["mass"][name][-1] for name in ROLES.values()) == pytest.approx(1, abs=0.02)
    assert not (tmp_path / "skpo-0").exists()
    assert all_runs(plan, ("skpo",), (0,), tmp_path, Console(quiet=True)) == (start, runs)


def test_an_overlapped_step_is_held_against_the_longer_side_of_its_own_turn() -> None:
    """Two turns: 3 s of generation beside 2 of training, then 2 beside 4; the first steps do not count."""
    import overlap
    from rich.console import Console

    def steps(sample: float, train: float, step: float) -> list[dict[str, float]]:
        row = {
            "timing_s/data": 0.0,
            "timing_s/sample": sample,
            "timing_s/verify": 0.5,
            "timing_s/credit": 0.25,
        }
        row |= {"timing_s/train": train, "timing_s/load": 0.25, "step_time": step}
        return [dict.fromkeys(row, 99.0)] * overlap.WARM_UP + [row] * 3

    alone, beside, in_flight = overlap.SIDES
    rows = {
        alone: [steps(2.5, 1.5, 5.0), steps(1.5, 3.5, 6.0)],
        beside: [steps(2.5, 1.5, 3.3), steps(1.5, 3.5, 4.2)],
        in_flight: [steps(2.5, 1.5, 3.0), steps(1.5, 3.5, 5.0)],
    }
    found = overlap.report_time(rows, 2, Console(quiet=True))
    assert found["step_over_longer"] == pytest.approx((3.3 / 3 + 4.2 / 4) / 2)
    assert found["step_over_longer_in_flight"] == pytest.approx((3.0 / 3 + 5.0 / 4) / 2)
    assert found["step_over_on_policy"] == pytest.approx((3.3 / 5 + 4.2 / 6) / 2)
    assert [str(kind) for kind in overlap.KINDS][:3] == [
        "on-policy",
        "1 step old, corrected",
        "1 step old, as it is",
    ]
