"""Loss, gradient, advantages, correction and metrics equal TRL's own: benchmarks/parity_trl.py, run as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rlkit.learner.correction import importance_weights

ROOT = Path(__file__).parents[2]
LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo")
BOTH_LEVELS = [f"{name}, {level}" for name in LOSS_TYPES for level in ("token", "sequence")]
BOTH_LEVELS += ["gspo", "luspo", "rloo"]
FORMULA_ONLY = ["grpo_n", "gspo_n", "nsr", "psr", "w_reinforce", "reinforce_pp", "reinforce_pp_baseline"]
CLIPPED = ("clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean", "clip_ratio/high_max")


class Run:
    """The benchmark in a process of its own: it sets variables that other tests must not see."""

    def __init__(self, *flags: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "benchmarks/parity_trl.py", *flags],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> tuple[int, str]:
        """Exit code and what it printed."""
        out, errors = self.process.communicate()
        assert out, errors
        return self.process.returncode, out


@pytest.fixture(scope="module")
def runs() -> dict[str, tuple[int, str]]:
    begun = {"right": Run("--json"), "wrong": Run("--wrong", "--only", "dr_grpo, token", "--json")}
    return {name: run.end() for name, run in begun.items()}


@pytest.fixture(scope="module")
def report(runs: dict[str, tuple[int, str]]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(runs["right"][1].splitlines()[-1])
    return found


def test_nothing_is_above_its_tolerance(runs: dict[str, tuple[int, str]], report: dict[str, Any]) -> None:
    code, out = runs["right"]
    assert (code, report["ok"], report["complaints"]) == (0, True, []), out
    assert "FAIL" not in out


def test_another_epsilon_on_one_side_fails(runs: dict[str, tuple[int, str]]) -> None:
    code, out = runs["wrong"]
    assert code == 1 and "FAIL" in out
    found = json.loads(out.splitlines()[-1])
    verdicts = {
        (row["level"], row["quantity"]): row["ok"]
        for row in found["rows"]
        if row["algorithm"] == "dr_grpo, token"
    }
    assert not found["ok"]
    for level in ("formula", "model"):
        assert [verdicts[level, name] for name in ("loss", "gradient", "advantages")] == [False, False, True]


@pytest.mark.parametrize("algorithm", [*BOTH_LEVELS, *FORMULA_ONLY])
def test_an_algorithm_s_numbers_are_trl_s(report: dict[str, Any], algorithm: str) -> None:
    mine = [row for row in report["rows"] if row["algorithm"] == algorithm]
    levels = {"formula"} if algorithm in FORMULA_ONLY else {"formula", "model"}
    assert {row["level"] for row in mine if row["quantity"] == "gradient"} == levels
    assert [row for row in mine if not row["ok"]] == []
    for row in mine:
        if row["quantity"] == "gradient":
            assert row["tolerance"] <= (1e-9 if row["level"] == "formula" else 1e-5) and row["size"] > 0.01
        if row["quantity"] == "loss":
            assert row["tolerance"] <= (1e-9 if row["level"] == "formula" else 1e-6) and row["size"] > 0.001


def test_all_algorithms_are_among_these(report: dict[str, Any]) -> None:
    assert {row["algorithm"] for row in report["rows"]} == {*BOTH_LEVELS, *FORMULA_ONLY}


def test_every_metric_was_compared_where_it_is_not_0(report: dict[str, Any]) -> None:
    sizes = {(row["level"], row["algorithm"], row["quantity"]): row["size"] for row in report["rows"]}
    expected = (*CLIPPED, "kl", "policy_loss")
    assert all(sizes["formula", "grpo, token", name] > 0 for name in expected)
    assert all(sizes["model", "grpo, token", name] > 0 for name in (*expected, "entropy", "grad_norm"))
    assert sizes["formula", "cispo, token", "cispo_clip_ratio"] > 0
    for name in ("sampling_logp_difference/mean", "sampling_logp_difference/max"):
        assert sizes["model", "grpo, token", f"sampling/{name}"] > 0
    for name in ("min", "mean", "max"):
        assert sizes["model", "grpo, token", f"sampling/importance_sampling_ratio/{name}"] > 0


def test_every_option_acts(report: dict[str, Any]) -> None:
    modes = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
    expected = {
        *("beta", "beta, use_bias_correction_kl off", "entropy_coef", "top_entropy_quantile"),
        *("off_policy_mask_threshold", "mask_truncated_completions", "epsilon, epsilon_high", "delta"),
        *("sapo_temperature_pos, _neg", "all at once"),
        *(f"scale_rewards {scale}" for scale in ("group", "batch", "none")),
        *(f"correction, {mode}" for mode in modes),
    }
    assert report["options"].keys() == expected
    assert min(report["options"].values()) > 1e-3


def test_what_differs_on_purpose_still_does(report: dict[str, Any]) -> None:
    """A difference that has gone is a wrong line in docs/papers.md."""
    gone = [row["name"] for row in report["on_purpose"] if not row["gap"] > 1e-5]
    assert gone == [] and len(report["on_purpose"]) > 15


def test_the_importance_correction_by_hand() -> None:
    delta_BT = torch.tensor([[9.0, 0.5, -0.2]]).double()
    mask_BT = torch.tensor([[False, True, True]])
    got = {
        mode: importance_weights(delta_BT, mask_BT, mode, 1.5)[0].tolist()
        for mode in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
    }
    low = pytest.approx(0.8187307530779818)
    both = pytest.approx(1.3498588075760032)
    assert got["token_truncate"] == [0.0, 1.5, low]
    assert got["token_mask"] == [0.0, 0.0, low]
    assert got["sequence_truncate"] == got["sequence_mask"] == [0.0, both, both]
