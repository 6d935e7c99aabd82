"""What an act on whole databases needs: the lock's session, and the target to itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.databases.access import Access
from automigrator.databases.backend import VersionTable
from automigrator.databases.postgresql import whole
from automigrator.databases.postgresql.codes import DISK_FULL, NO_PRIVILEGE, code_of
from automigrator.databases.postgresql.holding import SessionHold
from automigrator.databases.postgresql.libpq import environment
from automigrator.databases.postgresql.ownership import exclusive_to_target
from automigrator.databases.postgresql.refusals import first_words, listed
from automigrator.databases.postgresql.settings import Settings, apply_settings
from automigrator.databases.postgresql.sql import rows_of
from automigrator.databases.postgresql.stopping import Stoppable
from automigrator.databases.postgresql.whole import GRACE_S, Terminate
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
    await whole.ensure_left(scene.admin, act, *names, grace_s=grace_s, but_ours=but_ours)


@asynccontextmanager
async def kept_alone(scene: Scene, act: str, disconnect_others: bool) -> AsyncIterator[None]:
    """While all tables are being locked: end who comes, or refuse when somebody has come."""
    if not disconnect_others:
        yield
        await whole.ensure_left(scene.admin, act, scene.live, but_ours=True)
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
        return await whole.create(scene.admin, name, template=source)

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
    await whole.disconnect(scene.admin, name)
    await whole.drop(scene.admin, name)


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
        ending = asyncio.create_task(whole.keep_ending(second, stop, name, but_ours=but_ours))
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
