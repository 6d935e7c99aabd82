"""A database file beside the target's: fresh, or a copy of it."""

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

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from automigrator.backends.access import Access
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.sqlite import backup, files, journal
from automigrator.backends.sqlite.connections import files_of, named_like
from automigrator.backends.sqlite.files import (
    ensure_space,
    free_space_needed,
    remove,
    size_with_log,
)
from automigrator.backends.sqlite.reader import (
    BUSY_S,
    DAMAGED,
    BusyError,
    Cancelled,
    begin_reading,
    code_of,
    connect,
    reading,
    verify,
)
from automigrator.backends.sqlite.recover import aside
from automigrator.errors import RefusedError
from automigrator.support.concurrency import in_thread, to_the_end

Make = Callable[[Path, Path, Callable[[], bool]], None]

"""Makes the first database beside the second, unless the call says that it was cancelled."""


@dataclass(slots=True)
class SideFile:
    """A database file beside the target's; `needed` once the journal names it."""

    engine: AsyncEngine
    url: URL
    place: str
    needed: bool = False


@asynccontextmanager
async def beside(access: Access, file: Path, stamp: str, make: Make) -> AsyncIterator[SideFile]:
    """The file that `make` makes, removed afterwards unless it is needed."""
    place = files.beside(file, f".side-{stamp}")
    # a listener may need what a fresh database does not have yet
    engine = access.engine(named_like(access.url, place), prepared=make is copied)
    side = SideFile(engine, access.url.set(database=str(place), query={}), str(place))
    cancelled = threading.Event()
    try:
        work = in_thread(partial(make, place, file, cancelled.is_set))
        await to_the_end(work, cancelled.set)
        await _ensure_alone(engine)
        yield side
    finally:
        await to_the_end(engine.dispose())
        if not side.needed:
            await to_the_end(in_thread(lambda: remove(place)))


async def _ensure_alone(engine: AsyncEngine) -> None:
    """Raise RefusedError where the revisions would reach another file as well: it is no copy."""
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).dbapi_connection
        files = await connection.run_sync(lambda _: files_of(driver))
    others = [f"{name} ({path})" for name, path in files if path and name != "main"]
    if others:
        raise RefusedError(
            f"the application attaches {', '.join(others)} to each of its connections, so that "
            "what is meant for a database on the side would change that, too; nothing was changed"
        )


def fresh(place: Path, like: Path, cancelled: Callable[[], bool]) -> None:
    """An empty database with pages of the size that `like` has, so that they fit into its log.

    And with its encoding, which connections that are open have settled on. It has a page: a
    zero-byte file could not be told from one that lost its data.
    """
    size = encoding = None
    with suppress(sqlite3.Error, BusyError), reading(like) as connection:
        begin_reading(connection, like, cancelled, BUSY_S)
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        (encoding,) = connection.execute("PRAGMA encoding").fetchone()
    remove(place)
    with closing(connect(place, "rwc")) as connection:
        if size:
            connection.execute(f"PRAGMA page_size={size}")
        if encoding:
            connection.execute(f"PRAGMA encoding='{encoding}'")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("DROP TABLE t")


def copied(place: Path, live: Path, cancelled: Callable[[], bool]) -> None:
    """A copy of `live` as of one moment. Raises what copying raises, OSError without room."""
    ensure_space(live, place.parent, "a copy to rehearse on")
    try:
        with suppress(Cancelled):  # who cancelled raises that
            backup.copy(live, place, cancelled=cancelled)
    except sqlite3.DatabaseError as error:
        if code_of(error) not in DAMAGED:
            raise
        # never "corrupt" to those who are asked about failures: it was not read as a database
        raise RefusedError(
            f"{live} cannot be copied to rehearse on ({error}); nothing was changed. Look at it "
            "with PRAGMA integrity_check"
        ) from error


def take_over(
    side: SideFile, file: Path, tables: Sequence[VersionTable], *, set_aside: bool
) -> Path | None:
    """Put the side database in the live file's place; returns where the old one was set aside.

    Nobody can commit from the moment on that is set aside. Raises RefusedError, the live file
    untouched.
    """
    new = Path(side.place)
    _ensure_space(new, file, set_aside=set_aside)
    with closing(connect(new, "rw")) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")  # the live file keeps the mode it has
    heads = tuple(sorted({head for table in tables for head in verify(new, table.name)}))
    names = tuple(table.name for table in tables)
    entry = journal.Entry("restoring", heads, heads, str(new), time.time(), names)
    earlier = journal.read(file)
    journal.write(file, entry)
    side.needed = True
    try:
        keep = aside(file, "purged") if set_aside else backup.nothing
        kept = backup.restore(new, file, keep=keep)
    except (OSError, sqlite3.Error) as error:
        # a snapshot of this run may be needed yet
        if earlier is not None:
            journal.write(file, earlier)
        else:
            journal.clear(file)
        side.needed = False
        raise RefusedError(f"{error}; the old database was not touched") from error
    # first, and under a journal that does not need it: a start that finds nothing to do would
    # leave it there for ever
    journal.write(file, replace(entry, state="migrating"))
    remove(new)
    journal.clear(file)
    side.needed = False
    return kept


def _ensure_space(new: Path, file: Path, *, set_aside: bool) -> None:
    needed = free_space_needed(new) + (size_with_log(file) if set_aside else 0)
    free = shutil.disk_usage(file.parent).free
    if free < needed:
        raise RefusedError(
            f"to put a fresh database in the place of {file} needs {needed:,} bytes free, there "
            f"are {free:,}; the old database was not touched"
        )
