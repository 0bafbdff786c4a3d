"""The `rlkit` command."""

from .dispatch import main

__all__ = ["main"]
