"""Diagnosis: every check on a history that has the fault and on one that just has not; when it is told; what its inputs say."""

import math
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlkit.algo_presets import ALGO_CONFIGS
from rlkit.doctor import CHECKS, Case, Finding, Setup, Watch, diagnose, explain, setup_of
from rlkit.doctor.watch import GONE
from rlkit.rollout_metrics import rollout_metrics
from rlkit.types import Credit, Group, Rollout
from tests.diagnosis import documentation
from tests.histories import (
    EXAMPLES,
    LARGEST_GAP,
    NO_SPREAD,
    RATIO,
    SETUP,
    THRESHOLDS,
    TOKENS_GAP,
    Column,
    Records,
    found,
    from_step,
    history,
    record,
)
from tests.rollouts import question, rollout

ROOT = Path(__file__).parents[2]


def test_every_check_has_its_example() -> None:
    assert list(EXAMPLES) == [check.name for check in CHECKS]


def test_a_healthy_history_has_nothing() -> None:
    assert found(history(100)) == {}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_fault_is_found_and_its_near_miss_is_not(name: str) -> None:
    example = EXAMPLES[name]
    finding = found(example.records, example.setup)[name].finding
    assert finding.severity == example.severity
    assert finding.says.startswith(example.says), finding.says
    assert finding.cause.startswith(example.cause) and finding.remedy
    assert name not in found(example.near, example.near_setup)


@pytest.mark.parametrize(("name", "on", "off", "setup"), THRESHOLDS)
def test_thresholds_are_where_the_page_says(name: str, on: Records, off: Records, setup: Setup) -> None:
    assert name in found(on, setup)
    assert name not in found(off, setup)


@pytest.mark.parametrize(
    ("name", "severities", "of"),
    [
        ("no-gradient", {2: "warning", 3: "serious"}, lambda n: history(int(n), **NO_SPREAD)),
        ("dead-gradient", {2: "warning", 3: "serious"}, lambda n: history(int(n), grad_norm=0.0)),
        (
            "few-groups-differ",
            {3: "warning", 5: "hint"},
            lambda right: history(10, frac_zero_advantage=0.75, groups__all_right=right),
        ),
        ("truncated", {0.89: "warning", 0.91: "serious"}, lambda x: history(3, completions__clipped_ratio=x)),
        ("verifier-errors", {25.5: "warning", 25.7: "serious"}, lambda x: history(1, verifier__errors=x)),
        (
            "mostly-clipped",
            {0.299: "warning", 0.301: "serious"},
            lambda x: history(3, clip_ratio__region_mean=x),
        ),
        ("gradient-always-clipped", {9.9: "hint", 10.1: "warning"}, lambda x: history(20, grad_norm=x)),
    ],
)
def test_less_of_it_is_less_severe(
    name: str, severities: dict[float, str], of: Callable[[float], Records]
) -> None:
    assert {x: found(of(x))[name].finding.severity for x in severities} == severities


@pytest.mark.parametrize(("reward", "cause"), [(0.49, "too hard"), (0.51, "too easy")])
def test_where_groups_were_not_counted_the_reward_tells_their_side(reward: float, cause: str) -> None:
    records = history(1, reward=reward, **NO_SPREAD)
    for r in records:
        del r["groups/total"]
    assert found(records)["no-gradient"].finding.cause.startswith(cause)


@pytest.mark.parametrize(
    ("updates", "severity"), [(99, None), (100, "hint"), (199, "hint"), (200, "warning")]
)
def test_a_warm_up_is_long_from_half_of_the_run_on(updates: int, severity: str | None) -> None:
    """The run has 100 steps of 2 updates."""
    case = found(history(1), replace(SETUP, warmup_steps=updates)).get("long-warm-up")
    assert (case.finding.severity if case else None) == severity


def test_what_a_record_lacks_is_not_diagnosed() -> None:
    """A custom loop, an older version, a run whose config.toml is gone."""
    assert diagnose([{"step": step} for step in range(1, 60)], Setup()) == []
    assert found(history(60), Setup()) == {}
    assert diagnose([], SETUP) == []


