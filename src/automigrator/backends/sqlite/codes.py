"""SQLite's result codes, and errors of ours that carry one."""

from __future__ import annotations

import sqlite3
from typing import TypeVar

from automigrator.errors import RefusedError, Shown

E = TypeVar("E", bound=sqlite3.Error)

BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})

OF_DATA = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH})
"""The codes with which SQLite says that data or schema do not go with a statement."""

DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


NEWER = (
    f"start with the SQLite that wrote the file, or a newer one: this process has SQLite "
    f"{sqlite3.sqlite_version}. With that one, objects that older ones cannot read can be found "
    "and dropped"
)
"""What to do about a schema or a format that this SQLite cannot read."""


class BusyError(Shown, TimeoutError):
    """Raised when another connection's transaction was in the way for too long."""


class DamagedError(RefusedError):
    """Raised where it was found that the database file itself is damaged, or has lost its data."""

    kind = "corrupt"

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


def code_of(error: sqlite3.Error) -> int | None:
    """Return SQLite's primary result code, which extended ones keep in the low byte."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def is_damage(error: BaseException) -> bool:
    """Tell whether Python's own SQLite library says that a file is damaged."""
    return isinstance(error, sqlite3.Error) and code_of(error) in DAMAGED


def is_newer(error: BaseException) -> bool:
    """Tell whether this SQLite cannot read a schema or format, most likely of a newer one's.

    SQLite has no code of its own for that; its messages are always in English.
    """
    if not isinstance(error, sqlite3.Error):
        return False
    malformed = str(error).startswith("malformed database schema")
    return malformed or str(error) == "unsupported file format"


def is_busy(error: BaseException) -> bool:
    """Tell whether another connection was in the way; other drivers' errors are not Python's."""
    return isinstance(error, sqlite3.Error) and code_of(error) in BUSY


def damaged(message: str) -> sqlite3.DatabaseError:
    """Make an error of ours that counts as SQLite's own SQLITE_CORRUPT."""
    return coded(sqlite3.DatabaseError(message), "SQLITE_CORRUPT")


def coded(error: E, name: str) -> E:
    """Make an error of ours count as SQLite's own of this name."""
    error.sqlite_errorcode, error.sqlite_errorname = getattr(sqlite3, name), name
    return error
