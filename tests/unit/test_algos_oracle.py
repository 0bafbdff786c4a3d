"""Loss, gradient, clip metrics, advantages and importance correction equal TRL's own code, on the same tensors, in float64."""

import inspect
import textwrap
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from trl.trainer import grpo_trainer
from trl.trainer.grpo_trainer import GRPOTrainer

from rlkit.algo_config import AlgoConfig, GrpoNConfig, GspoNConfig
from rlkit.algos.base import Sampling
from rlkit.algos.grpo import Grpo
from rlkit.algos.grpo_n import GrpoN
from rlkit.algos.gspo_n import GspoN
from rlkit.algos.ops import group_advantages
from rlkit.batch import Batch, TokenStats
from rlkit.learner.correction import importance_weights

SAMPLING = Sampling(max_completion_length=8, temperature=1.0)
CLIP_NAMES = ("clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean")


class Tensors:
    """One micro-batch of 6 answers of 1 to 7 tokens after prompts of 3, with ratios on both sides of every clip."""

    def __init__(self, seed: int, spread: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        lengths_B = torch.tensor([1, 7, 4, 2, 7, 5])
        self.mask_BC = torch.arange(7)[None] < lengths_B[:, None]
        shape = self.mask_BC.shape
        self.old_BC = -3 * torch.rand(shape, generator=generator, dtype=torch.float64)
        self.logp_BC = self.old_BC + spread * torch.randn(shape, generator=generator, dtype=torch.float64)
        self.ref_BC = self.old_BC + 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)
        self.entropy_BC = torch.rand(shape, generator=generator, dtype=torch.float64)
        self.importance_BC = 3 * torch.rand(shape, generator=generator, dtype=torch.float64)
        self.adv_B = torch.tensor([1.2, -0.7, 0.4, 1.9, -1.1, -0.2], dtype=torch.float64)


class Oracle(GRPOTrainer):
    """TRL's trainer with only what `_compute_loss` reads, and log-probs from a list instead of a model."""

    def __init__(self, data: Tensors, cfg: AlgoConfig, level: str, use_vllm: bool) -> None:
        self.data, self.beta = data, cfg.beta
        self.logp_BC = data.logp_BC.clone().requires_grad_()
        self.loss_type, self.importance_sampling_level = "grpo", level
        self.epsilon_low, self.epsilon_high = cfg.epsilon, cfg.clip_high
        self.use_vllm = self.vllm_importance_sampling_correction = use_vllm
        self.top_entropy_quantile, self.off_policy_mask_threshold = 1.0, None
        self._entropy_bonus_enabled = self.aux_loss_enabled = False
        self.current_gradient_accumulation_steps = 1
        self.args: Any = SimpleNamespace(delta=None, use_bias_correction_kl=False)
        self.model: Any = SimpleNamespace(training=True)
        self.accelerator = Accelerator(cpu=True)
        self._metrics = {"train": defaultdict(list)}

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, None]:
        return self.logp_BC, self.data.entropy_BC, None

    def run(self, adv_B: Tensor) -> tuple[Tensor, Tensor, dict[str, float]]:
        """Loss, its gradient by log-prob, metrics."""
        mask_BC = self.data.mask_BC.long()
        ids_BP = torch.ones(len(mask_BC), 3, dtype=torch.int64)
        loss = self._compute_loss(
            self.model,
            {
                "prompt_ids": ids_BP,
                "prompt_mask": ids_BP,
                "completion_ids": mask_BC,
                "completion_mask": mask_BC,
                "advantages": adv_B,
                "old_per_token_logps": self.data.old_BC,
                "ref_per_token_logps": self.data.ref_BC,
                "importance_sampling_ratio": self.data.importance_BC,
            },
        )
        loss.backward()
        assert self.logp_BC.grad is not None
        return loss.detach(), self.logp_BC.grad, {k: v[0] for k, v in self._metrics["train"].items()}


def ours(data: Tensors, algo: Any, adv_B: Tensor, corrected: bool) -> tuple[Tensor, Tensor, dict[str, float]]:
    """The same of rlkit, with prompt columns in front as a Batch has them."""

    def wide(x_BC: Tensor) -> Tensor:
        return torch.nn.functional.pad(x_BC, (3, 0))

    mask_BT = wide(data.mask_BC)
    adv_BC = adv_B[:, None] * (data.importance_BC if corrected else torch.ones_like(data.importance_BC))
    weight_BC = (1 / data.mask_BC.sum(-1, keepdim=True).double()).expand_as(adv_BC)
    batch = Batch(
        ids_BT=mask_BT.long(),
        attention_BT=mask_BT.long(),
        mask_BT=mask_BT,
        sampler_logp_BT=wide(data.old_BC),
        adv_BT=wide(adv_BC) * mask_BT,
        weight_BT=wide(weight_BC) * mask_BT,
        surrogate_BT=torch.zeros_like(mask_BT.long()),
        denominator=float(len(adv_B)),
        rows=list(range(len(adv_B))),
    )
    logp_BC = data.logp_BC.clone().requires_grad_()
    out = TokenStats(
        logp_BT=wide(logp_BC),
        old_logp_BT=wide(data.old_BC),
        entropy_BT=wide(data.entropy_BC),
        ref_logp_BT=wide(data.ref_BC) if algo.cfg.beta else None,
    )
    loss, metrics = algo.loss(batch, out)
    loss.backward()
    assert logp_BC.grad is not None
    return loss.detach(), logp_BC.grad, {name: tally.value for name, tally in metrics.items()}


