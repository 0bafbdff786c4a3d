"""What a step's rollouts came to, under TRL's names."""

import statistics
from collections.abc import Sequence

from rlkit.types import Credit, Group, Rollout

RIGHT_FROM = 0.5
"""A reward from here on counts as right in `groups/*`: it tells 1 from 0 and from -1, with a small bonus for format or without."""


def rollout_metrics(
    leaves: Sequence[Group], version: int, credits: Sequence[Credit] | None = None
) -> dict[str, float]:
    """Rewards, lengths and verdicts of a step's answers (groups without children).

    version: the weights' version when the step began; tokens of older weights are stale by the difference, and span as
        many versions as there are between the oldest and the newest.
    credits: what the step is trained on; None leaves out `frac_zero_advantage`
    """
    rollouts = [r for g in leaves for r in g.rollouts]
    values = [[r.value for r in g.rollouts if r.value is not None] for g in leaves]
    rewards = [v for group in values for v in group]
    stds = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values]
    outcomes = [r.score.outcome for r in rollouts if r.score]
    texts = [[tuple(r.completion_ids) for r in g.rollouts] for g in leaves]
    ages = [float(version - of) for r in rollouts for of in (r.policy_version, r.newest_version)]
    equal = [group[0] for group in values if len(set(group)) == 1]
    metrics = {
        "reward": _mean(rewards),
        "reward_std": _mean(stds),
        "frac_reward_zero_std": _mean([float(len(set(v)) < 2) for v in values]),
        "groups/total": float(len(leaves)),
        "groups/all_right": float(sum(v >= RIGHT_FROM for v in equal)),
        "groups/all_wrong": float(sum(v < RIGHT_FROM for v in equal)),
        "groups/one_answer": float(sum(len(t) > 1 and len(set(t)) == 1 for t in texts)),
        "verifier/verdicts": float(len(outcomes)),
        "verifier/skips": float(outcomes.count("skip")),
        "verifier/errors": float(outcomes.count("error")),
        "staleness": max(ages, default=0.0),
        "staleness_span": max(ages, default=0.0) - min(ages, default=0.0),
        "staleness_mixed": _mean([float(bool(r.later_versions)) for r in rollouts]),
    }
    if credits is not None:
        metrics["frac_zero_advantage"] = _without_signal(credits)
    names = sorted({name for r in rollouts if r.score for name in r.score.parts})
    for name in names:
        parts = [r.score.parts[name] for r in rollouts if r.score and name in r.score.parts]
        metrics[f"rewards/{name}/mean"] = _mean(parts)
        metrics[f"rewards/{name}/std"] = statistics.stdev(parts) if len(parts) > 1 else 0.0
    return metrics | _lengths(rollouts)


def _without_signal(credits: Sequence[Credit]) -> float:
    """Share of the prompts none of whose rollouts is pulled anywhere; 1.0 when nothing is trained.

    Not frac_reward_zero_std: an algorithm with another baseline than the group's mean learns from groups of equal rewards too.
    """
    pulled = {c.group for c in credits if c.weight and any(c.advantages)}
    groups = {c.group for c in credits}
    return 1 - len(pulled) / len(groups) if groups else 1.0


def _lengths(rollouts: Sequence[Rollout]) -> dict[str, float]:
    lengths = [float(len(r.completion_ids)) for r in rollouts]
    ended = [float(len(r.completion_ids)) for r in rollouts if r.finish_reason == "stop"]
    surprise = sum(-sum(r.completion_logprobs) for r in rollouts)
    cut = [r.value for r in rollouts if r.finish_reason == "length" and r.value is not None]
    return {
        "completions/mean_length": _mean(lengths),
        "completions/min_length": min(lengths, default=0.0),
        "completions/max_length": max(lengths, default=0.0),
        "completions/mean_terminated_length": _mean(ended),
        "completions/min_terminated_length": min(ended, default=0.0),
        "completions/max_terminated_length": max(ended, default=0.0),
        "completions/clipped_ratio": 1 - len(ended) / len(lengths) if lengths else 0.0,
        # Estimates the entropy of all answers; the learner's is that of the trained ones, and missing when none is.
        "completions/mean_nll": surprise / sum(lengths) if sum(lengths) else 0.0,
        "completions/clipped_right": _mean([float(v >= RIGHT_FROM) for v in cut]),
    }


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0
