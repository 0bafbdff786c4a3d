"""Loss, gradient, clip metrics, advantages and importance correction equal TRL's own code, on the same tensors, in float64."""

import inspect
import textwrap
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from trl.trainer import grpo_trainer
from trl.trainer.grpo_trainer import GRPOTrainer

from rlkit.algo_config import AlgoConfig, FamilyConfig
from rlkit.algo_presets import (
    BnpoConfig,
    CispoConfig,
    DapoConfig,
    DrGrpoConfig,
    GrpoConfig,
    GspoConfig,
    LuspoConfig,
    SapoConfig,
)
from rlkit.algos.base import Sampling
from rlkit.algos.family import Family
from rlkit.algos.ops import group_advantages
from rlkit.batch import SURROGATES, Batch, TokenStats
from rlkit.learner.correction import importance_weights
from rlkit.types import Group
from tests.rollouts import question, rollout

LONGEST = 8
CLIP_NAMES = ("clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean")


class Tensors:
    """One micro-batch of 6 answers of 1 to 7 tokens after prompts of 3, with ratios on both sides of every clip."""

    def __init__(self, seed: int, spread: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.lengths = [1, 7, 4, 2, 7, 5]
        self.mask_BC = torch.arange(7)[None] < torch.tensor(self.lengths)[:, None]
        shape = self.mask_BC.shape
        self.old_BC = -3 * torch.rand(shape, generator=generator, dtype=torch.float64)
        self.logp_BC = self.old_BC + spread * torch.randn(shape, generator=generator, dtype=torch.float64)
        self.ref_BC = self.old_BC + 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)
        self.entropy_BC = torch.rand(shape, generator=generator, dtype=torch.float64)
        self.importance_BC = 3 * torch.rand(shape, generator=generator, dtype=torch.float64)
        self.sampler_BC = self.old_BC + 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)
        self.adv_B = torch.tensor([1.2, -0.7, 0.4, 1.9, -1.1, -0.2], dtype=torch.float64)


class Oracle(GRPOTrainer):
    """TRL's trainer with only what `_compute_loss` reads, and log-probs from a list instead of a model."""

    def __init__(self, data: Tensors, cfg: FamilyConfig, loss_type: str, use_vllm: bool) -> None:
        self.data, self.beta, self.loss_type = data, cfg.beta, loss_type
        self.logp_BC = data.logp_BC.clone().requires_grad_()
        self.entropy_BC = data.entropy_BC.clone().requires_grad_()
        self.importance_sampling_level = cfg.importance_sampling_level
        self.epsilon_low = cfg.epsilon
        # TRL's cispo takes the cap itself.
        self.epsilon_high = 1 + cfg.clip_high if loss_type == "cispo" else cfg.clip_high
        self.use_vllm = self.vllm_importance_sampling_correction = use_vllm
        self.top_entropy_quantile = cfg.top_entropy_quantile
        self.off_policy_mask_threshold = cfg.off_policy_mask_threshold
        self.entropy_coef, self.use_adaptive_entropy = cfg.entropy_coef, False
        self._entropy_bonus_enabled, self.aux_loss_enabled = cfg.entropy_coef != 0, False
        self.current_gradient_accumulation_steps, self.max_completion_length = 1, LONGEST
        self.args: Any = SimpleNamespace(
            delta=cfg.delta,
            use_bias_correction_kl=cfg.use_bias_correction_kl,
            sapo_temperature_pos=cfg.sapo_temperature_pos,
            sapo_temperature_neg=cfg.sapo_temperature_neg,
            steps_per_generation=1,
        )
        self.model: Any = SimpleNamespace(training=True)
        self.accelerator = Accelerator(cpu=True)
        self._metrics = {"train": defaultdict(list)}

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, None]:
        return self.logp_BC, self.entropy_BC, None

    def run(self, adv_B: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, float]]:
        """Loss, its gradients by log-prob and by entropy, metrics."""
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
                "sampling_per_token_logps": self.data.sampler_BC,
                "importance_sampling_ratio": self.data.importance_BC,
                "num_items_in_batch": mask_BC.sum(),
            },
        )
        metrics = {k: v[0] for k, v in self._metrics["train"].items()}
        return loss.detach(), *gradients(loss, self.logp_BC, self.entropy_BC), metrics


def gradients(loss: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, leaves, materialize_grads=True)


