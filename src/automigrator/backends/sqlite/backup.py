"""Copying a SQLite file, putting a copy back, and setting a database aside.

Live files are only ever opened by SQLite: closing any other descriptor on one would drop every
POSIX lock that this process holds on it. Everything here blocks: call it in a worker thread.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from automigrator.backends.sqlite.files import (
    beside,
    copy_bytes,
    must_not_exist,
    remove,
    remove_sidecars,
    same_access,
    size_of,
    sync_file,
    sync_folder,
)
from automigrator.backends.sqlite.overwrite import PAGES_A_STEP, Keep, UnfitError, overwrite
from automigrator.backends.sqlite.reader import (
    BUSY,
    DAMAGED,
    POLL_S,
    Cancelled,
    begin_reading,
    code_of,
    connect,
    damaged,
    give_up_if_late,
    never,
    reading,
)

WAIT_S = 30.0

"""How long an overwrite waits for other connections' transactions."""


def nothing(_: sqlite3.Connection | None) -> None:
    """Keeps nothing of what is overwritten."""


def copy(
    source: Path,
    destination: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] = never,
    through: sqlite3.Connection | None = None,
    deadline_s: float = 60.0,
) -> None:
    """Copy a database that others may be writing to, as of one moment, durably.

    `progress` gets pages done and pages in all. `through` is an open connection to read it by.
    The deadline counts only while another connection is in the way. The destination appears under
    its name when it is whole, and never has sidecars. Raises FileExistsError, FileNotFoundError,
    TimeoutError, Cancelled and sqlite3.DatabaseError; then nothing is left behind.
    """
    if not source.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
    must_not_exist(destination)
    partial = destination.with_name(destination.name + ".partial")
    remove(partial)  # left by a copy that was killed
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        with _reader(source, through) as reader:
            # on the backup's own connection: held by a second one, it would not pin the WAL
            # and a busy writer would make every step start again
            begin_reading(reader, source, cancelled, deadline_s)
            with closing(connect(partial, "rw")) as writer:
                writer.execute("PRAGMA synchronous=OFF")  # synced as a whole below
                _copy_pages(reader, writer, source, progress, cancelled, deadline_s)
                writer.execute("PRAGMA writable_schema=ON")  # a broken one is copied as it is
                # a file marked WAL makes sidecars whenever it is read
                (mode,) = writer.execute("PRAGMA journal_mode=DELETE").fetchone()
                if mode != "delete":
                    raise sqlite3.OperationalError(f"{partial}: journal mode stays {mode}")
        sync_file(partial)
        same_access(partial, source)
        must_not_exist(destination)
        partial.rename(destination)
        sync_folder(destination.parent)
    except BaseException:
        remove(partial)
        raise


def restore(
    snapshot: Path,
    live: Path,
    *,
    keep: Keep = nothing,
    through: sqlite3.Connection | None = None,
    deadline_s: float | None = None,
) -> Path | None:
    """Put a snapshot's contents back into the live file, in place and in one transaction.

    `keep` is called once nobody can commit to the live file any more, and what it returns is
    returned; `through` is a connection to the live file that may be used, and is closed. Open
    connections see the restored data, and the file keeps its journal mode. A live file that is
    missing or damaged is replaced instead. Safe to repeat after a kill. Raises TimeoutError when
    another connection's transaction is in the way, sqlite3.DatabaseError when the snapshot is not
    a database; the live file is untouched then.
    """
    live = live.resolve()
    deadline_s = WAIT_S if deadline_s is None else deadline_s
    with closing(through) if through is not None else nullcontext():
        if snapshot.stat().st_size == 0:
            # what `copy` makes is never empty, so this one lost its contents
            raise damaged(f"the snapshot {snapshot} is empty; {live} was not touched")
        with reading(snapshot) as source:
            begin_reading(source, snapshot, never, deadline_s)
            if live.exists() and not _lost_its_contents(live):
                with suppress(UnfitError):
                    return overwrite(source, live, keep, deadline_s, through)
    kept = keep(None) if live.exists() else None
    replace(snapshot, live)
    return kept


def replace(new: Path, live: Path) -> None:
    """Put a copy of `new` in the live file's place; no connection to the live file may be open.

    A kill on the way leaves the old file, the old file without its sidecars, or the new one: a
    journal must say to repeat it.
    """
    live = live.resolve()
    temporary = live.with_name(live.name + ".automigrator-new")
    remove(temporary)
    copy(new, temporary)
    try:
        if live.exists():
            same_access(temporary, live)
        # a -wal or hot -journal of the old file would be played into the new one
        remove_sidecars(live)
        sync_folder(live.parent)
        os.replace(temporary, live)
    except BaseException:
        remove(temporary)
        raise
    sync_folder(live.parent)


def set_aside(
    live: Path,
    reason: str,
    now: time.struct_time | datetime,
    through: sqlite3.Connection | None = None,
) -> Path:
    """Copy the live database to a name beside it that says why and when (UTC), and return that.

    The live file stays. `through` is an open connection to read it by. A file too damaged for
    SQLite to copy is copied byte by byte as `corrupt` with its sidecars: nothing in this process
    may have that one open. A struct_time is UTC.
    """
    if not re.fullmatch(r"[a-z0-9-]+", reason):
        raise ValueError(f"reason {reason!r} must be lower-case letters, digits and dashes")
    live = live.resolve()
    if isinstance(now, datetime):
        now = now.astimezone(UTC).timetuple()
    stamp = time.strftime("%Y%m%dT%H%M%SZ", now)
    # opening an empty file makes SQLite delete the log beside it, all that is left of the data
    if not _lost_its_contents(live):
        try:
            copier = partial(copy, through=through)
            return _under_a_free_name(live, f"{reason}-{stamp}", copier)
        except sqlite3.DatabaseError as error:
            # bytes are never read under a connection: closing the file would free its lock
            if code_of(error) not in DAMAGED or through is not None:
                raise
    return _under_a_free_name(live, f"corrupt-{stamp}", copy_bytes)


@contextmanager
def _reader(source: Path, through: sqlite3.Connection | None) -> Iterator[sqlite3.Connection]:
    if through is None:
        with closing(connect(source, "rw")) as own:
            yield own
        return
    try:
        yield through
    finally:
        through.rollback()  # of the read transaction


def _lost_its_contents(live: Path) -> bool:
    """Whether all that is left of a database is a log, which opening it would delete."""
    return size_of(live) == 0 and size_of(beside(live, "-wal")) > 0


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
        if status in BUSY:
            give_up_if_late(started, deadline_s, path, "copied")
        elif progress is not None:
            progress(total - remaining, total)

    reader.backup(writer, pages=PAGES_A_STEP, progress=after_step, sleep=POLL_S)


def _under_a_free_name(live: Path, label: str, copier: Callable[[Path, Path], None]) -> Path:
    number = 1
    while True:
        suffix = label if number == 1 else f"{label}-{number}"
        aside = live.with_name(f"{live.name}.{suffix}")
        try:
            must_not_exist(aside)
            copier(live, aside)
            return aside
        except FileExistsError:
            number += 1
