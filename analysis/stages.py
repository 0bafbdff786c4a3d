"""Has exploitation ended? Stage and turning points, with intervals, from noisy masses by role (docs/dynamics.md 4).

A mass is measured in every step with noise: y = asin(sqrt(mass)), whose noise is the same at every mass when tokens are counted.
The curve behind it is smooth: its second differences are small (a cubic smoothing spline read as a Gaussian posterior; Wahba
1983). How smooth, and how noisy, the data say themselves (restricted likelihood). Curves drawn from that posterior each have
a highest point, and those points are the answer: their median, their middle 95 %, and how many of them lie in the past.

Why not a library of change points (ruptures): it finds breaks of level or slope and says how many there are, not when a smooth
curve turned, and its breaks come without intervals. scipy solves the banded systems.

Axes: T steps, N curves drawn. Everything is a pure function; `detect` judges a series as it is, `follow` as it comes in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve_banded, cholesky_banded, solve_banded
from scipy.optimize import minimize_scalar

from rlkit.errors import RunError

Floats = NDArray[np.float64]
Stage = Literal["exploitation", "saturated", "exploration"]

NUM_CURVES = 400
MAX_POINTS = 800
"""A longer series is averaged over equal stretches: cost does not grow with a run's length."""
LEAST_STEPS = 12
"""Fewer measured steps say nothing."""
LEAST_CHANGE = 0.02
"""Probability that must have moved: what is less is no rise and no fall."""
CERTAINTY = 0.95
"""Share of the curves that must agree."""
RECENT = 0.25
"""Share of a series, at its end, over which a saturated mass rises no more: by less than LEAST_CHANGE, and less than"""
RECENT_SHARE = 0.1
"""this share of its whole rise (a steady slow rise has a quarter of it there)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """When something turned, in steps.

    >>> str(Turn(step=129.0, low=110.0, high=147.0))
    'step 129 [110 .. 147]'
    """

    step: float
    """Median of the posterior."""
    low: float
    """Its 2.5 %."""
    high: float
    """Its 97.5 %."""

    def __str__(self) -> str:
        return f"step {self.step:,.0f} [{self.low:,.0f} .. {self.high:,.0f}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """What the series shows up to its last step. A turn that is None has not been seen: not yet, or not in this run."""

    last_step: float
    stage: Stage
    """saturated: the high-reward mass has risen, and rises no more; exploration: it has fallen from its peak."""
    exploration: float
    """Share of the curves in which the high-reward mass is below its peak by LEAST_CHANGE."""
    t_min2: Turn | None
    t_max1: Turn | None
    t_cross: Turn | None

    def words(self, *, finished: bool) -> str:
        """One sentence; finished: the run is over, so what has not turned does not turn in it."""
        if self.t_max1 is not None:
            return f"exploitation ended at {self.t_max1} (95 % interval); {self.exploration:.0%} sure at step {self.last_step:,.0f}"
        never = "no turning point in this run" if finished else "no turning point yet"
        state = "has risen and rises no more" if self.stage == "saturated" else "has not fallen from its peak"
        return f"{never}: the high-reward mass {state} by step {self.last_step:,.0f}"


def detect(
    high_T: Sequence[float] | Floats,
    optimal_T: Sequence[float] | Floats | None = None,
    steps_T: Sequence[float] | Floats | None = None,
) -> Detection:
    """Stage and turning points of a whole series; whatever comes after it is not known.

    high_T, optimal_T: masses in [0, 1] of the explored high-reward and the best tokens, roles fixed at the start; nan: not measured
    steps_T: their steps, evenly spaced; None: 0, 1, 2, ...
    """
    high = _checked(high_T, "high-reward")
    steps = np.arange(len(high), dtype=np.float64) if steps_T is None else np.asarray(steps_T, np.float64)
    at_T, high_NT = _curves(high, steps)
    if high_NT is None:
        return _nothing(steps)
    peak_N, fallen = _turned(-high_NT)
    saturated = float(rises_no_more(high_NT).mean())
    stage: Stage = "exploitation"
    if fallen >= CERTAINTY:
        stage = "exploration"
    elif saturated >= CERTAINTY:
        stage = "saturated"
    t_min2 = t_cross = None
    if optimal_T is not None:
        _, optimal_NT = _curves(_checked(optimal_T, "optimal"), steps)
        if optimal_NT is not None:
            trough_N, risen_again = _turned(optimal_NT)
            t_min2 = _turn(at_T, trough_N) if risen_again >= CERTAINTY else None
            t_cross = _crossing(at_T, high_NT, optimal_NT)
    return Detection(
        last_step=float(steps[-1]),
        stage=stage,
        exploration=fallen,
        t_min2=t_min2,
        t_max1=_turn(at_T, peak_N) if stage == "exploration" else None,
        t_cross=t_cross,
    )


def follow(
    high_T: Sequence[float] | Floats,
    optimal_T: Sequence[float] | Floats | None = None,
    *,
    every: int = 1,
) -> list[Detection]:
    """What `detect` would have said while the series came in: after each `every` steps, from those steps alone."""
    high = np.asarray(high_T, np.float64)
    optimal = None if optimal_T is None else np.asarray(optimal_T, np.float64)
    return [
        detect(high[:known], None if optimal is None else optimal[:known])
        for known in range(every, len(high) + 1, every)
    ]


# -- the curves behind a series ----------------------------------------------------------------------------------------


def _checked(mass_T: Sequence[float] | Floats, name: str) -> Floats:
    mass = np.asarray(mass_T, np.float64)
    if mass.ndim != 1 or not len(mass):
        raise RunError(f"{name} mass: shape {mass.shape}, expected a series of at least one step")
    wrong = np.flatnonzero((mass < -1e-6) | (mass > 1 + 1e-6))
    if len(wrong):
        raise RunError(
            f"{name} mass: {mass[wrong[0]]:g} at position {wrong[0]}, expected probabilities in [0, 1]"
        )
    return mass.clip(0, 1)


def _nothing(steps_T: Floats) -> Detection:
    """Of a series too short to say anything."""
    return Detection(
        last_step=float(steps_T[-1]),
        stage="exploitation",
        exploration=0.0,
        t_min2=None,
        t_max1=None,
        t_cross=None,
    )


def _curves(mass_T: Floats, steps_T: Floats) -> tuple[Floats, Floats | None]:
    """Steps, and masses drawn from the posterior given the series. [T'], [N, T']; no curves when too little was measured."""
    if np.isfinite(mass_T).sum() < LEAST_STEPS:
        return steps_T, None
    at_T, y_T, weight_T = _binned(np.arcsin(np.sqrt(mass_T)), steps_T)
    scale, log_penalty = _least(y_T, weight_T)
    factor = _factor(weight_T, np.exp(log_penalty))
    mean_T = cho_solve_banded((factor, False), weight_T * y_T)
    noise_TN = np.random.default_rng(0).standard_normal((len(y_T), NUM_CURVES))
    drawn_TN = mean_T[:, None] + scale * solve_banded((0, 2), factor, noise_TN)
    return at_T, np.asarray(np.sin(drawn_TN.clip(0, np.pi / 2)) ** 2).T


def _binned(y_T: Floats, steps_T: Floats) -> tuple[Floats, Floats, Floats]:
    """At most MAX_POINTS means over equal stretches, with how much was measured in each; nan weighs nothing."""
    width = -(-len(y_T) // MAX_POINTS)
    starts = np.arange(0, len(y_T), width)
    seen_T = np.isfinite(y_T)
    weight = np.add.reduceat(seen_T.astype(np.float64), starts)
    total = np.add.reduceat(np.where(seen_T, y_T, 0.0), starts)
    at = np.add.reduceat(steps_T, starts) / np.diff(np.append(starts, len(y_T)))
    return at, np.divide(total, weight, out=np.zeros_like(total), where=weight > 0), weight


def _factor(weight_T: Floats, penalty: float) -> Floats:
    """Upper Cholesky factor of W + penalty D'D in banded form, D the second differences."""
    n = len(weight_T)
    band = np.zeros((3, n))
    for i, (row, coefficient) in enumerate(((2, (1, 4, 1)), (1, (-2, -2)), (0, (1,)))):
        for j, c in enumerate(coefficient):
            band[row, i + j : i + j + n - 2] += penalty * c
    band[2] += weight_T
    return np.asarray(cholesky_banded(band))


