"""vLLM's leaner worker for a CPU: its kernels compute what torch computes, and its tokens are those of vLLM's own worker."""

import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import rlkit.samplers
from rlkit.types import Request, Rollout
from tests.models import save_tiny_model

pytest.importorskip("vllm")

from rlkit.samplers import vllm_cpu  # noqa: E402
from rlkit.samplers.vllm_engine import VllmSampler  # noqa: E402


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_norms_are_those_of_torch() -> None:
    x, residual, weight = normal(5, 64), normal(5, 64, seed=1), normal(64, seed=2)
    expected = functional.rms_norm(x.double(), (64,), weight.double(), 1e-6)
    torch.testing.assert_close(vllm_cpu.rms_norm(x, weight, 1e-6).double(), expected, atol=1e-6, rtol=1e-5)
    total = x + residual
    expected = functional.rms_norm(total.double(), (64,), weight.double(), 1e-6)
    normed, kept = vllm_cpu.fused_add_rms_norm(x, residual, weight, 1e-6)
    assert torch.equal(kept, total)
    torch.testing.assert_close(normed.double(), expected, atol=1e-6, rtol=1e-5)


def test_the_norm_kernels_are_for_rows_end_to_end_of_one_type_and_whole_vectors() -> None:
    from vllm import ir

    def provider(x: torch.Tensor, weight: torch.Tensor | None, part: int | None = None) -> bool:
        return bool(ir.ops.rms_norm.impls[vllm_cpu.PROVIDER].supports_args(x, weight, 1e-6, part))

    x, weight = normal(5, 64), normal(64)
    assert provider(x, weight)
    assert not provider(x, None)
    assert not provider(x, weight, 32)
    assert not provider(x, weight.bfloat16())
    assert not provider(normal(5, 128)[:, :64], weight)
    assert not provider(normal(5, 40), normal(40))


def test_seeds_drawn_ahead_are_those_drawn_one_by_one() -> None:
    one, other = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    seeds = vllm_cpu.seeds_of(one)
    assert [next(seeds) for _ in range(200)] == [
        int(torch.randint(0, 2**31, (1,), generator=other)) for _ in range(200)
    ]


def test_a_token_and_its_log_prob_are_the_same_in_any_batch() -> None:
    logits = normal(4, 32)

    def draw(rows: list[int]) -> list[tuple[int, float]]:
        sampler = vllm_cpu.SeedsAhead("processed_logprobs")
        generators = {i: torch.Generator().manual_seed(row) for i, row in enumerate(rows)}
        sampler.forward(logits[rows].clone(), generators, None, None)  # the second token of each
        drawn, logp = sampler.forward(logits[rows].clone(), generators, None, None)
        return [(int(t), float(row[t])) for t, row in zip(drawn, logp, strict=True)]

    together = draw([0, 1, 2, 3])
    apart = draw([3, 1])
    assert [t for t, _ in apart] == [together[3][0], together[1][0]]
    expected = logits.log_softmax(-1)
    for row, (token, logp) in [*enumerate(together), (3, apart[0]), (1, apart[1])]:
        assert logp == pytest.approx(float(expected[row, token]), abs=1e-6)


@pytest.mark.slow  # two engines
def test_tokens_are_those_of_vllms_own_worker_which_a_vllm_with_other_parts_falls_back_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny_model(tmp_path / "model", seed=0)
    requests = [
        Request(
            prompt_id=str(i), token_ids=list(range(20, 30 + i)), n=3, max_tokens=80, temperature=0.7, seed=i
        )
        for i in range(4)
    ]

    def write() -> list[Rollout]:
        sampler = VllmSampler(folder, dtype="float32", max_model_len=128, max_num_seqs=16, kv_cache_memory=32)
        before = torch.get_num_threads()
        written = [rollout for rollouts in sampler.sample(requests) for rollout in rollouts]
        assert torch.get_num_threads() == before
        sampler.close()
        return written

    lean = write()
    monkeypatch.setitem(sys.modules, "rlkit.samplers.vllm_cpu", None)  # importing it fails
    monkeypatch.delattr(rlkit.samplers, "vllm_cpu")
    monkeypatch.delitem(sys.modules, "rlkit.samplers.vllm_worker")
    with pytest.warns(UserWarning, match="vLLM's own is used: the answers are the same"):
        own = write()
    same = [(a, b) for a, b in zip(lean, own, strict=True) if a.token_ids == b.token_ids]
    assert len(same) >= len(own) - 1  # rounding may turn a near tie
    for ours, theirs in same:
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)