def test_the_cause_of_no_gradient_is_what_its_groups_have_in_common() -> None:
    easy = NO_SPREAD | {"groups__all_wrong": 2.0, "groups__all_right": 30.0}
    copies = easy | {"groups__one_answer": 20.0}
    assert found(history(1, **easy))["no-gradient"].finding.cause.startswith("too easy")
    assert found(history(1, **copies))["no-gradient"].finding.cause.startswith("no exploration")
    kl = history(1, **NO_SPREAD | {"grad_norm": 0.02})
    assert "what is left of the gradient (0.02) is the penalty's" in found(kl)["no-gradient"].finding.says


def test_masked_answers_are_not_called_equal() -> None:
    """mask_truncated_completions, and every answer cut: no advantage is left, yet the rewards differ."""
    masked = {"frac_zero_advantage": 1.0, "grad_norm": 0.0, "completions__clipped_ratio": 1.0}
    cases = found(history(6, frac_reward_zero_std=0.0, **masked))
    assert cases.keys() == {"dead-gradient", "truncated"}
    says = "the gradient is 0 though the rewards of 100% of the groups differ; every answer was cut"
    assert cases["dead-gradient"].finding.says == says


def test_equal_rewards_are_no_fault_where_they_teach() -> None:
    """NSR, REINFORCE++ and value trackers learn from groups of equal rewards: the advantages decide."""
    assert found(history(20, frac_reward_zero_std=1.0, frac_zero_advantage=0.0)) == {}


@pytest.mark.parametrize("norm, expected", [(0.0, True), (0.3, False)])
def test_without_advantages_equal_rewards_and_a_gradient_of_0_are_needed(norm: float, expected: bool) -> None:
    records = history(1, **NO_SPREAD | {"grad_norm": norm})
    for r in records:
        del r["frac_zero_advantage"]
    assert ("no-gradient" in found(records)) == expected


def test_groups_of_one_have_no_spread_to_lose() -> None:
    """SPO asks once for every prompt."""
    records = history(20, frac_reward_zero_std=1.0, verifier__verdicts=32.0, frac_zero_advantage=math.nan)
    assert found(records) == {}
    assert found(history(20, frac_reward_zero_std=1.0, frac_zero_advantage=math.nan)).keys() == {
        "few-groups-differ"
    }


def test_the_cause_of_a_gap_is_read_from_when_it_began() -> None:
    late = history(4, **{TOKENS_GAP: from_step(2, 0.05, 1e-6)})
    assert "new weights do not reach the sampler" in found(late)["sampler-gap"].finding.cause
    stale = history(4, staleness=2.0, **{TOKENS_GAP: from_step(2, 0.05, 1e-6)})
    assert "weights up to 2 updates old" in found(stale)["sampler-gap"].finding.cause
    # As old as --async-steps makes them, they are meant to differ; only in the first step they are not old yet.
    one_step, asked = {"staleness": from_step(2, 2.0, 0.0)}, replace(SETUP, async_steps=1)
    assert "sampler-gap" not in found(history(4, **one_step, **{TOKENS_GAP: from_step(2, 0.05, 1e-6)}), asked)
    assert "sampler-gap" in found(history(4, **one_step, **{TOKENS_GAP: 0.05}), asked)
    older = history(4, staleness=from_step(2, 3.0, 0.0), **{TOKENS_GAP: from_step(2, 0.05, 1e-6)})
    assert "sampler-gap" in found(older, asked)
    unknown = history(4, **{TOKENS_GAP: from_step(2, 0.05, math.nan)})
    assert found(unknown)["sampler-gap"].finding.cause == next(
        c.cause for c in CHECKS if c.name == "sampler-gap"
    )


@pytest.mark.parametrize(("first", "expected"), [(1e-6, True), (0.02, False)])
def test_where_the_dtype_is_not_known_rounding_tells(first: float, expected: bool) -> None:
    records = history(4, **{TOKENS_GAP: from_step(2, 0.05, first)})
    assert ("sampler-gap" in found(records, replace(SETUP, dtype=None))) == expected


def test_an_answer_that_ended_at_the_start_has_been_unlearnt() -> None:
    records = history(10, completions__clipped_ratio=from_step(3, 1.0, 0.0), completions__clipped_right=0.5)
    assert found(records)["never-stops"].finding.cause.startswith("the policy has unlearnt")


