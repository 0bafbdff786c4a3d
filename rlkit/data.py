"""The prompts, and their order, which can resume in mid-epoch.

load_rows(cfg) or task_rows(task, split, n)  -> Rows           each has a question and a gold answer
build_prompts(rows, template, max_length=n)  -> list[Prompt]   rendered, tokenised, none too long
PoolData(rows, template, ...).take(n)        -> list[Prompt]   the training order; EndlessData for a task without end
"""

import hashlib
import heapq
import math
import random
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from rlkit.errors import DataError
from rlkit.rows import TASK_COLUMNS, Example, Rows, load_rows, task_example, task_rows
from rlkit.templates import Template
from rlkit.types import Prompt, State, Task

__all__ = [
    "EndlessData",
    "PoolData",
    "PromptData",
    "Rows",
    "Template",
    "build_prompts",
    "load_rows",
    "task_rows",
]

RENDER_CHUNK = 512
"""Prompts tokenised in one call."""
PROGRESS_AFTER = 2.0
"""Seconds of silence before a progress bar appears."""
SEED_STRIDE = 10_000_000
"""Endless prompts of seed s are the task's items from s times this."""
SHOWN_CHARACTERS = 2000
"""Of the one rendered prompt that `describe` shows."""

Weights = Callable[[Sequence[str]], list[float] | None]
"""How likely each prompt should be drawn, for the ids it is handed; None: no preference."""


def build_prompts(
    rows: Rows, template: Template, *, max_length: int, with_skip: bool = False
) -> list[Prompt]:
    """Prompts of at most `max_length` tokens, in the order of the rows; longer ones are left out.

    with_skip: fill in `Prompt.skip_ids`. Raises DataError when no prompt is left.
    """
    prompts: list[Prompt] = []
    shortest = math.inf
    with _Progress(f"tokenising {rows.source}", len(rows.examples)) as progress:
        for start in range(0, len(rows.examples), RENDER_CHUNK):
            chunk = _render(rows.examples[start : start + RENDER_CHUNK], template, with_skip)
            shortest = min([shortest, *map(_length, chunk)])
            prompts += [p for p in chunk if _length(p) <= max_length]
            progress.advance(len(chunk))
    if not prompts:
        raise DataError(
            f"{rows.source}: none of {len(rows.examples):,} prompts fits into --max-prompt-length {max_length}; "
            f"the shortest has {shortest} tokens"
        )
    return prompts


def _length(prompt: Prompt) -> int:
    """Tokens the policy may have to read besides a segment: with room for one, a template adds a blank line."""
    around = prompt.skip_ids or ([], [])
    return max(len(prompt.token_ids), len(around[0]) + len(around[1]))


def _render(examples: Sequence[Example], template: Template, with_skip: bool) -> list[Prompt]:
    texts = [template.render(e.messages) for e in examples]
    skips: list[tuple[list[int], list[int]] | None] = [None] * len(examples)
    if with_skip:
        around = [template.render_around(e.messages) for e in examples]
        heads = template.tokens([head for head, _ in around])
        tails = template.tokens([tail for _, tail in around], begins=False)
        skips = list(zip(heads, tails, strict=True))
    return [
        Prompt(
            id=e.id,
            token_ids=ids,
            text=text,
            question=e.question,
            reference=e.reference,
            row=e.row,
            skip_ids=skip,
        )
        for e, text, ids, skip in zip(examples, texts, template.tokens(texts), skips, strict=True)
    ]


