"""The value tracker of SPO and SKPO (papers.md sections 1.4, 2.1 to 2.3)."""

import random
import struct
from dataclasses import dataclass

import pytest

from rlkit.algos.tracker import Record, Tracker, exact_array
from tests.rollouts import question, rollout


@dataclass(frozen=True)
class Settings:
    """SPO's, with SKPO's half-life."""

    rho_min: float = 0.875
    rho_max: float = 0.96
    tau_half: float = 8.0
    priority_eps: float = 0.05


def tracker(**changes: float) -> Tracker:
    return Tracker(Settings(**changes), initial_length=64.0)


def visit(t: Tracker, prompt_id: str, score: float, drift: float = 0.0) -> tuple[float, float]:
    answer = rollout([50, 3], prompt_id=prompt_id)
    return t.visit(answer, answer.completion_logprobs, score=score, length=2.0, drift=drift)


# -- the value -----------------------------------------------------------------------------------------------------------


def test_rho_follows_the_drift_between_its_bounds() -> None:
    got = [Record(length=1.0).observe(score=0.5, length=1, drift=d, cfg=Settings()) for d in (0, 0.5, 1, 2)]
    assert [round(rho, 4) for rho in got] == [0.96, 0.9576, 0.917, 0.875]


def test_with_spo_s_half_life_a_hundredth_of_a_nat_is_seen() -> None:
    cfg = Settings(tau_half=0.06)
    got = [Record(length=1.0).observe(score=0.5, length=1, drift=d, cfg=cfg) for d in (0.003, 0.006, 0.02)]
    assert [round(rho, 4) for rho in got] == [0.96, 0.933, 0.875]  # 2^-0.1 = 0.9330


def test_two_visits_by_hand() -> None:
    t = tracker()
    assert visit(t, "a", 0.75) == (0.5, 0.96)  # the first score replaces the neutral value
    assert (t.records["a"].value, t.records["a"].visits, t.records["a"].length) == (0.75, 1.0, 2.0)
    assert visit(t, "a", 0.25) == (0.75, 0.96)
    assert (round(t.value("a"), 4), t.records["a"].visits) == (0.4949, 1.96)  # eta = 1 / 1.96


def test_the_length_moves_by_the_same_rule() -> None:
    record = Record(length=1024.0)
    record.observe(score=1.0, length=20, drift=0, cfg=Settings())
    record.observe(score=1.0, length=10, drift=0, cfg=Settings())
    assert record.length == pytest.approx(20 - 10 / 1.96)


@pytest.mark.parametrize("prior", [1.0, 8.0])
def test_it_is_the_mean_of_a_beta_that_forgets(prior: float) -> None:
    """alpha <- rho alpha + r, beta <- rho beta + 1 - r, the paper's form for right and wrong."""
    t = Tracker(Settings(), initial_length=64.0, initial_visits=prior)
    alpha = beta = prior / 2
    rng = random.Random(1)
    for _ in range(50):
        r, drift = float(rng.random() < 0.3), rng.uniform(0, 2)
        before, rho = visit(t, "a", r, drift)
        assert before == pytest.approx(alpha / (alpha + beta), rel=1e-12)
        alpha, beta = rho * alpha + r, rho * beta + 1 - r
        assert t.records["a"].visits == pytest.approx(alpha + beta, rel=1e-12)
    assert t.value("a") == pytest.approx(alpha / (alpha + beta), rel=1e-12)


def test_a_prior_of_one_visit_pulls_the_first_score_to_a_half() -> None:
    t = Tracker(Settings(), initial_length=64.0, initial_visits=1.0)
    visit(t, "a", 1.0)
    assert t.value("a") == pytest.approx((0.96 * 0.5 + 1) / 1.96)


def test_a_value_known_from_elsewhere_counts_for_its_visits() -> None:
    t = tracker()
    t.start("a", 0.25, 8.0)
    assert visit(t, "a", 1.0) == (0.25, 0.96)
    assert t.value("a") == pytest.approx(0.25 + 0.75 / (0.96 * 8 + 1))


def test_prompts_are_drawn_with_the_square_root_of_v_times_one_minus_v() -> None:
    t = tracker()
    t.records = {"easy": Record(length=1, value=1.0), "fair": Record(length=1, value=0.2)}
    assert t.weights(["easy", "fair", "new"]) == pytest.approx([0.05, 0.4 + 0.05, 0.5 + 0.05])


# -- the drift -----------------------------------------------------------------------------------------------------------


def test_the_drift_is_the_mean_change_of_the_last_response_s_log_probs() -> None:
    t = tracker()
    first, last = rollout([60, 61, 3], logprobs=[-9.0] * 3), rollout([50, 3], logprobs=[-1.0, -2.0])
    for r in (first, last):
        t.visit(r, r.completion_logprobs, score=1.0, length=3.0, drift=0.0)
    (stored,) = t.stored([question("b"), question("a")])
    assert (stored.token_ids, stored.completion_ids) == ([1, 40, 2, 50, 3], [50, 3])
    assert stored.completion_logprobs == [-1.0, -2.0]
    assert t.drifts([question("b"), question("a")], [[-1.5, -1.0]]) == [0.0, (0.5 + 1.0) / 2]


def test_a_value_known_from_elsewhere_is_no_response() -> None:
    t = tracker()
    t.start("a", 0.5, 8.0)
    assert t.stored([question("a")]) == [] and t.drifts([question("a")], []) == [0.0]


def test_log_probs_may_be_the_learner_s() -> None:
    t = tracker()
    t.visit(rollout([50, 3]), [-0.5, -0.25], score=1.0, length=2.0, drift=0.0)
    assert t.stored([question("a")])[0].completion_logprobs == [-0.5, -0.25]


def test_arrays_are_exact_and_narrow_where_they_can_be() -> None:
    single = struct.unpack("f", struct.pack("f", -0.1))[0]
    for values, code in (([single, -2.5], "f"), ([-0.1], "d"), ([-1e300], "d"), ([], "f")):
        got = exact_array(values)
        assert got.tolist() == values and got.typecode == code


# -- what must survive ---------------------------------------------------------------------------------------------------


def test_metrics_are_of_the_prompts_visited() -> None:
    t = tracker()
    rhos = [visit(t, "a", 1.0)[1], visit(t, "b", 0.5, drift=2.0)[1]]
    assert t.metrics(["a", "b"], rhos) == {
        "value": 0.75,
        "rho_min": 0.875,
        "rho_mean": pytest.approx(0.9175),
        "rho_max": 0.96,
        "prompts_met": 2.0,
    }
    assert tracker().metrics([], [])["value"] == 0.5


def test_state_comes_back_bit_for_bit() -> None:
    t = tracker()
    rng = random.Random(2)
    for k in range(20):
        answer = rollout([rng.randrange(200_000) for _ in range(k % 5 + 1)], prompt_id=f"prompt {k % 7}")
        logprobs = [-rng.random() if k % 2 else -0.5 for _ in answer.completion_ids]
        t.visit(answer, logprobs, score=rng.random(), length=rng.random(), drift=rng.random())
    t.start("known", 0.3, 8.0)
    again = tracker()
    again.load_state_dict(t.state_dict())
    assert again.records == t.records
    for name in t.records:  # and are no wider than they were
        assert again.records[name].logprobs.typecode == t.records[name].logprobs.typecode
    kept = t.state_dict()
    visit(t, "prompt 1", 1.0)
    again.load_state_dict(kept)
    assert again.records != t.records  # the state was a copy
