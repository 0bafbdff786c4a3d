"""Live tracking: where probability goes in a run, step by step, while it goes on (docs/tracking.md)."""

from .tracker import Tracker, TrackStore

__all__ = ["TrackStore", "Tracker"]
