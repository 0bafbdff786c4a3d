"""Two real processes on this CPU: what they learn, write and say together is what one process does alone."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from rlkit import memory
from rlkit.algo_own import SkpoConfig
from rlkit.algos.base import Sampling
from rlkit.algos.skpo import Skpo
from rlkit.analysis.store import read_metrics, read_rollouts
from rlkit.cli import main
from rlkit.config import LearnerConfig, SamplerConfig, TrainConfig
from rlkit.errors import ConfigError, RunError
from rlkit.learner import Learner, Report
from rlkit.machine import GIB, Machine
from rlkit.models import ModelShape
from rlkit.ranks import ALONE, Ranks, SharedSampler, SharedScorer, opened
from rlkit.samplers.scripted import Answer, ScriptedSampler
from rlkit.types import Credit, Prompt, Request, Score
from tests.models import save_tiny_model, tiny_model
from tests.unit.test_loop import CLOCK
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


def made(changes: dict[str, Any], ranks: Ranks) -> tuple[Learner, Skpo, list[Credit]]:
    changes = dict(changes)
    algo = {k.removeprefix("algo_"): changes.pop(k) for k in list(changes) if k.startswith("algo_")}
    cfg = SkpoConfig(**{"beta": 0.1, "importance_sampling_correction": False, **algo})
    tied, count, idle = changes.pop("tied", False), changes.pop("credits", None), changes.pop("idle", False)
    wants_reference = cfg.beta > 0 and not changes.get("lora_rank")
    learner = Learner(
        tiny_model(seed=0, tied=tied),
        LearnerConfig(**changes),
        cfg,
        learning_rate=RATE,
        temperature=0.7,
        num_iterations=1,
        pad_id=0,
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
    return report, {n: t.clone() for n, t in learner.weights().items()}


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
    torch.save(
        {name: learnt(changes, ranks) for name, changes in (GRID | MORE).items()}, folder / f"{ranks.rank}.pt"
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


# -- the command -----------------------------------------------------------------------------------------------------------

SMALL = (
    "--data task:chain --data.pool 6 --reward tests.verdicts:Checksum --reward.workers 0 --num-generations 4 --sampler hf "
    "--learning-rate 1e-3 --micro-batch-tokens 150 --show-every 0 --no-tensorboard --prompts-per-step 4 "
    "--mini-batches 2 --max-completion-length 8 --seed 5"
).split()
FOUR = ["--steps", "4", "--save-every", "2", "--eval-every", "2", "--eval-prompts", "3"]


class Torchrun:
    """`torchrun --nproc-per-node 2 -m rlkit ...` in `folder`."""

    def __init__(self, folder: Path, *args: str, **env: str) -> None:
        self.log = folder / "log"
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "2",
            "--master-port",
            "0",
        ]
        self.process = subprocess.Popen(
            [*command, "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "-m", "rlkit", *args],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | env,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_for(self, done: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE
        while not done():
            assert self.process.poll() is None and time.monotonic() < until, self.log.read_text()
            time.sleep(0.05)

    def rank(self, rank: int) -> int:
        """Its process id."""
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                found = path.read_bytes().split(b"\0")
                parent = int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it ended just now
                continue
            if f"RANK={rank}".encode() in found and parent == self.process.pid:
                return int(path.parent.name)
        raise AssertionError(f"no rank {rank}")

    def end(self) -> tuple[int, list[str]]:
        """The exit code, and what rlkit itself said in the end."""
        code = self.process.wait(PATIENCE)
        self.log_lines = self.log.read_text().splitlines()
        return code, [line for line in self.log_lines if line.startswith("rlkit: ")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tiny_model(tmp_path / "model", seed=3)
    (tmp_path / "sad.py").write_text(SAD)
    return tmp_path


def assert_same_run(one: Path, other: Path) -> None:
    """The same numbers and the same rollouts, as far as floats allow."""
    for a, b in zip(read_metrics(one), read_metrics(other), strict=True):
        assert a.keys() == b.keys()
        for name in a:
            if not name.startswith(CLOCK):
                assert b[name] == pytest.approx(a[name], rel=1e-5, abs=1e-5), name
    for step in range(1, 5):
        rows = zip(read_rollouts(one, step), read_rollouts(other, step), strict=True)
        for a, b in rows:
            assert (a["token_ids"], a["score"]) == (b["token_ids"], b["score"])
    ours, theirs = ([json.loads(line) for line in (r / "evaluations.jsonl").open()] for r in (one, other))
    assert ours == theirs


@pytest.mark.parametrize(
    "extra",
    [
        [],
        pytest.param(["--shard", "fsdp2"], marks=pytest.mark.slow),
        pytest.param(["--shard", "fsdp2", "--lora-rank", "4", "--beta", "0.1"], marks=pytest.mark.slow),
        pytest.param(["--algo", "skpo", "--beta", "0.1"], marks=pytest.mark.slow),
    ],
    ids=["copied", "divided", "adapters", "skpo"],
)
def test_a_run_of_two_processes_is_the_run_of_one(
    extra: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["train", "--model", "model", *SMALL, *FOUR, *extra]
    running = Torchrun(folder, *args, "--output-dir", "two")
    monkeypatch.chdir(folder)
    alone = [a for a in args if a not in ("--shard", "fsdp2")]
    assert main([*alone, "--output-dir", "one"]) == 0
    code, said = running.end()
    assert (code, said) == (0, []), running.log.read_text()
    assert_same_run(folder / "one", folder / "two")
    assert sum("4 steps, " in line for line in running.log_lines) == 1, "one rank speaks"
    assert sorted(p.name for p in folder.iterdir()) == ["log", "model", "one", "sad.py", "two"]
    made = [
        sorted(p.relative_to(r).as_posix() for p in r.rglob("*")) for r in (folder / "one", folder / "two")
    ]
    assert made[0] == made[1]


@pytest.mark.slow
def test_a_resumed_run_of_two_processes_is_the_run_that_never_stopped(folder: Path) -> None:
    args = ["train", "--model", "model", *SMALL, *FOUR, "--shard", "fsdp2"]
    for run in (
        [*args, "--output-dir", "whole"],
        [*args, "--output-dir", "parts", "--steps", "2"],
        ["train", "--resume", "parts", "--steps", "4"],
    ):
        assert Torchrun(folder, *run).end()[0] == 0
    last = "checkpoints/step-000004"
    for file in ("model.safetensors", "rlkit/optimizer.safetensors"):
        whole, parts = (load_file(folder / run / last / file) for run in ("whole", "parts"))
        assert all(torch.equal(t, parts[n]) for n, t in whole.items())
    assert read_metrics(folder / "whole")[-1]["loss"] == read_metrics(folder / "parts")[-1]["loss"]


SAD = """
import os
from rlkit.algo_presets import GrpoConfig
from rlkit.algos.family import Family
from rlkit.errors import RolloutError

