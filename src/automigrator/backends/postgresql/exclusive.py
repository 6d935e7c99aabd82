"""What an act on whole databases needs: the lock's session, and the target to itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.access import Access
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql import databases
from automigrator.backends.postgresql.databases import GRACE_S, Terminate
from automigrator.backends.postgresql.errors import DISK_FULL, NO_PRIVILEGE, code_of
from automigrator.backends.postgresql.libpq import environment
from automigrator.backends.postgresql.lock_session import SessionHold
from automigrator.backends.postgresql.refusals import first_words, listed
from automigrator.backends.postgresql.settings import Settings, apply_settings
from automigrator.backends.postgresql.sql import rows_of
from automigrator.backends.postgresql.watchdog import Stoppable
from automigrator.errors import RefusedError


@dataclass(frozen=True, slots=True)
class Scene:
    """`hold` has the lock, whose session runs every change of a whole database.

    `second` opens another connection beside it; `empty_pools` lets go of our own sessions.
    """

    hold: SessionHold
    access: Access
    live: str
    second: Terminate
    empty_pools: Callable[[], Awaitable[None]]

    @property
    def admin(self) -> AsyncConnection:
        """The lock's own session, in AUTOCOMMIT."""
        return self.hold.admin

    async def cancel_statement(self) -> None:
        """Have the server end what the lock's session runs, which keeps the lock."""
        async with self.second() as second:
            await rows_of(second, "select pg_cancel_backend(:pid)", pid=self.hold.pid)

    async def environment(self) -> dict[str, str]:
        """What child processes connect with, under the name by which a next holder ends them."""
        return await environment(self.access, self.hold.tag)


async def ensure_exclusive(scene: Scene, act: str, tables: Sequence[VersionTable]) -> None:
    """Raise RefusedError when the act would touch somebody else's tables."""
    reason = await shared_with(scene, tables)
    if reason is not None:
        raise RefusedError(
            f"cannot {act}: {reason}; nothing was changed. Give the target a database of its "
            "own, or leave the strategy out for it with Target(recovery=[...])"
        )


async def ensure_nobody_elses(scene: Scene, act: str, tables: Sequence[VersionTable]) -> None:
    """Raise RefusedError when there are tables of another role outside the target's schemas.

    Those of its own role are a migration's, most likely.
    """
    reason = await shared_with(scene, tables, but_own=True)
    if reason is not None:
        raise RefusedError(f"cannot {act}: {reason}; nothing was changed")


async def shared_with(
    scene: Scene, tables: Sequence[VersionTable], *, but_own: bool = False
) -> str | None:
    """Why the target does not have its database to itself; None when it has."""
    async with scene.access.connection(autocommit=True) as connection:
        current = (await rows_of(connection, "select current_schema()::text"))[0][0]
        schemas = {table.schema or current for table in tables} | {current}
        own = sorted(schemas - {None})
        return await exclusive_to_target(connection, own, tables, but_own=but_own)


async def ensure_alone(
    scene: Scene, act: str, *names: str, grace_s: float = GRACE_S, but_ours: bool = False
) -> None:
    """Raise RefusedError when somebody stays connected to one of the databases."""
    await scene.empty_pools()
    await databases.ensure_left(scene.admin, act, *names, grace_s=grace_s, but_ours=but_ours)


@asynccontextmanager
async def kept_alone(scene: Scene, act: str, disconnect_others: bool) -> AsyncIterator[None]:
    """While all tables are being locked: end who comes, or refuse when somebody has come."""
    if not disconnect_others:
        yield
        await databases.ensure_left(scene.admin, act, scene.live, but_ours=True)
        return
    async with _ending(scene, scene.live, but_ours=True):
        yield


async def copy(
    scene: Scene,
    source: str,
    name: str,
    settings: Settings,
    *,
    disconnect_others: bool,
    stoppable: Stoppable | None = None,
) -> None:
    """Copy `source` to a new database and give it `settings`; all of it, or RefusedError."""

    async def create() -> bool:
        return await databases.create(scene.admin, name, template=source)

    async with _alone(scene, source, disconnect_others), creating(scene, name):
        if not await (stoppable or Stoppable()).asked(create, scene.cancel_statement):
            raise RefusedError(f"database {name!r} is there already; nothing was changed")
    try:
        await settle(scene, name, settings)
    except BaseException:
        await discard(scene, name)
        raise


async def settle(scene: Scene, name: str, settings: Settings) -> None:
    """Give a database of ours a target's settings; raises RefusedError when one is refused."""
    refused = await apply_settings(scene.admin, name, settings)
    if refused:
        raise RefusedError(
            f"this role may not give a copy of database {scene.live!r} what belongs to it: "
            f"{listed(refused)}; nothing was changed"
        )


