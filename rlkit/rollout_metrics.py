"""What a step's rollouts came to, under TRL's names."""

import statistics
from collections.abc import Sequence

from rlkit.types import Group, Rollout


def rollout_metrics(leaves: Sequence[Group], version: int) -> dict[str, float]:
    """Rewards, lengths and verdicts of a step's answers (groups without children).

    version: the weights' version when the step began; rollouts of older weights are stale by the difference.
    """
    rollouts = [r for g in leaves for r in g.rollouts]
    values = [[r.value for r in g.rollouts if r.value is not None] for g in leaves]
    rewards = [v for group in values for v in group]
    stds = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values]
    outcomes = [r.score.outcome for r in rollouts if r.score]
    metrics = {
        "reward": _mean(rewards),
        "reward_std": _mean(stds),
        "frac_reward_zero_std": _mean([float(len(set(v)) < 2) for v in values]),
        "verifier/skips": float(outcomes.count("skip")),
        "verifier/errors": float(outcomes.count("error")),
        "staleness": max((float(version - r.policy_version) for r in rollouts), default=0.0),
    }
    names = sorted({name for r in rollouts if r.score for name in r.score.parts})
    for name in names:
        parts = [r.score.parts[name] for r in rollouts if r.score and name in r.score.parts]
        metrics[f"rewards/{name}/mean"] = _mean(parts)
        metrics[f"rewards/{name}/std"] = statistics.stdev(parts) if len(parts) > 1 else 0.0
    return metrics | _lengths(rollouts)


def _lengths(rollouts: Sequence[Rollout]) -> dict[str, float]:
    lengths = [float(len(r.completion_ids)) for r in rollouts]
    ended = [float(len(r.completion_ids)) for r in rollouts if r.finish_reason == "stop"]
    return {
        "completions/mean_length": _mean(lengths),
        "completions/min_length": min(lengths, default=0.0),
        "completions/max_length": max(lengths, default=0.0),
        "completions/mean_terminated_length": _mean(ended),
        "completions/min_terminated_length": min(ended, default=0.0),
        "completions/max_terminated_length": max(ended, default=0.0),
        "completions/clipped_ratio": 1 - len(ended) / len(lengths) if lengths else 0.0,
    }


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0
