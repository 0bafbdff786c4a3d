"""Live tracking in a real run: it changes no number, it survives a stop, and what it writes is what transformers says."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from transformers import AutoModelForCausalLM

from rlkit.analysis import tracks
from rlkit.analysis.store import read_metrics, read_rollouts
from rlkit.config import RewardConfig, TrackConfig
from tests.models import save_tiny_model, tiny_model
from tests.unit.test_learner import grpo_credits, make_learner
from tests.unit.test_loop import CLOCK, config, run

ALL = TrackConfig(all=True, probe=3, top_k=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), seed=3)


@pytest.fixture(scope="module")
def tracked(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 steps, each tracked, with a checkpoint after each."""
    return run_with(model, tmp_path_factory.mktemp("runs") / "tracked", ALL)


def run_with(model: Path, folder: Path, track: TrackConfig, algo: str = "grpo", **changes: Any) -> Path:
    log = {"save_every": 1, "save_total_limit": 9, **changes.pop("log", {})}
    run(config(model, folder, algo, track=track, log=log, **changes))
    return folder


def reference(folder: Path, ids: list[int], start: int) -> torch.Tensor:
    """transformers' log-distributions [T, V] of the completion's tokens, float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, start - 1 : -1]
    dist: torch.Tensor = logits.float().log_softmax(-1)
    return dist


@pytest.mark.parametrize("layout", [{}, {"share_prefixes": False}, {"packing": False}])
def test_a_look_is_the_model_s_own_distribution(layout: dict[str, bool]) -> None:
    model = tiny_model(seed=0)
    rollouts = [c.rollout for c in grpo_credits()]
    asked = [np.tile(np.array([[7, 250]], np.int32), (len(r.completion_ids), 1)) for r in rollouts]
    looks = make_learner(model=tiny_model(seed=0), micro_batch_tokens=90, **layout).look(rollouts, 5, asked)
    for r, a_look in zip(rollouts, looks, strict=True):
        with torch.no_grad():
            dist_TV = model(torch.tensor([r.token_ids])).logits[0, r.prompt_tokens - 1 : -1].log_softmax(-1)
        ids_T = torch.tensor(r.completion_ids)
        top = dist_TV.topk(5, -1)
        close(a_look.logp_T, dist_TV.gather(-1, ids_T[:, None])[:, 0])
        close(a_look.entropy_T, -(dist_TV.exp() * dist_TV).sum(-1))
        close(a_look.top_logp_TK, top.values)
        close(a_look.asked_logp_TM, dist_TV[:, [7, 250]])
        assert a_look.top_ids_TK.tolist() == top.indices.tolist()


def close(ours: np.ndarray[Any, Any], theirs: torch.Tensor) -> None:
    assert ours == pytest.approx(theirs.numpy(), abs=2e-5)


def test_what_the_learner_s_own_pass_saw_is_handed_out_on_demand() -> None:
    learner = make_learner(learning_rate=1e-9)
    credits = grpo_credits()
    minis = learner.minibatches(credits, 2)
    before = learner.look([c.rollout for c in credits], 1)
    report = learner.update(minis, lambda batch, out: (-(out.logp_BT * batch.weight_BT).sum(), {}), keep=True)
    assert sorted(report.own) == list(range(16))
    for i, (logp_T, entropy_T) in report.own.items():
        assert logp_T == pytest.approx(before[i].logp_T, abs=1e-5)
        assert entropy_T == pytest.approx(before[i].entropy_T, abs=1e-5)
    assert learner.update(minis, lambda batch, out: (out.logp_BT.sum() * 0.0, {})).own == {}


@pytest.mark.parametrize("algo", ["grpo", "skpo"])
def test_a_run_with_tracking_has_the_numbers_of_one_without(model: Path, tmp_path: Path, algo: str) -> None:
    with_it = run_with(model, tmp_path / "with", ALL, algo)
    without = run_with(model, tmp_path / "without", TrackConfig(every=0), algo)
    for name in ("model.safetensors", "rlkit/optimizer.safetensors"):
        last = Path("checkpoints") / "step-000004" / name
        assert (with_it / last).read_bytes() == (without / last).read_bytes()
    assert numbers(with_it) == numbers(without)
    assert not (without / "dynamics").exists()
    assert [read_rollouts(with_it, s) for s in range(1, 5)] == [
        read_rollouts(without, s) for s in range(1, 5)
    ]


def numbers(folder: Path) -> list[dict[str, float]]:
    hidden = (*CLOCK, "dynamics/")
    return [{k: v for k, v in row.items() if not k.startswith(hidden)} for row in read_metrics(folder)]


def test_a_stopped_and_resumed_run_leaves_the_same_tables(model: Path, tracked: Path, tmp_path: Path) -> None:
    cfg = config(model, tmp_path / "run", track=ALL, log={"save_every": 1, "save_total_limit": 9}, steps=2)
    run(cfg)
    run(replace(cfg, steps=4), resume=True)
    for table in tracks.TABLES:
        steps = tracks.tracked_steps(tracked, table)
        assert tracks.tracked_steps(tmp_path / "run", table) == steps and steps[-1] == 4
        for step in steps:
            ours, theirs = (tracks.step_file(f, table, step) for f in (tmp_path / "run", tracked))
            assert tracks.read(ours) == tracks.read(theirs), f"{table} of step {step}"


def test_tokens_before_and_after_are_those_of_the_two_checkpoints(tracked: Path) -> None:
    """Step 3 against transformers with the weights saved after steps 2 and 3, and the rollouts file's own tokens."""
    columns = tracks.read(tracks.step_file(tracked, "tokens", 3))
    rollouts = read_rollouts(tracked, 3)
    assert len(columns["row"]) == sum(len(r["token_ids"]) - r["prompt_tokens"] for r in rollouts)
    for row in (0, 5):
        r = rollouts[row]
        places = [i for i, x in enumerate(columns["row"]) if x == row]
        assert [columns["token_id"][i] for i in places] == r["token_ids"][r["prompt_tokens"] :]
        assert [columns["advantage"][i] for i in places] == (r["advantages"] or [0.0] * len(places))
        for when, step in (("before", 2), ("after", 3)):
            dist_TV = reference(
                tracked / "checkpoints" / f"step-{step:06d}", r["token_ids"], r["prompt_tokens"]
            )
            for t, i in enumerate(places):
                assert columns[f"logp_{when}"][i] == pytest.approx(
                    float(dist_TV[t, columns["token_id"][i]]), abs=2e-5
                )
                entropy = float(-(dist_TV[t].exp() * dist_TV[t]).sum())
                assert columns[f"entropy_{when}"][i] == pytest.approx(entropy, abs=2e-5)
                likeliest = [float(dist_TV[t, k]) for k in columns["top_ids"][i]]
                assert columns[f"top_logp_{when}"][i] == pytest.approx(likeliest, abs=2e-5)


