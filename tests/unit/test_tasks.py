"""Procedural tasks: the same contract for all of them, then each verifier on right, wrong and hostile answers."""

import json
import pickle
import random
import re
import sys
import types
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import pytest

from rlkit.boxed import last_boxed
from rlkit.errors import ConfigError, DataError
from rlkit.tasks import TASKS, make_task
from rlkit.tasks import reasoning_gym as adapter
from rlkit.tasks.coins import CoinsTask, fewest, largest_first
from rlkit.tasks.countdown import CountdownTask, random_expression, read_expression
from rlkit.types import Prompt

NAMES = ("task:chain", "task:countdown", "task:coins")
STYLES = ("<now>", "<steps>", "<check>")


def as_prompt(item: Mapping[str, Any]) -> Prompt:
    return Prompt(id="x", token_ids=[1], question=item["prompt"], reference=item["answer"], row=item)


def tiny_tokens(text: str) -> int:
    """Tokens of the embedded model's tokenizer, the end included: one for each marker and each other byte."""
    return len(re.sub(r"<now>|<steps>|<check>|\\boxed\{", "m", text).encode()) + 1


@pytest.mark.parametrize("name", NAMES)
def test_the_splits_share_no_question(name: str) -> None:
    task = make_task(name)
    train = {task.item("train", i)["prompt"] for i in range(15_000)}
    test = {task.item("test", i)["prompt"] for i in range(5_000)}
    assert not train & test
    assert len(test) > 500  # enough to hold out


@pytest.mark.parametrize("name", NAMES)
def test_an_item_is_the_same_in_every_run_and_travels(name: str) -> None:
    one, other = make_task(name), pickle.loads(pickle.dumps(make_task(name)))
    for split in ("train", "test"):
        assert one.item(split, 7) == other.item(split, 7) != one.item(split, 8)
    assert json.loads(json.dumps(one.item("train", 0))) == one.item("train", 0)
    assert f"task:{one.name}" in TASKS


@pytest.mark.parametrize("name", NAMES)
def test_gold_answers_score_1(name: str) -> None:
    task = make_task(name)
    for i in range(500):
        item = task.item("test", i)
        score = task.verify(as_prompt(item), f"<steps>whatever\\boxed{{{item['answer']}}}")
        assert score.value == 1.0, (item, score)


@pytest.mark.parametrize("name", NAMES)
def test_demonstrations_keep_their_shares_their_accuracy_and_their_length(name: str) -> None:
    task = make_task(name)
    rng = random.Random(0)
    scores: dict[str, list[float]] = defaultdict(list)
    for i in range(4000):
        item = task.item("train", i % 1000)
        text = task.demonstration(item, rng)
        assert tiny_tokens(text) <= task.max_completion_length, text
        assert text.endswith("}") and last_boxed(text) is not None
        value = task.verify(as_prompt(item), text).value
        assert value is not None
        scores[text[: text.index(">") + 1]].append(value)
    share = {style: len(scores[style]) / 4000 for style in STYLES}
    right = {style: sum(v > 0 for v in scores[style]) / len(scores[style]) for style in STYLES}
    assert share == pytest.approx({"<now>": 0.68, "<steps>": 0.29, "<check>": 0.03}, abs=0.025)
    assert right["<now>"] == pytest.approx(0.20, abs=0.03)
    assert right["<steps>"] == pytest.approx(0.90, abs=0.03)
    assert right["<check>"] > 0.92  # about 120 texts


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "text", ["", "42", "<now>", "\\boxed{", "\\boxed{}", "\\boxed{x}", "\\boxed{٣}", "\\boxed{²}"]
)
def test_an_unreadable_answer_is_wrong_and_says_why(name: str, text: str) -> None:
    task = make_task(name)
    score = task.verify(as_prompt(task.item("train", 0)), text)
    assert score.value == 0.0 and score.reason


def test_names_that_are_not_known_are_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match="task 'task:chian' is not known; did you mean 'task:chain'"):
        make_task("task:chian")


# Countdown

COUNTDOWN = Prompt(id="x", token_ids=[1], row={"numbers": [2, 3, 5, 7], "target": 32})


RIGHT = ("7*5-3", "5*7-3", "(7*5)-3", "((((7))))*5-3", "7 \\times 5 - 3", "7\\cdot 5-3")


@pytest.mark.parametrize("answer", RIGHT)
def test_every_expression_of_the_target_is_right(answer: str) -> None:
    assert CountdownTask().verify(COUNTDOWN, f"\\boxed{{{answer}}}").value == 1.0


HOSTILE = {
    "7*5-2": "is 33, expected 32",
    "32": "uses 32",
    "7*5-3+2-2": "uses 2",
    "7*5-3=32": "'=' is not expected at place 6",
    "__import__('os').system('true')": "'_' at place 1; expected a number",
    "9**9**9": "'*' at place 3; expected a number",
    "99999999999999999999": "expected a number of at most 4 digits",
    "٧*٥-٣": "expected a number",
    "7*5-³": "'³' at place 5",
    "(7*5-3": "a parenthesis is not closed",
    "7*5-3)": "')' is not expected at place 6",
    "-3+7*5": "'-' at place 1; expected a number",
    "7*5-": "the end at place 5; expected a number",
    "7/5": "'/' is not expected",
    "7.0*5-3": "'.' is not expected",
    "(" * 80 + "7" + ")" * 80: "more than 20 parentheses",
    "7+" * 150 + "7": "longer than 200 characters",
}