class Algo(Family):
    Config = GrpoConfig
    def loss(self, batch, out):
        if os.environ["RANK"] == "1" and "SAD" in os.environ:
            raise RolloutError("rank 1 is sad")
        return super().loss(batch, out)
"""
"""An algorithm that fails on one rank, in the middle of what all do together."""


@pytest.mark.slow
def test_an_error_on_one_rank_ends_all_with_its_sentence(folder: Path) -> None:
    began = time.monotonic()
    running = Torchrun(
        folder, "train", "--model", "model", *SMALL, "--algo", "sad.py:Algo", "--output-dir", "run", SAD="1"
    )
    code, said = running.end()
    assert code != 0 and said == ["rlkit: rank 1 is sad"], running.log.read_text()
    assert time.monotonic() - began < PATIENCE / 2, "nobody waits for a time-out"


@pytest.mark.slow
def test_a_rank_that_is_killed_is_missed(folder: Path) -> None:
    running = Torchrun(
        folder, "train", "--model", "model", *SMALL, "--steps", "100000", "--output-dir", "run"
    )
    running.wait_for(
        lambda: (folder / "run/metrics.jsonl").exists() and len(read_metrics(folder / "run")) > 1
    )
    os.kill(running.rank(1), signal.SIGKILL)
    code, said = running.end()
    assert code != 0 and len(said) <= 1
    assert all(line.startswith("rlkit: rank 0 of 2 lost another rank (") for line in said)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["torchrun", "rank 0", "rank 1"])
def test_a_signal_to_one_stops_all_after_the_same_step(to: str, folder: Path) -> None:
    running = Torchrun(
        folder, "train", "--model", "model", *SMALL, "--steps", "100000", "--output-dir", "run"
    )
    running.wait_for(
        lambda: (folder / "run/metrics.jsonl").exists() and len(read_metrics(folder / "run")) > 1
    )
    os.kill(running.process.pid if to == "torchrun" else running.rank(int(to[-1])), signal.SIGINT)
    _, said = running.end()
    steps = len(read_metrics(folder / "run"))
    assert said == [f"rlkit: stopped after step {steps}; continue with `rlkit train --resume run`"], (
        running.log.read_text()
    )
    assert [p.name for p in (folder / "run/checkpoints").iterdir()] == [f"step-{steps:06d}"]


def test_accelerates_own_settings_are_not_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert main(["train", "--model", "model", *SMALL]) == 2
    assert "divide the model with --learner.shard fsdp2" in capsys.readouterr().err
