"""Two real processes on this CPU: what they learn, write and say together is what one process does alone."""

import math
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from rlkit import memory
from rlkit.algo_own import SkpoConfig
from rlkit.algos.base import Sampling
from rlkit.algos.skpo import Skpo
from rlkit.batch import Batch, TokenStats
from rlkit.config import LearnerConfig, SamplerConfig, TrainConfig
from rlkit.errors import ConfigError, RunError
from rlkit.learner import Learner, Report, dump
from rlkit.learner.bad import BadUpdate
from rlkit.machine import GIB, Machine
from rlkit.metrics import Metrics
from rlkit.models import ModelShape
from rlkit.ranks import ALONE, Ranks, SharedSampler, SharedScorer, opened
from rlkit.samplers.scripted import Answer, ScriptedSampler
from rlkit.types import Credit, Prompt, Request, Score
from tests.models import byte_tokenizer, tiny_model
from tests.unit.test_packing import LAYOUTS, mixed_credits

ROOT = Path(__file__).parents[2]
PATIENCE = 150.0
"""Seconds for two processes to come to an end, on a machine that is busy."""
RATE = 1e-3


# -- one update, in every way it can be divided ----------------------------------------------------------------------------


def case(**changes: Any) -> dict[str, Any]:
    """A way to learn: `algo_*` of the algorithm, `tied` of the model, `credits` how many of them, the rest of the learner."""
    return {"micro_batch_tokens": 10**6, **changes}


def layout(name: str) -> dict[str, bool]:
    return {"packing": name != "padded", "share_prefixes": name == "shared"}


GRID = {
    f"{shard}, {tokens} tokens, {name}, rank {rank}": case(
        shard=shard,
        micro_batch_tokens=tokens,
        lora_rank=rank,
        **layout(name),
    )
    for shard in ("none", "fsdp2")
    for tokens in (60, 10**6)
    for name in LAYOUTS
    for rank in (0, 4)
}
MORE = {
    f"{shard}, {name}": case(shard=shard, **changes)
    for shard in ("none", "fsdp2")
    for name, changes in {
        "one answer for two ranks": {"credits": 1},
        "nothing to learn": {"credits": 3, "idle": True, "algo_beta": 0.0},
        "entropy": {
            "algo_top_entropy_quantile": 0.4,
            "algo_entropy_coef": 0.1,
            "algo_beta": 0.0,
            "micro_batch_tokens": 60,
        },
        "checkpointing": {"gradient_checkpointing": True, "tied": True, "micro_batch_tokens": 60},
        "rates": {
            "lr_multipliers": "v_proj=4",
            "weight_decay": 0.1,
            "algo_sync_ref_model": True,
            "algo_ref_model_sync_steps": 2,
        },
        "on the host": {"cpu_offload": shard == "fsdp2", "tied": True},
        "adapters, tied": {"lora_rank": 4, "tied": True, "lora_targets": "q_proj,v_proj"},
    }.items()
}


HALF = {f"bfloat16, {shard}": case(shard=shard, autocast=True) for shard in ("none", "fsdp2")}


def made(changes: dict[str, Any], ranks: Ranks) -> tuple[Learner, Skpo, list[Credit]]:
    changes = dict(changes)
    algo = {k.removeprefix("algo_"): changes.pop(k) for k in list(changes) if k.startswith("algo_")}
    cfg = SkpoConfig(**{"beta": 0.1, "importance_sampling_correction": False, **algo})
    tied, count, idle = changes.pop("tied", False), changes.pop("credits", None), changes.pop("idle", False)
    autocast = changes.pop("autocast", False)
    wants_reference = cfg.beta > 0 and not changes.get("lora_rank")
    learner = Learner(
        tiny_model(seed=0, tied=tied),
        LearnerConfig(**changes),
        cfg,
        learning_rate=RATE,
        temperature=0.7,
        num_iterations=1,
        pad_id=0,
        autocast=autocast,
        reference=tiny_model(seed=1, tied=tied) if wants_reference else None,
        ranks=ranks,
    )
    credits = mixed_credits()[:count]
    if idle:
        credits = [
            Credit(rollout=c.rollout, advantages=[0.0] * len(c.advantages), weight=c.weight, share=c.share)
            for c in credits
        ]
    return learner, Skpo(cfg, Sampling(max_completion_length=64, temperature=0.7)), credits


