"""A look at whole next-token distributions: what the analysis room asks of the learner, a few rollouts at a time.

Training needs one number of each distribution, the sampled token's. Where probability goes needs the likeliest tokens too,
and the same tokens again after the update: `Look` holds both, as numpy arrays that leave the learner.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

LOOK_LOGITS = 1 << 24
"""Logits that exist at one time while looking: 64 MiB in float32."""

Floats = NDArray[np.float32]
Ids = NDArray[np.int32]
Own = Mapping[int, tuple[Floats, Floats]]
"""Index of a credit -> the log-probs and entropies [T] of its tokens that the learner's own pass computed, nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The distributions that the T completion tokens of one rollout were drawn from, under the learner's present weights.

    >>> one = np.zeros((1, 1), np.float32)
    >>> Look(logp_T=one[0], entropy_T=one[0], top_ids_TK=one.astype(np.int32), top_logp_TK=one, asked_logp_TM=one).logp_T.shape
    (1,)
    """

    logp_T: Floats
    """Log-probability of the token that was sampled, nats."""
    entropy_T: Floats
    """Nats."""
    top_ids_TK: Ids
    """The K likeliest tokens, likeliest first."""
    top_logp_TK: Floats
    """Their log-probabilities, nats."""
    asked_logp_TM: Floats
    """Log-probabilities of the tokens asked for, nats; [T, 0] when none were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to tell of each of N distributions besides the sampled token's log-prob and the entropy.

    >>> Question(top_k=5).asked_NM is None
    True
    """

    top_k: int
    asked_NM: Tensor | None = None
    """Token ids, int64; None: no token in particular."""


Distributions = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""logp [N], entropy [N], top ids [N, K], their log-probs [N, K], log-probs of the tokens asked for [N, M]."""


@torch.no_grad()
def distributions(
    hidden_NH: Tensor, head: nn.Module, target_N: Tensor, temperature: float, question: Question
) -> Distributions:
    """softmax(head(hidden) / temperature), some rows at a time; float32 whatever the head computes in."""
    vocabulary = int(getattr(head, "out_features", 0) or 1)
    rows = max(1, LOOK_LOGITS // vocabulary)
    parts: list[Distributions] = []
    for i in range(0, max(1, len(target_N)), rows):
        logits_nV: Any = head(hidden_NH[i : i + rows])
        dist_nV = (logits_nV.float() / temperature).log_softmax(-1)
        top = dist_nV.topk(min(question.top_k, dist_nV.shape[-1]), dim=-1)
        asked_nM = target_N[i : i + rows, None][:, :0]
        if question.asked_NM is not None:
            asked_nM = question.asked_NM[i : i + rows]
        parts.append(
            (
                dist_nV.gather(-1, target_N[i : i + rows, None])[:, 0],
                -(dist_nV.exp() * dist_nV).sum(-1),
                top.indices,
                top.values,
                dist_nV.gather(-1, asked_nM),
            )
        )
    logp, entropy, top_ids, top_logp, asked = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return logp, entropy, top_ids, top_logp, asked
