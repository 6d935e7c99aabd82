"""Opening a SQLite file, and waiting for others to let go of it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from automigrator.databases.sqlite.files import sidecars

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
