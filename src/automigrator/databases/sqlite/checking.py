"""Whether a SQLite file is sound, and which revision it is at."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

from automigrator.databases.sqlite.reading import begin_reading, code_of, damaged, never, reading

# rows of quick_check about values that break a declared constraint: the file itself is sound
_LOGICAL = re.compile(r"(?:CHECK constraint failed|[\w-]+ value) in ")


def verify(
    path: Path,
    version_table: str = "alembic_version",
    *,
    preread: bool = False,
    deadline_s: float = 30.0,
) -> tuple[str, ...]:
    """Check a database with `quick_check` and return its version rows, sorted.

    () when there is no version table. `preread` reads the file through first, which makes a cold
    check of gigabytes some 70 times faster: only for a file that nothing in this process has
    open. Raises sqlite3.DatabaseError when it is damaged, TimeoutError when it stays locked.
    """
    if preread:
        _read_through(path)
    with reading(path) as connection:
        begin_reading(connection, path, never, deadline_s)
        complaints = [row for row in _quick_check(connection) if not _LOGICAL.match(row)]
        if complaints:
            raise damaged(f"{path} is damaged: {'; '.join(complaints[:5])}")
        found = connection.execute(
            "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND lower(name) = ?",
            (version_table.lower(),),
        ).fetchone()
        if found is None:
            return ()
        quoted = found[0].replace('"', '""')
        rows = connection.execute(f'SELECT version_num FROM "{quoted}"').fetchall()
        return tuple(sorted(str(row[0]) for row in rows))


def _quick_check(connection: sqlite3.Connection) -> list[str]:
    # not damage, and such a constraint may need the application's own functions
    connection.execute("PRAGMA ignore_check_constraints=ON")
    try:
        rows = connection.execute("PRAGMA quick_check").fetchall()
    except sqlite3.OperationalError as error:
        if code_of(error) != sqlite3.SQLITE_ERROR:
            raise
        rows = _quick_check_tables(connection)
    return [str(row[0]) for row in rows if row[0] != "ok"]


def _quick_check_tables(connection: sqlite3.Connection) -> list[tuple[str]]:
    """Each table by itself, without those that need a collation of the application's own."""
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    rows: list[tuple[str]] = []
    for (name,) in tables:
        quoted = name.replace('"', '""')
        try:
            rows += connection.execute(f'PRAGMA quick_check("{quoted}")').fetchall()
        except sqlite3.OperationalError as error:
            if code_of(error) != sqlite3.SQLITE_ERROR:
                raise
    return rows


def _read_through(path: Path) -> None:
    buffer = bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
