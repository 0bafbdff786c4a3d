"""The family: what it minimises, by hand (sections 5 and 7 of the papers' specification); gradients by autograd in float64."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlkit.algo_config import AlgoConfig, FamilyConfig
from rlkit.algo_own import SkpoConfig
from rlkit.algo_presets import (
    ALGO_CONFIGS,
    CispoConfig,
    DapoConfig,
    GrpoConfig,
    GrpoNConfig,
    GspoConfig,
    LuspoConfig,
    RlooConfig,
    SapoConfig,
)
from rlkit.algos.base import Sampling
from rlkit.algos.family import Family
from rlkit.algos.objective import Shape, objective
from rlkit.algos.ops import k3, sequence_log_ratio
from rlkit.algos.skpo import Skpo
from rlkit.batch import Batch, TokenStats, make_minibatches
from rlkit.metrics import merge, values
from rlkit.types import Credit, Group, Score
from tests.losses import batch_of, doubled, gradient, padded, stats_of
from tests.rollouts import question, rollout

SAMPLING = Sampling(max_completion_length=8, temperature=1.0)
FAMILY = {name: config for name, config in ALGO_CONFIGS.items() if issubclass(config, FamilyConfig)}
WITHIN = ("clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean")


def loss_of(cfg: AlgoConfig, batch: Batch, out: TokenStats) -> Tensor:
    return Family(cfg, SAMPLING).loss(batch, out)[0]


def flat(rows: list[list[float]]) -> list[float]:
    return [x for row in rows for x in row]


# -- surrogates --------------------------------------------------------------------------------------------------------


def test_ppo_stops_above_the_clip_for_good_tokens_and_below_it_for_bad_ones() -> None:
    #            within   above: stopped  below: pulls   within   above: pushes  below: stopped
    ratio = [[1.1, 1.5, 0.5, 1.1, 1.5, 0.5]]
    logp_BT, out = stats_of(ratio)
    batch = batch_of([[2.0, 2.0, 2.0, -2.0, -2.0, -2.0]])
    loss, metrics = Family(GrpoConfig(), SAMPLING).loss(batch, out)
    assert loss.item() == pytest.approx(-(2.2 + 2.4 + 1.0 - 2.2 - 3.0 - 1.6))
    assert gradient(loss, logp_BT)[0] == pytest.approx([-2.2, 0.0, -1.0, 2.2, 3.0, 0.0])
    told = values(metrics)
    assert [told[name] for name in WITHIN] == pytest.approx([1 / 6, 1 / 6, 2 / 6])


def test_the_two_sided_clip_stops_negative_tokens_far_above() -> None:
    """INTELLECT-2's delta 4: a ratio of 3 still pushes, a ratio of 10 pushes as 4 does and no more; good tokens are PPO's."""
    logp_BT, out = stats_of([[3.0, 10.0, 10.0, 1.1]])
    loss = loss_of(GrpoConfig(delta=4.0), batch_of([[-1.0, -1.0, 1.0, 1.0]]), out)
    assert loss.item() == pytest.approx(3.0 + 4.0 - 1.2 - 1.1)
    assert gradient(loss, logp_BT)[0] == pytest.approx([3.0, 0.0, 0.0, -1.1])


@pytest.mark.parametrize("cap, epsilon_high", [(1.28, 0.28), (5.0, 4.0)])
def test_cispo_pulls_with_the_capped_ratio_where_ppo_has_stopped(cap: float, epsilon_high: float) -> None:
    """A ratio of 3 at cap 1.28: 1.28 A grad log pi; at the default cap of 5: 3 A grad log pi."""
    logp_BT, out = stats_of([[3.0]])
    loss = loss_of(CispoConfig(epsilon_high=epsilon_high), batch_of([[0.5]], surrogate="cispo"), out)
    assert gradient(loss, logp_BT) == [[pytest.approx(-min(3.0, cap) * 0.5, abs=1e-12)]]
    ppo = loss_of(GrpoConfig(epsilon_high=epsilon_high if cap < 3 else None), batch_of([[0.5]]), out)
    assert gradient(ppo, logp_BT) == [[0.0]]


def test_cispo_s_weight_carries_no_gradient_of_its_own_and_falls_without_a_floor() -> None:
    logp_BT, out = stats_of([[0.1, 1.5, 1.5]])
    batch = batch_of([[1.0, 1.0, -1.0]], surrogate="cispo")
    loss, metrics = Family(CispoConfig(epsilon_high=0.2), SAMPLING).loss(batch, out)
    assert loss.item() == pytest.approx(-0.1 * (math.log(0.1) - 1))  # the other two cancel
    assert gradient(loss, logp_BT)[0] == pytest.approx([-0.1, -1.2, 1.2])
    assert values(metrics) == {"cispo_clip_ratio": pytest.approx(1 / 3)}  # TRL counts the positive ones
    floor = loss_of(CispoConfig(epsilon=0.2, epsilon_high=0.2), batch, out)
    assert gradient(floor, logp_BT)[0] == pytest.approx([-0.8, -1.2, 1.2])


def test_sapo_is_the_plain_gradient_at_a_ratio_of_one() -> None:
    logp_BT, out = stats_of([[1.0, 1.0]])
    loss, metrics = Family(SapoConfig(), SAMPLING).loss(batch_of([[2.0, -3.0]], surrogate="sapo"), out)
    # f(1) = 4 / tau * sigmoid(0) = 2 / tau
    assert loss.item() == pytest.approx(-(2.0 * 2 / 1.0 - 3.0 * 2 / 1.05))
    assert gradient(loss, logp_BT)[0] == pytest.approx([-2.0, 3.0])
    assert metrics == {}  # nothing is clipped


def test_sapo_s_gate_is_a_squared_hyperbolic_secant() -> None:
    """d/d log pi of f(r) A = sech^2(tau (r - 1) / 2) r A, with tau by the sign of A."""
    ratio = [0.25, 0.8, 1.3, 4.0]
    for adv, tau in ((1.5, 0.7), (-1.5, 2.0)):
        logp_BT, out = stats_of([ratio])
        cfg = SapoConfig(sapo_temperature_pos=0.7, sapo_temperature_neg=2.0)
        loss = loss_of(cfg, batch_of([[adv] * 4], surrogate="sapo"), out)
        gated = [r * adv / math.cosh(tau * (r - 1) / 2) ** 2 for r in ratio]
        assert gradient(loss, logp_BT)[0] == pytest.approx([-g for g in gated], rel=1e-6)  # tau is float32


def test_rloo_s_loss_is_the_log_prob_of_whole_answers() -> None:
    """Rewards 1 and 0.25: -(0.75 (-1 - 2) - 0.75 (-4)) / 2 answers; the ratio to the old policy plays no part."""
    answers = [rollout([3], score=0.25), rollout([5, 3], score=1.0)]
    algo = Family(RlooConfig(), SAMPLING)
    credits = algo.credit([Group(prompt=question(), rollouts=answers)], [])
    ((batch,),) = make_minibatches(credits, 1, 64, pad_id=0)
    logp_BT = padded([[-4.0], [-1.0, -2.0]]).requires_grad_()
    out = TokenStats(
        logp_BT=logp_BT, old_logp_BT=logp_BT.detach() - 3, entropy_BT=logp_BT.detach(), num_high_entropy=3
    )
    loss = algo.loss(doubled(batch), out)[0]
    assert loss.item() == pytest.approx(-(0.75 * -3 - 0.75 * -4) / 2)
    assert flat(gradient(loss, logp_BT)) == [0.375, 0.0, -0.375, -0.375]


def test_a_token_of_another_surrogate_is_refused() -> None:
    _, out = stats_of([[1.0]])
    with pytest.raises(ValueError, match="a token takes the surrogate 'sapo', but this loss has only ppo"):
        loss_of(GrpoConfig(), batch_of([[1.0]], surrogate="sapo"), out)


def test_two_surrogates_in_one_batch_take_their_own_shapes_and_metrics() -> None:
    """And an overflowing ratio, which CISPO's detached cap bears, reaches nobody through the other surrogate's branch."""
    credits = [
        Credit(rollout=rollout([50]), advantages=[1.0], weight=1.0, share=0.5, surrogate=name)
        for name in ("ppo", "cispo")
    ]
    ((batch,),) = make_minibatches(credits, 1, 64, pad_id=0)
    logp_BT, out = stats_of([[1.5], [1.5]])
    shapes: Any = {"ppo": Shape(low=0.2, high=0.2), "cispo": Shape(low=0.2, high=0.3)}
    loss, metrics = objective(doubled(batch), out, AlgoConfig(), shapes)
    assert gradient(loss, logp_BT) == [[0.0], [pytest.approx(-1.3)]]
    assert metrics["clip_ratio/high_mean"].value == metrics["cispo_clip_ratio"].value == 1.0
    assert metrics["clip_ratio/high_mean"].count == metrics["cispo_clip_ratio"].count == 1.0
    out = replace(out, old_logp_BT=padded([[-1.0], [-900.0]]))
    loss, _ = objective(doubled(batch), out, AlgoConfig(), shapes)
    assert gradient(loss, logp_BT) == [[0.0], [pytest.approx(-1.3)]]


# -- sequence ratios ---------------------------------------------------------------------------------------------------


def test_gspo_with_one_token_answers_is_grpo_with_the_same_clip() -> None:
    ratio, adv = [[1.5], [0.5], [1.1], [0.9], [1.5], [0.5]], [[1.0], [1.0], [1.0], [-1.0], [-1.0], [-1.0]]
    found = []
    for kind in (GspoConfig, GrpoConfig):
        logp_BT, out = stats_of(ratio)
        loss, metrics = Family(kind(epsilon=0.2, epsilon_high=0.28), SAMPLING).loss(batch_of(adv), out)
        found.append((loss.item(), gradient(loss, logp_BT), dict(metrics)))
    assert found[0] == found[1]


def test_gspo_gives_every_token_the_geometric_mean_of_the_ratios() -> None:
    mask_BT = torch.tensor([[True, True, False]])
    token_BT = torch.tensor([[0.2, 0.4, 9.0]], requires_grad=True)
    s_BT = sequence_log_ratio(token_BT.masked_fill(~mask_BT, 0.0), mask_BT)
    assert s_BT[0].tolist() == pytest.approx([0.3, 0.3, 0.0])
    assert gradient(s_BT[0, 0], token_BT)[0] == pytest.approx([0.5, 0.5, 0.0])


def test_gspo_s_answer_has_one_term_by_hand() -> None:
    """Ratios 1.2 and 0.3: s = 0.6. A = 2 within the clip: term 1.2, and each token's gradient is half of s A."""
    logp_BT, out = stats_of([[1.2, 0.3]])
    batch = batch_of([[2.0, 2.0]], weight=1 / 2)
    loss = loss_of(GspoConfig(epsilon=0.5, epsilon_high=0.5), batch, out)
    assert loss.item() == pytest.approx(-1.2)
    assert gradient(loss, logp_BT)[0] == pytest.approx([-0.6, -0.6])


