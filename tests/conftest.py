"""Imported before any test, so that rlkit sets OpenMP's wait policy before a test imports torch."""

import sys
from collections.abc import Iterator

import pytest

import rlkit  # noqa: F401


def num_threads() -> int | None:
    torch = sys.modules.get("torch")
    return None if torch is None else int(torch.get_num_threads())


FIRST: list[int] = []


@pytest.fixture(autouse=True)
def _the_number_of_threads_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """Sums differ in their last bits with the number of threads: a test that changes it would change later ones."""
    yield
    after = num_threads()
    if after is not None:
        FIRST[:] = FIRST or [after]
        assert after == FIRST[0], f"torch had {FIRST[0]} threads before, {after} after"
