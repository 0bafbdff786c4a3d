"""What a run asks of the host that it computes on."""

import subprocess
import sys

import pytest

STEPS = """
import resource, sys
from rlkit.machine import keep_freed_memory  # first, as in a run: it says how torch's threads wait
import torch
from torch import nn

def step():
    model(torch.ones(4000, 128)).sum().backward()
    model.zero_grad()

if sys.argv[1] == "keep" and not keep_freed_memory():
    print("cannot")
    raise SystemExit
model = nn.Sequential(*[m for _ in range(4) for m in (nn.Linear(128, 384), nn.SiLU(), nn.Linear(384, 128))])
for _ in range(40):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> str:
    run = subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True)
    return run.stdout.strip()


def test_memory_that_a_step_frees_is_not_faulted_in_again_by_the_next() -> None:
    """Forward and backward of four layers of 4,000 tokens, thirty times."""
    kept = page_faults("keep")
    if kept == "cannot":
        pytest.skip("this C library has no mallopt")
    assert int(kept) < int(page_faults("as it comes")) / 4  # pages
