"""The plan of a run: arithmetic in words, memory against hand-worked numbers, the gold answer, untrusted text."""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlkit import memory, preflight
from rlkit.algo_config import AlgoConfig
from rlkit.algo_own import SkpoConfig, SpoConfig, VinePpoConfig
from rlkit.algo_presets import DapoConfig, GrpoConfig
from rlkit.config import (
    LearnerConfig,
    LogConfig,
    ModelConfig,
    RewardConfig,
    SamplerConfig,
    TrainConfig,
)
from rlkit.machine import Machine, this_machine
from rlkit.models import SHAPES, ModelPlace, ModelShape
from rlkit.preflight import Plan
from rlkit.rewards import VerifierPool, make_verifier
from rlkit.types import Prompt, Score

SMALL = ModelShape(
    hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, mlp=96, vocab=40, tied=True, positions=2048
)
FOLDER = ModelPlace(name="m", kind="folder", path="/m", shape=SMALL, shape_source="config.json")
HUB = ModelPlace(
    name="Qwen2.5-Math-7B",
    kind="hub",
    path="Qwen/Qwen2.5-Math-7B",
    missing=("model.safetensors",),
    shape=SHAPES["Qwen2.5-Math-7B"],
    shape_source="table",
)
LAPTOP = Machine(device="cpu", name="CPU, 2 cores", memory_gib=16, free_gib=12, disk_free_gib=100)
GPU = Machine(device="cuda", name="GPU", memory_gib=80, free_gib=79, disk_free_gib=1000)
PROMPT = Prompt(
    id="p1", token_ids=[1, 2, 3], text="<|user|>6*7?<|assistant|>", question="6*7?", reference="42"
)


def knows(prompt: Prompt, text: str) -> Score:
    return Score(float(text == "\\boxed{42}"), reason=f"read {text!r}")


def config(**changes: Any) -> TrainConfig:
    options: dict[str, Any] = {"sampler": SamplerConfig(name="vllm"), "max_completion_length": 512}
    return TrainConfig(**(options | changes))


def planned(cfg: TrainConfig | None = None, **changes: Any) -> Plan:
    options: dict[str, Any] = {
        "place": FOLDER,
        "prompts": [PROMPT],
        "pool": 256,
        "verifier": knows,
        "machine": LAPTOP,
    }
    return preflight.plan(cfg or config(), **(options | changes))


def lines(plan: Plan, title: str) -> tuple[str, ...]:
    return next(section.lines for section in plan.sections if section.title.startswith(title))


# -- the batch --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        (config(prompts_per_step=128, mini_batches=4), "128 prompts x 8 = 1024 rollouts -> 4 updates of 256"),
        (config(), "32 prompts x 8 = 256 rollouts -> 1 update of 256"),
        (
            config(prompts_per_step=10, mini_batches=4),
            "10 prompts x 8 = 80 rollouts -> 4 updates of 16 to 24",
        ),
        (
            config(prompts_per_step=4, mini_batches=2, num_iterations=3),
            "4 prompts x 8 = 32 rollouts -> 6 updates of 16 (2 mini-batches x 3 iterations)",
        ),
        (
            config(prompts_per_step=128, mini_batches=4, algo=SkpoConfig()),
            "128 prompts x (8 segments + 8 continuations) = 2048 samples; "
            "trained: 128 segments + 1024 continuations -> 4 updates of 288",
        ),
        (
            config(prompts_per_step=2, algo=SkpoConfig(num_generations=4, upstream_reward="own")),
            "2 prompts x (4 segments + 4 continuations + 1 own answer) = 18 samples; "
            "trained: 2 segments + 8 continuations -> 1 update of 10",
        ),
    ],
)
def test_the_batch_in_words(cfg: TrainConfig, said: str) -> None:
    assert lines(planned(cfg), "Batch")[0] == said


def test_mini_batches_that_do_not_divide_are_told_as_the_batch_room_deals_them() -> None:
    from rlkit.batch import make_minibatches
    from rlkit.types import Credit, Rollout, Segment

    said = lines(planned(config(prompts_per_step=10, mini_batches=4)), "Batch")
    assert "they hold 2 or 3 prompts" in said[2]
    rollout = Rollout(
        prompt_id="a",
        token_ids=[1, 2],
        logprobs=[0.0, -1.0],
        segments=[Segment(kind="prompt", start=0, end=1), Segment(kind="completion", start=1, end=2)],
        policy_version=0,
        finish_reason="stop",
    )
    credits = [
        Credit(rollout=rollout, advantages=[1.0], weight=1.0, share=1.0, group=i)
        for i in range(10)
        for _ in range(8)
    ]
    sizes = [sum(len(batch.rows) for batch in part) for part in make_minibatches(credits, 4, 64, pad_id=0)]
    assert (min(sizes), max(sizes)) == (16, 24)