def test_decisions_say_what_the_group_did(tracked: Path) -> None:
    columns = tracks.read(tracks.step_file(tracked, "decisions", 3))
    rollouts = read_rollouts(tracked, 3)
    firsts = [i for i, position in enumerate(columns["position"]) if position == 0]
    assert len(firsts) == 4, "one first decision for each prompt"
    for i in firsts:
        group = [r for r in rollouts if r["prompt_id"] == columns["prompt_id"][i] and r["outcome"] == "score"]
        begun = [r["token_ids"][r["prompt_tokens"]] for r in group]
        assert columns["members"][i] == len(group) and columns["source"][i] == "group"
        assert columns["mean"][i] == pytest.approx(sum(r["score"] for r in group) / len(group))
        for token, count, value in zip(
            columns["token_ids"][i], columns["counts"][i], columns["values"][i], strict=True
        ):
            scores = [r["score"] for r, first in zip(group, begun, strict=True) if first == token]
            assert (count, value) == (len(scores), pytest.approx(sum(scores) / len(scores)))
        dist_TV = reference(
            tracked / "checkpoints" / "step-000003", group[0]["token_ids"], group[0]["prompt_tokens"]
        )
        likely = [float(dist_TV[0, t]) for t in columns["token_ids"][i]]
        assert columns["logp_after"][i] == pytest.approx(likely, abs=2e-5)


