"""What the person at the terminal sees: a live progress line, now and then one prompt with its best and worst answer, and what
is wrong with the run as soon as it is."""

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

from rlkit.doctor import Case, Finding, Severity, Watch
from rlkit.printable import printable
from rlkit.types import Group, Rollout
from rlkit.verify import leaves_of

LINE_SECONDS = 10.0
"""Without a terminal (a log file), one line at most this often."""
COLOURS: dict[Severity, str] = {"serious": "bold red", "warning": "yellow", "hint": "cyan"}


class Terminal:
    """The view of one run. Close it (or leave its `with`) before printing tables of your own.

    watch: follows the metrics and says what is wrong; None: nobody does
    """

    def __init__(
        self,
        title: str,
        steps: int,
        start: int = 0,
        console: Console | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.console = console or Console(stderr=True)
        self.watch = watch
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
        for finding in [] if self.watch is None else self.watch.step({"step": step, **metrics}):
            self.console.print(finding_line(finding, f"step {step}"), soft_wrap=True)

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


def finding_line(finding: Finding, where: str) -> Text:
    """A finding in one line: how bad, where, and its sentence."""
    head = printable(f"{finding.severity}, {where}, {finding.name}: ")
    return Text.assemble((head, COLOURS[finding.severity]), printable(finding.sentence))


def steps_of(case: Case) -> str:
    """When a finding was there.

    >>> from rlkit.doctor import Finding
    >>> f = Finding(name="truncated", severity="warning", says="", cause="", remedy="", number=1.0)
    >>> steps_of(Case(finding=f, first=3, last=9, present=False)), steps_of(Case(finding=f, first=3, last=9, present=True))
    ('steps 3 to 9, gone since', 'steps 3 to 9')
    """
    steps = f"step {case.first}" if case.first == case.last else f"steps {case.first} to {case.last}"
    return steps if case.present else f"{steps}, gone since"


def show_cases(
    cases: Sequence[Case], head: str, records: int, checked: Sequence[str], console: Console
) -> None:
    """What the doctor found, worst first, and what was looked for."""
    console.print(Text(printable(head), style="bold"), soft_wrap=True)
    if not records:
        console.print("no step is recorded yet, so there is nothing to look at")
        return
    if all(case.finding.severity == "hint" for case in cases):
        console.print(Text(f"nothing wrong found in {records:,} recorded steps", style="green"))
    for case in cases:
        finding = case.finding
        title = Text.assemble(
            (finding.severity, COLOURS[finding.severity]),
            (f"  {finding.name}", "bold"),
            f"  ({steps_of(case)})",
        )
        console.print("", title, sep="\n", soft_wrap=True)
        for label, words in (("", finding.says), ("likely  ", finding.cause), ("try     ", finding.remedy)):
            console.print(Text.assemble(f"    {label}", printable(words)), soft_wrap=True)
    console.print(Text(f"\nchecked: {', '.join(checked)}", style="dim"), soft_wrap=True)


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
