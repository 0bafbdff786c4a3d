"""rlkit: RL post-training of language models on verifiable rewards."""

from rlkit.types import Group, Prompt, Request, Rollout, Score, Segment

__version__ = "0.1.0"
__all__ = ["Group", "Prompt", "Request", "Rollout", "Score", "Segment", "__version__"]
