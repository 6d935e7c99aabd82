"""Copying a SQLite file, putting a copy back, and setting a database aside.

Live files are only ever opened by SQLite: closing any other descriptor on one would drop every
POSIX lock that this process holds on it. Everything here blocks: call it in a worker thread.
"""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

PAGES_A_STEP = 1000
SIDECARS = ("-wal", "-shm", "-journal")
SPACE_FACTOR = 2.2

_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_POLL_S = 0.02
# rows of quick_check about values that break a declared constraint: the file itself is sound
_LOGICAL = re.compile(r"(?:CHECK constraint failed|[\w-]+ value) in ")


class Cancelled(Exception):
    """Raised when a copy was stopped by its caller; nothing of it remains."""


def _never() -> bool:
    return False


def copy(
    source: Path,
    destination: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] = _never,
    deadline_s: float = 60.0,
) -> None:
    """Copy a database that others may be writing to, as of one moment, durably.

    `progress` gets pages done and pages in all. The deadline counts only while another
    connection is in the way. The destination appears under its name when it is whole, and never
    has sidecars. Raises FileExistsError, FileNotFoundError, TimeoutError, Cancelled and
    sqlite3.DatabaseError; then nothing is left behind.
    """
    if not source.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
    _must_not_exist(destination)
    partial = destination.with_name(destination.name + ".partial")
    _remove(partial)  # left by a copy that was killed
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        with closing(_connect(source, "rw")) as reader:
            # on the backup's own connection: held by a second one, it would not pin the WAL
            # and a busy writer would make every step start again
            _begin_reading(reader, source, cancelled, deadline_s)
            with closing(_connect(partial, "rw")) as writer:
                writer.execute("PRAGMA synchronous=OFF")  # synced as a whole below
                _copy_pages(reader, writer, source, progress, cancelled, deadline_s)
                # a file marked WAL makes sidecars whenever it is read
                (mode,) = writer.execute("PRAGMA journal_mode=DELETE").fetchone()
                if mode != "delete":
                    raise sqlite3.OperationalError(f"{partial}: journal mode stays {mode}")
        _sync_file(partial)
        _same_access(partial, source)
        _must_not_exist(destination)
        partial.rename(destination)
        sync_folder(destination.parent)
    except BaseException:
        _remove(partial)
        raise


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
    with _reading(path) as connection:
        _begin_reading(connection, path, _never, deadline_s)
        complaints = [row for row in _quick_check(connection) if not _LOGICAL.match(row)]
        if complaints:
            raise _damaged(f"{path} is damaged: {'; '.join(complaints[:5])}")
        found = connection.execute(
            "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND lower(name) = ?",
            (version_table.lower(),),
        ).fetchone()
        if found is None:
            return ()
        quoted = found[0].replace('"', '""')
        rows = connection.execute(f'SELECT version_num FROM "{quoted}"').fetchall()
        return tuple(sorted(str(row[0]) for row in rows))


def restore(snapshot: Path, live: Path, *, deadline_s: float = 30.0) -> None:
    """Put a snapshot's contents back into the live file, in place and in one transaction.

    Open connections see the restored data, and the file keeps its journal mode. A live file that
    is missing, damaged or has other pages in WAL mode is replaced instead: nothing may have it
    open. Safe to repeat after a kill. Raises TimeoutError when another connection's transaction
    is in the way, sqlite3.DatabaseError when the snapshot is not a database; the live file is
    untouched then.
    """
    live = live.resolve()
    if snapshot.stat().st_size == 0:
        # what `copy` makes is never empty, so this one lost its contents
        raise _damaged(f"the snapshot {snapshot} is empty; {live} was not touched")
    with _reading(snapshot) as source:
        _begin_reading(source, snapshot, _never, deadline_s)
        if live.exists() and _overwrite(source, live, deadline_s):
            return
    replace(snapshot, live)


def replace(new: Path, live: Path) -> None:
    """Put a copy of `new` in the live file's place; no connection to the live file may be open.

    A kill on the way leaves the old file, the old file without its sidecars, or the new one: a
    journal must say to repeat it.
    """
    live = live.resolve()
    temporary = live.with_name(live.name + ".automigrator-new")
    _remove(temporary)
    copy(new, temporary)
    try:
        if live.exists():
            _same_access(temporary, live)
        # a -wal or hot -journal of the old file would be played into the new one
        _remove_sidecars(live)
        sync_folder(live.parent)
        os.replace(temporary, live)
    except BaseException:
        _remove(temporary)
        raise
    sync_folder(live.parent)


