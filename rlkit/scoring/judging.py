"""The loop of `rlkit score`: completions are judged in batches, written, added up, and forgotten."""

import hashlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from rlkit.errors import DataError
from rlkit.types import Prompt, Score

from .completions import Completion
from .tally import Tally, prompt_number, score_of
from .verdicts import Sink, json_line, verdict_line

FIRST_BATCH = 64
BATCH_SECONDS = 3.0
"""What a kill costs, and how often the disk is waited for."""
MIN_BATCH, MAX_BATCH = 16, 8192
MAX_BATCH_CHARACTERS = 1 << 24
"""Of the completions in one batch: they are in memory together."""
Progress = Callable[[int], None]
"""Told how many completions are done."""


class Scorer(Protocol):
    """Judges many answers at once, in order (rlkit.rewards.VerifierPool)."""

    def score(
        self, items: Sequence[tuple[Prompt, str]], progress: Callable[[int], None] | None = None
    ) -> list[Score]: ...


class Disagreements:
    """A JSON lines file of the completions whose verdict is not their label; written anew each time, its draft beside it."""

    def __init__(self, path: Path | None) -> None:
        self.count = 0
        self._path = path
        self._draft = None if self._path is None else self._path.with_name(f".{self._path.name}.draft")
        self._file = None if self._draft is None else self._draft.open("wb")

    def add(self, completion: Completion, score: Score) -> None:
        self.count += 1
        if self._file is not None:
            self._file.write(
                json_line(
                    {
                        "id": completion.prompt.id,
                        "sample": completion.sample,
                        "label": completion.label,
                        "value": score.value,
                        "outcome": score.outcome,
                        "reason": score.reason,
                        "gold": completion.prompt.reference,
                        "completion": completion.text,
                    }
                )
            )

    def finish(self) -> None:
        if self._file is not None and self._draft is not None and self._path is not None:
            self._file.close()
            self._draft.replace(self._path)

    def discard(self) -> None:
        """Leave nothing of a file that was not finished."""
        if self._file is not None and self._draft is not None:
            self._file.close()
            self._draft.unlink(missing_ok=True)


def judge_all(
    completions: Iterable[Completion],
    scorer: Scorer,
    sink: Sink,
    tally: Tally,
    disagreements: Disagreements,
    progress: Progress,
) -> float:
    """Judge what the sink does not hold yet; the seconds that took. Every completion goes through tally and disagreements.

    Raises DataError when the completions are not those that the sink's verdicts belong to.
    """
    digest = hashlib.blake2b(digest_size=16)

    def add(completion: Completion, score: Score) -> None:
        name = (
            completion.prompt.id
            if completion.sample == 0
            else f"{completion.prompt.id} [{completion.sample}]"
        )
        tally.add(
            name=name,
            prompt=_prompt_number(completion.prompt),
            group=completion.group,
            label=completion.label,
            score=score,
        )
        if tally.disagrees(completion.label, score):
            disagreements.add(completion, score)

    stream = iter(completions)
    done = 0
    for row in sink.kept():
        completion = next(stream, None)
        if completion is None:
            break  # the digest of fewer is another one
        digest.update(_identity(completion))
        add(completion, score_of(row))
        done += 1
        if done % 1000 == 0:
            progress(done)
    if sink.num_kept:
        sink.require_same(digest.hexdigest())
        progress(done)
    began = time.perf_counter()
    size = FIRST_BATCH
    broken: DataError | None = None
    while broken is None:
        batch, broken = _take(stream, size)
        if not batch:
            break
        since = time.perf_counter()
        scores = scorer.score([(c.prompt, c.text) for c in batch], _after(done, progress))
        for completion, score in zip(batch, scores, strict=True):
            digest.update(_identity(completion))
            add(completion, score)
        sink.write([verdict_line(c, s) for c, s in zip(batch, scores, strict=True)], digest.hexdigest())
        done += len(batch)
        progress(done)
        took = time.perf_counter() - since
        size = min(
            MAX_BATCH, max(MIN_BATCH, min(4 * size, int(len(batch) * BATCH_SECONDS / max(took, 1e-6))))
        )
    if broken is not None:
        raise broken
    seconds = time.perf_counter() - began
    if not done:
        raise DataError("no completion was found in any row")
    disagreements.finish()
    sink.finish()
    return seconds


def _after(done: int, progress: Progress) -> Progress:
    return lambda count: progress(done + count)


def _take(stream: Iterator[Completion], count: int) -> tuple[list[Completion], DataError | None]:
    """The next `count` completions, or fewer when they are long; and what ended the stream, which costs none of them."""
    batch: list[Completion] = []
    characters = 0
    try:
        for completion in itertools.islice(stream, count):
            batch.append(completion)
            characters += len(completion.text)
            if characters > MAX_BATCH_CHARACTERS:
                break
    except DataError as error:
        return batch, error
    return batch, None


def _identity(completion: Completion) -> bytes:
    prompt = completion.prompt
    parts = (prompt.id, completion.sample, prompt.question, prompt.reference, completion.text)
    return repr(parts).encode()


def _prompt_number(prompt: Prompt) -> int:
    """Rows with the same question and gold answer are answers to one prompt; without a question each row is its own."""
    if prompt.question:
        return prompt_number(prompt.question, prompt.reference)
    return prompt_number(prompt.id)
