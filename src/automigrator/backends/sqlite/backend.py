"""The backend of SQLite: a file, or a database in the application's own connection."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from automigrator.backends.access import Access, emptied, keep_none_idle
from automigrator.backends.contract.lock import Hold
from automigrator.backends.contract.sides import Side
from automigrator.backends.contract.snapshots import Copying, Snapshot
from automigrator.backends.contract.values import Sight, VersionTable
from automigrator.backends.sqlite import connections, copies, errors, files, reader
from automigrator.backends.sqlite import lock as locking
from automigrator.backends.sqlite import side as sides
from automigrator.backends.sqlite.connections import file_of
from automigrator.backends.sqlite.doctor import FileExaminer, left_over
from automigrator.backends.sqlite.foreign import ensure_damaged
from automigrator.backends.sqlite.recover import recover
from automigrator.backends.sqlite.side import take_over
from automigrator.backends.sqlite.snapshot import Snapshots
from automigrator.backends.sqlite.transactions import data_version, make_real
from automigrator.errors import ConfigurationError, RefusedError
from automigrator.failure import FailureKind
from automigrator.retention import Limits
from automigrator.support.concurrency import in_thread, to_the_end


class SQLite:
    """See `Backend`; everything that blocks runs in a thread."""

    name = "sqlite"

    def __init__(self, access: Access) -> None:
        self.access = access
        self.file = file_of(access.url)
        self.in_place = self.file is None
        self._snapshots = Snapshots(self.file or Path())
        self._set_aside: set[Path] = set()
        self._settled = False
        if self.in_place and access.given_engine is None:
            raise ConfigurationError(
                "a SQLite database in memory exists in the application's own connection only; "
                "pass the application's AsyncEngine (with StaticPool) instead of a URL"
            )

    async def look(self, tables: Sequence[VersionTable]) -> Sight:
        await self._settle()
        if self.file is not None:
            file = self.file
            try:
                return await in_thread(lambda: reader.look_at_file(file, tables))
            except sqlite3.DatabaseError as error:
                if errors.classify(error) == "corrupt":
                    await ensure_damaged(self.access, error)
                raise

        def ask(connection: Connection) -> Sight:
            return reader.look(lambda sql: connection.exec_driver_sql(sql).all(), tables)

        async with self.engine().connect() as connection:
            return await connection.run_sync(ask)

    async def _settle(self) -> None:
        """Find the file that a creator of the application's leads to where the URL names none."""
        if self._settled or self.file is not None:
            return
        async with self.engine().connect() as connection:
            file = await connection.run_sync(connections.main_file)
        if file is not None:
            self.file, self.in_place, self._snapshots = file, False, Snapshots(file)
            self.access.url = self.access.url.set(database=str(file))
        self._settled = True

    async def glimpse(self, table: VersionTable) -> tuple[str, ...] | None:
        """Nothing is cheaper than `look` here."""
        return None

    async def create(self) -> bool:
        if self.file is None:
            return False
        return await in_thread(partial(files.create, self.file))

    def engine(self) -> AsyncEngine:
        if self.in_place and self.access.given_engine is not None:
            return self.access.given_engine
        engine = self.access.engine()
        # one that lies idle keeps its lock where the application sets locking_mode=EXCLUSIVE
        keep_none_idle(engine.sync_engine.pool)
        event.listen(engine.sync_engine.pool, "connect", self._connected)
        return engine

    def _connected(self, dbapi: Any, record: object) -> None:
        if self.file is not None:
            connections.ensure_leads_to(self.file, dbapi)

    async def release(self, engine: AsyncEngine) -> None:
        if not self.in_place:
            await emptied(engine)
        if self._snapshots.watched:  # where the journal stays open, for the next start
            await to_the_end(in_thread(self._snapshots.stop_watching))

    @asynccontextmanager
    async def lock(
        self,
        tables: Sequence[VersionTable],
        timeout_s: float,
        waiting: Callable[[float, str], None],
    ) -> AsyncIterator[Hold]:
        await self._settle()
        if self.file is None:
            lock = locking.memory_lock(self.engine().sync_engine, timeout_s, waiting)
        else:
            lock = locking.file_lock(self.file, timeout_s, waiting)
        async with lock as hold:
            yield hold

    def identity(self, connection: Connection) -> Hashable:
        file = connections.main_file(connection)
        return str(file) if file is not None else id(connection.connection.driver_connection)

    def session_state(self, connection: Connection) -> Hashable:
        return connections.files_of(connection.connection.dbapi_connection)

    def adopt(self, connection: Connection, *, to_write: bool = True) -> Callable[[], None]:
        undo = make_real(connection, to_write=to_write)
        if not self._leads_to_the_live_file(connection):
            return undo
        leave = self._snapshots.join(lambda: data_version(connection))

        def undone() -> None:
            undo()
            leave()

        return undone

    def _leads_to_the_live_file(self, connection: Connection) -> bool:
        """Not to a fresh database on the side: what is committed meanwhile is somebody else's."""
        file = connections.main_file(connection)
        return self.file is not None and file == self.file.resolve()

    def limit_statements(self, connection: Connection, seconds: float) -> Callable[[], None] | None:
        return None  # whoever watches the statements interrupts them

    def watching_for_blockers(self) -> AbstractAsyncContextManager[Callable[[], tuple[str, ...]]]:
        return contextlib.nullcontext(lambda: ())  # who holds a file's lock cannot be found out

    def resolve(self, connection: Connection, table: VersionTable) -> VersionTable:
        return table

    def interrupter(self, connection: Connection) -> Callable[[], None] | None:
        return connections.interrupter(connection)

    def configure_options(self) -> dict[str, Any]:
        return {"transactional_ddl": True}

    def classify(self, error: BaseException) -> FailureKind | None:
        return errors.classify(error)

    def advise(self, error: BaseException) -> str:
        return errors.advise(error)

    async def debris(self) -> tuple[str, ...]:
        if self.file is None or not self.file.exists():
            return ()
        return await in_thread(partial(left_over, self.file))

    def examiner(self, tables: Sequence[VersionTable]) -> FileExaminer:
        return FileExaminer(self.file)

    def unfinished(self) -> bool:
        return self.file is not None and files.journal_path(self.file).exists()

    async def recover(self, tables: Sequence[VersionTable]) -> str | None:
        if self.file is None:
            return None
        return await to_the_end(recover(self.file))

    async def snapshot(
        self,
        stamp: str,
        heads: tuple[str, ...],
        wanted: tuple[str, ...],
        tables: Sequence[VersionTable],
        *,
        atomic: bool = False,
        folder: Path | None = None,
        disconnect_others: bool = False,
        how: Copying = "auto",
        binaries: Path | None = None,
    ) -> Snapshot:
        file = self._file("take a snapshot of")
        place = copies.snapshot_path(file, stamp, folder)
        cancelled = threading.Event()

        def take() -> None:
            self._snapshots.take(place, folder, heads, wanted, tables, atomic, cancelled.is_set)

        await to_the_end(in_thread(take), cancelled.set)
        return Snapshot(str(place), heads, stamp)

    async def restore(self, snapshot: Snapshot, *, disconnect_others: bool = False) -> str | None:
        self._file("restore")
        place = Path(snapshot.place)
        kept = await to_the_end(in_thread(lambda: self._snapshots.put_back(place)))
        return str(kept) if kept else None

    async def close(self) -> None:
        if self.file is not None:
            await to_the_end(in_thread(self._snapshots.close))

    async def prune(
        self, keep: int | None, *, max_age: timedelta | None = None, folder: Path | None = None
    ) -> tuple[str, ...]:
        if self.file is None:
            return ()
        limits = Limits(keep, max_age)
        return await to_the_end(in_thread(lambda: self._snapshots.prune(limits, folder)))

    async def prune_set_aside(
        self, keep: int | None, *, max_age: timedelta | None = None
    ) -> tuple[str, ...]:
        if self.file is None:
            return ()
        file, limits = self.file, Limits(keep, max_age)
        return await to_the_end(
            in_thread(partial(copies.prune_set_aside, file, limits, self._set_aside))
        )

    async def ensure_replaceable(self, tables: Sequence[VersionTable]) -> None:
        self._file("replace")

    def side(self, stamp: str) -> AbstractAsyncContextManager[Side]:
        return sides.beside(self.access, self._file("rebuild"), stamp, sides.fresh)

    def copied_side(
        self,
        stamp: str,
        *,
        disconnect_others: bool = False,
        how: Copying = "auto",
        binaries: Path | None = None,
    ) -> AbstractAsyncContextManager[Side]:
        return sides.beside(self.access, self._file("copy"), stamp, sides.copied)

    async def take_over(
        self,
        side: Side,
        stamp: str,
        tables: Sequence[VersionTable],
        *,
        set_aside: bool = True,
        disconnect_others: bool = False,
    ) -> str | None:
        file = self._file("replace")
        assert isinstance(side, sides.SideFile)
        for engine in (side.engine, self.access.application):
            if engine is not None:
                await emptied(engine)  # what lies idle there could be in the way

        def put_in_place() -> Path | None:
            self._snapshots.stop_watching()
            kept = take_over(side, file, tables, set_aside=set_aside)
            self._snapshots.forget()
            return kept

        kept = await to_the_end(in_thread(put_in_place))
        if kept is not None:
            self._set_aside.add(kept)
        return str(kept) if kept else None

    async def refresh(self) -> None:
        """Nothing: SQLite prepares a statement again when the schema has changed."""

    def _file(self, act: str) -> Path:
        if self.file is None:
            raise RefusedError(
                f"cannot {act} a SQLite database in memory; nothing was changed. It is rebuilt "
                "by restarting the application"
            )
        return self.file
