"""Credit -> tensors: micro-batches whose denominators belong to the whole mini-batch.

    credits --split by group--> mini-batches (one optimizer step each) --by tokens--> micro-batches (one Batch each)

A Batch has two sides. The algorithm's: tensors [B, T] over the completions' tokens, padded on the right, column t speaks of
completion token t. The model's: a Feed (rlkit/feed.py), which the algorithm never looks at.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import get_args

import torch
from torch import Tensor

from rlkit.errors import RolloutError
from rlkit.feed import Feed, Layout, families, make_feed
from rlkit.types import Credit, Rollout, Surrogate

SURROGATES: tuple[Surrogate, ...] = get_args(Surrogate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One micro-batch. B rollouts, T tokens of the longest completion.

    >>> from rlkit.types import Rollout, Segment
    >>> r = Rollout(prompt_id="a", token_ids=[1, 5, 3], logprobs=[0.0, -1.0, -2.0], segments=[
    ...     Segment(kind="prompt", start=0, end=1), Segment(kind="completion", start=1, end=3)],
    ...     policy_version=0, finish_reason="stop")
    >>> b = make_minibatches([Credit(rollout=r, advantages=[1.0, 1.0], weight=0.5, share=1.0)], 1, 64, pad_id=0)[0][0]
    >>> b.ids_BT.tolist(), b.mask_BT.tolist(), b.adv_BT.tolist(), b.denominator, b.num_tokens
    ([[5, 3]], [[True, True]], [[1.0, 1.0]], 1.0, 2)
    """

    ids_BT: Tensor
    """Token ids of the completions, padded on the right. int64."""
    mask_BT: Tensor
    """True on tokens, False on padding. bool."""
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
    num_tokens: int
    """Tokens with a weight in the WHOLE mini-batch, over all micro-batches and ranks."""
    rows: list[int] = field(default_factory=list)
    """Which credit each row came from: an index into the list given to make_minibatches."""
    credits: list[Credit] = field(default_factory=list)
    """Those credits, one for each row."""
    feed: Feed = field(default_factory=lambda: make_feed([], "padded", 0))
    """What the model reads."""

    def to(self, device: torch.device) -> "Batch":
        tensors = {n: getattr(self, n).to(device) for n in self.__slots__ if n.endswith("_BT")}
        return Batch(
            **tensors,
            denominator=self.denominator,
            num_tokens=self.num_tokens,
            rows=self.rows,
            credits=self.credits,
            feed=self.feed.to(device),
        )