def learnt(changes: dict[str, Any], ranks: Ranks) -> tuple[Report, dict[str, Tensor]]:
    """What two mini-batches come to."""
    learner, algo, credits = made(changes, ranks)
    report = learner.update(learner.minibatches(credits, 2), algo.loss)
    weights = {n: t.clone() for n, t in learner.weights().items()}
    if learner.cfg.lora_rank:
        require_adapters_apart(learner, weights, ranks)
    return report, weights


def require_adapters_apart(learner: Learner, merged: dict[str, Tensor], ranks: Ranks) -> None:
    """For servers, which the first rank alone talks to: its adapters merge to the same bits, the others hold nothing."""
    learner.everywhere = False
    weights = learner.weights()
    assert list(weights) == (list(merged) if ranks.main else [])
    assert all(torch.equal(t, merged[n]) for n, t in weights.items())


def assert_learnt_alike(
    one: tuple[Report, dict[str, Tensor]], other: tuple[Report, dict[str, Tensor]]
) -> None:
    """Loss and gradient norm to 1e-6, weights to a thousandth of a step on average and a tenth at most: AdamW divides by
    gradients that may be rounding alone, as those of a key's bias are."""
    (a, before), (b, after) = one, other
    assert a.metrics.keys() == b.metrics.keys()
    for name, value in a.metrics.items():
        assert b.metrics[name] == pytest.approx(value, rel=1e-6 if name == "grad_norm" else 1e-4, abs=1e-6), (
            name
        )
    assert b.metrics["loss"] == pytest.approx(a.metrics["loss"], rel=1e-6, abs=1e-6)
    assert (a.updates, a.trained_tokens) == (b.updates, b.trained_tokens)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert (tensor - after[name]).abs().mean() < RATE / 1000, name
        assert (tensor - after[name]).abs().max() < RATE / 10, name


def work(ranks: Ranks, folder: Path) -> None:
    """Everything that needs two processes, which take seconds to start."""
    keep(ranks, folder)
    meet_faults(ranks, folder)
    talk_in_two_threads(ranks, folder)
    torch.save(
        {name: learnt(changes, ranks) for name, changes in (GRID | MORE | HALF).items()},
        folder / f"{ranks.rank}.pt",
    )


def in_two_processes(folder: Path) -> None:
    """`work(ranks, folder)` in two processes of one thread each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        "import sys, torch; from pathlib import Path; torch.set_num_threads(1)\n"
        "from rlkit.ranks import opened; import tests.unit.test_learner_ranks as here\n"
        "with opened() as ranks: here.work(ranks, Path(sys.argv[1]))"
    )
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [p.communicate(timeout=PATIENCE)[1] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], "\n".join(said)


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have written."""
    folder = tmp_path_factory.mktemp("ranks")
    in_two_processes(folder)
    return folder


@pytest.fixture(scope="module")
def divided(worked: Path) -> list[Any]:
    """Every case as each of two ranks has learnt it."""
    return [torch.load(worked / f"{rank}.pt", weights_only=False) for rank in range(2)]


def test_a_process_group_that_is_there_already_is_used_and_left() -> None:
    with opened(group=True):
        with opened(group=True) as ranks:
            assert ranks is ALONE
        assert torch.distributed.is_initialized()


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_loss_gradient_and_weights_do_not_depend_on_ranks_micro_batches_or_layout(
    lora_rank: int, divided: list[Any]
) -> None:
    expected = learnt(case(lora_rank=lora_rank, **layout("padded")), ALONE)
    with opened(group=True):
        alone = {name: learnt(c, ALONE) for name, c in GRID.items() if c["lora_rank"] == lora_rank}
    for name, result in alone.items():
        assert_learnt_alike(expected, result)
        assert_learnt_alike(expected, divided[0][name])


@pytest.mark.parametrize("name", MORE)
def test_what_else_can_be_set_does_not_depend_on_ranks(name: str, divided: list[Any]) -> None:
    plain = {**MORE[name], "shard": "none", "cpu_offload": False, "gradient_checkpointing": False}
    expected = learnt(plain, ALONE)
    assert_learnt_alike(expected, divided[0][name])
    if "nothing" in name:
        assert expected[0].trained_tokens == 0 and expected[0].updates == 1
    else:
        assert expected[0].metrics["grad_norm"] > 0.01


