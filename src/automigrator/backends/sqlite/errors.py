"""What kind of failure SQLite's result code says it was."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from automigrator.backends import advice
from automigrator.backends.access import Access
from automigrator.backends.sqlite.reader import DAMAGED, BusyError, code_of
from automigrator.errors import RefusedError
from automigrator.failure import FailureKind
from automigrator.support.concurrency import in_thread
from automigrator.support.error_chain import chain

_BY_EXTENDED_CODE: dict[int, FailureKind | None] = {
    sqlite3.SQLITE_IOERR_NOMEM: None,
    sqlite3.SQLITE_IOERR_SHMSIZE: "disk-full",  # nothing else keeps the -shm file from growing
}

_BY_CODE: dict[int, FailureKind] = {
    sqlite3.SQLITE_CORRUPT: "corrupt",
    sqlite3.SQLITE_NOTADB: "corrupt",
    sqlite3.SQLITE_BUSY: "lock-timeout",
    sqlite3.SQLITE_LOCKED: "lock-timeout",
    sqlite3.SQLITE_PROTOCOL: "lock-timeout",
    sqlite3.SQLITE_FULL: "disk-full",
    sqlite3.SQLITE_READONLY: "read-only",
    sqlite3.SQLITE_PERM: "read-only",
    sqlite3.SQLITE_PROTOCOL: "lock-timeout",
    sqlite3.SQLITE_CANTOPEN: "unreachable",
    # the disk, not the database: it may be whole, and a purge would throw it away
    sqlite3.SQLITE_IOERR: "unreachable",
}

_BY_ERRNO: dict[int, FailureKind] = {
    errno.ENOSPC: "disk-full",
    errno.EDQUOT: "disk-full",
    errno.EROFS: "read-only",
    errno.EACCES: "read-only",
    errno.EPERM: "read-only",
}


def classify(error: BaseException) -> FailureKind | None:
    """The kind by the first result code, or errno, in the chain; None when they do not say."""
    for each in chain(error):
        if isinstance(each, ForeignFormatError):
            return "env"
        if isinstance(each, BusyError):
            return "lock-timeout"
        if isinstance(each, sqlite3.Error):
            code = getattr(each, "sqlite_errorcode", None) or 0
            if code in _BY_EXTENDED_CODE:
                return _BY_EXTENDED_CODE[code]
            return _BY_CODE.get(code & 0xFF)
        if isinstance(each, OSError) and each.errno in _BY_ERRNO:
            return _BY_ERRNO[each.errno]
    return None


_REACH = (
    "check the path: it has to be a file, in a folder that this process may read, enter and "
    "write to"
)

_BUSY = (
    "end the process or the transaction that writes to the file, or start again when it is done; "
    "Target(retry_timeout=) says how long it is tried"
)

_WRITABLE = (
    "make the file, its folder and the file system writable for this process's user, and look for "
    "mode=ro, immutable or query_only where the application connects"
)

_DISK = "the disk or the network share answers with errors: look at the system's log"

_ADVICE_BY_CODE: dict[int, str] = {
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: advice.DUPLICATES,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: advice.DUPLICATES,
    sqlite3.SQLITE_CONSTRAINT_NOTNULL: advice.NO_VALUE,
    sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY: advice.ORPHANS,
    sqlite3.SQLITE_CONSTRAINT_CHECK: advice.VIOLATES,
    sqlite3.SQLITE_MISMATCH: advice.NOT_FITTING,
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_CANTOPEN: _REACH,
    sqlite3.SQLITE_READONLY: _WRITABLE,
    sqlite3.SQLITE_READONLY_DBMOVED: "the file was replaced while it was open: start again",
    sqlite3.SQLITE_PERM: _WRITABLE,
    sqlite3.SQLITE_IOERR: _DISK,
    sqlite3.SQLITE_CORRUPT_INDEX: "an index is damaged, not a table: copy the file, then REINDEX",
    sqlite3.SQLITE_CORRUPT_VTAB: (
        "a virtual table (full text, say) is damaged: copy the file, then rebuild that table"
    ),
}

_ADVICE_BY_ERRNO = {
    errno.EACCES: _WRITABLE,
    errno.EPERM: _WRITABLE,
    errno.EROFS: _WRITABLE,
}

# SQLite's only word for these is SQLITE_ERROR; it speaks no other language than English
_BY_WORDS = (
    ("Cannot add a NOT NULL column", advice.NO_VALUE),
    ("already exists", advice.THERE_ALREADY),
    ("duplicate column name", advice.THERE_ALREADY),
    ("no such ", advice.NOT_THERE),
)


def advise(error: BaseException) -> str:
    """A sentence for a person; empty where the kind's own is as good."""
    for each in chain(error):
        if isinstance(each, sqlite3.Error):
            code = getattr(each, "sqlite_errorcode", None) or 0
            if code == sqlite3.SQLITE_ERROR:
                return next((what for words, what in _BY_WORDS if words in str(each)), "")
            return _ADVICE_BY_CODE.get(code) or _ADVICE_BY_CODE.get(code & 0xFF, "")
        if isinstance(each, OSError) and each.errno in _ADVICE_BY_ERRNO:
            return _ADVICE_BY_ERRNO[each.errno]
    return ""


