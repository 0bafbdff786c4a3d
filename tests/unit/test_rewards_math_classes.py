r"""Every class of answers, both ways: math_cases.txt holds the pairs."""

import gzip
import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlkit.rewards.maths.answers import compare
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


@pytest.mark.parametrize(
    "name", ["math_train", "math_test_minus500", "olympiadbench_math_en", "minerva_math", "bigmath_rl_5k"]
)
def test_gold_answers_of_other_problems_are_hardly_ever_equal(name: str) -> None:
    """Two drawn at random, numbers apart: of 20,000 such pairs about 20 were equal when this was written, each rightly."""
    if (folder := os.environ.get("RLKIT_DATA")) is None:
        pytest.skip("RLKIT_DATA is not set: it names the folder with math_train.jsonl.gz, ...")
    plain, packed = Path(folder, f"{name}.jsonl"), Path(folder, f"{name}.jsonl.gz")
    text = (
        plain.read_text("utf-8") if plain.exists() else gzip.decompress(packed.read_bytes()).decode("utf-8")
    )
    golds = [str(json.loads(line)["answer"]) for line in text.split("\n") if line]
    others = [gold for gold in golds if not gold.strip("-").isdigit()]
    rng = random.Random(11)
    pairs = [rng.sample(others, 2) for _ in range(250)]
    equal = [(one, other) for one, other in pairs if one != other and compare(one, other).equal]
    assert len(equal) <= 3, equal


def test_every_class_has_equal_pairs_and_near_misses() -> None:
    kinds = {(kind, same) for kind, _, same, _ in cases()}
    assert len(kinds) == 2 * len({kind for kind, _ in kinds}) > 30
