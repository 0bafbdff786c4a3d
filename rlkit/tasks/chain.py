"""`task:chain`: a chain of four labelled operations modulo 10, worked from left to right.

    question   7a+4b*3c-5d*2                          ((((7 + 4) * 3) - 5) * 2) mod 10
    at once    <now>\\boxed{6}
    steps      <steps>a7+4=1b1*3=3c3-5=8d8*2=6\\boxed{6}
    checked    <check>a7+4=1b1*3=3c3-5=8d8*2=5;d8*2=6\\boxed{6}          the last step once more; that is what counts

The three styles are the modes a warm-started model has to choose among, and the first token names the mode, so the
roles of the tokens in the probability-mass analysis are known exactly: `<now>` is common and mostly wrong, `<steps>`
is less common and mostly right, `<check>` is rare and the best. The truth of every step is known too (`steps_right`).
The labels name the operations, so that every written step can be matched with its place in the chain.
"""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlkit.boxed import last_boxed
from rlkit.types import Prompt, Score

from .parts import RIGHT, STYLES, Split, draw_style, split_of

LABELS = "abcd"

_OPERATION = re.compile(r"([a-d])([-+*])(\d)")
_STEP = re.compile(r"([a-d])(\d)([-+*])(\d)=(\d)")


def apply(left: int, operation: str, right: int) -> int:
    """One step modulo 10.

    >>> apply(7, "+", 4), apply(3, "-", 5), apply(8, "*", 2)
    (1, 8, 6)
    """
    return {"+": left + right, "-": left - right, "*": left * right}[operation] % 10


def results(question: str) -> list[int]:
    """The running result after each operation.

    >>> results("7a+4b*3c-5d*2")
    [1, 3, 8, 6]
    """
    value, out = int(question[0]), []
    for _, operation, operand in _OPERATION.findall(question):
        value = apply(value, operation, int(operand))
        out.append(value)
    return out


def true_steps(question: str) -> list[str]:
    """The steps as an answer should write them: what `--reward steps` compares with.

    >>> true_steps("7a+4b*3c-5d*2")
    ['a7+4=1', 'b1*3=3', 'c3-5=8', 'd8*2=6']
    """
    before = [question[0], *map(str, results(question))]
    operations = _OPERATION.findall(question)
    return [f"{a}{x}{op}{y}={z}" for (a, op, y), x, z in zip(operations, before, before[1:], strict=False)]


def steps_right(question: str, text: str) -> list[bool]:
    """For each written step `a7+4=1`, whether it is a right step of the chain, from the right result before it.

    >>> steps_right("7a+4b*3c-5d*2", "<steps>a7+4=1b1*3=4"), steps_right("7a+4b*3c-5d*2", "d8*2=5;d8*2=6")
    ([True, False], [False, True])
    """
    before, truth = [int(question[0]), *results(question)], {}
    for k, (label, operation, operand) in enumerate(_OPERATION.findall(question)):
        truth[label] = (str(before[k]), operation, operand, str(before[k + 1]))
    return [truth[label] == tuple(step) for label, *step in _STEP.findall(text)]


def _write_steps(question: str, wrong_at: int | None, rng: random.Random) -> tuple[list[str], int]:
    """The worked steps and the result they reach; a slip at step `wrong_at` is carried on."""
    value, steps = int(question[0]), []
    for k, (label, operation, operand) in enumerate(_OPERATION.findall(question)):
        result = apply(value, operation, int(operand))
        if k == wrong_at:
            result = _other(result, rng)
        steps.append(f"{label}{value}{operation}{operand}={result}")
        value = result
    return steps, value


def _other(digit: int, rng: random.Random) -> int:
    return (digit + rng.randrange(1, 10)) % 10


@dataclass(frozen=True, slots=True)
class ChainTask:
    """Chained arithmetic modulo 10; 8.1 million questions, exact verifier, three styles of answering."""

    name: str = "chain"
    max_completion_length: int = 64

    @property
    def styles(self) -> Mapping[str, str]:
        return STYLES

    def item(self, split: Split, index: int) -> Mapping[str, Any]:
        rng = random.Random(f"chain {split} {index}")
        while True:
            question = str(rng.randrange(10))
            question += "".join(f"{label}{rng.choice('+-*')}{rng.randrange(10)}" for label in LABELS)
            if split_of(question) == split:
                return {
                    "prompt": question,
                    "answer": str(results(question)[-1]),
                    "steps": true_steps(question),
                }

    def verify(self, prompt: Prompt, text: str) -> Score:
        """1.0 when the last \\boxed{} holds the chain's result. Arithmetic decides, not the row's answer."""
        found = last_boxed(text)
        if found is None:
            return Score(0.0, reason="no \\boxed{} in the answer")
        gold = str(results(prompt.question)[-1])
        return Score(float(found == gold), reason=f"read {found!r}, expected {gold!r}")

    def demonstration(self, item: Mapping[str, Any], rng: random.Random, practice: bool = False) -> str:
        return self.demonstrate(item, draw_style(rng, practice), rng)

    def demonstrate(self, item: Mapping[str, Any], style: str, rng: random.Random) -> str:
        """One answer of a given style, right as often as `RIGHT` says."""
        question, gold = str(item["prompt"]), int(item["answer"])
        right = rng.random() < RIGHT[style]
        if style == "<now>":
            return f"<now>\\boxed{{{gold if right else _other(gold, rng)}}}"
        steps, value = _write_steps(question, None if right else rng.randrange(len(LABELS)), rng)
        if style == "<check>":
            last = steps[-1]
            if rng.random() > RIGHT["<steps>"]:  # a slip that the re-check finds
                steps[-1] = f"{last[:-1]}{_other(value, rng)}"
            steps.append(f";{last}")
        return f"{style}{''.join(steps)}\\boxed{{{value}}}"
