"""Hand-made prompts, rollouts and groups, for tests that need no sampler."""

from collections.abc import Sequence

from rlkit.types import Group, Prompt, Rollout, Score, Segment


def rollout(
    completion: Sequence[int],
    *,
    prompt: Sequence[int] = (1, 40, 2),
    prompt_id: str = "a",
    logprobs: Sequence[float] | None = None,
    score: float | Score | None = None,
    stop: bool = True,
) -> Rollout:
    """`completion` after `prompt`; log-probs of -1.0 unless given."""
    start, end = len(prompt), len(prompt) + len(completion)
    return Rollout(
        prompt_id=prompt_id,
        token_ids=[*prompt, *completion],
        logprobs=[0.0] * start + list([-1.0] * len(completion) if logprobs is None else logprobs),
        segments=[
            Segment(kind="prompt", start=0, end=start),
            Segment(kind="completion", start=start, end=end),
        ],
        policy_version=0,
        finish_reason="stop" if stop else "length",
        score=Score(score) if isinstance(score, int | float) else score,
    )


def question(prompt_id: str = "a", *, skip: tuple[list[int], list[int]] | None = None) -> Prompt:
    return Prompt(id=prompt_id, token_ids=[1, 40, 2], question="q", reference="r", skip_ids=skip)


def scored_group(scores: Sequence[float | Score], *, prompt_id: str = "a", length: int = 4) -> Group:
    """One answer of `length` tokens for each score."""
    rollouts = [rollout([50] * (length - 1) + [3], prompt_id=prompt_id, score=s) for s in scores]
    return Group(prompt=question(prompt_id), rollouts=rollouts)