def test_gspo_counts_a_clipped_answer_once_however_long() -> None:
    _, out = stats_of([[1.0], [0.5] * 4])
    # A correction that dropped the first token (importance_sampling_mode token_mask) does not hide the answer's sign.
    batch = batch_of([[-1.0], [0.0, -1.0, -1.0, -1.0]])
    _, metrics = Family(GspoConfig(), SAMPLING).loss(batch, out)
    assert (metrics["clip_ratio/low_mean"].total, metrics["clip_ratio/low_mean"].count) == (1.0, 2.0)
    assert metrics["clip_ratio/low_min"].value == 0.0


def test_luspo_is_gspo_with_each_answer_times_its_length() -> None:
    groups = [Group(prompt=question(), rollouts=[rollout([5] * n, score=s) for n, s in ((2, 1), (5, 0))])]
    a = 0.5 / (0.5**0.5 + 1e-4)
    for kind, short, long in ((GspoConfig, 1, 1), (LuspoConfig, 2, 5)):
        algo = Family(kind(epsilon=0.9, epsilon_high=0.9), SAMPLING)
        ((batch,),) = make_minibatches(algo.credit(groups, []), 1, 64, pad_id=0)
        loss = algo.loss(doubled(batch), stats_of([[1.1] * 2, [0.9] * 5])[1])[0]
        assert loss.item() == pytest.approx(-(short * 1.1 * a - long * 0.9 * a) / 2, rel=1e-6)


