"""Does a verifier read a data set's gold answers: each is scored against itself, and against another row's gold answer.

Against itself it must be right. Against another row's it must be wrong. Where it is right (suspicious), the verifier accepts too
much, or the two gold answers are the same in other words. Where it is a skip or an error (unjudged), the verifier cannot read
the gold answer: it knows it word for word and judges no other answer. Rows with the same gold answer are not held against
each other.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rlkit.columns import QUESTION_NAMES, Columns, Row, choose_column, look_up
from rlkit.errors import DataError
from rlkit.reasons import reason_kind
from rlkit.rewards.contract import ROUNDING
from rlkit.rows import SAMPLE_ROWS
from rlkit.score_config import CheckConfig
from rlkit.sources import RawRow
from rlkit.types import Prompt, Score

from .completions import find_gold, find_id, make_prompt
from .judging import Progress, Scorer

Trouble = Literal["fails", "no gold", "unjudged", "suspicious"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A gold answer that does not score as it should."""

    trouble: Trouble
    id: str
    gold: str | None
    answer: str | None
    """What was scored: the row's own gold answer, or another's, as the verifier wants it written. None: it was not."""
    other: str | None
    """Id of the row that the answer comes from, when it is another one."""
    score: Score

    def told(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "trouble": self.trouble,
            "id": self.id,
            "gold": self.gold,
            "answer": self.answer,
            "other": self.other,
            "value": self.score.value,
            "outcome": self.score.outcome,
            "reason": self.score.reason,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a check came to."""

    rows: int
    right: int
    """Gold answers that are right by their own row."""
    pairs: int
    """Gold answers that were held against another row."""
    findings: Sequence[Finding]

    def count(self, trouble: Trouble) -> int:
        return sum(finding.trouble == trouble for finding in self.findings)

    @property
    def failure_share(self) -> float:
        """Of the rows: those whose gold answer is not right, or that have none."""
        return (self.rows - self.right) / max(1, self.rows)

    def reasons(self, trouble: Trouble, most: int = 10) -> list[tuple[str, int]]:
        """The commonest, what was read left out."""
        kinds = Counter(reason_kind(f.score.reason) for f in self.findings if f.trouble == trouble)
        return kinds.most_common(most)


def check_gold(
    prompts: Sequence[Prompt],
    gold_text: Callable[[Prompt], str | None],
    scorer: Scorer,
    *,
    right_at: float,
    seed: int,
    progress: Progress,
) -> Checked:
    """Score every gold answer against itself and against one other row's.

    gold_text: a right answer to a prompt as the verifier reads it; None: the prompt has none
    right_at: a value of at least this is right
    """
    texts = [gold_text(prompt) for prompt in prompts]
    written = [(p, text) for p, text in zip(prompts, texts, strict=True) if text is not None]
    missing = [p for p, text in zip(prompts, texts, strict=True) if text is None]
    others = _others([text for _, text in written], seed)
    pairs = [(written[i][0], written[j][1], written[j][0].id) for i, j in others]
    own = scorer.score(written, progress)
    crossed = scorer.score([(p, text) for p, text, _ in pairs], lambda done: progress(len(written) + done))
    findings = [
        Finding(
            trouble="no gold",
            id=p.id,
            gold=p.reference,
            answer=None,
            other=None,
            score=Score(None, reason="the row has no gold answer"),
        )
        for p in missing
    ]
    findings += [
        Finding(trouble="fails", id=p.id, gold=p.reference, answer=text, other=None, score=score)
        for (p, text), score in zip(written, own, strict=True)
        if not _right(score, right_at)
    ]
    right = len(prompts) - len(findings)
    findings += [
        Finding(
            trouble="unjudged" if score.value is None else "suspicious",
            id=p.id,
            gold=p.reference,
            answer=text,
            other=other,
            score=score,
        )
        for (p, text, other), score in zip(pairs, crossed, strict=True)
        if score.value is None or _right(score, right_at)
    ]
    return Checked(rows=len(prompts), right=right, pairs=len(pairs), findings=findings)


def _right(score: Score, right_at: float) -> bool:
    return score.value is not None and score.value >= right_at - ROUNDING


def _others(texts: Sequence[str], seed: int) -> list[tuple[int, int]]:
    """For each place another one whose text differs, drawn from all places; places that all others equal are left out.

    >>> sorted(_others(["a", "a", "b"], seed=0))[:2]
    [(0, 2), (1, 2)]
    """
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)
    pairs = []
    for place, i in enumerate(order):
        turned = (order[(place + step) % len(order)] for step in range(1, len(order)))
        j = next((j for j in turned if texts[j] != texts[i]), None)
        if j is not None:
            pairs.append((i, j))
    return sorted(pairs)


def read_gold(source: str, raw: Iterable[RawRow], cfg: CheckConfig) -> tuple[list[Prompt], Columns]:
    """The prompts of a source's rows, with a gold answer or without. Raises DataError for a source without a row."""
    rows: list[tuple[RawRow, Row]] = []
    skipped = 0
    for r in raw:
        if len(rows) == cfg.limit:
            break
        if r.row is not None:
            rows.append((r, r.row))
        elif cfg.on_bad_row == "error":
            raise DataError(f"{r.place}: {r.problem} (--on-bad-row skip leaves such rows out)")
        else:
            skipped += 1
    if not rows:
        raise DataError(
            f"{source}: "
            + (f"all {skipped:,} rows are bad" if skipped else "it is empty; expected at least one row")
        )
    sample = [row for _, row in rows[:SAMPLE_ROWS]]
    names = list(dict.fromkeys(name for row in sample for name in row))
    question = choose_column(sample, source, "--prompt", cfg.prompt, QUESTION_NAMES, names)
    columns = find_gold(sample, source, cfg.gold, question, {question}, names)
    columns = replace(columns, id=find_id(sample))
    prompts = []
    for r, row in rows:
        named = None if columns.id is None else look_up(row, columns.id)
        prompts.append(make_prompt(r.name if named in (None, "") else str(named), row, columns, row))
    return prompts, columns
