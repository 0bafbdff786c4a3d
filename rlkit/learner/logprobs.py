"""Token log-probabilities and entropies without ever holding [B, T, V].

Only the tokens that are trained meet the output head, `chunk` at a time; the backward pass computes a chunk's logits
once more instead of keeping them.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def _chunk_stats(
    hidden_NH: Tensor, head_VH: Tensor, bias_V: Tensor | None, target_N: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    logits_NV = torch.nn.functional.linear(hidden_NH, head_VH, bias_V)
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32)) / temperature
    logp_NV = logits_NV.log_softmax(-1)
    logp_N = logp_NV.gather(-1, target_N[:, None])[:, 0]
    with torch.no_grad():
        entropy_N = -(logp_NV.exp() * logp_NV).sum(-1)
    return logp_N, entropy_N


def token_stats(
    hidden_NH: Tensor,
    head_VH: Tensor,
    bias_V: Tensor | None,
    target_N: Tensor,
    temperature: float,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of the distribution it came from: two [N], nats, float32 or better.

    hidden_NH: the hidden states that predict the targets;  head_VH, bias_V: the output head;  target_N: token ids
    temperature: divides the logits, as the sampler's did.  The entropy carries no gradient.
    """
    logps, entropies = [], []
    for i in range(0, hidden_NH.shape[0], chunk):
        part = hidden_NH[i : i + chunk], head_VH, bias_V, target_N[i : i + chunk], temperature
        if torch.is_grad_enabled():
            logp_N, entropy_N = checkpoint(_chunk_stats, *part, use_reentrant=False)
        else:
            logp_N, entropy_N = _chunk_stats(*part)
        logps.append(logp_N)
        entropies.append(entropy_N)
    if not logps:
        empty = hidden_NH.new_zeros(0, dtype=torch.float32)
        return empty, empty
    return torch.cat(logps), torch.cat(entropies)
