"""Imported before any test, so that rlkit sets OpenMP's wait policy before a test imports torch."""

import rlkit  # noqa: F401
