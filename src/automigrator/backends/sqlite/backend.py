"""The backend of SQLite: a file, or a database in the application's own connection."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from automigrator.backends.access import Access, emptied, keep_none_idle
from automigrator.backends.contract.backend import Backend, Waiting
from automigrator.backends.contract.sessions import Sessions
from automigrator.backends.contract.values import Sight, Verdict, VersionTable
from automigrator.backends.sqlite import connections, errors, files, reader
from automigrator.backends.sqlite import lock as locks
from automigrator.backends.sqlite.doctor import FileExaminer, left_over
from automigrator.backends.sqlite.foreign import ensure_damaged
from automigrator.backends.sqlite.hold import SQLiteHold
from automigrator.backends.sqlite.transactions import make_real
from automigrator.errors import ConfigurationError
from automigrator.support.concurrency import in_thread


class SQLite(Backend):
    """See `Backend`; everything that blocks runs in a thread."""

    name = "sqlite"
    offers = frozenset({"snapshots", "sides", "examiner"})

    def __init__(self, access: Access) -> None:
        super().__init__(access)
        self.file = connections.file_of(access.url)
        self.in_place = self.file is None
        self.sessions = FileSessions()
        self._settled = False
        if self.in_place and access.given_engine is None:
            raise ConfigurationError(
                "a SQLite database in memory exists in the application's own connection only; "
                "pass the application's AsyncEngine (with StaticPool) instead of a URL"
            )

    async def look(self, tables: Sequence[VersionTable], *, heads_only: bool = False) -> Sight:
        await self._settle()
        if self.file is not None:
            try:
                return await in_thread(partial(_look, self.file, tables))
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
            self.file, self.in_place = file, False
            self.access.url = self.access.url.set(database=str(file))
        self._settled = True

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

    @asynccontextmanager
    async def lock(
        self, tables: Sequence[VersionTable], timeout_s: float, waiting: Waiting
    ) -> AsyncIterator[SQLiteHold]:
        await self._settle()
        lock = (
            locks.memory_lock(self.engine().sync_engine, timeout_s, waiting)
            if self.file is None
            else locks.file_lock(self.file, timeout_s, waiting)
        )
        async with lock as held:
            hold = SQLiteHold(held, self.look, self.access, self.file)
            try:
                yield hold
            finally:
                await hold.ended()

    def classify(self, error: BaseException) -> Verdict:
        return Verdict(errors.classify(error), errors.advise(error))

    async def debris(self) -> tuple[str, ...]:
        if self.file is None or not self.file.exists():
            return ()
        return await in_thread(partial(left_over, self.file))

    def examiner(self, tables: Sequence[VersionTable]) -> FileExaminer:
        return FileExaminer(self.file)


def _look(file: Path, tables: Sequence[VersionTable]) -> Sight:
    sight = reader.look_at_file(file, tables)
    return replace(sight, unfinished=files.journal_path(file).exists())


class FileSessions(Sessions):
    """Connections of aiosqlite and pysqlite."""

    def identity(self, connection: Connection) -> Hashable:
        file = connections.main_file(connection)
        return str(file) if file is not None else id(connection.connection.driver_connection)

    def state(self, connection: Connection) -> Hashable:
        return connections.files_of(connection.connection.dbapi_connection)

    def adopt(self, connection: Connection, *, to_write: bool = True) -> Callable[[], None]:
        return make_real(connection, to_write=to_write)

    def interrupter(self, connection: Connection) -> Callable[[], None] | None:
        return connections.interrupter(connection)

    def configure_options(self) -> dict[str, Any]:
        return {"transactional_ddl": True}
