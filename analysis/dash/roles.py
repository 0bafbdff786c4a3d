"""A run's masses by role, from what it recorded: which curves, which turns, which stage, and how to say it."""

from dataclasses import dataclass

import numpy as np

from rlkit.analysis.roles import roles

from .figures.base import Floats
from .figures.mass import Turn
from .run import STYLE, Run

Curve = tuple[str, str, Floats, Floats]
"""Name, role, steps, masses."""
WORDS = {
    "high": "explored, high reward",
    "low": "low reward",
    "optimal": "hardly tried and best",
    "other": "other",
}
TURNS = {
    "min2": "the best token stops losing",
    "max1": "exploitation ends",
    "cross": "the best token overtakes",
}


@dataclass(frozen=True, slots=True)
class Story:
    """Where a run stands between exploitation and exploration."""

    curves: list[Curve]
    turns: list[Turn]
    known: bool
    """Whether the stage is."""
    end: float | None
    """Step at which exploitation ended; None: it has not, as far as is known."""
    says: str


def story(run: Run) -> Story | None:
    """None: nothing was looked at."""
    curves = style_curves(run) or role_curves(run)
    if not curves:
        return None
    turns = turns_of(run)
    stage = run.records.newest("dynamics/stage")
    ended = [turn.step for turn in turns if turn.words == TURNS["max1"]]
    end = ended[-1] if ended and stage == 1.0 else None
    return Story(curves, turns, stage is not None, end, _words(run, stage, turns))


def style_curves(run: Run) -> list[Curve]:
    """Exact probability of each style of a task, with the role that it had in the first step."""
    names = run.styles()
    found = style_roles(run)
    return [
        (
            f"{name} ({WORDS[found[name]]})" if name in found else name,
            found.get(name, "other"),
            *run.records.get(STYLE + name),
        )
        for name in names
    ]


def style_roles(run: Run) -> dict[str, str]:
    """Style -> high, low or optimal, by its probability and its mean reward in the first step."""
    names = run.styles()
    probs = np.array([_first(run, f"{STYLE}{name}", 0.0) for name in names])
    values = np.array([_first(run, f"dynamics/style_value/{name}", np.nan) for name in names])
    if not names or not np.isfinite(values).any():
        return {}
    masks = roles(probs, values)
    return {
        name: role
        for role, mask in (("high", masks.high), ("low", masks.low), ("optimal", masks.optimal))
        for name, yes in zip(names, mask, strict=True)
        if yes
    }


def role_curves(run: Run) -> list[Curve]:
    """Mean mass of each role over the decisions of a step."""
    curves = [
        (WORDS[role], role, *run.records.get(f"dynamics/mass/{role}")) for role in ("high", "low", "optimal")
    ]
    return [curve for curve in curves if len(curve[2])]


def turns_of(run: Run) -> list[Turn]:
    found = []
    for name, words in TURNS.items():
        at, low, high = (run.records.newest(f"dynamics/turn/{name}{end}") for end in ("", "_low", "_high"))
        if at is not None and low is not None and high is not None:
            found.append(Turn(words, at, low, high))
    return found


def _words(run: Run, stage: float | None, turns: list[Turn]) -> str:
    """The stage in a sentence."""
    if stage is None:
        return (
            "The stage is not known yet: the detector speaks from 12 looks on (--track.every 2 looks more often), "
            "and says nothing of trees of answers (SKPO)."
        )
    sure = run.records.newest("dynamics/exploration")
    chance = "" if sure is None else f" The chance that exploitation has ended is put at {100 * sure:.0f} %."
    says = {
        0.0: "Exploitation: what paid at first is still gaining probability.",
        0.5: "Saturated: what paid at first has risen and rises no more.",
        1.0: "Exploration: what paid at first is losing probability to what was hardly tried.",
    }.get(stage, "")
    told = "; ".join(f"{t.words} at step {t.step:,.0f} ({t.low:,.0f} to {t.high:,.0f})" for t in turns)
    loose = (
        ""
        if run.records.newest("dynamics/stage_fixed")
        else " Roles are read anew in every step here, over other prompts each time: take it as a hint."
    )
    return f"{says}{chance}{f' Turning points: {told}.' if told else ''}{loose}"


def _first(run: Run, name: str, missing: float) -> float:
    steps_T, values_T = run.records.get(name)
    return float(values_T[0]) if len(values_T) and steps_T[0] == 1 else missing
