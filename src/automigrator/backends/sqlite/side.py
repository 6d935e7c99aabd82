"""A side: a database file beside the target's, fresh or a copy, that may take its place."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from automigrator.backends.access import Access
from automigrator.backends.contract.sides import Side
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.sqlite import backup, codes, files, journal, reader
from automigrator.backends.sqlite.connections import files_of, named_like
from automigrator.errors import RefusedError
from automigrator.support.backoff import Deadline
from automigrator.support.concurrency import in_thread, shielded

Make = Callable[[Path, Path, Callable[[], bool]], None]

"""Makes the first file like the second, until the call says that it was cancelled."""


@dataclass(slots=True)
class SideFile(Side):
    """A file beside the target's, which is `needed` while the journal names it."""

    needed: bool = False


@asynccontextmanager
async def beside(access: Access, file: Path, stamp: str, make: Make) -> AsyncIterator[SideFile]:
    """Context manager: a side that `make` makes, removed at exit unless it is needed."""
    place = files.beside(file, f".side-{stamp}")
    # a listener may need what a fresh database does not have yet
    engine = access.engine(named_like(access.url, place), prepared=make is copied)
    side = SideFile(engine, access.url.set(database=str(place), query={}), str(place))
    cancelled = threading.Event()
    try:
        work = in_thread(partial(make, place, file, cancelled.is_set))
        await shielded(work, cancelled.set)
        await _ensure_alone(engine)
        yield side
    finally:
        await shielded(engine.dispose())
        if not side.needed:
            await shielded(in_thread(lambda: files.remove(place)))


async def _ensure_alone(engine: AsyncEngine) -> None:
    """Raise RefusedError where the revisions would reach another file as well."""
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).dbapi_connection
        found = await connection.run_sync(lambda _: files_of(driver))
    others = [f"{name} ({path})" for name, path in found if path and name != "main"]
    if others:
        raise RefusedError(
            f"the application attaches {', '.join(others)} to each of its connections, so that "
            "revisions meant for a database on the side would change that, too; nothing was "
            "changed"
        )


def fresh(place: Path, like: Path, cancelled: Callable[[], bool]) -> None:
    """Make an empty database with the page size of `like`, so that its pages fit into its log.

    And with its encoding, which open connections rely on. It has a page: a zero-byte file could
    not be told from one that has lost its data.
    """
    settings: dict[str, object] = {}
    wait = reader.Wait(like, "read", Deadline(reader.BUSY_S), cancelled)
    with suppress(sqlite3.Error, codes.BusyError), reader.reading(like) as connection:
        reader.begin_reading(connection, wait)
        for name in ("page_size", "encoding"):
            (settings[name],) = connection.execute(f"PRAGMA {name}").fetchone()
    files.remove(place)
    with closing(reader.connect(place, "rwc")) as connection:
        for name, value in settings.items():
            connection.execute(f"PRAGMA {name}='{value}'")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("DROP TABLE t")


def copied(place: Path, live: Path, cancelled: Callable[[], bool]) -> None:
    """Copy `live` as of one moment. Raises what copying raises, and OSError without room."""
    files.ensure_space(live, place.parent, "a copy to rehearse on")
    try:
        with suppress(reader.Cancelled):  # the cancellation itself is raised by the caller
            backup.copy(live, place, cancelled=cancelled)
    except sqlite3.DatabaseError as error:
        if not codes.is_damage(error):
            raise
        # never the kind "corrupt", at which a strategy would replace the live file
        raise RefusedError(
            f"{live} cannot be copied to rehearse on ({error}); nothing was changed. Look at it "
            "with PRAGMA integrity_check"
        ) from error


def take_over(
    side: SideFile, file: Path, tables: Sequence[VersionTable], *, set_aside: bool
) -> Path | None:
    """Put the side in the live file's place; returns where the old contents were set aside.

    Nobody can commit between the two. Raises RefusedError, the live file untouched.
    """
    new = Path(side.place)
    _ensure_space(new, file, set_aside=set_aside)
    with closing(reader.connect(new, "rw")) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")  # the live file keeps the mode it has
    names = tuple(table.name for table in tables)
    heads = reader.verify(new, names)
    entry = journal.Entry("restoring", heads, heads, str(new), time.time(), names)
    earlier = journal.read(file)
    journal.write(file, entry)
    side.needed = True
    try:
        keep = partial(backup.set_aside, file, "purged") if set_aside else backup.nothing
        kept = backup.restore(new, file, keep=keep)
    except (OSError, sqlite3.Error) as error:
        # a snapshot of this run may be needed yet
        if earlier is not None:
            journal.write(file, earlier)
        else:
            journal.clear(file)
        side.needed = False
        raise RefusedError(f"{error}; the old database was not touched") from error
    # removed under a journal that no longer needs it: after a kill, a start that finds neither a
    # journal nor anything to migrate would leave it there for ever
    journal.write(file, replace(entry, state="migrating"))
    files.remove(new)
    journal.clear(file)
    side.needed = False
    return kept


def _ensure_space(new: Path, file: Path, *, set_aside: bool) -> None:
    needed = files.free_space_needed(new) + (files.size_with_log(file) if set_aside else 0)
    free = shutil.disk_usage(file.parent).free
    if free < needed:
        raise RefusedError(
            f"to put a fresh database in the place of {file} needs {needed:,} bytes free, there "
            f"are {free:,}; the old database was not touched"
        )
