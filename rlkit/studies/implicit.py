"""`rlkit analyze implicit`: right answers of several models, cut by relative length, and how often an evaluator still succeeds."""

import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np

from rlkit.analysis.prefix_effects import Floats
from rlkit.analyze_config import ImplicitConfig
from rlkit.rollout_metrics import RIGHT_FROM

from .evaluator import Partial, Success
from .lab import Answer, Lab, Tick


def right_answers(lab: Lab, cfg: ImplicitConfig, progress: Tick) -> list[Answer]:
    """The first right answer to each problem, where one of `tries` is right."""
    found: dict[str, Answer] = {}
    for answer in lab.answers(lab.prompts[: cfg.prompts], cfg.tries, progress):
        if answer.score is not None and answer.score >= RIGHT_FROM:
            found.setdefault(answer.prompt.id, answer)
    return list(found.values())


def shares(cfg: ImplicitConfig) -> list[float]:
    """0, 1/n, ... below 1.

    >>> shares(ImplicitConfig(positions=4))
    [0.0, 0.25, 0.5, 0.75]
    """
    return [j / cfg.positions for j in range(cfg.positions)]


def partials(answer: Answer, decode: Callable[[Sequence[int]], str], cfg: ImplicitConfig) -> list[Partial]:
    """The answer's beginning at each share; nothing at all at the first."""
    ids = [() if share == 0 else answer.cut(share) for share in shares(cfg)]
    return [Partial(prompt=answer.prompt, ids=i, text=decode(i) if i else "") for i in ids]


def success_rates(cuts: Sequence[Sequence[Partial]], found: Success) -> dict[str, Floats]:
    """Problem -> success after each share; a problem with a cut that nobody could judge is left out."""
    out: dict[str, Floats] = {}
    for own in cuts:
        rates = []
        for partial in own:
            known = [s for s in found[partial.prompt.id, partial.text] if not math.isnan(s)]
            rates.append(statistics.fmean(known) if known else math.nan)
        if own and not any(map(math.isnan, rates)):
            out[own[0].prompt.id] = np.array(rates)
    return out
