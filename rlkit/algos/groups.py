"""Answers in groups: how they are asked for, which of them count, and what an answer's tokens weigh."""

from collections.abc import Sequence

from rlkit.algo_config import Normalizer
from rlkit.algos.base import Sampling
from rlkit.algos.ops import seed_of
from rlkit.types import Group, Prompt, Request, Rollout, Sample


def collect_groups(
    prompts: Sequence[Prompt], sample: Sample, seed: int, num_generations: int, sampling: Sampling
) -> list[Group]:
    """G full answers to each prompt."""
    requests = [
        Request(
            prompt_id=prompt.id,
            token_ids=prompt.token_ids,
            n=num_generations,
            max_tokens=sampling.max_completion_length,
            temperature=sampling.temperature,
            seed=seed_of(seed, i),
        )
        for i, prompt in enumerate(prompts)
    ]
    return [Group(prompt=p, rollouts=r) for p, r in zip(prompts, sample(requests), strict=True)]


def judged(group: Group) -> list[Rollout]:
    """The rollouts with a usable score: a skip or an error is not a wrong answer, and leaves the group."""
    return [r for r in group.rollouts if r.value is not None]


def weights_and_shares(
    group: Sequence[Rollout], normalizer: Normalizer, longest: int, mask_truncated: bool
) -> list[tuple[float, float]]:
    """What every term of an answer is multiplied by, and what the answer adds to the denominator, for one group.

        sequence      1 / |o|            1        mean over answers of their token means (GRPO)
        token         1                  |o|      mean over all tokens (DAPO's code, TRL's dapo and bnpo)
        group_token   1 / group tokens   1 / G    mean over groups of their token means (the formula of DAPO and CISPO)
        constant      1 / longest        1        mean over answers of token sums / longest (Dr. GRPO)
        sum           1                  1        mean over answers of token sums (RLOO, LUSPO)

    longest: tokens that an answer may have
    mask_truncated: answers cut at that length weigh 0; they leave the counts of tokens and stay in those of answers (TRL)
    """
    lengths = [0 if mask_truncated and r.finish_reason == "length" else len(r.completion_ids) for r in group]
    out = []
    for length in lengths:
        weight, share = {
            "sequence": (1 / max(length, 1), 1.0),
            "token": (1.0, float(length)),
            "group_token": (1 / max(sum(lengths), 1), 1 / len(group)),
            "constant": (1 / longest, 1.0),
            "sum": (1.0, 1.0),
        }[normalizer]
        out.append((weight if length else 0.0, share))
    return out