def test_tokens_epochs_and_budget_in_words() -> None:
    said = lines(planned(config(steps=20, prompts_per_step=32, token_budget=400_000), pool=256), "Batch")
    assert said[1] == "tokens per step: at most 256 x 512 = 131,072 sampled"
    assert said[2].startswith(
        "micro-batches: 16,384 tokens hold 10 sequences of the longest kind (1024 + 512 tokens)"
    )
    assert said[3] == (
        "run: 20 steps x 32 prompts = 640 prompts = 2.50 epochs over 256; 20 updates, 2,621,440 sampled tokens at most"
    )
    assert said[4] == "token budget: stops after 400,000 sampled tokens, not before step 4"


def test_skpo_tokens_are_bounded_by_early_segments() -> None:
    cfg = config(prompts_per_step=2, algo=SkpoConfig(num_generations=4), max_completion_length=100)
    # Segments of at most 50; the kept one may be cut to 1, then a continuation has 99: 2 x 4 x (50 + 99).
    assert lines(planned(cfg), "Batch")[1] == (
        "tokens per step: at most 1,192 sampled (segments of at most 50, segment + continuation of at most 100)"
    )


@pytest.mark.parametrize(
    "algo, samples, tokens",
    [
        (SpoConfig(), "2 prompts x 1 = 2 rollouts -> ", "2 x 100 = 200 sampled"),
        (
            SpoConfig(initial_samples=3),
            "2 prompts x (1 answers + 3 at a first visit) = 8 samples; trained: 2 answers -> ",
            "800 sampled",
        ),
        (
            VinePpoConfig(num_generations=4, num_continuations=3, max_steps=5),
            # 3 from the prompt, and 3 from each of 4 later steps of 4 answers
            "2 prompts x (4 answers + 51 continuations) = 110 samples; trained: 8 answers -> ",
            "11,000 sampled (3 continuations from the prompt and from each of 4 later steps of every answer)",
        ),
        (
            DapoConfig(num_generations=4, dynamic_sampling=2),
            "2 prompts x 4 = 8 rollouts -> ",
            "2,400 sampled (3 rounds, when every group is replaced every time)",
        ),
    ],
    ids=["spo", "spo, initial", "vineppo", "dapo"],
)
def test_algorithms_that_sample_more_than_they_train_say_so(
    algo: AlgoConfig, samples: str, tokens: str
) -> None:
    said = lines(planned(config(prompts_per_step=2, algo=algo, max_completion_length=100)), "Batch")
    assert said[0].startswith(samples)
    assert said[1] == f"tokens per step: at most {tokens}"


def test_endless_prompts_have_no_epochs() -> None:
    assert "3200 prompts without end" in lines(planned(pool=None), "Batch")[3].replace(",", "")


def test_a_step_larger_than_the_pool_is_warned_of() -> None:
    assert "a step takes 32 prompts and an epoch has only 20" in planned(pool=20).warnings[0]


def test_an_unresolved_length_counts_as_512() -> None:
    assert "256 x 512" in lines(planned(config(max_completion_length=None)), "Batch")[1]


# -- memory and disk --------------------------------------------------------------------------------------------------


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


# -- model and prompts ------------------------------------------------------------------------------------------------


def test_a_folder_without_weights_is_a_problem() -> None:
    plan = planned(place=replace(FOLDER, missing=("model-2.safetensors",)))
    assert plan.problems[0].startswith("--model m: /m lacks model-2.safetensors")


def test_no_prompts_is_a_problem() -> None:
    assert planned(prompts=[]).problems == (
        "there are no prompts to train on; see --data, --data.limit and --max-prompt-length",
    )


def test_a_token_beyond_the_embedding_is_a_problem() -> None:
    assert (
        "has token 40 and the model knows 40"
        in planned(prompts=[replace(PROMPT, token_ids=[1, 40])]).problems[0]
    )


def test_the_first_prompt_is_shown_with_its_tokens() -> None:
    longer = replace(PROMPT, id="p2", token_ids=[1] * 9)
    plan = planned(prompts=[PROMPT, longer, longer], description=("data  x.jsonl: 3 rows",))
    assert lines(plan, "Data") == ("data  x.jsonl: 3 rows",)
    assert lines(plan, "Prompt p1 (3 tokens; of 3 prompts the median has 9, the longest 9)") == (PROMPT.text,)


