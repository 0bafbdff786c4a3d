"""How good is the policy: answers to held-out prompts, drawn and judged; no mean without its interval.

`evaluate` is one look during training. `answer_all` is `rlkit eval`: n answers to each prompt, kept in a folder batch by
batch. What is drawn never depends on where a killed evaluation stopped: every answer has its own seed, made from (seed,
prompt, sample), and goes to the sampler in the company that the plan below fixes, after the sampler has forgotten what it
was asked before (vLLM's cached prompts change a logit's last bits).
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rlkit.algos.ops import seed_of
from rlkit.analysis.intervals import mean_interval
from rlkit.errors import RolloutError
from rlkit.ranks import Ranks
from rlkit.types import Group, Prompt, Request, Rollout, Sampler
from rlkit.verify import Judge, Scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """pass@1 (the mean score) over prompts, with its 95 % interval (rlkit/analysis/intervals.py)."""

    pass_at_1: float
    low: float
    high: float
    prompts: int
    samples: int
    """Answers to each prompt."""
    unjudged: int
    """Verdicts that were skips or errors, left out of the mean."""
    mean_length: float
    """Tokens of an answer."""

    def __str__(self) -> str:
        return f"{self.pass_at_1:.3f} [{self.low:.3f}, {self.high:.3f}]"


def evaluate(
    sampler: Sampler,
    judge: Judge,
    prompts: Sequence[Prompt],
    *,
    samples: int,
    max_tokens: int,
    temperature: float,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    seed: int,
) -> Evaluation:
    """Answer every prompt `samples` times and score the answers. RolloutError when none of them can be judged."""
    requests = [
        Request(
            prompt_id=p.id,
            token_ids=p.token_ids,
            n=samples,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            seed=seed * 1_000_003 + i,
        )
        for i, p in enumerate(prompts)
    ]
    drawn = sampler.sample(requests)
    groups = judge([Group(prompt=p, rollouts=r) for p, r in zip(prompts, drawn, strict=True)])
    values = [[r.value for r in g.rollouts if r.value is not None] for g in groups]
    per_prompt = [statistics.fmean(v) for v in values if v]
    low, high = mean_interval(per_prompt)
    return Evaluation(
        pass_at_1=statistics.fmean(per_prompt),
        low=low,
        high=high,
        prompts=len(per_prompt),
        samples=samples,
        unjudged=sum(len(g.rollouts) for g in groups) - sum(len(v) for v in values),
        mean_length=statistics.fmean(len(r.completion_ids) for g in groups for r in g.rollouts),
    )


# -- rlkit eval ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """How the answers are drawn."""

    n: int
    """Answers to each prompt."""
    max_tokens: int
    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    batch: int = 1024
    """Answers that go to the sampler together, at most, and are kept together."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples `first` up to `last` of the prompts of one block, which is sent whole.

    >>> Batch(0, 0, 256, 8, 16).size
    2048
    """

    block: int
    start: int
    stop: int
    first: int
    last: int

    @property
    def size(self) -> int:
        return (self.stop - self.start) * (self.last - self.first)


BLOCK = 256
"""Prompts of a batch, at most."""


def plan(num_prompts: int, n: int, batch: int) -> list[Batch]:
    """The batches that make up n answers to each prompt, the same ones for every larger n at which they are whole.

    Samples double (1, 1, 2, 4, ... of them) until a batch is full: so any power of two is made of whole batches, and
    raising n to another one sends what a fresh evaluation would have sent.

    >>> [(b.first, b.last) for b in plan(30, 64, 480)]
    [(0, 1), (1, 2), (2, 4), (4, 8), (8, 16), (16, 32), (32, 48), (48, 64)]
    """
    block = max(1, min(BLOCK, num_prompts, batch))
    longest = 1 << (max(1, batch // block).bit_length() - 1)
    blocks = [
        (b, start, min(start + block, num_prompts)) for b, start in enumerate(range(0, num_prompts, block))
    ]
    return [
        Batch(b, start, stop, first, last) for first, last in _spans(n, longest) for b, start, stop in blocks
    ]


def _spans(n: int, longest: int) -> Iterator[tuple[int, int]]:
    first = 0
    while first < n:
        length = min(max(1, first), longest)
        yield first, min(first + length, n)
        first += length


def missing(batches: Sequence[Batch], ids: Sequence[str], have: Mapping[str, set[int]]) -> list[Batch]:
    """What is still to be drawn: a batch of which the first samples are there (n was smaller) without those."""
    left = []
    for batch in batches:
        block = ids[batch.start : batch.stop]
        there = [i for i in range(batch.first, batch.last) if all(i in have.get(id_, ()) for id_ in block)]
        first = max(there, default=batch.first - 1) + 1
        if first < batch.last:
            left.append(replace(batch, first=first))
    return left


def answer_all(
    sampler: Sampler,
    judge: Judge,
    prompts: Sequence[Prompt],
    drawing: Drawing,
    batches: Sequence[Batch],
    read: Scorer | None,
    keep: Callable[[Batch, list[tuple[int, Rollout, str | None]]], None],
    ranks: Ranks,
) -> None:
    """Draw and judge these batches and hand each to `keep` (on rank 0): number of the sample, rollout, final answer.

    read: reads final answers, as a reason (rlkit.rewards.AnswerReader); None: the verifier judges texts that have none
    Raises RolloutError when too many verdicts are errors, before the batch is kept.
    """
    errors = verdicts = scores = 0
    for batch in batches:
        asked = [(p, i) for p in prompts[batch.start : batch.stop] for i in range(batch.first, batch.last)]
        sampler.forget()
        drawn = sampler.sample([_request(p, i, drawing) for p, i in asked])
        texts = [replace(r, text=judge.decode(r.completion_ids)) for (r,) in drawn]
        items = [(p, r.text or "") for (p, _), r in zip(asked, texts, strict=True)]
        found = judge.scorer.score(items)
        errors += sum(s.error for s in found)
        verdicts += len(found)
        scores += sum(s.outcome == "score" for s in found)
        if errors > judge.max_error_share * verdicts or not scores:
            _refuse(judge, asked, texts, [(s.outcome, s.reason) for s in found], errors, verdicts)
        answers: list[str | None] = [None] * len(items)
        if read is not None:
            answers = [s.reason if s.outcome == "score" else None for s in read.score(items)]
        if ranks.main:
            rollouts = [replace(r, score=s) for r, s in zip(texts, found, strict=True)]
            keep(batch, [(i, r, a) for (_, i), r, a in zip(asked, rollouts, answers, strict=True)])


def _request(prompt: Prompt, sample: int, drawing: Drawing) -> Request:
    return Request(
        prompt_id=prompt.id,
        token_ids=prompt.token_ids,
        n=1,
        max_tokens=drawing.max_tokens,
        temperature=drawing.temperature,
        top_p=drawing.top_p,
        top_k=drawing.top_k,
        min_p=drawing.min_p,
        seed=seed_of(drawing.seed, "eval", prompt.id, sample),
    )


def _refuse(
    judge: Judge,
    asked: Sequence[tuple[Prompt, int]],
    texts: Sequence[Rollout],
    found: Sequence[tuple[str, str]],
    errors: int,
    verdicts: int,
) -> None:
    """The sentence for verdicts that no number can be made of."""
    kind = "error" if errors > judge.max_error_share * verdicts else "skip"
    at = next((i for i, (outcome, _) in enumerate(found) if outcome == kind), 0)
    first = f"The first: prompt {asked[at][0].id}, answer {(texts[at].text or '')[-80:]!r}: {found[at][1] or 'no reason given'}"
    if kind == "error":
        raise RolloutError(
            f"{errors} of {verdicts} verdicts are errors, more than --reward.max-error-share {judge.max_error_share}. {first}"
        )
    raise RolloutError(
        f"none of {verdicts} answers could be judged. {first}. Check --reward and --data.answer-column"
    )
