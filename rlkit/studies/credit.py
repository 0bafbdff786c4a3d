"""`rlkit analyze mc-credit`: what is drawn, and how it becomes the arrays that analysis/mc_credit.py judges."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlkit.analysis import mc_credit
from rlkit.analysis.mc_credit import Floats, Unit
from rlkit.analyze_config import McCreditConfig
from rlkit.tasks.chain import ChainTask
from rlkit.tasks.chain_steps import written_steps

from .lab import Answer, Draws, Ids, Key, Lab, Tick


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One written step of an answer, whose truth the task knows."""

    prompt_id: str
    before: Ids
    """The answer's tokens up to the step."""
    after: Ids
    """And up to its end."""
    right: bool
    answer: float
    """GRPO's advantage of the answer it stands in, the same for all its steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the study measured."""

    units: list[Unit]
    steps: list[Step]
    before_SN: Floats
    """Rewards of the continuations before each step; [0, 0] without steps."""
    after_SN: Floats
    num_draws: int


def study(lab: Lab, cfg: McCreditConfig, progress: Callable[[str], Tick]) -> Found:
    """Answers, then continuations of their prefixes; progress: `answers` and `draws`."""
    group = cfg.num_generations
    searched = cfg.step_prompts if cfg.step_answers and isinstance(lab.task, ChainTask) else 0
    prompts = lab.prompts[: max(cfg.prompts, searched)]
    answers = lab.answers(prompts, group, progress("answers"))
    groups = [answers[i : i + group] for i in range(0, len(answers), group)]
    places = [
        (members, j / cfg.positions)
        for members in groups[: cfg.prompts]
        if all(a.score is not None and len(a.ids) > 1 for a in members)
        for j in range(1, cfg.positions)
    ]
    right = [sum((a.score or 0) > 0 for a in members) for members, _ in places]
    deep = set(mc_credit.stratified(right, [share for _, share in places], group, cfg.deep_groups))
    wanted: dict[Key, int] = {}
    for i, (members, share) in enumerate(places):
        count = cfg.deep_continuations if i in deep else cfg.continuations
        for a in members:
            _want(wanted, Key(a.prompt.id, a.cut(share)), count)
    steps = find_steps(lab, groups[:searched], cfg.step_answers)
    for step in steps:
        for prefix in (step.before, step.after):
            _want(wanted, Key(step.prompt_id, prefix), cfg.continuations)
    draws = lab.continuations(wanted, progress("draws"))
    before = [draws[Key(step.prompt_id, step.before)] for step in steps]
    after = [draws[Key(step.prompt_id, step.after)] for step in steps]
    return Found(
        units=[_unit(members, share, draws, wanted) for members, share in places],
        steps=steps,
        before_SN=_aligned(before, cfg.continuations),
        after_SN=_aligned(after, cfg.continuations),
        num_draws=sum(wanted.values()),
    )


def _want(wanted: dict[Key, int], key: Key, count: int) -> None:
    wanted[key] = max(count, wanted.get(key, 0))


def _unit(
    members: Sequence[Answer], share: float, draws: Mapping[Key, Draws], wanted: Mapping[Key, int]
) -> Unit:
    keys = [Key(a.prompt.id, a.cut(share)) for a in members]
    return Unit(
        prompt_id=members[0].prompt.id,
        position=share,
        draws_GN=_aligned([draws[key] for key in keys], min(wanted[key] for key in keys)),
        outcomes_G=np.array([a.score for a in members], np.float64),
    )


def _aligned(rows: Sequence[Draws], count: int) -> Floats:
    """The first `count` rewards of each row that could be judged, as many as all rows have."""
    judged = [[s for s in row.scores if not math.isnan(s)][:count] for row in rows]
    least = min((len(row) for row in judged), default=0)
    return np.array([row[:least] for row in judged], np.float64).reshape(len(judged), least)


# -- steps whose truth is known ----------------------------------------------------------------------------------------


def find_steps(lab: Lab, groups: Sequence[Sequence[Answer]], count: int) -> list[Step]:
    """The steps of `count` answers with a slip, up to it, and of as many without; what follows a slip is lost anyway."""
    slipped: list[list[Step]] = []
    clean: list[list[Step]] = []
    for members in groups:
        if any(a.score is None for a in members):
            continue
        advantages = mc_credit.group_advantages(np.array([a.score for a in members], np.float64))
        for answer, advantage in zip(members, advantages.tolist(), strict=True):
            steps = steps_of(lab, answer, advantage)
            if steps:
                (clean if all(s.right for s in steps) else slipped).append(steps)
    return [step for steps in (*slipped[:count], *clean[:count]) for step in steps]


def steps_of(lab: Lab, answer: Answer, advantage: float) -> list[Step]:
    """The written steps of one answer up to its first slip."""
    lengths = [len(lab.decode(answer.ids[:t])) for t in range(len(answer.ids) + 1)]
    found = []
    for start, end, right in written_steps(answer.prompt.question, answer.text):
        if start not in lengths or end not in lengths:  # a token that reaches over a step's edge
            break
        # The stop token decodes to nothing: the first place with the length is the step's edge.
        before, after = answer.ids[: lengths.index(start)], answer.ids[: lengths.index(end)]
        found.append(
            Step(prompt_id=answer.prompt.id, before=before, after=after, right=right, answer=advantage)
        )
        if not right:
            break
    return found


def right_of(steps: Sequence[Step]) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    return np.array([step.right for step in steps], np.bool_)


def answers_of(steps: Sequence[Step]) -> Floats:
    """GRPO's advantage of the answer that each step stands in. [S]"""
    return np.array([step.answer for step in steps], np.float64)