CASES = {
    "grpo": (Grpo, AlgoConfig(), "token"),
    "grpo, clip-higher": (Grpo, AlgoConfig(epsilon=0.1, epsilon_high=0.28), "token"),
    "grpo_n": (GrpoN, GrpoNConfig(), "token"),
    "gspo_n": (GspoN, GspoNConfig(), "sequence"),
    "gspo_n, wide clip": (GspoN, GspoNConfig(epsilon=0.2, epsilon_high=0.27), "sequence"),
}


@pytest.mark.parametrize("corrected", [False, True], ids=["", "importance corrected"])
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("name", CASES)
def test_loss_gradient_and_clip_metrics_are_trls(name: str, beta: float, corrected: bool) -> None:
    make, cfg, level = CASES[name]
    cfg = type(cfg)(epsilon=cfg.epsilon, epsilon_high=cfg.epsilon_high, beta=beta)
    for seed, spread in ((0, 0.3), (3, 1.0), (2, 1e-4)):
        data = Tensors(seed, spread)
        adv_B = data.adv_B if make is Grpo else data.adv_B.clamp(max=0)
        loss, gradient_BC, metrics = ours(data, make(cfg, SAMPLING), adv_B, corrected)
        trl_loss, trl_gradient_BC, trl_metrics = Oracle(data, cfg, level, use_vllm=corrected).run(adv_B)
        assert loss.item() == pytest.approx(trl_loss.item(), abs=1e-12)
        torch.testing.assert_close(gradient_BC, trl_gradient_BC, rtol=1e-12, atol=1e-12)
        for key in (*CLIP_NAMES, *(["kl"] if beta else [])):
            assert metrics[key] == pytest.approx(trl_metrics[key], abs=1e-6), key  # TRL's counts are float32


def test_the_oracle_has_something_to_clip() -> None:
    data = Tensors(3, 1.0)
    _, _, metrics = Oracle(data, AlgoConfig(), "token", use_vllm=False).run(data.adv_B)
    assert all(metrics[name] > 0 for name in CLIP_NAMES)
    _, _, metrics = Oracle(data, GspoNConfig(), "sequence", use_vllm=False).run(data.adv_B.clamp(max=0))
    assert metrics["clip_ratio/low_mean"] > 0


def trl_lines(first: str, last: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run TRL's own lines from the one that begins with `first` up to, not including, the one that begins with `last`.

    They stand in the middle of a method of 500 lines that generates and scores, so they cannot be called apart.
    """
    lines = inspect.getsource(GRPOTrainer._generate_and_score_completions).splitlines()
    starts = [i for i, line in enumerate(lines) if line.strip().startswith(first)]
    ends = [i for i, line in enumerate(lines) if line.strip().startswith(last) and i > starts[0]]
    scope = {**vars(grpo_trainer), **names}
    exec(textwrap.dedent("\n".join(lines[starts[0] : ends[0]])), scope)
    return scope


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_are_trls(scale: Any) -> None:
    rewards_PG = [[1.0, 0.0, 0.0, 1.0], [0.2, 0.9, 0.3, 0.0], [0.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.5, 0.5]]
    rewards = torch.tensor(rewards_PG, dtype=torch.float64).flatten()
    trl = trl_lines(
        "mean_grouped_rewards = torch.nanmean(rewards.view",
        "is_std_zero =",
        {"rewards": rewards, "num_generations": 4, "self": SimpleNamespace(scale_rewards=scale)},
    )
    got = group_advantages(rewards_PG, AlgoConfig(scale_rewards=scale))
    expected = trl["advantages"].tolist()
    # Not closer: TRL's nanstd computes n / (n - 1) in float32.
    assert [a for group in got for a in group] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_the_importance_correction_is_trls(mode: str) -> None:
    data = Tensors(4, 1.0)
    delta_BC = data.logp_BC - data.old_BC
    settings = {"mode": mode, "clip_min": None if mode.endswith("mask") else -torch.inf, "clip_max": 2.0}
    trl = trl_lines(
        "per_token_logps_diff = (",
        "# Compute the per-token log probabilities for the reference model",
        {
            "old_per_token_logps": data.logp_BC,
            "sampling_per_token_logps": data.old_BC,
            "mask": data.mask_BC,
            "self": SimpleNamespace(**{f"vllm_importance_sampling_{k}": v for k, v in settings.items()}),
        },
    )
    expected_BC = trl["vllm_importance_sampling_ratio"] * data.mask_BC
    got_BC = importance_weights(delta_BC, data.mask_BC, mode, 2.0)
    torch.testing.assert_close(got_BC, expected_BC, rtol=1e-14, atol=0)
    largest = got_BC.max().item()
    assert largest == 2.0 if mode.endswith("truncate") else 0 < largest <= 2.0
    assert mode.endswith("truncate") or (got_BC[data.mask_BC] == 0).any()


def test_the_importance_correction_by_hand() -> None:
    delta_BT = torch.tensor([[9.0, 0.5, -0.2]]).double()
    mask_BT = torch.tensor([[False, True, True]])
    got = {
        mode: importance_weights(delta_BT, mask_BT, mode, 1.5)[0].tolist()
        for mode in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
    }
    low = pytest.approx(0.8187307530779818)
    both = pytest.approx(1.3498588075760032)
    assert got["token_truncate"] == [0.0, 1.5, low]
    assert got["token_mask"] == [0.0, 0.0, low]
    assert got["sequence_truncate"] == got["sequence_mask"] == [0.0, both, both]