# -- KL ----------------------------------------------------------------------------------------------------------------


def test_the_penalty_is_k3_by_hand() -> None:
    logp_BT, ref_BT = padded([[-1.0, -2.0]]), padded([[-1.0, -1.0]])
    mask_BT = torch.ones(1, 2, dtype=torch.bool)
    assert k3(logp_BT, ref_BT, mask_BT)[0].tolist() == pytest.approx([0.0, torch.e - 1 - 1])


@pytest.mark.parametrize("ratio", [1.0, 1.5])
def test_the_corrected_penalty_s_gradient_is_the_reverse_kl_s(ratio: float) -> None:
    """d/dx of r k3 with d = ref - x: r (e^d - d - 1) + r (1 - e^d) = -r d = r log(pi / ref). Uncorrected: 1 - e^d."""
    ref_BT = padded([[-1.7, -0.2]])
    for corrected in (True, False):
        logp_BT, out = stats_of([[ratio, ratio]], ref_logp_BT=ref_BT)
        delta = (ref_BT - logp_BT.detach())[0].tolist()
        cfg = GrpoConfig(beta=0.5, use_bias_correction_kl=corrected)
        loss, metrics = Family(cfg, SAMPLING).loss(batch_of([[0.0, 0.0]]), out)
        expected = [-ratio * d if corrected else 1 - math.exp(d) for d in delta]
        assert gradient(loss, logp_BT)[0] == pytest.approx([0.5 * g for g in expected])
        kl = [(ratio if corrected else 1) * (math.exp(d) - d - 1) for d in delta]
        assert loss.item() == pytest.approx(0.5 * sum(kl))
        assert metrics["kl"].value == pytest.approx(sum(kl) / 2)


