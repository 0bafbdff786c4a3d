"""Checks on what was answered and how it was judged: rewards, groups, lengths, verdicts, seconds."""

import math
import statistics

from .findings import START, WINDOW, Check, History, Seen, check, standard_error

CONSTANT_RECORDS = 5
"""Steps of one and the same reward after which it is no accident: each holds dozens of answers."""
EQUAL_SHARE = 0.7
"""Of the groups without signal: from here on a step costs more than three times what it teaches. A healthy run of the embedded
model gets here when three quarters of its prompts are learnt."""
RIGHT_REWARD = 0.5
"""Mean reward from which answers are called mostly right, where the groups were not counted."""
KEPT_SHARE = 0.5
"""Of the groups that a step asks for: below it the batch is half of what the learning rate was chosen for."""
CUT_SHARE, MOSTLY_CUT = 0.5, 0.9
"""Of the answers at the cap: half of them teach the wrong thing (warning), nearly all of them (serious)."""
CUT_AND_RIGHT = 0.1
"""Of the cut answers that are right all the same. An answer that needed the room is not right without its end."""
GROWTH, CUT_SOME = 1.3, 0.2
"""Answers this much longer than at the start, of which this share is cut: the run is growing into its cap."""
ERROR_SHARE, MANY_ERRORS = 0.01, 0.1
"""Of the verdicts. A sound verifier raises on none; the run stops itself at --reward.max-error-share (0.2)."""
SKIP_SHARE = 0.2
"""Of the verdicts: a fifth of the sampling is thrown away, and groups shrink."""
FALL_SHARE = 0.5
"""Of its best mean reward lost: no dip of a healthy run is as deep."""
FALL_NOISE = 4.0
"""And by as many standard errors of such a mean, then or now: rare rewards near 0 come and go without a fall."""
SLOW_VERIFIER, SLOW_VERIFIER_SECONDS = 0.3, 1.0
"""Share of a step that goes to verdicts, and seconds: sampling is to be the bottleneck, not the judge."""
LONG_WAIT = 0.5
"""Share of a step in which an overlapped learner waits: from here on overlap saves less than a third of it."""
SLOW_SAMPLING, SLOW_STEP_SECONDS = 0.85, 5.0
"""Share of a step that goes to sampling, where peers report 30 to 80 %; steps of seconds are nobody's trouble."""

TOO_HARD = "too hard: in these groups no answer is right"
EASIER = (
    "easier prompts, a warm start (`rlkit sft`), more --num-generations, or a longer --max-completion-length"
)
TOO_EASY = "too easy: in these groups every answer is right"
HARDER = "harder prompts; or stop here, the run has learnt what this data can teach"
COPIES = "no exploration: in most groups all answers are the same, token by token"
EXPLORE = "a higher --temperature; an earlier checkpoint with an entropy bonus (--entropy-coef) or a lower --learning-rate"
UNTIL_THEY_DIFFER = "more sampling where groups do not differ (--dynamic-sampling 2)"


def _equal_groups(h: History, records: int) -> tuple[float, float, float] | None:
    """Of the newest records: groups, those all right, those all wrong. None where they were not counted."""
    columns = [h.last(f"groups/{name}", records) for name in ("total", "all_right", "all_wrong")]
    total, right, wrong = map(sum, columns)
    return (total, right, wrong) if total else None


def _mostly_right(h: History, records: int) -> bool:
    """Whether the groups of equal rewards are rather all right than all wrong."""
    counted = _equal_groups(h, records)
    if counted is not None:
        return counted[1] > counted[2]
    return (h.mean("reward", records) or 0.0) >= RIGHT_REWARD


@check(
    "constant-reward",
    "serious",
    when=f"every answer of the run, for {CONSTANT_RECORDS} steps or more, has the same reward",
    cause="the verifier does not read these answers (their format, --data.answer-column), or they are all right or all wrong",
    remedy="read some answers and their reasons in rollouts/; the same run with --dry-run shows how a gold answer is scored",
    hides=("no-gradient", "few-groups-differ", "zero-loss"),
)
def constant_reward(h: History) -> Seen | None:
    reward, spread = h.extent("reward"), h.extent("reward_std")
    if h.records < CONSTANT_RECORDS or reward is None or reward[0] != reward[1] or (spread or (0, 0))[1] > 0:
        return None
    says = f"every answer of {h.records} steps scored {reward[0]:g}, so there is nothing to learn from"
    if reward[0] >= RIGHT_REWARD:
        cause = "the verifier accepts anything, or the prompts are far too easy"
    else:
        cause = "the verifier finds no answer where the model writes it, the gold answers are in another column, or the prompts are far too hard"
    return Seen(says=says, number=1.0, cause=cause)


