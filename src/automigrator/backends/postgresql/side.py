"""Databases on the side of the target's: fresh, or a copy of it, or put in its place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

from automigrator.backends.contract.examiner import TableName
from automigrator.backends.contract.sides import Contents, Known, Side, Sides
from automigrator.backends.contract.snapshots import DEFAULT, Copying, SnapshotOptions
from automigrator.backends.contract.values import Place, VersionTable
from automigrator.backends.postgresql import contents, databases
from automigrator.backends.postgresql.digests import LARGE_OBJECTS
from automigrator.backends.postgresql.dump import programs, script
from automigrator.backends.postgresql.exclusive import ExclusiveAccess, creating
from automigrator.backends.postgresql.journal import CopyEntry
from automigrator.backends.postgresql.locking.session import SessionHold
from automigrator.backends.postgresql.names import SCHEMA_OF_OURS, name_beside
from automigrator.backends.postgresql.neighbours import ensure_no_strange_code, tables_of
from automigrator.backends.postgresql.snapshot import ServerSnapshots, by_template_or_dump
from automigrator.backends.postgresql.sql import (
    begin_reading,
    end_reading,
    quoted_name,
    rows_of,
    server_version,
)
from automigrator.backends.postgresql.watchdog import Stoppable
from automigrator.errors import RefusedError
from automigrator.retention import Limits
from automigrator.support.concurrency import shielded
from automigrator.support.loggers import logger_of

logger = logger_of(__name__)

LOCK_S = 10

"""Seconds that pg_dump waits for a table that somebody has locked against readers."""

_DUMP = (
    *("-Fc", "-Z0", "--no-password", "--no-subscriptions", "-N", SCHEMA_OF_OURS),
    f"--lock-wait-timeout={LOCK_S}s",
)

_RESTORE = ("--exit-on-error", "--no-password", "-d")


@asynccontextmanager
async def _beside(
    access: ExclusiveAccess,
    stamp: str,
    make: Callable[[ExclusiveAccess, str, Stoppable], Awaitable[None]],
    *,
    prepared: bool = False,
) -> AsyncIterator[Side]:
    """Context manager: a database that `make` makes, dropped unless it took the target's place.

    The making is awaited to its end even when it is cancelled; what can be stopped of it is
    stopped then. `prepared` is as in `Access.engine`.
    """
    stoppable = Stoppable()
    name = name_beside(access.live, "side", stamp)
    engine = access.access.engine(name, prepared=prepared)
    try:
        await shielded(make(access, name, stoppable), stoppable.stop)
        yield Side(engine, access.access.url.set(database=name), name)
    finally:
        await shielded(engine.dispose())
        await shielded(access.discard(name))  # gone, once it has another name


async def _fresh(access: ExclusiveAccess, name: str, _: Stoppable) -> None:
    """Make a database like the target's when it was new; a cancellation does not stop it."""
    await access.drop(name)
    with creating(name):
        await databases.create(access.admin, name, like=access.live, closed=True)
    # now, as the migrations are to find its search_path, say
    await access.settle(name, access.live)


async def _copied(
    access: ExclusiveAccess,
    name: str,
    stoppable: Stoppable,
    options: SnapshotOptions,
    schemas: tuple[str, ...],
) -> None:
    """Copy the target: by template where nobody else is connected, else through a dump.

    `schemas`: those that are copied, through a dump; none stands for all. A dump disturbs nobody
    who reads or writes rows. Raises RefusedError with the reasons; nobody was disconnected then,
    unless the options say so.
    """
    live, others = access.live, options.disconnect_others

    async def by_template() -> str:
        await access.copy(live, name, disconnect_others=others, stoppable=stoppable)
        return "template"

    async def by_dump() -> str:
        clients = await access.clients(server_version(access.admin)[0], options.binaries)
        await _fresh(access, name, stoppable)
        async with access.connection() as connection:
            await begin_reading(connection)  # one state of the database, which pg_dump shares
            ((snapshot,),) = await rows_of(connection, "select pg_export_snapshot()")
            await ensure_no_strange_code(connection, f"copy database {live!r}")
            chosen = [f"--schema={quoted_name(each)}" for each in schemas]
            await stoppable(_piped(access, clients, name, f"--snapshot={snapshot}", *chosen))
            await end_reading(connection)
        return "pg_dump"

    await access.ensure_may_create(name)
    failed = f"database {live!r} cannot be copied"
    how_to: Copying = "dump" if schemas else options.how
    how = await by_template_or_dump(how_to, by_template, by_dump, failed)
    logger.info("database %r was copied by %s to %r", live, how, name)