def test_the_corrected_penalty_takes_the_answer_s_ratio_at_the_sequence_level() -> None:
    """Ratios 1.2 and 0.3, s = 0.6; k3 of both tokens is that of d = 0.5."""
    logp_BT, out = stats_of([[1.2, 0.3]])
    out = replace(out, ref_logp_BT=logp_BT.detach() + 0.5)
    loss = loss_of(GspoConfig(beta=1.0), batch_of([[0.0, 0.0]], weight=0.5), out)
    assert loss.item() == pytest.approx(0.6 * (math.exp(0.5) - 1.5))


# -- which tokens count ------------------------------------------------------------------------------------------------


def test_only_tokens_of_high_entropy_carry_the_policy_s_term_and_all_carry_the_penalty() -> None:
    high_BT = torch.tensor([[True, False, True]])
    logp_BT, out = stats_of([[1.0] * 3], high_entropy_BT=high_BT, num_high_entropy=2)
    cfg = GrpoConfig(top_entropy_quantile=0.5)
    assert gradient(loss_of(cfg, batch_of([[1.0] * 3]), out), logp_BT) == [[-1.0, 0.0, -1.0]]
    out = replace(out, ref_logp_BT=logp_BT.detach() + 0.5)
    cfg = replace(cfg, beta=1.0)
    pull = gradient(loss_of(cfg, batch_of([[1.0] * 3]), out), logp_BT)[0]
    assert pull == pytest.approx([-1.5, -0.5, -1.5])  # the penalty's gradient is -d = -0.5


def test_a_negative_answer_that_has_fallen_too_far_is_dropped() -> None:
    """Mean fall since sampling 0.6, 0.4 and -0.6 nats, threshold 0.5; a positive answer stays however far it fell."""
    adv = [[-1.0, -1.0]] * 3 + [[1.0, 1.0]]
    sampler = [[-1.0 + 0.9, -1.0 + 0.3], [-1.0 + 0.9, -1.0 - 0.1], [-1.6, -1.6], [-1.0 + 0.9, -1.0 + 0.3]]
    logp_BT, out = stats_of([[1.0, 1.0]] * 4)
    cfg = GrpoConfig(off_policy_mask_threshold=0.5)
    pull = gradient(loss_of(cfg, batch_of(adv, sampler=sampler), out), logp_BT)
    assert pull == [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]]
    out = replace(out, ref_logp_BT=logp_BT.detach() + 0.5)
    kept = gradient(loss_of(replace(cfg, beta=1.0), batch_of(adv, sampler=sampler), out), logp_BT)
    assert kept[0] == pytest.approx([-0.5, -0.5])  # the penalty stays


def test_masked_tokens_have_no_pull_even_from_minus_infinity() -> None:
    for kind in (GrpoConfig, GspoConfig, CispoConfig, SapoConfig, RlooConfig):
        cfg = kind()
        batch = batch_of([[1.0], [1.0, 1.0]], weight=0.5, surrogate=cfg.surrogate)
        logp_BT = padded([[-1.0], [-1.0, -2.0]], fill=-math.inf).requires_grad_()
        old_BT = padded([[-1.0], [-1.0, -2.0]])
        entropy_BT = torch.zeros_like(old_BT)
        out = TokenStats(logp_BT=logp_BT, old_logp_BT=old_BT, entropy_BT=entropy_BT, num_high_entropy=3)
        pull = gradient(loss_of(cfg, batch, out), logp_BT)
        assert pull == [[-0.5, 0.0], [pytest.approx(-0.5)] * 2], cfg.name


