"""A side: a database file beside the target's, fresh or a copy, that may take its place."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from automigrator.backends.access import Access, emptied
from automigrator.backends.contract.sides import Side, Sides
from automigrator.backends.contract.snapshots import DEFAULT, SnapshotOptions
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.sqlite import backup, codes, copies, files, journal, reader
from automigrator.backends.sqlite.connections import files_of, named_like
from automigrator.backends.sqlite.snapshot import FileSnapshots
from automigrator.errors import RefusedError
from automigrator.retention import Limits
from automigrator.support.concurrency import in_thread, shielded

Make = Callable[[Path, Path, Callable[[], bool]], None]

"""Makes the first file like the second, until the call says that it was cancelled."""


@dataclass(slots=True, eq=False)
class SideFile(Side):
    """A side that is `needed` while the journal names it."""

    needed: bool = False


class FileSides(Sides):
    """Database files beside the target's."""

    def __init__(self, access: Access, snapshots: FileSnapshots) -> None:
        self._access, self._snapshots, self._file = access, snapshots, snapshots.file
        self._set_aside: set[Path] = set()

    def fresh(self, stamp: str) -> AbstractAsyncContextManager[Side]:
        return self._beside(stamp, fresh, prepared=False)

    def copy(
        self, stamp: str, options: SnapshotOptions = DEFAULT
    ) -> AbstractAsyncContextManager[Side]:
        # a listener may need what a fresh database does not have yet
        return self._beside(stamp, copied, prepared=True)

    @asynccontextmanager
    async def _beside(self, stamp: str, make: Make, prepared: bool) -> AsyncIterator[SideFile]:
        """Context manager: a side that `make` makes, removed at exit unless it is needed."""
        place = files.beside(self._file, f".side-{stamp}")
        url = self._access.url
        engine = self._access.engine(named_like(url, place), prepared=prepared)
        side = SideFile(engine, url.set(database=str(place), query={}), str(place))
        cancelled = threading.Event()
        try:
            work = in_thread(lambda: make(place, self._file, cancelled.is_set))
            await shielded(work, cancelled.set)
            await _ensure_alone(engine)
            yield side
        finally:
            await shielded(engine.dispose())
            if not side.needed:
                await shielded(in_thread(lambda: files.remove(place)))

    async def ensure_replaceable(self, tables: Sequence[VersionTable]) -> None:
        """Do nothing: a SQLite file has no other target."""

    async def take_over(
        self,
        side: Side,
        stamp: str,
        tables: Sequence[VersionTable],
        *,
        set_aside: bool = True,
        disconnect_others: bool = False,
    ) -> str | None:
        assert isinstance(side, SideFile)
        for engine in (side.engine, self._access.application):
            if engine is not None:
                await emptied(engine)  # an idle connection there could be in the way
        names = tuple(table.name for table in tables)
        kept = await shielded(in_thread(lambda: self._take_over(side, names, set_aside)))
        if kept is None:
            return None
        self._set_aside.add(kept)
        return str(kept)

    def _take_over(self, side: SideFile, tables: tuple[str, ...], set_aside: bool) -> Path | None:
        """Put the side in the live file's place; returns where the old contents were set aside.

        Nobody can commit between the two. Raises RefusedError, the live file untouched.
        """
        file, new = self._file, Path(side.place)
        self._snapshots.stop_watching()
        _ensure_space(new, file, set_aside=set_aside)
        with closing(reader.connect(new, "rw")) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")  # the live file keeps the mode it has
        heads = reader.verify(new, tables)
        entry = journal.Entry("restoring", heads, heads, str(new), time.time(), tables)
        earlier = journal.read(file)
        journal.write(file, entry)
        side.needed = True
        try:
            keep = partial(backup.set_aside, file, "purged") if set_aside else backup.nothing
            with self._snapshots.replacing():
                kept = backup.restore(new, file, keep=keep)
        except (OSError, sqlite3.Error) as error:
            # a snapshot of this run may be needed yet
            journal.write(file, earlier)
            side.needed = False
            raise RefusedError(f"{error}; the old database was not touched") from error
        # removed under a journal that no longer needs it: after a kill, a start that finds neither
        # a journal nor anything to migrate would leave it there for ever
        journal.write(file, replace(entry, state="migrating"))
        files.remove(new)
        journal.clear(file)
        side.needed = False
        self._snapshots.entry = None  # of other data: there is nothing to put back
        return kept

    async def prune_set_aside(self, limits: Limits) -> tuple[str, ...]:
        own = self._set_aside  # a clock that goes back would make them the oldest
        prune = partial(copies.prune, self._file, ("purged", "corrupt"), limits, spared=own)
        return await shielded(in_thread(prune))


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
    looking = reader.looking_at(like, cancelled=cancelled)
    with suppress(sqlite3.Error, codes.BusyError), looking as connection:
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


def _ensure_space(new: Path, file: Path, *, set_aside: bool) -> None:
    needed = files.free_space_needed(new) + (files.size_with_log(file) if set_aside else 0)
    if shortage := files.shortage(needed, file.parent):
        raise RefusedError(
            f"to put a fresh database in the place of {file} {shortage}; the old database was not "
            "touched"
        )
