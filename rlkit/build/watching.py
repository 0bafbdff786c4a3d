"""Who follows a run's probability mass."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rlkit.config import TrainConfig
from rlkit.types import Rollout, Sampler, Task

if TYPE_CHECKING:
    from rlkit.learner import Learner
    from rlkit.models import ModelPlace
    from rlkit.tracking import Tracker, TrackStore
    from rlkit.verify import Judge


def make_tracker(
    cfg: TrainConfig,
    learner: "Learner",
    store: "TrackStore",
    tokenizer: Any,
    task: Task | None,
    *,
    sampler: Sampler,
    judge: "Judge",
    place: "ModelPlace",
    probe: list[Rollout],
    past: Iterable[Mapping[str, Any]],
) -> "Tracker":
    """Who follows a run's probability mass. probe, past: the answers that a resumed run goes on looking at, and its records."""
    from rlkit.models import stop_ids
    from rlkit.tracking import Tracker
    from rlkit.tracking.points import Valuer

    valuer = None
    if cfg.track.values:
        valuer = Valuer(
            sample=sampler.sample,
            judge=judge,
            continuations=cfg.track.values,
            temperature=cfg.sampler.temperature,
            max_completion_length=cfg.max_completion_length or 0,
            stop_ids=frozenset(stop_ids(place, tokenizer.eos_token_id)),
        )
    return Tracker(
        cfg.track,
        learner,
        store,
        decode=lambda ids: str(tokenizer.decode(ids)),
        seed=cfg.seed,
        valuer=valuer,
        styles={} if task is None else style_tokens(task, tokenizer),
        probe=probe,
        past=past,
    )


def style_tokens(task: Task, tokenizer: Any) -> dict[int, str]:
    """First token of an answer -> the style it begins, for the styles that are one token of this tokenizer."""
    found: dict[int, str] = {}
    for marker, name in task.styles.items():
        ids = tokenizer.encode(marker, add_special_tokens=False)
        if len(ids) == 1:
            found[int(ids[0])] = name
    return found
