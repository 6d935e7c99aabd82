"""Copying a SQLite file, putting a copy back, and setting a database aside.

Live files are only ever opened by SQLite: closing any other descriptor on one would drop every
POSIX lock that this process holds on it. Everything here blocks: call it in a worker thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from automigrator.backends.sqlite import codes, companions, files, reader
from automigrator.backends.sqlite.copying import clones
from automigrator.backends.sqlite.copying.copies import Kind
from automigrator.backends.sqlite.copying.overwrite import (
    PAGES_A_STEP,
    Claim,
    Keep,
    UnfitError,
    overwrite,
)
from automigrator.backends.sqlite.reader import Wait
from automigrator.support.owned_files import Owners

COPY_S = 60.0

"""Seconds for which a copy waits for other connections' transactions."""


def nothing(_: sqlite3.Connection | None) -> None:
    """Keep nothing of what is overwritten."""


def copy(
    source: Path,
    destination: Path,
    *,
    cancelled: Callable[[], bool] = reader.never,
    through: sqlite3.Connection | None = None,
) -> None:
    """Copy a database that others may be writing to, as of one moment, durably.

    `cancelled` is asked at every step. `through` is an open connection to read the source by.
    The destination appears under its name when it is whole, and never has sidecars. Raises
    FileExistsError, FileNotFoundError, TimeoutError, Cancelled and sqlite3.DatabaseError; then
    nothing is left behind.
    """
    source.stat()  # SQLite's own error for an absent file is one of many causes
    files.ensure_absent(destination)
    owners = Owners.of(source)
    with files.new_file(destination, ".partial", owners, fresh=True) as (unfinished, descriptor):
        _copy_into(unfinished, descriptor, source, cancelled, through)
        files.ensure_absent(destination)


def _copy_into(
    unfinished: Path,
    descriptor: int,
    source: Path,
    cancelled: Callable[[], bool] = reader.never,
    through: sqlite3.Connection | None = None,
) -> None:
    wait, found = Wait(source, "read", COPY_S, cancelled), source.stat()
    with nullcontext(through) if through else closing(reader.connect(source, "rw")) as live:
        try:
            # on the backup's own connection: held by a second one, it would not pin the WAL and a
            # busy writer would make every step start again
            reader.begin_reading(live, wait)
            # not through a connection that may hold what it wrote, or another file, open
            cloned = not through and clones.clone(source, found, unfinished, descriptor, wait)
            with closing(reader.connect(unfinished, "rw")) as new:
                new.execute("PRAGMA synchronous=OFF")  # synced as a whole at the end
                if not cloned:
                    live.backup(
                        new, pages=PAGES_A_STEP, progress=wait.after_step, sleep=reader.POLL_S
                    )
                _leave_wal_mode(new, unfinished)
        finally:
            live.rollback()


def _leave_wal_mode(new: sqlite3.Connection, place: Path) -> None:
    """Move the log of a copy into its file; one marked WAL makes sidecars whenever it is read."""
    new.execute("PRAGMA writable_schema=ON")  # a broken one is copied as it is
    (mode,) = new.execute("PRAGMA journal_mode=DELETE").fetchone()
    if mode != "delete":
        raise sqlite3.OperationalError(f"{place}: journal mode stays {mode}")


def restore(
    snapshot: Path,
    live: Path,
    *,
    keep: Keep = nothing,
    through: sqlite3.Connection | None = None,
    claim: Claim | None = None,
) -> Path | None:
    """Put a snapshot's contents back into the live file, in place and in one transaction.

    `keep` is called once nobody can commit to the live file any more, and what it returns is
    returned; `through` is a connection to the live file that may be used, and is closed; `claim`
    tells what watches the file of commits of ours. Open
    connections see the restored data, and the file keeps its journal mode. A live file that is
    missing or damaged is replaced instead. Safe to repeat after a kill. Raises TimeoutError when
    another connection's transaction is in the way for 30 seconds, and sqlite3.DatabaseError when
    the snapshot is not a database; the live file is untouched then.
    """
    live = live.resolve()
    with closing(through) if through is not None else nullcontext():
        if snapshot.stat().st_size == 0:
            # a copy of ours is never empty: this one has lost its contents
            raise codes.damaged(f"the snapshot {snapshot} is empty; {live} was not touched")
        with reader.looking_at(snapshot, seconds=reader.SNAPSHOT_S) as source:
            if live.exists() and not _lost_its_contents(live):
                with suppress(UnfitError):
                    return overwrite(source, live, keep, through, claim)
    kept = keep(None) if live.exists() else None
    replace(snapshot, live)
    return kept


def replace(new: Path, live: Path) -> None:
    """Put a copy of `new` in the live file's place; no connection to the live file may be open.

    A kill on the way leaves the old file, the old file without its sidecars, or the new one: a
    journal must say to repeat it.
    """
    live = live.resolve()
    owners = Owners.of(live if live.exists() else new)
    with files.new_file(live, ".automigrator-new", owners) as (temporary, descriptor):
        _copy_into(temporary, descriptor, new)
        # a -wal or hot -journal of the old file would be played into the new one
        for sidecar in companions.sidecars(live):
            sidecar.unlink(missing_ok=True)
        files.sync_folder(live.parent)


def set_aside(live: Path, reason: Kind, through: sqlite3.Connection | None = None) -> Path:
    """Copy the live database to a name beside it that says why and when (UTC), and return that.

    The live file stays. `through` is an open connection to read it by. A file too damaged for
    SQLite to copy is copied byte by byte as `corrupt` with its sidecars: nothing in this process
    may have that one open.
    """
    live = live.resolve()
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    # opening an empty file makes SQLite delete the log beside it, all that is left of the data
    if not _lost_its_contents(live):
        try:
            return _under_a_free_name(live, f"{reason}-{stamp}", partial(copy, through=through))
        except sqlite3.DatabaseError as error:
            # bytes are never read under a connection: closing the file would free its lock
            if not codes.is_damage(error) or through is not None:
                raise
    return _under_a_free_name(live, f"corrupt-{stamp}", files.copy_bytes)


def _lost_its_contents(live: Path) -> bool:
    """Tell whether all that is left of a database is a log, which opening it would delete."""
    return files.size_of(live) == 0 and files.size_of(companions.beside(live, "-wal")) > 0


def _under_a_free_name(live: Path, label: str, copier: Callable[[Path, Path], None]) -> Path:
    place, number = companions.beside(live, f".{label}"), 1
    while True:
        try:
            files.ensure_absent(place)
            copier(live, place)
            return place
        except FileExistsError:
            number += 1
            place = companions.beside(live, f".{label}-{number}")
