"""Two looks at the same rollouts -> the columns of a table and the numbers of a step. Pure functions on arrays."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rlkit.analysis import mass
from rlkit.learner.look import Floats, Look, Own
from rlkit.types import Credit, Group, Rollout

from .points import Point

Columns = dict[str, list[Any]]
Text = Callable[[int], str]
"""Token id -> its text."""
PARTS = ("start", "middle", "end")
"""The thirds of an answer."""


def token_columns(
    step: int,
    rollouts: Sequence[Rollout],
    rows: Sequence[tuple[int, str]],
    advantages: Sequence[Sequence[float]],
    before: Sequence[Look],
    after: Sequence[Floats],
    after_top: Sequence[Floats],
    entropy_after: Sequence[Floats],
    text: Text,
) -> Columns:
    """The table `tokens`. rows: place in the step's rollouts, and role;  after: log-probs [T];  after_top: [T, K] of before's likeliest."""
    lengths = [len(r.completion_ids) for r in rollouts]
    ids = [i for r in rollouts for i in r.completion_ids]
    top_ids = [row for look in before for row in look.top_ids_TK.tolist()]
    return {
        "step": [step] * len(ids),
        "prompt_id": [r.prompt_id for r, n in zip(rollouts, lengths, strict=True) for _ in range(n)],
        "row": [row for (row, _), n in zip(rows, lengths, strict=True) for _ in range(n)],
        "role": [role for (_, role), n in zip(rows, lengths, strict=True) for _ in range(n)],
        "position": [t for n in lengths for t in range(n)],
        "token_id": ids,
        "token": [text(i) for i in ids],
        "advantage": [a for some in advantages for a in some],
        "logp_before": _flat([look.logp_T for look in before]),
        "logp_after": _flat(after),
        "entropy_before": _flat([look.entropy_T for look in before]),
        "entropy_after": _flat(entropy_after),
        "top_ids": top_ids,
        "top_tokens": [[text(i) for i in some] for some in top_ids],
        "top_logp_before": [row for look in before for row in look.top_logp_TK.tolist()],
        "top_logp_after": [row for some in after_top for row in some.tolist()],
    }


def token_metrics(
    rollouts: Sequence[Rollout],
    advantages: Sequence[Sequence[float]],
    before: Sequence[Look],
    after: Sequence[Floats],
    after_top: Sequence[Floats],
) -> dict[str, float]:
    """How sampled tokens moved, by the sign of their advantage, and where the probability of punished ones went."""
    adv_N = np.concatenate([np.asarray(a, dtype=np.float64) for a in advantages])
    old_N = np.concatenate([look.logp_T for look in before]).astype(np.float64)
    new_N = np.concatenate(list(after)).astype(np.float64)
    out: dict[str, float] = {}
    for name, which_N in (("positive", adv_N > 0), ("negative", adv_N < 0), ("zero", adv_N == 0)):
        if which_N.any():
            out[f"prob/{name}_before"] = float(np.exp(old_N[which_N]).mean())
            out[f"prob/{name}_after"] = float(np.exp(new_N[which_N]).mean())
            out[f"delta_logp/{name}"] = float((new_N - old_N)[which_N].mean())
    punished_N = adv_N < 0
    if punished_N.any():
        ids_N = np.concatenate([np.asarray(r.completion_ids) for r in rollouts])
        top_NK = np.concatenate([look.top_ids_TK for look in before])
        top_old_NK = np.exp(np.concatenate([look.top_logp_TK for look in before]).astype(np.float64))
        top_new_NK = np.exp(np.concatenate(list(after_top)).astype(np.float64))
        moved = mass.flow(ids_N, np.exp(old_N), np.exp(new_N), top_NK, top_old_NK, top_new_NK)
        fell_N = punished_N & (moved.sampled < 0)
        removed = float(-moved.sampled[fell_N].sum())
        out["removed/tokens"] = float(fell_N.sum() / punished_N.sum())
        if removed > 0:
            for name, gain_N in (
                ("runner_up", moved.runner_up),
                ("others", moved.others),
                ("tail", moved.tail),
            ):
                out[f"removed/to_{name}"] = float(gain_N[fell_N].sum()) / removed
    return out


def decision_columns(
    step: int,
    points: Sequence[Point],
    rollouts: Sequence[Rollout],
    rows: Sequence[tuple[int, str]],
    looks: Sequence[tuple[Floats, Floats]],
    entropies: Sequence[tuple[float, float]],
    text: Text,
) -> tuple[Columns, dict[str, float]]:
    """The table `decisions` and its numbers. looks: log-probs of each point's candidates before and after, [K] each."""
    columns: Columns = {name: [] for name in DECISION_FIELDS}
    masses: dict[str, list[float]] = {"high": [], "low": [], "optimal": []}
    moves: dict[str, list[float]] = {"high": [], "low": [], "optimal": []}
    pairs: list[tuple[float, float]] = []
    for point, (old_K, new_K), (entropy_old, entropy_new) in zip(points, looks, entropies, strict=True):
        tokens, pulls = list(point.values), np.asarray(point.pulls())
        p_K, q_K = np.exp(old_K.astype(np.float64)), np.exp(new_K.astype(np.float64))
        kinds = mass.role_names(p_K.tolist(), list(point.values.values()))
        predicted_K = mass.predicted_change(p_K, pulls)
        if pulls.any():
            pairs += zip(predicted_K.tolist(), (new_K - old_K).tolist(), strict=True)
        if len(set(point.values.values())) > 1:  # where all candidates are worth the same there are no roles
            for role in masses:
                which_K = np.array([kind == role for kind in kinds])
                masses[role].append(float(p_K[which_K].sum()))
                moves[role].append(float((q_K - p_K)[which_K].sum()))
        prefix = rollouts[point.row].completion_ids[: point.decision.position]
        row = {
            "step": step,
            "prompt_id": point.prompt_id,
            "row": rows[point.row][0],
            "position": point.decision.position,
            "prefix": "".join(text(i) for i in prefix[-PREFIX_TOKENS:]),
            "members": len(point.decision.members),
            "mean": point.decision.mean,
            "source": point.source,
            "token_ids": tokens,
            "tokens": [text(i) for i in tokens],
            "counts": point.counts(),
            "values": list(point.values.values()),
            "pulls": pulls.tolist(),
            "roles": kinds,
            "logp_before": old_K.tolist(),
            "logp_after": new_K.tolist(),
            "predicted": predicted_K.tolist(),
            "entropy_before": entropy_old,
            "entropy_after": entropy_new,
        }
        for name, value in row.items():
            columns[name].append(value)
    metrics = {"decisions": float(len(points))}
    for role in masses:
        if masses[role]:
            metrics[f"mass/{role}"] = float(np.mean(masses[role]))
            metrics[f"mass_moved/{role}"] = float(np.mean(moves[role]))
    if pairs:
        said_P, seen_P = np.asarray(pairs).T
        correlation, signs = mass.agreement(said_P, seen_P)
        metrics |= {"predicted/correlation": correlation, "predicted/same_sign": signs}
    return columns, {name: value for name, value in metrics.items() if np.isfinite(value)}


