"""Lines and tables for people, as text: whoever prints them meets a closed pipe, and not rich, which would end the process."""

from collections.abc import Callable, Iterable, Sequence

from rich.console import Console
from rich.table import Table

from rlkit.printable import printable

WIDTH = 140
"""Fixed: a table that a narrow terminal cuts loses its numbers."""


def lines_of(show: Callable[[Console], None]) -> str:
    """What `show` says, without trailing spaces."""
    console = Console(width=WIDTH, no_color=True)
    with console.capture() as shown:
        show(console)
    return "\n".join(line.rstrip() for line in shown.get().splitlines()) + "\n"


def say(console: Console, words: str) -> None:
    console.print(printable(words), soft_wrap=True, highlight=False, markup=False)


def table(console: Console, header: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> None:
    """numbers: columns at the start that are aligned to the right, or at the end when negative"""
    built = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    right = range(len(header))[:numbers] if numbers > 0 else range(len(header))[len(header) + numbers :]
    for i, name in enumerate(header):
        built.add_column(name, justify="right" if i in right else "left")
    for row in rows:
        built.add_row(*(printable(" ".join(cell.split())) for cell in row))
    console.print(built, highlight=False, markup=False)
