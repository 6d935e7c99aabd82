"""Reading a SQLite file: opened without creating it, waited for, looked at and verified."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from automigrator.backends.contract.values import Sight, VersionTable
from automigrator.backends.sqlite import codes, companions
from automigrator.support.backoff import Deadline

BUSY_S = 10.0

"""Seconds for which a look waits for a writer."""

SNAPSHOT_S = 30.0

"""Seconds for which the reading of a snapshot waits for somebody who has it locked."""

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

    def after_step(self, status: int, remaining: int = 0, total: int = 0) -> None:
        """Raise Cancelled when the work is no longer wanted, BusyError when the time is over.

        `status` is SQLite's result code of the last step; the rest is what a backup tells, too.
        """
        if self.cancelled():
            raise Cancelled(f"the copy of {self.path} was cancelled")
        if status in codes.BUSY and self.is_over():
            raise codes.BusyError(
                f"{self.path} could not be {self.act}: another connection kept it locked for "
                f"{self.elapsed():.1f} s; it was not changed. End that connection's "
                "transaction, then try again"
            )

    def until_free(self, act: Callable[[], T]) -> T:
        """Try an act again as long as it finds another connection in the way."""
        status = sqlite3.SQLITE_OK
        while True:
            self.after_step(status)
            try:
                return act()
            except sqlite3.Error as error:
                if not codes.is_busy(error):
                    raise
            status = sqlite3.SQLITE_BUSY
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
    *,
    cancelled: Callable[[], bool] = never,
    mode: str = "ro",
    seconds: float | None = None,
) -> Iterator[sqlite3.Connection]:
    """Context manager: a connection in a transaction that sees one state of the file.

    It leaves no sidecars behind. It waits `seconds` for a writer, BUSY_S unless told.
    """
    wait = Wait(path, "read", BUSY_S if seconds is None else seconds, cancelled)
    sidecars = companions.sidecars(path.resolve())
    before = [p for p in sidecars if p.exists()]
    try:
        with closing(connect(path, mode)) as connection:
            begin_reading(connection, wait)
            yield connection
    finally:
        if any(p.exists() for p in sidecars if p not in before):
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
        error = sqlite3.OperationalError(f"{path} is a folder, and should be a file")
        raise codes.coded(error, "SQLITE_CANTOPEN_ISDIR")  # SQLite opens it as an I/O error
    try:
        with looking_at(path) as connection:
            return look(connection.execute, tables)
    except sqlite3.OperationalError as error:
        # a journal that a killed process left can only be played back by a writer
        if codes.code_of(error) not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            raise
    try:
        with looking_at(path, mode="rw") as connection:
            return look(connection.execute, tables)
    except sqlite3.OperationalError as error:
        if codes.code_of(error) == sqlite3.SQLITE_CANTOPEN and (what := _read_only(path)):
            raise codes.coded(sqlite3.OperationalError(what), "SQLITE_READONLY") from error
        raise


def _read_only(path: Path) -> str:
    """Say why nothing can be written beside a file that can be read; "" where it can."""
    folder = path.resolve().parent
    if os.access(folder, os.W_OK | os.X_OK) or not os.access(path, os.R_OK):
        return ""
    from automigrator.backends.sqlite.file_systems import file_system_of  # local: for errors alone

    why = f"the folder {folder} may not be written to by this process's user"
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        why = f"{file_system_of(folder)} is mounted read-only"
    return (
        f"{path} cannot be opened: {why}, and SQLite has to write beside a file in WAL mode, also "
        "to read it"
    )


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


def is_blank(path: Path) -> bool:
    """Tell whether a file holds no table, not even an empty one. Raises what reading raises."""
    with looking_at(path) as connection:
        return connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def verify(path: Path, tables: Sequence[str] = ("alembic_version",)) -> tuple[str, ...]:
    """Check a database with `quick_check`, and return the heads in its version `tables`.

    Raises sqlite3.DatabaseError when it is damaged, TimeoutError when it stays locked.
    """
    with looking_at(path, seconds=SNAPSHOT_S) as connection:
        complaints = [row for row in _quick_check(connection) if not re.match(_LOGICAL, row)]
        if complaints:
            raise codes.damaged(f"{path} is damaged: {'; '.join(complaints[:5])}")
        return look(connection.execute, [VersionTable(name) for name in tables]).all_heads()


def _quick_check(connection: sqlite3.Connection) -> list[str]:
    # not damage, and such a constraint may need the application's own functions
    connection.execute("PRAGMA ignore_check_constraints=ON")
    rows = _checked(connection, "PRAGMA quick_check")
    if rows is None:
        # each table by itself, but none that needs a collation of the application's own
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        checks = [f"PRAGMA quick_check({quoted(name)})" for (name,) in tables]
        rows = [row for check in checks for row in _checked(connection, check) or ()]
    return [str(row[0]) for row in rows if row[0] != "ok"]


def _checked(connection: sqlite3.Connection, check: str) -> list[tuple[str]] | None:
    """Return the rows of a check; None where it needs what only the application has."""
    try:
        return connection.execute(check).fetchall()
    except sqlite3.OperationalError as error:
        if codes.code_of(error) != sqlite3.SQLITE_ERROR:
            raise
        return None