def test_the_probe_is_the_same_answers_to_the_end(tracked: Path) -> None:
    assert tracks.tracked_steps(tracked, "probe") == [0, 1, 2, 3, 4]
    answers = tracks.read(tracked / tracks.FOLDER / "probe" / tracks.ANSWERS)
    assert len(answers["token_ids"]) == 3
    for step in (0, 4):
        columns = tracks.read(tracks.step_file(tracked, "probe", step))
        ids = [
            i for ids, n in zip(answers["token_ids"], answers["prompt_tokens"], strict=True) for i in ids[n:]
        ]
        assert columns["token_id"] == ids
        if step:
            dist_TV = reference(
                tracked / "checkpoints" / "step-000004", answers["token_ids"][0], answers["prompt_tokens"][0]
            )
            first = [float(dist_TV[t, i]) for t, i in enumerate(ids[: len(dist_TV)])]
            assert columns["logp"][: len(first)] == pytest.approx(first, abs=2e-5)


def test_metrics_are_means_over_the_tables(tracked: Path) -> None:
    row = read_metrics(tracked)[2]
    columns = tracks.read(tracks.step_file(tracked, "tokens", 3))
    for name, which in (("positive", lambda a: a > 0), ("negative", lambda a: a < 0)):
        moved = [
            after - before
            for a, before, after in zip(
                columns["advantage"], columns["logp_before"], columns["logp_after"], strict=True
            )
            if which(a)
        ]
        assert row[f"dynamics/delta_logp/{name}"] == pytest.approx(sum(moved) / len(moved), abs=1e-5)
    arrived = [row[f"dynamics/removed/to_{place}"] for place in ("runner_up", "others", "tail")]
    assert sum(arrived) == pytest.approx(1.0, abs=1e-5)
    probabilities = [math.exp(x) for x in columns["logp_before"]]
    assert row["dynamics/saturated"] == pytest.approx(
        sum(p > 0.99 for p in probabilities) / len(probabilities), abs=0.02
    )
    assert row["dynamics/delta_logp/positive"] > row["dynamics/delta_logp/negative"]


def test_values_can_be_sampled_for_tokens_that_nobody_took(model: Path, tmp_path: Path) -> None:
    """With --track.values the likeliest tokens are candidates too; three verdicts of 0 or 1 make a mean in thirds."""
    reward = RewardConfig(name="tests.verdicts:Uneven", workers=0)
    folder = run_with(model, tmp_path / "run", replace(ALL, values=3, points=2), steps=1, reward=reward)
    columns = tracks.read(tracks.step_file(folder, "decisions", 1))
    drawn = [i for i, source in enumerate(columns["source"]) if source == "sampled"]
    assert len(drawn) == 2
    for i in drawn:
        candidates = columns["token_ids"][i]
        assert 0 in columns["counts"][i] and len(candidates) >= 4
        assert len(set(candidates)) == len(candidates)
        thirds = np.array(columns["values"][i]) * 3
        assert thirds == pytest.approx(thirds.round(), abs=1e-5) and 0 <= thirds.min() <= thirds.max() <= 3


def test_only_due_steps_are_tracked_and_only_a_share_of_the_prompts(model: Path, tmp_path: Path) -> None:
    folder = run_with(
        model, tmp_path / "run", TrackConfig(every=3, share=0.25, probe=0), log={"rollouts": False}
    )
    assert tracks.tracked_steps(folder, "tokens") == [1, 3]
    assert len(set(tracks.read(tracks.step_file(folder, "tokens", 3))["prompt_id"])) == 1
    assert [any(k.startswith("dynamics/") for k in row) for row in read_metrics(folder)] == [
        True,
        False,
        True,
        False,
    ]


def test_segments_of_skpo_are_tracked_beside_their_answers(model: Path, tmp_path: Path) -> None:
    folder = run_with(model, tmp_path / "run", ALL, "skpo", steps=1)
    columns = tracks.read(tracks.step_file(folder, "tokens", 1))
    assert set(columns["role"]) == {"answer", "segment"}
    assert "dynamics/entropy/segment" in read_metrics(folder)[0]


def test_pandas_reads_a_table_of_the_whole_run(tracked: Path) -> None:
    frame = pandas.read_parquet(tracked / "dynamics" / "tokens")
    moved = (np.exp(frame.logp_after) - np.exp(frame.logp_before)).groupby(frame.step).mean()
    assert moved.index.tolist() == [1, 2, 3, 4] and moved.notna().all()


def test_every_table_has_the_columns_that_are_documented() -> None:
    words = (Path(__file__).parents[2] / "docs" / "tracking.md").read_text()
    missing = [f"{t}.{c}" for t, columns in tracks.COLUMNS.items() for c in columns if f"`{c}`" not in words]
    assert not missing
