"""Hand-made metric histories: a healthy run, and for every check of the doctor one with its fault and one that just has not got it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from rlkit.doctor import Case, Setup, diagnose

GAP = "sampling/sampling_logp_difference"
RATIO = "sampling/importance_sampling_ratio/mean"

SETUP = Setup(
    algo="grpo",
    dtype="float32",
    steps=100,
    prompts_per_step=32,
    updates_per_step=2,
    max_completion_length=512,
    warmup_steps=0,
    max_grad_norm=1.0,
    pool=256,
)


def record(step: int) -> dict[str, float]:
    """A step of a run that learns, nothing the matter with it."""
    return {
        "step": step,
        "reward": 0.3 + 0.004 * step,
        "reward_std": 0.4,
        "frac_reward_zero_std": 0.25,
        "frac_zero_advantage": 0.25,
        "groups/total": 32.0,
        "groups/all_right": 4.0,
        "groups/all_wrong": 4.0,
        "groups/one_answer": 0.0,
        "groups/prompts": 32.0,
        "groups/kept": 32.0,
        "verifier/verdicts": 256.0,
        "verifier/skips": 0.0,
        "verifier/errors": 0.0,
        "staleness": 0.0,
        "completions/mean_length": 200.0,
        "completions/clipped_ratio": 0.05,
        "completions/clipped_right": 0.0,
        "completions/mean_nll": 0.5,
        f"{GAP}/mean": 1e-6,
        f"{GAP}/max": 1e-5,
        RATIO: 1.0,
        "clip_ratio/region_mean": 0.01,
        "entropy": 0.5,
        "loss": -0.01,
        "grad_norm": 0.5 + 0.1 * (step % 3),
        "learning_rate": 1e-6,
        "skpo/prompts_met": float(min(32 * step, 200)),
        "num_tokens": 1000.0 * step,
        "timing_s/sample": 10.0,
        "timing_s/verify": 1.0,
        "step_time": 20.0,
    }


Column = float | Callable[[int], float]
Records = list[dict[str, float]]


def history(steps: int, **columns: Column) -> Records:
    """`record` for steps 1 to `steps`, some of its columns other numbers, or functions of the step. `__` stands for a slash."""
    changes = {name.replace("__", "/"): value for name, value in columns.items()}
    return [
        record(step) | {name: value(step) if callable(value) else value for name, value in changes.items()}
        for step in range(1, steps + 1)
    ]


def found(records: Records, setup: Setup = SETUP) -> dict[str, Case]:
    return {case.finding.name: case for case in diagnose(records, setup)}


@dataclass(frozen=True, kw_only=True)
class Example:
    """A history with a fault, what must be said of it, and a history that has not quite got it."""

    records: Records
    severity: str
    says: str
    near: Records
    setup: Setup = SETUP
    near_setup: Setup = SETUP
    cause: str = ""


def from_step(first: int, then: float, before: float) -> Callable[[int], float]:
    return lambda step: then if step >= first else before


NO_SPREAD: dict[str, Column] = {
    "reward_std": 0.0,
    "frac_reward_zero_std": 1.0,
    "frac_zero_advantage": 1.0,
    "grad_norm": 0.0,
    "loss": 0.0,
    "groups__all_wrong": 30.0,
    "groups__all_right": 2.0,
}
TOKENS_GAP = f"{GAP}/mean".replace("/", "__")
LARGEST_GAP = f"{GAP}/max".replace("/", "__")

TURNED: dict[str, Column] = {
    "dynamics__stage": 1.0,
    "dynamics__stage_fixed": 1.0,
    "dynamics__turn__max1": 85.0,
    "dynamics__turn__max1_low": 70.0,
    "dynamics__turn__max1_high": 96.0,
}

EXAMPLES: dict[str, Example] = {
    "constant-reward": Example(
        records=history(5, reward=0.0, **NO_SPREAD),
        severity="serious",
        says="every answer of 5 steps scored 0, so there is nothing to learn from",
        cause="the verifier finds no answer where the model writes it",
        near=history(5, reward=0.0, **NO_SPREAD | {"reward_std": from_step(5, 0.01, 0.0)}),
    ),
    "no-gradient": Example(
        records=history(3, **NO_SPREAD),
        severity="serious",
        says="all 32 groups have equal rewards (2 all right, 30 all wrong), so no answer is better than its siblings and the "
        "gradient is 0; so it was in 3 of the last 3 steps",
        cause="too hard: in these groups no answer is right",
        near=history(3, **NO_SPREAD | {"frac_zero_advantage": 31 / 32, "grad_norm": 0.1}),
    ),
    "few-groups-differ": Example(
        records=history(10, frac_zero_advantage=0.75, groups__all_wrong=22.0, groups__all_right=2.0),
        severity="warning",
        says="75% of the last 10 steps' groups have nothing to learn from (6% all right, 69% all wrong)",
        cause="too hard",
        near=history(10, frac_zero_advantage=0.69, groups__all_wrong=20.0, groups__all_right=2.0),
    ),
    "few-groups-kept": Example(
        records=history(5, groups__prompts=96.0, groups__kept=15.0, groups__all_right=40.0),
        severity="warning",
        says="a step keeps 15.0 groups where 32 are asked for, of 96 prompts drawn",
        cause="too easy",
        near=history(5, groups__prompts=96.0, groups__kept=16.0),
    ),
    "truncated": Example(
        records=history(3, completions__clipped_ratio=0.94),
        severity="serious",
        says="94% of the last steps' answers were cut at max_completion_length = 512",
        near=history(3, completions__clipped_ratio=0.49),
    ),
    "never-stops": Example(
        records=history(3, completions__clipped_ratio=0.97, completions__clipped_right=0.4),
        severity="serious",
        says="97% of the last steps' answers never end, yet 40% of them are right before they are cut",
        cause="the token that ends an answer is not known",
        near=history(3, completions__clipped_ratio=0.97, completions__clipped_right=0.09),
    ),
    "growing-into-the-cap": Example(
        records=history(
            10,
            completions__mean_length=from_step(6, 270.0, 200.0),
            completions__clipped_ratio=from_step(6, 0.25, 0.05),
        ),
        severity="warning",
        says="answers grew from 200 to 270 tokens, and 25% of them are cut now (5% at the start)",
        near=history(
            10,
            completions__mean_length=from_step(6, 255.0, 200.0),
            completions__clipped_ratio=from_step(6, 0.25, 0.05),
        ),
    ),
    "verifier-errors": Example(
        records=history(2, verifier__errors=26.0),
        severity="serious",
        says="52 of the last 512 verdicts are errors (10%)",
        near=history(2, verifier__errors=2.0),
    ),
    "verifier-skips": Example(
        records=history(1, verifier__skips=64.0),
        severity="warning",
        says="64 of the last 256 answers could not be judged (25%)",
        near=history(1, verifier__skips=51.0),
    ),
    "reward-fell": Example(
        records=history(40, reward=from_step(31, 0.25, 0.6)),
        severity="serious",
        says="the reward fell from 0.6 (the 10 steps up to 10) to 0.25",
        near=history(40, reward=from_step(31, 0.31, 0.6)),
    ),
    "slow-verifier": Example(
        records=history(5, timing_s__verify=7.0),
        severity="hint",
        says="verdicts take 7.0 s of a step's 20.0 s (35%)",
        near=history(5, timing_s__verify=0.9, step_time=2.0, timing_s__sample=1.0),
    ),
    "slow-sampling": Example(
        records=history(5, timing_s__sample=18.0),
        severity="hint",
        says="sampling takes 18.0 s of a step's 20.0 s (90%)",
        near=history(5, timing_s__sample=4.0, step_time=4.4),
    ),
    "overlap-waits": Example(
        records=history(5, timing_s__wait=12.0, timing_s__sample=18.0, timing_s__train=5.0),
        severity="hint",
        says="the learner waits 12.0 s of a step's 20.0 s for rollouts (60%): writing takes 18.0 s, learning 5.0 s",
        near=history(5, timing_s__wait=9.0),
    ),
    "not-finite": Example(
        records=history(4, grad_norm=from_step(4, math.nan, 0.5)),
        severity="serious",
        says="grad_norm is nan",
        near=history(4, grad_norm=from_step(4, 0.9, 0.5)),
    ),
    "dead-gradient": Example(
        records=history(3, grad_norm=0.0, **{RATIO: 0.0}),
        severity="serious",
        says="the gradient is 0 though the rewards of 75% of the groups differ; the mean importance ratio is 0",
        near=history(3, grad_norm=1e-9),
    ),
    "gradient-spike": Example(
        records=history(20, grad_norm=from_step(20, 6.0, 0.5)),
        severity="warning",
        says="the gradient norm jumped to 6, 12 times its median",
        near=history(20, grad_norm=from_step(20, 0.9, 0.05)),  # within max_grad_norm
    ),
    "gradient-always-clipped": Example(
        records=history(20, grad_norm=12.0),
        severity="warning",
        says="each of the last 20 gradients was clipped; their median norm is 12.0 times max_grad_norm = 1",
        near=history(20, grad_norm=from_step(20, 1.0, 12.0)),
    ),
    "entropy-collapse": Example(
        records=history(20, entropy=lambda step: 0.5 * 0.8**step),
        severity="serious",
        says="entropy fell from 0.269 nats per token to 0.0095 by step 20 (4%), and the reward is only 0.372",
        near=history(20, entropy=lambda step: 0.5 * 0.8**step, reward=0.91),  # it has learnt what there is
    ),
    "entropy-explosion": Example(
        records=history(10, entropy=from_step(6, 1.6, 0.5)),
        severity="serious",
        says="entropy rose from 0.5 nats per token to 1.6 by step 10",
        near=history(10, entropy=from_step(6, 1.45, 0.5)),
    ),
    "sampler-gap": Example(
        records=history(1, **{TOKENS_GAP: 0.05}),
        severity="serious",
        says="sampler and learner differ by 0.05 nats per token in the mean, 500.0 times what float32 can explain",
        cause="it is there from the first step on",
        near=history(1, **{TOKENS_GAP: 0.05}),
        near_setup=replace(SETUP, dtype="bfloat16"),
    ),
    "sampler-gap-few": Example(
        records=history(1, **{LARGEST_GAP: 0.5}),
        severity="warning",
        says="sampler and learner differ by 0.5 nats on one token, 500,000 times their mean",
        near=history(1, **{LARGEST_GAP: 0.009}),
    ),
    "mostly-clipped": Example(
        records=history(3, clip_ratio__region_mean=0.35),
        severity="serious",
        says="70% of the tokens are clipped after a step's first update",
        near=history(3, clip_ratio__region_mean=0.14),
    ),
    "never-clipped": Example(
        records=history(20, clip_ratio__region_mean=0.0),
        severity="hint",
        says="not one token was clipped in 20 steps of 2 updates",
        near=history(20, clip_ratio__region_mean=0.0),
        near_setup=replace(SETUP, updates_per_step=1),  # then nothing can be
    ),
    "importance-capped": Example(
        records=history(3, **{RATIO: 0.7}),
        severity="warning",
        says="the mean importance ratio is 0.7 where 1 is right: that much of the gradient is dropped",
        near=history(3, **{RATIO: 0.95}),
    ),
    "stale-answers": Example(
        records=history(1, staleness=4.0),
        severity="warning",
        says="the step's oldest answer was written 4 updates ago",
        near=history(1, staleness=3.0),
    ),
    "no-learning-rate": Example(
        records=history(3, learning_rate=0.0),
        severity="serious",
        says="the learning rate is 0, so the weights stay as they are",
        near=history(3, learning_rate=from_step(3, 1e-9, 0.0)),
    ),
    "long-warm-up": Example(
        records=history(1),
        setup=replace(SETUP, warmup_steps=400),
        severity="warning",
        says="the warm-up takes 400 updates and the run has 200; the learning rate ends at 50% of its peak",
        near=history(1),
        near_setup=replace(SETUP, warmup_steps=99),
    ),
    "baseline-never-visited": Example(
        records=history(5, skpo__prompts_met=lambda step: 32.0 * step),
        setup=replace(SETUP, pool=0),
        severity="warning",
        says="160 of 160 visits were to a new prompt, and the data has no end (data.pool = 0)",
        near=history(5, skpo__prompts_met=lambda step: 32.0 * step),  # a first epoch is all new
    ),
    "zero-loss": Example(
        records=history(1, loss=-3e-8),
        severity="hint",
        says="the loss is 0 (-3.0e-08) though the gradient is not (0.6), as it should be",
        near=history(1, loss=-3e-8, grad_norm=0.0, frac_zero_advantage=1.0),
    ),
    "exploitation-ended": Example(
        records=history(1, **TURNED),
        severity="hint",
        says="exploitation has ended at step 85 (70 .. 96): the styles that paid at first lose probability since",
        near=history(1, **{**TURNED, "dynamics__stage": 0.5}),
    ),
}


def grown(length: float = 300.0, cut: float = 0.25, cut_then: float = 0.05) -> Records:
    return history(
        10,
        completions__mean_length=from_step(6, length, 200.0),
        completions__clipped_ratio=from_step(6, cut, cut_then),
    )


def cut(share: float, right: float) -> Records:
    return history(3, completions__clipped_ratio=share, completions__clipped_right=right)


def entropy(then: float, start: float, reward: float = 0.5) -> Records:
    return history(10, entropy=from_step(6, then, start), reward=reward)


def fall(to: float, noise: float = 0.0) -> Records:
    """From 0.6; `noise` up and down in turn is a standard error of noise / 3 over ten steps."""
    return history(40, reward=lambda step: 0.6 if step <= 30 else to + (noise if step % 2 else -noise))


def spike(steps: int, norm: float) -> Records:
    return history(steps, grad_norm=from_step(steps, norm, 0.5))


def one(name: str, value: float, steps: int = 1) -> Records:
    return history(steps, **{name.replace("/", "__"): value})


ALL_NEW: dict[str, Column] = {"skpo__prompts_met": lambda step: 32.0 * step}
ENDLESS, UNKNOWN = replace(SETUP, pool=0), replace(SETUP, pool=None)
BFLOAT16 = replace(SETUP, dtype="bfloat16")

THRESHOLDS: list[tuple[str, Records, Records, Setup]] = [
    ("few-groups-differ", one("frac_zero_advantage", 0.7, 5), one("frac_zero_advantage", 0.69, 5), SETUP),
    ("few-groups-differ", one("frac_zero_advantage", 0.7, 5), one("frac_zero_advantage", 0.7, 4), SETUP),
    ("truncated", cut(0.5, 0.0), cut(0.49, 0.0), SETUP),
    ("truncated", cut(0.5, 0.0), cut(0.5, 0.0)[:2], SETUP),
    ("never-stops", cut(0.9, 0.1), cut(0.9, 0.099), SETUP),
    ("never-stops", cut(0.9, 0.1), cut(0.89, 0.1), SETUP),
    ("growing-into-the-cap", grown(length=261), grown(length=259), SETUP),
    ("growing-into-the-cap", grown(cut=0.201), grown(cut=0.199), SETUP),
    ("growing-into-the-cap", grown(cut_then=0.12), grown(cut_then=0.13), SETUP),
    ("verifier-errors", one("verifier/errors", 2.57), one("verifier/errors", 2.55), SETUP),
    ("verifier-skips", one("verifier/skips", 51.3), one("verifier/skips", 51.1), SETUP),
    ("reward-fell", fall(0.299), fall(0.301), SETUP),
    ("reward-fell", fall(0.25, noise=0.26), fall(0.25, noise=0.27), SETUP),
    ("slow-verifier", one("timing_s/verify", 6.1, 5), one("timing_s/verify", 5.9, 5), SETUP),
    (
        "slow-verifier",
        history(5, timing_s__verify=1.01, step_time=2.0),
        history(5, timing_s__verify=0.99, step_time=2.0),
        SETUP,
    ),
    ("slow-sampling", one("timing_s/sample", 17.1, 5), one("timing_s/sample", 16.9, 5), SETUP),
    (
        "slow-sampling",
        history(5, timing_s__sample=4.6, step_time=5.1),
        history(5, timing_s__sample=4.6, step_time=4.9),
        SETUP,
    ),
    ("overlap-waits", one("timing_s/wait", 10.1, 5), one("timing_s/wait", 9.9, 5), SETUP),
    (
        "overlap-waits",
        history(5, timing_s__wait=4.0, timing_s__sample=1.0, step_time=5.1),
        history(5, timing_s__wait=4.0, timing_s__sample=1.0, step_time=4.9),
        SETUP,
    ),
    ("gradient-spike", spike(11, 5.1), spike(11, 4.9), SETUP),
    ("gradient-spike", spike(11, 5.1), spike(10, 5.1), SETUP),
    ("entropy-collapse", entropy(0.039, 0.4), entropy(0.041, 0.4), SETUP),
    ("entropy-collapse", entropy(0.049, 1.0), entropy(0.051, 1.0), SETUP),
    ("entropy-collapse", entropy(0.01, 1.0, reward=0.89), entropy(0.01, 1.0, reward=0.9), SETUP),
    ("entropy-explosion", entropy(1.81, 0.6), entropy(1.79, 0.6), SETUP),
    ("entropy-explosion", entropy(1.41, 0.4), entropy(1.39, 0.4), SETUP),
    ("sampler-gap", one(f"{GAP}/mean", 1.01e-4), one(f"{GAP}/mean", 0.99e-4), SETUP),
    ("sampler-gap", one(f"{GAP}/mean", 0.101), one(f"{GAP}/mean", 0.099), BFLOAT16),
    ("sampler-gap-few", one(f"{GAP}/max", 0.0101), one(f"{GAP}/max", 0.0099), SETUP),
    ("sampler-gap-few", one(f"{GAP}/max", 3.01), one(f"{GAP}/max", 2.99), BFLOAT16),
    (
        "mostly-clipped",
        one("clip_ratio/region_mean", 0.151, 3),
        one("clip_ratio/region_mean", 0.149, 3),
        SETUP,
    ),
    ("importance-capped", one(RATIO, 1.11), one(RATIO, 1.09), SETUP),
    ("importance-capped", one(RATIO, 0.89), one(RATIO, 0.91), SETUP),
    ("baseline-never-visited", history(5, **ALL_NEW), history(4, **ALL_NEW), ENDLESS),
    ("baseline-never-visited", history(50, **ALL_NEW), history(49, **ALL_NEW), UNKNOWN),
    (
        "baseline-never-visited",
        history(5, skpo__prompts_met=lambda step: 28.9 * step),
        history(5, skpo__prompts_met=lambda step: 28.7 * step),
        ENDLESS,
    ),
    ("zero-loss", one("loss", 0.99e-5), one("loss", 1.01e-5), SETUP),
    ("zero-loss", history(1, loss=0.0, grad_norm=1.01e-3), history(1, loss=0.0, grad_norm=0.99e-3), SETUP),
]
"""Check, a history on this side of one of its thresholds, and one on the other."""