def make_minibatches(
    credits: Sequence[Credit],
    mini_batches: int,
    micro_batch_tokens: int,
    pad_id: int,
    *,
    layout: Layout = "padded",
    skip_idle: bool = False,
    ranks: int = 1,
    rank: int = 0,
) -> list[list[Batch]]:
    """One list of micro-batches per optimizer step: those of this rank.

    Groups are dealt to `mini_batches` parts in order, as evenly as they divide, and never split. Within a part rollouts
    are put together so that the model reads at most `micro_batch_tokens` at once, padding included (a longer rollout goes
    alone). A part without any share (nothing was judged) is left out: there is nothing to learn from it.

    skip_idle: leave out rollouts whose advantages are all 0, so that they cost no forward; their share stays
    ranks: every rank gets as many micro-batches, of about as many tokens; one that has nothing to do gets an empty Batch
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
        if denominator <= 0:
            continue
        weighty = [i for i in indices if credits[i].weight]
        alive = [i for i in weighty if any(credits[i].advantages)] if skip_idle else weighty
        rollouts = [c.rollout for c in credits]
        plan = _plan(rollouts, alive, micro_batch_tokens, layout, ranks)
        num_tokens = sum(len(credits[i].rollout.completion_ids) for i in weighty)
        out.append(
            [
                batch_of(
                    [credits[i] for i in rows],
                    rows,
                    denominator,
                    num_tokens,
                    make_feed([rollouts[i] for i in rows], layout, pad_id),
                )
                for rows in plan[rank::ranks]
            ]
        )
    return out


def recut(
    mini: Sequence[Batch], micro_batch_tokens: int, pad_id: int, *, layout: Layout = "padded"
) -> list[Batch]:
    """One rank's rows of a mini-batch in micro-batches of another size: what `make_minibatches` would have cut for it alone.

    The denominators stay those of the WHOLE mini-batch, so the gradient is the same.
    """
    found = sorted(
        ((i, c) for batch in mini for i, c in zip(batch.rows, batch.credits, strict=True)),
        key=lambda pair: pair[0],
    )
    rollouts = [c.rollout for _, c in found]
    return [
        batch_of(
            [found[k][1] for k in part],
            [found[k][0] for k in part],
            mini[0].denominator,
            mini[0].num_tokens,
            make_feed([rollouts[k] for k in part], layout, pad_id),
        )
        for part in _plan(rollouts, range(len(found)), micro_batch_tokens, layout, 1)
    ]


def nothing(pad_id: int, layout: Layout) -> Batch:
    """A micro-batch without rows, for a rank that has to go along with the others."""
    return batch_of([], [], 1.0, 0, make_feed([], layout, pad_id))


def _plan(
    rollouts: Sequence[Rollout], rows: Sequence[int], budget: int, layout: Layout, ranks: int
) -> list[list[int]]:
    """Which rows go together: the fullest first, their number a multiple of `ranks`."""
    chunks = (
        _by_length(rollouts, rows, budget)
        if layout == "padded"
        else _by_tokens(rollouts, rows, budget, layout, ranks)
    )
    missing = -len(chunks) % ranks
    if layout == "padded" and missing:  # halve the largest rather than leave a rank idle
        chunks = _halved(chunks, missing)
    return chunks + [[] for _ in range(-len(chunks) % ranks)]


def _by_length(rollouts: Sequence[Rollout], rows: Sequence[int], budget: int) -> list[list[int]]:
    """Cut length-sorted rows where the padded size would pass the budget."""
    chunks: list[list[int]] = []
    for i in sorted(rows, key=lambda i: (len(rollouts[i].token_ids), i)):
        length = len(rollouts[i].token_ids) - 1
        if chunks and (len(chunks[-1]) + 1) * length <= budget:
            chunks[-1].append(i)
        else:
            chunks.append([i])
    return chunks[::-1]


def _halved(chunks: list[list[int]], times: int) -> list[list[int]]:
    for _ in range(times):
        k = max(range(len(chunks)), key=lambda k: len(chunks[k]))
        middle = len(chunks[k]) // 2
        if middle:
            chunks = [*chunks[:k], chunks[k][:middle], chunks[k][middle:], *chunks[k + 1 :]]
    return chunks


def _by_tokens(
    rollouts: Sequence[Rollout], rows: Sequence[int], budget: int, layout: Layout, ranks: int
) -> list[list[int]]:
    """The largest family first, each to the emptiest of as few micro-batches as the budget allows.

    A family (the rollouts of one prompt, which is read once for all of them) is only cut when it passes the budget itself.
    """
    units: list[tuple[int, list[int]]] = []
    for family in families([rollouts[i] for i in rows], layout):
        members = [rows[k] for k in family]
        prompt = rollouts[members[0]].prompt_tokens
        unit, size = [members[0]], len(rollouts[members[0]].token_ids) - 1
        for i in members[1:]:
            more = len(rollouts[i].token_ids) - 1 - prompt
            if size + more > budget:
                units.append((size, unit))
                unit, size = [], prompt
            unit.append(i)
            size += more
        units.append((size, unit))
    units.sort(key=lambda unit: (-unit[0], unit[1][0]))
    total = sum(size for size, _ in units)
    count = max(1, -(-total // budget)) if units else 0
    while True:
        count += -count % ranks
        bins: list[list[int]] = [[] for _ in range(count)]
        sizes = [0] * count
        for size, unit in units:
            k = min(range(count), key=lambda k: (sizes[k], k))
            bins[k].extend(unit)
            sizes[k] += size
        if count >= len(units) or max(sizes) <= budget:
            order = sorted(range(count), key=lambda k: (-sizes[k], k))
            return [bins[k] for k in order]
        count += 1


def batch_of(
    credits: list[Credit], rows: list[int], denominator: float, num_tokens: int, feed: Feed
) -> Batch:
    """credits: one for each row"""
    lengths = [len(c.rollout.completion_ids) for c in credits]
    for credit, end in zip(credits, lengths, strict=True):
        if len(credit.advantages) != end:
            raise RolloutError(
                f"rollout of prompt {credit.rollout.prompt_id!r}: {len(credit.advantages)} advantages for {end} completion "
                "tokens. An algorithm credits every token of a completion"
            )
    length_B1 = torch.tensor(lengths, dtype=torch.int64)[:, None]
    mask_BT = torch.arange(max(lengths, default=0)) < length_B1

    floats = torch.get_default_dtype()  # float64 where the formulas are checked

    def filled(values: Iterable[float], dtype: torch.dtype = floats) -> Tensor:
        """One value for each token, row after row. All at once: a call for each row costs more than its work."""
        flat_N = torch.tensor(list(values), dtype=dtype)
        return torch.zeros(mask_BT.shape, dtype=dtype).masked_scatter_(mask_BT, flat_N)

    def spread(values: Iterable[float], dtype: torch.dtype = floats) -> Tensor:
        """One value for each row, on its tokens."""
        row_B1 = torch.tensor(list(values), dtype=dtype)[:, None]
        return torch.where(mask_BT, row_B1, torch.zeros((), dtype=dtype))

    ids_BT = filled(chain.from_iterable(c.rollout.completion_ids for c in credits), torch.int64)
    sampler_logp_BT = filled(chain.from_iterable(c.rollout.completion_logprobs for c in credits))
    adv_BT = filled(chain.from_iterable(c.advantages for c in credits))
    weight_BT = spread(c.weight for c in credits)
    surrogate_BT = spread((SURROGATES.index(c.surrogate) for c in credits), torch.int64)
    return Batch(
        ids_BT=ids_BT,
        mask_BT=mask_BT,
        sampler_logp_BT=sampler_logp_BT,
        adv_BT=adv_BT,
        weight_BT=weight_BT,
        surrogate_BT=surrogate_BT,
        denominator=denominator,
        num_tokens=num_tokens,
        rows=rows,
        credits=credits,
        feed=feed,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStats:
    """What the learner computed for one Batch. All [B, T], float32, 0 outside the batch's mask.

    >>> z = torch.zeros(1, 3)
    >>> TokenStats(logp_BT=z, old_logp_BT=z, entropy_BT=z, num_high_entropy=3).ref_logp_BT is None
    True
    """

    logp_BT: Tensor
    """The current policy's log-probabilities of the sampled tokens, nats; carries the gradient."""
    old_logp_BT: Tensor
    """The learner's own log-probabilities before this step's first update: the denominator of the ratio."""
    entropy_BT: Tensor
    """Entropy of the next-token distribution, nats; carries a gradient when the algorithm's entropy_coef is not 0."""
    ref_logp_BT: Tensor | None = None
    """The reference model's; None when beta is 0."""
    high_entropy_BT: Tensor | None = None
    """bool: the tokens that the policy's term counts (top_entropy_quantile); None: all."""
    num_high_entropy: int
    """How many those are in the WHOLE mini-batch, over all micro-batches and ranks."""
