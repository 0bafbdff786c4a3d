"""`rlkit dash`: run folders as a live page, or as one file."""

import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlkit.errors import ConfigError, RunError

if TYPE_CHECKING:
    from rlkit.analysis.dash.board import Board, Diagnosis
    from rlkit.doctor import Case

TOKEN = "RLKIT_DASH_TOKEN"


def dash(
    paths: Sequence[Path],
    *,
    host: str,
    port: int,
    export: Path | None,
    examine: "Callable[[Path], Sequence[Case]]",
) -> int:
    """Serve until Ctrl-C, or write the page and end. examine: what is wrong with a run (rlkit.examine)"""
    _require_packages()
    from rlkit.analysis.dash.board import Board

    board = Board(paths, lambda folder: in_words(examine(folder)))
    board.refresh()
    if export is not None:
        return _export(board, export)
    from rlkit.analysis.dash.serve import is_loopback, make_server

    token = os.environ.get(TOKEN) or (None if is_loopback(host) else secrets.token_urlsafe(18))
    server, address = make_server(board, host, port, token)
    print(f"{_counted(board)}: {address} (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("", flush=True)
    finally:
        server.server_close()
    return 0


def in_words(cases: "Sequence[Case]") -> "list[Diagnosis]":
    """What rlkit doctor finds, as the page shows it."""
    from rlkit.analysis.dash.board import Diagnosis
    from rlkit.show import steps_of

    return [
        Diagnosis(
            severity=case.finding.severity,
            name=case.finding.name,
            when=steps_of(case),
            says=case.finding.says,
            cause=case.finding.cause,
            remedy=case.finding.remedy,
        )
        for case in cases
    ]


def _export(board: "Board", path: Path) -> int:
    from rlkit.analysis.dash.export import exported

    if path.suffix.lower() != ".html":
        raise ConfigError(f"--export {path}: expected a name that ends in .html")
    if not path.parent.is_dir():
        raise ConfigError(f"--export {path}: no folder {path.parent} (looked from {Path.cwd()})")
    page = exported(board, board.newest())
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RunError(f"--export {path}: cannot be written ({error.strerror or error})") from error
    print(f"{_counted(board)}: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


def _counted(board: "Board") -> str:
    def some(count: int, word: str) -> str:
        return f"{count} {word}{'' if count == 1 else 's'}"

    found = [some(len(board.runs), "run")]
    exams = board.exams()
    return ", ".join([*found, *([some(len(exams), "evaluation")] if exams else [])])


def _require_packages() -> None:
    """One sentence instead of a traceback, before anything is read."""
    try:
        import dash  # noqa: F401
        import plotly  # noqa: F401
        import tsdownsample  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"rlkit dash: {error.name or 'dash'} is not installed; pip install 'rlvrkit[dash]' (tensorboard --logdir RUN shows "
            "the same numbers without it)"
        ) from error