def set_aside(live: Path, reason: str, now: time.struct_time | datetime) -> Path:
    """Copy the live database to a name beside it that says why and when (UTC), and return that.

    The live file stays. One too damaged for SQLite to copy is copied byte by byte as `corrupt`
    with its sidecars: nothing in this process may have that one open. A struct_time is UTC.
    """
    if not re.fullmatch(r"[a-z0-9-]+", reason):
        raise ValueError(f"reason {reason!r} must be lower-case letters, digits and dashes")
    live = live.resolve()
    if isinstance(now, datetime):
        now = now.astimezone(UTC).timetuple()
    stamp = time.strftime("%Y%m%dT%H%M%SZ", now)
    # opening an empty file makes SQLite delete the log beside it, all that is left of the data
    if not (_size(live) == 0 and _size(_beside(live, "-wal"))):
        try:
            return _under_a_free_name(live, f"{reason}-{stamp}", copy)
        except sqlite3.DatabaseError as error:
            if _code(error) not in _DAMAGED:
                raise
    return _under_a_free_name(live, f"corrupt-{stamp}", _copy_bytes)


def free_space_needed(path: Path) -> int:
    """Bytes that must be free to snapshot and restore a database: 2.2 times file and WAL."""
    path = path.resolve()
    return math.ceil(SPACE_FACTOR * sum(_size(p) for p in (path, _beside(path, "-wal"))))


def ensure_space(path: Path, folder: Path) -> None:
    """Raise OSError (ENOSPC) when `folder` has too little room for a snapshot of `path`."""
    needed, free = free_space_needed(path), shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"a snapshot of {path} needs {needed:,} bytes free, there are {free:,}; "
            "nothing was changed",
            str(folder),
        )


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    if os.name == "nt":
        return  # Windows cannot open a folder, and journals its names itself
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    # the waiting is ours, so that it can be cancelled and has one deadline
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    before = [p for p in _sidecars(path) if p.exists()]
    try:
        with closing(_connect(path, "ro")) as connection:
            yield connection
    finally:
        if any(p.exists() for p in _sidecars(path) if p not in before):
            # a read-only connection leaves a WAL file's sidecars; the last writable one to
            # close removes them, and knows whether it is the last
            with suppress(sqlite3.Error), closing(_connect(path, "rw")) as connection:
                connection.execute("SELECT 1 FROM sqlite_master").fetchone()


def _begin_reading(
    connection: sqlite3.Connection, path: Path, cancelled: Callable[[], bool], deadline_s: float
) -> None:
    started = time.monotonic()
    connection.execute("BEGIN")
    while True:
        if cancelled():
            raise Cancelled(f"the copy of {path} was cancelled")
        try:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
            return
        except sqlite3.OperationalError as error:
            if _code(error) not in _BUSY:
                raise
            _wait_or_give_up(started, deadline_s, path, "read")


def _copy_pages(
    reader: sqlite3.Connection,
    writer: sqlite3.Connection,
    path: Path,
    progress: Callable[[int, int], None] | None,
    cancelled: Callable[[], bool],
    deadline_s: float,
) -> None:
    started = time.monotonic()

    def after_step(status: int, remaining: int, total: int) -> None:
        if cancelled():
            raise Cancelled(f"the copy of {path} was cancelled")
        if status in _BUSY:
            _give_up_if_late(started, deadline_s, path, "copied")
        elif progress is not None:
            progress(total - remaining, total)

    reader.backup(writer, pages=PAGES_A_STEP, progress=after_step, sleep=_POLL_S)


