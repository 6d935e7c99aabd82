"""Measures what statements do to a database file: who waits for it, its rows, rebuilt tables.

A transaction that writes has the whole file: whoever else wants to write waits until it ends.
Others read what was there before it, but not while what it changed is on its way to the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path

from sqlalchemy.engine import Connection

from automigrator.backends.contract.meter import Look, Meter, TableUse, Usage, Watched
from automigrator.backends.sqlite import codes, files, reader
from automigrator.backends.sqlite.connections import rows_of
from automigrator.measurement import StatementMeasured, Waits
from automigrator.support.concurrency import in_thread

DATABASE = "the database"

_SIZE = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
_ROOTS = "SELECT name, rootpage FROM sqlite_master WHERE type = 'table' AND rootpage > 0"

_ADVICE = {
    "rewrites": "SQLite adds, renames and drops a column without a new table where no constraint "
    "is in the way: op.add_column, or batch_alter_table(recreate='never')",
    "blocks-writes": "give the step a revision of its own, and its rows in batches, each in a "
    "transaction of its own (autocommit_block); in the journal mode WAL others read meanwhile",
}
_ADVICE["blocks-reads"] = _ADVICE["blocks-writes"]


@asynccontextmanager
async def metering(live: Path, copy: Path) -> AsyncIterator[FileMeter]:
    """Context manager: measure a copy; that others may read `live` meanwhile is known from it."""
    logged = await in_thread(partial(_has_log, live))
    meter = await in_thread(partial(FileMeter, copy, logged))
    try:
        yield meter
    finally:
        await in_thread(meter.close)


def usage(file: Path) -> Usage:
    """Say how large a database is; nothing counts who uses it."""
    return Usage(tables={DATABASE: TableUse(files.size_with_log(file))})


def _has_log(file: Path) -> bool:
    with reader.looking_at(file) as connection:
        ((mode,),) = connection.execute("PRAGMA journal_mode")
    return str(mode).lower() == "wal"


class FileMeter(Meter):
    """See `Meter`; a second connection tries to read where no log lets it."""

    def __init__(self, file: Path, logged: bool) -> None:
        self._logged = logged
        self._reader = reader.connect(file, "ro", any_thread=True)
        ((self.size,),) = self._reader.execute(_SIZE)
        self._roots: dict[str, int] = dict(self._reader.execute(_ROOTS).fetchall())
        self.sizes = {DATABASE: self.size}

    def close(self) -> None:
        self._reader.close()

    def look(self, connection: Connection, *, whole: bool = False) -> Look:
        dbapi = connection.connection.dbapi_connection
        ((size,),) = rows_of(dbapi, _SIZE)
        roots = dict(rows_of(dbapi, _ROOTS))
        rewritten = {name for name, root in self._roots.items() if roots.get(name, root) != root}
        self._roots.update((name, roots[name]) for name in rewritten)
        waits: tuple[Waits, ...] = ("reads", "writes") if self._excludes() else ("writes",)
        mode = "EXCLUSIVE" if len(waits) > 1 else "RESERVED"
        return Look(
            "open",
            {DATABASE: (mode, waits)},
            rewritten=frozenset(rewritten),
            size=size,
        )

    def _excludes(self) -> bool:
        """Whether others cannot read just now."""
        if self._logged:
            return False
        try:
            with closing(self._reader.execute("SELECT 1 FROM sqlite_master")) as cursor:
                cursor.fetchone()
        except sqlite3.OperationalError as error:
            return codes.is_busy(error)
        return False

    def watch(self, connection: Connection) -> Callable[[int], Watched]:
        waits: tuple[Waits, ...] = ("writes",) if self._logged else ("reads", "writes")
        return lambda rows: Watched({DATABASE: ("EXCLUSIVE", waits)}, 1)

    def advice(self, kind: str, statement: StatementMeasured) -> str:
        return _ADVICE.get(kind, "")
