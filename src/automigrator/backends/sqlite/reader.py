"""Reading a SQLite file: opened without creating it, waited for, looked at and verified."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from automigrator.backends.contract.values import Sight, VersionTable
from automigrator.backends.sqlite import codes, files
from automigrator.support.backoff import Deadline

BUSY_S = 10.0

"""Seconds for which a look waits for a writer."""

POLL_S = 0.02

Ask = Callable[[str], Iterable[Any]]

"""Runs a SELECT and returns its rows."""

T = TypeVar("T")

_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'sqlite_*'"

# rows of quick_check about values that break a declared constraint: the file itself is sound
_LOGICAL = r"(?:CHECK constraint failed|[\w-]+ value) in "


class Cancelled(Exception):
    """Raised when a copy was stopped by its caller; nothing of it remains."""


def never() -> bool:
    return False


class Wait(Deadline):
    """Waiting for other connections of the file at `path`, for `seconds` from now on.

    `act` is a participle for the message: what could not be done. SQLite's own busy timeout can
    neither be cancelled nor hold for several statements.
    """

    def __init__(
        self, path: Path, act: str, seconds: float, cancelled: Callable[[], bool] = never
    ) -> None:
        super().__init__(seconds)
        self.path, self.act, self.cancelled = path, act, cancelled

    def ensure_wanted(self) -> None:
        """Raise Cancelled when the caller no longer wants the work."""
        if self.cancelled():
            raise Cancelled(f"the copy of {self.path} was cancelled")

    def ensure_in_time(self) -> None:
        """Raise BusyError when the time is over."""
        if self.is_over():
            raise codes.BusyError(
                f"{self.path} could not be {self.act}: another connection kept it locked for "
                f"{self.elapsed():.1f} s; it was not changed. End that connection's "
                "transaction, then try again"
            )

    def until_free(self, act: Callable[[], T]) -> T:
        """Try an act again as long as it finds another connection in the way."""
        while True:
            self.ensure_wanted()
            try:
                return act()
            except sqlite3.Error as error:
                if not codes.is_busy(error):
                    raise
                self.ensure_in_time()
            time.sleep(POLL_S)


def connect(path: Path, mode: str, *, any_thread: bool = False) -> sqlite3.Connection:
    """Open a file in SQLite's `mode` (ro, rw or rwc), with no transactions but ours."""
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    return sqlite3.connect(
        uri, uri=True, timeout=0, isolation_level=None, check_same_thread=not any_thread
    )


@contextmanager
def looking_at(
    path: Path,
    wait_s: float | None = None,
    *,
    cancelled: Callable[[], bool] = never,
    mode: str = "ro",
) -> Iterator[sqlite3.Connection]:
    """Context manager: a connection in a transaction that sees one state of the file.

    It leaves no sidecars behind. `wait_s` limits the wait for others, 10 seconds by default.
    """
    wait = Wait(path, "read", BUSY_S if wait_s is None else wait_s, cancelled)
    before = [p for p in files.sidecars(path) if p.exists()]
    try:
        with closing(connect(path, mode)) as connection:
            begin_reading(connection, wait)
            yield connection
    finally:
        if any(p.exists() for p in files.sidecars(path) if p not in before):
            # a read-only connection leaves a WAL file's sidecars; the last writable one to
            # close removes them, and knows whether it is the last
            with suppress(sqlite3.Error), closing(connect(path, "rw")) as connection:
                connection.execute("SELECT 1 FROM sqlite_master").fetchone()


def begin_reading(connection: sqlite3.Connection, wait: Wait) -> None:
    """Begin a transaction that sees one state of the file, once a writer has let go of it."""
    connection.execute("BEGIN")
    # reads without parsing the schema: a broken one can be copied, too
    wait.until_free(lambda: connection.execute("PRAGMA data_version").fetchone())


def look_at_file(path: Path, tables: Sequence[VersionTable]) -> Sight:
    """Read the heads of a file, which may be absent.

    Raises sqlite3.DatabaseError when it is damaged, TimeoutError when it stays locked.
    """
    if not path.exists():
        return Sight(False, dict.fromkeys(tables))
    if path.is_dir():
        raise codes.no_file(f"{path} is a folder, and should be a file")
    try:
        with looking_at(path) as connection:
            return look(connection.execute, tables)
    except sqlite3.OperationalError as error:
        # a journal that a killed process left can only be played back by a writer
        if codes.code_of(error) not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            raise
    with looking_at(path, mode="rw") as connection:
        return look(connection.execute, tables)


def look(ask: Ask, tables: Sequence[VersionTable]) -> Sight:
    """Read the heads on an open connection."""
    names = {str(row[0]).lower(): str(row[0]) for row in ask(_TABLES)}
    heads: dict[VersionTable, tuple[str, ...] | None] = {}
    for table in tables:
        found = names.pop(table.name.lower(), None)
        if found is None:
            heads[table] = None
        else:
            rows = ask(f"SELECT version_num FROM {quoted(found)}")
            heads[table] = tuple(sorted(str(row[0]) for row in rows))
    return Sight(True, heads, bool(names))


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def verify(
    path: Path,
    tables: Sequence[str] = ("alembic_version",),
    *,
    preread: bool = False,
    wait_s: float = 30.0,
) -> tuple[str, ...]:
    """Check a database with `quick_check`, and return the heads in its version `tables`.

    `preread` reads the file through first, which makes a cold check of gigabytes some 70 times
    faster: only for a file that nothing in this process has open. `wait_s` limits the wait for
    others. Raises sqlite3.DatabaseError when it is damaged, TimeoutError when it stays locked.
    """
    if preread:
        buffer = bytearray(1 << 20)
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    with looking_at(path, wait_s) as connection:
        complaints = [row for row in _quick_check(connection) if not re.match(_LOGICAL, row)]
        if complaints:
            raise codes.damaged(f"{path} is damaged: {'; '.join(complaints[:5])}")
        return look(connection.execute, [VersionTable(name) for name in tables]).all_heads()


def _quick_check(connection: sqlite3.Connection) -> list[str]:
    # not damage, and such a constraint may need the application's own functions
    connection.execute("PRAGMA ignore_check_constraints=ON")
    try:
        rows = connection.execute("PRAGMA quick_check").fetchall()
    except sqlite3.OperationalError as error:
        if codes.code_of(error) != sqlite3.SQLITE_ERROR:
            raise
        rows = _quick_check_tables(connection)
    return [str(row[0]) for row in rows if row[0] != "ok"]


def _quick_check_tables(connection: sqlite3.Connection) -> list[tuple[str]]:
    """Check each table by itself, but none that needs a collation of the application's own."""
    rows: list[tuple[str]] = []
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for (name,) in tables:
        try:
            rows += connection.execute(f"PRAGMA quick_check({quoted(name)})").fetchall()
        except sqlite3.OperationalError as error:
            if codes.code_of(error) != sqlite3.SQLITE_ERROR:
                raise
    return rows
