"""Which algorithms and options benchmarks/parity_trl.py compares, in rlkit's settings and in TRL's."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rlkit import algo_presets as presets
from rlkit.algo_config import FamilyConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One comparison.

    >>> case = Case(cfg=presets.CispoConfig(epsilon_high=0.5), loss_type="cispo")
    >>> case.algorithm, settings(case)["epsilon_high"]
    ('cispo', 1.5)
    """

    cfg: FamilyConfig
    loss_type: str
    """TRL's."""
    option: str = "as it is"
    title: str = ""
    """Where the name of the algorithm does not say enough."""
    lent: bool = False
    """TRL has no such advantages and is given rlkit's: what is compared is what comes after them."""
    micro_batches: int = 1
    """Of all answers, as TRL cuts them; rlkit's loss does not depend on them."""
    updates: int = 1
    """Mini-batches, each an optimizer step; losses and gradients are added up."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """TRL's settings that are NOT what rlkit's would be called."""

    @property
    def algorithm(self) -> str:
        return self.title or self.cfg.name

    @property
    def apart(self) -> tuple[str, ...]:
        """Beginnings of the metrics that differ on purpose here; rows of differences.py have their numbers."""
        cfg = self.cfg
        clip = ("clip_ratio/", "cispo_clip_ratio")
        by_answer = cfg.importance_sampling_level == "sequence" and cfg.mask_truncated_completions
        mode = cfg.importance_sampling_mode if cfg.importance_sampling_correction else ""
        return (
            *(clip if by_answer or mode.endswith("mask") else ()),
            *(("sampling/importance_sampling_ratio/mean",) if mode.startswith("sequence") else ()),
        )


def _algorithms() -> list[Case]:
    """Every loss type at every level, then the presets that choose more than these two."""
    members: list[tuple[FamilyConfig, str]] = [
        (presets.GrpoConfig(), "grpo"),
        (presets.BnpoConfig(), "bnpo"),
        (presets.DrGrpoConfig(), "dr_grpo"),
        # Truncated answers are an option here.
        (presets.DapoConfig(overlong_buffer=0.5, mask_truncated_completions=False), "dapo"),
        (presets.LuspoConfig(epsilon=0.2, epsilon_high=0.27), "luspo"),
        (presets.CispoConfig(epsilon_high=0.2), "cispo"),
        (presets.SapoConfig(), "sapo"),
    ]
    cases = [
        Case(
            cfg=replace(cfg, importance_sampling_level=level, importance_sampling_correction=False),
            loss_type=loss_type,
            title=f"{loss_type}, {level}",
        )
        for cfg, loss_type in members
        for level in ("token", "sequence")
    ]
    own: list[tuple[FamilyConfig, str]] = [
        (presets.GspoConfig(), "grpo"),
        (presets.LuspoConfig(), "luspo"),
    ]
    lent: list[tuple[FamilyConfig, str]] = [
        (presets.GrpoNConfig(), "grpo"),
        (presets.GspoNConfig(), "grpo"),
        (presets.NsrConfig(), "dapo"),
        (presets.PsrConfig(), "dapo"),
        (presets.WReinforceConfig(), "bnpo"),
        (presets.ReinforcePpConfig(), "grpo"),
        (presets.ReinforcePpBaselineConfig(), "grpo"),
    ]
    cases += [
        Case(cfg=replace(cfg, importance_sampling_correction=False), loss_type=loss_type, lent=is_lent)
        for is_lent, those in ((False, own), (True, lent))
        for cfg, loss_type in those
    ]
    return cases


ALGORITHMS = _algorithms()

OPTIONS: dict[str, dict[str, Any]] = {
    "beta": {"beta": 0.04},
    "beta, use_bias_correction_kl off": {"beta": 0.04, "use_bias_correction_kl": False},
    "entropy_coef": {"entropy_coef": 0.01},
    "top_entropy_quantile": {"top_entropy_quantile": 0.3, "entropy_coef": 0.01, "beta": 0.04},
    "off_policy_mask_threshold": {"off_policy_mask_threshold": 0.1},
    "mask_truncated_completions": {"mask_truncated_completions": True},
    "epsilon, epsilon_high": {"epsilon": 0.1, "epsilon_high": 0.28},
    "delta": {"delta": 2.0},
    "sapo_temperature_pos, _neg": {"sapo_temperature_pos": 2.0, "sapo_temperature_neg": 0.7},
    **{f"scale_rewards {scale}": {"scale_rewards": scale} for scale in ("group", "batch", "none")},
    **{
        f"correction, {mode}": {
            "importance_sampling_correction": True,
            "importance_sampling_mode": mode,
            "importance_sampling_clip_max": 1.2,
        }
        for mode in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
    },
    "two micro-batches": {},
    "two updates": {},
    "all at once": {
        "beta": 0.04,
        "entropy_coef": 0.01,
        "top_entropy_quantile": 0.5,
        "off_policy_mask_threshold": 0.1,
        "mask_truncated_completions": True,
        "scale_rewards": "batch",
        "importance_sampling_correction": True,
        "importance_sampling_mode": "sequence_truncate",
        "importance_sampling_clip_max": 1.2,
    },
}
ONLY = {
    "epsilon, epsilon_high": ("ppo",),  # TRL's cispo has no lower clip
    "delta": ("ppo",),
    "sapo_temperature_pos, _neg": ("sapo",),
}
"""The surrogates that an option concerns; else all."""
NOT_OF = {"two micro-batches": ("bnpo",), "two updates": ("dapo", "cispo")}
"""The loss types that differ there on purpose; rows of differences.py have their numbers."""


def options(case: Case) -> list[Case]:
    """The case with each option that it has, itself first."""
    if case.lent:
        return [case]
    out = [case]
    for name, changes in OPTIONS.items():
        surrogates, not_of = ONLY.get(name, (case.cfg.surrogate,)), NOT_OF.get(name, ())
        if case.cfg.surrogate in surrogates and case.loss_type not in not_of:
            cuts = {"two micro-batches": (2, 1), "two updates": (2, 2)}.get(name, (1, 1))
            cfg = replace(case.cfg, **changes)
            out.append(replace(case, option=name, cfg=cfg, micro_batches=cuts[0], updates=cuts[1]))
    return out


def settings(case: Case) -> dict[str, Any]:
    """rlkit's settings as a GRPOConfig names them."""
    cfg = case.cfg
    return {
        "loss_type": case.loss_type,
        "importance_sampling_level": cfg.importance_sampling_level,
        "epsilon": cfg.epsilon,
        # TRL's cispo takes the cap itself.
        "epsilon_high": 1 + cfg.clip_high if case.loss_type == "cispo" else cfg.clip_high,
        "delta": cfg.delta,
        "sapo_temperature_pos": cfg.sapo_temperature_pos,
        "sapo_temperature_neg": cfg.sapo_temperature_neg,
        "beta": cfg.beta,
        "use_bias_correction_kl": cfg.use_bias_correction_kl,
        "entropy_coef": cfg.entropy_coef,
        "top_entropy_quantile": cfg.top_entropy_quantile,
        "off_policy_mask_threshold": cfg.off_policy_mask_threshold,
        "mask_truncated_completions": cfg.mask_truncated_completions,
        "scale_rewards": "none" if case.lent else cfg.scale_rewards,
        "vllm_importance_sampling_mode": cfg.importance_sampling_mode,
        "vllm_importance_sampling_clip_max": cfg.importance_sampling_clip_max,
        **case.overrides,
    }
