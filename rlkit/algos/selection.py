"""Dynamic sampling (DAPO, arXiv:2503.14476, section 3.2): keep the groups that teach, sample again for the rest.

A group whose scores are all equal has nothing to compare: its advantages are 0 and it trains nothing. The loop asks the
algorithm which groups to keep (`Algorithm.select`) and fills the gaps with further prompts, for `Algorithm.rounds` rounds.
"""

from collections.abc import Sequence

from rlkit.types import Group


def has_spread(group: Group) -> bool:
    """Whether two answers of the group have different scores; those without a usable one do not count.

    The paper's 0 < #correct < G. Scores, not rewards: a length penalty makes no group worth keeping.
    """
    return len({r.value for r in group.rollouts if r.value is not None}) > 1


def with_spread(groups: Sequence[Group]) -> list[Group]:
    return [g for g in groups if has_spread(g)]
