"""The migration lock of a SQLite database while it is held, and the acts that it allows."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

from sqlalchemy.engine import Connection

from automigrator.backends.access import Access, emptied
from automigrator.backends.contract.declarations import Declaration
from automigrator.backends.contract.lock import Hold
from automigrator.backends.contract.record import Record
from automigrator.backends.contract.sides import Side, Sides
from automigrator.backends.contract.snapshots import (
    DEFAULT,
    Snapshot,
    SnapshotOptions,
    Snapshots,
)
from automigrator.backends.contract.values import Sight, VersionTable
from automigrator.backends.sqlite import connections, copies
from automigrator.backends.sqlite import side as sides
from automigrator.backends.sqlite.lock import FileLock, MemoryLock
from automigrator.backends.sqlite.recover import recover
from automigrator.backends.sqlite.snapshot import Snapshots as RunSnapshot
from automigrator.backends.sqlite.transactions import data_version
from automigrator.retention import Limits
from automigrator.support.concurrency import in_thread, shielded

Look = Callable[[Sequence[VersionTable]], Awaitable[Sight]]


class SQLiteHold(Hold):
    """The lock of a database file, or of one in memory, which offers no snapshots and sides."""

    def __init__(
        self, lock: FileLock | MemoryLock, look: Look, access: Access, file: Path | None
    ) -> None:
        self._lock, self._look, self._file = lock, look, file
        self.leader, self.waited_s, self.since = lock.leader, lock.waited_s, lock.since
        self._run: RunSnapshot | None = None
        if file is not None:
            self._run = RunSnapshot(file)
            self.snapshots = FileSnapshots(file, self._run)
            self.sides = FileSides(file, self._run, access)

    async def look(self, tables: Sequence[VersionTable]) -> Sight:
        return await self._look(tables)

    async def confirm(self, progress: str = "") -> None:
        await self._lock.confirm(progress)

    async def last(self) -> Record | None:
        return await self._lock.last()

    async def leave(self, record: Record | None) -> None:
        await self._lock.leave(record)

    async def declare(self, declared: Sequence[Declaration]) -> None:
        await self._lock.declare(declared)

    def claim(self, connection: Connection) -> Callable[[], None]:
        # not of a fresh database on the side: commits meanwhile are somebody else's
        if self._run is None or connections.main_file(connection) != self._run.file.resolve():
            return lambda: None
        return self._run.join(lambda: data_version(connection))

    async def recover(self) -> str | None:
        if self._file is None:
            return None
        return await shielded(recover(self._file))

    async def close_journal(self) -> None:
        if self._run is not None:
            await shielded(in_thread(self._run.close))

    async def ended(self) -> None:
        """Let go of the live file, where the journal stays open for the next start."""
        if self._run is not None and self._run.watched:
            await shielded(in_thread(self._run.stop_watching))


class FileSnapshots(Snapshots):
    """Copies of a database file; everything that blocks runs in a thread."""

    def __init__(self, file: Path, run: RunSnapshot) -> None:
        self._file, self._run = file, run

    async def take(
        self,
        stamp: str,
        heads: tuple[str, ...],
        wanted: tuple[str, ...],
        tables: Sequence[VersionTable],
        options: SnapshotOptions = DEFAULT,
        *,
        atomic: bool = False,
    ) -> Snapshot:
        place = copies.snapshot_path(self._file, stamp, options.folder)
        cancelled = threading.Event()

        def take() -> None:
            stop = cancelled.is_set
            self._run.take(place, options.folder, heads, wanted, tables, atomic, stop)

        await shielded(in_thread(take), cancelled.set)
        return Snapshot(str(place), heads, stamp)

    async def restore(self, snapshot: Snapshot, *, disconnect_others: bool = False) -> str | None:
        put_back = partial(self._run.put_back, Path(snapshot.place))
        kept = await shielded(in_thread(put_back))
        return str(kept) if kept else None

    async def prune(self, limits: Limits, folder: Path | None = None) -> tuple[str, ...]:
        return await shielded(in_thread(partial(self._run.prune, limits, folder)))


class FileSides(Sides):
    """Database files beside the target's."""

    def __init__(self, file: Path, run: RunSnapshot, access: Access) -> None:
        self._file, self._run, self._access = file, run, access
        self._set_aside: set[Path] = set()

    def fresh(self, stamp: str) -> AbstractAsyncContextManager[Side]:
        return sides.beside(self._access, self._file, stamp, sides.fresh)

    def copy(
        self, stamp: str, options: SnapshotOptions = DEFAULT
    ) -> AbstractAsyncContextManager[Side]:
        return sides.beside(self._access, self._file, stamp, sides.copied)

    async def ensure_replaceable(self, tables: Sequence[VersionTable]) -> None:
        """A file is never shared."""

    async def take_over(
        self,
        side: Side,
        stamp: str,
        tables: Sequence[VersionTable],
        *,
        set_aside: bool = True,
        disconnect_others: bool = False,
    ) -> str | None:
        assert isinstance(side, sides.SideFile)
        for engine in (side.engine, self._access.application):
            if engine is not None:
                await emptied(engine)  # an idle connection there could be in the way

        def put_in_place() -> Path | None:
            self._run.stop_watching()
            kept = sides.take_over(side, self._file, tables, set_aside=set_aside)
            self._run.forget()
            return kept

        kept = await shielded(in_thread(put_in_place))
        if kept is not None:
            self._set_aside.add(kept)
        return str(kept) if kept else None

    async def prune_set_aside(self, limits: Limits) -> tuple[str, ...]:
        prune = partial(copies.prune_set_aside, self._file, limits, self._set_aside)
        return await shielded(in_thread(prune))