def test_entropy_is_the_answers_own_where_nothing_was_trained() -> None:
    records = history(20, completions__mean_nll=lambda step: 0.5 * 0.8**step, **NO_SPREAD)
    for r in records[3:]:
        del r["entropy"]
    assert "entropy-collapse" in found(records)


def test_a_baseline_that_half_of_the_run_never_met_again() -> None:
    new: dict[str, Column] = {"skpo__prompts_met": lambda step: 32.0 * step}
    cases = found(history(50, **new), replace(SETUP, pool=None))
    assert cases["baseline-never-visited"].first == 50  # of 100 steps
    budget = replace(SETUP, pool=None, steps=10_000, token_budget=20_000)
    assert found(history(10, **new), budget)["baseline-never-visited"].first == 10
    assert "baseline-never-visited" not in found(history(50), replace(SETUP, pool=None))


def test_rare_rewards_do_not_fall() -> None:
    """One right answer in ten steps, then none: noise and not a fall."""
    records = history(20, reward=from_step(11, 0.0, 0.0))
    records[2]["reward"] = 0.02
    assert "reward-fell" not in found(records)
    assert "reward-fell" not in found(history(40, reward=lambda step: 0.5 if step % 2 else 0.1))


def test_a_warm_up_under_a_token_budget_has_no_known_end() -> None:
    assert found(history(3), replace(SETUP, warmup_steps=400, token_budget=10**6)) == {}


# -- what is told, and when ----------------------------------------------------------------------------------------------


def told(records: list[dict[str, float]], setup: Setup = SETUP) -> list[tuple[int, str, str]]:
    watch = Watch(setup)
    return [(int(r["step"]), f.severity, f.name) for r in records for f in watch.step(r)]


def test_a_finding_is_told_once() -> None:
    assert told(history(50, completions__clipped_ratio=0.6)) == [(3, "warning", "truncated")]


def test_a_finding_that_was_gone_is_told_again() -> None:
    def told_of(second: int) -> list[int]:
        """A bad step, and another: a tenth of a step's verdicts is more than one in a hundred of ten steps'."""
        bad = (1, second)
        return [s for s, *_ in told(history(40, verifier__errors=lambda step: 26.0 if step in bad else 0.0))]

    assert told_of(10 + GONE) == [1]  # seen up to step 10
    assert told_of(10 + GONE + 1) == [1, 10 + GONE + 1]


def test_a_finding_that_got_much_worse_is_told_again() -> None:
    spreading = history(
        40, frac_zero_advantage=lambda step: 0.75 if step <= 15 else 0.9, groups__all_wrong=24.0
    )
    steps = [step for step, _, _ in told(spreading)]
    # 1 / (1 - share) doubles from 4 to 8 where the mean of ten passes 0.875: after 9 steps of 0.9
    assert steps == [5, 24]


def test_a_finding_that_became_severe_is_told_again() -> None:
    worse = history(40, completions__clipped_ratio=from_step(20, 0.95, 0.8))
    assert told(worse) == [
        (3, "warning", "truncated"),
        (23, "serious", "truncated"),
    ]  # mean of 5: 0.8 + 0.03 n


def test_a_hint_is_told_once_in_a_run() -> None:
    assert told(history(80, loss=lambda step: 0.0 if step % 30 == 1 else 0.1)) == [(1, "hint", "zero-loss")]


def test_what_a_resumed_run_already_said_is_no_news() -> None:
    records = history(20, completions__clipped_ratio=0.6)
    watch = Watch(SETUP, records[:10])
    assert [f for r in records[10:] for f in watch.step(r)] == []


def test_a_graver_finding_hides_what_it_explains() -> None:
    constant = found(history(12, reward=0.0, **NO_SPREAD))
    assert constant.keys() == {"constant-reward"}
    gap = found(history(5, **{TOKENS_GAP: 0.5, LARGEST_GAP: 4.0, RATIO: 2.0}))
    assert gap.keys() == {"sampler-gap"}


def test_a_fault_in_the_middle_is_kept_one_step_milder() -> None:
    records = history(60, completions__clipped_ratio=lambda step: 0.95 if 10 <= step < 30 else 0.05)
    case = found(records)["truncated"]
    assert (case.finding.severity, case.present) == ("warning", False)
    assert (case.first, case.last) == (12, 31)  # over half of five steps from the third on
    assert found(records[:35])["truncated"].present