def ours(
    data: Tensors, cfg: FamilyConfig, adv_B: Tensor, corrected: bool
) -> tuple[Tensor, Tensor, Tensor, dict[str, float]]:
    """The same of rlkit."""
    groups = [Group(prompt=question(), rollouts=[rollout([50] * n, score=0.0) for n in data.lengths])]
    algo = Family(cfg, Sampling(max_completion_length=LONGEST, temperature=1.0))
    weights = [(c.weight, c.share) for c in algo.credit(groups, [])]
    mask_BT = data.mask_BC
    weight_BT = torch.tensor([weight for weight, _ in weights], dtype=torch.float64)[:, None] * mask_BT
    adv_BT = adv_B[:, None] * mask_BT
    num_tokens = int(mask_BT.sum())
    batch = Batch(
        ids_BT=mask_BT.long(),
        mask_BT=mask_BT,
        sampler_logp_BT=data.sampler_BC,
        adv_BT=adv_BT * data.importance_BC if corrected else adv_BT,
        weight_BT=weight_BT,
        surrogate_BT=torch.full_like(mask_BT.long(), SURROGATES.index(cfg.surrogate)),
        denominator=sum(share for _, share in weights),
        num_tokens=num_tokens,
    )
    logp_BT = data.logp_BC.clone().requires_grad_()
    entropy_BT = data.entropy_BC.clone().requires_grad_()
    high_BT = None
    if cfg.top_entropy_quantile < 1:
        threshold = torch.quantile(data.entropy_BC[mask_BT].float(), 1 - cfg.top_entropy_quantile)
        high_BT = (data.entropy_BC >= threshold) & mask_BT
    out = TokenStats(
        logp_BT=logp_BT,
        old_logp_BT=data.old_BC,
        entropy_BT=entropy_BT,
        ref_logp_BT=data.ref_BC if cfg.beta else None,
        high_entropy_BT=high_BT,
        num_high_entropy=num_tokens if high_BT is None else int(high_BT.sum()),
    )
    loss, metrics = algo.loss(batch, out)
    found = {name: tally.value for name, tally in metrics.items()}
    return loss.detach(), *gradients(loss, logp_BT, entropy_BT), found


CASES: dict[str, tuple[FamilyConfig, str]] = {
    "grpo": (GrpoConfig(), "grpo"),
    "grpo, clip-higher": (GrpoConfig(epsilon=0.1, epsilon_high=0.28), "grpo"),
    "grpo, two-sided clip": (GrpoConfig(delta=2.0), "grpo"),
    "gspo": (GspoConfig(), "grpo"),
    "gspo, wide clip": (GspoConfig(epsilon=0.2, epsilon_high=0.27), "grpo"),
    "bnpo": (BnpoConfig(), "bnpo"),
    "dr_grpo": (DrGrpoConfig(), "dr_grpo"),
    "dapo": (DapoConfig(), "dapo"),
    "luspo": (LuspoConfig(epsilon=0.2, epsilon_high=0.27), "luspo"),
    "cispo": (CispoConfig(epsilon_high=0.5), "cispo"),
    "cispo, sequence": (CispoConfig(epsilon_high=0.1, importance_sampling_level="sequence"), "cispo"),
    "sapo": (SapoConfig(), "sapo"),
    "sapo, sequence": (SapoConfig(importance_sampling_level="sequence"), "sapo"),
}
CHANGES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "KL": {"beta": 0.04},
    "KL uncorrected": {"beta": 0.04, "use_bias_correction_kl": False},
    "entropy bonus": {"entropy_coef": 0.01},
    "top entropy": {"top_entropy_quantile": 0.3, "entropy_coef": 0.01, "beta": 0.04},
    "off-policy mask": {"off_policy_mask_threshold": 0.1, "beta": 0.04},
}


@pytest.mark.parametrize("corrected", [False, True], ids=["", "importance corrected"])
@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize("name", CASES)
def test_loss_gradients_and_metrics_are_trls(name: str, changes: str, corrected: bool) -> None:
    cfg, loss_type = CASES[name]
    cfg = replace(cfg, **CHANGES[changes])
    for seed, spread in ((0, 0.3), (3, 1.0), (2, 1e-4)):
        data = Tensors(seed, spread)
        loss, by_logp_BC, by_entropy_BC, metrics = ours(data, cfg, data.adv_B, corrected)
        oracle = Oracle(data, cfg, loss_type, use_vllm=corrected).run(data.adv_B)
        assert loss.item() == pytest.approx(oracle[0].item(), abs=1e-12)
        torch.testing.assert_close(by_logp_BC, oracle[1], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(by_entropy_BC, oracle[2], rtol=1e-12, atol=1e-12)
        told = {k: v for k, v in oracle[3].items() if k not in ("entropy", "entropy_coef")}  # the learner's
        assert metrics == pytest.approx(told, abs=1e-6)  # TRL's counts are float32


def test_the_oracle_has_something_to_clip_and_to_drop() -> None:
    data = Tensors(3, 1.0)
    *_, metrics = Oracle(data, GrpoConfig(), "grpo", use_vllm=False).run(data.adv_B)
    assert all(metrics[name] > 0 for name in CLIP_NAMES)
    *_, metrics = Oracle(data, GspoConfig(), "grpo", use_vllm=False).run(data.adv_B)
    assert metrics["clip_ratio/low_mean"] > 0
    *_, metrics = Oracle(data, CASES["cispo"][0], "cispo", use_vllm=False).run(data.adv_B)
    assert metrics["cispo_clip_ratio"] > 0
    losses = {
        ours(data, GrpoConfig(off_policy_mask_threshold=limit), data.adv_B, False)[0].item()
        for limit in (None, 0.1)
    }
    assert len(losses) == 2


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
