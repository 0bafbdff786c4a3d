"""How well the stage detector reads noisy runs whose turning points are known.

    python benchmarks/stage_detector.py                    200 random settings that turn and 100 that do not, about ten minutes
    python benchmarks/stage_detector.py --settings 20      a look; --json adds one JSON object as the last line

A setting is a bandit (rewards, first probabilities), an algorithm and a batch. In every step each role is counted among
`prompts` x `group size` samples; the detector sees those counts alone. Two kinds of run:

    expected    the policy takes expected updates; the truth is that curve's
    sampled     every prompt is a bandit of its own with sampled groups, and the curve is their mean. The truth is the run's own
                curve, without the counting noise; and, second, that of 500 such runs: what one could know beforehand
"""

import json
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from rlkit.algo_config import FamilyConfig
from rlkit.algo_presets import GrpoConfig, GrpoNConfig
from rlkit.analysis.bandit import (
    Bandit,
    Floats,
    TurningPoints,
    mass,
    simulate_expected,
    simulate_sampled,
    turning_points,
)
from rlkit.analysis.stages import LEAST_CHANGE, LEAST_STEPS, Detection, Turn, detect, follow, rises_no_more

STEPS = 600
FORESEEN_RUNS = 500
POINTS = ("t_min2", "t_max1", "t_cross")


@dataclass(frozen=True)
class StageDetector:
    """Error, interval coverage, false alarms and delay of the stage detector."""

    settings: int = 200
    """Random settings whose expected run turns, and half as many whose does not; each is run once in either kind."""
    seed: int = 0
    """Of the settings and of all samples."""
    every: int = 20
    """Steps between two looks of the detector that knows the past only."""
    json: bool = False
    """Print one JSON object as the last line."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    bandit: Bandit
    algo: FamilyConfig
    rate: float
    prompts: int
    seed: int

    @property
    def samples(self) -> int:
        return self.prompts * self.algo.num_generations


@dataclass(frozen=True, kw_only=True)
class Truth:
    turns: TurningPoints
    drop: float
    """How far the high-reward mass ends below its peak."""
    rise: float
    """How far the best action's mass ends above its least."""
    visible_from: int | None
    """The first step at which the high-reward mass has fallen by LEAST_CHANGE from the peak."""
    saturated_from: int | None
    """The first step at which it has risen, and hardly in the last quarter of the steps so far (`rises_no_more`)."""

    def has(self, point: str) -> bool:
        """Whether the run holds this turn, with a change that the detector is to call one."""
        change = {"t_max1": self.drop, "t_min2": self.rise, "t_cross": 1.0}[point]
        return getattr(self.turns, point) is not None and change >= LEAST_CHANGE


def draw(rng: np.random.Generator) -> Setting:
    """Rewards, probabilities, algorithm and batch.

    One in eight has equal best rewards, and so no second stage; one in four is GRPO-N, which rarely leaves the first.
    """
    high = 1.0 if rng.integers(8) == 0 else rng.uniform(0.5, 0.9)
    best = _log_uniform(rng, 0.005, 0.08)
    first = (1 - best) * rng.uniform(0.3, 0.7)
    normalised = bool(rng.integers(2))
    algo = replace(
        GrpoNConfig() if rng.integers(4) == 0 else GrpoConfig(),
        num_generations=int(rng.choice([4, 8, 16])),
        scale_rewards="group" if normalised else "none",
        scale_std="population",
        std_eps=0.0,
    )
    return Setting(
        bandit=Bandit((high, 1.0, rng.uniform(0, high - 0.3)), (first, best, 1 - best - first)),
        algo=algo,
        rate=_log_uniform(rng, 0.02, 0.2) * (1 if normalised else 4),
        prompts=int(rng.choice([8, 32, 128])),
        seed=int(rng.integers(2**31)),
    )


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def truth_of(probs_TA: Floats) -> Truth:
    high_T, best_T = probs_TA[:, 0], probs_TA[:, 1]
    fallen = np.flatnonzero(np.maximum.accumulate(high_T) - high_T >= LEAST_CHANGE)
    known = range(LEAST_STEPS, len(high_T) + 1)
    flat = next((k for k in known if rises_no_more(high_T[None, :k])[0]), None)
    return Truth(
        turns=turning_points(high_T, best_T),
        drop=float(high_T.max() - high_T[-1]),
        rise=float(best_T[-1] - best_T.min()),
        visible_from=int(fallen[0]) if len(fallen) else None,
        saturated_from=None if flat is None else flat - 1,
    )