def test_cases_come_worst_first() -> None:
    records = history(
        40,
        loss=0.0,
        completions__clipped_ratio=from_step(30, 0.6, 0.05),
        grad_norm=from_step(38, math.inf, 0.5),
    )
    cases = diagnose(records, SETUP)
    assert [c.finding.severity for c in cases] == ["serious", "warning", "hint"]


# -- what the config says -------------------------------------------------------------------------------------------------


def test_a_setup_is_read_from_a_run_folders_config() -> None:
    text = """
steps = 50
mini_batches = 2
num_iterations = 3
prompts_per_step = 8
[model]
name = "tiny"
dtype = "auto"
[data]
name = "task:chain"
pool = 0
[algo]
name = "skpo"
[learner]
warmup_steps = 5
max_grad_norm = 0.5
"""
    setup = setup_of(tomllib.loads(text), dtype="float32")
    assert setup == Setup(
        algo="skpo",
        model="tiny",
        dtype="float32",
        steps=50,
        prompts_per_step=8,
        updates_per_step=6,
        warmup_steps=5,
        max_grad_norm=0.5,
        pool=0,
    )
    assert setup_of({"data": {"name": "train.jsonl", "pool": 256}}).pool is None
    assert setup_of({"model": {"dtype": "bfloat16"}}, dtype="float32").dtype == "bfloat16"


@pytest.mark.parametrize(
    "config", [{}, {"algo": "grpo", "steps": "many", "learner": 3, "data": [1], "mini_batches": True}]
)
def test_a_config_of_another_version_leaves_things_unknown(config: dict[str, Any]) -> None:
    assert setup_of(config) == Setup(algo=config.get("algo"))


# -- what the metrics say --------------------------------------------------------------------------------------------------


def test_groups_of_equal_rewards_are_counted_by_side() -> None:
    scores = [[1.0, 1.0], [0.1, 0.1], [-1.0, -1.0], [0.0, 1.0], [1.1]]
    leaves = [
        Group(prompt=question(str(i)), rollouts=[rollout([50 + j, 3], score=s) for j, s in enumerate(group)])
        for i, group in enumerate(scores)
    ]
    leaves.append(
        Group(prompt=question("same"), rollouts=[rollout([50, 3], score=1.0), rollout([50, 3], score=0.0)])
    )
    got = rollout_metrics(leaves, version=0)
    assert (got["groups/total"], got["groups/all_right"], got["groups/all_wrong"]) == (6, 2, 2)
    assert got["groups/one_answer"] == 1  # a group of one has nothing to be a copy of
    assert got["verifier/verdicts"] == 11


def test_cut_answers_that_are_right_are_counted() -> None:
    answers = [
        rollout([50, 3], score=1.0),
        rollout([50] * 4, score=1.0, stop=False),
        rollout([50] * 4, score=0.0, stop=False),
    ]
    got = rollout_metrics([Group(prompt=question(), rollouts=answers)], version=0)
    assert (got["completions/clipped_right"], got["completions/mean_nll"]) == (0.5, 1.0)  # log-probs of -1


def test_prompts_that_nothing_pulls_are_counted() -> None:
    r = rollout([50, 3], score=1.0)

    def credit(group: int, advantage: float, weight: float = 1.0) -> Credit:
        return Credit(rollout=r, advantages=[advantage] * 2, weight=weight, share=1.0, group=group)

    def share(*credits: Credit) -> float:
        return rollout_metrics([], 0, list(credits))["frac_zero_advantage"]

    assert share(credit(0, 0.0), credit(0, 1.0), credit(1, 0.0), credit(2, 1.0, weight=0.0)) == pytest.approx(
        2 / 3
    )
    assert share() == 1.0 and "frac_zero_advantage" not in rollout_metrics([], 0)


# -- what the rollouts say ---------------------------------------------------------------------------------------------------


def row(**changes: Any) -> dict[str, Any]:
    return {
        "role": "answer",
        "prompt_tokens": 2,
        "token_ids": [9, 9, 50, 51, 52],
        "text": "so it goes",
        "outcome": "score",
        "score": 0.0,
        "reason": "read '4', not '5'",
        "finish_reason": "length",
    } | changes


