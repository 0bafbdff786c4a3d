"""Credit -> tensors: padded micro-batches whose denominators belong to the whole mini-batch.

    credits --split by group--> mini-batches (one optimizer step each) --pack by length--> micro-batches (one Batch each)

Every tensor is [B, T] and aligned with `ids_BT`: column t speaks of token t. Padding is on the right, so a learner
needs no position ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from rlkit.errors import RolloutError
from rlkit.types import Credit, Surrogate

SURROGATES: tuple[Surrogate, ...] = get_args(Surrogate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One micro-batch. B sequences, T tokens.

    >>> from rlkit.types import Rollout, Segment
    >>> r = Rollout(prompt_id="a", token_ids=[1, 5, 3], logprobs=[0.0, -1.0, -2.0], segments=[
    ...     Segment(kind="prompt", start=0, end=1), Segment(kind="completion", start=1, end=3)],
    ...     policy_version=0, finish_reason="stop")
    >>> b = make_minibatches([Credit(rollout=r, advantages=[1.0, 1.0], weight=0.5, share=1.0)], 1, 64, pad_id=0)[0][0]
    >>> b.mask_BT.tolist(), b.adv_BT.tolist(), b.denominator
    ([[False, True, True]], [[0.0, 1.0, 1.0]], 1.0)
    """

    ids_BT: Tensor
    """Token ids, padded on the right. int64."""
    attention_BT: Tensor
    """1 on real tokens, 0 on padding. int64."""
    mask_BT: Tensor
    """True on the tokens that are trained: completions. bool."""
    sampler_logp_BT: Tensor
    """The sampler's log-probabilities, nats; 0 outside the mask."""
    adv_BT: Tensor
    """Advantages; 0 outside the mask."""
    weight_BT: Tensor
    """Multiplies every term of the loss, the rollout's own normaliser included; 0 outside the mask."""
    surrogate_BT: Tensor
    """Index into SURROGATES: which clipped objective a token takes. int64."""
    denominator: float
    """Sum of the shares of the WHOLE mini-batch, over all micro-batches and ranks."""
    rows: list[int]
    """Which credit each row came from: an index into the list given to make_minibatches."""

    def to(self, device: torch.device) -> "Batch":
        tensors = {n: getattr(self, n).to(device) for n in self.__slots__ if n.endswith("_BT")}
        return Batch(**tensors, denominator=self.denominator, rows=self.rows)


def make_minibatches(
    credits: Sequence[Credit], mini_batches: int, micro_batch_tokens: int, pad_id: int
) -> list[list[Batch]]:
    """One list of micro-batches per optimizer step.

    Groups are dealt to `mini_batches` parts in order, as evenly as they divide, and never split. Within a part rollouts
    are sorted by length and packed so that rows x longest <= micro_batch_tokens (a longer rollout goes alone).
    A part without any share (nothing was judged) is left out: there is nothing to learn from it.
    """
    groups = sorted({c.group for c in credits})
    parts = [
        groups[i * len(groups) // mini_batches : (i + 1) * len(groups) // mini_batches]
        for i in range(mini_batches)
    ]
    out = []
    for part in parts:
        members = set(part)
        indices = [i for i, c in enumerate(credits) if c.group in members]
        denominator = sum(credits[i].share for i in indices)
        if denominator > 0:
            rows = sorted(indices, key=lambda i: (len(credits[i].rollout.token_ids), i))
            out.append(
                [
                    _pad(credits, chunk, denominator, pad_id)
                    for chunk in _pack(credits, rows, micro_batch_tokens)
                ]
            )
    return out


def _pack(credits: Sequence[Credit], rows: Sequence[int], budget: int) -> list[list[int]]:
    """Cut length-sorted rows where the padded size would pass the budget."""
    chunks: list[list[int]] = []
    for i in rows:
        length = len(credits[i].rollout.token_ids)
        if chunks and (len(chunks[-1]) + 1) * length <= budget:
            chunks[-1].append(i)
        else:
            chunks.append([i])
    return chunks


def _pad(credits: Sequence[Credit], rows: list[int], denominator: float, pad_id: int) -> Batch:
    num_rows, length = len(rows), max(len(credits[i].rollout.token_ids) for i in rows)
    ids_BT = torch.full((num_rows, length), pad_id, dtype=torch.int64)
    attention_BT = torch.zeros(num_rows, length, dtype=torch.int64)
    mask_BT = torch.zeros(num_rows, length, dtype=torch.bool)
    sampler_logp_BT, adv_BT, weight_BT = (torch.zeros(num_rows, length) for _ in range(3))
    surrogate_BT = torch.zeros(num_rows, length, dtype=torch.int64)
    for b, i in enumerate(rows):
        credit, rollout = credits[i], credits[i].rollout
        start, end = rollout.prompt_tokens, len(rollout.token_ids)
        if len(credit.advantages) != end - start:
            raise RolloutError(
                f"rollout of prompt {rollout.prompt_id!r}: {len(credit.advantages)} advantages for {end - start} completion "
                "tokens. An algorithm credits every token of a completion"
            )
        ids_BT[b, :end] = torch.tensor(rollout.token_ids)
        attention_BT[b, :end] = 1
        mask_BT[b, start:end] = True
        sampler_logp_BT[b, start:end] = torch.tensor(rollout.completion_logprobs)
        adv_BT[b, start:end] = torch.tensor(credit.advantages)
        weight_BT[b, start:end] = credit.weight
        surrogate_BT[b, start:end] = SURROGATES.index(credit.surrogate)
    return Batch(
        ids_BT=ids_BT,
        attention_BT=attention_BT,
        mask_BT=mask_BT,
        sampler_logp_BT=sampler_logp_BT,
        adv_BT=adv_BT,
        weight_BT=weight_BT,
        surrogate_BT=surrogate_BT,
        denominator=denominator,
        rows=rows,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStats:
    """What the learner computed for one Batch. All [B, T], float32, 0 outside the batch's mask.

    >>> z = torch.zeros(1, 3)
    >>> TokenStats(logp_BT=z, old_logp_BT=z, entropy_BT=z).ref_logp_BT is None
    True
    """

    logp_BT: Tensor
    """The current policy's log-probabilities of the sampled tokens, nats; carries the gradient."""
    old_logp_BT: Tensor
    """The learner's own log-probabilities before this step's first update: the denominator of the ratio."""
    entropy_BT: Tensor
    """Entropy of the next-token distribution, nats; no gradient."""
    ref_logp_BT: Tensor | None = None
    """The reference model's; None when beta is 0."""
