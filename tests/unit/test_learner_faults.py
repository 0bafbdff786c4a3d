"""Faults in the learner: memory that runs out, values that are not finite, and what becomes of the update."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlkit.algo_presets import GrpoConfig
from rlkit.algos.base import Sampling
from rlkit.algos.family import Family
from rlkit.batch import Batch, TokenStats, make_minibatches
from rlkit.config import LearnerConfig
from rlkit.errors import RunError
from rlkit.learner import Learner, dump
from rlkit.learner.bad import BadUpdate
from rlkit.learner.trace import repeat, trace
from rlkit.metrics import Metrics
from rlkit.types import Credit
from tests.models import byte_tokenizer, tiny_model
from tests.rollouts import rollout
from tests.unit.test_learner import UNCORRECTED, grpo_credits

ROOT = Path(__file__).parents[2]
ALGO = GrpoConfig(**UNCORRECTED)
LOSS = Family(ALGO, Sampling(max_completion_length=64, temperature=1.0)).loss
Loss = Callable[[Batch, TokenStats], tuple[Tensor, Metrics]]


def make_learner(
    tokens: int = 10**6,
    *,
    algo: GrpoConfig = ALGO,
    num_iterations: int = 1,
    model: Any = None,
    watcher: Any = None,
    **cfg: Any,
) -> Learner:
    learner = Learner(
        tiny_model(seed=0) if model is None else model,
        LearnerConfig(micro_batch_tokens=tokens, **cfg),
        algo,
        learning_rate=1e-2,
        temperature=1.0,
        num_iterations=num_iterations,
        pad_id=0,
    )
    if watcher is not None:
        learner.watcher = watcher
    return learner


class Heard:
    """Keeps what a learner tells."""

    def __init__(self) -> None:
        self.bad: list[BadUpdate] = []
        self.sentences: list[str] = []

    def skipped(self, bad: BadUpdate) -> None:
        self.bad.append(bad)

    def out_of_memory(self, sentence: str) -> None:
        self.sentences.append(sentence)


def exhaust() -> None:
    """What torch's allocator raises when the system has no memory to give."""
    torch.empty(1 << 60, dtype=torch.uint8)