@pytest.mark.parametrize("name", HALF)
def test_in_bfloat16_they_agree_as_far_as_its_digits_go(name: str, divided: list[Any]) -> None:
    (expected, _), (report, weights) = learnt(case(), ALONE), divided[0][name]
    for key in ("loss", "grad_norm", "kl", "entropy"):
        assert report.metrics[key] == pytest.approx(expected.metrics[key], rel=0.03, abs=0.01), key
    kind = (
        torch.bfloat16 if HALF[name]["shard"] == "fsdp2" else torch.float32
    )  # gathered as the sampler will hold them
    assert {t.dtype for t in weights.values()} == {kind}


def test_every_rank_ends_with_the_same_weights_and_the_same_report(divided: list[Any]) -> None:
    first, second = divided
    for name, (report, weights) in first.items():
        assert second[name][0] == report, name
        assert all(torch.equal(t, second[name][1][n]) for n, t in weights.items()), name


# -- what is kept ----------------------------------------------------------------------------------------------------------

KEPT = {
    "copied": case(),
    "divided": case(shard="fsdp2", tied=True),
    "adapters": case(shard="fsdp2", lora_rank=4, lr_multipliers="v_proj=2"),
    "moved": case(shard="fsdp2", algo_sync_ref_model=True, algo_ref_model_sync_steps=1),
}


def keep(ranks: Ranks, folder: Path) -> None:
    """Save after an update, go on with what was saved in a new learner, and with the old one: bit for bit the same."""
    for name, changes in KEPT.items():
        learner, algo, credits = made(changes, ranks)
        learner.update(learner.minibatches(credits, 1), algo.loss)
        learner.save_model(folder / name)
        state = {key: tensor.clone() for key, tensor in learner.optimizer_tensors().items()}
        if ranks.main:
            torch.save((state, learner.logprobs([c.rollout for c in credits])), folder / name / "more.pt")
        else:
            learner.logprobs([c.rollout for c in credits])
        ranks.wait()
        again, _, _ = made(changes, ranks)
        if "lora_rank" in changes:
            adapter = folder / name / "adapter"
            again = Learner(
                tiny_model(seed=0), again.cfg, again.algo, learning_rate=RATE, temperature=0.7, num_iterations=1,
                pad_id=0, adapter=adapter, seed=9, ranks=ranks,
            )  # fmt: skip
        else:
            tied = changes.get("tied", False)
            model = tiny_model(seed=7, tied=tied)
            model.load_state_dict(AutoModelForCausalLM.from_pretrained(folder / name).state_dict())
            reference = tiny_model(seed=1, tied=tied)
            if name == "moved":
                reference.load_state_dict(
                    AutoModelForCausalLM.from_pretrained(folder / name / "reference").state_dict()
                )
            again = Learner(
                model, again.cfg, again.algo, learning_rate=RATE, temperature=0.7, num_iterations=1,
                pad_id=0, reference=reference, ranks=ranks,
            )  # fmt: skip
        again.load_optimizer_tensors(state, learner.updates)
        for one in (learner, again):
            one.update(one.minibatches(credits, 1), algo.loss)
        old, new = learner.weights(), again.weights()
        assert all(torch.equal(t, new[n]) for n, t in old.items()), name


def test_divided_weights_and_moments_are_saved_whole_and_taken_back(worked: Path) -> None:
    for name, changes in KEPT.items():
        alone, algo, credits = made({**changes, "shard": "none"}, ALONE)
        alone.update(alone.minibatches(credits, 1), algo.loss)
        saved = AutoModelForCausalLM.from_pretrained(worked / name).state_dict()
        state, logprobs = torch.load(worked / name / "more.pt", weights_only=False)
        for key, tensor in alone.optimizer_tensors().items():
            torch.testing.assert_close(state[key], tensor, rtol=1e-4, atol=1e-7)
        assert state.keys() == alone.optimizer_tensors().keys()
        for n, t in alone.weights().items():
            torch.testing.assert_close(saved[n], t, rtol=0, atol=RATE / 10)
        rollouts = [c.rollout for c in credits]
        assert [v for row in logprobs for v in row] == pytest.approx(
            [v for row in alone.logprobs(rollouts) for v in row], abs=1e-3
        )
    moved = AutoModelForCausalLM.from_pretrained(worked / "moved" / "reference").state_dict()
    policy = AutoModelForCausalLM.from_pretrained(worked / "moved").state_dict()
    for n, t in tiny_model(seed=1).state_dict().items():
        torch.testing.assert_close(moved[n], 0.4 * t + 0.6 * policy[n])


# -- faults on one rank ----------------------------------------------------------------------------------------------------