@check(
    "no-gradient",
    "serious",
    when=f"all groups of a step have equal rewards, so the gradient is 0 (warning; serious from 3 of the last {WINDOW} steps on)",
    cause=f"{TOO_HARD}; or {TOO_EASY}; or {COPIES}",
    remedy=f"{EASIER}; or {HARDER}; or {EXPLORE}",
    hides=("few-groups-differ", "zero-loss"),
)
def no_gradient(h: History) -> Seen | None:
    shares, norms = h.without_signal(), h.last("grad_norm")
    if not shares or shares[-1] < 1 or (h.now("frac_zero_advantage") is None and h.now("grad_norm") != 0):
        return None
    if h.last("frac_reward_zero_std", 1) not in ([], [1.0]):
        return None  # rewards differ and are masked: dead-gradient
    bare = sum(share == 1 for share in shares)
    counted, right = _equal_groups(h, 1), _mostly_right(h, 1)
    copies = (h.now("groups/one_answer") or 0.0) > 0.5 * (counted[0] if counted else math.inf)
    groups = "all groups have equal rewards"
    if counted is not None:
        groups = f"all {counted[0]:.0f} groups have equal rewards ({counted[1]:.0f} all right, {counted[2]:.0f} all wrong)"
    rest = "the gradient is 0"
    if norms and norms[-1] > 0:
        rest = f"the rewards pull nowhere; what is left of the gradient ({norms[-1]:.3g}) is the penalty's"
    often = f"; so it was in {bare} of the last {len(shares)} steps" if bare > 1 else ""
    return Seen(
        says=f"{groups}, so no answer is better than its siblings and {rest}{often}",
        number=1.0,
        severity="serious" if bare >= 3 else "warning",
        cause=COPIES if copies else TOO_EASY if right else TOO_HARD,
        remedy=EXPLORE if copies else HARDER if right else EASIER,
    )


@check(
    "few-groups-differ",
    "warning",
    when=f"{EQUAL_SHARE:.0%} or more of the last {WINDOW} steps' groups have nothing to learn from, as with equal rewards (a hint when they are mostly all right)",
    cause=f"{TOO_HARD}; or {TOO_EASY}",
    remedy=f"{EASIER}; or {HARDER}; or {UNTIL_THEY_DIFFER}",
)
def few_groups_differ(h: History) -> Seen | None:
    shares = h.without_signal()
    if len(shares) < START or statistics.fmean(shares) < EQUAL_SHARE:
        return None
    share, right, counted = statistics.fmean(shares), _mostly_right(h, WINDOW), _equal_groups(h, WINDOW)
    parts = ""
    if counted is not None:
        parts = f" ({counted[1] / counted[0]:.0%} all right, {counted[2] / counted[0]:.0%} all wrong)"
    return Seen(
        says=f"{share:.0%} of the last {len(shares)} steps' groups have nothing to learn from{parts}",
        number=1 / max(1 - share, 1e-3),
        severity="hint" if right else "warning",
        cause=TOO_EASY if right else TOO_HARD,
        remedy=HARDER if right else f"{EASIER}; or {UNTIL_THEY_DIFFER}",
    )


@check(
    "few-groups-kept",
    "warning",
    when=f"dynamic sampling keeps less than {KEPT_SHARE:.0%} of the groups a step asks for, in the last {WINDOW} steps",
    cause=f"all rounds together find too few groups that differ; {TOO_HARD}; or {TOO_EASY}",
    remedy=f"{EASIER}; or {HARDER}; or more rounds (--dynamic-sampling)",
)
def few_groups_kept(h: History) -> Seen | None:
    kept, asked = h.mean("groups/kept", at_least=START), h.setup.prompts_per_step
    if kept is None or not asked or kept >= KEPT_SHARE * asked:
        return None
    right, drawn = _mostly_right(h, WINDOW), h.mean("groups/prompts") or 0.0
    return Seen(
        says=f"a step keeps {kept:.1f} groups where {asked} are asked for, of {drawn:.0f} prompts drawn",
        number=asked / max(kept, 0.1),
        cause=TOO_EASY if right else TOO_HARD,
        remedy=HARDER if right else EASIER,
    )


