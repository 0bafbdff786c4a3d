"""The loop of `rlkit score`: completions are read, judged, added up, written in batches, and forgotten."""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from rlkit.errors import DataError
from rlkit.types import Prompt, Score

from .completions import Completion, Completions
from .tally import Tally, prompt_number, score_of
from .verdicts import Sink, json_line, verdict_line

BATCH_SECONDS, BATCH = 0.5, 4096
"""What a kill costs at most, and how often the disk is waited for."""
MIN_AHEAD, MAX_AHEAD, AHEAD_CHARACTERS = 64, 4096, 1 << 25
"""Completions that are read before they are judged: many, so that one that hangs holds up no other, unless their rows are long."""
Progress = Callable[[int], None]
"""Told how many completions are done."""


class Scorer(Protocol):
    """Judges many answers at once, in order (rlkit.rewards.VerifierPool)."""

    def score(
        self, items: Sequence[tuple[Prompt, str]], progress: Callable[[int], None] | None = None
    ) -> list[Score]: ...

    def stream(self, items: Iterable[tuple[Prompt, str]], ahead: int | None = None) -> Iterator[Score]:
        """The same for items without end, read at most `ahead` items before they are needed."""
        ...


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
    completions: Completions,
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
    waiting: deque[Completion] = deque()
    broken: list[DataError] = []

    def items() -> Iterator[tuple[Prompt, str]]:
        try:
            for completion in stream:
                waiting.append(completion)
                yield completion.prompt, completion.text
        except DataError as error:  # what was read before it is judged and kept
            broken.append(error)

    ahead = max(MIN_AHEAD, min(MAX_AHEAD, int(AHEAD_CHARACTERS / completions.row_characters)))
    batch: list[tuple[Completion, Score]] = []
    last = time.monotonic()
    for score in scorer.stream(items(), ahead):
        batch.append((waiting.popleft(), score))
        now = time.monotonic()
        if now - last > BATCH_SECONDS or len(batch) >= BATCH:
            done += _keep(batch, sink, digest, add)
            progress(done)
            batch, last = [], now
    done += _keep(batch, sink, digest, add)
    progress(done)
    if broken:
        raise broken[0]
    seconds = time.perf_counter() - began
    if not done:
        raise DataError("no completion was found in any row")
    disagreements.finish()
    sink.finish()
    return seconds


def _keep(
    batch: Sequence[tuple[Completion, Score]],
    sink: Sink,
    digest: "hashlib.blake2b",
    add: Callable[[Completion, Score], None],
) -> int:
    """Add a batch up and write it; how many it holds."""
    for completion, score in batch:
        digest.update(_identity(completion))
        add(completion, score)
    if batch:
        sink.write([verdict_line(c, s) for c, s in batch], digest.hexdigest())
    return len(batch)


def _identity(completion: Completion) -> bytes:
    prompt = completion.prompt
    parts = (prompt.id, completion.sample, prompt.question, prompt.reference, completion.text)
    return repr(parts).encode()


def _prompt_number(prompt: Prompt) -> int:
    """Rows with the same question and gold answer are answers to one prompt; without a question each row is its own."""
    if prompt.question:
        return prompt_number(prompt.question, prompt.reference)
    return prompt_number(prompt.id)
