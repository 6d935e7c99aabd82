"""The migration lock of a PostgreSQL database while it is held, and the acts that it allows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from automigrator.backends.contract.checksums import Checksums
from automigrator.backends.contract.values import Sight, StatementProgress, VersionTable
from automigrator.backends.postgresql.locking.progress import ProgressReader
from automigrator.backends.postgresql.locking.session import SessionHold
from automigrator.backends.postgresql.looks import Sights
from automigrator.backends.postgresql.maintenance import Maintenance
from automigrator.errors import RefusedError
from automigrator.support.concurrency import in_thread

if TYPE_CHECKING:
    from automigrator.backends.postgresql.exclusive import ExclusiveAccess
    from automigrator.backends.postgresql.side import ServerSides
    from automigrator.backends.postgresql.snapshot import ServerSnapshots


class ServerHold(SessionHold):
    """The lock's session, and what runs in it.

    `empty_pools` closes idle sessions of ours and of the application's, which would stand in
    the way of an act on the whole database.
    """

    def __init__(
        self,
        *of: Any,
        sights: Sights,
        maintenance: Maintenance,
        empty_pools: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(*of)
        self.sights, self.maintenance, self.empty_pools = sights, maintenance, empty_pools
        self._reader = ProgressReader()

    # Most starts take no copy, and need none of the modules that do.

    @cached_property
    def snapshots(self) -> ServerSnapshots:  # type: ignore[override]  # made when first asked for
        from automigrator.backends.postgresql.snapshot import ServerSnapshots

        return ServerSnapshots(self, self.exclusive)

    @cached_property
    def sides(self) -> ServerSides:  # type: ignore[override]  # made when first asked for
        from automigrator.backends.postgresql.side import ServerSides

        return ServerSides(self, self.exclusive, self.snapshots)

    @property
    def untouched(self) -> bool:
        return "snapshots" in vars(self) and self.snapshots.untouched

    async def look(self, tables: Sequence[VersionTable]) -> Sight:
        return await self.sights.look(tables, self)

    async def progress(self) -> StatementProgress | None:
        return await self._reader.read(self)

    async def keep_checksums(self, checksums: Checksums) -> None:
        text = checksums.dumped()
        await self._keep("checksums", lambda _: text, "the checksums of the applied revisions")

    async def recover(self) -> str | None:
        for each in self.claims:
            if each.refused:
                raise RefusedError(each.refused)
        if self.bare:
            return None
        await in_thread(lambda: self.snapshots)
        return await self.heard(self.snapshots.recover(), "the repair of a killed migration")

    async def forget_repairs(self) -> None:
        await self.heard(self.snapshots.forget_repairs(), "the forgetting of repairs")

    async def close_journal(self) -> None:
        if "snapshots" in vars(self):
            await self.heard(self.snapshots.close(), "the closing of the journal")

    def exclusive(self, act: str, *, apart: bool = True) -> ExclusiveAccess:
        """Return the access to the whole database.

        Raises RefusedError where the lock is in the database itself, unless `apart` is False.
        """
        from automigrator.backends.postgresql.exclusive import ExclusiveAccess

        self.bare, self.acted, database = False, True, self.database
        if apart and not self.apart:
            raise RefusedError(
                f"cannot {act} database {database!r}: its lock had to be taken in the "
                "database itself, as this role can reach no maintenance database; nothing was "
                "changed. Name one with Target(maintenance_database=...)"
            )
        beside = partial(self.access.connection, autocommit=True, acting=True)
        second = partial(self.maintenance.connection, acting=True) if self.apart else beside
        return ExclusiveAccess(self, self.access, database, second, self.empty_pools)