def expected_run(setting: Setting, rng: np.random.Generator) -> tuple[Floats, dict[str, Truth]]:
    probs_TA = simulate_expected(setting.bandit, setting.algo, steps=STEPS, rate=setting.rate)
    return rng.multinomial(setting.samples, probs_TA) / setting.samples, {"the run's": truth_of(probs_TA)}


def sampled_run(setting: Setting, rng: np.random.Generator) -> tuple[Floats, dict[str, Truth]]:
    def simulated(runs: int, seed: int) -> Floats:
        return simulate_sampled(
            setting.bandit, setting.algo, steps=STEPS, rate=setting.rate, runs=runs, seed=seed
        )

    own_STA = simulated(setting.prompts, setting.seed)
    counts_TA = rng.multinomial(setting.algo.num_generations, own_STA).sum(0)
    truths = {
        "the run's": truth_of(own_STA.mean(0)),
        "foreseen": truth_of(simulated(FORESEEN_RUNS, setting.seed + 1).mean(0)),
    }
    return counts_TA / setting.samples, truths


def chosen(rng: np.random.Generator, number: int) -> list[Setting]:
    """So many settings that turn in expectation, and half as many that do not."""
    wanted, out = {True: number, False: number // 2}, []
    while any(wanted.values()):
        setting = draw(rng)
        turns = truth_of(simulate_expected(setting.bandit, setting.algo, steps=STEPS, rate=setting.rate)).has(
            "t_max1"
        )
        if wanted[turns]:
            wanted[turns] -= 1
            out.append(setting)
    return out


Run = Callable[[Setting, np.random.Generator], tuple[Floats, dict[str, Truth]]]
RUNS: dict[str, Run] = {"expected": expected_run, "sampled": sampled_run}


@dataclass(frozen=True, kw_only=True)
class Judged:
    truths: dict[str, Truth]
    found: Detection
    alarm: int | None
    """The first step at which the past alone said that the mass has fallen from its peak; None: never."""
    saturated: int | None
    """The first at which it said that the mass rises no more, or has fallen."""


def judge(args: StageDetector, setting: Setting, run: Run) -> Judged:
    shares_TA, truths = run(setting, np.random.default_rng(setting.seed))
    high_T, best_T = mass(shares_TA, (0,)), mass(shares_TA, (1,))
    looks = follow(high_T, every=args.every)
    return Judged(
        truths=truths,
        found=detect(high_T, best_T),
        alarm=_first(looks, ("exploration",)),
        saturated=_first(looks, ("saturated", "exploration")),
    )


def _first(looks: Sequence[Detection], stages: Sequence[str]) -> int | None:
    return next((int(look.last_step) for look in looks if look.stage in stages), None)


# -- what it comes to --------------------------------------------------------------------------------------------------


def offline(judged: Sequence[Judged], truth: str, point: str) -> dict[str, float]:
    """Of one turning point, the whole run known: found, false, error and coverage."""
    there = [j for j in judged if j.truths[truth].has(point)]
    absent = [j for j in judged if not j.truths[truth].has(point)]
    pairs: list[tuple[Turn, int]] = [
        (turn, getattr(j.truths[truth].turns, point)) for j in there if (turn := getattr(j.found, point))
    ]
    errors = [abs(turn.step - true) for turn, true in pairs]
    return {
        "runs_with": len(there),
        "found": len(pairs) / len(there) if there else 0.0,
        "runs_without": len(absent),
        "false": sum(getattr(j.found, point) is not None for j in absent) / len(absent) if absent else 0.0,
        "median_error": statistics.median(errors),
        "p90_error": float(np.quantile(errors, 0.9)),
        "median_relative": statistics.median(
            e / max(true, 1) for e, (_, true) in zip(errors, pairs, strict=True)
        ),
        "coverage": statistics.fmean(turn.low <= true <= turn.high for turn, true in pairs),
        "median_width": statistics.median(turn.high - turn.low for turn, _ in pairs),
    }


def online(judged: Sequence[Judged]) -> dict[str, float]:
    """Of the end of exploitation, the past alone known."""
    own = [(j.alarm, j.truths["the run's"]) for j in judged]
    turning = [(alarm, t) for alarm, t in own if t.has("t_max1")]
    staying = [alarm for alarm, t in own if not t.has("t_max1")]
    delays = [
        alarm - t.turns.t_max1 for alarm, t in turning if alarm is not None and alarm >= (t.turns.t_max1 or 0)
    ]
    visible = [alarm - (t.visible_from or 0) for alarm, t in turning if alarm is not None and t.visible_from]
    flat = [
        (j.saturated, t.saturated_from)
        for j in judged
        if (t := j.truths["the run's"]).saturated_from is not None
    ]
    late = [found - true for found, true in flat if found is not None and true is not None]
    return {
        "too_early": sum(a is not None and a < (t.turns.t_max1 or 0) for a, t in turning) / len(turning),
        "false_without": sum(a is not None for a in staying) / len(staying) if staying else 0.0,
        "never": sum(a is None for a, _ in turning) / len(turning),
        "median_delay": statistics.median(delays),
        "median_delay_since_visible": statistics.median(visible),
        "saturating": len(flat),
        "saturation_found": len(late) / len(flat),
        "saturation_delay": statistics.median(late),
        "saturation_delay_p5": float(np.quantile(late, 0.05)),
        "saturation_delay_p95": float(np.quantile(late, 0.95)),
        "saturation_too_early": statistics.fmean(x < 0 for x in late),
    }


def main(args: StageDetector) -> None:
    if args.settings < 10:
        raise SystemExit(
            f"--settings {args.settings}: expected at least 10, or there are no shares to speak of"
        )
    rng = np.random.default_rng(args.seed)
    settings = chosen(rng, args.settings)
    console = Console(stderr=True)
    judged = {
        kind: [judge(args, s, run) for s in track(settings, description=kind, console=console)]
        for kind, run in RUNS.items()
    }
    rows = [
        {"runs": kind, "truth": truth, "point": point, **offline(runs, truth, point)}
        for kind, runs in judged.items()
        for truth in runs[0].truths
        for point in POINTS
    ]
    alarms = {kind: online(runs) for kind, runs in judged.items()}
    _print(args, rows, alarms)
    if args.json:
        print(
            json.dumps(
                {"benchmark": "stage_detector", "settings": args.settings, "rows": rows, "online": alarms}
            )
        )


def _print(args: StageDetector, rows: Sequence[dict[str, Any]], alarms: dict[str, dict[str, float]]) -> None:
    console = Console(width=120)
    table = Table(title=f"the whole run known: {args.settings + args.settings // 2} settings, {STEPS} steps")
    for column in (
        "runs",
        "truth",
        "point",
        "with",
        "found",
        "without",
        "false",
        "median error",
        "90 %",
        "coverage",
        "width",
    ):
        table.add_column(column)
    for row in rows:
        table.add_row(
            *(row[k] for k in ("runs", "truth", "point")),
            str(row["runs_with"]),
            f"{row['found']:.0%}",
            str(row["runs_without"]),
            f"{row['false']:.0%}",
            f"{row['median_error']:.1f} ({row['median_relative']:.0%})",
            f"{row['p90_error']:.0f}",
            f"{row['coverage']:.0%}",
            f"{row['median_width']:.0f}",
        )
    console.print(table)
    table = Table(title=f"the past alone known, a look every {args.every} steps: has exploitation ended?")
    for column in (
        "runs",
        "too early",
        "alarm without a turn",
        "never",
        "median delay",
        "since the fall can be seen",
    ):
        table.add_column(column)
    for kind, numbers in alarms.items():
        table.add_row(
            kind,
            *(f"{numbers[k]:.0%}" for k in ("too_early", "false_without", "never")),
            *(f"{numbers[k]:.0f} steps" for k in ("median_delay", "median_delay_since_visible")),
        )
    console.print(table)
    table = Table(title="the same, for `saturated`: does the high-reward mass rise no more?")
    for column in ("runs", "with", "found", "too early", "delay, median [5 % .. 95 %]"):
        table.add_column(column)
    for kind, numbers in alarms.items():
        span = f"{numbers['saturation_delay_p5']:.0f} .. {numbers['saturation_delay_p95']:.0f}"
        table.add_row(
            kind,
            str(numbers["saturating"]),
            f"{numbers['saturation_found']:.0%}",
            f"{numbers['saturation_too_early']:.0%}",
            f"{numbers['saturation_delay']:.0f} [{span}] steps",
        )
    console.print(table)
    print(
        f"errors and widths in steps, intervals are 95 %; a turn is to be found when its mass has moved by {LEAST_CHANGE}; "
        f"python {platform.python_version()}, numpy {np.__version__}"
    )


if __name__ == "__main__":
    main(tyro.cli(StageDetector))
