"""Model level: the same model and the same answers through TRL's GRPOTrainer and through rlkit's Learner.

Nothing is replaced on either side. Loss and gradient are taken twice: under the weights that the step began with, where
every ratio is 1, and under moved ones, where ratios are clipped and the KL to the reference is not 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .cases import Case  # isort: skip
from .parity import ANSWERS, LONGEST, REWARDS, TEMPERATURE, Distance, Rewards, Side  # isort: skip
from .parity import collected, distances, groups, load_model, told, trainer  # isort: skip
from .updates import PAD_ID  # isort: skip

import torch
from torch import Tensor, nn
from trl import GRPOTrainer

from rlkit.algos.base import Sampling
from rlkit.batch import Batch, TokenStats
from rlkit.build import make_algorithm
from rlkit.config import LearnerConfig
from rlkit.feed import Layout
from rlkit.learner import Learner
from rlkit.metrics import Metrics
from rlkit.types import Group, Rollout

LAYOUTS: tuple[Layout, ...] = ("padded", "packed", "shared")
MOVED = 0.06
"""Standard deviation of what is added to the weights: log-ratios of some tenths."""
NOISE = 0.1
"""Standard deviation of what tells the sampler's log-probs from the learner's, nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What both sides read."""

    folder: Path
    """The model at the step's start, which is the reference too."""
    moved: Mapping[str, Tensor]
    """The weights after it."""
    groups: list[Group]

    @property
    def rollouts(self) -> list[Rollout]:
        return [r for group in self.groups for r in group.rollouts]


@torch.no_grad()
def make_world(folder: Path, rewards: Rewards = REWARDS) -> World:
    """The answers of `groups`, as if the model in `folder` had sampled them with a little noise."""
    generator = torch.Generator().manual_seed(0)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    model = load_model(folder)
    known = []
    for rollout in (r for group in groups([[0.0] * LONGEST] * ANSWERS) for r in group.rollouts):
        ids_T = torch.tensor(rollout.token_ids)
        logits_TV = model(ids_T[None]).logits[0, :-1] / TEMPERATURE
        logp_T = logits_TV.log_softmax(-1).gather(-1, ids_T[1:, None])[rollout.prompt_tokens - 1 :, 0]
        known.append((logp_T + NOISE * noise(logp_T)).tolist())
    for p in model.parameters():
        p.add_(MOVED * noise(p))
    return World(folder=folder, moved=model.state_dict(), groups=groups(known, rewards))


def theirs(case: Case, world: World, kind: type[Any] = GRPOTrainer) -> list[Side]:
    """TRL's loss and gradient at the start and after the move; metrics of both together, with the second."""
    made = trainer(kind, case, world.folder)
    inputs = collected(made, world.rollouts)
    losses, gradients = [], []
    for weights in (made.model.state_dict(), world.moved):
        made.model.load_state_dict(weights)
        made.model.zero_grad()
        loss = made._compute_loss(made.model, inputs)
        loss.backward()
        losses.append(loss.item())
        gradients.append(_gradient(made.model))
    metrics = {**told(made), "grad_norm": sum(float(g.norm()) for g in gradients) / 2}
    return _sides(inputs["advantages"].tolist(), losses, gradients, metrics)


def ours(case: Case, world: World, layout: Layout, *, skip_idle: bool = False) -> list[Side]:
    """rlkit's: one call of Learner.update with two passes, at a learning rate of 0; the weights move between them."""
    algo = make_algorithm(case.cfg, Sampling(max_completion_length=LONGEST, temperature=TEMPERATURE))
    model = load_model(world.folder)
    learner = Learner(
        model,
        LearnerConfig(
            packing=layout != "padded",
            share_prefixes=layout == "shared",
            skip_idle=skip_idle,
            micro_batch_tokens=10**6,
            max_grad_norm=1e9,
        ),
        case.cfg,
        learning_rate=0.0,
        temperature=TEMPERATURE,
        num_iterations=2,
        pad_id=PAD_ID,
        reference=load_model(world.folder) if case.cfg.beta else None,
    )
    if learner.layout != layout:
        raise RuntimeError(f"asked for the layout {layout}, got {learner.layout}: {learner.why_padded}")
    losses: list[float] = []
    gradients: list[Tensor] = []

    def loss(batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        value, metrics = algo.loss(batch, out)
        losses.append(value.item())
        return value, metrics

    optimizer: torch.optim.Optimizer = getattr(learner.optimizer, "optimizer", learner.optimizer)
    optimizer.register_step_pre_hook(lambda *_: gradients.append(_gradient(model)))
    optimizer.register_step_post_hook(lambda *_: model.load_state_dict(world.moved) and None)
    credits = algo.credit(world.groups, [])
    metrics = dict(learner.update(learner.minibatches(credits, 1), loss).metrics)
    for own in ("learning_rate", "loss", "skipped_updates", "out_of_memory"):
        del metrics[own]
    if not case.cfg.importance_sampling_correction:  # TRL looks at the sampler only to correct for it
        metrics = {name: value for name, value in metrics.items() if not name.startswith("sampling/")}
    return _sides([c.advantages[0] for c in credits], losses, gradients, metrics)


def compare(case: Case, world: World) -> list[dict[str, Distance]]:
    """Each layout and each of the two weights; and idle answers left out, which may change neither loss nor gradient."""
    expected = theirs(case, world)
    out = []
    for layout in LAYOUTS:
        for mine, other in zip(ours(case, world, layout), expected, strict=True):
            # The tokens of high entropy are those of the step's first weights: after the move they are others than TRL's.
            if mine.metrics and case.cfg.top_entropy_quantile < 1:
                continue
            out.append(distances(mine, other, relative=True, apart=case.apart))
    for mine, other in zip(ours(case, world, "shared", skip_idle=True), expected, strict=True):
        bare = replace(mine, metrics={}), replace(other, metrics={})
        if not (mine.metrics and case.cfg.top_entropy_quantile < 1):
            out.append(distances(*bare, relative=True))
    return out


def _sides(
    advantages: list[float], losses: list[float], gradients: list[Tensor], metrics: dict[str, float]
) -> list[Side]:
    return [
        Side(advantages=advantages, loss=loss, gradient=gradient, metrics=told)
        for loss, gradient, told in zip(losses, gradients, ({}, metrics), strict=True)
    ]


def _gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])
