"""What the rollouts of a run say about the cause of a finding. Rows are those of rollouts/step-*.parquet, as the store reads them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rlkit.reasons import reason_kind

from .watch import Case

Row = Mapping[str, Any]

COLUMNS = ("role", "prompt_tokens", "token_ids", "text", "outcome", "score", "reason", "finish_reason")
"""What is read of a row."""
GOES_ON = 0.5
"""Of the cut answers that hold a special token and go on after it: then that token was meant to end them."""
REPEATS = 0.5
"""Of the cut answers that end in a loop."""
TAIL, TIMES = 24, 4
"""Characters at the end of an answer, and how often they must be in it to call it a loop."""


def explain(case: Case, rows: Sequence[Row], special: Mapping[int, str]) -> Case:
    """The case with what these rows add to it; as it is when they add nothing.

    rows: of the last steps in which the finding was seen
    special: the tokenizer's special tokens, id -> text; empty: not known
    """
    answers = [row for row in rows if row["role"] == "answer"]
    finding = case.finding
    if finding.name in ("constant-reward", "no-gradient", "few-groups-differ"):
        wrong = [row for row in answers if row["outcome"] == "score" and row["score"] < 0.5]
        said = most_frequent_reason(wrong) if 2 * len(wrong) > len(answers) else None
        return (
            case
            if said is None
            else _with(case, f"{finding.says}; most frequent reason of a wrong answer: {said}")
        )
    if finding.name in ("verifier-errors", "verifier-skips"):
        kind = "error" if finding.name == "verifier-errors" else "skip"
        said = most_frequent_reason([row for row in answers if row["outcome"] == kind])
        return case if said is None else _with(case, f"{finding.says}; most frequent reason: {said}")
    if finding.name in ("truncated", "never-stops"):
        return _why_cut(case, [row for row in answers if row["finish_reason"] == "length"], special)
    return case


def most_frequent_reason(rows: Sequence[Row]) -> str | None:
    """The reason that most of these rows have, what the verifier read left out, and how many have it; None: it gave none.

    >>> most_frequent_reason([{"reason": "read '4', not '5'"}, {"reason": "read '7', not '1'"}, {"reason": "no number"}])
    '"read ..., not ..." (2 of 3)'
    """
    reasons = Counter(reason_kind(row["reason"]) for row in rows if row["reason"])
    if not reasons:
        return None
    reason, count = reasons.most_common(1)[0]
    return f'"{reason}" ({count} of {len(rows)})'


def _why_cut(case: Case, cut: Sequence[Row], special: Mapping[int, str]) -> Case:
    if not cut:
        return case
    holding = Counter(
        token for row in cut for token in set(row["token_ids"][row["prompt_tokens"] : -1]) & special.keys()
    )
    if holding:
        token, count = holding.most_common(1)[0]
        if count >= GOES_ON * len(cut):
            return _with(
                case,
                f"{case.finding.says}; {count} of {len(cut)} cut answers hold the special token {special[token]} and go on after it",
                cause=f"{special[token]} ends an answer for this model, and the sampler does not know it",
                remedy=f"add {token} ({special[token]}) to eos_token_id in the model folder's generation_config.json",
            )
    loops = sum(in_a_loop(row["text"] or "") for row in cut)
    if loops >= REPEATS * len(cut):
        return _with(
            case,
            f"{case.finding.says}; {loops} of {len(cut)} cut answers end in a loop",
            cause="the model repeats itself until it is cut, as base models and too high learning rates do",
            remedy="a prompt template the model knows (--data.template), a warm start (`rlkit sft`), or a lower --learning-rate",
        )
    return case


def in_a_loop(text: str) -> bool:
    """Whether the end of a text has been there several times before.

    >>> in_a_loop("so the answer is 4. " * 9), in_a_loop("First 1 + 1 = 2, then 2 + 2 = 4, so 4 it is, as was asked.")
    (True, False)
    """
    return len(text) > TAIL and text.count(text[-TAIL:]) >= TIMES


def _with(case: Case, says: str, cause: str | None = None, remedy: str | None = None) -> Case:
    finding = case.finding
    return replace(
        case,
        finding=replace(finding, says=says, cause=cause or finding.cause, remedy=remedy or finding.remedy),
    )
