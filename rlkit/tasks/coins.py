r"""`task:coins`: pay an amount with few coins. Taking the largest coin first is always valid and never the best.

    question   Fewest coins of 1 7 10 for 14, as \boxed{10+1}?
    at once    <now>\boxed{10+1+1+1}                                                         0: 13 is not 14
    steps      <steps>14-10=4;4-1=3;3-1=2;2-1=1;1-1=0;\boxed{10+1+1+1+1}                     2/5: two coins would do
    checked    <check>14-10=4;4-1=3;3-1=2;2-1=1;1-1=0;5 coins;14-7=7;7-7=0;2 coins;\boxed{7+7}   1

The reward of a valid payment is the fewest coins that pay the amount, divided by the coins used. So the common careful
style earns part of it, and all of it is earned by a style that the warm start has hardly seen: this is the task on
which an algorithm that only sharpens what is common can be told from one that finds what is rare.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlkit.boxed import last_boxed
from rlkit.types import Prompt, Score

from .parts import RIGHT, STYLES, Split, draw_style, split_of

LARGEST_AMOUNT = 99
SMALL_COINS = range(3, 31)
LARGEST_COIN = 50
MOST_COINS = 8
"""Of the largest-first payment, so that answers stay short."""
MAX_CHARACTERS = 400
"""Of an answer: 99 coins of 1 fit."""


def largest_first(amount: int, coins: Sequence[int]) -> list[int]:
    """The payment that always takes the largest coin that fits; `coins` holds a 1.

    >>> largest_first(14, [1, 7, 10])
    [10, 1, 1, 1, 1]
    """
    payment = []
    for coin in sorted(coins, reverse=True):
        payment += [coin] * (amount // coin)
        amount %= coin
    return payment


def fewest(amount: int, coins: Sequence[int]) -> list[int]:
    """A payment with as few coins as possible, largest coins first; `coins` are three, and one of them is 1.

    >>> fewest(14, [1, 7, 10])
    [7, 7]
    """
    one, small, large = sorted(coins)
    counts = [
        (amount - i * large - j * small, j, i)
        for i in range(amount // large + 1)
        for j in range((amount - i * large) // small + 1)
    ]
    ones, smalls, larges = min(counts, key=sum)
    return [large] * larges + [small] * smalls + [one] * ones


@dataclass(frozen=True, slots=True)
class CoinsTask:
    """Pay an amount with three kinds of coins; reward is fewest / used. About 3,000 questions."""

    name: str = "coins"
    max_completion_length: int = 184

    @property
    def styles(self) -> Mapping[str, str]:
        return STYLES

    def item(self, split: Split, index: int) -> Mapping[str, Any]:
        rng = random.Random(f"coins {split} {index}")
        while True:
            small = rng.choice(SMALL_COINS)
            coins = [1, small, rng.randint(small + 1, LARGEST_COIN)]
            amount = rng.randint(coins[-1], LARGEST_AMOUNT)
            common = largest_first(amount, coins)
            if len(common) > MOST_COINS:
                continue
            best = fewest(amount, coins)
            shown = " ".join(map(str, coins))
            question = f"Fewest coins of {shown} for {amount}, as \\boxed{{10+1}}?"
            if len(best) < len(common) and split_of(question) == split:
                return {"prompt": question, "answer": _sum(best), "amount": amount, "coins": coins}

    def verify(self, prompt: Prompt, text: str) -> Score:
        """Fewest coins / coins used when the last \\boxed{} holds a sum of given coins that is the amount, else 0.0."""
        found = last_boxed(text)
        if found is None:
            return Score(0.0, reason="no \\boxed{} in the answer")
        amount, coins = prompt.row["amount"], prompt.row["coins"]
        known = {str(coin): coin for coin in coins}
        words = [word.strip() for word in found[:MAX_CHARACTERS].split("+")]
        strangers = [word for word in words if word not in known]
        if strangers or len(found) > MAX_CHARACTERS:
            return Score(
                0.0, reason=f"cannot pay with {strangers[0][:60]!r}" if strangers else "too many coins"
            )
        paid = sum(known[word] for word in words)
        if paid != amount:
            return Score(0.0, reason=f"{found!r} is {paid}, expected {amount}")
        least = len(fewest(amount, coins))
        return Score(least / len(words), reason=f"paid with {len(words)} coins, {least} would do")

    def demonstration(self, item: Mapping[str, Any], rng: random.Random, practice: bool = False) -> str:
        return self.demonstrate(item, draw_style(rng, practice), rng)

    def demonstrate(self, item: Mapping[str, Any], style: str, rng: random.Random) -> str:
        """One answer of a given style. As often as `RIGHT` says, `<now>` and `<steps>` pay the amount, largest coin
        first, and `<check>` goes on to the fewest coins; else the first two pay a wrong sum, and it stays."""
        amount, coins = item["amount"], item["coins"]
        right = rng.random() < RIGHT[style]
        common = largest_first(amount, coins)
        if style == "<check>":
            best = fewest(amount, coins) if right else common
            tries = [f"{_steps(amount, payment)}{len(payment)} coins;" for payment in (common, best)]
            return f"<check>{''.join(tries)}\\boxed{{{_sum(best)}}}"
        payment = common if right else _slipped(amount, coins, rng)
        return f"{style}{_steps(amount, payment) if style == '<steps>' else ''}\\boxed{{{_sum(payment)}}}"


def _sum(payment: Sequence[int]) -> str:
    return "+".join(map(str, payment))


def _steps(amount: int, payment: Sequence[int]) -> str:
    """What is left after each coin; the last coin is said to settle it, whether that is so or not."""
    parts = []
    for i, coin in enumerate(payment):
        left = 0 if i == len(payment) - 1 else amount - coin
        parts.append(f"{amount}-{coin}={left};")
        amount = left
    return "".join(parts)


def _slipped(amount: int, coins: Sequence[int], rng: random.Random) -> list[int]:
    """A payment, largest coin first, of a slightly wrong amount."""
    while True:
        payment = largest_first(max(1, amount + rng.choice((-3, -2, -1, 1, 2, 3))), coins)
        if len(payment) <= MOST_COINS and sum(payment) != amount:
            return payment