def _least(y_T: Floats, weight_T: Floats) -> tuple[float, float]:
    """Noise (of weight 1) and log penalty of greatest restricted likelihood."""
    observed, n = int((weight_T > 0).sum()), len(y_T)

    def fit(log_penalty: float) -> tuple[float, float]:
        factor = _factor(weight_T, np.exp(log_penalty))
        mean_T = cho_solve_banded((factor, False), weight_T * y_T)
        variance = max(float((weight_T * y_T * (y_T - mean_T)).sum()) / (observed - 2), 1e-12)
        logdet = 2 * float(np.log(factor[2]).sum())
        return (observed - 2) * np.log(variance) + logdet - (n - 2) * log_penalty, variance

    # From a curve through every point to a straight line.
    found = minimize_scalar(
        lambda x: fit(x)[0], bounds=(-5.0, 4 * np.log(n)), method="bounded", options={"xatol": 0.05}
    )
    return float(np.sqrt(fit(found.x)[1])), float(found.x)


def rises_no_more(high_NT: Floats) -> NDArray[np.bool_]:
    """Whether each curve has risen by LEAST_CHANGE in all, and hardly over the last RECENT of its steps. [N]

    >>> rises_no_more(np.array([[0.5, 0.7, 0.8, 0.9, 0.91], [0.5, 0.6, 0.7, 0.8, 0.9], [0.5, 0.5, 0.5, 0.5, 0.5]])).tolist()
    [True, False, False]
    """
    rise_N = high_NT[:, -1] - high_NT[:, 0]
    late_N = high_NT[:, -1] - high_NT[:, int(high_NT.shape[1] * (1 - RECENT))]
    return np.asarray((rise_N >= LEAST_CHANGE) & (late_N < np.minimum(LEAST_CHANGE, RECENT_SHARE * rise_N)))


