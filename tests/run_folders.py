"""Run folders without a run: what the store would have written, as long and as hostile as a test wants."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlkit.analysis import tracks
from rlkit.analysis.store import Store
from rlkit.types import Credit, Group, Rollout, Score
from tests.rollouts import question, rollout

HOSTILE = [
    "<script>window.stolen = 1</script><img src=x onerror='window.stolen = 1'>",
    "</script></pre></style><b onmouseover='window.stolen = 1'>bold</b> &lt;i&gt; %{x} {{7*7}}",
    "broken \udc80\ud83d surrogates and \ufffd",
    "controls \x00\x01\x07\x08\x1b[31mred\x1b[0m\x9b31m\x7f",
    "bidi \u202etxet desrever\u202c \u2066isolated\u2069 \u200fmark",
    "# heading [link](javascript:window.stolen=1) $x^2$",
]
"""Answers that a page might obey."""


def metrics(step: int, steps: int, *, tracked: bool, rng: np.random.Generator) -> dict[str, float]:
    """A step's numbers: a run whose reward rises, and whose styles turn over half way."""
    share = step / steps
    noise = float(rng.normal(0, 0.02))
    found = {
        "reward": 0.3 + 0.6 * share + noise,
        "reward_std": 0.4 - 0.3 * share,
        "frac_reward_zero_std": 0.1 + 0.5 * share,
        "frac_zero_advantage": 0.1 + 0.5 * share,
        "entropy": 0.8 - 0.6 * share + abs(noise),
        "loss": noise / 100,
        "grad_norm": 1.0 + noise,
        "learning_rate": 1e-4,
        "groups/total": 32.0,
        "groups/all_right": 20 * share,
        "groups/all_wrong": 4 * (1 - share),
        "verifier/verdicts": 256.0,
        "verifier/errors": 0.0,
        "verifier/skips": 0.0,
        "verifier/busy": 0.5,
        "completions/mean_length": 22 + 8 * share,
        "completions/max_length": 36.0,
        "completions/clipped_ratio": 0.01,
        "clip_ratio/region_mean": 0.001,
        "sampling/sampling_logp_difference/mean": 1e-7,
        "num_tokens": 4500.0 * step,
        "timing_s/sample": 0.4,
        "timing_s/verify": 0.03,
        "timing_s/train": 0.5,
        "timing_s/load": 0.05,
        "step_time": 1.0,
        "tokens_per_second": 4500.0,
    }
    if tracked:
        now, rare = 0.45 + 0.3 * math.sin(math.pi * share), 0.04 + 0.5 * share**3
        found |= {
            "dynamics/style/now": now,
            "dynamics/style/check": rare,
            "dynamics/style/steps": max(0.0, 1 - now - rare),
            "dynamics/removed/to_runner_up": 0.6,
            "dynamics/removed/to_others": 0.3,
            "dynamics/removed/to_tail": 0.1,
            "dynamics/delta_logp/positive": 0.02,
            "dynamics/delta_logp/negative": -0.03,
            "dynamics/entropy/start": 0.9 - 0.5 * share,
            "dynamics/entropy/middle": 0.5 - 0.3 * share,
            "dynamics/entropy/end": 0.1,
            "dynamics/saturated": 0.5 + 0.4 * share,
            "dynamics/probe/logp": -0.4 - share,
            "dynamics/predicted/correlation": 0.8,
            "dynamics/predicted/same_sign": 0.9,
        }
        if step == 1:
            found |= {
                "dynamics/style_value/now": 0.8,
                "dynamics/style_value/check": 1.0,
                "dynamics/style_value/steps": 0.1,
            }
        if share > 0.6:
            found |= {
                "dynamics/stage": 1.0,
                "dynamics/exploration": 0.97,
                "dynamics/stage_fixed": 1.0,
                "dynamics/turn/max1": 0.5 * steps,
                "dynamics/turn/max1_low": 0.45 * steps,
                "dynamics/turn/max1_high": 0.55 * steps,
            }
    return found


