"""The migration lock of a PostgreSQL database while it is held, and the acts that it allows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from automigrator.backends.contract.values import Sight, StatementProgress, VersionTable
from automigrator.backends.postgresql.exclusive import ExclusiveAccess
from automigrator.backends.postgresql.locking.progress import ProgressReader
from automigrator.backends.postgresql.locking.session import SessionHold
from automigrator.backends.postgresql.looks import Sights
from automigrator.backends.postgresql.maintenance import Maintenance
from automigrator.backends.postgresql.side import ServerSides
from automigrator.backends.postgresql.snapshot import ServerSnapshots
from automigrator.errors import RefusedError


@dataclass(eq=False, kw_only=True)
class ServerHold(SessionHold):
    """The lock's session, and what runs in it.

    `empty_pools` closes idle sessions of ours and of the application's, which would stand in
    the way of an act on the whole database.
    """

    sights: Sights
    maintenance: Maintenance
    empty_pools: Callable[[], Awaitable[None]]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.snapshots: ServerSnapshots = ServerSnapshots(self, self.exclusive)
        self.sides = ServerSides(self, self.exclusive, self.snapshots)
        self._reader = ProgressReader()

    async def look(self, tables: Sequence[VersionTable]) -> Sight:
        return await self.sights.look(tables, self)

    async def progress(self) -> StatementProgress | None:
        return await self._reader.read(self)

    async def recover(self) -> str | None:
        for each in self.claims:
            if each.refused:
                raise RefusedError(each.refused)
        if self.bare:
            return None
        return await self.heard(self.snapshots.recover(), "the repair of a killed migration")

    async def forget_repairs(self) -> None:
        await self.heard(self.snapshots.forget_repairs(), "the forgetting of repairs")

    async def close_journal(self) -> None:
        await self.heard(self.snapshots.close(), "the closing of the journal")

    def exclusive(self, act: str, *, apart: bool = True) -> ExclusiveAccess:
        """Return the access to the whole database.

        Raises RefusedError where the lock is in the database itself, unless `apart` is False.
        """
        self.bare, database = False, self.database
        if apart and not self.apart:
            raise RefusedError(
                f"cannot {act} database {database!r}: its lock had to be taken in the "
                "database itself, as this role can reach no maintenance database; nothing was "
                "changed. Name one with Target(maintenance_database=...)"
            )
        beside = partial(self.access.connection, autocommit=True, acting=True)
        second = partial(self.maintenance.connection, acting=True) if self.apart else beside
        return ExclusiveAccess(self, self.access, database, second, self.empty_pools)
