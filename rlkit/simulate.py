"""`rlkit simulate`: a softmax bandit under algorithms of GRPO's family, as tables, JSON or a page."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rlkit import build
from rlkit.algo_config import FamilyConfig
from rlkit.analysis.bandit import (
    Bandit,
    Floats,
    TurningPoints,
    entropy,
    mass,
    pass_at_k,
    simulate_expected,
    simulate_sampled,
    turning_points,
)
from rlkit.errors import ConfigError
from rlkit.simulate_config import SimulateConfig

MAX_COLUMNS = 6
"""Actions printed one by one; more are summed by role."""
BAR_AFTER_SECONDS = 2.0
LEAST_CHANGE = 0.02
"""Probability that a sampled run must have moved after a turn for it to be one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """One algorithm's runs. S is 1 for expected updates."""

    algo: str
    probs_STA: Floats
    turns: list[TurningPoints]
    """One per run."""


def simulate(cfg: SimulateConfig, console: Console) -> int:
    """Run, then print and draw what was asked for. Raises ConfigError before anything runs."""
    bandit = Bandit(cfg.reward_numbers, cfg.p0_numbers)
    configs = {name: _family(name, cfg) for name in cfg.algos}
    if cfg.figure is not None:
        from rlkit.analysis import figures

        figures.require_place(cfg.figure)
    runs = [_run(name, algo, bandit, cfg, console) for name, algo in configs.items()]
    if cfg.json:
        print(json.dumps(_record(cfg, bandit, runs)))
    else:
        _print_tables(cfg, bandit, runs)
    if cfg.figure is not None:
        title = f"rewards {cfg.rewards}; {_how(cfg, 'median and 5 % to 95 %')}"
        curves = [figures.Curves(r.algo, r.probs_STA, r.turns) for r in runs]
        figures.write(figures.simulated(curves, bandit.roles, cfg.ks, title), cfg.figure)
        console.print(f"figure: {cfg.figure}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _family(name: str, cfg: SimulateConfig) -> FamilyConfig:
    """The algorithm's own choices, with those that the flags change. Raises ConfigError."""
    algo = build.algo_config(name)
    if not isinstance(algo, FamilyConfig):
        raise ConfigError(
            f"--algo {name}: not of GRPO's family, so there is no bandit of it; expected one that `rlkit algos` lists with signs, "
            "as grpo, grpo_n, nsr or w_reinforce"
        )
    changes: dict[str, Any] = {"scale_std": cfg.std, "std_eps": cfg.std_eps}
    if algo.num_generations > 1 or algo.baseline in ("group", "leave_one_out"):
        changes["num_generations"] = cfg.group_size
    if cfg.normalize != "own":
        changes["scale_rewards"] = cfg.normalize
    if cfg.positive_weight is not None:
        changes["positive_weight"] = cfg.positive_weight
    return replace(algo, **changes)


def _run(name: str, algo: FamilyConfig, bandit: Bandit, cfg: SimulateConfig, console: Console) -> Simulated:
    with _bar(f"{name}, {cfg.steps:,} steps", cfg.steps, console) as tick:
        if cfg.sampled:
            probs_STA = simulate_sampled(
                bandit,
                algo,
                steps=cfg.steps,
                rate=cfg.learning_rate,
                runs=cfg.seeds,
                seed=cfg.seed,
                groups=cfg.groups,
                on_step=tick,
            )
        else:
            probs_STA = simulate_expected(
                bandit, algo, steps=cfg.steps, rate=cfg.learning_rate, on_step=tick
            )[None]
    high_ST, optimal_ST = mass(probs_STA, bandit.roles.high), mass(probs_STA, bandit.roles.optimal)
    if bandit.roles.high:
        least = LEAST_CHANGE if cfg.sampled else 0.0
        turns = [turning_points(h, o, least) for h, o in zip(high_ST, optimal_ST, strict=True)]
    else:
        turns = [TurningPoints(t_min2=None, t_max1=None, t_cross=None)] * len(probs_STA)
    return Simulated(algo=name, probs_STA=probs_STA, turns=turns)


@contextmanager
def _bar(words: str, steps: int, console: Console) -> Iterator[Callable[[int], None]]:
    """A progress bar for what takes more than two seconds, and only then."""
    began, bar = time.perf_counter(), Progress(console=console, transient=True)
    task = bar.add_task(words, total=steps)

    def tick(step: int) -> None:
        if time.perf_counter() - began > BAR_AFTER_SECONDS:
            bar.start()
            bar.update(task, completed=step)

    try:
        yield tick
    finally:
        bar.stop()


# -- what is told ------------------------------------------------------------------------------------------------------


def _how(cfg: SimulateConfig, of_runs: str = "mean") -> str:
    if not cfg.sampled:
        return f"expected updates, learning rate {cfg.learning_rate:g}"
    groups = f"{cfg.groups} groups" if cfg.groups > 1 else "a group"
    return f"{groups} of {cfg.group_size} per update, {of_runs} of {cfg.seeds} runs, learning rate {cfg.learning_rate:g}"


def _columns(bandit: Bandit) -> dict[str, tuple[int, ...]]:
    """What is printed of a policy: each action, or with many of them each role."""
    roles = {
        f"{name} r={_span([bandit.rewards[a] for a in actions])}": actions
        for name, actions in asdict(bandit.roles).items()
        if actions
    }
    if len(bandit.rewards) > MAX_COLUMNS:
        return roles
    named = {a: name for name, actions in asdict(bandit.roles).items() for a in actions}
    return {f"p{a + 1} r={r:g} {named[a]}": (a,) for a, r in enumerate(bandit.rewards)}


def _span(numbers: list[float]) -> str:
    least, most = min(numbers), max(numbers)
    return f"{least:g}" if least == most else f"{least:g}..{most:g}"


def _print_tables(cfg: SimulateConfig, bandit: Bandit, runs: list[Simulated]) -> None:
    console = Console(width=None if Console().is_terminal else 120)
    for run in runs:
        table = Table(
            title=f"{run.algo}: {_how(cfg)}",
            title_justify="left",
            box=None,
            pad_edge=False,
            padding=(0, 2, 0, 0),
        )
        columns = _columns(bandit)
        for column in ("step", *columns, "entropy", *(f"pass@{k}" for k in cfg.ks)):
            table.add_column(column, justify="right")
        for step in cfg.printed_steps:
            probs_SA = run.probs_STA[:, step]
            right_S = mass(probs_SA, bandit.roles.optimal)
            numbers = [
                *(mass(probs_SA, actions).mean() for actions in columns.values()),
                entropy(probs_SA).mean(),
                *(pass_at_k(right_S, k).mean() for k in cfg.ks),
            ]
            table.add_row(f"{step:,}", *(f"{x:.3f}" for x in numbers))
        with console.capture() as shown:
            console.print(table, highlight=False)
        print("\n".join(line.rstrip() for line in shown.get().splitlines()))
        print(_stages(cfg, bandit, run), end="\n\n")
    print("entropy in nats; pass@k: one of k samples is a best action; docs/dynamics.md explains the stages")


def _stages(cfg: SimulateConfig, bandit: Bandit, run: Simulated) -> str:
    """The turning points of one algorithm, in words."""
    if not bandit.roles.high:
        return "no stages: no action is better than the first policy's mean without being the best, so there is nothing to exploit"
    if cfg.sampled:
        told = [_spread(run, name) for name in ("t_min2", "t_max1", "t_cross")]
        return "over the runs, median [5 % .. 95 %]: " + "; ".join(told)
    turn, optimal = run.turns[0], mass(run.probs_STA[0], bandit.roles.optimal)
    told = ["exploitation has not ended", "the best action still loses", "it is not ahead"]
    if turn.t_max1 is not None:
        told[0] = f"exploitation until step {turn.t_max1:,} (t_max1), then exploration"
    if turn.t_min2 is not None:
        told[1] = (
            f"the best action is rarest at step {turn.t_min2:,} (t_min2), with {optimal[turn.t_min2]:.4f}"
        )
    if turn.t_cross is not None:
        told[2] = f"it is ahead for good from step {turn.t_cross:,} (t_cross)"
    return f"by step {cfg.steps:,}: {'; '.join(told)}"


def _spread(run: Simulated, name: str) -> str:
    found = [value for turn in run.turns if (value := getattr(turn, name)) is not None]
    if not found:
        return f"{name} in none"
    low, middle, high = (round(float(x)) for x in np.quantile(found, (0.05, 0.5, 0.95)))
    share = "" if len(found) == len(run.turns) else f", in {len(found)} of {len(run.turns)} runs"
    return f"{name} {middle:,} [{low:,} .. {high:,}]{share}"


def _record(cfg: SimulateConfig, bandit: Bandit, runs: list[Simulated]) -> dict[str, Any]:
    """What --json prints: means over the runs at the printed steps, and every run's turning points."""
    steps = list(cfg.printed_steps)
    return {
        "rewards": bandit.rewards,
        "p0": bandit.p0,
        "roles": asdict(bandit.roles),
        "updates": "sampled" if cfg.sampled else "expected",
        "learning_rate": cfg.learning_rate,
        "steps": steps,
        "runs": [
            {
                "algo": run.algo,
                "probabilities": run.probs_STA[:, steps].mean(0).tolist(),
                "entropy": entropy(run.probs_STA[:, steps]).mean(0).tolist(),
                "pass_at_k": {
                    k: pass_at_k(mass(run.probs_STA[:, steps], bandit.roles.optimal), k).mean(0).tolist()
                    for k in cfg.ks
                },
                "turning_points": [asdict(turn) for turn in run.turns],
            }
            for run in runs
        ],
    }
