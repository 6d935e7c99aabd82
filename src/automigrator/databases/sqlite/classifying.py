"""What kind of failure SQLite's result code says it was."""

from __future__ import annotations

import errno
import sqlite3

from automigrator.databases.chain import chain
from automigrator.databases.sqlite.foreign import ForeignFormatError
from automigrator.databases.sqlite.reading import BusyError
from automigrator.failure import FailureKind

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
