"""What a verifier owes and may declare, for every way of writing one; the pool's processes are in test_rewards_pool.py."""

import asyncio
import math
import pickle
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from rlkit.errors import ConfigError, RolloutError
from rlkit.rewards import (
    AsyncWeightedSum,
    ExactVerifier,
    FormatVerifier,
    MathVerifier,
    WeightedSum,
    gold_text,
    judge,
    make_verifier,
    weighted_sum,
)
from rlkit.rewards.contract import (
    batch_size,
    concurrency,
    is_async,
    judge_async,
    judge_batch,
    value_range,
    warm_up,
)
from rlkit.types import AnyVerifier, Prompt, Score

PROMPT = Prompt(id="p", token_ids=[1], reference="42")


@dataclass(frozen=True)
class Returns:
    """A number, whatever the answer is; in the range that it is told to declare."""

    value: float
    value_range: object = None

    def __call__(self, prompt: Prompt, text: str) -> Score:
        return Score(self.value, reason="told to")


@dataclass(frozen=True)
class Waits:
    """Half of the answer's length, after a turn of the event loop."""

    concurrency: int = 3
    value_range: tuple[float, float] = (0.0, 4.0)

    async def __call__(self, prompt: Prompt, text: str) -> Score:
        await asyncio.sleep(0)
        return Score(len(text) / 2, reason="waited")


@dataclass(frozen=True)
class Batch:
    """The answers' lengths; the first answer may ask for something else."""

    batch_size: int = 4

    def batch(self, items: Sequence[tuple[Prompt, str]]) -> Sequence[Score]:
        if items[0][1] == "raise":
            raise ValueError("not this one")
        if items[0][1] == "short":
            return [Score(1.0)] * (len(items) - 1)
        if items[0][1] == "iterator":
            return map(Score, [1.0])  # type: ignore[return-value]
        return [Score(float(len(text))) for _, text in items]


@dataclass(frozen=True)
class AsyncBatch(Batch):
    async def batch(self, items: Sequence[tuple[Prompt, str]]) -> Sequence[Score]:  # type: ignore[override]
        await asyncio.sleep(0)
        return Batch.batch(self, items)


@dataclass(frozen=True)
class Letter:
    """Reads answers of another form than a box."""

    def __call__(self, prompt: Prompt, text: str) -> Score:
        return Score(float(text == f"({prompt.reference})"))

    def gold_text(self, prompt: Prompt) -> str | None:
        return None if prompt.reference is None else f"({prompt.reference})"


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no words for it")

    def __call__(self, prompt: Prompt, text: str) -> Score:
        return self  # type: ignore[return-value]


SHIPPED: list[AnyVerifier] = [
    *(MathVerifier(), ExactVerifier(), FormatVerifier(), FormatVerifier(max_tail=3)),
    *(make_verifier("math+0.1*format"), weighted_sum([("w", 1.0, Waits())])),
]


@pytest.mark.parametrize("verifier", SHIPPED, ids=str)
def test_every_shipped_verifier_comes_back_from_a_pickle_as_it_was(verifier: AnyVerifier) -> None:
    assert pickle.loads(pickle.dumps(verifier)) == verifier


@pytest.mark.parametrize("verifier", [MathVerifier(), ExactVerifier(), FormatVerifier()], ids=str)
def test_built_in_verifiers_declare_0_to_1(verifier: AnyVerifier) -> None:
    assert value_range(verifier) == (0.0, 1.0)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_value_in_the_declared_range_is_a_score(value: float) -> None:
    assert judge(Returns(value, (0, 1)), PROMPT, "x") == Score(value, reason="told to")


@pytest.mark.parametrize("value", [3.0, -0.001])
def test_a_value_outside_the_declared_range_is_an_error_that_names_both(value: float) -> None:
    reason = f"Returns returned {value}, outside its declared range [0, 1]"
    assert judge(Returns(value, (0, 1)), PROMPT, "x") == Score(None, reason=reason, error=True)


def test_a_range_may_be_open_and_a_skip_has_no_range() -> None:
    assert judge(Returns(-1e30, (-math.inf, 0)), PROMPT, "x").outcome == "score"
    assert judge(Returns(None, (0, 1)), PROMPT, "x").outcome == "skip"  # type: ignore[arg-type]


@pytest.mark.parametrize("declared", [(1, 0), (0,), "ab", 1.0, (0, math.nan), (0, 1, 2)])
def test_what_is_no_range_is_told(declared: object) -> None:
    with pytest.raises(ConfigError, match="expected two numbers, the least value first"):
        value_range(Returns(0.5, declared))


