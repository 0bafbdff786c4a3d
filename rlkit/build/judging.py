"""The verifier, its processes, and the judge in front of them."""

from typing import TYPE_CHECKING, Any

from rlkit.config import RewardConfig
from rlkit.types import AnyVerifier, Task

if TYPE_CHECKING:
    from rlkit.ranks import Ranks
    from rlkit.rewards import VerifierPool
    from rlkit.verify import Judge


def make_verifier(cfg: RewardConfig, task: Task | None) -> AnyVerifier:
    from rlkit.rewards import make_verifier as make
    from rlkit.rewards.code_verifier import require_patience

    verifier = make(cfg.name, None if task is None else task.verify)
    if cfg.workers:
        require_patience(verifier, cfg.timeout)
    return verifier


def make_pool(cfg: RewardConfig, verifier: AnyVerifier) -> "VerifierPool":
    from rlkit.config import bytes_in
    from rlkit.rewards import VerifierPool

    memory_limit = bytes_in(cfg.memory_limit)
    assert memory_limit  # RewardConfig has checked it
    return VerifierPool(
        verifier, cfg.workers, cfg.timeout, memory_limit=memory_limit, recycle_after=cfg.recycle_after
    )


def make_judge(
    cfg: RewardConfig, verifier: AnyVerifier, tokenizer: Any, ranks: "Ranks | None" = None
) -> "tuple[Judge, VerifierPool]":
    """The judge and the worker processes behind it, which the caller closes. ranks: they share the answers, beside the update too."""
    from rlkit.ranks import ALONE, SharedScorer
    from rlkit.verify import Judge

    pool = make_pool(cfg, verifier)
    scorer = SharedScorer(pool.score, (ranks or ALONE).beside)
    judge = Judge(
        scorer,
        lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        cfg.max_error_share,
        speed=pool.metrics,
    )
    return judge, pool
