"""A run whose real vLLM servers are killed and frozen ends as it would without. The whole campaign: python -m tests.faults.servers."""

from pathlib import Path

import pytest

from tests.faults.servers import campaign

pytestmark = pytest.mark.slow


def test_servers_that_fail_at_random_cost_time_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm")
    monkeypatch.chdir(tmp_path)
    counts = campaign(tmp_path, faults=4, steps=8, seed=1)
    assert counts["lost"] >= 1
