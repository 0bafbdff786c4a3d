"""Where rlkit and TRL differ on purpose, and by how much on the answers of parity.py (docs/papers.md, section 3.4).

None counts as a failure; benchmarks/parity_trl.py prints them beside what is equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import formula, model, rloo  # isort: skip
from .cases import Case  # isort: skip
from .parity import LENGTHS, REWARDS, Distance, Rewards, distances, trainer  # isort: skip

from rlkit.algo_presets import BnpoConfig, CispoConfig, DapoConfig, GrpoConfig, GspoConfig

GRPO = Case(cfg=GrpoConfig(importance_sampling_correction=False), loss_type="grpo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One of them."""

    name: str
    trl: str
    rlkit: str
    quantity: str
    """Of a loss, a metric: absolute; of a gradient by log-probs: its largest element; through a model: relative."""
    gap: float


@dataclass(frozen=True, slots=True)
class _Both:
    """A case of rlkit's against another of TRL's."""

    folder: Path
    world: model.World

    def formula(
        self,
        ours: Case,
        theirs: Case | None = None,
        *,
        without: Sequence[str] = (),
        rewards: Rewards = REWARDS,
    ) -> dict[str, Distance]:
        theirs = theirs or ours
        tables = formula.Tables(1, 1.0, rewards)
        made = trainer(formula.Given, theirs, self.folder)
        mine, other = formula.ours(ours, tables), formula.theirs(theirs, tables, made, without=without)
        # An answer that leaves its group has no advantage to compare.
        advantages = other.advantages if len(mine.advantages) < len(other.advantages) else mine.advantages
        return distances(replace(mine, advantages=advantages), other, relative=False)

    def model(self, case: Case, *, skip_idle: bool = False) -> dict[str, Distance]:
        """Under the moved weights."""
        mine = model.ours(case, self.world, "shared", skip_idle=skip_idle)[1]
        return distances(mine, model.theirs(case, self.world)[1], relative=True)


def find(folder: Path, world: model.World) -> list[Difference]:
    """All of them."""
    both = _Both(folder, world)

    def cfg(case: Case, **changes: Any) -> Case:
        return replace(case, cfg=replace(case.cfg, **changes))

    two = replace(GRPO, micro_batches=2)
    by_answer = Case(
        cfg=GspoConfig(importance_sampling_correction=False, mask_truncated_completions=True),
        loss_type="grpo",
    )
    cispo = Case(cfg=CispoConfig(epsilon_high=0.5, importance_sampling_correction=False), loss_type="cispo")
    bnpo = Case(cfg=BnpoConfig(importance_sampling_correction=False), loss_type="bnpo", micro_batches=2)
    dapo = Case(cfg=DapoConfig(overlong_buffer=0.5, importance_sampling_correction=False), loss_type="dapo")
    masked = cfg(
        GRPO,
        importance_sampling_correction=True,
        importance_sampling_mode="token_mask",
        importance_sampling_clip_max=1.2,
    )
    by_sequence = cfg(masked, importance_sampling_mode="sequence_truncate")
    unjudged = (*REWARDS[:-1], (None, *REWARDS[-1][1:]))
    equal = ((0.6,) * len(LENGTHS[0]), *REWARDS[1:])
    equal_world = model.make_world(folder, equal)
    a_side = model.ours(GRPO, equal_world, "padded")[0]
    equal_gap = distances(a_side, model.theirs(GRPO, equal_world)[0], relative=True)
    off_policy = cfg(GRPO, off_policy_mask_threshold=0.085)
    top = cfg(GRPO, top_entropy_quantile=0.3)
    kl_in_reward = cfg(rloo.PLAIN, beta=0.05)

    rows: list[tuple[str, str, str, str, dict[str, Distance]]] = [
        ("default loss", "dapo", "grpo", "loss", both.formula(GRPO, replace(GRPO, loss_type="dapo"))),
        ("bnpo", "mean over a micro-batch", "over the mini-batch", "loss", both.formula(bnpo)),
        (
            "dapo, two updates",
            "tokens of the generation / updates",
            "tokens of each mini-batch",
            "loss",
            both.formula(replace(dapo, micro_batches=2, updates=2)),
        ),
        (
            "cispo, epsilon_high 0.5",
            "a cap of 0.5",
            "a cap of 1.5",
            "loss",
            both.formula(cispo, replace(cispo, overrides={"epsilon_high": 0.5})),
        ),
        (
            "cispo, epsilon 0.2",
            "no lower clip",
            "not below 0.8",
            "loss",
            both.formula(cfg(cispo, epsilon=0.2), cispo),
        ),
        (
            "top_entropy_quantile",
            "quantile of a micro-batch",
            "of the mini-batch",
            "loss",
            both.formula(replace(top, micro_batches=2)),
        ),
        (
            "top_entropy_quantile, moved weights",
            "entropies of the present weights",
            "of the step's first",
            "loss",
            both.model(top),
        ),
        (
            "entropy_coef, two micro-batches",
            "mean of the parts' means",
            "mean over the mini-batch",
            "loss",
            both.formula(cfg(two, entropy_coef=0.01)),
        ),
        (
            "group of equal rewards, 0.6",
            "float32's rounding / 1e-4",
            "exactly 0",
            "advantages",
            equal_gap,
        ),
        (
            "an answer that cannot be judged",
            "stays, with advantage 0",
            "leaves its group",
            "loss",
            both.formula(GRPO, rewards=unjudged),
        ),
        (
            "importance correction",
            "with vLLM alone",
            "with every sampler",
            "loss",
            both.formula(cfg(GRPO, importance_sampling_correction=True), GRPO),
        ),
        (
            "off_policy_mask_threshold",
            "without vLLM: of the old log-probs",
            "of the sampler's",
            "loss",
            both.formula(off_policy, without=["sampling_per_token_logps"]),
        ),
        (
            "clip_ratio, equal rewards, skip_idle",
            "in the count",
            "not in it: never read",
            "clip_ratio/region_mean",
            both.model(GRPO, skip_idle=True),
        ),
        (
            "clip_ratio, sequence, truncated masked",
            "in the count",
            "not in it",
            "clip_ratio/region_mean",
            both.formula(by_answer),
        ),
        (
            "clip_ratio, *_mask correction",
            "dropped tokens can be clipped",
            "have no advantage left",
            "clip_ratio/region_mean",
            both.formula(masked),
        ),
        (
            "importance ratio, sequence_*",
            "mean over answers",
            "over tokens",
            "sampling/importance_sampling_ratio/mean",
            both.model(by_sequence),
        ),
        (
            "rloo, every ratio 1",
            "-A r of whole answers",
            "-A log pi (the gradient is the same)",
            "loss",
            rloo.at_formula_level(rloo.PLAIN, folder),
        ),
        (
            "rloo, second update",
            "ratio, clipped",
            "no ratio",
            "gradient",
            rloo.at_formula_level(rloo.PLAIN, folder, spread=0.3),
        ),
        (
            "rloo, beta",
            "KL in the reward",
            "in the loss",
            "advantages",
            rloo.at_formula_level(kl_in_reward, folder),
        ),
    ]
    return [
        Difference(name=name, trl=trl, rlkit=mine, quantity=quantity, gap=found[quantity].gap)
        for name, trl, mine, quantity, found in rows
    ]
