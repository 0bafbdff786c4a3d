"""What the person at the terminal sees: a live progress line, and now and then one prompt with its best and worst answer."""

import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.console import Group as Stack
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from rlkit.printable import printable
from rlkit.types import Group, Rollout
from rlkit.verify import leaves_of

LINE_SECONDS = 10.0
"""Without a terminal (a log file), one line at most this often."""


class Terminal:
    """The view of one run. Close it (or leave its `with`) before printing tables of your own."""

    def __init__(self, title: str, steps: int, start: int = 0, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.title, self.steps = printable(title), steps
        self._last_line = 0.0
        self._bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=6),  # everything fits into 80 columns
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[phase]:<6}", style="dim", markup=False),
            TextColumn("{task.fields[numbers]}", markup=False),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task(self.title, total=steps, completed=start, phase="", numbers="")

    def __enter__(self) -> "Terminal":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def phase(self, name: str) -> None:
        """What the step is doing now; shown on a terminal only."""
        self._bar.update(self._task, phase=name)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        numbers = headline(metrics)
        self._bar.update(self._task, completed=step, numbers=numbers)
        now = time.monotonic()
        due = step in (1, self.steps) or now - self._last_line > LINE_SECONDS
        if not self.console.is_terminal and due:
            self._last_line = now
            self.say(f"{self.title} {step}/{self.steps} {numbers}")

    def sample(self, step: int, groups: Sequence[Group]) -> None:
        """The group with the widest spread of scores: its prompt, best and worst answer."""
        leaves = [
            leaf for g in groups for leaf in leaves_of(g) if any(r.value is not None for r in leaf.rollouts)
        ]
        if not leaves:
            return
        leaf = max(leaves, key=_spread)
        judged = [r for r in leaf.rollouts if r.value is not None]
        best, worst = max(judged, key=_value), min(judged, key=_value)
        body = Stack(
            Text(printable(_prompt_text(leaf)), style="dim"),
            _answer("best", best, "green"),
            *([_answer("worst", worst, "red")] if worst is not best else []),
        )
        title = Text(printable(f"step {step}, prompt {leaf.prompt.id}"))
        self.console.print(Panel(body, title=title, title_align="left"))

    def say(self, sentence: str) -> None:
        self.console.print(Text(printable(sentence)), soft_wrap=True)


def headline(metrics: Mapping[str, float]) -> str:
    """The few numbers worth a live line.

    >>> headline({"reward": 0.5, "entropy": 0.25, "completions/mean_length": 12.0, "tokens_per_second": 900.0})
    'reward 0.500 length 12.0 entropy 0.250 900 tok/s'
    """
    shown = [("reward", "reward", "{:.3f}"), ("completions/mean_length", "length", "{:.1f}")]
    shown += [("loss", "loss", "{:.3f}")] if "reward" not in metrics else []
    shown += [("entropy", "entropy", "{:.3f}"), ("eval/pass@1", "held-out", "{:.3f}")]
    parts = [f"{label} {form.format(metrics[name])}" for name, label, form in shown if name in metrics]
    return " ".join(
        [*parts, f"{metrics['tokens_per_second']:.0f} tok/s"] if "tokens_per_second" in metrics else parts
    )


def _prompt_text(leaf: Group) -> str:
    prompt = leaf.prompt
    return prompt.text or prompt.question


def _value(rollout: Rollout) -> float:
    return rollout.value or 0.0


def _spread(leaf: Group) -> float:
    values = [r.value for r in leaf.rollouts if r.value is not None]
    return max(values, default=0.0) - min(values, default=0.0)


def _answer(label: str, rollout: Rollout, style: str) -> Text:
    reason = rollout.score.reason if rollout.score else ""
    head = f"{label} {_value(rollout):.2f} ({len(rollout.completion_ids)} tokens, {printable(reason)})\n"
    return Text.assemble((head, f"bold {style}"), printable(rollout.text or ""))