def hungry(most: int, loss: Loss = LOSS) -> Loss:
    """The loss, with no memory for micro-batches of more tokens."""

    def needs_memory(batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        if batch.feed.num_tokens > most:
            exhaust()
        return loss(batch, out)

    return needs_memory


def weights_of(learner: Learner) -> Tensor:
    return torch.cat([p.detach().flatten() for p in learner.model.parameters()])


LAYOUTS: dict[str, dict[str, Any]] = {
    "padded": {"packing": False},
    "packed": {"share_prefixes": False},
    "shared": {},
}


# -- memory ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_update_that_ran_out_of_memory_is_done_again_in_smaller_parts_and_told(layout: str) -> None:
    heard = Heard()
    faulted = make_learner(watcher=heard, **LAYOUTS[layout])
    report = faulted.update(faulted.minibatches(grpo_credits(), 2), hungry(60))
    tokens = faulted.budget
    assert 10 < tokens < 120 and report.metrics["out_of_memory"] > 0
    assert f"with {tokens:,} (--learner.micro-batch-tokens). The gradient is the same" in heard.sentences[-1]

    whole = make_learner(**LAYOUTS[layout])
    unfaulted = whole.update(whole.minibatches(grpo_credits(), 2), LOSS)
    for name in ("loss", "grad_norm", "entropy"):
        # AdamW's first step is as long for a gradient that is rounding alone: the second mini-batch feels it.
        assert report.metrics[name] == pytest.approx(unfaulted.metrics[name], rel=1e-3, abs=1e-5)
    assert (report.updates, report.trained_tokens) == (unfaulted.updates, unfaulted.trained_tokens)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_after_memory_ran_out_the_step_is_bit_for_bit_that_of_the_smaller_size(layout: str) -> None:
    faulted = make_learner(**LAYOUTS[layout])
    faulted.update(faulted.minibatches(grpo_credits(), 1), hungry(60))
    small = make_learner(faulted.budget, **LAYOUTS[layout])
    small.update(small.minibatches(grpo_credits(), 1), LOSS)
    assert torch.equal(weights_of(faulted), weights_of(small))
    unfaulted = make_learner(**LAYOUTS[layout])
    unfaulted.update(unfaulted.minibatches(grpo_credits(), 1), LOSS)
    first = make_learner(**LAYOUTS[layout])
    step = (weights_of(unfaulted) - weights_of(first)).abs().mean()
    assert (weights_of(faulted) - weights_of(unfaulted)).abs().mean() < step / 1000


def test_old_log_probs_and_high_entropy_tokens_move_with_their_rows() -> None:
    """Two passes over two mini-batches with an entropy quantile: what the first pass saw is cut anew too."""
    algo = GrpoConfig(**UNCORRECTED, top_entropy_quantile=0.4)
    loss = Family(algo, Sampling(max_completion_length=64, temperature=1.0)).loss
    reports = []
    for wrap in (lambda loss: loss, lambda loss: hungry(60, loss)):
        learner = make_learner(algo=algo, num_iterations=2)
        reports.append(learner.update(learner.minibatches(grpo_credits(), 2), wrap(loss)))
    whole, faulted = reports
    for name in ("loss", "grad_norm", "entropy", "clip_ratio/region_mean"):
        assert faulted.metrics[name] == pytest.approx(whole.metrics[name], rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("work", ["logprobs", "look", "first pass"])
def test_a_forward_pass_that_ran_out_of_memory_is_done_again_in_smaller_parts(work: str) -> None:
    learner, whole = make_learner(), make_learner()
    rollouts = [c.rollout for c in grpo_credits()]

    def hook(module: Any, args: Any, kwargs: Any) -> None:
        if kwargs["input_ids"].numel() > 60:
            exhaust()

    learner.model.base_model.register_forward_pre_hook(hook, with_kwargs=True)
    if work == "logprobs":
        pairs = zip(learner.logprobs(rollouts), whole.logprobs(rollouts), strict=True)
        assert all(a == pytest.approx(b, abs=1e-5) for a, b in pairs)
    elif work == "look":
        for a, b in zip(learner.look(rollouts, 3), whole.look(rollouts, 3), strict=True):
            assert a.logp_T == pytest.approx(b.logp_T, abs=1e-5)
            assert (a.top_ids_TK == b.top_ids_TK).all()
    else:
        a, b = (one.update(one.minibatches(grpo_credits(), 2), LOSS) for one in (learner, whole))
        assert a.metrics["grad_norm"] == pytest.approx(b.metrics["grad_norm"], rel=1e-5)
    assert learner.budget < 120


def test_no_memory_for_one_answer_ends_the_run_with_what_helps() -> None:
    learner = make_learner()
    before = weights_of(learner)
    with pytest.raises(
        RunError, match="update 0: out of memory, though every answer was read alone"
    ) as raised:
        learner.update(learner.minibatches(grpo_credits(), 1), hungry(0))
    assert "--learner.gradient-checkpointing" in str(raised.value)
    assert torch.equal(weights_of(learner), before)


def test_no_memory_for_the_optimizer_ends_the_run() -> None:
    learner = make_learner()
    learner.optimizer.register_step_pre_hook(lambda *_: exhaust())
    with pytest.raises(RunError, match="out of memory while the optimizer stepped"):
        learner.update(learner.minibatches(grpo_credits(), 1), LOSS)


def test_another_error_of_torch_is_not_taken_for_lack_of_memory() -> None:
    def broken(batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        return torch.ones(2, 3) @ torch.ones(2, 3), {}

    learner = make_learner()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        learner.update(learner.minibatches(grpo_credits(), 1), broken)


LIMITED = """
import resource, sys, torch
from pathlib import Path
torch.set_num_threads(1)
from tests.unit.test_learner_faults import LOSS, Heard, make_learner, weights_of
from rlkit.types import Credit
from tests.rollouts import rollout

generator = torch.Generator().manual_seed(0)
credits = []
for i in range(24):
    tokens = torch.randint(2, 260, (400,), generator=generator).tolist()
    credits.append(Credit(rollout=rollout(tokens), advantages=[1.0 - i % 2 * 2] * 400, weight=1 / 400, share=1.0, group=i))

def learnt(tokens, watcher=None):
    learner = make_learner(tokens, watcher=watcher)
    learner.update(learner.minibatches(credits, 1), LOSS)
    return learner

heard = Heard()
learnt(500)  # what torch allocates once for all
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (100 << 20), resource.RLIM_INFINITY))
faulted = learnt(10**6, heard)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
small = learnt(faulted.budget)
assert torch.equal(weights_of(faulted), weights_of(small))
assert (weights_of(faulted) - weights_of(learnt(10**6))).abs().mean() < 1e-6
print(faulted.budget, len(heard.sentences))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is enforced by Linux")
def test_under_a_real_limit_of_memory_the_gradient_is_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    budget, times = map(int, done.stdout.split())
    assert 400 <= budget < 9_600 and times > 0


# -- values that are not finite --------------------------------------------------------------------------------------------


def bad_credits(value: float = math.nan) -> list[Credit]:
    """As grpo_credits, but one answer has an advantage that is not finite on its second token."""
    credits = grpo_credits()
    k = next(k for k, c in enumerate(credits) if k > 2 and len(c.advantages) > 3)
    c = credits[k]
    advantages = [c.advantages[0], value, *c.advantages[2:]]
    credits[k] = Credit(
        rollout=c.rollout, advantages=advantages, weight=c.weight, share=c.share, group=c.group
    )
    return credits


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e39])
def test_an_update_that_is_not_finite_is_skipped_and_the_next_one_is_as_if_it_had_not_been(
    value: float,
) -> None:
    heard = Heard()
    learner, other = make_learner(watcher=heard), make_learner()
    report = learner.update(learner.minibatches(bad_credits(value), 1), LOSS)
    assert torch.equal(weights_of(learner), weights_of(other))
    assert (report.updates, learner.updates, report.metrics["skipped_updates"]) == (0, 0, 1.0)
    assert "loss" not in report.metrics and len(heard.bad) == 1
    assert heard.bad[0].sentence.startswith("update 0 was skipped: the loss is ")
    reports = [one.update(one.minibatches(grpo_credits(), 1), LOSS) for one in (learner, other)]
    assert reports[0].metrics == reports[1].metrics
    assert torch.equal(weights_of(learner), weights_of(other))


def test_a_loss_that_is_not_finite_is_skipped_even_where_its_gradient_is() -> None:
    def shifted(batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        value, metrics = LOSS(batch, out)
        return value + math.inf, metrics

    learner = make_learner()
    assert learner.update(learner.minibatches(grpo_credits(), 1), shifted).metrics["skipped_updates"] == 1


def test_one_bad_mini_batch_costs_its_own_update_alone() -> None:
    learner = make_learner()
    report = learner.update(learner.minibatches(bad_credits(), 4), LOSS)
    assert (report.updates, learner.updates, report.metrics["skipped_updates"]) == (3, 3, 1.0)
    assert math.isfinite(report.metrics["loss"]) and torch.isfinite(weights_of(learner)).all()


def test_too_many_skipped_updates_end_the_run_with_a_sentence() -> None:
    learner = make_learner()
    learner.update(learner.minibatches(bad_credits(), 1), LOSS)
    with pytest.raises(RunError, match="2 of 2 updates were skipped, more than --learner.max-skipped-share"):
        learner.update(learner.minibatches(bad_credits(), 1), LOSS)
    patient = make_learner(max_skipped_share=1.0)
    for _ in range(12):
        patient.update(patient.minibatches(bad_credits(), 1), LOSS)
    assert patient.skipped == 12


def test_what_the_learner_counts_is_in_its_checkpoint() -> None:
    learner = make_learner()
    learner.update(learner.minibatches(bad_credits(), 1), LOSS)
    learner.update(learner.minibatches(grpo_credits(), 1), hungry(60))
    other = make_learner()
    other.load_optimizer_tensors(learner.optimizer_tensors(), learner.updates)
    assert (other.updates, other.skipped, other.budget) == (1, 1, learner.budget)


# -- dump and replay -------------------------------------------------------------------------------------------------------


def dumped(learner: Learner, credits: list[Credit], folder: Path, loss: Loss = LOSS) -> dump.Dump:
    heard = Heard()
    learner.watcher = heard
    learner.update(learner.minibatches(credits, 1), loss)
    dump.write(folder / "bad", heard.bad[0], learner, byte_tokenizer(), "steps = 3\n")
    return dump.read(folder / "bad")


def test_a_dump_repeats_the_update_and_names_rollout_and_token(tmp_path: Path) -> None:
    learner, credits = make_learner(), bad_credits()
    k, bad = next((k, c) for k, c in enumerate(credits) if any(map(math.isnan, c.advantages)))
    told = dumped(learner, credits, tmp_path)
    assert sorted(p.name for p in (tmp_path / "bad").iterdir()) == [
        "config.toml",
        "dump.json",
        "model",
        "numbers.safetensors",
    ]
    assert [r.index for r in told.rows] == list(range(16)) and math.isnan(told.loss)
    again = told.rows[k].credit
    assert again.rollout.token_ids == bad.rollout.token_ids and again.weight == bad.weight
    loss, norm = repeat(told, learner, LOSS)
    assert math.isnan(loss) and math.isnan(norm)
    places = trace(told, learner, LOSS)
    assert (places[0].what, places[0].rollout, places[0].token) == ("advantage", k, 1)
    assert {p.rollout for p in places} == {k}
    assert [p.what.split()[0] for p in places] == ["advantage", "loss", "gradient", "gradient"]


def test_the_layer_in_which_numbers_overflow_is_named(tmp_path: Path) -> None:
    model = tiny_model(seed=0)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1e20)
        model.model.layers[1].mlp.down_proj.weight.mul_(1e20)
    learner = make_learner(model=model)
    credits = grpo_credits()
    places = trace(dumped(learner, credits, tmp_path), learner, LOSS)
    assert places[0].what == "output of layer model.layers.1.mlp.down_proj"
    assert places[0].rollout == 0 and places[0].token == -credits[0].rollout.prompt_tokens


def test_a_weight_that_is_not_finite_is_named_first(tmp_path: Path) -> None:
    model = tiny_model(seed=0)
    with torch.no_grad():
        model.model.layers[0].self_attn.k_proj.weight[3, 5] = math.inf
    learner = make_learner(model=model)
    places = trace(dumped(learner, grpo_credits(), tmp_path), learner, LOSS)
    assert str(places[0]) == "weight model.layers.0.self_attn.k_proj.weight (1 of its numbers): inf"
    assert places[1].what == "output of layer model.layers.0.self_attn.k_proj"


def test_finite_rollouts_whose_sum_overflows_are_told_apart(tmp_path: Path) -> None:
    learner = make_learner()
    credits = [
        Credit(rollout=rollout([50, 3]), advantages=[3e38, 0.0], weight=1.0, share=0.25, group=i)
        for i in range(4)
    ]

    def constant(batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        return (batch.adv_BT * batch.mask_BT).sum() + 0.0 * out.logp_BT.sum(), {}

    told = dumped(learner, credits, tmp_path, constant)
    assert not math.isfinite(repeat(told, learner, constant)[0])
    assert trace(told, learner, constant) == []


def test_old_log_probs_of_a_later_iteration_are_in_the_dump(tmp_path: Path) -> None:
    heard = Heard()
    learner = make_learner(watcher=heard, num_iterations=2)

    def broken_later(batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        value, metrics = LOSS(batch, out)
        return value * (math.nan if learner.updates else 1.0), metrics

    learner.update(learner.minibatches(grpo_credits(), 1), broken_later)
    dump.write(tmp_path / "bad", heard.bad[0], learner, byte_tokenizer(), "")
    told = dump.read(tmp_path / "bad")
    assert told.update == 1 and told.rows[3].old is not None
    before = make_learner().logprobs([told.rows[3].credit.rollout])[0]
    assert told.rows[3].old == pytest.approx(before, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dump.json", b"[]"),
        ("dump.json", b'{"format": 99}'),
        ("dump.json", b"\xff\xfe"),
        ("dump.json", b'{"format": 1, "rollouts": 3}'),
        ("numbers.safetensors", b"\x10"),
    ],
)
def test_a_damaged_dump_is_refused_in_one_sentence(name: str, content: bytes, tmp_path: Path) -> None:
    dumped(make_learner(), bad_credits(), tmp_path)
    (tmp_path / "bad" / name).write_bytes(content)
    with pytest.raises(RunError, match="dump"):
        dump.read(tmp_path / "bad")


def test_minibatches_carry_their_credits() -> None:
    credits = grpo_credits()
    for batch in make_minibatches(credits, 1, 60, pad_id=0)[0]:
        assert batch.credits == [credits[i] for i in batch.rows]