@check(
    "truncated",
    "serious",
    when=f"{CUT_SHARE:.0%} or more of the last steps' answers are cut at max_completion_length (serious from {MOSTLY_CUT:.0%} on)",
    cause="the cap is shorter than the answers, or the model never ends them (it repeats itself, or its end is not known as one)",
    remedy="a longer --max-completion-length; read the ends of some answers in rollouts/; a prompt template the model knows (--data.template)",
)
def truncated(h: History) -> Seen | None:
    share = h.mean("completions/clipped_ratio", START, at_least=3)
    if share is None or share < CUT_SHARE:
        return None
    cap = h.setup.max_completion_length
    at = "max_completion_length" if cap is None else f"max_completion_length = {cap}"
    return Seen(
        says=f"{share:.0%} of the last steps' answers were cut at {at} and judged without their end",
        number=share,
        severity="serious" if share >= MOSTLY_CUT else "warning",
    )


@check(
    "never-stops",
    "serious",
    when=f"{MOSTLY_CUT:.0%} or more of the answers are cut, and {CUT_AND_RIGHT:.0%} or more of those are right: the answer came, the end did not",
    cause="the token that ends an answer is not known (another eos_token_id than the chat template's), or the model has not learnt it",
    remedy="eos_token_id in the model folder's generation_config.json (a list may name several); a warm start that ends its answers (`rlkit sft`)",
    hides=("truncated",),
)
def never_stops(h: History) -> Seen | None:
    share = h.mean("completions/clipped_ratio", START, at_least=3)
    right = h.mean("completions/clipped_right", START)
    if share is None or right is None or share < MOSTLY_CUT or right < CUT_AND_RIGHT:
        return None
    ended = (h.first("completions/clipped_ratio") or 0.0) < CUT_SHARE
    return Seen(
        says=f"{share:.0%} of the last steps' answers never end, yet {right:.0%} of them are right before they are cut",
        number=share,
        cause="the policy has unlearnt to end its answers: at the start it did" if ended else None,
        remedy="a checkpoint from before it with a lower --learning-rate; rewards that ask for an end"
        if ended
        else None,
    )


@check(
    "growing-into-the-cap",
    "warning",
    when=f"answers are {GROWTH:g} times as long as at the start, {CUT_SOME:.0%} or more are cut, and that is twice the start's share",
    cause="the policy learns to write longer, and the cap now cuts right answers off",
    remedy="a longer --max-completion-length, or an algorithm that masks or punishes overlong answers (DAPO)",
)
def growing_into_the_cap(h: History) -> Seen | None:
    length, cut = h.mean("completions/mean_length", START), h.mean("completions/clipped_ratio", START)
    length_then, cut_then = h.start("completions/mean_length"), h.start("completions/clipped_ratio")
    if length is None or cut is None or length_then is None or cut_then is None:
        return None
    if length < GROWTH * length_then or cut < CUT_SOME or cut < 2 * cut_then:
        return None
    return Seen(
        says=f"answers grew from {length_then:.0f} to {length:.0f} tokens, and {cut:.0%} of them are cut now ({cut_then:.0%} at the start)",
        number=cut,
    )


@check(
    "verifier-errors",
    "serious",
    when=f"{ERROR_SHARE:.0%} or more of the last {WINDOW} steps' verdicts are errors (serious from {MANY_ERRORS:.0%} on)",
    cause="the verifier raises or hangs on some answers",
    remedy="make it answer `Score(None, reason)` where it cannot judge; a longer --reward.timeout if it is only slow",
)
def verifier_errors(h: History) -> Seen | None:
    errors, verdicts = sum(h.last("verifier/errors")), sum(h.last("verifier/verdicts"))
    if not verdicts or errors / verdicts < ERROR_SHARE:
        return None
    return Seen(
        says=f"{errors:.0f} of the last {verdicts:.0f} verdicts are errors ({errors / verdicts:.0%}); those answers leave their groups",
        number=errors / verdicts,
        severity="serious" if errors / verdicts >= MANY_ERRORS else "warning",
    )


@check(
    "verifier-skips",
    "warning",
    when=f"{SKIP_SHARE:.0%} or more of the last {WINDOW} steps' answers could not be judged",
    cause="gold answers that the verifier cannot read, or rows without one",
    remedy="look at the reasons in rollouts/; mend or drop those rows (--data.answer-column, --data.on-bad-row skip)",
)
def verifier_skips(h: History) -> Seen | None:
    skips, verdicts = sum(h.last("verifier/skips")), sum(h.last("verifier/verdicts"))
    if not verdicts or skips / verdicts < SKIP_SHARE:
        return None
    return Seen(
        says=f"{skips:.0f} of the last {verdicts:.0f} answers could not be judged ({skips / verdicts:.0%}) and were sampled for nothing",
        number=skips / verdicts,
    )


