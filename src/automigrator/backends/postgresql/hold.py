"""The migration lock of a PostgreSQL database while it is held, and the acts that it allows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TypeVar

from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.access import Access
from automigrator.backends.contract.declarations import Declaration
from automigrator.backends.contract.lock import Hold
from automigrator.backends.contract.record import Record
from automigrator.backends.contract.sides import Side, Sides
from automigrator.backends.contract.snapshots import DEFAULT, SnapshotOptions
from automigrator.backends.contract.values import Sight, VersionTable
from automigrator.backends.postgresql import session, sql, watchdog
from automigrator.backends.postgresql import side as sides
from automigrator.backends.postgresql.exclusive import ExclusiveAccess
from automigrator.backends.postgresql.lock_session import SessionHold
from automigrator.backends.postgresql.looks import Sights
from automigrator.backends.postgresql.maintenance import Maintenance
from automigrator.backends.postgresql.snapshot import ServerSnapshots
from automigrator.backends.postgresql.watchdog import Stoppable
from automigrator.errors import RefusedError
from automigrator.retention import Limits
from automigrator.support.concurrency import shielded

T = TypeVar("T")


class ServerHold(Hold):
    """The lock's session, and what runs in it.

    `empty_pools` closes idle sessions of ours and of the application's, which would stand in
    the way of an act on the whole database.
    """

    def __init__(
        self,
        session: SessionHold,
        sights: Sights,
        maintenance: Maintenance,
        empty_pools: Callable[[], Awaitable[None]],
    ) -> None:
        self.session, self._sights, self._maintenance = session, sights, maintenance
        self._empty_pools = empty_pools
        self.access: Access = session.access
        self.leader, self.waited_s, self.since = session.leader, session.waited_s, session.since
        self.snapshots: ServerSnapshots = ServerSnapshots(self.exclusive, self.heard)
        self.sides = ServerSides(self, self.snapshots)

    async def look(self, tables: Sequence[VersionTable]) -> Sight:
        return await self._sights.look(tables, self.session)

    async def confirm(self, progress: str = "") -> None:
        await self.session.confirm(progress)

    async def until_lost(self) -> None:
        await self.session.until_lost()

    def hurry(self) -> None:
        self.session.hurry()

    async def last(self) -> Record | None:
        return await self.session.last()

    async def leave(self, record: Record | None) -> None:
        await self.session.leave(record)

    async def declare(self, declared: Sequence[Declaration]) -> None:
        await self.session.declare(declared)

    def claim(self, connection: Connection) -> Callable[[], None]:
        """It is on the lock's own server, and the next holder finds it by its name."""
        untag = session.tagged(connection, self.session.tag, self.session.rule)
        unlimited = session.waiting_shortly(connection)

        def undo() -> None:
            unlimited()
            untag()

        return undo

    def blockers(self) -> AbstractAsyncContextManager[Callable[[], tuple[str, ...]]]:
        return session.watched(self.session.blockers)

    async def recover(self) -> str | None:
        return await self.snapshots.recover()

    async def close_journal(self) -> None:
        await self.snapshots.close()

    async def heard(self, act: Awaitable[T], what: str) -> T:
        """Await an act of the lock's session, which takes long, while the server answers others."""
        held = self.session
        # never where a database is copied from, or swapped
        beside = held.admin.engine.url.database if held.apart else None

        async def ask() -> None:
            async with self.access.connection(beside, autocommit=True) as connection:
                await sql.rows_of(connection, "select 1")

        def cut() -> None:
            for connection in list(self.access.opened):
                session.cut(connection)

        held.acts += 1
        try:
            return await watchdog.heard(act, ask, cut, held.silence_s, what)
        finally:
            held.acts -= 1

    def exclusive(self, act: str, *, apart: bool = True) -> ExclusiveAccess:
        """Return the access to the whole database.

        Raises RefusedError where the lock is in the database itself, unless `apart` is False.
        """
        held, database = self.session, self._sights.database
        if apart and not held.apart:
            raise RefusedError(
                f"cannot {act} database {database!r}: its lock had to be taken in the "
                "database itself, as this role can reach no maintenance database; nothing was "
                "changed. Name one with Target(maintenance_database=...)"
            )
        second = self._maintenance.connection if held.apart else self._beside
        return ExclusiveAccess(held, self.access, database, second, self._empty_pools)

    def _beside(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return self.access.connection(autocommit=True)


class ServerSides(Sides):
    """Databases of the target's server."""

    def __init__(self, hold: ServerHold, snapshots: ServerSnapshots) -> None:
        self._hold, self._snapshots = hold, snapshots

    def fresh(self, stamp: str) -> AbstractAsyncContextManager[Side]:
        return sides.beside(self._hold.exclusive("rebuild"), stamp, sides.fresh)

    def copy(
        self, stamp: str, options: SnapshotOptions = DEFAULT
    ) -> AbstractAsyncContextManager[Side]:
        stoppable = Stoppable()
        make = partial(sides.copied, stoppable=stoppable, options=options)
        access = self._hold.exclusive("copy")
        return sides.beside(access, stamp, make, prepared=True, stop=stoppable.stop)

    async def ensure_replaceable(self, tables: Sequence[VersionTable]) -> None:
        await sides.ensure_replaceable(self._hold.exclusive("replace"), tables)

    async def take_over(
        self,
        side: Side,
        stamp: str,
        tables: Sequence[VersionTable],
        *,
        set_aside: bool = True,
        disconnect_others: bool = False,
    ) -> str | None:
        taken = sides.take_over(
            self._hold.exclusive("replace"),
            side,
            stamp,
            tables,
            set_aside=set_aside,
            disconnect_others=disconnect_others,
        )
        aside = await self._hold.heard(shielded(taken), "what puts a fresh database in its place")
        if aside is not None:
            self._snapshots.spare(aside)
        return aside

    async def prune_set_aside(self, limits: Limits) -> tuple[str, ...]:
        return await self._snapshots.prune_set_aside(limits)