async def discard(scene: Scene, name: str) -> None:
    """Drop a database of ours as well as can be; the next start drops what stays."""
    with contextlib.suppress(SQLAlchemyError, OSError, RefusedError):
        await drop(scene, name)


async def drop(scene: Scene, name: str) -> None:
    """Drop a database of ours, whoever is connected to it."""
    await databases.disconnect(scene.admin, name)
    await databases.drop(scene.admin, name)


async def ensure_may_create(scene: Scene, name: str) -> None:
    """Before anybody is disconnected for it."""
    rows = await rows_of(
        scene.admin,
        "select rolcreatedb or rolsuper from pg_roles where rolname = current_user",
    )
    if not rows or not rows[0][0]:
        raise RefusedError(
            f"this role may not create database {name!r}; nothing was changed. "
            "Give it CREATEDB, or name a role that has it with Target(migrate_with=...)"
        )


@asynccontextmanager
async def creating(scene: Scene, name: str) -> AsyncIterator[None]:
    """Say what to do when the role may not create a database, or the disk is full."""
    try:
        yield
    except DBAPIError as error:
        if code_of(error) == DISK_FULL:
            raise RefusedError(
                f"the server has no room for database {name!r} ({first_words(error)}); nothing "
                "was changed. It takes as much as the one that it is a copy of: free space on the "
                "disk of its tablespace, then start again"
            ) from error
        if code_of(error) != NO_PRIVILEGE:
            raise
        raise RefusedError(
            f"this role may not create database {name!r}; nothing was changed. "
            "Give it CREATEDB, or name a role that has it with Target(migrate_with=...)"
        ) from error


@asynccontextmanager
async def _alone(scene: Scene, source: str, disconnect_others: bool) -> AsyncIterator[None]:
    if not disconnect_others:
        await ensure_alone(scene, f"copy database {source!r}", source)
        yield
        return
    await scene.empty_pools()
    async with _ending(scene, source):
        yield


@asynccontextmanager
async def _ending(scene: Scene, name: str, *, but_ours: bool = False) -> AsyncIterator[None]:
    async with scene.second() as second:
        stop = asyncio.Event()
        # a pool reconnects until the copy has its lock
        ending = asyncio.create_task(databases.keep_ending(second, stop, name, but_ours=but_ours))
        try:
            yield
        except RefusedError:
            stop.set()
            await ending  # it knows better why somebody is still connected
            raise
        finally:
            stop.set()
            await asyncio.wait({ending})
            if not ending.cancelled():
                ending.exception()  # retrieved, or asyncio complains about it


async def exclusive_to_target(
    connection: AsyncConnection,
    schemas: Sequence[str],
    version_tables: Sequence[VersionTable],
    *,
    but_own: bool = False,
) -> str | None:
    """Why a whole-database act on this connection's database would touch neighbours; None: no.

    `schemas` and `version_tables` are all the target's own. What extensions own is nobody's.
    With `but_own` tables of this role, or of the database's owner, are the target's anywhere.
    """
    owner, owns, name = (
        await rows_of(
            connection,
            """
            select pg_get_userbyid(datdba), pg_has_role(datdba, 'USAGE'), datname::text
            from pg_database where datname = current_database()
            """,
        )
    )[0]
    if not owns:
        return f"database {name!r} belongs to role {owner!r}, which this role is not a member of"
    tables = await rows_of(
        connection,
        """
        select n.nspname::text, c.relname::text, pg_table_is_visible(c.oid),
               (select array_agg(a.attname::text) = array['version_num'] from pg_attribute a
                where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
               pg_get_userbyid(c.relowner) in (current_user, :owner)
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p', 'f', 'm')
          and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
          and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass
                          and d.objid = c.oid and d.deptype = 'e')
        order by 1, 2
        """,
        owner=owner,
    )
    strangers, histories = [], []
    for schema, table, visible, looks_like_version_table, own_role in tables:
        is_own = any(
            own.name == table and (own.schema == schema or (own.schema is None and visible))
            for own in version_tables
        )
        if is_own or (but_own and own_role):
            continue
        if looks_like_version_table:
            histories.append(f"{schema}.{table}")
        elif schema not in schemas:
            strangers.append(f"{schema}.{table}")
    if histories:
        return f"database {name!r} has another history's version table: {listed(histories)}"
    if strangers:
        return f"database {name!r} has tables outside the target's schemas: {listed(strangers)}"
    return None