# -- what the curves say -----------------------------------------------------------------------------------------------


def _turned(falling_NT: Floats) -> tuple[Floats, float]:
    """Index of each curve's lowest point, and the share of curves that have since risen by LEAST_CHANGE."""
    lowest_N = falling_NT.argmin(1)
    rise_N = falling_NT[:, -1] - falling_NT.min(1)
    return lowest_N, float((rise_N >= LEAST_CHANGE).mean())


def _turn(at_T: Floats, index_N: Floats) -> Turn:
    gap = at_T[1] - at_T[0]  # on either side: what happens between two points is not seen
    low, middle, high = np.quantile(at_T[index_N], (0.025, 0.5, 0.975))
    return Turn(step=float(middle), low=float(low - gap), high=float(high + gap))


def _crossing(at_T: Floats, high_NT: Floats, optimal_NT: Floats) -> Turn | None:
    """From where the optimal mass stays above the other, when nearly all curves end that way."""
    behind_NT = optimal_NT <= high_NT
    ahead_N = optimal_NT[:, -1] - high_NT[:, -1] >= LEAST_CHANGE
    if ahead_N.mean() < CERTAINTY:
        return None
    behind_NT = behind_NT[ahead_N]
    since_N = np.where(behind_NT.any(1), behind_NT.shape[1] - behind_NT[:, ::-1].argmax(1), 0)
    return _turn(at_T, since_N)
