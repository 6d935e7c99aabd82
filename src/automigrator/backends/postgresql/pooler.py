"""Poolers in transaction mode: behind one, many processes would hold a session lock at once."""

from __future__ import annotations

import asyncio
import random

from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.access import Access
from automigrator.backends.postgresql.errors import ServerError
from automigrator.backends.postgresql.sql import rows_of

_TRIES = 12

"""A connection may get the same session again by chance, mostly where many compete for few."""

_PAUSE_S = 0.01


async def refuse_transaction_pooling(access: Access, admin: AsyncConnection, live: str) -> None:
    """Raise ServerError when the server's session changes under the connection.

    A pooler invents the process id that a client is told at the start: where the id is the
    server's own, there is no pooler. Otherwise a second connection holds a transaction open: in
    transaction mode it has, or takes, the session that the first one has just used.
    """
    if await _told(admin) == await _pid(admin):
        return
    async with access.connection(admin.engine.url.database) as other:
        for _ in range(_TRIES):
            before = await _pid(admin)
            taken = await _pid(other)  # inside a transaction, so it is kept
            if before == taken or await _pid(admin) != before:
                break
            await other.rollback()
            await asyncio.sleep(random.uniform(0, _PAUSE_S))  # many may try at the same moment
        else:
            return  # each connection keeps its session
    raise ServerError(
        "unreachable",
        f"database {live!r} is reached through a pooler in transaction mode (PgBouncer, say), "
        "where no lock can be held; nothing was changed. Give migrations a direct URL of the "
        "server: Target(migrate_with='postgresql+asyncpg://...')",
    )


async def _pid(connection: AsyncConnection) -> int:
    return int((await rows_of(connection, "select pg_backend_pid()"))[0][0])


async def _told(connection: AsyncConnection) -> int | None:
    """Return the process id that the driver was told when it connected."""
    driver = (await connection.get_raw_connection()).driver_connection
    ask = getattr(driver, "get_server_pid", None)
    if ask is not None:
        return int(ask())
    info = getattr(driver, "info", None)
    return getattr(info, "backend_pid", None)