class _Progress:
    """A bar on stderr, for work that turns out to be slow."""

    def __init__(self, title: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self.bar = Progress(console=Console(stderr=True), transient=True)
        self.task = self.bar.add_task(title, total=total)
        self.started = time.monotonic()
        self.shown = False

    def __enter__(self) -> "_Progress":
        return self

    def advance(self, count: int) -> None:
        self.bar.advance(self.task, count)
        if time.monotonic() - self.started > PROGRESS_AFTER and not self.shown:
            self.bar.start()
            self.shown = True

    def __exit__(self, *_: object) -> None:
        if self.shown:  # a bar that never started would still write an empty line
            self.bar.stop()


class PromptData(Protocol):
    """The training prompts and the place in their order: the same seed gives the same prompts, also after a resume."""

    first: Prompt
    """One prompt, for the pre-flight to show and to score."""
    ids: Sequence[str]
    """Of all prompts; none when they are endless."""
    num_dropped: int
    """Prompts left out so far because they have too many tokens."""

    def take(self, n: int, weights: Weights | None = None) -> list[Prompt]:
        """The next `n` prompts, no two the same unless there are fewer than `n`."""
        ...

    def find(self, prompt_id: str) -> Prompt:
        """The prompt of that id, as `take` gives it. Raises KeyError."""
        ...

    def describe(self) -> str: ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None:
        """Raises DataError for the state of other data."""
        ...


class PoolData:
    """A finite set of prompts, met again every epoch.

    Without weights an epoch is a fresh permutation made from (seed, epoch), or the order of the rows. With weights
    every take is drawn anew from the whole set, without replacement, as if one by one in proportion to the weights.
    """

    def __init__(
        self,
        rows: Rows,
        template: Template,
        *,
        max_prompt_length: int,
        seed: int,
        shuffle: bool = True,
        with_skip: bool = False,
    ) -> None:
        self.prompts = build_prompts(rows, template, max_length=max_prompt_length, with_skip=with_skip)
        self.ids: Sequence[str] = [prompt.id for prompt in self.prompts]
        self._by_id = dict(zip(self.ids, self.prompts, strict=True))
        self.first = self.prompts[0]
        self.num_dropped = len(rows.examples) - len(self.prompts)
        self._about = (rows, template, max_prompt_length)
        self._seed = seed
        self._shuffle = shuffle
        self._epoch = 0
        self._order = self._permutation()
        self._offset = 0  # in that order
        self._owed: list[int] = []  # prompts of this epoch that come before the rest of the order
        self._num_draws = 0  # takes with weights

    def take(self, n: int, weights: Weights | None = None) -> list[Prompt]:
        values = weights(self.ids) if weights is not None else None
        if values is not None:
            return [self.prompts[i] for i in self._draw(n, values)]
        size = len(self.prompts)
        parts = [size] * (n // size) + [n % size]
        return [self.prompts[i] for part in parts for i in self._next_in_order(part)]

    def _permutation(self) -> list[int]:
        order = list(range(len(self.prompts)))
        if self._shuffle:
            random.Random(f"order {self._seed} {self._epoch}").shuffle(order)
        return order

    def _next_in_order(self, n: int) -> list[int]:
        """`n` different prompts, n <= their number. Where a take crosses the end of an epoch, a prompt that it holds
        already keeps its turn in the new epoch, and opens the next take."""
        chosen: dict[int, None] = {}
        waiting: list[int] = []
        while len(chosen) < n:
            i = self._pop()
            if i in chosen:
                waiting.append(i)
            chosen[i] = None
        self._owed = waiting + self._owed
        return list(chosen)

    def find(self, prompt_id: str) -> Prompt:
        return self._by_id[prompt_id]

    def _pop(self) -> int:
        if self._owed:
            return self._owed.pop(0)
        if self._offset == len(self._order):
            self._epoch, self._offset = self._epoch + 1, 0
            self._order = self._permutation()
        self._offset += 1
        return self._order[self._offset - 1]

    def _draw(self, n: int, weights: Sequence[float]) -> list[int]:
        if len(weights) != len(self.prompts):
            raise DataError(
                f"{len(weights)} prompt weights for {len(self.prompts)} prompts; expected one for each id"
            )
        bad = [i for i, w in enumerate(weights) if not (w >= 0 and math.isfinite(w))]
        if bad:
            raise DataError(
                f"prompt {self.ids[bad[0]]}: weight {weights[bad[0]]}; expected a finite number >= 0"
            )
        rng = random.Random(f"draw {self._seed} {self._num_draws}")
        self._num_draws += 1
        everyone = range(len(self.prompts))
        if n > len(self.prompts):
            return rng.choices(everyone, weights if any(weights) else None, k=n)
        # The n largest log(u) / w are a draw without replacement in proportion to w (Efraimidis and Spirakis 2006);
        # prompts of weight 0 only fill what the others cannot.
        keys = [(w > 0, math.log(1.0 - rng.random()) / w if w > 0 else rng.random()) for w in weights]
        return heapq.nlargest(n, everyone, key=keys.__getitem__)

    def describe(self) -> str:
        """Source, counts, mapping and one rendered prompt, for the pre-flight."""
        rows, template, max_length = self._about
        return "\n".join(
            [rows.describe(), *_describe(self, template, max_length, f" of {len(rows.examples):,}")]
        )

    def state_dict(self) -> State:
        return {
            "data": self._fingerprint(),
            "epoch": self._epoch,
            "offset": self._offset,
            "owed": list(self._owed),
            "num_draws": self._num_draws,
        }

    def load_state_dict(self, state: State) -> None:
        if state.get("data") != self._fingerprint():
            raise DataError(
                f"{self._about[0].source}: the checkpoint was trained on other prompts (the data, its limit, the template or "
                "--max-prompt-length changed); resume with what the run's config.toml names"
            )
        size, owed = len(self.prompts), [int(i) for i in state["owed"]]
        if not (0 <= int(state["offset"]) <= size and all(0 <= i < size for i in owed)):
            raise ValueError(f"a place beyond the {size} prompts")
        self._epoch, self._offset, self._owed = int(state["epoch"]), int(state["offset"]), owed
        self._num_draws = int(state["num_draws"])
        self._order = self._permutation()

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for prompt in self.prompts:
            digest.update(repr((prompt.id, prompt.text, prompt.reference)).encode())
        return digest.hexdigest()[:16]


class EndlessData:
    """The training items of a task, one after the other, each new; weights have nothing to choose from."""

    def __init__(
        self, task: Task, template: Template, *, max_prompt_length: int, seed: int, with_skip: bool = False
    ) -> None:
        self.ids: Sequence[str] = ()
        self.num_dropped = 0
        self._task = task
        self._template = template
        self._max_length = max_prompt_length
        self._with_skip = with_skip
        self._next_item = seed * SEED_STRIDE
        self.first = self._following(set())
        self._next_item, self.num_dropped = seed * SEED_STRIDE, 0

    def take(self, n: int, weights: Weights | None = None) -> list[Prompt]:
        taken: list[Prompt] = []
        for _ in range(n):
            taken.append(self._following({prompt.question for prompt in taken}))
        return taken

    def find(self, prompt_id: str) -> Prompt:
        name, _, index = prompt_id.rpartition("-")
        if name != f"{self._task.name}-train" or not index.isdecimal():
            raise KeyError(prompt_id)
        return self._prompt(int(index))

    def _prompt(self, index: int) -> Prompt:
        (prompt,) = _render([task_example(self._task, "train", index)], self._template, self._with_skip)
        return prompt

    def _following(self, taken: set[str]) -> Prompt:
        """The next prompt that is short enough and, if one turns up soon, none of those taken."""
        tries = 1000
        fitting: Prompt | None = None
        for _ in range(tries):
            prompt = self._prompt(self._next_item)
            self._next_item += 1
            if _length(prompt) > self._max_length:
                self.num_dropped += 1
                continue
            if prompt.question not in taken:
                return prompt
            fitting = prompt
        if fitting is None:
            raise DataError(
                f"{self._task.name}: none of {tries} prompts fits into --max-prompt-length {self._max_length}"
            )
        return fitting

    def describe(self) -> str:
        """Source, counts, mapping and one rendered prompt, for the pre-flight."""
        head = [f"data      {self._task.name} (train): endless", f"columns   {TASK_COLUMNS}"]
        return "\n".join([*head, *_describe(self, self._template, self._max_length, "")])

    def state_dict(self) -> State:
        return {"data": self._task.name, "next_item": self._next_item, "num_dropped": self.num_dropped}

    def load_state_dict(self, state: State) -> None:
        if state.get("data") != self._task.name or "next_item" not in state:
            raise DataError(
                f"{self._task.name}: the checkpoint was trained on other data ({state.get('data')})"
            )
        self._next_item, self.num_dropped = int(state["next_item"]), int(state["num_dropped"])


def _describe(data: PromptData, template: Template, max_length: int, total: str) -> list[str]:
    lines = []
    if data.num_dropped:
        lines.append(f"dropped   {data.num_dropped:,}{total} prompts over --max-prompt-length {max_length}")
    lines.append(f"template  {template}")
    answer = "no gold answer" if data.first.reference is None else f"gold answer {data.first.reference!r}"
    text = data.first.text
    shown = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + " ..."
    lines.append(f"prompt    {data.first.id}, {len(data.first.token_ids)} tokens, {answer}:")
    return [*lines, *("  | " + line for line in shown.split("\n"))]
