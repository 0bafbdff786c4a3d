"""Verdicts that were paid for, in an SQLite file that several processes share."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rlkit.errors import RolloutError

_TABLE = (
    "create table if not exists verdicts (key text primary key, value real not null, reason text not null)"
)


@dataclass(frozen=True, slots=True)
class VerdictCache:
    """A value and a reason by a key. Each call opens the file anew: connections go through no pickle and no fork."""

    path: Path

    def get(self, key: str) -> tuple[float, str] | None:
        with self._open() as database:
            found = database.execute("select value, reason from verdicts where key = ?", (key,)).fetchone()
        return None if found is None else (float(found[0]), str(found[1]))

    def put(self, key: str, value: float, reason: str) -> None:
        with self._open() as database, database:
            database.execute("insert or replace into verdicts values (?, ?, ?)", (key, value, reason))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            database = sqlite3.connect(self.path, timeout=5.0)
            try:
                database.execute(_TABLE)
                yield database
            finally:
                database.close()
        except sqlite3.Error as error:
            raise RolloutError(f"judge cache {self.path}: {error}; name another file, or none") from error
