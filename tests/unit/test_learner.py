"""The learner: a gradient that does not depend on how a batch was cut, and steps that are what they say."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from rlkit.algo_config import AlgoConfig
from rlkit.algo_own import SkpoConfig
from rlkit.algo_presets import GrpoConfig, GspoNConfig
from rlkit.algos.base import Sampling
from rlkit.algos.family import Family
from rlkit.algos.skpo import Skpo
from rlkit.batch import Batch, TokenStats, make_minibatches
from rlkit.config import LearnerConfig
from rlkit.errors import ModelError, RunError
from rlkit.learner import Learner
from rlkit.learner.first import First
from rlkit.learner.gradient import accumulate
from rlkit.metrics import Metrics, Tally
from rlkit.types import Credit
from tests.models import tiny_model
from tests.rollouts import rollout

SAMPLING = Sampling(max_completion_length=64, temperature=1.0)
UNCORRECTED = {"importance_sampling_correction": False}


def make_learner(
    *,
    algo: AlgoConfig | None = None,
    learning_rate: float = 1e-2,
    num_iterations: int = 1,
    autocast: bool = False,
    reference: Any = None,
    model: Any = None,
    **cfg: Any,
) -> Learner:
    return Learner(
        model or tiny_model(seed=0),
        LearnerConfig(**cfg),
        algo or AlgoConfig(**UNCORRECTED),
        learning_rate=learning_rate,
        temperature=1.0,
        num_iterations=num_iterations,
        pad_id=0,
        autocast=autocast,
        reference=reference,
    )


def grpo_credits() -> list[Credit]:
    """Four prompts, four answers each, of 1 to 30 tokens."""
    generator = torch.Generator().manual_seed(0)
    credits = []
    for i in range(16):
        length = int(torch.randint(1, 31, (1,), generator=generator))
        tokens = torch.randint(2, 260, (3 + i % 5 + length,), generator=generator).tolist()
        r = rollout(tokens[-length:], prompt=tokens[:-length])
        a = float(torch.randn(1, generator=generator))
        credits.append(Credit(rollout=r, advantages=[a] * length, weight=1 / length, share=1.0, group=i // 4))
    return credits


def skpo_credits() -> list[Credit]:
    """The same answers with SKPO's two denominators: the first of each prompt is its segment."""
    credits = []
    for i, c in enumerate(grpo_credits()):
        is_segment = i % 4 == 0
        tokens = sum(len(d.advantages) for d in grpo_credits()[i - i % 4 + 1 : i - i % 4 + 4])
        credits.append(
            Credit(
                rollout=c.rollout,
                advantages=c.advantages,
                weight=0.5 / (len(c.advantages) if is_segment else tokens),
                share=1.0 if is_segment else 0.0,
                surrogate="ppo" if is_segment else "cispo",
                group=c.group,
            )
        )
    return credits


def gradient_of(learner: Learner, batches: list[Batch], loss: Any) -> Tensor:
    """The gradient that these micro-batches add up to, as one vector."""
    for batch in batches:
        accumulate(learner, batch, First(), loss)
    out = torch.cat([p.grad.flatten() for p in learner.model.parameters() if p.grad is not None]).double()
    learner.optimizer.zero_grad()
    return out


def weights_of(learner: Learner) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in learner.model.parameters()])


def pushed(credits: list[Credit], order: list[int]) -> list[Credit]:
    return [credits[i] for i in order]


@pytest.mark.parametrize(
    "algo, make_credits",
    [
        (Family(GrpoConfig(**UNCORRECTED), SAMPLING), grpo_credits),
        (Skpo(SkpoConfig(**UNCORRECTED), SAMPLING), skpo_credits),
        (Family(GspoNConfig(**UNCORRECTED), SAMPLING), grpo_credits),
    ],
    ids=["grpo", "skpo", "gspo_n"],
)
def test_the_gradient_does_not_depend_on_micro_batches_padding_or_order(
    algo: Any, make_credits: Callable[[], list[Credit]]
) -> None:
    learner = make_learner(algo=algo.cfg)
    credits = make_credits()
    shuffled = torch.randperm(16, generator=torch.Generator().manual_seed(1)).tolist()
    gradients = []
    # One row at a time; a few; all; all in another order; all beside a long row that trains nothing.
    for tokens, order in (
        (1, None),
        (40, None),
        (100, shuffled),
        (333, None),
        (10**6, None),
        (10**6, shuffled),
    ):
        mine = credits if order is None else pushed(credits, order)
        (mini,) = make_minibatches(mine, 1, tokens, pad_id=0)
        gradients.append(gradient_of(learner, mini, algo.loss))
    padding = Credit(rollout=rollout([5] * 90), advantages=[0.0] * 90, weight=0.0, share=0.0, group=0)
    (mini,) = make_minibatches([*credits, padding], 1, 10**6, pad_id=7)
    gradients.append(gradient_of(learner, mini, algo.loss))
    scale = gradients[0].norm()
    assert scale > 0
    differences = [float((g - gradients[0]).norm() / scale) for g in gradients[1:]]
    assert max(differences) < 1e-5, differences


