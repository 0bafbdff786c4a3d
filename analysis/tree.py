"""Answers of a few tokens as a tree, small enough to count: what an algorithm does to each token, without sampling noise.

Every prefix is a softmax decision of its own (analysis/bandit.py); every answer, a leaf, has a reward. An algorithm gives each
token of each answer an advantage A(l, t), and the expected update of the logits at prefix n is, exactly,

    dz[n, v] = eta sum over answers l through (n, v) of P(l) w_t A(l, t)  -  pi[n, v] times the same sum over all v

Axes: N prefixes (inner nodes, shortest first), B tokens, D depth (position), L answers (leaves, in the order of their tokens).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rlkit.algo_config import FamilyConfig
from rlkit.errors import ConfigError, require

from .bandit import Floats, expected_advantages, softmax

MAX_LEAVES = 1_000_000


@dataclass(frozen=True, eq=False)
class Tree:
    """Every answer of `depth` tokens over `branching` choices, and what each pays.

    >>> tree = Tree(2, 2, np.array([1.0, 0.0, 0.0, 0.8]))
    >>> tree.node_LD.tolist(), tree.token_LD.tolist()
    ([[0, 1], [0, 1], [0, 2], [0, 2]], [[0, 0], [0, 1], [1, 0], [1, 1]])
    """

    branching: int
    depth: int
    rewards_L: Floats

    def __post_init__(self) -> None:
        require(self.branching >= 2, "branching", self.branching, "at least 2 tokens to choose from")
        require(self.depth >= 1, "depth", self.depth, "at least 1 token")
        leaves = self.branching**self.depth
        require(leaves <= MAX_LEAVES, "branching ** depth", leaves, f"at most {MAX_LEAVES:,} answers")
        if self.rewards_L.shape != (leaves,):
            raise ConfigError(
                f"rewards of shape {self.rewards_L.shape} for {self.branching} ** {self.depth} answers: expected ({leaves},)"
            )

    @property
    def num_nodes(self) -> int:
        return sum(self.branching**position for position in range(self.depth))

    @property
    def node_LD(self) -> "np.ndarray[tuple[int, int], np.dtype[np.int64]]":
        """The prefix that each token of each answer is chosen at."""
        leaf_L1 = np.arange(len(self.rewards_L))[:, None]
        position_D = np.arange(self.depth)
        first_D = (self.branching**position_D - 1) // (self.branching - 1)  # nodes of shorter prefixes
        return np.asarray(first_D + leaf_L1 // self.branching ** (self.depth - position_D))

    @property
    def token_LD(self) -> "np.ndarray[tuple[int, int], np.dtype[np.int64]]":
        leaf_L1 = np.arange(len(self.rewards_L))[:, None]
        return np.asarray(leaf_L1 // self.branching ** np.arange(self.depth)[::-1] % self.branching)


# -- exact quantities of a policy --------------------------------------------------------------------------------------


def leaf_probs(tree: Tree, probs_NB: Floats) -> Floats:
    """P(l), the product of the answer's token probabilities. [L]"""
    return np.asarray(probs_NB[tree.node_LD, tree.token_LD].prod(1))


def token_values(tree: Tree, probs_NB: Floats) -> tuple[Floats, Floats]:
    """Expected reward from each prefix, and after each token at it: V [N] and Q [N, B]."""
    below, values, after = tree.rewards_L, [], []
    for position in reversed(range(tree.depth)):
        first = (tree.branching**position - 1) // (tree.branching - 1)
        here = probs_NB[first : first + tree.branching**position]
        after.append(below.reshape(-1, tree.branching))
        below = (here * after[-1]).sum(-1)
        values.append(below)
    return np.concatenate(values[::-1]), np.concatenate(after[::-1])


# -- credit: what each token of each answer is worth -------------------------------------------------------------------


def broadcast(tree: Tree, probs_NB: Floats, cfg: FamilyConfig) -> Floats:
    """An answer's own advantage on all its tokens, as GRPO and its relatives have it; a group without end. [L, D]"""
    advantages_L = expected_advantages(leaf_probs(tree, probs_NB), tree.rewards_L, cfg)
    return np.repeat(advantages_L[:, None], tree.depth, axis=1)


def stepwise(tree: Tree, probs_NB: Floats) -> Floats:
    """What each token adds to the expected reward, Q - V: VinePPO's credit with values that are exact. [L, D]"""
    values_N, after_NB = token_values(tree, probs_NB)
    return np.asarray(after_NB[tree.node_LD, tree.token_LD] - values_N[tree.node_LD])


