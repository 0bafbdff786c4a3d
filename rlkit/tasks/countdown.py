r"""`task:countdown`: reach a target from three small numbers with + - *, each number at most once.

    question   Make 32 from 3 5 7 with + - *, as \boxed{3+5}.
    at once    <now>\boxed{7*5-3}
    steps      <steps>7*5=35;35-3=32;\boxed{7*5-3}
    checked    <check>7*5=35;35-2=32;7*5=35;35-3=32;\boxed{7*5-3}

Many expressions are right, and all are worth 1. The verifier parses and computes the expression itself (nothing is
evaluated as Python). A wrong demonstration is of the kind models make: some other expression, whose last step claims
the target.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlkit.boxed import last_boxed
from rlkit.types import Prompt, Score

from .parts import RIGHT, STYLES, Split, draw_style, split_of

NUM_NUMBERS = 3
LARGEST_NUMBER = 9
LARGEST_TARGET = 99
MAX_CHARACTERS = 200
"""Of an answer. With numbers of at most MAX_DIGITS digits this bounds every result the parser can meet."""
MAX_DIGITS = 4
MAX_DEPTH = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """An expression worked out: its value, the numbers in it, and every step `7*5=35` in order.

    >>> e = read_expression("(7-5)*3")
    >>> e.value, e.numbers, e.steps
    (6, [7, 5, 3], ['7-5=2', '2*3=6'])
    """

    value: int
    numbers: list[int]
    steps: list[str]


def read_expression(text: str) -> Expression:
    """Parse + - * and parentheses over unsigned decimal numbers. Raises ValueError that says what is in the way."""
    text = text.replace("\\times", "*").replace("\\cdot", "*").replace(" ", "")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"longer than {MAX_CHARACTERS} characters")
    reader = _Reader(text)
    value = reader.sum(0)
    if reader.at < len(text):
        raise ValueError(f"{text[reader.at]!r} is not expected at place {reader.at + 1}")
    return Expression(value=value, numbers=reader.numbers, steps=reader.steps)


class _Reader:
    """Recursive descent; `at` is the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.numbers: list[int] = []
        self.steps: list[str] = []

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def sum(self, depth: int) -> int:
        value = self.product(depth)
        while self.peek() in ("+", "-"):
            value = self.apply(value, self.next(), self.product(depth))
        return value

    def product(self, depth: int) -> int:
        value = self.atom(depth)
        while self.peek() == "*":
            value = self.apply(value, self.next(), self.atom(depth))
        return value

    def atom(self, depth: int) -> int:
        if self.peek() == "(":
            if depth == MAX_DEPTH:
                raise ValueError(f"more than {MAX_DEPTH} parentheses inside each other")
            self.next()
            value = self.sum(depth + 1)
            if self.peek() != ")":
                raise ValueError("a parenthesis is not closed")
            self.next()
            return value
        start = self.at
        while self.peek() and self.peek() in "0123456789":  # str.isdigit would take digits of other scripts
            self.next()
        digits = self.text[start : self.at]
        if not digits or len(digits) > MAX_DIGITS:
            came = repr(digits or self.peek()) if digits or self.peek() else "the end"
            raise ValueError(f"{came} at place {start + 1}; expected a number of at most {MAX_DIGITS} digits")
        self.numbers.append(int(digits))
        return int(digits)

    def next(self) -> str:
        self.at += 1
        return self.text[self.at - 1]

    def apply(self, left: int, operation: str, right: int) -> int:
        value = {"+": left + right, "-": left - right, "*": left * right}[operation]
        self.steps.append(f"{left}{operation}{right}={value}")
        return value


def random_expression(numbers: Sequence[int], rng: random.Random) -> str:
    """An expression of all numbers, or all but one, each once, in which every step's result is at least 1."""
    while True:
        parts = [(n, str(n), "*") for n in rng.sample(numbers, rng.choice((len(numbers) - 1, len(numbers))))]
        while len(parts) > 1:
            i, j = rng.sample(range(len(parts)), 2)
            (a, left, left_op), (b, right, right_op) = parts[i], parts[j]
            operation = rng.choice("+-*")
            if operation == "*":
                left = f"({left})" if left_op != "*" else left
            if right_op != "*" and operation != "+" or operation == right_op == "*" and "*" in right:
                right = f"({right})"
            value = {"+": a + b, "-": a - b, "*": a * b}[operation]
            parts = [p for k, p in enumerate(parts) if k not in (i, j)]
            parts.append((value, f"{left}{operation}{right}", operation))
            if value < 1:
                break
        else:
            return parts[0][1]


@dataclass(frozen=True, slots=True)
class CountdownTask:
    """Reach a target with + - * from three numbers; about 2,200 questions, many right answers to each."""

    name: str = "countdown"
    max_completion_length: int = 64

    @property
    def styles(self) -> Mapping[str, str]:
        return STYLES

    def item(self, split: Split, index: int) -> Mapping[str, Any]:
        rng = random.Random(f"countdown {split} {index}")
        while True:
            # Sorted, so that a question has one way to be written and cannot be in both splits in two orders.
            numbers = sorted(rng.randint(1, LARGEST_NUMBER) for _ in range(NUM_NUMBERS))
            answer = random_expression(numbers, rng)
            target = read_expression(answer).value
            shown = " ".join(map(str, numbers))
            question = f"Make {target} from {shown} with + - *, as \\boxed{{3+5}}."
            if target <= LARGEST_TARGET and target not in numbers and split_of(question) == split:
                return {"prompt": question, "answer": answer, "numbers": numbers, "target": target}

    def verify(self, prompt: Prompt, text: str) -> Score:
        """1.0 when the last \\boxed{} holds an expression of the given numbers that is worth the target, else 0.0."""
        found = last_boxed(text)
        if found is None:
            return Score(0.0, reason="no \\boxed{} in the answer")
        try:
            expression = read_expression(found)
        except ValueError as error:
            return Score(0.0, reason=f"cannot read {found[:60]!r}: {error}")
        extra = Counter(expression.numbers) - Counter(prompt.row["numbers"])
        if extra:
            return Score(
                0.0, reason=f"{found!r} uses {', '.join(map(str, extra.elements()))}, not given so often"
            )
        target = prompt.row["target"]
        return Score(
            float(expression.value == target), reason=f"{found!r} is {expression.value}, expected {target}"
        )

    def demonstration(self, item: Mapping[str, Any], rng: random.Random, practice: bool = False) -> str:
        return self.demonstrate(item, draw_style(rng, practice), rng)

    def demonstrate(self, item: Mapping[str, Any], style: str, rng: random.Random) -> str:
        """One answer of a given style, right as often as `RIGHT` says."""
        answer = str(item["answer"]) if rng.random() < RIGHT[style] else _wrong(item, rng)
        steps = "" if style == "<now>" else _claimed_steps(answer, item["target"])
        if style == "<check>":
            # The first pass slips as often as plain steps do; the second is what the answer is read from.
            first = answer if rng.random() < RIGHT["<steps>"] else _wrong(item, rng)
            steps = _claimed_steps(first, item["target"]) + steps
        return f"{style}{steps}\\boxed{{{answer}}}"


def _wrong(item: Mapping[str, Any], rng: random.Random) -> str:
    while True:
        expression = random_expression(item["numbers"], rng)
        if read_expression(expression).value != item["target"]:
            return expression


def _claimed_steps(answer: str, target: int) -> str:
    """The steps of an expression; the last one says the target, whether that is so or not."""
    *steps, last = read_expression(answer).steps
    return "".join(f"{step};" for step in [*steps, f"{last.partition('=')[0]}={target}"])