async def _piped(access: ExclusiveAccess, clients: Path, name: str, *special: str) -> None:
    """Fill the empty database `name` with the target's data, as of one moment.

    `clients` is the programs' folder. Sessions that read or write rows are not disturbed. Raises
    RefusedError with a program's words.
    """
    env = await access.environment()
    source, sink = programs.pipe()
    with source, sink:
        dump = programs.run(clients / "pg_dump", *_DUMP, *special, env=env, stdout=sink)
        restore = programs.run(
            clients / "pg_restore", *_RESTORE, _conninfo(name), env=env, stdin=source
        )
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(dump)
                both.create_task(restore)
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None  # the first of them is why the other fails


def _conninfo(name: str) -> str:
    # a name with an = in it would be taken for one
    escaped = name.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{escaped}'"


class ServerSides(Sides):
    """Databases of the target's server; `access` is as in `ServerSnapshots`."""

    def __init__(
        self, hold: SessionHold, access: Callable[..., ExclusiveAccess], snapshots: ServerSnapshots
    ) -> None:
        self._hold, self._access, self._snapshots = hold, access, snapshots

    def fresh(self, stamp: str) -> AbstractAsyncContextManager[Side]:
        return _beside(self._access("rebuild"), stamp, _fresh)

    def copy(
        self, stamp: str, options: SnapshotOptions = DEFAULT, *, schemas: tuple[str, ...] = ()
    ) -> AbstractAsyncContextManager[Side]:
        make = partial(_copied, options=options, schemas=schemas)
        return _beside(self._access("copy"), stamp, make, prepared=True)

    async def ensure_replaceable(
        self,
        tables: Sequence[VersionTable],
        *,
        also: tuple[str, ...] = (),
        damaged: bool = False,
    ) -> None:
        if damaged:
            raise RefusedError(
                "damage of a server's files is not cured by another database on the same disk; "
                "nothing was changed"
            )
        await self._access("replace").ensure_replaceable(tables, Known(also=also))

    async def tables(self, place: Place) -> frozenset[TableName]:
        async with place.engine.connect() as connection:
            return await tables_of(connection)

    async def contents(self, place: Place) -> Contents:
        engine = place.engine.execution_options(isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            return await contents.contents(connection)

    async def script(self, place: Place) -> tuple[str, ...]:
        async with place.engine.connect() as connection:
            if await rows_of(connection, LARGE_OBJECTS):
                raise RefusedError("large objects cannot be written as SQL; nothing was written")
        access = self._access("dump the schema of")
        clients = await access.clients(server_version(access.admin)[0], self._hold.binaries)
        name = place.url.database or ""
        return await script.script(clients, await access.environment(), _conninfo(name))

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
        access = self._access("replace")
        live = access.live
        aside = name_beside(live, "purged" if set_aside else "replaced", stamp)

        entry = CopyEntry("migrating", (), (), tables=tuple(tables), key=self._hold.key)

        async def swap() -> None:
            await access.ensure_replaceable(tables, known or Known())
            await access.settle(side.place, live, with_comment=True)
            await side.engine.dispose()
            await access.empty_pools()
            second = access.second if disconnect_others else None
            # the old data tells of the purge until this part of the run is over
            await databases.swap(
                access.admin,
                live,
                side.place,
                aside,
                disconnect_by=second,
                comment=entry.dumped() if set_aside else None,
            )
            if set_aside:
                self._snapshots.opened(aside, entry)
            else:
                self._snapshots.doomed.add(aside)

        await self._hold.heard(shielded(swap()), "the swap that puts a fresh database in its place")
        if not set_aside:
            return None
        self._snapshots.own.add(aside)
        return aside

    async def prune_set_aside(self, limits: Limits) -> tuple[str, ...]:
        pruned = self._snapshots.pruned(limits, ("purged",))
        return await self._hold.heard(pruned, "the dropping of old databases")
