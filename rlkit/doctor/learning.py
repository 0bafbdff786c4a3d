"""Checks on what the learner did: gradient, entropy, ratios, the gap to the sampler, rates, baselines."""

import math
import statistics

from .findings import MEMORY, START, WINDOW, Check, History, Seen, check

SPIKE, SPIKE_RECORDS = 10.0, 10
"""A gradient norm this many times the median before it; in runs of the embedded model it stays at 1. A median needs some records."""
CLIPPED_RECORDS, FAR_OVER = 20, 10.0
"""So many steps in a row at max_grad_norm, and by this factor: then the step's length says nothing of the gradient's."""
COLLAPSE_SHARE, COLLAPSE_NATS = 0.1, 0.05
"""Entropy below this share of its start, and below 0.05 nats (1.05 equally likely tokens): answers of a group are copies."""
SOLVED = 0.9
"""Mean reward from which low entropy is what learning looks like: the embedded model ends at 0.97 with 7 % of its entropy."""
EXPLOSION, EXPLOSION_NATS = 3.0, 1.0
"""Entropy this many times its start, and a nat above it: three times as many tokens to choose from at every position."""
GAP_MEAN = {"float32": 1e-4, "bfloat16": 0.1}
"""Mean |learner's log-prob - sampler's| in nats per token. Measured at temperatures 1 and 0.7: float32 at most 2.5e-6, bfloat16 at
most 3.0e-2 (vLLM, a random model of 9 M parameters, 1,536 tokens); in runs of the embedded model 7e-8 and 2.6e-3."""
GAP_MAX = {"float32": 1e-2, "bfloat16": 3.0}
"""The largest of a step, likewise: measured 1.3e-5 and 0.14, in runs of the embedded model 4.3e-5 and 0.24. Rare tokens have long
tails in bfloat16, so there it must be a token 20 times likelier for one side than for the other."""
CLIPPED, MOSTLY_CLIPPED = 0.3, 0.6
"""Of the tokens of the updates that can clip. GSPO, which clips most, reports about 0.15 (arXiv:2507.18071)."""
NEVER_CLIPPED_RECORDS = 20
"""Steps without one clipped token; fewer say nothing where little is clipped."""
RATIO_BAND = (0.9, 1.1)
"""Mean importance ratio of a step: 1 when nothing is capped; a user who sampled at top_p 0.8 measured 0.896 (trl#7269)."""
STALE = 4.0
"""Updates between the weights that wrote an answer and those that learn from it: there the plain loss is reported to halve."""
FRESH_SHARE, FRESH_DONE, FRESH_STEPS = 0.9, 0.5, 5
"""Of the visits that are a prompt's first, once this share of the run is done; and steps before it can be told at all."""
LOSS_ZERO, GRADIENT_THERE = 1e-5, 1e-3
"""A loss below and a gradient above: sums of centred advantages in float32 come to about 1e-7."""

NUMBERS = (
    "loss",
    "grad_norm",
    "entropy",
    "reward",
    "kl",
    "sampling/sampling_logp_difference/mean",
    "sampling/importance_sampling_ratio/mean",
)
LOWER_RATE = "a lower --learning-rate, fewer --num-iterations or --mini-batches"


@check(
    "not-finite",
    "serious",
    when="loss, gradient norm, entropy, reward, KL or a ratio is nan or infinite",
    cause="the weights or a ratio have run away (too high a learning rate), or the verifier returned nan",
    remedy=f"go back to the last checkpoint with {LOWER_RATE}; float32 (--dtype float32) to rule rounding out",
    hides=("gradient-spike",),
)
def not_finite(h: History) -> Seen | None:
    broken = [
        f"{name} is {value}"
        for name in NUMBERS
        if isinstance(value := h.newest.get(name), float) and not math.isfinite(value)
    ]
    return Seen(says=" and ".join(broken), number=1.0) if broken else None


