"""A close look at a SQLite file: who migrates it, what is kept beside it, what is left in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import get_args

from automigrator.backends.contract.declarations import Declaration
from automigrator.backends.contract.examiner import Copy, Debris, TableName
from automigrator.backends.contract.lock import Record
from automigrator.backends.sqlite import copies as keeping
from automigrator.backends.sqlite import lock
from automigrator.backends.sqlite.files import size_of
from automigrator.backends.sqlite.reader import BUSY_S, connect, looking_at
from automigrator.retention import at_of
from automigrator.support.concurrency import in_thread, to_the_end

_TEMPORARY = "_alembic_tmp_"


class FileExaminer:
    """See `Examiner`; of a database in memory there is nothing to tell."""

    def __init__(self, live: Path | None) -> None:
        self.live = live

    async def declared(self) -> tuple[Declaration, ...]:
        live = self.live
        return await in_thread(lambda: lock.declarations_of(live)) if live else ()

    async def record(self) -> Record | None:
        live = self.live
        return await in_thread(lambda: lock.record_of(live)) if live else None

    async def holder(self) -> str | None:
        live = self.live
        return await in_thread(lambda: lock.holder_of(live)) if live else None

    async def copies(self) -> tuple[Copy, ...]:
        live = self.live
        return await in_thread(lambda: _copies(live.resolve())) if live else ()

    async def existing(self, tables: Sequence[TableName]) -> tuple[TableName, ...]:
        live = self.live
        if live is None or not live.exists():
            return ()

        def find() -> tuple[TableName, ...]:
            with looking_at(live) as connection:
                names = {name.lower() for name in _tables(connection)}
            return tuple(table for table in tables if table[1].lower() in names)

        return await in_thread(find)

    async def debris(self) -> tuple[Debris, ...]:
        live = self.live
        if live is None or not live.exists():
            return ()

        def find() -> tuple[Debris, ...]:
            with looking_at(live) as connection:
                return tuple(_judged(connection, name) for name in _half_made(connection))

        return await in_thread(find)

    async def remove(self, debris: Debris) -> str | None:
        live = self.live
        return await to_the_end(in_thread(lambda: _dropped(live, debris))) if live else None


def left_over(live: Path) -> tuple[str, ...]:
    """The debris in a file, without a judgement: to compare rows takes its time."""
    with looking_at(live) as connection:
        return tuple(_told(name) for name in _half_made(connection))


def _half_made(connection: sqlite3.Connection) -> list[str]:
    return [name for name in _tables(connection) if name.startswith(_TEMPORARY)]


def _told(name: str) -> str:
    return f"table {name} of an unfinished batch operation"


def _dropped(live: Path, debris: Debris) -> str | None:
    name = debris.object[1]
    with closing(connect(live, "rw")) as connection:
        connection.execute(f"PRAGMA busy_timeout={BUSY_S * 1000:.0f}")
        connection.execute("PRAGMA foreign_keys=OFF")  # to drop a table would else empty it first
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                judged = _judged(connection, name)  # nobody can write from here on
                if not judged.provable:
                    return judged.why
                connection.execute(f"DROP TABLE {_quoted(name)}")
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            return str(error)
    return None


def _judged(connection: sqlite3.Connection, name: str) -> Debris:
    """Batch mode fills a copy, drops the table and renames the copy; it may have ended anywhere."""
    original = name.removeprefix(_TEMPORARY)

    def judged(provable: bool, why: str) -> Debris:
        return Debris(_told(name), (None, name), provable, why)

    if original not in _tables(connection):
        return judged(
            False,
            f"table {original} is missing, so this may be the only copy of its rows. Compare its "
            f"columns with the revision's, then ALTER TABLE {_quoted(name)} RENAME TO "
            f"{_quoted(original)}",
        )
    try:
        doubt = _doubt(connection, name, original)
    except sqlite3.Error as error:
        doubt = f"it cannot be compared with {original} ({error})"
    if doubt is not None:
        return judged(False, f"{doubt}; look at both, and drop it by hand when nothing is missing")
    return judged(True, f"table {original} has every row of it")


def _doubt(connection: sqlite3.Connection, name: str, original: str) -> str | None:
    """Why something might be lost with the copy."""
    columns = {
        str(row[1]): row[4] for row in connection.execute(f"PRAGMA table_info({_quoted(name)})")
    }
    theirs = {str(row[1]) for row in connection.execute(f"PRAGMA table_info({_quoted(original)})")}
    if connection.execute(f"SELECT 1 FROM {_quoted(name)} LIMIT 1").fetchone() is None:
        return _used(connection, name)
    shared = [f"{_quoted(column)} COLLATE BINARY" for column in columns if column in theirs]
    if not shared:
        return f"it shares no column with {original}"
    for column, default in columns.items():
        if column not in theirs and _filled(connection, name, column, default):
            return f"{original} has no column {column}, and it has values there"
    # numbered within equals, as a table without a key may hold a row twice
    kept = ", ".join(f"{each}, typeof({each})" for each in shared)
    numbered = f"SELECT {kept}, row_number() OVER (PARTITION BY {kept}) FROM "
    missing = connection.execute(
        f"SELECT count(*) FROM ({numbered}{_quoted(name)} EXCEPT {numbered}{_quoted(original)})"
    ).fetchone()[0]
    if missing:
        return f"{missing} of its rows are not in {original} as they are here"
    return _used(connection, name)


def _filled(connection: sqlite3.Connection, name: str, column: str, default: str | None) -> bool:
    """Whether a column has other values than what a new column is given, which is nobody's data."""
    quoted = _quoted(column)
    rows = connection.execute(
        f"SELECT 1 FROM {_quoted(name)} "
        f"WHERE {quoted} IS NOT NULL AND {quoted} IS NOT ({default or 'NULL'}) LIMIT 1"
    )
    return rows.fetchone() is not None


def _used(connection: sqlite3.Connection, name: str) -> str | None:
    row = connection.execute(
        "SELECT type, name FROM sqlite_master WHERE tbl_name <> ? AND instr(lower(sql), lower(?))",
        (name, name),
    ).fetchone()
    return f"{row[0]} {row[1]} speaks of it" if row else None


def _tables(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    return [str(row[0]) for row in rows]


def _copies(live: Path) -> tuple[Copy, ...]:
    if not live.parent.exists():
        return ()
    return tuple(
        Copy(
            str(path),
            kind,
            at_of(path.name.rpartition(f".{kind}-")[2].partition("-")[0]),
            size_of(path),
        )
        for kind in get_args(keeping.Kind)
        for path in keeping.kept(live, kind)
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