def test_an_update_is_one_step_whatever_the_micro_batches() -> None:
    algo, weights = Family(GrpoConfig(**UNCORRECTED), SAMPLING), []
    for tokens in (1, 100, 10**6):
        learner = make_learner(learning_rate=1e-3)
        report = learner.update(make_minibatches(grpo_credits(), 1, tokens, pad_id=0), algo.loss)
        weights.append(weights_of(learner))
        assert report.updates == 1 and report.metrics["learning_rate"] == 1e-3
        assert report.trained_tokens == sum(len(c.advantages) for c in grpo_credits())
    # AdamW's first step is about lr * sign(gradient), so a last bit near zero may turn one weight by 2 lr, not many.
    moved = (weights[0] - weights[1]).abs() > 1e-4
    assert moved.float().mean() < 1e-3 and (weights[0] - weights[2]).abs().max() <= 2.1e-3


class Spy:
    """GRPO's loss that keeps the old and the present log-probs it was shown."""

    def __init__(self) -> None:
        self.algo = Family(GrpoConfig(**UNCORRECTED), SAMPLING)
        self.seen: list[tuple[Batch, Tensor, Tensor]] = []

    def loss(self, batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        self.seen.append((batch, out.old_logp_BT, out.logp_BT.detach()))
        return self.algo.loss(batch, out)


def test_with_one_update_the_old_log_probs_are_the_present_ones() -> None:
    spy = Spy()
    make_learner().update(make_minibatches(grpo_credits(), 1, 10**6, pad_id=0), spy.loss)
    assert torch.equal(spy.seen[0][1], spy.seen[0][2])


def test_the_second_mini_batch_is_compared_with_the_policy_before_the_first() -> None:
    credits, spy = grpo_credits(), Spy()
    before = make_learner().logprobs([c.rollout for c in credits])
    learner = make_learner()
    report = learner.update(make_minibatches(credits, 2, 10**6, pad_id=0), spy.loss)
    assert (report.updates, learner.updates, len(spy.seen)) == (2, 2, 2)
    first, second = spy.seen
    assert torch.equal(first[1], first[2])
    batch, old_BT, now_BT = second
    for row, i in enumerate(batch.rows):
        assert old_BT[row][batch.mask_BT[row]].tolist() == pytest.approx(before[i], abs=1e-5)
    assert (now_BT - old_BT).abs().max() > 0.01


def test_iterations_pass_over_the_same_rollouts_against_the_same_old_policy() -> None:
    spy = Spy()
    learner = make_learner(num_iterations=3)
    report = learner.update(make_minibatches(grpo_credits(), 2, 10**6, pad_id=0), spy.loss)
    assert (report.updates, len(spy.seen)) == (6, 6)
    assert report.trained_tokens == 3 * sum(len(c.advantages) for c in grpo_credits())
    assert torch.equal(spy.seen[0][1], spy.seen[4][1]) and not torch.equal(spy.seen[0][2], spy.seen[4][2])


def test_the_sampler_enters_only_through_the_importance_correction() -> None:
    """The log-probs of the rollouts (-1 each) are nowhere near the learner's."""
    credits = grpo_credits()
    gradients = {}
    for mode in ("none", "token_truncate", "sequence_mask"):
        cfg = GrpoConfig(**UNCORRECTED) if mode == "none" else GrpoConfig(importance_sampling_mode=mode)  # type: ignore[arg-type]
        learner = make_learner(algo=cfg)
        (mini,) = make_minibatches(credits, 1, 10**6, pad_id=0)
        _, metrics = accumulate(learner, mini[0], First(), Family(cfg, SAMPLING).loss)
        gradients[mode] = torch.cat([p.grad.flatten() for p in learner.model.parameters()])  # type: ignore[union-attr]
        name = "sampling/importance_sampling_ratio/max"
        assert (name in metrics) == (mode != "none")
        assert mode == "none" or metrics[name].value <= 3.0
    old = make_learner().logprobs([c.rollout for c in credits])
    gap = [abs(v + 1.0) for row in old for v in row]
    assert metrics["sampling/sampling_logp_difference/mean"].value == pytest.approx(
        sum(gap) / len(gap), rel=1e-5
    )
    assert metrics["sampling/sampling_logp_difference/max"].value == pytest.approx(max(gap), rel=1e-5)
    assert not torch.equal(gradients["none"], gradients["token_truncate"])


def test_the_correction_weighs_the_policy_term_and_not_the_penalty() -> None:
    """As in TRL. A sampler that found every token unlikely has sequence ratios over the cap: only the penalty is left."""
    credit = Credit(
        rollout=rollout([5, 6], logprobs=[-50.0, -50.0]), advantages=[1.0, 1.0], weight=0.5, share=1.0
    )
    cfg = GrpoConfig(beta=0.1)
    learner = make_learner(algo=cfg, reference=tiny_model(seed=1))
    ((batch,),) = make_minibatches([credit], 1, 64, pad_id=0)
    loss, metrics = accumulate(learner, batch, First(), Family(cfg, SAMPLING).loss)
    assert metrics["sampling/importance_sampling_ratio/max"].value == 0.0
    assert loss == pytest.approx(0.1 * metrics["kl"].value, rel=1e-6) and loss > 0


def test_the_penalty_pulls_to_the_reference_by_k3() -> None:
    cfg = GrpoConfig(beta=0.04, **UNCORRECTED)
    credits = grpo_credits()
    reference = tiny_model(seed=1)
    learner = make_learner(algo=cfg, reference=reference)
    now = learner.logprobs([c.rollout for c in credits])
    then = make_learner(model=tiny_model(seed=1)).logprobs([c.rollout for c in credits])
    k3 = [
        [math.exp(b - a) - (b - a) - 1 for a, b in zip(x, y, strict=True)]
        for x, y in zip(now, then, strict=True)
    ]
    weights = {n: p.clone() for n, p in reference.named_parameters()}
    report = learner.update(make_minibatches(credits, 1, 100, pad_id=0), Family(cfg, SAMPLING).loss)
    tokens = [v for row in k3 for v in row]
    assert report.metrics["kl"] == pytest.approx(sum(tokens) / len(tokens), rel=1e-3)
    policy = -sum(c.advantages[0] for c in credits) / 16  # every ratio is 1
    penalty = 0.04 * sum(sum(row) / len(row) for row in k3) / 16
    assert report.metrics["loss"] == pytest.approx(policy + penalty, rel=1e-3)
    assert all(torch.equal(weights[n], p) for n, p in reference.named_parameters())


def test_warm_up_is_linear_and_then_constant() -> None:
    learner = make_learner(learning_rate=1e-3, warmup_steps=4)
    rates = [
        learner.update(make_minibatches(grpo_credits()[:4], 1, 10**6, pad_id=0), Spy().loss).metrics[
            "learning_rate"
        ]
        for _ in range(6)
    ]
    assert rates == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3])