# -- the entropy bonus -------------------------------------------------------------------------------------------------


def entropy_of(*rows: list[float]) -> Tensor:
    return padded(rows).requires_grad_()


@pytest.mark.parametrize("weight", [1.0, 1 / 8])
def test_the_bonus_is_the_mean_entropy_whatever_the_normaliser(weight: float) -> None:
    entropy_BT = entropy_of([2.0], [0.5, 1.0, 1.5])
    _, out = stats_of([[1.0], [1.0] * 3], entropy_BT=entropy_BT)
    cfg, batch = GrpoConfig(entropy_coef=0.01), batch_of([[0.0], [0.0] * 3], weight=weight)
    loss = loss_of(cfg, batch, out)
    assert loss.item() == pytest.approx(-0.01 * 5.0 / 4)
    assert gradient(loss, entropy_BT) == [
        [pytest.approx(-0.0025), 0.0, 0.0],
        [pytest.approx(-0.0025)] * 3,
    ]


def test_the_bonus_acts_on_the_tokens_that_the_policy_s_term_counts() -> None:
    entropy_BT = entropy_of([0.5, 1.0, 1.5])
    high_BT = torch.tensor([[False, True, True]])
    _, out = stats_of([[1.0] * 3], entropy_BT=entropy_BT, high_entropy_BT=high_BT, num_high_entropy=2)
    loss = loss_of(GrpoConfig(entropy_coef=0.1, top_entropy_quantile=0.6), batch_of([[0.0] * 3]), out)
    assert loss.item() == pytest.approx(-0.1 * 2.5 / 2)
    assert gradient(loss, entropy_BT)[0] == pytest.approx([0.0, -0.05, -0.05])


def test_without_a_bonus_entropy_has_no_gradient_and_no_policy_loss_is_told() -> None:
    entropy_BT = entropy_of([0.5, 1.0])
    _, out = stats_of([[1.0, 1.0]], entropy_BT=entropy_BT)
    loss, metrics = Family(GrpoConfig(), SAMPLING).loss(batch_of([[1.0, 1.0]]), out)
    assert gradient(loss, entropy_BT) == [[0.0, 0.0]] and "policy_loss" not in metrics


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_clip_metrics_over_answers_by_hand() -> None:
    """Clipped low: 1 of 2 and 2 of 4 tokens; high: 0 of 1, 1 of 2 and 0 of 4."""
    ratio = [[1.0], [0.5, 1.5], [0.5, 0.5, 1.0, 1.0]]
    adv = [[1.0], [-1.0, 1.0], [-1.0] * 4]
    _, metrics = Family(GrpoConfig(), SAMPLING).loss(batch_of(adv), stats_of(ratio)[1])
    told = values(metrics)
    assert [told[name] for name in WITHIN] == pytest.approx([3 / 7, 1 / 7, 4 / 7])
    assert (told["clip_ratio/low_min"], told["clip_ratio/high_max"]) == (0.0, 0.5)


def test_an_empty_micro_batch_has_no_loss_and_no_extremes() -> None:
    """A rank that has nothing to do gets one."""
    credits = [Credit(rollout=rollout([5]), advantages=[1.0], weight=1.0, share=1.0)]
    ((batch,),) = make_minibatches(credits, 1, 64, pad_id=0, ranks=2, rank=1)
    logp_BT, out = stats_of([[]])
    assert batch.mask_BT.shape == (0, 0)
    empty = {n: getattr(out, n)[:0] for n in ("old_logp_BT", "entropy_BT")}
    out = replace(out, logp_BT=logp_BT[:0], **empty, num_high_entropy=1)
    for name, config in FAMILY.items():
        cfg = config(entropy_coef=0.1)
        loss, metrics = Family(cfg, SAMPLING).loss(batch, out)
        assert loss.item() == 0.0, name
        assert not {"clip_ratio/low_min", "clip_ratio/high_max"} & metrics.keys()
        assert metrics["policy_loss"].count == 0.0


# -- cut into micro-batches --------------------------------------------------------------------------------------------