@check(
    "dead-gradient",
    "serious",
    when=f"the gradient is 0 though rewards differ (warning; serious from 3 of the last {WINDOW} steps on)",
    cause="every token that has an advantage is masked (importance correction, truncation mask), or no trainable weight is reached",
    remedy="look at sampling/importance_sampling_ratio and completions/clipped_ratio; with LoRA at the patterns of its modules",
    hides=("few-groups-differ",),
)
def dead_gradient(h: History) -> Seen | None:
    norms, equal = h.last("grad_norm"), h.now("frac_reward_zero_std")
    if h.now("grad_norm") != 0 or equal is None or equal == 1:
        return None
    dead = sum(norm == 0 for norm in norms)
    says = f"the gradient is 0 though the rewards of {1 - equal:.0%} of the groups differ"
    ratio, cut = h.now("sampling/importance_sampling_ratio/mean"), h.now("completions/clipped_ratio") or 0.0
    if ratio is not None and ratio < RATIO_BAND[0]:
        says += f"; the mean importance ratio is {ratio:.2g}"
    if cut == 1:
        says += "; every answer was cut"
    return Seen(says=says, number=1.0, severity="serious" if dead >= 3 else "warning")


@check(
    "gradient-spike",
    "warning",
    when=f"the gradient norm is {SPIKE:g} times the median before it, and above max_grad_norm",
    cause="a few tokens with an extreme ratio or advantage, or the first sign of a run that comes apart",
    remedy=f"look at that step's answers in rollouts/; if it comes back, {LOWER_RATE}, or a smaller --max-grad-norm",
)
def gradient_spike(h: History) -> Seen | None:
    *before, now = h.last("grad_norm", MEMORY) or [0.0]
    before = [norm for norm in before if norm > 0]
    if len(before) < SPIKE_RECORDS or now <= (h.setup.max_grad_norm or 0.0):
        return None
    median = statistics.median(before)
    if now < SPIKE * median:
        return None
    return Seen(
        says=f"the gradient norm jumped to {now:.3g}, {now / median:.0f} times its median",
        number=now / median,
    )


@check(
    "gradient-always-clipped",
    "warning",
    when=f"{CLIPPED_RECORDS} steps in a row have a gradient norm above max_grad_norm (a hint up to {FAR_OVER:g} times it)",
    cause="max_grad_norm is below what this model's gradients are; the clip, not the gradient, sets the length of each step",
    remedy="nothing, if the reward rises: AdamW divides most of it out; else a larger --max-grad-norm and a lower --learning-rate",
)
def gradient_always_clipped(h: History) -> Seen | None:
    limit, norms = h.setup.max_grad_norm, h.last("grad_norm", CLIPPED_RECORDS)
    if limit is None or len(norms) < CLIPPED_RECORDS or min(norms) <= limit:
        return None
    factor = statistics.median(norms) / limit
    return Seen(
        says=f"each of the last {len(norms)} gradients was clipped; their median norm is {factor:.1f} times max_grad_norm = {limit:g}",
        number=factor,
        severity="warning" if factor >= FAR_OVER else "hint",
    )


def _entropy(h: History) -> tuple[float, float] | None:
    """Entropy at the start and now, nats per token. Where no answer was trained, and so none measured: the answers' mean NLL."""
    for name in ("entropy", "completions/mean_nll"):
        start, now = h.start(name), h.mean(name, START, at_least=START)
        if start is not None and now is not None:
            return start, now
    return None


@check(
    "entropy-collapse",
    "serious",
    when=f"entropy is below {COLLAPSE_SHARE:.0%} of its start and below {COLLAPSE_NATS:g} nats, and the mean reward below {SOLVED:g}",
    cause="the policy has settled on one answer and no longer explores; groups become copies, and nothing is left to compare",
    remedy="a checkpoint from before it with clip-higher (--epsilon-high 0.28), an entropy bonus (--entropy-coef), only negatives (--algo grpo_n), or a lower --learning-rate",
)
def entropy_collapse(h: History) -> Seen | None:
    start, now = _entropy(h) or (0.0, 0.0)
    if now >= COLLAPSE_SHARE * start or now >= COLLAPSE_NATS:
        return None
    if (h.mean("reward", START) or 0.0) >= SOLVED:
        return None
    return Seen(
        says=f"entropy fell from {start:.3g} nats per token to {now:.2g} by step {h.step} ({now / start:.0%}), and the reward is only {h.mean('reward', START) or 0.0:.3g}",
        number=start / max(now, 1e-6),
    )