@pytest.mark.parametrize("answer", HOSTILE)
def test_countdown_refuses_what_is_wrong_or_hostile(answer: str) -> None:
    score = CountdownTask().verify(COUNTDOWN, f"\\boxed{{{answer}}}")
    assert score.value == 0.0 and HOSTILE[answer] in score.reason, score


def test_expressions_are_computed_as_python_would() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        numbers = [rng.randint(1, 9) for _ in range(4)]
        text = random_expression(numbers, rng)
        expression = read_expression(text)
        assert expression.value == eval(text) >= 1, text
        assert len(expression.steps) == len(expression.numbers) - 1 in (2, 3)
        assert Counter(expression.numbers) <= Counter(numbers)


# Coins

COINS = Prompt(id="x", token_ids=[1], row={"amount": 14, "coins": [1, 7, 10]})


def test_payments_are_worth_fewest_over_used() -> None:
    def value(answer: str) -> float | None:
        return CoinsTask().verify(COINS, f"\\boxed{{{answer}}}").value

    assert value("7+7") == value("7 + 7") == 1.0
    assert value("10+1+1+1+1") == value("1+1+10+1+1") == 2 / 5
    assert value("+".join(["1"] * 14)) == 2 / 14
    for wrong in (
        "10+1",
        "14",
        "7*2",
        "7+7+",
        "7+-7+7+7",
        "٧+7",
        "2+5+7",
        "7.0+7",
        "9**9**9",
        "1+" * 5000 + "1",
        "",
        "()",
    ):
        assert value(wrong) == 0.0, wrong


def test_the_fewest_coins_are_those_of_a_search_over_all_payments() -> None:
    for coins in ([1, 7, 10], [1, 3, 4], [1, 6, 25]):
        best = [0]
        for amount in range(1, 61):
            best.append(1 + min(best[amount - coin] for coin in coins if coin <= amount))
            assert len(fewest(amount, coins)) == best[amount]
            assert sum(fewest(amount, coins)) == sum(largest_first(amount, coins)) == amount


def test_largest_first_is_never_the_best_and_check_knows_better() -> None:
    task, rng = CoinsTask(), random.Random(0)
    for i in range(300):
        item = task.item("train", i)
        careful = task.verify(as_prompt(item), task.demonstrate(item, "<steps>", rng)).value
        assert careful is not None and careful < 1.0
    best = [
        task.verify(as_prompt(item), task.demonstrate(item, "<check>", rng)).value == 1.0 for _ in range(500)
    ]
    assert sum(best) > 470


# reasoning-gym


def test_reasoning_gym_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter._dataset.cache_clear()
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'rlvrkit[reasoning-gym]'")):
        make_task("reasoning_gym:chain_sum")


class DoublingSet:
    """Stands for a data set of the package: `2 * i` with partial credit for a right last digit."""

    def __init__(self, seed: int, num_questions: int) -> None:
        self.seed = seed
        self.num_questions = num_questions

    def __getitem__(self, i: int) -> dict[str, Any]:
        i = (self.seed + i) % self.num_questions
        return {"question": f"2 * {i} = ?", "answer": str(2 * i), "metadata": {"source_index": i}}

    def score_answer(self, answer: str | None, entry: Mapping[str, Any]) -> float:
        return 1.0 if answer == entry["answer"] else 0.1 * (str(answer)[-1:] == entry["answer"][-1:])


def install(monkeypatch: pytest.MonkeyPatch, num_questions: int) -> None:
    """A package with the two names that the adapter calls, in the place of reasoning-gym."""
    package, factory = types.ModuleType("reasoning_gym"), types.ModuleType("reasoning_gym.factory")
    vars(package)["create_dataset"] = lambda name, *, seed, size: DoublingSet(seed, num_questions)
    vars(factory)["DATASETS"] = {"doubling": None, "chain_sum": None}
    monkeypatch.setitem(sys.modules, "reasoning_gym", package)
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", factory)
    adapter._dataset.cache_clear()


def test_reasoning_gym_items_splits_and_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, 10**9)
    task = make_task("reasoning_gym:doubling")
    assert task.name == "reasoning_gym:doubling"
    train = [task.item("train", i) for i in range(300)]
    assert not {x["prompt"] for x in train} & {task.item("test", i)["prompt"] for i in range(300)}
    for item in train:
        assert task.verify(as_prompt(item), task.demonstration(item, random.Random(0))).value == 1.0
    assert task.verify(as_prompt(train[0]), f"\\boxed{{9{train[0]['answer']}}}").value == pytest.approx(0.1)
    assert task.verify(as_prompt(train[0]), "no box").reason == "no \\boxed{} in the answer"
    adapter._dataset.cache_clear()


def test_reasoning_gym_knows_its_names_and_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, 1)
    with pytest.raises(ConfigError, match="did you mean 'chain_sum'"):
        make_task("reasoning_gym:chainsum")
    task = make_task("reasoning_gym:doubling")
    with pytest.raises(DataError, match="64 items in a row are not of the (train|test) split"):
        for split in ("train", "test"):
            task.item(split, 0)
    adapter._dataset.cache_clear()


def test_the_real_reasoning_gym() -> None:
    pytest.importorskip(
        "reasoning_gym", reason="reasoning-gym is not installed: the real package is NOT tested"
    )
    adapter._dataset.cache_clear()
    task = make_task("reasoning_gym:chain_sum")
    for i in range(20):
        item = task.item("train", i)
        assert task.verify(as_prompt(item), f"\\boxed{{{item['answer']}}}").value == 1.0
