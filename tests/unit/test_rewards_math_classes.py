r"""Every class of answers, both ways: math_cases.txt holds the pairs."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlkit.rewards.symbolic import judge_answer

CASES = Path(__file__).with_name("math_cases.txt")
_CLASS = re.compile(r"\[([a-z, ]+)\]")
_PAIR = re.compile(r"(.+?)   (===|=/=)   (.+)")


def cases() -> Iterator[tuple[str, str, bool, str]]:
    """(class, one answer, whether they are the same, the other)."""
    kind = ""
    for line in CASES.read_text("utf-8").splitlines():
        header, pair = _CLASS.fullmatch(line), _PAIR.fullmatch(line)
        if header is not None:
            kind = header[1]
        elif pair is not None:
            yield kind, pair[1], pair[2] == "===", pair[3]
        else:
            assert not line or line.startswith("#"), f"neither a pair nor a class: {line!r}"


@pytest.mark.parametrize(("kind", "one", "same", "other"), list(cases()))
def test_two_answers_are_told_the_same_or_not_whichever_is_the_gold_one(
    kind: str, one: str, same: bool, other: str
) -> None:
    assert (bool(judge_answer(one, other).equal), bool(judge_answer(other, one).equal)) == (same, same)


def test_every_class_has_equal_pairs_and_near_misses() -> None:
    kinds = {(kind, same) for kind, _, same, _ in cases()}
    assert len(kinds) == 2 * len({kind for kind, _ in kinds}) > 30
