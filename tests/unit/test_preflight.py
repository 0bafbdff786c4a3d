"""The plan of a run: arithmetic in words, the model, the first prompt, untrusted text."""

import io
from dataclasses import replace

import pytest

from rlkit import preflight
from rlkit.algo_config import AlgoConfig
from rlkit.algo_own import SkpoConfig, SpoConfig, VinePpoConfig
from rlkit.algo_presets import DapoConfig, GrpoConfig
from rlkit.config import SamplerConfig, TrainConfig
from rlkit.types import Score
from tests.plans import FOLDER, PROMPT, config, lines, planned

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


def test_updates_in_flight_are_told_and_want_one_rank() -> None:
    cfg = config(async_steps=1, sampler=SamplerConfig(name="ray", in_flight_updates=True))
    assert "the end of an answer may be younger than its beginning" in "\n".join(
        lines(planned(cfg), "Overlap")
    )
    assert planned(cfg).ready
    assert any("in-flight-updates with 2 ranks: " in problem for problem in planned(cfg, ranks=2).problems)