def test_the_gradient_is_clipped_to_its_norm() -> None:
    reports = [
        make_learner(max_grad_norm=norm).update(
            make_minibatches(grpo_credits(), 1, 10**6, pad_id=0), Spy().loss
        )
        for norm in (1e-3, 1e6)
    ]
    assert reports[0].metrics["grad_norm"] == reports[1].metrics["grad_norm"] > 1e-3  # told before clipping
    learner = make_learner(max_grad_norm=1e-3)
    learner.update(make_minibatches(grpo_credits(), 1, 10**6, pad_id=0), Spy().loss)
    moments = [v for k, v in learner.optimizer_tensors().items() if k.endswith("exp_avg")]
    norm = torch.cat([m.flatten() for m in moments]).norm().item()
    assert norm == pytest.approx(0.1 * 1e-3, rel=1e-3)  # (1 - beta1) times the clipped gradient


def test_decay_shrinks_matrices_and_leaves_biases_and_norms() -> None:
    learner = make_learner(learning_rate=1e-2, weight_decay=0.5)
    before = {n: p.detach().clone() for n, p in learner.model.named_parameters()}

    def idle(batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        return out.logp_BT.sum() * 0.0, {}

    learner.update(make_minibatches(grpo_credits(), 1, 10**6, pad_id=0), idle)
    for name, p in learner.model.named_parameters():
        expected = before[name] * (1 - 1e-2 * 0.5) if p.ndim > 1 else before[name]
        torch.testing.assert_close(p.detach(), expected, rtol=1e-6, atol=0)
    assert any(p.ndim == 1 for p in learner.model.parameters())


def test_gradient_checkpointing_gives_the_same_gradient_and_leaves_the_config(tmp_path: Path) -> None:
    loss = Family(GrpoConfig(**UNCORRECTED), SAMPLING).loss
    (mini,) = make_minibatches(grpo_credits(), 1, 10**6, pad_id=0)
    plain = gradient_of(make_learner(), mini, loss)
    learner = make_learner(gradient_checkpointing=True)
    assert learner.model.is_gradient_checkpointing
    assert torch.equal(gradient_of(learner, mini, loss), plain)
    learner.save_model(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.use_cache


def test_bfloat16_autocast_trains_and_keeps_float32_weights() -> None:
    learner = make_learner(autocast=True)
    before = weights_of(learner)
    report = learner.update(make_minibatches(grpo_credits(), 2, 100, pad_id=0), Spy().loss)
    assert all(math.isfinite(v) for v in report.metrics.values())
    assert not torch.equal(weights_of(learner), before)
    assert {p.dtype for p in learner.model.parameters()} == {torch.float32}
    rough = make_learner(autocast=True).logprobs([grpo_credits()[0].rollout])[0]
    exact = make_learner().logprobs([grpo_credits()[0].rollout])[0]
    assert rough != exact and rough == pytest.approx(exact, abs=0.3)


def test_dropout_of_the_model_is_off_in_training() -> None:
    model = tiny_model(seed=0)
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    got = make_learner(model=model).logprobs([c.rollout for c in grpo_credits()])
    assert got == make_learner().logprobs([c.rollout for c in grpo_credits()])


def test_log_probs_come_in_the_order_asked_for() -> None:
    rollouts = [c.rollout for c in grpo_credits()]
    together = make_learner().logprobs(rollouts)
    alone = [make_learner().logprobs([r])[0] for r in rollouts[:3]]
    assert [len(x) for x in together] == [len(r.completion_ids) for r in rollouts]
    for a, b in zip(alone, together, strict=False):
        assert a == pytest.approx(b, abs=1e-5)
    assert make_learner().logprobs([]) == []


def test_a_step_in_which_nothing_was_judged_changes_nothing() -> None:
    learner = make_learner()
    before = weights_of(learner)
    report = learner.update(make_minibatches([], 2, 100, pad_id=0), Spy().loss)
    assert (report.updates, report.trained_tokens, learner.updates) == (0, 0, 0)
    assert torch.equal(weights_of(learner), before)


def test_metrics_do_not_depend_on_micro_batches() -> None:
    reports = [
        make_learner(algo=AlgoConfig()).update(
            make_minibatches(grpo_credits(), 1, tokens, pad_id=0), Family(GrpoConfig(), SAMPLING).loss
        )
        for tokens in (1, 10**6)
    ]
    assert reports[0].metrics.keys() == reports[1].metrics.keys()
    for name, value in reports[0].metrics.items():
        assert value == pytest.approx(reports[1].metrics[name], rel=1e-4, abs=1e-6), name


def test_optimizer_state_goes_through_tensors_and_back() -> None:
    algo = Family(GrpoConfig(**UNCORRECTED), SAMPLING)
    minis = make_minibatches(grpo_credits(), 1, 10**6, pad_id=0)
    learner = make_learner()
    learner.update(minis, algo.loss)
    other = make_learner()
    other.model.load_state_dict(learner.weights())
    saved = {name: tensor.clone() for name, tensor in learner.optimizer_tensors().items()}
    other.load_optimizer_tensors(saved, learner.updates)
    learner.update(minis, algo.loss)
    other.update(minis, algo.loss)
    assert torch.equal(weights_of(learner), weights_of(other)) and other.updates == 2


def test_optimizer_state_of_another_model_is_refused() -> None:
    learner = make_learner()
    learner.update(make_minibatches(grpo_credits(), 1, 10**6, pad_id=0), Spy().loss)
    other = make_learner(model=tiny_model(seed=0, intermediate_size=96))
    with pytest.raises(RunError, match="does not fit this model"):
        other.load_optimizer_tensors(learner.optimizer_tensors(), 1)


def test_models_whose_logits_are_more_than_a_linear_head_are_refused() -> None:
    model = tiny_model(seed=0)
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(ModelError, match="final_logit_softcapping = 30.0"):
        make_learner(model=model)


def test_tied_embeddings_reach_the_sampler_under_both_names() -> None:
    weights = make_learner(model=tiny_model(seed=0, tied=True)).weights()
    assert torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    assert not any(t.requires_grad for t in weights.values())


def test_reports_are_means_over_updates() -> None:
    learner = make_learner()

    def constant(batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        value = 1.0 if batch.rows[0] < 8 else 3.0
        return out.logp_BT.sum() * 0.0 + value, {"x": Tally(value)}

    report = learner.update(make_minibatches(grpo_credits(), 2, 10**6, pad_id=0), constant)
    assert (report.metrics["loss"], report.metrics["x"]) == (2.0, 2.0)