def monte_carlo(tree: Tree, probs_NB: Floats, continuations: int, rng: np.random.Generator) -> Floats:
    """The same with each prefix's value the mean reward of K continuations; a whole answer has its own reward. [L, D]"""
    probs_L = leaf_probs(tree, probs_NB)
    levels = []  # values of all prefixes of one length, seen from each answer
    for position in range(tree.depth):
        below_ML = probs_L.reshape(tree.branching**position, -1)
        share_ML = below_ML / below_ML.sum(1, keepdims=True)
        counts_ML = rng.multinomial(continuations, share_ML)
        mean_M = (counts_ML * tree.rewards_L.reshape(below_ML.shape)).sum(1) / continuations
        levels.append(np.repeat(mean_M, below_ML.shape[1]))
    return np.asarray(np.diff(np.stack([*levels, tree.rewards_L], axis=1), axis=1))


def segments(tree: Tree, probs_NB: Floats, split: int) -> tuple[Floats, Floats]:
    """SKPO's credit on plain prefixes (its ablation `w/o Skip`), and its weights by position. [L, D], [D]

    The first `split` tokens: the prefix's value against the mean, over the deviation of such values. The others: the answer's
    reward against its own prefix's mean, over the deviation there. Half of the objective for either, a mean over its tokens.
    """
    require(0 < split < tree.depth, "split", split, f"a position inside the answer, 1 to {tree.depth - 1}")
    probs_ML = leaf_probs(tree, probs_NB).reshape(tree.branching**split, -1)
    rewards_ML = tree.rewards_L.reshape(probs_ML.shape)
    reach_M1 = probs_ML.sum(1, keepdims=True)
    value_M1 = (probs_ML * rewards_ML).sum(1, keepdims=True) / reach_M1
    mean = (reach_M1 * value_M1).sum()
    up_M1 = _over(value_M1 - mean, (reach_M1 * (value_M1 - mean) ** 2).sum())
    down_ML = rewards_ML - value_M1
    down_ML = _over(down_ML, (probs_ML * down_ML**2).sum(1, keepdims=True) / reach_M1)
    up_LD = np.repeat(np.broadcast_to(up_M1, probs_ML.shape).reshape(-1, 1), split, axis=1)
    down_LD = np.repeat(down_ML.reshape(-1, 1), tree.depth - split, axis=1)
    weight_D = np.repeat([0.5 / split, 0.5 / (tree.depth - split)], [split, tree.depth - split])
    return np.concatenate([up_LD, down_LD], axis=1), weight_D


def _over(centred: Floats, variance: Floats) -> Floats:
    """Centred values over a standard deviation; 0 without spread."""
    std = np.sqrt(variance)
    return np.asarray(np.divide(centred, std, out=np.zeros_like(centred), where=std > 1e-12))


# -- what a credit does ------------------------------------------------------------------------------------------------


def expected_update(
    tree: Tree, probs_NB: Floats, advantages_LD: Floats, rate: float, weight_D: Floats | None = None
) -> Floats:
    """Logit change at every prefix, expected over answers. [N, B]; each row sums to 0.

    weight_D: of a token by its position; None: 1/D, the mean over an answer's tokens
    """
    weights = np.full(tree.depth, 1 / tree.depth) if weight_D is None else weight_D
    pull_NB = np.zeros_like(probs_NB)
    np.add.at(
        pull_NB, (tree.node_LD, tree.token_LD), leaf_probs(tree, probs_NB)[:, None] * weights * advantages_LD
    )
    return np.asarray(rate * (pull_NB - probs_NB * pull_NB.sum(1, keepdims=True)))


def simulate(
    tree: Tree, logits_NB: Floats, credit: Callable[[Floats], Floats], *, steps: int, rate: float
) -> Floats:
    """The policy after 0 ... `steps` expected updates. [T = steps + 1, N, B]

    credit: probabilities [N, B] -> advantages [L, D], as `lambda probs: broadcast(tree, probs, cfg)`
    """
    probs = [softmax(logits_NB)]
    for _ in range(steps):
        logits_NB = logits_NB + expected_update(tree, probs[-1], credit(probs[-1]), rate)
        probs.append(softmax(logits_NB))
    return np.stack(probs)


def wrong_signs(tree: Tree, probs_NB: Floats, advantages_LD: Floats) -> Floats:
    """At each position, the chance that a sampled token is pushed the wrong way: up though Q < V, or down though Q > V. [D]"""
    truth_LD = stepwise(tree, probs_NB)
    wrong_LD = advantages_LD * np.where(np.abs(truth_LD) > 1e-12, truth_LD, 0.0) < 0
    return np.asarray((leaf_probs(tree, probs_NB)[:, None] * wrong_LD).sum(0))
