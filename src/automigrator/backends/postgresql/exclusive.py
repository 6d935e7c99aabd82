"""The exclusive hold on a target's whole database, through the session that holds the lock."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from pathlib import Path

from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.access import Access
from automigrator.backends.contract.sides import Known
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql import databases, libpq, settings
from automigrator.backends.postgresql.databases import GRACE_S, SecondConnection
from automigrator.backends.postgresql.dump import programs
from automigrator.backends.postgresql.errors import DISK_FULL, NO_PRIVILEGE, listed, refusing
from automigrator.backends.postgresql.locking.session import SessionHold
from automigrator.backends.postgresql.names import ensure_ours
from automigrator.backends.postgresql.neighbours import why_shared
from automigrator.backends.postgresql.sql import rows_of
from automigrator.backends.postgresql.verdict import heads_of
from automigrator.backends.postgresql.watchdog import Stoppable
from automigrator.errors import RefusedError
from automigrator.frozen import Frozen


class ExclusiveAccess(Frozen):
    """The target's whole database `live`; every change of it runs in the lock's own session.

    `second` opens another connection beside that; `empty_pools` closes our own idle sessions.
    """

    hold: SessionHold
    access: Access
    live: str
    second: SecondConnection
    empty_pools: Callable[[], Awaitable[None]]

    @property
    def admin(self) -> AsyncConnection:
        """The lock's own session, in AUTOCOMMIT."""
        return self.hold.admin

    def connection(
        self, database: str | None = None
    ) -> AbstractAsyncContextManager[AsyncConnection]:
        """Another connection, to the target or another database, in AUTOCOMMIT."""
        return self.access.connection(database, autocommit=True)

    @property
    def urls(self) -> list[URL]:
        """By which dumps are named: with the database's own name, and as older releases do."""
        url = self.access.url
        return list(dict.fromkeys((url.set(database=self.live), url)))

    async def environment(self) -> dict[str, str]:
        """The environment of a child process, named so that the lock's next holder ends it."""
        return await libpq.environment(self.access, self.hold.tag)

    async def clients(self, server: int, given: Path | str | None) -> Path:
        """Find the folder of client programs that can be told all that the application demands.

        Raises as `programs.find` and `libpq.environment` do.
        """
        return await programs.find(server, given, *await libpq.least_version(self.access))

    async def ensure_unshared(
        self, act: str, tables: Sequence[VersionTable], *, own_anywhere: bool = False
    ) -> None:
        """Raise RefusedError when the act would touch somebody else's tables.

        With `own_anywhere`, tables of this role outside the target's schemas are the target's:
        a migration has made them, most likely.
        """
        async with self.connection() as connection:
            reason = await why_shared(connection, tables, own_anywhere=own_anywhere)
        if reason is not None:
            advice = (
                ". Give the target a database of its own, or leave the strategy out for it with "
                "Target(recovery=[...])"
            )
            raise RefusedError(
                f"cannot {act}: {reason}; nothing was changed{'' if own_anywhere else advice}"
            )

    async def ensure_replaceable(self, tables: Sequence[VersionTable], known: Known) -> None:
        """Raise RefusedError when to replace the database would take somebody else's tables."""
        async with self.connection() as connection:
            reason = await why_shared(connection, tables, known=known)
        if reason is not None:
            raise RefusedError(
                f"cannot replace database {self.live!r}: {reason}; nothing was changed. Give the "
                "target a database of its own, or leave the strategy out for it with "
                "Target(recovery=[...])"
            )
        await self.ensure_not_replicated(f"replace database {self.live!r}")

    async def ensure_not_replicated(self, act: str, *, in_place: bool = False) -> None:
        """Raise RefusedError where logical replication would not follow what is put in its place.

        Slots and subscriptions belong to a database by its number, not by its name. An act
        `in_place` leaves slots with their database, and takes its tables from a subscription.
        """
        found = await rows_of(
            self.admin,
            """
            select format('subscription %I', s.subname)
            from pg_subscription s join pg_database d on d.oid = s.subdbid where d.datname = :live
            union all
            select format('logical replication slot %I', slot_name)
            from pg_replication_slots where database = :live and not :in_place
            order by 1
            """,
            live=self.live,
            in_place=in_place,
        )
        if found:
            raise RefusedError(
                f"cannot {act}: {listed([row[0] for row in found])} would stay with what is "
                "replaced, and replicate nothing that is written afterwards; nothing was changed. "
                "Drop what is named, and make it anew afterwards; or leave the strategy out for "
                "this target with Target(recovery=[...])"
            )

    async def ensure_left(
        self, act: str, *names: str, grace_s: float = GRACE_S, but_ours: bool = False
    ) -> None:
        """Raise RefusedError when somebody else stays connected to one of the databases."""
        await self.empty_pools()
        await databases.ensure_left(self.admin, act, *names, grace_s=grace_s, but_ours=but_ours)

    async def ensure_at(
        self, connection: AsyncConnection, heads: Sequence[str], tables: Sequence[VersionTable]
    ) -> None:
        """Raise RefusedError where the database of a connection is not at these heads."""
        found = await heads_of(connection, tables)
        if found != tuple(sorted(heads)):
            raise RefusedError(
                f"the database is at {', '.join(found) or 'base'}, and this run's snapshot would "
                f"have to be at {', '.join(heads) or 'base'}; nothing was changed"
            )

    @asynccontextmanager
    async def kept_alone(self, act: str, disconnect_others: bool) -> AsyncIterator[None]:
        """Context manager for locking all tables: end newcomers, or refuse when there are some."""
        if disconnect_others:
            async with databases.ending(self.second, self.live, but_ours=True):
                yield
        else:
            yield
            await databases.ensure_left(self.admin, act, self.live, but_ours=True)

    async def ensure_may_create(self, name: str) -> None:
        """Raise RefusedError where this role may not, before anybody is disconnected for it."""
        query = "select 1 from pg_roles where rolname = current_user and (rolcreatedb or rolsuper)"
        if not await rows_of(self.admin, query):
            raise RefusedError(f"{_may_not(name)}; nothing was changed. {_GRANT}")

    async def copy(
        self,
        source: str,
        name: str,
        *,
        disconnect_others: bool,
        with_comment: bool = False,
        stoppable: Stoppable | None = None,
    ) -> None:
        """Copy `source` to a new database, settings included; all of it, or RefusedError."""

        async def cancel() -> None:  # the statement, not the session: that keeps the lock
            async with self.second() as second:
                await rows_of(second, "select pg_cancel_backend(:pid)", pid=self.hold.pid)

        if disconnect_others:
            await self.empty_pools()
        else:
            await self.ensure_left(f"copy database {source!r}", source)
        # a pool reconnects until the copy has its lock
        alone = databases.ending(self.second, source) if disconnect_others else nullcontext()
        async with alone:
            with creating(name, await databases.why_no_template(self.admin, source)):
                created = await (stoppable or Stoppable()).asked(
                    lambda: databases.create(self.admin, name, template=source, closed=True),
                    cancel,
                )
            if not created:
                raise RefusedError(f"database {name!r} is there already; nothing was changed")
        try:
            await self.settle(name, source, with_comment=with_comment)
        except BaseException:
            await self.discard(name)
            raise

    async def settle(self, name: str, like: str, *, with_comment: bool = False) -> None:
        """Give a new database the settings of another, and the target's comment where asked.

        Raises RefusedError when the server refuses one of them.
        """
        comment_of = self.live if with_comment else None
        statements = await settings.statements(self.admin, like, name, comment_of=comment_of)
        refused = await settings.apply(self.admin, statements)
        if refused:
            raise RefusedError(
                f"this role may not give a copy of database {self.live!r} what belongs to it: "
                f"{listed(refused)}; nothing was changed"
            )
        await databases.open_up(self.admin, name)  # not before the grants say to whom

    async def drop(self, name: str) -> None:
        """Drop a database of ours, and end the sessions on it. Raises RefusedError for another."""
        await ensure_ours(self.admin, self.live, name)
        await databases.disconnect(self.admin, name)
        await databases.drop(self.admin, name)

    async def discard(self, name: str) -> None:
        """Drop a database of ours as well as can be; the next start drops what stays."""
        with contextlib.suppress(SQLAlchemyError, OSError, RefusedError):
            await self.drop(name)


@contextmanager
def creating(name: str, advice: str = "") -> Iterator[None]:
    """Context manager: refuse in words what the server refuses, so that another way is tried.

    `advice` is for what is neither a missing right nor a full disk.
    """
    full = f"the server has no room for database {name!r}"
    space = (
        "It takes as much as the one that it is a copy of: free space on the disk of its "
        "tablespace, then start again"
    )
    any_other = refusing(None, f"the server refused to create database {name!r}", advice)
    with (
        any_other,
        refusing(DISK_FULL, full, space),
        refusing(NO_PRIVILEGE, _may_not(name), _GRANT),
    ):
        yield


_GRANT = "Give it CREATEDB, or name a role that has it with Target(migrate_with=...)"


def _may_not(name: str) -> str:
    return f"this role may not create database {name!r}"
