"""rlkit: RL post-training of language models on verifiable rewards."""

import os

# Before torch is loaded, which reads it once: idle OpenMP threads that spin take the cores from the sampler's and the
# verifiers' processes, which on a busy machine of two cores costs several times the work itself.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from rlkit.types import Group, Prompt, Request, Rollout, Score, Segment  # noqa: E402

__version__ = "0.1.0"
__all__ = ["Group", "Prompt", "Request", "Rollout", "Score", "Segment", "__version__"]
