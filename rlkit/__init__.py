"""rlkit: RL post-training of language models on verifiable rewards."""

import os

# Before torch is loaded, which reads them once. Idle OpenMP threads that spin take the cores from the sampler's and the
# verifiers' processes, which on a busy machine costs several times the work itself; threads that sleep at once are woken for
# every small operation, which halves the speed of a small model on an idle one. These spin for about 50 microseconds.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from rlkit.types import Group, Prompt, Request, Rollout, Score, Segment  # noqa: E402

__version__ = "0.1.0"
__all__ = ["Group", "Prompt", "Request", "Rollout", "Score", "Segment", "__version__"]
