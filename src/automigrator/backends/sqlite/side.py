"""A side: a database file beside the target's, fresh or a copy, that may take its place."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    closing,
    nullcontext,
    suppress,
)
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from automigrator.backends.access import Access
from automigrator.backends.contract.examiner import TableName
from automigrator.backends.contract.sides import Contents, Known, Side, Sides
from automigrator.backends.contract.snapshots import DEFAULT, SnapshotOptions
from automigrator.backends.contract.values import Place, VersionTable
from automigrator.backends.pools import emptied
from automigrator.backends.sqlite import (
    backup,
    codes,
    companions,
    contents,
    files,
    journal,
    neighbours,
    reader,
    script,
)
from automigrator.backends.sqlite.connections import named_like
from automigrator.backends.sqlite.copying import copies
from automigrator.backends.sqlite.copying.overwrite import Keep
from automigrator.backends.sqlite.snapshot import FileSnapshots, ensure_alone, ensure_kept
from automigrator.errors import RefusedError
from automigrator.retention import Limits
from automigrator.support.concurrency import in_thread, shielded
from automigrator.support.owned_files import Owners

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
        self, stamp: str, options: SnapshotOptions = DEFAULT, *, schemas: tuple[str, ...] = ()
    ) -> AbstractAsyncContextManager[Side]:
        # a listener may need what a fresh database does not have yet
        make = partial(copied, check_room=self._access.check_room)
        return self._beside(stamp, make, prepared=True)

    @asynccontextmanager
    async def _beside(self, stamp: str, make: Make, prepared: bool) -> AsyncIterator[SideFile]:
        """Context manager: a side that `make` makes, removed at exit unless it is needed."""
        place = companions.beside(self._file, f".side-{stamp}")
        url = self._access.url
        engine = self._access.engine(named_like(url, place), prepared=prepared)
        side = SideFile(engine, url.set(database=str(place), query={}), str(place))
        cancelled = threading.Event()
        try:
            await in_thread(lambda: ensure_kept(Owners.of(self._file), place.parent))
            work = in_thread(lambda: make(place, self._file, cancelled.is_set))
            await shielded(work, cancelled.set)
            await ensure_alone(
                engine, "revisions meant for a database on the side would change that, too"
            )
            yield side
        finally:
            await shielded(engine.dispose())
            if not side.needed:
                await shielded(in_thread(lambda: files.remove(place, Owners.of(self._file))))

    async def ensure_replaceable(
        self,
        tables: Sequence[VersionTable],
        *,
        also: tuple[str, ...] = (),
        damaged: bool = False,
    ) -> None:
        names = tuple(table.name for table in tables)
        await shielded(in_thread(lambda: self._ensure_replaceable(names, damaged)))

    def _ensure_replaceable(self, tables: tuple[str, ...], damaged: bool) -> None:
        file = self._file
        try:
            with reader.looking_at(file) as connection:
                neighbours.ensure_none(connection.execute, file, tables, None)
            if damaged:
                reader.verify(file, tables)
                if reader.is_blank(file):
                    return  # it has lost its data, and there is nothing to lose
        except (sqlite3.Error, codes.BusyError) as error:
            if damaged and codes.is_damage(error) and not codes.is_newer(error):
                if not files.is_newer(file):
                    return
                raise RefusedError(
                    f"the header of {file} names a format that this SQLite "
                    f"({sqlite3.sqlite_version}) does not know; nothing was changed"
                ) from error
            raise RefusedError(f"{file} cannot be read ({error}); nothing was changed") from error
        if damaged:
            raise RefusedError(
                f"{file} was said to be damaged, and SQLite's own check (PRAGMA quick_check) finds "
                "nothing wrong with it; nothing was changed. An index or a virtual table may be "
                "damaged: copy the file, then try REINDEX, or rebuild that table"
            )

    async def tables(self, place: Place) -> frozenset[TableName]:
        async with place.engine.connect() as connection:
            names = await connection.run_sync(lambda c: neighbours.tables(c.exec_driver_sql))
        return frozenset((None, name) for name in names)

    async def contents(self, place: Place) -> Contents:
        async with place.engine.connect() as connection:
            return await connection.run_sync(contents.contents)

    async def script(self, place: Place) -> tuple[str, ...]:
        async with place.engine.connect() as connection:
            return await connection.run_sync(script.script)

    async def take_over(
        self,
        side: Side,
        stamp: str,
        tables: Sequence[VersionTable],
        *,
        set_aside: bool = True,
        disconnect_others: bool = False,
        known: Known | None = None,
    ) -> str | None:
        assert isinstance(side, SideFile)
        for engine in (side.engine, self._access.application):
            if engine is not None:
                await emptied(engine)  # an idle connection there could be in the way
        names = tuple(table.name for table in tables)
        kept = await shielded(in_thread(lambda: self._take_over(side, names, set_aside, known)))
        if kept is None:
            return None
        self._set_aside.add(kept)
        return str(kept)

    def _take_over(
        self, side: SideFile, tables: tuple[str, ...], set_aside: bool, known: Known | None
    ) -> Path | None:
        """Put the side in the live file's place; returns where the old contents were set aside.

        Nobody can commit between the two. Raises RefusedError, the live file untouched.
        """
        file, new = self._file, Path(side.place)
        self._snapshots.stop_watching()
        if self._access.check_room:
            _ensure_space(new, file, set_aside=set_aside)
        with closing(reader.connect(new, "rw")) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")  # the live file keeps the mode it has
        heads, owners = reader.verify(new, tables), Owners.of(file)
        entry = journal.Entry("restoring", heads, heads, str(new), time.time(), tables)
        noted = journal.Progress(entry.snapshot, entry.at, digest=files.digest(new, owners))
        earlier = journal.read(file)
        before = journal.progress_of(file, earlier) if earlier is not None else None
        journal.write(file, entry)
        journal.write_progress(file, noted)
        side.needed = True
        try:
            keep = partial(backup.set_aside, file, "purged") if set_aside else backup.nothing
            with self._snapshots.replacing():
                kept = backup.restore(new, file, keep=_checked(file, tables, known, keep))
        except (OSError, sqlite3.Error, RefusedError) as error:
            # a snapshot of this run may be needed yet
            if before is not None:
                journal.write_progress(file, before)
            if earlier is not None:
                journal.write(file, earlier)
            else:
                journal.clear(file)
            side.needed = False
            if isinstance(error, RefusedError):
                raise
            raise RefusedError(f"{error}; the old database was not touched") from error
        # under a journal that no longer needs it, and stays until this part of the run is over: a
        # start after a kill would find nothing to migrate, and tell nobody of the purge
        journal.write(file, entry._replace(state="migrating"))
        files.remove(new, owners)
        side.needed = False
        self._snapshots.entry = None  # of other data: there is nothing to put back
        self._snapshots.purged = True
        return kept

    async def prune_set_aside(self, limits: Limits) -> tuple[str, ...]:
        own = self._set_aside  # a clock that goes back would make them the oldest
        prune = partial(copies.prune, self._file, ("purged", "corrupt"), limits, spared=own)
        return await shielded(in_thread(prune))

    async def prune_damaged(self, limits: Limits) -> tuple[str, ...]:
        # it waits for no sound one of its kind, as there is none
        prune = partial(copies.prune, self._file, ("corrupt",), limits, good=self._file)
        return await shielded(in_thread(prune))


def _checked(file: Path, tables: tuple[str, ...], known: Known | None, keep: Keep) -> Keep:
    """Look for somebody else's tables once nobody can add one, and then keep what there is."""

    def checked(connection: sqlite3.Connection | None) -> Path | None:
        through = nullcontext(connection) if connection else closing(reader.connect(file, "ro"))
        try:
            with through as live:
                neighbours.ensure_none(live.execute, file, tables, known)
        except sqlite3.DatabaseError as error:
            if not codes.is_damage(error) or codes.is_newer(error):
                raise
        return keep(connection)

    return checked if known is not None else keep


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
    os.close(Owners.of(like).create(place))
    with closing(reader.connect(place, "rw")) as connection:
        for name, value in settings.items():
            connection.execute(f"PRAGMA {name}='{value}'")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("DROP TABLE t")


def copied(
    place: Path, live: Path, cancelled: Callable[[], bool], *, check_room: bool = True
) -> None:
    """Copy `live` as of one moment. Raises what copying raises, and OSError without room."""
    if check_room:
        files.ensure_space(live, place.parent, "a copy to rehearse on", restored=False)
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
            f"touched. {files.ROOM}"
        )
