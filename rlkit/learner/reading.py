"""Rollouts read without learning from them: their log-probs, or whole distributions, under the present weights."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch

from rlkit.batch import Batch, make_minibatches
from rlkit.types import Credit, Rollout

from . import room
from .look import Ids, Look, Question
from .shard import reshard

if TYPE_CHECKING:
    from .learner import Learner

T = TypeVar("T")


def logprobs(learner: "Learner", rollouts: Sequence[Rollout]) -> list[list[float]]:
    """Present log-probs of each rollout's completion tokens, nats, in the order given."""

    def see(batch: Batch) -> list[list[float]]:
        logp_BT, _ = learner.policy(batch)
        return [logp_T[mask_T].tolist() for logp_T, mask_T in zip(logp_BT, batch.mask_BT, strict=True)]

    return read_only(learner, rollouts, see)


def look(
    learner: "Learner", rollouts: Sequence[Rollout], top_k: int, asked: Sequence[Ids] | None = None
) -> list[Look]:
    """The distributions behind each rollout's completion tokens under the present weights, in the order given.

    top_k: how many of the likeliest tokens to tell;  asked: for each rollout [T, M] token ids whose log-probs to tell too
    """

    def see(batch: Batch) -> list[Look]:
        wanted = None
        if asked is not None and batch.rows:
            wanted = torch.cat([torch.from_numpy(asked[i]).long() for i in batch.rows]).to(learner.device)
        found = learner.policy(batch, question=Question(top_k=top_k, asked_NM=wanted))
        lengths = batch.mask_BT.sum(-1).tolist()
        looks = []
        for parts in zip(*(t.split(lengths) for t in found), strict=True):
            logp, entropy, ids, top, more = (t.cpu().numpy() for t in parts)
            looks.append(
                Look(
                    logp_T=logp,
                    entropy_T=entropy,
                    top_ids_TK=ids.astype("int32"),
                    top_logp_TK=top,
                    asked_logp_TM=more,
                )
            )
        return looks

    return read_only(learner, rollouts, see)


@torch.no_grad()
def read_only(learner: "Learner", rollouts: Sequence[Rollout], see: Callable[[Batch], list[T]]) -> list[T]:
    """What `see` makes of every rollout, in the order given; nothing is learnt. Every rank reads its share."""
    credits = [
        Credit(rollout=r, advantages=[0.0] * len(r.completion_ids), weight=1.0, share=1.0) for r in rollouts
    ]
    while True:
        minis = make_minibatches(
            credits,
            1,
            learner.budget,
            learner.pad_id,
            layout=learner.layout,
            ranks=learner.ranks.world,
            rank=learner.ranks.rank,
        )
        mine: dict[int, T] = {}
        short = False
        mini = [batch for one in minis for batch in one]
        try:
            for batch in mini:
                mine |= zip(batch.rows, see(batch.to(learner.device)), strict=True)
        except (RuntimeError, MemoryError) as error:
            short = room.again(learner, error)
        reshard(learner.policy)
        parts = learner.ranks.gather((short, room.divisible_tokens(mini), mine))
        if not any(short for short, *_ in parts):
            every = {i: seen for *_, part in parts for i, seen in part.items()}
            return [every[i] for i in range(len(rollouts))]
        room.halve(learner, max(tokens for _, tokens, _ in parts), "a forward pass")