def test_a_sum_derives_its_range_from_the_terms_that_count() -> None:
    terms = [("a", 2.0, Returns(1, (0, 1))), ("b", -0.5, Returns(1, (-1, 3))), ("c", 0.0, Returns(9))]
    assert value_range(weighted_sum(terms)) == (-1.5, 2.5)
    assert value_range(weighted_sum([*terms, ("d", 1.0, Returns(1))])) is None


def test_rounding_in_a_sum_is_not_outside_of_its_range() -> None:
    tenths = weighted_sum([(f"t{i}", 0.1, Returns(1.0, (0, 1))) for i in range(10)])
    assert sum([0.1] * 10) != 1.0
    assert judge(tenths, PROMPT, "x").outcome == "score"


def test_an_async_verifier_is_known_awaited_and_held_to_its_range() -> None:
    assert is_async(Waits()) and not is_async(Returns(1))
    assert concurrency(Waits()) == 3 and concurrency(Returns(1)) == 1
    assert judge(Waits(), PROMPT, "four") == Score(2.0, reason="waited")
    assert judge(Waits(), PROMPT, "x" * 10).reason == "Waits returned 5.0, outside its declared range [0, 4]"
    assert asyncio.run(judge_async(Waits(), PROMPT, "four")).value == 2.0
    assert asyncio.run(judge_async(ExactVerifier(), PROMPT, "42")).value == 1.0


@pytest.mark.parametrize("verifier", [Batch(), AsyncBatch()], ids=str)
def test_a_batch_verifier_judges_many_and_one(verifier: Batch) -> None:
    assert batch_size(verifier) == 4 and batch_size(Returns(1)) == 1
    assert [s.value for s in judge_batch(verifier, [(PROMPT, "a"), (PROMPT, "abc")])] == [1.0, 3.0]
    assert judge(verifier, PROMPT, "four").value == 4.0


@pytest.mark.parametrize("verifier", [Batch(), AsyncBatch()], ids=str)
def test_a_batch_that_fails_raises_and_one_answer_that_fails_is_an_error(verifier: Batch) -> None:
    with pytest.raises(ValueError, match="not this one"):
        judge_batch(verifier, [(PROMPT, "raise"), (PROMPT, "b")])
    with pytest.raises(RolloutError, match="Batch.batch returned 1 verdicts for 2 answers"):
        judge_batch(verifier, [(PROMPT, "short"), (PROMPT, "b")])
    with pytest.raises(RolloutError, match="Batch.batch returned a map for 1 answers"):
        judge_batch(verifier, [(PROMPT, "iterator")])
    assert judge(verifier, PROMPT, "raise").reason.startswith("ValueError: not this one at ")
    assert "returned '[]' for one answer" in judge(verifier, PROMPT, "short").reason


@pytest.mark.parametrize("declared", [0, -1, True, 2.0, "8"])
def test_what_is_no_count_is_told(declared: object) -> None:
    with pytest.raises(ConfigError, match="Waits.concurrency is .* expected a whole number from 1 on"):
        concurrency(Waits(concurrency=declared))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Batch.batch_size is .* expected a whole number from 1 on"):
        batch_size(Batch(batch_size=declared))  # type: ignore[arg-type]


def test_a_sum_of_sync_and_async_terms_waits_for_them_and_keeps_its_parts() -> None:
    terms = [("w", 1.0, Waits()), ("e", 0.5, ExactVerifier())]
    both = weighted_sum(terms)
    assert isinstance(both, AsyncWeightedSum) and concurrency(both) == 3 and value_range(both) == (0.0, 4.5)
    assert judge(both, PROMPT, "42") == Score(
        1.5, reason="w 1: waited; e 1: read '42', which is '42'", parts={"w": 1.0, "e": 1.0}
    )
    with pytest.raises(ConfigError, match="w .Waits. is async: expected AsyncWeightedSum"):
        WeightedSum(tuple(terms))


@pytest.mark.parametrize("batch", [Batch(), AsyncBatch()], ids=str)
def test_a_sum_with_a_batch_term_judges_in_batches_of_its_size(batch: Batch) -> None:
    terms = [("b", 1.0, batch), ("e", 10.0, ExactVerifier())]
    both = weighted_sum(terms)
    assert batch_size(both) == 4 and batch_size(weighted_sum(terms[1:])) == 1
    items = [(PROMPT, "42"), (PROMPT, "four")]
    assert [s.value for s in judge_batch(both, items)] == [12.0, 4.0]
    assert judge(both, PROMPT, "42").parts == {"b": 2.0, "e": 1.0}


