"""What the model reads: rollouts laid out as token rows, padded, packed, or packed with common prompts written once.

    padded    one row per rollout, padded on the right; the model's own attention
    packed    one row, rollouts end to end without padding; each attends to itself alone
    shared    packed, and rollouts with the same prompt follow ONE copy of it, which all of them attend to

The three give the same log-probs and gradients (tests/unit/test_packing.py); they differ in how many tokens the model reads.
The last token of a rollout predicts nothing and is never read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rlkit.types import Rollout

Layout = Literal["padded", "packed", "shared"]


class Run(NamedTuple):
    """Tokens [start, stop) of a packed row. They attend to themselves, causally, and to all of run `parent` (-1: none).

    Runs tile the row; the runs of one parent stand together, behind it.

    >>> Run(start=4, stop=9, parent=0).stop
    9
    """

    start: int
    stop: int
    parent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """The model's side of one micro-batch: R rows of L tokens, and where each trained token is predicted.

    >>> from rlkit.types import Segment
    >>> kinds = Segment(kind="prompt", start=0, end=2), Segment(kind="completion", start=2, end=4)
    >>> r = Rollout(prompt_id="a", token_ids=[1, 2, 5, 3], logprobs=[0.0] * 4, segments=list(kinds), policy_version=0,
    ...             finish_reason="stop")
    >>> feed = make_feed([r, r], "shared", pad_id=0)
    >>> feed.ids_RL.tolist(), feed.predict_N.tolist(), feed.runs
    ([[1, 2, 5, 5]], [1, 2, 1, 3], (Run(start=0, stop=2, parent=-1), Run(start=2, stop=3, parent=0), Run(start=3, stop=4, parent=0)))
    """

    ids_RL: Tensor
    """Token ids, int64."""
    positions_RL: Tensor
    """The place of each token in its own rollout, int64."""
    attention_RL: Tensor | None
    """1 on tokens, 0 on padding, int64; None: packed, `runs` says who attends to whom."""
    predict_N: Tensor
    """For each trained token, rollout after rollout: the place in the flattened rows whose hidden state predicts it. int64."""
    runs: tuple[Run, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens the model reads, padding included."""
        return self.ids_RL.numel()

    def to(self, device: torch.device) -> "Feed":
        attention_RL = None if self.attention_RL is None else self.attention_RL.to(device)
        return Feed(
            ids_RL=self.ids_RL.to(device),
            positions_RL=self.positions_RL.to(device),
            attention_RL=attention_RL,
            predict_N=self.predict_N.to(device),
            runs=self.runs,
        )


def make_feed(rollouts: Sequence[Rollout], layout: Layout, pad_id: int) -> Feed:
    """Rows for these rollouts, in this order (shared: those of one prompt moved together). No rollouts: one token, nothing predicted."""
    if not rollouts:
        one_RL, none_N = torch.full((1, 1), pad_id), torch.zeros(0, dtype=torch.int64)
        return Feed(
            ids_RL=one_RL,
            positions_RL=torch.zeros_like(one_RL),
            attention_RL=torch.ones_like(one_RL) if layout == "padded" else None,
            predict_N=none_N,
            runs=() if layout == "padded" else (Run(0, 1, -1),),
        )
    return _padded(rollouts, pad_id) if layout == "padded" else _packed(rollouts, layout)


def _padded(rollouts: Sequence[Rollout], pad_id: int) -> Feed:
    length = max(len(r.token_ids) - 1 for r in rollouts)
    ids_RL = torch.full((len(rollouts), length), pad_id)
    attention_RL = torch.zeros(len(rollouts), length, dtype=torch.int64)
    predict: list[int] = []
    for row, rollout in enumerate(rollouts):
        end = len(rollout.token_ids) - 1
        ids_RL[row, :end] = torch.tensor(rollout.token_ids[:end])
        attention_RL[row, :end] = 1
        predict.extend(range(row * length + rollout.prompt_tokens - 1, row * length + end))
    return Feed(
        ids_RL=ids_RL,
        positions_RL=torch.arange(length).expand(len(rollouts), length),
        attention_RL=attention_RL,
        predict_N=torch.tensor(predict),
    )


def _packed(rollouts: Sequence[Rollout], layout: Layout) -> Feed:
    ids: list[int] = []
    positions: list[int] = []
    runs: list[Run] = []
    predict: list[list[int]] = [[] for _ in rollouts]

    def write(tokens: Sequence[int], first: int, parent: int) -> int:
        """Append a run whose first token has position `first`; returns where it starts."""
        start = len(ids)
        ids.extend(tokens)
        positions.extend(range(first, first + len(tokens)))
        if tokens:
            runs.append(Run(start, len(ids), parent))
        return start

    for members in families(rollouts, layout):
        head = rollouts[members[0]]
        length = head.prompt_tokens
        if len(members) == 1:
            start = write(head.token_ids[:-1], 0, -1)
            predict[members[0]] = list(range(start + length - 1, start + len(head.token_ids) - 1))
            continue
        last = write(head.token_ids[:length], 0, -1) + length - 1
        parent = len(runs) - 1
        for i in members:
            start = write(rollouts[i].token_ids[length:-1], length, parent)
            predict[i] = [last, *range(start, start + len(rollouts[i].token_ids) - 1 - length)]
    return Feed(
        ids_RL=torch.tensor([ids]),
        positions_RL=torch.tensor([positions]),
        attention_RL=None,
        predict_N=torch.tensor([place for places in predict for place in places]),
        runs=tuple(runs),
    )


def families(rollouts: Sequence[Rollout], layout: Layout) -> list[list[int]]:
    """Indices of the rollouts that share one copy of their prompt, in order of first appearance; alone unless `shared`."""
    if layout != "shared":
        return [[i] for i in range(len(rollouts))]
    found: dict[tuple[int, ...], list[int]] = {}
    for i, rollout in enumerate(rollouts):
        found.setdefault(tuple(rollout.token_ids[: rollout.prompt_tokens]), []).append(i)
    return list(found.values())
