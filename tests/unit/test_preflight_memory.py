"""What a plan says of memory and disk, against numbers worked by hand."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlkit import memory
from rlkit.algo_config import AlgoConfig
from rlkit.config import (
    LearnerConfig,
    LogConfig,
    ModelConfig,
    SamplerConfig,
    TrainConfig,
)
from rlkit.machine import Machine, this_machine
from rlkit.models import ModelPlace, ModelShape
from tests.plans import FOLDER, GPU, HUB, LAPTOP, SMALL, config, lines, planned


def needs(cfg: TrainConfig, machine: Machine, shape: ModelShape = SMALL) -> dict[str, float]:
    return {need.what: need.gib for need in memory.memory_needs(cfg, shape, machine)}


def test_memory_rows_by_hand() -> None:
    # 40 x 64 + 2 x (2 x 64 x 64 + 2 x 64 x 32 + 3 x 64 x 96 + 2 x 64) + 64 = 64,320 parameters
    assert SMALL.parameters == 64_320
    gib = 2**30
    table = needs(config(), LAPTOP)
    assert table["learner: weights"] == table["learner: gradients"] == 64_320 * 4 / gib
    assert table["learner: AdamW"] == 64_320 * 8 / gib
    assert (
        table["learner: logits"] == 16_384 * 40 * 4 * 3 / gib
    )  # all of a micro-batch: fewer than a tile holds
    # 16,384 tokens x 2 layers x 4 bytes x (6 x 64 + 2 x 64 + 2 x 32 + 4 x 96)
    assert table["learner: activations"] == 16_384 * 2 * 4 * 960 / gib
    assert table["vllm: weights"] == 64_320 * 4 / gib
    assert table["vllm: KV cache"] == 0.25


def test_bfloat16_adds_the_copies_that_autocast_makes_and_halves_the_samplers() -> None:
    table = needs(config(model=ModelConfig(name="m", dtype="bfloat16")), LAPTOP)
    assert table["learner: weights"] == 64_320 * 4 / 2**30
    assert table["learner: autocast"] == table["vllm: weights"] == 64_320 * 2 / 2**30


def test_a_gpu_computes_in_bfloat16_and_gives_vllm_its_share() -> None:
    table = needs(config(), GPU)
    assert table["vllm: its share"] == pytest.approx(0.45 * 80)
    assert "learner: autocast" in table


def test_on_a_gpu_vllm_sleeps_while_the_learner_steps_so_the_peak_is_the_larger_phase() -> None:
    row = memory.Need
    rest = [row(what="learner: weights", gib=3.0, why=""), row(what="learner: AdamW", gib=6.0, why="")]
    step = [
        row(what="learner: gradients", gib=3.0, why=""),
        row(what="learner: activations", gib=5.0, why=""),
    ]
    share = row(what="vllm: its share", gib=10.0, why="")
    assert memory.peak([*rest, *step, share]).gib == 19.0  # 3 + 6 + 10 while writing, 17 while training
    assert memory.peak([*rest, *step, row(what="vllm: its share", gib=7.0, why="")]).gib == 17.0
    assert memory.peak([*rest, row(what="hf: weights", gib=1.0, why="")]).gib == 10.0


def test_beta_loads_a_reference_model_and_hf_keeps_its_own_copy_and_cache() -> None:
    cfg = config(algo=AlgoConfig(beta=0.1), sampler=SamplerConfig(name="hf", max_num_seqs=4))
    table = needs(cfg, LAPTOP)
    assert table["learner: reference"] == table["hf: weights"] == 64_320 * 4 / 2**30
    # 4 sequences x 1,536 tokens x 2 x 2 layers x 32 x 4 bytes
    assert table["hf: KV cache"] == 4 * 1536 * 512 / 2**30


def test_a_sequence_longer_than_a_micro_batch_goes_alone() -> None:
    cfg = config(learner=LearnerConfig(micro_batch_tokens=100))
    assert needs(cfg, LAPTOP)["learner: activations"] == 1536 * 2 * 4 * 960 / 2**30


def test_what_does_not_fit_is_warned_of_with_a_remedy() -> None:
    cfg = config(model=ModelConfig(name="Qwen2.5-Math-7B"))
    on_gpu = " ".join(planned(cfg, place=HUB, machine=GPU).warnings)
    assert "memory: the estimate is" in on_gpu and "GPU has 80.0 GiB" in on_gpu
    assert "--learner.gradient-checkpointing saves" in on_gpu
    assert "gpu-memory-utilization" not in on_gpu  # vLLM sleeps through the peak, which is the learner's
    on_cpu = " ".join(planned(cfg, place=HUB).warnings)
    assert "on a GPU with gradient checkpointing the learner needs" in on_cpu
    assert not planned().warnings


def test_the_copy_that_a_checkpoint_is_written_from_has_its_row_and_is_no_need() -> None:
    saved = config(steps=300, log=LogConfig(save_every=100))
    copy = 64_320 * 12 / 2**30
    assert needs(saved, LAPTOP)["saving"] == needs(saved, GPU)["host: saving"] == copy
    for log in (
        LogConfig(save_every=0),
        LogConfig(save_every=300),
        LogConfig(async_save=False, save_every=9),
    ):
        assert "saving" not in needs(replace(saved, log=log), LAPTOP)
    rows = memory.memory_needs(saved, SMALL, LAPTOP)
    with_copy = memory.peak(rows).gib
    assert with_copy - memory.peak([row for row in rows if row.what != "saving"]).gib == pytest.approx(copy)
    tight = replace(LAPTOP, free_gib=with_copy - copy / 2)
    (warning,) = memory.memory_warnings(saved, SMALL, tight, rows)
    assert warning.startswith("memory: the copy that a checkpoint is written from (0.7 MiB) may not fit")
    assert memory.memory_warnings(saved, SMALL, replace(tight, free_gib=with_copy), rows) == []
    assert "end what else uses it" in "".join(
        memory.memory_warnings(saved, SMALL, replace(tight, free_gib=with_copy - 2 * copy), rows)
    )


def test_a_busy_gpu_is_told_from_a_small_one() -> None:
    busy = replace(LAPTOP, free_gib=0.1)
    assert "0.1 of 16.0 GiB are free; end what else uses it" in planned(machine=busy).warnings[0]


def test_a_cache_too_small_for_one_sequence_names_the_size_it_needs() -> None:
    wide = replace(SMALL, layers=64, kv_heads=16)
    # 1,536 tokens x 2 x 64 layers x 256 x 4 bytes = 192 MiB
    small = config(sampler=SamplerConfig(name="vllm", kv_cache_memory=191))
    place = replace(FOLDER, shape=wide)
    assert any("--sampler.kv-cache-memory 192" in w for w in planned(small, place=place).warnings)
    enough = config(sampler=SamplerConfig(name="vllm", kv_cache_memory=192))
    assert not any("kv-cache-memory" in w for w in planned(enough, place=place).warnings)


def test_sequences_beyond_the_models_positions_are_warned_of() -> None:
    cfg = config(max_completion_length=2046)
    assert planned(cfg).warnings == (
        "length: a prompt of 3 and a completion of 2,046 tokens are 2,049, and the model has 2,048 positions; "
        "use --max-completion-length 2045",
    )
    assert not planned(config(max_completion_length=2045)).warnings


def test_disk_counts_what_exists_at_one_time() -> None:
    def gib(**log: Any) -> dict[str, float]:
        cfg = config(steps=100, log=LogConfig(**log))
        return {need.what: need.gib for need in memory.disk_needs(cfg, HUB)}

    one = 7_615_616_512 * 12 / 2**30  # float32 weights and two moments
    assert gib(save_every=0)["checkpoints"] == one
    assert gib(save_every=100)["checkpoints"] == one
    assert gib(save_every=10, save_total_limit=2)["checkpoints"] == 3 * one
    assert gib(save_every=0)["download"] == 7_615_616_512 * 2 / 2**30
    assert any(
        w.startswith("disk: ") for w in planned(place=HUB, machine=replace(GPU, disk_free_gib=90)).warnings
    )


def test_a_shape_nobody_knows_costs_the_estimate_and_nothing_else() -> None:
    plan = planned(place=ModelPlace(name="org/mamba", kind="hub", path="org/mamba"))
    assert plan.ready
    assert "no estimate" in plan.notes[0]
    assert not any(s.title.startswith("Memory") for s in plan.sections)


def test_this_machine_has_memory_and_a_disk(tmp_path: Path) -> None:
    machine = this_machine(str(tmp_path / "not" / "yet"))
    assert machine.memory_gib > 0.5
    assert 0 < machine.free_gib <= machine.memory_gib
    assert machine.disk_free_gib > 0


def test_an_overlapped_engine_on_the_learner_s_gpu_never_sleeps() -> None:
    asleep, awake = (planned(config(async_steps=k), machine=GPU, place=HUB) for k in (0, 1))
    peaks = [
        next(line for line in lines(plan, "Memory") if line.startswith(("peak", "together")))
        for plan in (asleep, awake)
    ]
    assert peaks[0].startswith("peak") and peaks[1].startswith("together")
    gib = [float(re.search(r"([\d.]+) GiB", line)[1]) for line in peaks]  # type: ignore[index]
    assert gib[1] > gib[0]
    assert any("on one GPU" in w for w in awake.warnings)
