"""A run whose real vLLM servers are killed and frozen ends as it would without. The whole campaign: python -m tests.faults.servers."""

from pathlib import Path

import pytest

from tests.faults.servers import campaign

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("async_steps", [0, 1])
def test_servers_that_fail_at_random_cost_time_and_nothing_else(
    async_steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm")
    monkeypatch.chdir(tmp_path)
    counts = campaign(tmp_path, faults=4, steps=8, seed=1, async_steps=async_steps)
    # Where they met is chance: one that starts, or a helper that nobody misses, is no server lost.
    assert sum(count for name, count in counts.items() if name.startswith("SIG")) >= 1
