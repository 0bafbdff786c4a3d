"""How far a count has come: a bar on a terminal, a line now and then in a log, nothing for what is done in two seconds."""

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rlkit.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

BAR_AFTER = 2.0
LINE_SECONDS = 10.0
"""Without a terminal, one line at most this often."""


class Progress:
    """total: None: nobody knows, so the bar has no end"""

    def __init__(self, title: str, total: int | None, console: "Console") -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._title, self._total, self._console = printable(title), total, console
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task(self._title, total=total, rate="")
        self._began = self._last_line = time.monotonic()
        self._first: int | None = None
        self._shown = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:  # a bar that never started would still write an empty line
            self._bar.stop()

    def __call__(self, done: int) -> None:
        """So many are done, those of an earlier run included."""
        now = time.monotonic()
        self._first = done if self._first is None else self._first
        rate = f"{(done - self._first) / max(now - self._began, 1e-3):,.0f}/s"
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, rate=rate)
            if not self._shown and now - self._began > BAR_AFTER:
                self._bar.start()
                self._shown = True
        elif now - self._last_line > LINE_SECONDS:
            self._last_line = now
            of = "" if self._total is None else f" of {self._total:,}"
            self._console.print(
                f"{self._title} {done:,}{of}, {rate}", soft_wrap=True, highlight=False, markup=False
            )
