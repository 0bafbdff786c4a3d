"""`rlkit analyze skip`: groups of continuations of nothing, of a plain prefix, and of a prefix that stands before the question."""

from collections.abc import Callable

from rlkit.algo_own import SkpoConfig
from rlkit.algos.skpo import skip_prompt
from rlkit.analysis.prefix_effects import Group
from rlkit.analyze_config import SkipConfig
from rlkit.types import Rollout, Segment

from .lab import Answer, Draws, Ids, Key, Lab, Tick

KINDS = ("unconditional", "continual", "skip")


def study(lab: Lab, cfg: SkipConfig, progress: Callable[[str], Tick]) -> list[Group]:
    """Whole answers, then groups of continuations; progress: `answers` and `draws`."""
    answers = [a for a in lab.answers(lab.prompts[: cfg.prompts], 1, progress("answers")) if len(a.ids) > 1]
    places: list[tuple[Key, float]] = []
    heads: dict[Key, list[int]] = {}
    for a in answers:
        places.append((Key(a.prompt.id, (), "unconditional"), 0.0))
        for share in cfg.shares:
            segment = a.cut(share)
            places.append((Key(a.prompt.id, segment, "continual"), share))
            skip = Key(a.prompt.id, segment, "skip")
            heads[skip] = before_question(a, segment)
            places.append((skip, share))
    draws = lab.continuations({key: cfg.num_generations for key, _ in places}, progress("draws"), heads)
    return [_group(key, share, draws[key]) for key, share in places]


def before_question(answer: Answer, segment: Ids) -> list[int]:
    """[s, q] as SKPO writes it: the segment's own tokens in the user turn, before the question."""
    start = len(answer.prompt.token_ids)
    ids = [*answer.prompt.token_ids, *segment]
    rollout = Rollout(
        prompt_id=answer.prompt.id,
        token_ids=ids,
        logprobs=[0.0] * len(ids),
        segments=[
            Segment(kind="prompt", start=0, end=start),
            Segment(kind="completion", start=start, end=len(ids)),
        ],
        policy_version=0,
        finish_reason="length",
    )
    return skip_prompt(answer.prompt, rollout, SkpoConfig())[0]


def _group(key: Key, share: float, draws: Draws) -> Group:
    return Group(
        prompt_id=key.prompt_id,
        share=share,
        kind=key.kind,
        scores=draws.scores,
        finals=draws.finals,
        tokens=draws.tokens,
    )
