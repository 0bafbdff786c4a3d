"""The Triton kernels equal plain torch: on the GPU where there is one, by Triton's interpreter where there is none.

The interpreter is chosen when triton is imported, so it gets a process of its own.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rlkit.learner.logprobs import token_stats
from rlkit.learner.tiles import CHOSEN, MAX, SUM, WEIGHTED, Tiles, triton_kernels

HERE = Path(__file__)
ON_GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if ON_GPU else "cpu"
needs_kernels = pytest.mark.skipif(
    not (ON_GPU or INTERPRETED),
    reason="no GPU; the test below runs this one in a process with Triton's interpreter",
)
# What one rounding leaves; sums over 1,500 columns come in another order.
CLOSE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 1e-5}


def test_the_kernels_pass_all_this_by_the_interpreter() -> None:
    pytest.importorskip(
        "triton",
        reason="THE TRITON KERNELS ARE NOT TESTED HERE: triton is not installed (`pip install 'triton>=3.3'`, "
        "the `test` extra has it)",
    )
    if INTERPRETED:
        return  # this is that process
    files = [str(HERE), str(HERE.with_name("test_learner_logprobs.py"))]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) >= 50, done.stdout


def pair(tokens: int, columns: int, dtype: torch.dtype, temperature: float = 0.7) -> tuple[Tiles, Tiles]:
    """Tiles with the kernels, and the same without."""
    inputs_NH = torch.zeros(tokens, 1, dtype=dtype, device=DEVICE)
    ours = Tiles(tokens, columns, inputs_NH, temperature, triton_kernels(DEVICE))
    assert ours.kernels is not None
    return ours, Tiles(tokens, columns, inputs_NH, temperature, None)


def random_tile(tokens: int, columns: int, dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (5 * torch.randn(tokens, columns, dtype=torch.float64, generator=generator)).to(DEVICE, dtype)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("columns", [1, 1023, 1024, 1500, 2049])
def test_fold_equals_plain_torch(dtype: torch.dtype, columns: int) -> None:
    """Two tiles, the larger logits first in one row and last in the others; a target in either, and in neither."""
    ours, plain = pair(3, columns, dtype)
    got, expected = ours.start(5)[:, 1:4], plain.start(5)[:, 1:4]  # a part of a longer row, as in use
    target_n = torch.tensor([columns - 1, columns, -1], device=DEVICE)
    for seed in (0, 1):
        tile_nv = random_tile(3, columns, dtype, seed)
        tile_nv[0 if seed == 0 else 2] += 100
        ours.fold(tile_nv, target_n - seed * columns, got)
        plain.fold(tile_nv.clone(), target_n - seed * columns, expected)
    torch.testing.assert_close(got, expected, rtol=CLOSE[dtype], atol=CLOSE[dtype])
    assert expected[MAX].max() > 100 and expected[SUM].min() >= 1 and expected[WEIGHTED].max() <= 0
    assert expected[CHOSEN].ne(0).tolist() == [True, True, False]


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("columns", [1, 1023, 1024, 1500, 2049])
@pytest.mark.parametrize("with_entropy", [False, True])
def test_the_gradient_of_the_logits_equals_plain_torch(
    dtype: torch.dtype, columns: int, with_entropy: bool
) -> None:
    ours, plain = pair(3, columns, dtype)
    got_nv = random_tile(3, columns, dtype, 0)
    expected_nv = got_nv.clone()
    z_nv = got_nv.to(ours.sums) * ours.after
    log_sum_n = z_nv.logsumexp(-1) + torch.tensor([0.0, 0.5, 2.0], device=DEVICE)  # other strips add theirs
    pull_n = torch.tensor([1.5, -0.25, 2.0], device=DEVICE, dtype=ours.sums)
    entropy_n = torch.tensor([3.0, 1.0, 0.1], device=DEVICE, dtype=ours.sums)
    pulls = pull_n, pull_n.flip(0) if with_entropy else None
    target_n = torch.tensor([columns - 1, columns, -1], device=DEVICE)
    ours.to_gradient(got_nv, target_n, log_sum_n.to(ours.sums), entropy_n, *pulls)
    plain.to_gradient(expected_nv, target_n, log_sum_n.to(ours.sums), entropy_n, *pulls)
    half = dtype == torch.bfloat16
    close = 2**-7 if half else CLOSE[dtype]  # the interpreter cuts bfloat16 off: one last place
    torch.testing.assert_close(got_nv, expected_nv, rtol=close, atol=1e-6 if half else CLOSE[dtype])
    assert expected_nv[1].ne(0).any() and expected_nv[2].ne(0).any()


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_head_s_values_and_gradients_equal_whole_logits(dtype: torch.dtype) -> None:
    """Where the kernels really run: on a GPU this is the test of the compiled kernels and of the float32 products."""
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(16, 3000, bias=True)
    nn.init.normal_(head.weight, std=0.5, generator=generator)
    hidden_NH = torch.randn(9, 16, generator=generator)
    target_N = torch.randint(0, 3000, (9,), generator=generator).to(DEVICE)
    results = []
    for wide in (False, True):
        copy = nn.Linear(16, 3000, dtype=torch.float64 if wide else torch.float32, device=DEVICE)
        copy.load_state_dict(head.state_dict())
        leaf_NH = hidden_NH.to(copy.weight).requires_grad_()
        with torch.autocast(DEVICE, dtype, enabled=not wide and dtype == torch.bfloat16):
            if wide:
                dist_NV = (copy(leaf_NH) / 0.7).log_softmax(-1)
                logp_N = dist_NV.gather(1, target_N[:, None])[:, 0]
                entropy_N = -(dist_NV.exp() * dist_NV).sum(-1)
            else:
                stats = token_stats(leaf_NH, copy, target_N, 0.7, 2, entropy_grad=True)
                logp_N, entropy_N = stats.logp_N, stats.entropy_N
        loss = logp_N.sum() + 0.3 * entropy_N.sum()
        results.append([logp_N, entropy_N, *torch.autograd.grad(loss, [leaf_NH, copy.weight, copy.bias])])
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    for got, exact in zip(*results, strict=True):
        error = float((got.detach() - exact.detach()).norm() / exact.detach().norm())
        assert error < tolerance


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("element", ["bf16", "fp32", "fp64"])
def test_the_kernels_compile_for_a_gpu_that_is_not_here(
    element: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To machine code of compute capability 9.0 (H100, H200): what the interpreter takes and the compiler refuses shows here."""
    triton = pytest.importorskip(
        "triton", reason="THE TRITON KERNELS ARE NOT TESTED HERE: triton is not installed"
    )
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from rlkit.learner import logprobs_triton

    wide = "fp64" if element == "fp64" else "fp32"
    constants = {"WIDE": triton.language.dtype(wide), "BLOCK": logprobs_triton.BLOCK}
    shared = {"tile": f"*{element}", "scale": "fp32", "target": "*i64", "columns": "i32"}
    numbers = {name: f"*{wide}" for name in ("log_sum", "entropy", "pull", "entropy_pull")}
    kernels = [
        (logprobs_triton._fold_kernel, {**shared, "running": f"*{wide}", "running_stride": "i32"}, constants),
        *(
            (logprobs_triton._gradient_kernel, {**shared, **numbers}, {**constants, "HAS_ENTROPY": has})
            for has in (False, True)
        ),
    ]
    for kernel, types, values in kernels:
        signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
        source = ASTSource(kernel, signature, constexprs=values)
        assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
