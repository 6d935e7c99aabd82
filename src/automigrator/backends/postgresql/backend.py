"""The backend of PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from automigrator.backends.access import Access, emptied
from automigrator.backends.contract.lock import Hold
from automigrator.backends.contract.sides import Side
from automigrator.backends.contract.snapshots import Copying, Snapshot
from automigrator.backends.contract.values import Sight, VersionTable
from automigrator.backends.postgresql import (
    databases,
    errors,
    naming,
    reader,
    session,
    sql,
    watchdog,
)
from automigrator.backends.postgresql import errors as classifying
from automigrator.backends.postgresql import lock as locking
from automigrator.backends.postgresql import session as sessions
from automigrator.backends.postgresql import side as replacing
from automigrator.backends.postgresql import side as sides
from automigrator.backends.postgresql.doctor import ServerExaminer
from automigrator.backends.postgresql.errors import NO_PRIVILEGE, ServerError, code_of
from automigrator.backends.postgresql.exclusive import Scene
from automigrator.backends.postgresql.lock_session import SessionHold
from automigrator.backends.postgresql.looks import Sights
from automigrator.backends.postgresql.maintenance import Maintenance, database_of
from automigrator.backends.postgresql.snapshot import Copies
from automigrator.backends.postgresql.watchdog import Stoppable
from automigrator.errors import RefusedError
from automigrator.failure import FailureKind
from automigrator.retention import Limits
from automigrator.support.concurrency import to_the_end

T = TypeVar("T")

_CLOSE_S = 10.0


class PostgreSQL:
    """See `Backend`."""

    name = "postgresql"
    in_place = False

    def __init__(self, access: Access, maintenance_database: str | None) -> None:
        self.access = access
        self.database = database_of(access)
        self._maintenance = Maintenance(access, maintenance_database)
        self._engines: weakref.WeakSet[AsyncEngine] = weakref.WeakSet()
        self._sights = Sights(access, self.database, self._admin)
        self._held: SessionHold | None = None
        self._copies = Copies(self._scene, self._admin)

    async def look(self, tables: Sequence[VersionTable]) -> Sight:
        return await self._sights.look(tables, self._held)

    async def glimpse(self, table: VersionTable) -> tuple[str, ...] | None:
        return await self._sights.glimpse(table)

    async def create(self) -> bool:
        async with self._admin() as admin:
            limit = max(watchdog.SILENT_S, self.access.connect_timeout)
            what = f"CREATE DATABASE {self.database!r}"
            try:
                return await watchdog.answered(databases.create(admin, self.database), limit, what)
            except DBAPIError as error:
                if code_of(error) != NO_PRIVILEGE:
                    raise
                raise ServerError(
                    "auth",
                    f"this role may not create database {self.database!r}; nothing was changed. "
                    "Create it by hand, give the role CREATEDB, or name a role that has it with "
                    "Target(migrate_with=...)",
                ) from error

    def engine(self) -> AsyncEngine:
        engine = self.access.engine()
        self._engines.add(engine)
        return engine

    async def release(self, engine: AsyncEngine) -> None:
        self._engines.discard(engine)
        with contextlib.suppress(TimeoutError):  # a server out of reach takes no leave
            async with asyncio.timeout(_CLOSE_S):
                await emptied(engine)

    @asynccontextmanager
    async def lock(
        self,
        tables: Sequence[VersionTable],
        timeout_s: float,
        waiting: Callable[[float, str], None],
    ) -> AsyncIterator[Hold]:
        async with locking.lock(self._maintenance, tables, timeout_s, waiting) as held:
            self._held = held
            try:
                yield held
            finally:
                self._held = None

    def identity(self, connection: Connection) -> Hashable:
        return sessions.identity(connection)

    def session_state(self, connection: Connection) -> Hashable:
        return sessions.state(connection)

    def adopt(self, connection: Connection, *, to_write: bool = True) -> Callable[[], None]:
        """Transactions are real here; under the lock, it is on the lock's own server, and
        the next holder must find it."""
        if self._held is None:
            return lambda: None
        untag = sessions.tagged(connection, self._held.tag, self._held.rule)
        unlimited = session.waiting_shortly(connection)

        def undo() -> None:
            unlimited()
            untag()

        return undo

    def limit_statements(self, connection: Connection, seconds: float) -> Callable[[], None] | None:
        return sessions.limited(connection, seconds)

    def watching_for_blockers(self) -> AbstractAsyncContextManager[Callable[[], tuple[str, ...]]]:
        assert self._held is not None
        return session.watched(self.access, self._held.tag)

    def resolve(self, connection: Connection, table: VersionTable) -> VersionTable:
        return sessions.resolve(connection, table, self._sights.search_path)

    def interrupter(self, connection: Connection) -> Callable[[], None] | None:
        return sessions.interrupter(connection)

    def configure_options(self) -> dict[str, Any]:
        return {}

    def classify(self, error: BaseException) -> FailureKind | None:
        return classifying.classify(error)

    def advise(self, error: BaseException) -> str:
        return errors.advise(error)

    async def debris(self) -> tuple[str, ...]:
        async def read() -> tuple[str, ...]:
            async with self.access.connection(autocommit=True) as connection:
                return await reader.invalid_indexes(connection)

        return await watchdog.answered(
            read(), self.access.connect_timeout, "what asks for invalid indexes"
        )

    def examiner(self, tables: Sequence[VersionTable]) -> ServerExaminer:
        return ServerExaminer(self.access, self._maintenance, tables)

    def unfinished(self) -> bool:
        """As of the last look: the record is in the server's catalog."""
        return self._sights.unfinished

    async def recover(self, tables: Sequence[VersionTable]) -> str | None:
        async def recovered() -> str | None:
            async with self._admin() as admin:
                found = await naming.ours(admin, self.database)
            return await self._copies.recover(found, apart=self._held is None or self._held.apart)

        return await self._heard(recovered(), "what finishes or undoes a killed migration")

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
        """A template copy, or else a dump in `folder`; see `copies`."""
        taken = self._copies.take(
            stamp,
            heads,
            wanted,
            tables,
            folder=folder,
            disconnect_others=disconnect_others,
            how=how,
            binaries=binaries,
            atomic=atomic,
        )
        return await self._heard(taken, "what takes a snapshot")

    async def restore(self, snapshot: Snapshot, *, disconnect_others: bool = False) -> str:
        restored = self._copies.restore(snapshot, disconnect_others=disconnect_others)
        return await self._heard(restored, "what restores a snapshot")

    async def close(self) -> None:
        await self._heard(self._copies.close(), "what closes the journal")

    async def prune(
        self, keep: int | None, *, max_age: timedelta | None = None, folder: Path | None = None
    ) -> tuple[str, ...]:
        pruned = self._copies.prune(Limits(keep, max_age), folder=folder)
        return await self._heard(pruned, "what drops old snapshots")

    async def prune_set_aside(
        self, keep: int | None, *, max_age: timedelta | None = None
    ) -> tuple[str, ...]:
        pruned = self._copies.prune_set_aside(Limits(keep, max_age))
        return await self._heard(pruned, "what drops old databases")

    async def ensure_replaceable(self, tables: Sequence[VersionTable]) -> None:
        await replacing.ensure_replaceable(self._scene("replace"), tables)

    def side(self, stamp: str) -> AbstractAsyncContextManager[Side]:
        return sides.beside(self._scene("rebuild"), stamp, sides.fresh)

    def copied_side(
        self,
        stamp: str,
        *,
        disconnect_others: bool = False,
        how: Copying = "auto",
        binaries: Path | None = None,
    ) -> AbstractAsyncContextManager[Side]:
        stoppable = Stoppable()
        make = functools.partial(
            sides.copied,
            stoppable=stoppable,
            disconnect_others=disconnect_others,
            how=how,
            binaries=binaries,
        )
        return sides.beside(self._scene("copy"), stamp, make, prepared=True, stop=stoppable.stop)

    async def take_over(
        self,
        side: Side,
        stamp: str,
        tables: Sequence[VersionTable],
        *,
        set_aside: bool = True,
        disconnect_others: bool = False,
    ) -> str | None:
        taken = replacing.take_over(
            self._scene("replace"),
            side,
            stamp,
            tables,
            set_aside=set_aside,
            disconnect_others=disconnect_others,
        )
        aside = await self._heard(to_the_end(taken), "what puts a fresh database in its place")
        if aside is not None:
            self._copies.spare(aside)
        return aside

    async def refresh(self) -> None:
        """Plans that asyncpg has prepared fail once a connection after a migration."""
        engine = self.access.application
        if engine is not None:
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await emptied(engine)
            except TimeoutError:  # a server out of reach takes no leave
                await emptied(engine, close=False)

    @asynccontextmanager
    async def _admin(self) -> AsyncIterator[AsyncConnection]:
        """The lock's own session, while there is one."""
        if self._held is not None:
            yield self._held.admin
            return
        async with self._maintenance.connection() as admin:
            yield admin

    async def _heard(self, act: Awaitable[T], what: str) -> T:
        """Await an act of the lock's session, which takes long, while the server answers others."""
        held = self._held
        if held is None:
            return await act
        # never where a database is copied from, or swapped
        beside = held.admin.engine.url.database if held.apart else None

        async def ask() -> None:
            async with self.access.connection(beside, autocommit=True) as connection:
                await sql.rows_of(connection, "select 1")

        def cut() -> None:
            for connection in list(self.access.opened):
                sessions.cut(connection)

        held.acts += 1
        try:
            return await watchdog.heard(act, ask, cut, held.silence_s, what)
        finally:
            held.acts -= 1

    def _scene(self, act: str, *, apart: bool = True) -> Scene:
        held = self._held
        if held is None:
            raise RefusedError(f"cannot {act} a database without its lock; nothing was changed")
        if apart and not held.apart:
            raise RefusedError(
                f"cannot {act} database {self.database!r}: its lock had to be taken in the "
                "database itself, as this role can reach no maintenance database; nothing was "
                "changed. Name one with Target(maintenance_database=...)"
            )
        second = self._maintenance.connection if held.apart else self._beside
        return Scene(held, self.access, self.database, second, self._empty_pools)

    def _beside(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return self.access.connection(autocommit=True)

    async def _empty_pools(self) -> None:
        """Close our own idle sessions, which would stand in our way."""
        for engine in list(self._engines):
            await emptied(engine)
        await self.refresh()
