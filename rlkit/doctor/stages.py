"""Where a run stands between exploitation and exploration, as far as its own looks at the policy show it (docs/tracking.md)."""

from .findings import MEMORY, Check, History, Seen, check


@check(
    "exploitation-ended",
    "hint",
    when="the probability of the styles that paid at first has fallen from its peak (docs/tracking.md; only where a task has styles)",
    cause="they have taken what they could, and answers that were hardly tried begin to take from them (docs/dynamics.md 2)",
    remedy="going on, if pass@k at a large k matters (`rlkit eval --k 64`); --algo w_reinforce --schedule stage reacts to it by itself",
)
def exploitation_ended(h: History) -> Seen | None:
    stage, turn, low, high = (
        h.last(f"dynamics/{name}", MEMORY)
        for name in ("stage", "turn/max1", "turn/max1_low", "turn/max1_high")
    )
    if h.last("dynamics/stage_fixed", MEMORY)[-1:] != [1.0] or stage[-1:] != [1.0] or not turn:
        return None
    return Seen(
        says=f"exploitation has ended at step {turn[-1]:,.0f} ({low[-1]:,.0f} .. {high[-1]:,.0f}): "
        "the styles that paid at first lose probability since",
        number=1.0,
    )


STAGES: tuple[Check, ...] = (exploitation_ended,)