def a_step() -> list[Group]:
    """Three prompts, ten answers of 1 to 8 tokens, graded scores, two of them cut at 8 tokens."""
    rows = [
        [(1, 1.0), (8, 0.0), (3, 0.5), (2, 0.0)],
        [(4, 0.0), (4, 0.0), (7, 1.0)],
        [(8, 1.0), (5, 0.25), (6, 1.0)],
    ]
    return [
        Group(
            prompt=question(str(g)),
            rollouts=[
                rollout(range(10 + g, 10 + g + n), prompt_id=str(g), score=Score(s), stop=n < 8)
                for n, s in row
            ],
        )
        for g, row in enumerate(rows)
    ]


class World:
    """Log-probs, references and entropies of every answer, as functions of one leaf, whatever batch they stand in."""

    def __init__(self, credits: list[Credit]) -> None:
        generator = torch.Generator().manual_seed(7)
        shape = (len(credits), 8)

        def draw(scale: float) -> Tensor:
            return scale * torch.randn(shape, generator=generator, dtype=torch.float64)

        self.old_RT = -2 + draw(0.3)
        self.leaf_RT = (self.old_RT + draw(0.4)).requires_grad_()
        self.ref_RT = self.old_RT + draw(0.2)
        self.high_RT = draw(1.0) > 0
        lengths = [len(c.rollout.completion_ids) for c in credits]
        trained_RT = torch.arange(8)[None] < torch.tensor(lengths)[:, None]
        trained_RT &= torch.tensor([c.weight > 0 for c in credits])[:, None]
        self.num_high = int((self.high_RT & trained_RT).sum())

    def stats(self, batch: Batch, cfg: AlgoConfig) -> TokenStats:
        length = batch.mask_BT.shape[1]

        def of(x_RT: Tensor) -> Tensor:
            return (x_RT[batch.rows, :length] * batch.mask_BT).to(x_RT.dtype)

        picky = cfg.top_entropy_quantile < 1
        return TokenStats(
            logp_BT=of(self.leaf_RT),
            old_logp_BT=of(self.old_RT),
            entropy_BT=of(self.leaf_RT.exp()),
            ref_logp_BT=of(self.ref_RT) if cfg.beta else None,
            high_entropy_BT=of(self.high_RT).bool() if picky else None,
            num_high_entropy=self.num_high if picky else batch.num_tokens,
        )


EVERYTHING = {
    "beta": 0.1,
    "entropy_coef": 0.02,
    "top_entropy_quantile": 0.5,
    "off_policy_mask_threshold": 0.05,
    "mask_truncated_completions": True,
}


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["as it is", "everything on"])
@pytest.mark.parametrize("name", FAMILY)
def test_loss_gradient_and_metrics_do_not_depend_on_micro_batches(name: str, changes: dict[str, Any]) -> None:
    algo = Family(FAMILY[name](**changes), SAMPLING)
    credits = algo.credit(a_step(), [])
    world = World(credits)
    found = []
    for tokens in (10**6, 12):
        (mini,) = make_minibatches(credits, 1, tokens, pad_id=0)
        parts = [algo.loss(doubled(b), world.stats(b, algo.cfg)) for b in mini]
        loss = torch.stack([loss for loss, _ in parts]).sum()
        found.append(
            (len(mini), loss.item(), gradient(loss, world.leaf_RT), values(merge(m for _, m in parts)))
        )
    (one, loss, pull, told), (many, *cut) = found
    assert one == 1 < many
    assert cut[0] == pytest.approx(loss, rel=1e-12)
    assert flat(cut[1]) == pytest.approx(flat(pull), rel=1e-9, abs=1e-15)
    assert cut[2] == pytest.approx(told, rel=1e-9)
    assert any(flat(pull))


def test_skpo_honours_what_all_algorithms_do() -> None:
    """Segment and answer with the same ratio: the shared settings act on both, each with its own weight."""
    credits = [
        Credit(rollout=rollout([50]), advantages=[1.0], weight=0.5, share=1.0, surrogate="ppo"),
        Credit(rollout=rollout([50]), advantages=[1.0], weight=0.25, share=0.0, surrogate="cispo"),
    ]
    ((batch,),) = make_minibatches(credits, 1, 64, pad_id=0)
    entropy_BT = entropy_of([1.0], [2.0])
    logp_BT, out = stats_of([[1.1], [1.1]], entropy_BT=entropy_BT)
    out = replace(out, ref_logp_BT=logp_BT.detach() + 0.5)
    loss, metrics = Skpo(SkpoConfig(beta=1.0, entropy_coef=0.1), SAMPLING).loss(doubled(batch), out)
    assert flat(gradient(loss, logp_BT)) == pytest.approx([-0.5 * (1.1 + 0.55), -0.25 * (1.1 + 0.55)])
    assert flat(gradient(loss, entropy_BT)) == pytest.approx([-0.05, -0.05])
    assert metrics["skpo/upstream_entropy"].value == 1.0


