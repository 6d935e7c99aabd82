"""The kind of failure that each of SQLite's result codes means, and what to do about it."""

from __future__ import annotations

import errno
import sqlite3

from automigrator.backends import advice
from automigrator.backends.sqlite.codes import BusyError
from automigrator.errors import RefusedError
from automigrator.failure import FailureKind
from automigrator.support.error_chain import chain

Meaning = tuple[FailureKind | None, str]

"""A kind and an advice: None or empty where another part of the library knows better."""

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

_BY_CODE: dict[int, Meaning] = {
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: (None, advice.DUPLICATES),
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: (None, advice.DUPLICATES),
    sqlite3.SQLITE_CONSTRAINT_NOTNULL: (None, advice.NO_VALUE),
    sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY: (None, advice.ORPHANS),
    sqlite3.SQLITE_CONSTRAINT_CHECK: (None, advice.VIOLATES),
    sqlite3.SQLITE_MISMATCH: (None, advice.NOT_FITTING),
    sqlite3.SQLITE_CORRUPT: ("corrupt", ""),
    sqlite3.SQLITE_CORRUPT_INDEX: (
        "corrupt",
        "an index is damaged, not a table: copy the file, then REINDEX",
    ),
    sqlite3.SQLITE_CORRUPT_VTAB: (
        "corrupt",
        "a virtual table (full text, say) is damaged: copy the file, then rebuild that table",
    ),
    sqlite3.SQLITE_NOTADB: ("corrupt", ""),
    sqlite3.SQLITE_BUSY: ("lock-timeout", _BUSY),
    sqlite3.SQLITE_LOCKED: ("lock-timeout", _BUSY),
    sqlite3.SQLITE_PROTOCOL: ("lock-timeout", ""),
    sqlite3.SQLITE_FULL: ("disk-full", ""),
    sqlite3.SQLITE_READONLY: ("read-only", _WRITABLE),
    sqlite3.SQLITE_READONLY_DBMOVED: (
        "read-only",
        "the file was replaced while it was open: start again",
    ),
    sqlite3.SQLITE_PERM: ("read-only", _WRITABLE),
    sqlite3.SQLITE_CANTOPEN: ("unreachable", _REACH),
    # the disk, not the database: it may be whole, and a purge would throw it away
    sqlite3.SQLITE_IOERR: (
        "unreachable",
        "the disk or the network share answers with errors: look at the system's log",
    ),
    sqlite3.SQLITE_IOERR_NOMEM: (None, ""),
    # nothing but a full disk keeps the -shm file from growing
    sqlite3.SQLITE_IOERR_SHMSIZE: ("disk-full", ""),
}

_BY_ERRNO: dict[int | None, Meaning] = {
    errno.ENOSPC: ("disk-full", ""),
    errno.EDQUOT: ("disk-full", ""),
    errno.EROFS: ("read-only", _WRITABLE),
    errno.EACCES: ("read-only", _WRITABLE),
    errno.EPERM: ("read-only", _WRITABLE),
}

# SQLITE_ERROR is the code of all of these; SQLite's messages are always in English
_BY_WORDS = (
    ("Cannot add a NOT NULL column", advice.NO_VALUE),
    ("already exists", advice.THERE_ALREADY),
    ("duplicate column name", advice.THERE_ALREADY),
    ("no such ", advice.NOT_THERE),
)


def classify(error: BaseException) -> FailureKind | None:
    """Return the kind of failure; None when no code tells it."""
    return _meaning(error)[0]


def advise(error: BaseException) -> str:
    """Return what to do; empty where the advice for the kind of failure is as good."""
    return _meaning(error)[1]


def _meaning(error: BaseException) -> Meaning:
    """Judge by the first error in the chain that carries a result code, an errno or a kind."""
    for each in chain(error):
        if isinstance(each, RefusedError) and each.kind is not None:
            return each.kind, ""
        if isinstance(each, BusyError):
            return "lock-timeout", _BUSY
        if isinstance(each, sqlite3.Error):
            code = getattr(each, "sqlite_errorcode", None) or 0
            if code == sqlite3.SQLITE_ERROR:
                return None, next((what for words, what in _BY_WORDS if words in str(each)), "")
            return _BY_CODE.get(code) or _BY_CODE.get(code & 0xFF, (None, ""))
        if isinstance(each, OSError) and each.errno in _BY_ERRNO:
            return _BY_ERRNO[each.errno]
    return None, ""