def test_gold_is_written_as_the_verifier_reads_it() -> None:
    solution = Prompt(id="p", token_ids=[], reference=r"so \boxed{6}")
    free = Prompt(id="p", token_ids=[])
    assert gold_text(MathVerifier(), PROMPT) == r"\boxed{42}"
    assert gold_text(MathVerifier(), solution) == r"so \boxed{6}"
    assert gold_text(MathVerifier(), free) is None and gold_text(Letter(), free) is None
    assert gold_text(Letter(), PROMPT) == "(42)"
    assert gold_text(weighted_sum([("f", 0.1, FormatVerifier()), ("l", 1.0, Letter())]), PROMPT) == "(42)"
    assert (
        gold_text(weighted_sum([("l", 0.0, Letter()), ("m", 1.0, MathVerifier())]), PROMPT) == r"\boxed{42}"
    )


def test_a_gold_text_that_is_no_text_is_told() -> None:
    class Wrong(Letter):
        def gold_text(self, prompt: Prompt) -> str | None:
            return 42  # type: ignore[return-value]

    with pytest.raises(
        RolloutError, match=r"Wrong.gold_text returned '42' for prompt p, expected text or None"
    ):
        gold_text(Wrong(), PROMPT)


def test_warming_up_reaches_the_terms_of_a_sum() -> None:
    class Warm(Letter):
        warmed = 0

        def warm_up(self) -> None:
            Warm.warmed += 1

    warm_up(weighted_sum([("a", 1.0, Warm()), ("b", 0.0, Warm()), ("c", 1.0, Letter())]))
    assert Warm.warmed == 2


def test_a_result_without_words_is_an_error_and_no_crash() -> None:
    reason = "Unprintable returned what has no repr (Unprintable), expected a Score"
    assert judge(Unprintable(), PROMPT, "x").reason == reason  # type: ignore[arg-type]
    reason = "Returns returned a Score with the value what has no repr (int), expected a finite number"
    assert judge(Returns(10**5000), PROMPT, "x").reason == reason


USERS = """
import asyncio
from rlkit.types import Score

def plain(prompt, text):
    return len(text)

plain.value_range = (0, 3)
plain.gold_text = lambda prompt: "gold"

async def waiting(prompt, text):
    await asyncio.sleep(0)
    return len(text)

waiting.concurrency = 64

class Waiting:
    concurrency = 2
    async def __call__(self, prompt, text):
        return Score(1.0)

class OnlyBatch:
    batch_size = 16
    def batch(self, items):
        return [Score(0.25)] * len(items)

class NoSize:
    def batch(self, items):
        return []

class BadRange:
    value_range = (1, 0)
    def __call__(self, prompt, text):
        return Score(1.0)

def hidden(prompt, text):
    return waiting(prompt, text)
"""


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path, before = tmp_path_factory.mktemp("user") / "users_verifiers.py", list(sys.path)
    path.write_text(USERS)
    yield str(path)
    sys.path[:] = before


def test_a_users_function_may_declare_range_and_gold(users: str) -> None:
    plain = make_verifier(f"{users}:plain")
    assert value_range(plain) == (0, 3) and gold_text(plain, PROMPT) == "gold"
    assert judge(plain, PROMPT, "abc").value == 3.0
    assert judge(plain, PROMPT, "four").reason == "plain returned 4.0, outside its declared range [0, 3]"


def test_a_users_async_function_and_classes_are_taken(users: str) -> None:
    function, waiting, batch = (make_verifier(f"{users}:{n}") for n in ("waiting", "Waiting", "OnlyBatch"))
    assert is_async(function) and concurrency(function) == 64
    assert is_async(waiting) and concurrency(waiting) == 2
    assert batch_size(batch) == 16
    assert [judge(v, PROMPT, "abc").value for v in (function, waiting, batch)] == [3.0, 1.0, 0.25]
    both = make_verifier(f"{users}:waiting+0.5*exact")
    assert judge(both, PROMPT, "42").value == 2.5
    for verifier in (function, waiting, batch, both):
        assert type(pickle.loads(pickle.dumps(verifier))) is type(verifier)


def test_what_a_user_declares_wrongly_is_told_before_a_run(users: str) -> None:
    with pytest.raises(ConfigError, match="BadRange: BadRange.value_range is '.1, 0.', expected two numbers"):
        make_verifier(f"{users}:BadRange")
    with pytest.raises(ConfigError, match="or an object with `batch.items.` and `batch_size`"):
        make_verifier(f"{users}:NoSize")


def test_a_plain_function_that_returns_a_coroutine_is_an_error(users: str) -> None:
    verdict = judge(make_verifier(f"{users}:hidden"), PROMPT, "x")
    assert verdict.outcome == "error" and "define it with `async def`" in verdict.reason
