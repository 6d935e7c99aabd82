"""What to do about what SQLite's extended result code says, where that is more than the kind."""

from __future__ import annotations

import errno
import sqlite3

from automigrator.databases import advice
from automigrator.databases.chain import chain

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
_BY_CODE: dict[int, str] = {
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
_BY_ERRNO = {
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
            return _BY_CODE.get(code) or _BY_CODE.get(code & 0xFF, "")
        if isinstance(each, OSError) and each.errno in _BY_ERRNO:
            return _BY_ERRNO[each.errno]
    return ""