def decode(ids: list[int]) -> str:
    return "".join(chr(96 + i) for i in ids)


@pytest.mark.parametrize(
    ("algo", "title", "said"),
    [
        (SkpoConfig(), "[s, q] (3 tokens and the segment)", "ab<<< segment"),
        (SkpoConfig(skip_format="raw"), "[s, q] (3 tokens and the segment)", "<<< segment"),
        (SkpoConfig(skip=False), "[q, s] (3 tokens and the segment)", "<|user|>6*7?<|assistant|><<< segment"),
    ],
)
def test_skpo_shows_the_prompt_of_the_continuations(algo: SkpoConfig, title: str, said: str) -> None:
    prompt = replace(PROMPT, skip_ids=([1, 2], [3]))
    plan = planned(config(algo=algo), prompts=[prompt], decode=decode)
    shown = next(s for s in plan.sections if s.title.startswith("Prompt of the continuations"))
    assert shown.title.endswith(title)
    assert shown.lines[0].startswith(said)
    assert shown.lines[0].endswith(
        {"chat": "c", "raw": PROMPT.text}[algo.skip_format] if algo.skip else ">>>"
    )


def test_without_a_tokenizer_the_plan_is_shown_and_not_ready() -> None:
    sentence = "--model m: the tokenizer is not here; pass a local folder"
    plan = planned(prompts=[replace(PROMPT, token_ids=[])], tokenizer_problem=sentence)
    assert not plan.ready
    assert plan.problems == (sentence,)
    assert plan.notes == ("template and lengths unchecked: pass a local path (--model /path/to/folder)",)
    assert lines(plan, "Prompt p1, plain (no tokenizer)") == (PROMPT.text,)
    assert preflight.render(plan).endswith("not ready to train: 1 problem")


# -- the gold answer --------------------------------------------------------------------------------------------------


def test_the_gold_answer_scores_one() -> None:
    plan = planned()
    assert plan.ready
    assert lines(plan, "Gold answer") == ("\\boxed{42} -> 1: read '\\\\boxed{42}'",)


def boom(prompt: Prompt, text: str) -> Score:
    raise ZeroDivisionError("by the user")


@pytest.mark.parametrize(
    ("verifier", "said"),
    [
        (lambda p, t: Score(0.0, reason="read '41'"), "scores 0 and not 1.0 (read '41')"),
        (lambda p, t: Score(None, reason="cannot judge"), "scores none and not 1.0 (cannot judge)"),
        (lambda p, t: Score(1.0, reason="died", error=True), "not 1.0 (died)"),
        (lambda p, t: Score(0.1, parts={"math": 0.0, "format": 1.0}), "scores 0.1 and not 1.0"),
        (boom, "not 1.0 (ZeroDivisionError: by the user)"),
    ],
)
def test_a_gold_answer_that_does_not_score_one_is_a_problem(
    verifier: Callable[..., Score], said: str
) -> None:
    plan = planned(verifier=verifier)
    assert not plan.ready
    assert plan.problems[0].startswith("the gold answer of prompt p1, \\boxed{42}, ")
    assert said in plan.problems[0]
    assert "check --data.answer-column and --reward" in plan.problems[0]


def rewarded(name: str, verifier: Callable[..., Score] | None = None) -> Plan:
    """The plan of a run with this reward, judged by itself unless another verifier stands for it."""
    judging = verifier or VerifierPool(make_verifier(name), workers=0, timeout=10.0)
    return planned(config(reward=RewardConfig(name=name)), verifier=judging)


@pytest.mark.parametrize(
    "reward",
    [
        "auto-0.2*repetition(n=3)",  # at most 1 - 0: a penalty that is not due is no part of worth
        "auto-0.2*repetition(n=3)+0.1*length(limit=200)",  # 1.1, all there is
        "0.5*math",  # 0.5, all there is
        "0.5*auto+0.4*exact",
    ],
)
def test_a_gold_answer_that_reaches_the_top_of_the_range_is_right(reward: str) -> None:
    plan = rewarded(reward)
    assert plan.ready and not plan.warnings


def test_a_gold_answer_without_the_form_that_is_asked_for_is_only_warned_of() -> None:
    plan = rewarded("0.5*math+0.5*length(limit=200, least=50)")  # 0.5: it is ten characters
    assert plan.ready
    assert "scores 0.5 and not 1.0" in plan.warnings[0]