def explained(name: str, rows: list[dict[str, Any]], special: dict[int, str] | None = None) -> Finding:
    finding = Finding(name=name, severity="serious", says="so", cause="c", remedy="r", number=1.0)
    return explain(Case(finding=finding, first=1, last=1, present=True), rows, special or {}).finding


def test_the_most_frequent_reason_is_told() -> None:
    wrong = [
        row(),
        row(reason="read '17', not '-3.5'"),
        row(reason="no \\boxed{} in the answer"),
        row(score=1.0),
    ]
    said = 'so; most frequent reason of a wrong answer: "read ..., not ..." (2 of 3)'
    assert explained("constant-reward", wrong).says == said
    assert explained("constant-reward", [row(score=1.0), row(score=1.0), row()]).says == "so"  # mostly right
    assert explained("constant-reward", [row(reason="")]).says == "so"
    assert explained("constant-reward", [row(role="segment")]).says == "so"
    skips = [row(outcome="skip", score=None, reason="no gold answer"), row()]
    assert explained("verifier-skips", skips).says == 'so; most frequent reason: "no gold answer" (1 of 1)'
    errors = [row(outcome="error", score=None, reason="timed out after 10 s"), *skips]
    assert (
        explained("verifier-errors", errors).says
        == 'so; most frequent reason: "timed out after ... s" (1 of 1)'
    )


def test_a_special_token_inside_cut_answers_is_an_end_that_nobody_knew() -> None:
    special = {9: "<|user|>", 51: "<|end|>", 52: "<|pad|>"}
    goes_on = explained("truncated", [row(), row(token_ids=[9, 9, 50, 50, 50])], special)
    assert goes_on.says == "so; 1 of 2 cut answers hold the special token <|end|> and go on after it"
    assert "add 51 (<|end|>) to eos_token_id" in goes_on.remedy
    # in the prompt, at the very end, in an answer that ended, or in less than half: nothing
    assert explained("truncated", [row(finish_reason="stop")], special).says == "so"
    assert explained("truncated", [row()], {9: "<|user|>", 52: "<|pad|>"}).says == "so"
    assert (
        explained("truncated", [row(), row(token_ids=[9] * 3), row(token_ids=[9] * 3)], special).says == "so"
    )


def test_loops_are_seen() -> None:
    loop = "Wait, let me check. 4 + 4 = 8. " * 12
    assert explained("never-stops", [row(text=loop), row()]).says == "so; 1 of 2 cut answers end in a loop"
    assert explained("truncated", [row(), row(text="")]).says == "so"


# -- the page -------------------------------------------------------------------------------------------------------------------


def test_the_page_is_written_from_the_checks() -> None:
    written = (ROOT / "docs/diagnosis.md").read_text()
    assert written == documentation(), "run `python -m tests.diagnosis > docs/diagnosis.md`"


def test_what_is_advised_exists() -> None:
    """Every flag in a cause or remedy is one, in full or short; every algorithm is one."""
    lines = (ROOT / "tests/unit/flags.txt").read_text().splitlines()
    full = {line.split()[1] for line in lines if line.startswith("train ")}
    known = full | {f"--{flag.rpartition('.')[2].removeprefix('--')}" for flag in full} | {"--dry-run"}
    rooms = {flag.partition(".")[0] for flag in full}
    text = documentation()
    named = set(re.findall(r"(?<![\w-])--[a-z][\w.-]*[a-z]", text)) - {"--json"}
    assert len(named) > 15
    assert named <= known | rooms, named - known - rooms
    assert set(re.findall(r"--algo (\w+)", text)) <= set(ALGO_CONFIGS)


def test_what_a_check_hides_exists() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    assert {hidden for check in CHECKS for hidden in check.hides} <= set(names)


def test_a_rollout_in_a_group_is_what_the_examples_think() -> None:
    """`record` has every number that a check reads: a renamed metric would leave its check silent."""
    r: Rollout = rollout([50, 3], score=1.0)
    written = rollout_metrics([Group(prompt=question(), rollouts=[r])], 0, [])
    ours = {name for name in record(1) if name.startswith(("groups/", "verifier/", "completions/"))}
    assert ours - {"groups/prompts", "groups/kept"} <= written.keys()