@check(
    "entropy-explosion",
    "serious",
    when=f"entropy is {EXPLOSION:g} times its start and {EXPLOSION_NATS:g} nat or more above it",
    cause="the text dissolves: a learning rate that is too high, too strong an entropy bonus, or only negatives for too long",
    remedy=f"{LOWER_RATE}, a smaller --entropy-coef; with only negatives, some weight on right answers (W-REINFORCE)",
)
def entropy_explosion(h: History) -> Seen | None:
    start, now = _entropy(h) or (0.0, 0.0)
    if now < EXPLOSION * start or now < start + EXPLOSION_NATS:
        return None
    return Seen(
        says=f"entropy rose from {start:.3g} nats per token to {now:.3g} by step {h.step}", number=now / start
    )


def _dtype(h: History) -> str:
    """Of the forward pass. Where it depended on the machine, rounding tells: bfloat16 never agrees as well as float32."""
    first = h.earliest("sampling/sampling_logp_difference/mean")
    return h.setup.dtype or ("float32" if first is not None and first < GAP_MEAN["float32"] else "bfloat16")


def _why_gap(h: History, name: str, limit: float) -> str | None:
    """Stale weights, settings that differ from the first step on, or weights that did not arrive; None: any of them."""
    stale, first = h.now("staleness") or 0.0, h.first(name)
    if stale > 0:
        return f"the answers were written by weights up to {stale:.0f} updates old"
    if first is None:
        return None
    if first < limit:
        return "it was not there in the first step, so new weights do not reach the sampler whole (a missing name, a tied lm_head, a prefix cache that was kept)"
    return "it is there from the first step on, when both have the same weights: another temperature, log-probs of the untempered distribution, another tokenizer, model folder or dtype"


def _old_on_purpose(h: History) -> bool:
    """Whether the answers are no older than --async-steps makes them: then sampler and learner are meant to differ."""
    oldest = (h.setup.async_steps or 0) * (h.setup.updates_per_step or 1)
    return 0 < (h.now("staleness") or 0.0) <= oldest


@check(
    "sampler-gap",
    "serious",
    when=f"sampler and learner differ by more than {GAP_MEAN['float32']:g} nats per token in the mean (bfloat16: {GAP_MEAN['bfloat16']:g})",
    cause="another temperature, tokenizer, model folder or dtype (from the first step on), new weights that do not arrive (later), or old weights",
    remedy="the same run with --sampler hf --dtype float32: if the gap is gone, the sampler is at fault; until then do not trust this run",
    hides=("sampler-gap-few", "importance-capped"),
)
def sampler_gap(h: History) -> Seen | None:
    name = "sampling/sampling_logp_difference/mean"
    # The first step's answers are never old, so they tell whether the sampler computes what the learner does.
    gap, dtype = h.first(name) if _old_on_purpose(h) else h.mean(name, 3), _dtype(h)
    if gap is None or gap < GAP_MEAN[dtype]:
        return None
    return Seen(
        says=f"sampler and learner differ by {gap:.2g} nats per token in the mean, {gap / GAP_MEAN[dtype]:,.1f} times what {dtype} can explain",
        number=gap,
        cause=_why_gap(h, name, GAP_MEAN[dtype]),
    )