def test_skpo_s_truncated_answers_leave_the_group_s_tokens() -> None:
    """A segment of 2 and answers of 2, 4 and 6 tokens, the last cut: 0.5 / 6 for the first two, nothing for the third."""
    s = rollout([5, 6], stop=False)
    answers = [rollout([7] * n, score=v, stop=n < 6) for n, v in ((2, 1.0), (4, 0.0), (6, 0.0))]
    down = Group(prompt=question(), rollouts=answers)
    for masked, weights in ((True, [0.5 / 6, 0.5 / 6, 0.0]), (False, [0.5 / 12] * 3)):
        cfg = SkpoConfig(mask_truncated_completions=masked)
        group = Group(prompt=question(), rollouts=[s], children=[down])
        up, *credits = Skpo(cfg, SAMPLING).credit([group], [])
        assert up.weight == 0.5 / 2  # a segment always ends at its split
        assert [c.weight for c in credits] == pytest.approx(weights)
        assert credits[0].advantages[0] == pytest.approx(2**0.5, abs=1e-5)  # the cut answer's reward counts


# -- what it does to logits --------------------------------------------------------------------------------------------

PI = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def logit_step(cfg: FamilyConfig, sampled: list[int], advantages: list[float]) -> list[float]:
    """Descent direction on the logits of a one-token policy, from answers that are the tokens `sampled`."""
    logits_V = PI.log().requires_grad_()
    logp_BT = logits_V.log_softmax(-1)[sampled][:, None]
    out = TokenStats(
        logp_BT=logp_BT,
        old_logp_BT=logp_BT.detach(),
        entropy_BT=torch.zeros_like(logp_BT),
        num_high_entropy=len(sampled),
    )
    loss = loss_of(cfg, batch_of([[a] for a in advantages], surrogate=cfg.surrogate), out) / len(sampled)
    (pull_V,) = torch.autograd.grad(loss, logits_V)
    return (-pull_V).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("cfg", [GrpoConfig(), CispoConfig(), SapoConfig(), RlooConfig(), GspoConfig()])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_one_sampled_token_moves_the_logits_as_lemma_1_says(cfg: FamilyConfig, advantage: float) -> None:
    """pi = (0.5, 0.3, 0.2), token 0, step 0.1: dz = A (+0.05, -0.03, -0.02), whose sum is 0 (arXiv:2510.04028)."""
    step = logit_step(cfg, [0], [advantage])
    assert [0.1 * dz for dz in step] == pytest.approx(
        [0.05 * advantage, -0.03 * advantage, -0.02 * advantage]
    )


def test_a_group_leaves_an_unsampled_token_s_logit_alone_and_its_negatives_alone_lift_it() -> None:
    """Tokens 0, 0 right and 1 wrong: A = 0.5, 0.5, -1. Token 2: 0 with all, (1 / G) pi_2 sum|A^-| with negatives."""
    credits = Family(GrpoConfig(scale_rewards="none"), SAMPLING).credit(
        [Group(prompt=question(), rollouts=[rollout([5], score=s) for s in (0.75, 0.75, 0.0)])], []
    )
    adv = [2 * c.advantages[0] for c in credits]
    assert adv == [0.5, 0.5, -1.0]
    assert logit_step(GrpoConfig(), [0, 0, 1], adv)[2] == pytest.approx(0.0, abs=1e-16)
    kept = [min(a, 0.0) for a in adv]
    assert logit_step(GrpoNConfig(), [0, 0, 1], kept)[2] == pytest.approx(0.2 * 1.0 / 3)


def test_dapo_s_clip_is_higher_above() -> None:
    logp_BT, out = stats_of([[1.25, 1.29, 0.79]])
    pull = gradient(loss_of(DapoConfig(), batch_of([[1.0, 1.0, -1.0]]), out), logp_BT)[0]
    assert pull == pytest.approx([-1.25, 0.0, 0.0])
