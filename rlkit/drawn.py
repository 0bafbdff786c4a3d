"""What a step has sampled, and how it is kept in a checkpoint until it is trained on (`--async-steps`).

Kept are the tokens, log-probs, texts and verdicts as they were, bit for bit: log-probs as float64 tensors, the rest as JSON. Of a
prompt only the id and what an algorithm changed in it; the run's data gives the rest.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from rlkit.errors import RolloutError, RunError
from rlkit.types import Group, Prompt, Rollout, Score, Segment, State

Find = Callable[[str], Prompt]
"""A prompt by its id, as `take` gives it. Raises KeyError."""

CHANGEABLE = ("token_ids", "text", "question", "reference")
"""Fields of a prompt in which an algorithm may have written something of its own (SKPO's [s, q] in token_ids)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What a step has sampled.

    >>> Drawn(groups=[], kept=[], rounds=1, tokens=0).metrics()
    {'groups/prompts': 0.0, 'groups/kept': 0.0, 'groups/rounds': 1.0}
    """

    groups: list[Group]
    """One for each prompt drawn, with verdicts."""
    kept: list[Group]
    """What is trained on."""
    rounds: int
    tokens: int
    """Written for it, those of discarded segments too: they cost as much."""

    def metrics(self) -> dict[str, float]:
        counts = {"prompts": len(self.groups), "kept": len(self.kept), "rounds": self.rounds}
        return {f"groups/{name}": float(count) for name, count in counts.items()}


def require_written_by(drawn: Drawn, version: int, newest: int | None = None) -> None:
    """Raise RolloutError when an answer was written by other weights than the sampler was given.

    newest: the version that it was given meanwhile; None: none
    """
    last = version if newest is None else newest
    for rollout in rollouts_of([*drawn.groups, *drawn.kept]):
        if not version <= rollout.policy_version <= rollout.newest_version <= last:
            given = f"version {version}" + (f" to {last}" if last > version else "")
            raise RolloutError(
                f"rollout of prompt {rollout.prompt_id!r}: written by weights of version {rollout.policy_version}"
                f"{f' to {rollout.newest_version}' if rollout.later_versions else ''}, and the sampler had been given {given}. A sampler "
                "takes new weights in `load` only, and says which it has"
            )


def rollouts_of(groups: Sequence[Group]) -> Iterator[Rollout]:
    """Every rollout, of children too, always in the same order."""
    for group in groups:
        yield from group.rollouts
        yield from rollouts_of(group.children)


# -- to a checkpoint, and back ----------------------------------------------------------------------------------------------


def to_state(drawn: Drawn, find: Find) -> State:
    """JSON values and two tensors. Raises RunError for a prompt that could not be found again."""
    own = {id(g): i for i, g in enumerate(drawn.groups)}
    made = [
        g for g in drawn.kept if id(g) not in own
    ]  # by an algorithm whose `select` puts groups together anew
    own |= {id(g): len(drawn.groups) + i for i, g in enumerate(made)}
    every = [*drawn.groups, *made]
    rollouts = list(rollouts_of(every))
    return {
        "groups": [_group_state(g, find) for g in every],
        "num_groups": len(drawn.groups),
        "kept": [own[id(g)] for g in drawn.kept],
        "rounds": drawn.rounds,
        "tokens": drawn.tokens,
        "token_ids": torch.tensor([t for r in rollouts for t in r.token_ids], dtype=torch.int64),
        "logprobs": torch.tensor([p for r in rollouts for p in r.logprobs], dtype=torch.float64),
    }


def from_state(state: Mapping[str, Any], find: Find) -> Drawn:
    """What `to_state` was given. Raises RunError when it is of other prompts, or of another form."""
    try:
        numbers = iter(zip(state["token_ids"].tolist(), state["logprobs"].tolist(), strict=True))
        every = [_group(told, find, numbers) for told in state["groups"]]
        return Drawn(
            groups=every[: state["num_groups"]],
            kept=[every[i] for i in state["kept"]],
            rounds=state["rounds"],
            tokens=state["tokens"],
        )
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise RunError(
            f"the rollouts that the checkpoint keeps for its next steps cannot be read ({type(error).__name__}: {error}); were they "
            "sampled from other data?"
        ) from error


def _group_state(group: Group, find: Find) -> State:
    return {
        "prompt": _prompt_state(group.prompt, find),
        "rollouts": [_rollout_state(r) for r in group.rollouts],
        "children": [_group_state(child, find) for child in group.children],
    }


def _prompt_state(prompt: Prompt, find: Find) -> State:
    try:
        known = find(prompt.id)
    except KeyError:
        known = None
    changed = {
        name: getattr(prompt, name)
        for name in CHANGEABLE
        if known is None or getattr(prompt, name) != getattr(known, name)
    }
    if known is None or replace(known, **changed) != prompt:
        raise RunError(
            f"prompt {prompt.id!r}: the algorithm gave it another id, row or skip_ids than the data has, so the rollouts that wait for "
            f"their step cannot be kept in a checkpoint; change only {', '.join(CHANGEABLE)}, or train with --async-steps 0"
        )
    return {"id": prompt.id, **changed}


def _rollout_state(rollout: Rollout) -> State:
    score = rollout.score
    return {
        "prompt_id": rollout.prompt_id,
        "length": len(rollout.token_ids),
        "segments": [[s.kind, s.start, s.end] for s in rollout.segments],
        "policy_version": rollout.policy_version,
        "finish_reason": rollout.finish_reason,
        "text": rollout.text,
        "score": None if score is None else [score.value, score.reason, dict(score.parts), score.error],
        "later_versions": [list(pair) for pair in rollout.later_versions],
    }


def _group(told: Mapping[str, Any], find: Find, numbers: Iterator[tuple[int, float]]) -> Group:
    """Rollouts take their numbers in the order of `rollouts_of`."""
    changed = {name: value for name, value in told["prompt"].items() if name != "id"}
    return Group(
        prompt=replace(find(told["prompt"]["id"]), **changed),
        rollouts=[_rollout(r, numbers) for r in told["rollouts"]],
        children=[_group(child, find, numbers) for child in told["children"]],
    )


def _rollout(told: Mapping[str, Any], numbers: Iterator[tuple[int, float]]) -> Rollout:
    mine = [next(numbers, None) for _ in range(told["length"])]
    whole = [pair for pair in mine if pair is not None]
    if len(whole) < len(mine):
        raise ValueError("it has fewer tokens than its rollouts")
    return Rollout(
        prompt_id=told["prompt_id"],
        token_ids=[token for token, _ in whole],
        logprobs=[logprob for _, logprob in whole],
        segments=[Segment(kind=kind, start=start, end=end) for kind, start, end in told["segments"]],
        policy_version=told["policy_version"],
        finish_reason=told["finish_reason"],
        text=told["text"],
        score=None if told["score"] is None else Score(*told["score"]),
        later_versions=tuple((start, version) for start, version in told.get("later_versions", ())),
    )