def meet_faults(ranks: Ranks, folder: Path) -> None:
    """Memory runs out, and later a loss is not finite, on the second rank alone."""
    learner, algo, credits = made(case(), ranks)

    def hungry(batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        if ranks.rank == 1 and batch.feed.num_tokens > 40:
            torch.empty(1 << 60, dtype=torch.uint8)
        return algo.loss(batch, out)

    def broken(batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        value, metrics = algo.loss(batch, out)
        return value * (math.nan if ranks.rank == 1 else 1.0), metrics

    report = learner.update(learner.minibatches(credits, 2), hungry)
    budget = learner.budget
    skipped = learner.update(learner.minibatches(credits, 1), broken)
    weights = {n: t.clone() for n, t in learner.weights().items()}
    heard: list[BadUpdate] = []
    learner.watcher = Keeps(heard)
    learner.cfg = replace(learner.cfg, max_skipped_share=1.0)
    learner.update(learner.minibatches(credits, 1), broken)
    dump.write(folder / "bad", heard[0], learner, byte_tokenizer(), "")
    divided, algo, _ = made(case(shard="fsdp2"), ranks)

    def always(batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        torch.empty(1 << 60, dtype=torch.uint8)
        return algo.loss(batch, out)

    said = ""
    try:
        divided.update(divided.minibatches(credits, 1), always)
    except RunError as error:
        said = str(error)
    torch.save((report, budget, skipped, weights, said), folder / f"faults{ranks.rank}.pt")


class Keeps:
    """Keeps the updates that were skipped."""

    def __init__(self, heard: list[BadUpdate]) -> None:
        self.heard = heard

    def skipped(self, bad: BadUpdate) -> None:
        self.heard.append(bad)

    def out_of_memory(self, sentence: str) -> None: ...


def test_memory_that_runs_out_on_one_rank_halves_the_micro_batches_of_all(worked: Path) -> None:
    ranks = [torch.load(worked / f"faults{rank}.pt", weights_only=False) for rank in range(2)]
    (report, budget, skipped, weights, _), (other_report, other_budget, _, other, _) = ranks
    assert budget == other_budget < 10**6 and report == other_report
    assert all(torch.equal(t, other[n]) for n, t in weights.items())
    assert report.metrics["out_of_memory"] > 0
    report = replace(report, metrics={**report.metrics, "out_of_memory": 0.0})
    assert_learnt_alike(learnt(case(), ALONE), (report, weights))


def test_a_loss_that_is_not_finite_on_one_rank_is_skipped_by_all(worked: Path) -> None:
    for rank in range(2):
        _, _, skipped, _, _ = torch.load(worked / f"faults{rank}.pt", weights_only=False)
        assert (skipped.updates, skipped.metrics["skipped_updates"]) == (0, 1.0)


def test_the_dump_of_two_ranks_holds_the_rollouts_of_both(worked: Path) -> None:
    told = dump.read(worked / "bad")
    assert [r.index for r in told.rows] == [i for i, c in enumerate(mixed_credits()) if c.weight]
    assert math.isnan(told.loss)


def test_a_divided_model_that_runs_out_of_memory_stops_with_what_to_do(worked: Path) -> None:
    for rank in range(2):
        *_, said = torch.load(worked / f"faults{rank}.pt", weights_only=False)
        assert "A divided model (--learner.shard) cannot do a pass again" in said


def talk_in_two_threads(ranks: Ranks, folder: Path) -> None:
    """As with rollouts beside an update: which thread of a rank is first is chance."""

    def heard(among: Ranks, what: str) -> list[list[tuple[str, int, int]]]:
        return [among.gather((what, i, ranks.rank)) for i in range(100)]

    with ThreadPoolExecutor(1) as thread:
        beside = thread.submit(heard, ranks.beside, "rollouts")
        mine = heard(ranks, "update")
        torch.save([mine, beside.result()], folder / f"threads{ranks.rank}.pt")


def test_what_ranks_tell_each_other_beside_an_update_does_not_meet_the_update(worked: Path) -> None:
    for rank in range(2):
        found = torch.load(worked / f"threads{rank}.pt", weights_only=False)
        for told, what in zip(found, ("update", "rollouts"), strict=True):
            assert told == [[(what, i, 0), (what, i, 1)] for i in range(100)]


# -- sharing, without processes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "world"), [(0, 2), (1, 2), (5, 2), (8, 3), (2, 4)])
def test_shares_tile_what_there_is(count: int, world: int) -> None:
    parts = [list(range(count))[Ranks(rank, world).share(count)] for rank in range(world)]
    assert [i for part in parts for i in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_alone_nothing_is_shared_and_errors_are_their_own() -> None:
    def broken(items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        raise RunError("my own")

    with pytest.raises(RunError, match="my own"):
        SharedScorer(broken, ALONE).score([(Prompt(id="a", token_ids=[1]), "x")])
    asks = [Request(prompt_id=p, token_ids=[1], n=2, max_tokens=4, temperature=1.0, seed=0) for p in "ab"]
    sampler = ScriptedSampler(lambda request, i: Answer([ord(request.prompt_id), 3]), stop_ids=[3])
    assert SharedSampler(sampler, ALONE).sample(asks) == sampler.sample(asks)


class Threads(Ranks):
    """A rank that is a thread: what all have put on the table is read when all are there."""

    def __init__(self, rank: int, table: list[Any], meet: threading.Barrier) -> None:
        super().__init__(rank, len(table))
        self.table, self.meet = table, meet

    def gather(self, value: Any) -> list[Any]:
        self.table[self.rank] = value
        self.meet.wait()
        return list(self.table)


def best_of_its_group(items: Sequence[tuple[Prompt, str]]) -> list[Score]:
    """1.0 for the longest answer to each prompt among those that it is shown."""
    longest = {p.id: max(len(text) for q, text in items if q.id == p.id) for p, _ in items}
    return [Score(float(len(text) == longest[p.id])) for p, text in items]


def test_answers_that_are_compared_stay_together_on_one_rank() -> None:
    answers = [
        ("a", "x"),
        ("b", "xx"),
        ("a", "xxx"),
        ("a", "xx"),
        ("b", "x"),
        ("c", "x"),
    ]  # torn by any count
    items = [(Prompt(id=name, token_ids=[1]), text) for name, text in answers]
    table, meet = [None, None], threading.Barrier(2, timeout=10)
    scorers = [SharedScorer(best_of_its_group, Threads(rank, table, meet)) for rank in (0, 1)]
    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(lambda scorer: scorer.score(items), scorers))
    alone = SharedScorer(best_of_its_group, ALONE).score(items)
    assert [score.value for score in alone] == [0.0, 1.0, 1.0, 0.0, 0.0, 1.0]
    assert both == [alone, alone]


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="learner.cpu_offload = True: expected off without learner.shard"):
        LearnerConfig(cpu_offload=True)
    with pytest.raises(
        ConfigError, match="learner.optimizer = 'adamw_8bit': expected adamw with learner.shard"
    ):
        LearnerConfig(shard="fsdp2", optimizer="adamw_8bit")


def test_memory_of_one_of_four_ranks_by_hand() -> None:
    """Two layers of 64, 4 heads and 2 key-value heads of 16, MLP 96, vocabulary 40, tied."""
    shape = ModelShape(
        hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, mlp=96, vocab=40, tied=True, positions=99
    )
    n = shape.parameters
    gpu = Machine(device="cuda", name="GPU", memory_gib=80, free_gib=80, disk_free_gib=1)

    def needs(ranks: int, **learner: Any) -> dict[str, float]:
        cfg = TrainConfig(
            learner=LearnerConfig(**learner),
            sampler=SamplerConfig(name="hf"),
            algo=SkpoConfig(beta=0.1),
            prompts_per_step=6,
        )
        return {need.what: need.gib * GIB for need in memory.memory_needs(cfg, shape, gpu, ranks)}

    copied, divided = needs(4), needs(4, shard="fsdp2")
    assert (copied["learner: weights"], divided["learner: weights"]) == (4 * n, n)
    assert (copied["learner: AdamW"], divided["learner: AdamW"]) == (8 * n, 2 * n)
    assert divided["learner: reference"] == n and "learner: autocast" not in divided
    assert divided["learner: gathered"] == 2 * n and divided[memory.COPY] == 2 * n  # both layers, in bfloat16
    assert copied["hf: KV cache"] == needs(1)["hf: KV cache"] / 3  # two prompts of six
    offloaded = needs(4, shard="fsdp2", cpu_offload=True)
    assert {what for what in offloaded if what.startswith("host")} == {
        *("host: weights", "host: gradients", "host: AdamW", "host: reference")
    }
    rows = [memory.Need(what="host: weights", gib=9.0, why=""), memory.Need(what="process", gib=1.0, why="")]
    assert memory.peak(rows).gib == 1.0