@check(
    "sampler-gap-few",
    "warning",
    when=f"one token differs by more than {GAP_MAX['float32']:g} nats (bfloat16: {GAP_MAX['bfloat16']:g}) while the mean is as it should be",
    cause="a few tokens: a near tie that rounding decides, a token at the edge of what may be sampled, or one answer of other weights",
    remedy="--importance-sampling-mode token_truncate caps just those; --dtype float32, if the model is small enough",
)
def sampler_gap_few(h: History) -> Seen | None:
    largest, mean = (h.now(f"sampling/sampling_logp_difference/{kind}") for kind in ("max", "mean"))
    dtype = _dtype(h)
    if _old_on_purpose(h):
        return None
    if largest is None or mean is None or largest < GAP_MAX[dtype] or mean >= GAP_MEAN[dtype]:
        return None
    return Seen(
        says=f"sampler and learner differ by {largest:.2g} nats on one token, {largest / max(mean, 1e-12):,.0f} times their mean",
        number=largest,
    )


def _clipped(h: History, records: int) -> list[float]:
    """Share of clipped tokens among the updates that can clip: the first of a step has ratio 1 by construction."""
    updates = h.setup.updates_per_step or 1
    if updates < 2:
        return []
    shares = h.last("clip_ratio/region_mean", records) or h.last("cispo_clip_ratio", records)
    return [share * updates / (updates - 1) for share in shares]


@check(
    "mostly-clipped",
    "serious",
    when=f"{CLIPPED:.0%} or more of the tokens are clipped after a step's first update (serious from {MOSTLY_CLIPPED:.0%} on)",
    cause="the policy moves so far within one step that most tokens leave the clip range and no longer learn",
    remedy=f"{LOWER_RATE}; a wider --epsilon-high, if the reward rises all the same",
)
def mostly_clipped(h: History) -> Seen | None:
    shares = _clipped(h, START)
    if len(shares) < 3 or statistics.fmean(shares) < CLIPPED:
        return None
    share = statistics.fmean(shares)
    return Seen(
        says=f"{share:.0%} of the tokens are clipped after a step's first update, and learn nothing there",
        number=share,
        severity="serious" if share >= MOSTLY_CLIPPED else "warning",
    )


@check(
    "never-clipped",
    "hint",
    when=f"several updates per step, and not one token clipped in {NEVER_CLIPPED_RECORDS} steps",
    cause="the updates are small against the clip range: harmless, unless --epsilon is so wide that it guards nothing",
    remedy="nothing, if the reward rises; else a higher --learning-rate or more --num-iterations: there is room",
)
def never_clipped(h: History) -> Seen | None:
    shares = _clipped(h, NEVER_CLIPPED_RECORDS)
    moved = max(h.last("grad_norm", NEVER_CLIPPED_RECORDS), default=0.0) > 0
    if len(shares) < NEVER_CLIPPED_RECORDS or any(shares) or not moved:
        return None
    return Seen(
        says=f"not one token was clipped in {len(shares)} steps of {h.setup.updates_per_step} updates",
        number=1.0,
    )


@check(
    "importance-capped",
    "warning",
    when=f"the mean importance ratio leaves [{RATIO_BAND[0]:g}, {RATIO_BAND[1]:g}]",
    cause="many answers are masked or capped because the sampler finds them much less likely than the learner, or the other way round",
    remedy="a higher --importance-sampling-clip-max, or --importance-sampling-mode token_truncate: in long answers small gaps add up to large sequence ratios",
)
def importance_capped(h: History) -> Seen | None:
    ratio = h.mean("sampling/importance_sampling_ratio/mean", 3)
    if ratio is None or RATIO_BAND[0] <= ratio <= RATIO_BAND[1]:
        return None
    what = "that much of the gradient is dropped" if ratio < 1 else "rare tokens own the gradient"
    return Seen(
        says=f"the mean importance ratio is {ratio:.3g} where 1 is right: {what}",
        number=abs(math.log(max(ratio, 1e-6))),
    )


@check(
    "stale-answers",
    "warning",
    when=f"answers are {STALE:g} or more updates older than the weights that learn from them",
    cause="sampling runs ahead of learning",
    remedy="a lower --async-steps; until then keep --importance-sampling-correction on",
    hides=("sampler-gap-few",),
)
def stale_answers(h: History) -> Seen | None:
    stale = h.now("staleness")
    if stale is None or stale < STALE:
        return None
    return Seen(says=f"the step's oldest answer was written {stale:.0f} updates ago", number=stale)