def test_a_right_form_does_not_hide_a_wrong_answer() -> None:
    plan = rewarded("math+2*format", lambda p, t: Score(2.0, parts={"math": 0.0, "format": 1.0}))
    assert plan.problems[0].startswith("the gold answer of prompt p1, \\boxed{42}, scores 2 and not 1.0")


def test_a_sum_of_the_users_own_functions_is_only_warned_of() -> None:
    sums = "0.5*a.py:f+0.5*b.py:g"
    for score in (Score(0.0, parts={"f": 0.0, "g": 0.0}), Score(None, reason="f: no idea")):
        plan = rewarded(sums, lambda p, t, score=score: score)
        assert plan.ready and len(plan.warnings) == 1
    mixed = rewarded("math+a.py:f", lambda p, t: Score(-4.0, parts={"math": 1.0, "f": -5.0, "f/words": 0.0}))
    assert mixed.ready and len(mixed.warnings) == 1
    assert not rewarded("math+a.py:f", lambda p, t: Score(5.0, parts={"math": 0.0, "f": 5.0})).ready


def test_the_users_own_range_says_what_is_full_marks() -> None:
    class OutOfTen:
        value_range = (0.0, 10.0)

        def __call__(self, prompt: Prompt, text: str) -> Score:
            return Score(self.given, parts={"words": 0.0})

        given = 10.0

    assert not rewarded("mine.py:OutOfTen", OutOfTen()).warnings
    OutOfTen.given = 9.0
    assert "scores 9 and not 10.0" in rewarded("mine.py:OutOfTen", OutOfTen()).warnings[0]


def test_the_users_own_verifier_is_only_warned_of() -> None:
    cfg = config(reward=RewardConfig(name="mine.py:judge"))
    plan = planned(cfg, verifier=lambda p, t: Score(0.5, reason="half"))
    assert plan.ready
    assert "scores 0.5" in plan.warnings[0]


def test_a_verifier_without_gold_answers_says_so() -> None:
    plan = planned(prompts=[replace(PROMPT, reference=None)])
    assert plan.ready
    assert lines(plan, "Gold answer") == (
        "this verifier reads no gold answer (reference is none); nothing to score",
    )


def test_a_gold_answer_in_a_box_is_not_boxed_twice() -> None:
    assert planned(prompts=[replace(PROMPT, reference="\\boxed{42}")]).ready


# -- untrusted text ---------------------------------------------------------------------------------------------------


def test_no_prompt_can_colour_clear_or_forge_the_plan() -> None:
    from rich.console import Console

    evil = "\x1b[2J[red]a[/red]\u202e\nproblem: forged"
    plan = planned(
        prompts=[replace(PROMPT, id="p\n\x1b", text=evil)],
        description=[evil],
        verifier=lambda p, t: Score(0.0, reason=evil),
        place=replace(FOLDER, name="\x1b[31m"),
    )
    out = io.StringIO()
    preflight.show(plan, Console(file=out, force_terminal=True, width=200, color_system=None))
    for text in (preflight.render(plan), out.getvalue()):
        assert "\x1b" not in text and "\u202e" not in text
        assert "\\x1b[2J[red]a[/red]\\u202e" in text
        assert "\nproblem: forged" not in text


def test_a_long_prompt_is_cut_and_counted() -> None:
    plan = planned(prompts=[replace(PROMPT, text="x" * 5000)])
    assert lines(plan, "Prompt p1")[0] == "x" * 2000 + " ... (3,000 more characters)"


def test_a_plan_is_written_as_it_is_shown() -> None:
    text = preflight.render(planned(prompts=[replace(PROMPT, text="two\nlines")]))
    assert "Batch\n  32 prompts x 8 = 256 rollouts -> 1 update of 256\n" in text
    assert "  two\n  lines\n" in text
    assert text.endswith("\nready to train")


def test_overlap_is_told_with_its_age_its_correction_and_what_it_costs() -> None:
    assert "Overlap" not in [section.title for section in planned().sections]
    on_cpu = planned(config(async_steps=2, mini_batches=2))
    told = "\n".join(lines(on_cpu, "Overlap"))
    assert "step t + 2 are written while step t trains, so answers are 2 steps (4 updates) old" in told
    assert "off-policy correction: sequence, mask at 3" in told and "bit for bit, on a CPU" in told
    assert on_cpu.ready and not [w for w in on_cpu.warnings if "async-steps" in w]
    uncorrected = planned(config(async_steps=1, algo=GrpoConfig(importance_sampling_correction=False)))
    assert any("async-steps 1 without off-policy correction" in w for w in uncorrected.warnings)
    assert planned(config(async_steps=1), ranks=4).ready


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
