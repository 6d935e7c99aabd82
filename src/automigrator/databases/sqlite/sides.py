"""A database file beside the target's: fresh, or a copy of it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from automigrator.databases.access import Access
from automigrator.databases.sqlite import copying, files
from automigrator.databases.sqlite.connections import files_of
from automigrator.databases.sqlite.files import remove
from automigrator.databases.sqlite.location import named_like
from automigrator.databases.sqlite.reading import (
    BUSY_S,
    DAMAGED,
    BusyError,
    Cancelled,
    begin_reading,
    code_of,
    connect,
    reading,
)
from automigrator.databases.sqlite.space import ensure_space
from automigrator.errors import RefusedError
from automigrator.threads import in_thread, to_the_end

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
            copying.copy(live, place, cancelled=cancelled)
    except sqlite3.DatabaseError as error:
        if code_of(error) not in DAMAGED:
            raise
        # never "corrupt" to those who are asked about failures: it was not read as a database
        raise RefusedError(
            f"{live} cannot be copied to rehearse on ({error}); nothing was changed. Look at it "
            "with PRAGMA integrity_check"
        ) from error