@check(
    "no-learning-rate",
    "serious",
    when="the learning rate is 0 for 3 steps",
    cause="a schedule that has run out, or one that never began",
    remedy="--learning-rate and --warmup-steps",
)
def no_learning_rate(h: History) -> Seen | None:
    rates = h.last("learning_rate", 3)
    if len(rates) < 3 or any(rates):
        return None
    return Seen(says="the learning rate is 0, so the weights stay as they are", number=1.0)


@check(
    "long-warm-up",
    "warning",
    when="the warm-up takes half of the run's updates or more (a hint, unless it takes them all)",
    cause="warmup_steps counts optimizer steps and was meant for a longer run",
    remedy="a smaller --warmup-steps (the papers use 10 to 20)",
)
def long_warm_up(h: History) -> Seen | None:
    setup = h.setup
    if not setup.warmup_steps or not setup.steps or not setup.updates_per_step or setup.token_budget:
        return None
    updates = setup.steps * setup.updates_per_step
    share = setup.warmup_steps / updates
    if share < 0.5:
        return None
    reached = (
        f"ends at {1 / share:.0%} of its peak" if share > 1 else f"reaches its peak after {share:.0%} of them"
    )
    return Seen(
        says=f"the warm-up takes {setup.warmup_steps:,} updates and the run has {updates:,}; the learning rate {reached}",
        number=share,
        severity="warning" if share >= 1 else "hint",
    )


@check(
    "baseline-never-visited",
    "warning",
    when=f"a value tracker's prompts hardly ever return: {FRESH_SHARE:.0%} of the visits are a prompt's first when half of the run is done (at once, if the data has no end)",
    cause="more prompts than the run visits: every baseline is the one of a prompt never met, so the tracker is no baseline",
    remedy="fewer prompts (--data.pool, --data.limit) or more --steps, so that each is met three times or more; or an algorithm with groups (--algo grpo)",
)
def baseline_never_visited(h: History) -> Seen | None:
    met = next((h.now(name) for name in h.newest if name.endswith("/prompts_met")), None)
    if met is None or not h.setup.prompts_per_step or h.step < FRESH_STEPS:
        return None
    visits = h.step * h.setup.prompts_per_step
    endless = h.setup.pool == 0
    if met < FRESH_SHARE * visits or not (endless or (h.done() or 0.0) >= FRESH_DONE):
        return None
    data = "the data has no end (data.pool = 0)" if endless else f"{h.done() or 0.0:.0%} of the run is done"
    return Seen(says=f"{met:,.0f} of {visits:,} visits were to a new prompt, and {data}", number=met / visits)


@check(
    "zero-loss",
    "hint",
    when=f"the loss is below {LOSS_ZERO:g} while the gradient is not: said once, because it looks like a fault and is none",
    cause="advantages that are centred in each group and ratios of 1 (one update per step) add up to 0 whatever is learnt",
    remedy="nothing; watch reward, grad_norm and the held-out score instead of the loss",
)
def zero_loss(h: History) -> Seen | None:
    loss, norm = h.now("loss"), h.now("grad_norm")
    if loss is None or norm is None or abs(loss) > LOSS_ZERO or norm < GRADIENT_THERE:
        return None
    return Seen(
        says=f"the loss is 0 ({loss:.1e}) though the gradient is not ({norm:.3g}), as it should be",
        number=1.0,
    )


LEARNING: tuple[Check, ...] = (
    not_finite,
    dead_gradient,
    gradient_spike,
    gradient_always_clipped,
    entropy_collapse,
    entropy_explosion,
    sampler_gap,
    sampler_gap_few,
    mostly_clipped,
    never_clipped,
    importance_capped,
    stale_answers,
    no_learning_rate,
    long_warm_up,
    baseline_never_visited,
    zero_loss,
)
