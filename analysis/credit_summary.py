"""What `rlkit analyze mc-credit` reports, from arrays alone: JSON values, each mean with its 95 % interval over prompts.

Groups of one prompt are cut from the same answers, so a prompt counts once: its units are averaged first.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import mc_credit
from .intervals import mean_interval, plain_interval
from .mc_credit import Agreement, Floats, Unit

Mean = dict[str, float | None]
"""mean, low, high (None: sizes that are all equal have no interval), and the number of values."""
SPREADS = (0.02, 0.05, 0.1, 0.2)
SIMULATED = (8, 32, 128, 512, 2048, 8192)
BROADCAST = "broadcast"
RATES = ("sign", "all_signs")


def mean_of(values: Sequence[float], rate: bool) -> Mean:
    """A mean and its 95 % interval. rate: the values are shares, and so is the interval.

    >>> found = mean_of([1.0] * 8 + [0.0] * 2, rate=True)
    >>> found["mean"], round(found["low"], 3), round(found["high"], 3)
    (0.8, 0.49, 0.943)
    """
    mean = statistics.fmean(values)
    if not rate and np.ptp(values) < 1e-12:  # sizes that are all equal show no spread to make an interval of
        return {"mean": mean, "low": None, "high": None, "num": len(values)}
    low, high = (mean_interval if rate else plain_interval)(values)
    if min(values) >= 0:
        low = max(0.0, low)
    return {"mean": mean, "low": low, "high": high, "num": len(values)}


def over_prompts(units: Iterable[tuple[str, Agreement]]) -> dict[str, Mean]:
    """The four numbers of an agreement, averaged within each prompt and then over prompts."""
    by_prompt: dict[str, list[Agreement]] = {}
    for prompt, found in units:
        by_prompt.setdefault(prompt, []).append(found)
    return {
        name: mean_of(
            [statistics.fmean(getattr(a, name) for a in found) for found in by_prompt.values()], name in RATES
        )
        for name in ("sign", "all_signs", "error", "value_error")
    }


def estimators(ks: Sequence[int]) -> dict[str, Callable[[Unit], Agreement | None]]:
    """Name -> what it makes of a unit; None: it has too few continuations to hold K of them against the others."""
    found: dict[str, Callable[[Unit], Agreement | None]] = {
        str(k): lambda unit, k=k: mc_credit.monte_carlo(unit, k) if unit.draws_GN.shape[1] >= 2 * k else None  # type: ignore[misc]
        for k in ks
    }
    return {BROADCAST: mc_credit.broadcast, **found}


def measured(units: Sequence[Unit], ks: Sequence[int], deep: int) -> dict[str, Any]:
    """Agreement by estimator: over the mixed groups, over those with at least `deep` continuations, by position (mixed ones), and
    by how many of the answers were right. A group is mixed when its answers differ: in the others nothing is trained."""
    mixed = [unit for unit in units if unit.mixed]
    told = {
        name: [
            (unit, agreed) for unit in units if unit.draws_GN.shape[1] and (agreed := judge(unit)) is not None
        ]
        for name, judge in estimators(ks).items()
    }
    positions = sorted({unit.position for unit in units})
    rights = sorted({unit.num_right for unit in units})

    def of(which: Callable[[Unit], bool]) -> dict[str, dict[str, Mean]]:
        return {
            name: over_prompts(pairs)
            for name, found in told.items()
            if (pairs := [(unit.prompt_id, agreed) for unit, agreed in found if which(unit)])
        }

    return {
        "units": len(units),
        "mixed_units": len(mixed),
        "doubtful": statistics.fmean(mc_credit.doubtful(unit) for unit in mixed) if mixed else 0.0,
        "mixed": of(lambda unit: unit.mixed),
        "deep": of(lambda unit: unit.draws_GN.shape[1] >= deep),
        "by_position": [
            {
                "position": at,
                "estimators": of(lambda unit, at=at: unit.mixed and unit.position == at),  # type: ignore[misc]
            }
            for at in positions
        ],
        "by_right": [
            {
                "right": right,
                "units": sum(unit.num_right == right for unit in units),
                "spread": statistics.fmean(
                    float(unit.draws_GN.mean(1).std()) for unit in units if unit.num_right == right
                ),
                "estimators": of(lambda unit, right=right: unit.num_right == right),  # type: ignore[misc]
            }
            for right in rights
        ],
    }


def steps(
    before_SN: Floats, after_SN: Floats, right_S: NDArray[np.bool_], answer_S: Floats, ks: Sequence[int]
) -> dict[str, Any] | None:
    """How each credit treats right steps and slips; None without steps of either kind.

    answer_S: the advantage of the answer that each step stands in
    """
    if not len(right_S) or not right_S.any() or right_S.all():
        return None
    most = min(before_SN.shape[1], after_SN.shape[1])
    kinds = {BROADCAST: answer_S[None]}
    kinds |= {
        str(k): mc_credit.step_changes(before_SN[:, :most], after_SN[:, :most], k)
        for k in (*ks, most)
        if k <= most
    }
    change_S = after_SN.mean(1) - before_SN.mean(1)
    return {
        "right_steps": int(right_S.sum()),
        "slips": int((~right_S).sum()),
        "value_lost": mean_of((-change_S[~right_S]).tolist(), rate=False),
        "value_won": mean_of(change_S[right_S].tolist(), rate=False),
        "estimators": {
            name: {
                "slips_down": (found := mc_credit.step_credit(credit, right_S)).slips_down,
                "right_down": found.right_down,
                "told_apart": found.told_apart,
            }
            for name, credit in kinds.items()
        },
    }


def simulation(groups: int = 1000, seed: int = 0) -> list[dict[str, Any]]:
    """The paper's A.2: groups of 8 success rates N(0.5, spread), each estimated from N continuations."""
    return [
        {
            "spread": spread,
            "estimators": {
                str(n): {
                    "all_signs": (
                        found := mc_credit.simulated(spread, n, groups=groups, seed=seed)
                    ).all_signs,
                    "sign": found.sign,
                }
                for n in SIMULATED
            },
        }
        for spread in SPREADS
    ]