PREFIX_TOKENS = 24
"""Of the text before a decision, for people."""
DECISION_FIELDS = (
    *("step", "prompt_id", "row", "position", "prefix", "members", "mean", "source", "token_ids", "tokens"),
    *("counts", "values", "pulls", "roles", "logp_before", "logp_after", "predicted"),
    *("entropy_before", "entropy_after"),
)


def probe_columns(step: int, rollouts: Sequence[Rollout], looks: Sequence[Look], text: Text) -> Columns:
    """The table `probe`."""
    ids = [i for r in rollouts for i in r.completion_ids]
    lengths = [len(r.completion_ids) for r in rollouts]
    return {
        "step": [step] * len(ids),
        "prompt_id": [r.prompt_id for r, n in zip(rollouts, lengths, strict=True) for _ in range(n)],
        "answer": [k for k, n in enumerate(lengths) for _ in range(n)],
        "position": [t for n in lengths for t in range(n)],
        "token_id": ids,
        "token": [text(i) for i in ids],
        "logp": _flat([look.logp_T for look in looks]),
        "entropy": _flat([look.entropy_T for look in looks]),
        "top_mass": _flat([np.exp(look.top_logp_TK).sum(-1) for look in looks]),
    }


def own_metrics(own: Own, credits: Sequence[Credit], roles: Mapping[int, str]) -> dict[str, float]:
    """What the learner's pass saw of all trained tokens: entropy by third of the answer and by role, and how many are settled.

    roles: id of a rollout -> answer or segment
    """
    if not own:
        return {}
    thirds: list[list[Floats]] = [[], [], []]
    by_role: dict[str, list[Floats]] = {}
    probs: list[Floats] = []
    for i, (logp_T, entropy_T) in own.items():
        part_T = mass.thirds(len(entropy_T))
        for k in range(3):
            thirds[k].append(entropy_T[part_T == k])
        by_role.setdefault(roles[id(credits[i].rollout)], []).append(entropy_T)
        probs.append(np.exp(logp_T))
    out = {
        f"entropy/{name}": float(np.concatenate(some).mean())
        for name, some in zip(PARTS, thirds, strict=True)
        if sum(len(x) for x in some)
    }
    if len(by_role) > 1:
        out |= {f"entropy/{role}": float(np.concatenate(some).mean()) for role, some in by_role.items()}
    out["saturated"] = float((np.concatenate(probs) > mass.SATURATED).mean())
    return out


def style_values(groups: Sequence[Group], styles: Mapping[int, str]) -> dict[str, float]:
    """Mean reward of the answers that begin in each style; a style nobody took has none. styles: first token -> name"""
    rewards: dict[str, list[float]] = {}
    for rollout in (r for group in groups if not group.children for r in group.rollouts):
        name = styles.get(next(iter(rollout.completion_ids), -1))
        if name is not None and rollout.value is not None:
            rewards.setdefault(name, []).append(rollout.value)
    return {name: float(np.mean(some)) for name, some in rewards.items()}


def _flat(parts: Sequence[Any]) -> list[float]:
    return [float(x) for part in parts for x in part]