def _overwrite(source: sqlite3.Connection, live: Path, deadline_s: float) -> bool:
    """Whether the source's pages are now the live file's; False: it can only be replaced."""
    started = time.monotonic()

    def after_step(status: int, remaining: int, total: int) -> None:
        if status in _BUSY:
            _give_up_if_late(started, deadline_s, live, "overwritten")

    with closing(_connect(live, "rw")) as target:
        while True:
            try:
                _sync_every_commit(target)
                # one step: a single transaction, which a kill leaves done or undone
                source.backup(target, pages=-1, progress=after_step, sleep=_POLL_S)
                return True
            except sqlite3.DatabaseError as error:
                # the source is known to be readable, so what is said here is about the target
                if _code(error) in _DAMAGED:
                    return False
                if _code(error) == sqlite3.SQLITE_READONLY and _other_wal_pages(source, target):
                    return False
                # backup() itself waits on the plain codes only, not on the extended ones
                if _code(error) not in _BUSY:
                    raise
                _wait_or_give_up(started, deadline_s, live, "overwritten")


def _sync_every_commit(connection: sqlite3.Connection) -> None:
    try:
        # EXTRA: a rollback journal that a power cut brings back would undo the restore
        connection.execute("PRAGMA synchronous=EXTRA")
    except sqlite3.DatabaseError as error:
        # the pragma parses the schema; a broken one may still be overwritten in place
        if _code(error) not in _DAMAGED:
            raise


def _other_wal_pages(source: sqlite3.Connection, target: sqlite3.Connection) -> bool:
    sizes = [c.execute("PRAGMA page_size").fetchone() for c in (source, target)]
    (mode,) = target.execute("PRAGMA journal_mode").fetchone()
    return bool(mode == "wal" and sizes[0] != sizes[1])


def _give_up_if_late(started: float, deadline_s: float, path: Path, what: str) -> None:
    waited = time.monotonic() - started
    if waited >= deadline_s:
        raise TimeoutError(
            f"{path} could not be {what}: another connection kept it locked for {waited:.1f} s; "
            "it was not changed. End that connection's transaction, then try again"
        )


def _wait_or_give_up(started: float, deadline_s: float, path: Path, what: str) -> None:
    _give_up_if_late(started, deadline_s, path, what)
    time.sleep(_POLL_S)


def _quick_check(connection: sqlite3.Connection) -> list[str]:
    # not damage, and such a constraint may need the application's own functions
    connection.execute("PRAGMA ignore_check_constraints=ON")
    try:
        rows = connection.execute("PRAGMA quick_check").fetchall()
    except sqlite3.OperationalError as error:
        if _code(error) != sqlite3.SQLITE_ERROR:
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
            if _code(error) != sqlite3.SQLITE_ERROR:
                raise
    return rows


def _read_through(path: Path) -> None:
    buffer = bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _under_a_free_name(live: Path, label: str, copier: Callable[[Path, Path], None]) -> Path:
    number = 1
    while True:
        suffix = label if number == 1 else f"{label}-{number}"
        aside = live.with_name(f"{live.name}.{suffix}")
        try:
            _must_not_exist(aside)
            copier(live, aside)
            return aside
        except FileExistsError:
            number += 1


def _copy_bytes(source: Path, destination: Path) -> None:
    # the database itself last: its name says that the set is whole
    for suffix in (*SIDECARS, ""):
        part = _beside(source, suffix)
        if not part.exists():
            continue
        partial = _beside(destination, suffix + ".partial")
        try:
            shutil.copyfile(part, partial)
            _sync_file(partial)
            _same_access(partial, part)
            partial.replace(_beside(destination, suffix))
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    sync_folder(destination.parent)


def _same_access(path: Path, model: Path) -> None:
    """Who may read the model may read the copy, and nobody else."""
    status = model.stat()
    if os.name != "nt":
        with suppress(PermissionError):
            os.chown(path, status.st_uid, status.st_gid)
    path.chmod(status.st_mode & 0o777)


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _must_not_exist(path: Path) -> None:
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _sidecars(path: Path) -> list[Path]:
    path = path.resolve()
    return [_beside(path, suffix) for suffix in SIDECARS]


def _remove_sidecars(path: Path) -> None:
    for sidecar in _sidecars(path):
        sidecar.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    _remove_sidecars(path)
    path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _code(error: sqlite3.Error) -> int | None:
    """SQLite's primary result code; the extended ones keep it in the low byte."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _damaged(message: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(message)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    error.sqlite_errorname = "SQLITE_CORRUPT"
    return error
