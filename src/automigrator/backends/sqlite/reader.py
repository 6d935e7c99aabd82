"""Opening a SQLite file, and waiting for others to let go of it."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

from automigrator.backends.contract.values import Sight, VersionTable
from automigrator.backends.sqlite.files import sidecars

BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})

DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

POLL_S = 0.02

BUSY_S = 10.0

"""Seconds for which a look waits for a writer."""


class BusyError(TimeoutError):
    """Raised when another connection's transaction was in the way for too long."""


class Cancelled(Exception):
    """Raised when a copy was stopped by its caller; nothing of it remains."""


def never() -> bool:
    return False


def connect(path: Path, mode: str, *, any_thread: bool = False) -> sqlite3.Connection:
    # the waiting is ours, so that it can be cancelled and has one deadline
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    return sqlite3.connect(
        uri, uri=True, timeout=0, isolation_level=None, check_same_thread=not any_thread
    )


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    before = [p for p in sidecars(path) if p.exists()]
    try:
        with closing(connect(path, "ro")) as connection:
            yield connection
    finally:
        if any(p.exists() for p in sidecars(path) if p not in before):
            # a read-only connection leaves a WAL file's sidecars; the last writable one to
            # close removes them, and knows whether it is the last
            with suppress(sqlite3.Error), closing(connect(path, "rw")) as connection:
                connection.execute("SELECT 1 FROM sqlite_master").fetchone()


def begin_reading(
    connection: sqlite3.Connection, path: Path, cancelled: Callable[[], bool], deadline_s: float
) -> None:
    started = time.monotonic()
    connection.execute("BEGIN")
    while True:
        if cancelled():
            raise Cancelled(f"the copy of {path} was cancelled")
        try:
            # it begins to read without parsing the schema: a broken one can be copied, too
            connection.execute("PRAGMA data_version").fetchone()
            return
        except sqlite3.OperationalError as error:
            if code_of(error) not in BUSY:
                raise
            wait_or_give_up(started, deadline_s, path, "read")


@contextmanager
def looking_at(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that sees one state of a file, once a writer has let go of it."""
    with reading(path) as connection:
        begin_reading(connection, path, never, BUSY_S)
        yield connection


def give_up_if_late(started: float, deadline_s: float, path: Path, what: str) -> None:
    waited = time.monotonic() - started
    if waited >= deadline_s:
        raise BusyError(
            f"{path} could not be {what}: another connection kept it locked for {waited:.1f} s; "
            "it was not changed. End that connection's transaction, then try again"
        )


def wait_or_give_up(started: float, deadline_s: float, path: Path, what: str) -> None:
    give_up_if_late(started, deadline_s, path, what)
    time.sleep(POLL_S)


def code_of(error: sqlite3.Error) -> int | None:
    """SQLite's primary result code; the extended ones keep it in the low byte."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def damaged(message: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(message)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    error.sqlite_errorname = "SQLITE_CORRUPT"
    return error


def no_file(path: Path) -> sqlite3.OperationalError:
    """What SQLite itself calls an I/O error."""
    error = sqlite3.OperationalError(f"{path} is a folder, and should be a file")
    error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN_ISDIR
    error.sqlite_errorname = "SQLITE_CANTOPEN_ISDIR"
    return error


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


Ask = Callable[[str], Sequence[Any]]

_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'sqlite_*'"

# without what ANALYZE makes: an optimising application changes no schema
_SCHEMA = (
    "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_master "
    "WHERE name NOT GLOB 'sqlite_stat*'"
)


def look_at_file(path: Path, tables: Sequence[VersionTable]) -> Sight:
    """Raises sqlite3.DatabaseError when it is damaged, TimeoutError when it stays locked."""
    if not path.exists():
        return Sight(False, dict.fromkeys(tables))
    if path.is_dir():
        raise no_file(path)
    try:
        with looking_at(path) as connection:
            return look(lambda sql: connection.execute(sql).fetchall(), tables)
    except sqlite3.OperationalError as error:
        # a journal that a killed process left can only be played back by a writer
        if code_of(error) not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            raise
    with closing(connect(path, "rw")) as connection:
        begin_reading(connection, path, never, BUSY_S)
        return look(lambda sql: connection.execute(sql).fetchall(), tables)


def look(ask: Ask, tables: Sequence[VersionTable]) -> Sight:
    """The same on an open connection."""
    names = {str(row[0]).lower(): str(row[0]) for row in ask(_TABLES)}
    heads: dict[VersionTable, tuple[str, ...] | None] = {}
    for table in tables:
        found = names.pop(table.name.lower(), None)
        if found is None:
            heads[table] = None
            continue
        quoted = found.replace('"', '""')
        rows = ask(f'SELECT version_num FROM "{quoted}"')
        heads[table] = tuple(sorted(str(row[0]) for row in rows))
    return Sight(True, heads, bool(names))


def schema(ask: Ask) -> list[Any]:
    """The whole schema, comparable between two databases."""
    return sorted(tuple(row) for row in ask(_SCHEMA))


def same_rows(one: sqlite3.Connection, other: sqlite3.Connection) -> bool:
    """Whether all rows of two databases of the same schema are the same; both are read through."""
    names = "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 AND "
    for (name,) in one.execute(names + "name NOT GLOB 'sqlite_stat*'").fetchall():
        quoted = name.replace('"', '""')
        pairs = zip_longest(*(each.execute(f'SELECT * FROM "{quoted}"') for each in (one, other)))
        if not all(a == b for a, b in pairs):
            return False
    return True
