"""How good is the policy: mean score on held-out prompts, never without its interval."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rlkit.types import Group, Prompt, Request, Sampler
from rlkit.verify import Judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """pass@1 (the mean score) over prompts, with its 95 % interval.

    >>> interval([1.0] * 8 + [0.0] * 2, seed=0)  # Wilson's score interval for 8 of 10
    (0.490162471536642, 0.9433178485456247)
    """

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


def interval(per_prompt: Sequence[float], seed: int) -> tuple[float, float]:
    """95 % interval of the mean over prompts, in [0, 1].

    One 0/1 score per prompt: Wilson's score interval. Otherwise: BCa bootstrap over prompts (answers to one prompt are not
    independent of each other, prompts are), and Wilson's bound for scores that are all 0 or all 1.
    """
    from scipy.stats import binomtest, bootstrap

    n, total = len(per_prompt), sum(per_prompt)
    if set(per_prompt) <= {0.0, 1.0}:
        wilson = binomtest(round(total), n).proportion_ci(method="wilson")
        return float(wilson.low), float(wilson.high)
    if len(set(per_prompt)) == 1:
        return per_prompt[0], per_prompt[0]
    result = bootstrap((list(per_prompt),), statistics.fmean, vectorized=False, n_resamples=2000, rng=seed)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


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
    low, high = interval(per_prompt, seed)
    return Evaluation(
        pass_at_1=statistics.fmean(per_prompt),
        low=low,
        high=high,
        prompts=len(per_prompt),
        samples=samples,
        unjudged=sum(len(g.rollouts) for g in groups) - sum(len(v) for v in values),
        mean_length=statistics.fmean(len(r.completion_ids) for g in groups for r in g.rollouts),
    )
