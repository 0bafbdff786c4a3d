"""`rlkit tasks` and `rlkit algos`: what there is, a line each."""

import sys
from collections.abc import Mapping

from rlkit.algo_presets import ALGO_CONFIGS


def tasks() -> int:
    """`rlkit tasks`."""
    from rlkit.tasks import TASKS

    _print_pairs(TASKS)
    return 0


def algos() -> int:
    """`rlkit algos`: every algorithm as its choice on each axis."""
    from rich.console import Console
    from rich.table import Table

    traits = {name: config().traits for name, config in ALGO_CONFIGS.items()}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    columns = list(next(iter(traits.values())))
    for column in ("name", *columns):
        table.add_column(column, no_wrap=column == "name")
    for name, words in traits.items():
        table.add_row(name, *(words.get(column, "") for column in columns))
    # A pipe has no width: as wide as the table then. No stdout at all: started with it closed.
    Console(width=None if sys.stdout and sys.stdout.isatty() else 160).print(
        table, highlight=False, markup=False
    )
    print(
        "\nits settings: rlkit train --algo NAME --help; its paper and what we chose: docs/papers.md\n"
        "your own: --algo file.py:MyAlgorithm (see examples/custom_algorithm.py)"
    )
    return 0


def _print_pairs(pairs: Mapping[str, str]) -> None:
    width = max(map(len, pairs))
    for name, words in pairs.items():
        print(f"{name:<{width}}  {words}")
