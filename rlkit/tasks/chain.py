"""`task:chain`: a chain of four labelled operations modulo 10, worked from left to right.

    question   7a+4b*3c-5d*2                          ((((7 + 4) * 3) - 5) * 2) mod 10
    at once    <now>\\boxed{6}
    steps      <steps>7a+4=1b*3=3c-5=8d*2=6\\boxed{6}
    checked    <check>7a+4=2b*3=6c-5=1d*2=2;7a+4=1b*3=3c-5=8d*2=6\\boxed{6}

The three styles are the modes a warm-started model has to choose among, and the first token names the mode, so the
roles of the tokens in the probability-mass analysis are known exactly: `<now>` is common and mostly wrong, `<steps>`
is less common and mostly right, `<check>` is rare and the best. The truth of every step is known too (`steps_right`).
The labels let a small model find the next operation in the question; without them it learns to copy far too slowly.
"""

import hashlib
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rlkit.types import Prompt, Score

SHARES: Mapping[str, float] = {"<now>": 0.68, "<steps>": 0.29, "<check>": 0.03}
"""How often the imitated base model answers in each style."""
RIGHT: Mapping[str, float] = {"<now>": 0.20, "<steps>": 0.90, "<check>": 0.98}
"""How often that style is right."""
LABELS = "abcd"

_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_OPERATION = re.compile(r"([a-d])([-+*])(\d)")
_STEP = re.compile(r"([a-d])([-+*])(\d)=(\d)")


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


def steps_right(question: str, text: str) -> list[bool]:
    """For each written step `a+4=1`, whether it is the right next step of the chain (a re-check starts again).

    >>> steps_right("7a+4b*3c-5d*2", "<steps>7a+4=1b*3=4")
    [True, False]
    """
    asked, truth, out = _OPERATION.findall(question), results(question), []
    for i, (label, operation, operand, result) in enumerate(_STEP.findall(text)):
        k = i % len(LABELS)
        out.append((label, operation, operand) == asked[k] and int(result) == truth[k])
    return out


def _split_of(question: str) -> Literal["train", "test"]:
    """A question belongs to one split by its own hash, so that the splits cannot overlap (one in four is held out)."""
    return "test" if hashlib.sha256(question.encode()).digest()[0] < 64 else "train"


def _write_steps(question: str, wrong_at: int | None, rng: random.Random) -> tuple[str, int]:
    """The worked steps and the result they reach; a slip at step `wrong_at` is carried on."""
    value, text = int(question[0]), question[0]
    for k, (label, operation, operand) in enumerate(_OPERATION.findall(question)):
        value = apply(value, operation, int(operand))
        if k == wrong_at:
            value = (value + rng.randrange(1, 10)) % 10
        text += f"{label}{operation}{operand}={value}"
    return text, value


@dataclass(frozen=True, slots=True)
class ChainTask:
    """Chained arithmetic modulo 10; 8.1 million questions, exact verifier, three styles of answering."""

    name: str = "chain"
    max_completion_length: int = 64

    def item(self, split: Literal["train", "test"], index: int) -> Mapping[str, Any]:
        rng = random.Random(f"chain {split} {index}")
        while True:
            question = str(rng.randrange(10))
            question += "".join(f"{label}{rng.choice('+-*')}{rng.randrange(10)}" for label in LABELS)
            if _split_of(question) == split:
                return {"prompt": question, "answer": str(results(question)[-1])}

    def verify(self, prompt: Prompt, text: str) -> Score:
        """1.0 when the last \\boxed{} holds the chain's result. Arithmetic decides, not the row's answer."""
        found = _BOXED.findall(text)
        if not found:
            return Score(0.0, reason="no \\boxed{} in the answer")
        gold = str(results(prompt.question)[-1])
        return Score(float(found[-1] == gold), reason=f"read {found[-1]!r}, expected {gold!r}")

    def demonstration(self, item: Mapping[str, Any], rng: random.Random) -> str:
        style = rng.choices(list(SHARES), weights=list(SHARES.values()))[0]
        return self.demonstrate(item, style, rng)

    def demonstrate(self, item: Mapping[str, Any], style: str, rng: random.Random) -> str:
        """One answer of a given style, right as often as `RIGHT` says."""
        question, gold = str(item["prompt"]), int(item["answer"])
        right = rng.random() < RIGHT[style]
        if style == "<now>":
            said = gold if right else (gold + rng.randrange(1, 10)) % 10
            return f"<now>\\boxed{{{said}}}"
        if style == "<steps>":
            steps, value = _write_steps(question, None if right else rng.randrange(len(LABELS)), rng)
            return f"<steps>{steps}\\boxed{{{value}}}"
        # The first pass slips as often as plain steps do; the second is what the answer is read from.
        slip = None if rng.random() < RIGHT["<steps>"] else rng.randrange(len(LABELS))
        first, _ = _write_steps(question, slip, rng)
        second, value = _write_steps(question, None if right else rng.randrange(len(LABELS)), rng)
        return f"<check>{first};{second}\\boxed{{{value}}}"
