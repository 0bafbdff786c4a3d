"""`task:chain`: a chain of four operations modulo 10, worked from left to right.

    question   7+4*3-5*2                              left to right: ((((7+4)*3)-5)*2) mod 10
    at once    <now>\\boxed{6}
    steps      <steps>7+4=1;1*3=3;3-5=8;8*2=6;\\boxed{6}
    checked    <check>7+4=2;2*3=6;6-5=1;1*2=2;7+4=1;1*3=3;3-5=8;8*2=6;\\boxed{6}

The three styles are the modes a warm-started model has to choose among, and the first token names the mode, so the
roles of the tokens in the probability-mass analysis are known exactly: `<now>` is common and mostly wrong, `<steps>`
is less common and mostly right, `<check>` is rare and the best. The truth of every step is known too (`steps_right`).
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
NUM_OPERATIONS = 4

_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_STEP = re.compile(r"(\d)([-+*])(\d)=(\d);")


def apply(left: int, operation: str, right: int) -> int:
    """One step modulo 10.

    >>> apply(7, "+", 4), apply(3, "-", 5), apply(8, "*", 2)
    (1, 8, 6)
    """
    return {"+": left + right, "-": left - right, "*": left * right}[operation] % 10


def results(question: str) -> list[int]:
    """The running result after each operation.

    >>> results("7+4*3-5*2")
    [1, 3, 8, 6]
    """
    value, out = int(question[0]), []
    for i in range(1, len(question), 2):
        value = apply(value, question[i], int(question[i + 1]))
        out.append(value)
    return out


def steps_right(question: str, text: str) -> list[bool]:
    """For each written step `a+b=c;`, whether it is the right next step of the chain (a re-check starts again).

    >>> steps_right("7+4*3-5*2", "<steps>7+4=1;1*3=4;")
    [True, False]
    """
    truth, out = results(question), []
    for i, (left, operation, right, result) in enumerate(_STEP.findall(text)):
        k = i % NUM_OPERATIONS
        before = int(question[0]) if k == 0 else truth[k - 1]
        asked = (question[2 * k + 1], question[2 * k + 2])
        out.append(int(left) == before and (operation, right) == asked and int(result) == truth[k])
    return out


def _split_of(question: str) -> Literal["train", "test"]:
    """A question belongs to one split by its own hash, so that the splits cannot overlap (one in four is held out)."""
    return "test" if hashlib.sha256(question.encode()).digest()[0] < 64 else "train"


def _write_steps(question: str, wrong_at: int | None, rng: random.Random) -> tuple[str, int]:
    """The worked steps and the result they reach; a slip at step `wrong_at` is carried on."""
    value, parts = int(question[0]), []
    for k in range(NUM_OPERATIONS):
        operation, operand = question[2 * k + 1], int(question[2 * k + 2])
        result = apply(value, operation, operand)
        if k == wrong_at:
            result = (result + rng.randrange(1, 10)) % 10
        parts.append(f"{value}{operation}{operand}={result};")
        value = result
    return "".join(parts), value


@dataclass(frozen=True, slots=True)
class ChainTask:
    """Chained arithmetic modulo 10; 8.1 million questions, exact verifier, three styles of answering."""

    name: str = "chain"
    max_completion_length: int = 64

    def item(self, split: Literal["train", "test"], index: int) -> Mapping[str, Any]:
        rng = random.Random(f"chain {split} {index}")
        while True:
            digits = [str(rng.randrange(10)) for _ in range(NUM_OPERATIONS + 1)]
            question = digits[0] + "".join(rng.choice("+-*") + d for d in digits[1:])
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
            steps, value = _write_steps(question, None if right else rng.randrange(NUM_OPERATIONS), rng)
            return f"<steps>{steps}\\boxed{{{value}}}"
        # The first pass slips as often as plain steps do; the second is what the answer is read from.
        slip = None if rng.random() < RIGHT["<steps>"] else rng.randrange(NUM_OPERATIONS)
        first, _ = _write_steps(question, slip, rng)
        second, value = _write_steps(question, None if right else rng.randrange(NUM_OPERATIONS), rng)
        return f"<check>{first}{second}\\boxed{{{value}}}"