def token_table(
    step: int, answers: Sequence[tuple[int, str, str]], *, tokens: int = 12, top_k: int = 5
) -> dict[str, list[Any]]:
    """The table `tokens` of a step. answers: row, prompt id, and text, of which a token is a few characters"""
    rng = np.random.default_rng(step)
    rows: dict[str, list[Any]] = {name: [] for name in tracks.COLUMNS["tokens"]}
    for row, prompt_id, text in answers:
        size = max(1, len(text) // tokens)
        pieces = [text[i : i + size] for i in range(0, len(text), size)][:tokens] or ["x"] * tokens
        pieces += ["x"] * (tokens - len(pieces))
        p = rng.uniform(0.02, 0.98, len(pieces))
        q = np.clip(p + rng.normal(0, 0.06, len(pieces)), 1e-4, 0.9999)
        for i, piece in enumerate(pieces):
            rest = (1 - p[i]) * np.array([0.6, 0.25, 0.1, 0.05])[: top_k - 1]
            values = {
                "step": step,
                "prompt_id": prompt_id,
                "row": row,
                "role": "answer",
                "position": i,
                "token_id": 5 + i,
                "token": piece.encode("utf-16", "surrogatepass").decode("utf-16", "replace"),
                "advantage": float((-1) ** row * 0.7),
                "logp_before": float(np.log(p[i])),
                "logp_after": float(np.log(q[i])),
                "entropy_before": float(-p[i] * np.log(p[i]) * 2),
                "entropy_after": float(-q[i] * np.log(q[i]) * 2),
                "top_ids": [5 + i, *range(50, 49 + top_k)],
                "top_tokens": [
                    piece.encode("utf-16", "surrogatepass").decode("utf-16", "replace"),
                    "<i>",
                    "\n",
                    " b",
                    "\u202ec",
                ][:top_k],
                "top_logp_before": [float(np.log(p[i])), *np.log(rest).tolist()],
                "top_logp_after": [float(np.log(q[i])), *np.log(rest * (1 - q[i]) / (1 - p[i])).tolist()],
            }
            for name, value in values.items():
                rows[name].append(value)
    return rows


def decision_table(step: int, prompt_id: str) -> dict[str, list[Any]]:
    """The table `decisions` with one decision of three candidates."""
    row = {
        "step": step,
        "prompt_id": prompt_id,
        "row": 0,
        "position": 1,
        "prefix": "<u>so ",
        "members": 4,
        "mean": 0.5,
        "source": "group",
        "token_ids": [5, 6, 7],
        "tokens": ["now", "<script>", "check"],
        "counts": [2, 1, 1],
        "values": [0.5, 0.0, 1.0],
        "pulls": [0.0, -1.2, 1.1],
        "roles": ["low", "low", "optimal"],
        "logp_before": [-0.5, -1.2, -3.5],
        "logp_after": [-0.52, -1.3, -3.3],
        "predicted": [0.0, -0.6, 0.5],
        "entropy_before": 0.9,
        "entropy_after": 0.88,
    }
    return {name: [row[name]] for name in tracks.COLUMNS["decisions"]}


def group(texts: Sequence[str], *, prompt_id: str = "a") -> tuple[Group, list[Credit]]:
    """Answers with these texts, right and wrong by turns, and what they are trained on."""
    answers = [
        with_text(
            rollout(
                [50] * (4 + i) + [3],
                prompt_id=prompt_id,
                score=Score(float(i % 2), reason=f"read {t[:20]!r}"),
            ),
            t,
        )
        for i, t in enumerate(texts)
    ]
    credits = [
        Credit(rollout=r, advantages=[(-1.0) ** (i + 1)] * len(r.completion_ids), weight=1.0, share=1.0)
        for i, r in enumerate(answers)
    ]
    return Group(prompt=question(prompt_id), rollouts=answers), credits


def with_text(r: Rollout, text: str) -> Rollout:
    from dataclasses import replace

    return replace(r, text=text)


def write_run(
    folder: Path,
    *,
    steps: int = 40,
    every: int = 4,
    texts: Sequence[str] = HOSTILE,
    tokens: int = 12,
    config: Mapping[str, Any] | None = None,
    rollouts: bool = True,
    finished: bool = True,
) -> Path:
    """A whole run folder. every: steps between looks, 0: never"""
    import tomli_w

    told = {
        "algo": {"name": "grpo"},
        "model": {"name": "tiny"},
        "data": {"name": "task:chain"},
        "steps": steps,
    }
    told |= {"track": {"every": every}, **(config or {})}
    store = Store(folder, tensorboard=False)
    (folder / "config.toml").write_text(tomli_w.dumps(told))
    rng = np.random.default_rng(0)
    for step in range(1, steps + 1):
        tracked = bool(every) and (step == 1 or step % every == 0)
        store.write_metrics(step, metrics(step, steps, tracked=tracked, rng=rng))
        if rollouts:
            made, credits = group(texts)
            store.write_rollouts(step, [made], credits)
        if tracked:
            store.write_track(
                "tokens", step, token_table(step, [(i, "a", t) for i, t in enumerate(texts)], tokens=tokens)
            )
            store.write_track("decisions", step, decision_table(step, "a"))
    for step in (0, steps):
        store.write_evaluation(
            {
                "step": step,
                "pass_at_1": 0.3 + step / steps / 2,
                "low": 0.25 + step / steps / 2,
                "high": 0.35 + step / steps / 2,
            }
            | {"prompts": 500, "samples": 1, "unjudged": 0, "mean_length": 22.0}
        )
    if finished:
        store.write_summary({"algo": "grpo", "steps": steps})
    store.close()
    return folder


def write_evaluation(folder: Path, *, label: str = "task:chain", shift: float = 0.0) -> Path:
    """The folder of an evaluation as the page reads it."""
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text(
        json.dumps({"problem_ids": {}, "n": 8, "label": label, "data": label})
    )
    estimates = {
        f"{kind}@{k}": {"mean": m, "low": m - 0.05, "high": m + 0.05, "bootstrap": [m, m], "problems": 100}
        for k, base in ((1, 0.4), (2, 0.55), (4, 0.68), (8, 0.78))
        for kind, m in (("pass", base + shift), ("maj", 0.4 + shift + 0.02 * k))
    }
    estimates["length"] = {"mean": 22.0, "low": 21.0, "high": 23.0, "bootstrap": [21, 23], "problems": 100}
    summary = {
        "label": label,
        "model": "<b>model</b>",
        "n": 8,
        "votes": True,
        "estimates": estimates,
        "problems": [{}] * 100,
    }
    (folder / "summary.json").write_text(json.dumps({"summary": summary}))
    return folder