_OWN_DRIVERS = frozenset({"", "pysqlite", "aiosqlite"})


class ForeignFormatError(RefusedError):
    """Raised for a file that may be sound, in a format that Python's own sqlite3 cannot read."""

    kind = "env"


async def ensure_damaged(access: Access, error: sqlite3.DatabaseError) -> None:
    """Return when the file that raised `error` is damaged beyond doubt.

    Raises ForeignFormatError when the application's own connection can read it, or when it opens
    the file in a way of its own, so that a wrong key could not be told from damage.
    """
    where, engine = access.url.database, access.given_engine
    if engine is None:
        stock = access.driver in _OWN_DRIVERS and "vfs" not in access.url.query
        if not stock or await _has_codec():
            raise ForeignFormatError(_doubtful(where, error))
        return
    with _plainly_connecting(engine) as plain:
        try:
            async with access.connection() as connection:
                await connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")
        except Exception as refused:  # noqa: BLE001 - any error leaves it in doubt
            if plain and _says_damaged(refused) and not await _has_codec():
                return
            raise ForeignFormatError(_doubtful(where, error)) from None
    raise ForeignFormatError(
        f"only the application's own connection can read {where}; Python's sqlite3 says: {error}. "
        "automigrator looks at SQLite files and copies them with Python's sqlite3, so it cannot "
        "migrate an encrypted one or one of another format; nothing was touched. Migrate it with "
        "Alembic itself, before the application starts"
    )


def _doubtful(where: str | None, error: Exception) -> str:
    return (
        f"Python's sqlite3 cannot read {where} ({error}), and the application opens it in a way "
        "of its own, so that damage cannot be told from a wrong key; nothing was touched. Check "
        "the key, and open the file with the application's own tools; if it is damaged, put a "
        "backup in its place by hand"
    )


def _says_damaged(error: BaseException) -> bool:
    """Whether Python's own library says so: another driver's errors are of its own classes."""
    return any(
        isinstance(each, sqlite3.DatabaseError) and code_of(each) in DAMAGED
        for each in chain(error)
    )


@contextmanager
def _plainly_connecting(engine: AsyncEngine) -> Iterator[list[bool]]:
    """Filled once the engine connects as SQLAlchemy itself does, on SQLite's own file layer."""
    plain: list[bool] = []

    def last(_dialect: Any, _record: Any, cargs: list[Any], cparams: dict[str, Any]) -> None:
        # never called where a creator=, or a listener before this one, makes the connection
        named = " ".join(map(str, cargs))
        if (
            engine.dialect.driver in _OWN_DRIVERS
            and "vfs=" not in named
            and not ({"factory", "vfs"} & set(cparams))
        ):
            plain.append(True)

    event.listen(engine.sync_engine, "do_connect", last)
    try:
        yield plain
    finally:
        event.remove(engine.sync_engine, "do_connect", last)


async def _has_codec() -> bool:
    """Whether Python's library is built with encryption: then any file may need a key."""

    def ask() -> bool:
        with closing(sqlite3.connect(":memory:")) as connection:
            options = {str(row[0]) for row in connection.execute("PRAGMA compile_options")}
            cipher = connection.execute("PRAGMA cipher_version").fetchall()
        return "HAS_CODEC" in options or bool(cipher)

    return await in_thread(ask)
