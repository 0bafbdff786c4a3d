"""TRL's importance correction: weigh each token by how much likelier the learner finds it than the sampler said.

A sampler that rounds differently (bfloat16, other kernels) or whose weights are older draws from a slightly other
distribution than the one the learner differentiates; the ratio of the two repairs the gradient, capped so that a rare
token cannot own the step.
"""

from torch import Tensor


def importance_weights(delta_BT: Tensor, mask_BT: Tensor, mode: str, clip_max: float) -> Tensor:
    """exp(delta), delta = learner's old log-prob minus the sampler's: truncated or masked above `clip_max`. [B, T], no gradient.

    `sequence_*` multiplies the ratios of a sequence's tokens; `*_truncate` caps at clip_max, `*_mask` drops what is above
    it (TRL's vllm_importance_sampling_mode and _clip_max; arXiv:2505.24298 and the MIS note there).
    """
    delta_BT = delta_BT.detach().masked_fill(~mask_BT, 0.0)
    if mode.startswith("sequence"):
        delta_BT = delta_BT.sum(-1, keepdim=True).expand_as(delta_BT)
    ratio_BT = delta_BT.exp()
    if mode.endswith("truncate"):
        ratio_BT = ratio_BT.clamp(max=clip_max)
    else:
        ratio_BT = ratio_BT.masked_fill(ratio_BT > clip_max, 0.0)
    return ratio_BT.masked_fill(~mask_BT, 0.0)
