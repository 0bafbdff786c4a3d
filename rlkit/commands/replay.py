"""`rlkit replay`: a skipped update once more, and where its first bad value appears."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit import build
from rlkit.config import TrainConfig
from rlkit.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

    from rlkit.learner import Learner
    from rlkit.learner.dump import Dump
    from rlkit.learner.gradient import Loss
    from rlkit.learner.trace import Place

SHOWN = 12
"""Places that are printed; --json has all of them."""


def replay(folder: Path, cfg: TrainConfig, console: "Console", *, as_json: bool = False) -> int:
    """Exit code 0: repeated; 1: here loss and gradient are finite.

    cfg: the run's, as the dump holds it
    """
    from rlkit.learner import dump
    from rlkit.learner.trace import repeat, trace

    told = dump.read(folder)
    with console.status("loading the model"):
        learner, loss = _opened(folder / dump.MODEL, cfg)
    with console.status("repeating the update"):
        value, norm = repeat(told, learner, loss)
    again = not (math.isfinite(value) and math.isfinite(norm))
    with console.status("looking for the first value that is not finite"):
        places = trace(told, learner, loss)
    if as_json:
        print(json.dumps(_record(told, value, norm, again, places), indent=2))
        return 0 if again else 1
    lines = [
        f"update {told.update}: the loss is {value:g} and the norm of its gradient {norm:g} "
        f"(when it was skipped: {told.loss:g} and {told.grad_norm:g}; {_versions(told)})"
    ]
    if not again:
        lines.append("here both are finite: other versions, another device or another type of numbers?")
    if places:
        lines += [f"the first value that is not finite: {places[0]}", *_whose(told, places[0])]
        lines += [f"then {place}" for place in places[1:SHOWN]]
        if len(places) > SHOWN:
            lines.append(f"and {len(places) - SHOWN} more (--json)")
    elif again:
        lines.append(
            "every rollout alone has a finite loss and gradient: their sum, or the norm of it, overflows float32. Are rewards or "
            "advantages huge?"
        )
    print(printable("\n".join(lines)))
    return 0 if again else 1


def _opened(folder: Path, cfg: TrainConfig) -> "tuple[Learner, Loss]":
    """The learner with the weights of the dump, on this process's device, and the algorithm's loss.

    folder: the dump's model
    """
    from rich.console import Console

    from rlkit.algos.base import Sampling
    from rlkit.learner import ADAPTER, REFERENCE, Learner

    here = replace(cfg.model, name=str(folder), revision=None)
    tokenizer = build.find_tokenizer(build.find_model(here))
    lora, base = cfg.learner.lora_rank > 0, folder
    if lora or (cfg.algo.beta > 0 and not (folder / REFERENCE).is_dir()):  # what the run began with
        base = build.model_folder(
            build.find_model(cfg.model), build.make_task(cfg.data.name), Console(quiet=True)
        )
    reference = None
    if cfg.algo.beta > 0 and not lora:
        moved = folder / REFERENCE
        reference = build.load_model(moved if moved.is_dir() else base, here)
    learner = Learner(
        build.load_model(base if lora else folder, here),
        replace(cfg.learner, compile=False, shard="none", cpu_offload=False),
        cfg.algo,
        learning_rate=cfg.learner.learning_rate or 0.0,
        temperature=cfg.sampler.temperature,
        num_iterations=1,
        pad_id=build.pad_id(tokenizer),
        autocast=build.wants_bfloat16(cfg.model),
        reference=reference,
        adapter=folder / ADAPTER if lora else None,
        seed=cfg.seed,
    )
    sampling = Sampling(
        max_completion_length=cfg.max_completion_length or 0,
        temperature=cfg.sampler.temperature,
        step_ends=build.step_ends(cfg.algo, tokenizer),
    )
    return learner, build.make_algorithm(cfg.algo, sampling).loss


def _whose(told: "Dump", place: "Place") -> list[str]:
    """The rollout that a place is of, in words."""
    row = next((row for row in told.rows if row.index == place.rollout), None)
    if row is None:
        return []
    rollout = row.credit.rollout
    score = (
        "none"
        if rollout.value is None
        else f"{rollout.value:g} ({rollout.score.reason if rollout.score else ''})"
    )
    text = (rollout.text or "").replace("\n", " ")
    return [f"    prompt {rollout.prompt_id}, score {score}, answer {text[:200]!r}"]


def _versions(told: "Dump") -> str:
    return ", ".join(f"{name} {version}" for name, version in told.versions.items())


def _record(
    told: "Dump", value: float, norm: float, again: bool, places: "Sequence[Place]"
) -> dict[str, Any]:
    """Numbers as text: JSON has no nan."""
    return {
        "update": told.update,
        "recorded": {
            "loss": repr(told.loss),
            "grad_norm": repr(told.grad_norm),
            "versions": dict(told.versions),
        },
        "here": {"loss": repr(value), "grad_norm": repr(norm)},
        "repeated": again,
        "places": [asdict(place) | {"value": repr(place.value)} for place in places],
    }
