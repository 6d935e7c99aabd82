"""The kind of failure that each of SQLite's result codes means, and what to do about it."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from automigrator.backends import advice
from automigrator.backends.contract.values import Verdict
from automigrator.backends.sqlite import codes, companions
from automigrator.backends.sqlite.codes import BusyError, DamagedError
from automigrator.errors import RefusedError
from automigrator.support.error_chain import chain

_BUSY = Verdict(
    "lock-timeout",
    "end the process or the transaction that writes to the file, or start again when it is done; "
    "Timeouts(retry=) says how long it is tried",
)

_FULL = Verdict("disk-full")

_READ_ONLY = Verdict(
    "read-only",
    "make the file, its folder and the file system writable for this process's user, and look for "
    "mode=ro, immutable or query_only where the application connects",
)

_BY_CODE = {
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: Verdict(None, advice.DUPLICATES),
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: Verdict(None, advice.DUPLICATES),
    sqlite3.SQLITE_CONSTRAINT_NOTNULL: Verdict(None, advice.NO_VALUE),
    sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY: Verdict(None, advice.ORPHANS),
    sqlite3.SQLITE_CONSTRAINT_CHECK: Verdict(None, advice.VIOLATES),
    sqlite3.SQLITE_MISMATCH: Verdict(None, advice.NOT_FITTING),
    sqlite3.SQLITE_CORRUPT: Verdict("corrupt"),
    sqlite3.SQLITE_CORRUPT_INDEX: Verdict(
        "corrupt", "an index is damaged, not a table: copy the file, then REINDEX"
    ),
    sqlite3.SQLITE_CORRUPT_VTAB: Verdict(
        "corrupt",
        "a virtual table (full text, say) is damaged: copy the file, then rebuild that table",
    ),
    sqlite3.SQLITE_NOTADB: Verdict("corrupt"),
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_PROTOCOL: Verdict("lock-timeout"),
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_READONLY_DBMOVED: Verdict(
        "read-only", "the file was replaced while it was open: start again"
    ),
    sqlite3.SQLITE_PERM: _READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: Verdict(
        "unreachable",
        "check the path: it has to be a file, in a folder that this process may read, enter and "
        "write to",
    ),
    # the disk, not the database: it may be whole, and a purge would throw it away
    sqlite3.SQLITE_IOERR: Verdict(
        "unreachable",
        "the disk or the network share answers with errors: look at the system's log",
    ),
    sqlite3.SQLITE_IOERR_NOMEM: Verdict(),
    sqlite3.SQLITE_IOERR_GETTEMPPATH: Verdict(
        "read-only",
        "SQLite found no folder that it may write to for its temporary files: name one with the "
        "environment variable SQLITE_TMPDIR",
    ),
    # nothing but a full disk keeps the -shm file from growing
    sqlite3.SQLITE_IOERR_SHMSIZE: _FULL,
}

_OWN_TABLE = (
    "a statement or the transaction of the same connection is in the way: read its rows to the end "
    "first; PRAGMA wal_checkpoint belongs in `with op.get_context().autocommit_block():`"
)

# words of SQLITE_ERROR that are about this build and process, not about data or schema
_SURROUNDINGS = (
    *("no such function", "no such module", "no such collation", "no such vfs"),
    *("no such tokenizer", "unknown tokenizer", "unknown function", "vtable constructor failed"),
    *("user-defined ", "not authorized", "shared object", "dlopen", "unsafe use of"),
    *("too many ", "too large", "too complex", "stack overflow", "unable to ", "SQL logic error"),
    *("a transaction", "no such savepoint", " is locked"),
)

_OF_A_FUNCTION = (sqlite3.SQLITE_CONSTRAINT_FUNCTION, sqlite3.SQLITE_CONSTRAINT_COMMITHOOK)
"""Constraints that code of the application reports."""

_PARTS = (sqlite3.SQLITE_CORRUPT_INDEX, sqlite3.SQLITE_CORRUPT_VTAB)
"""Damage that can be mended without a loss of data."""

_BY_ERRNO: dict[int | None, Verdict] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), _FULL),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), _READ_ONLY),
}

# SQLITE_ERROR is the code of all of these; SQLite's messages are always in English
_BY_WORDS = (
    ("Cannot add a NOT NULL column", advice.NO_VALUE),
    ("already exists", advice.THERE_ALREADY),
    ("duplicate column name", advice.THERE_ALREADY),
    ("no such ", advice.NOT_THERE),
    ("within a transaction", advice.OUTSIDE),
    ("inside a transaction", advice.OUTSIDE),
    (" is locked", advice.OUTSIDE),  # DETACH
)


def classify(error: BaseException, file: Path | None = None) -> Verdict:
    """Judge by the first error in the chain that carries a result code, an errno or a kind.

    Where nothing can be written, the advice names which of `file`, its folder and what SQLite
    keeps beside it this process's user may not write to.
    """
    verdict = _classified(error)
    if verdict != _READ_ONLY or file is None or not (blocked := _blocked(file)):
        return verdict
    return Verdict("read-only", f"make {' and '.join(blocked)} writable for this process's user")


def _blocked(file: Path) -> list[str]:
    live, effective = file.resolve(), os.access in os.supports_effective_ids
    if not live.parent.exists() or os.statvfs(live.parent).f_flag & os.ST_RDONLY:
        return []
    found = [live.parent, live, *companions.sidecars(live)]
    return [
        f"{'the folder ' * each.is_dir()}{each}"
        for each in found
        if each.exists() and not os.access(each, os.W_OK, effective_ids=effective)
    ]


def _classified(error: BaseException) -> Verdict:
    for each in chain(error):
        if isinstance(each, RefusedError) and each.kind is not None:
            return Verdict(each.kind, of_data=isinstance(each, DamagedError))
        if isinstance(each, BusyError):
            return _BUSY
        if codes.is_newer(each):
            return Verdict("env", codes.NEWER)
        if isinstance(each, sqlite3.Error):
            return _judged(each)._replace(of_data=_of_data(each))
        if isinstance(each, OSError) and each.errno in _BY_ERRNO:
            return _BY_ERRNO[each.errno]
    return Verdict()


def _of_data(error: sqlite3.Error) -> bool:
    if codes.is_damage(error):
        return error.sqlite_errorcode not in _PARTS
    if codes.code_of(error) not in codes.OF_DATA or error.sqlite_errorcode in _OF_A_FUNCTION:
        return False
    return not any(words in str(error) for words in _SURROUNDINGS)


def _judged(error: sqlite3.Error) -> Verdict:
    code = getattr(error, "sqlite_errorcode", None) or 0
    if code == sqlite3.SQLITE_ERROR:
        what = (what for words, what in _BY_WORDS if words in str(error))
        return Verdict(None, next(what, ""))
    if code == sqlite3.SQLITE_LOCKED and str(error) == "database table is locked":
        # the connection itself is in the way: waiting does not help
        return Verdict(None, _OWN_TABLE)
    return _BY_CODE.get(code) or _BY_CODE.get(code & 0xFF, Verdict())