@check(
    "reward-fell",
    "serious",
    when=f"the mean reward of {WINDOW} steps is {FALL_SHARE:.0%} below the best it has been (and by {FALL_NOISE:g} standard errors)",
    cause="the policy was pushed too far: a learning rate that is too high, or updates on answers it would no longer give",
    remedy="go back to a checkpoint from before the fall with a lower --learning-rate, fewer --num-iterations or a penalty (--beta 0.001)",
)
def reward_fell(h: History) -> Seen | None:
    rewards, (best, at, noise_then) = h.last("reward"), h.best
    if len(rewards) < WINDOW or best <= 0:
        return None
    mean = statistics.fmean(rewards)
    if best - mean < FALL_SHARE * best:  # before its noise, which takes ten times as long
        return None
    if best - mean < FALL_NOISE * max(noise_then, standard_error(rewards)):
        return None
    return Seen(
        says=f"the reward fell from {best:.3g} (the {WINDOW} steps up to {at}) to {mean:.3g}",
        number=1 - mean / best,
    )


@check(
    "slow-verifier",
    "hint",
    when=f"verdicts take {SLOW_VERIFIER:.0%} or more of a step, and {SLOW_VERIFIER_SECONDS:g} s or more",
    cause="the verifier is slow, or runs in too few processes",
    remedy="more --reward.workers (one per free core); a shorter --reward.timeout, if a few answers hang",
)
def slow_verifier(h: History) -> Seen | None:
    verify, step = h.mean("timing_s/verify", at_least=START), h.mean("step_time", at_least=START)
    if not verify or not step or verify < SLOW_VERIFIER_SECONDS or verify < SLOW_VERIFIER * step:
        return None
    return Seen(
        says=f"verdicts take {verify:.1f} s of a step's {step:.1f} s ({verify / step:.0%})",
        number=verify / step,
    )


@check(
    "slow-sampling",
    "hint",
    when=f"sampling takes {SLOW_SAMPLING:.0%} or more of a step of {SLOW_STEP_SECONDS:g} s or more",
    cause="a few very long answers that all others wait for, or a slow sampler",
    remedy="--sampler vllm if it is hf now; a shorter --max-completion-length; more prompts per step, so that the long ones overlap",
)
def slow_sampling(h: History) -> Seen | None:
    sample, step = h.mean("timing_s/sample", at_least=START), h.mean("step_time", at_least=START)
    if not sample or not step or step < SLOW_STEP_SECONDS or sample < SLOW_SAMPLING * step:
        return None
    return Seen(
        says=f"sampling takes {sample:.1f} s of a step's {step:.1f} s ({sample / step:.0%})",
        number=sample / step,
    )


@check(
    "overlap-waits",
    "hint",
    when=f"with --async-steps, the learner waits for rollouts in {LONG_WAIT:.0%} or more of a step of {SLOW_STEP_SECONDS:g} s or more",
    cause="writing takes much longer than learning, so there is little that overlap could hide",
    remedy="more or faster servers (--sampler.replicas); otherwise --async-steps 0 is on-policy and hardly slower",
    hides=("slow-sampling",),
)
def overlap_waits(h: History) -> Seen | None:
    wait, step = h.mean("timing_s/wait", at_least=START), h.mean("step_time", at_least=START)
    if not wait or not step or step < SLOW_STEP_SECONDS or wait < LONG_WAIT * step:
        return None
    sample, learn = h.mean("timing_s/sample"), h.mean("timing_s/train")
    both = f": writing takes {sample:.1f} s, learning {learn:.1f} s" if sample and learn else ""
    return Seen(
        says=f"the learner waits {wait:.1f} s of a step's {step:.1f} s for rollouts ({wait / step:.0%}){both}",
        number=wait / step,
    )


ANSWERS: tuple[Check, ...] = (
    constant_reward,
    no_gradient,
    few_groups_differ,
    few_groups_kept,
    truncated,
    never_stops,
    growing_into_the_cap,
    verifier_errors,
    verifier_skips,
    reward_fell,
    slow_verifier,
    slow_sampling,
    overlap_waits,
)
