"""TRL's importance correction: weigh each token by how much likelier the learner finds it than the sampler said.

A sampler that rounds differently (bfloat16, other kernels) or whose weights are older draws from a slightly other
distribution than the one the learner differentiates; the ratio of the two repairs the gradient, capped so that a rare
token cannot own the step.
"""

from dataclasses import replace

from torch import Tensor

from rlkit.algo_config import AlgoConfig
from rlkit.batch import Batch
from rlkit.metrics import Metrics, Tally


def corrected(batch: Batch, old_BT: Tensor, algo: AlgoConfig) -> tuple[Batch, Metrics]:
    """The batch with importance ratios multiplied into its advantages, and the sampler/learner gap as metrics.

    Advantages and not weights, because TRL corrects the policy's term alone: a KL penalty keeps its own.
    """
    mask_BT = batch.mask_BT
    delta_BT = old_BT - batch.sampler_logp_BT
    gap_N = delta_BT[mask_BT].abs().double()
    count = float(mask_BT.sum())
    if not count:
        return batch, {}
    name = "sampling/sampling_logp_difference"
    metrics = {
        f"{name}/mean": Tally(float(gap_N.sum()), count),
        f"{name}/max": Tally(float(gap_N.max()), 1, "max"),
    }
    if not algo.importance_sampling_correction:
        return batch, metrics
    ratio_BT = importance_weights(
        delta_BT, mask_BT, algo.importance_sampling_mode, algo.importance_sampling_clip_max
    )
    ratio_N = ratio_BT[mask_BT].double()
    name = "sampling/importance_sampling_ratio"
    metrics |= {
        f"{name}/min": Tally(float(ratio_N.min()), 1, "min"),
        f"{name}/mean": Tally(float(ratio_N.sum()), count),
        f"{name}/max": Tally(float(ratio_N.max()), 1, "max"),
    }
    return replace(batch, adv_BT=batch.adv_BT * ratio_BT), metrics


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
