"""RLOO: rlkit's plain REINFORCE beside TRL's RLOOTrainer, where the two mean the same.

That is in the advantages, and in the gradient while every ratio is 1. TRL's loss is a clipped ratio of whole answers,
rlkit's the paper's A log pi: rows of differences.py.
"""

from dataclasses import replace
from pathlib import Path

from . import formula, model  # isort: skip
from .cases import Case  # isort: skip
from .parity import Distance, Fed, Side, distances, trainer  # isort: skip

from rlkit.algo_presets import RlooConfig

PLAIN = Case(cfg=RlooConfig(importance_sampling_correction=False), loss_type="RLOOTrainer")
CASES = (
    PLAIN,
    replace(
        PLAIN,
        option="scale_rewards batch_advantages",  # TRL: normalize_advantages
        cfg=replace(PLAIN.cfg, scale_rewards="batch_advantages"),
    ),
    replace(
        PLAIN,
        option="mask_truncated_completions",
        cfg=replace(PLAIN.cfg, mask_truncated_completions=True),
    ),
)


def at_formula_level(case: Case, folder: Path, spread: float = 0.0) -> dict[str, Distance]:
    """What is the same; with a spread, and in the loss, what is not."""
    tables = formula.Tables(0, spread)
    theirs = formula.theirs(case, tables, trainer(formula.GivenRloo, case, folder))
    return _distances(formula.ours(case, tables), theirs, relative=False)


def at_model_level(case: Case, world: model.World) -> list[dict[str, Distance]]:
    """The same through a model, for each layout."""
    theirs = model.theirs(case, world, Fed)[0]
    return [_distances(model.ours(case, world, layout)[0], theirs, relative=True) for layout in model.LAYOUTS]


def _distances(ours: Side, theirs: Side, *, relative: bool) -> dict[str, Distance]:
    return distances(replace(ours, metrics={}), replace(theirs, metrics={}), relative=relative)
