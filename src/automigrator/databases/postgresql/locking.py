"""The migration lock of a PostgreSQL database: advisory locks of one session, tried and never
queued for: the server could not see that a queue for one and a revision wait for each other."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.databases.backend import VersionTable
from automigrator.databases.polling import Waiting, poll
from automigrator.databases.postgresql.classifying import ServerError
from automigrator.databases.postgresql.maintenance import Maintenance, database_of
from automigrator.databases.postgresql.sql import rows_of
from automigrator.threads import to_the_end

logger = logging.getLogger(__name__)

PROTOCOL = "automigrator migration lock 1"
"""Two releases meet in a rolling deployment, so this is no version of the library."""

_SETTINGS = {
    "application_name": f"automigrator {socket.gethostname()[:40]}:{os.getpid()}",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
    "default_transaction_read_only": "off",
    "synchronous_commit": "local",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}


@dataclass(frozen=True, slots=True)
class Held:
    """The session that holds the lock; `apart` when it is not connected to the target.

    It alone runs what changes databases: a killed client does not stop its statement, and the
    lock is held until that has ended. A statement of it is never cancelled: see `to_the_end`.
    """

    admin: AsyncConnection
    apart: bool
    pid: int


def keys(database: str, tables: Sequence[VersionTable]) -> list[int]:
    """The advisory keys of a target, in the order in which everybody takes them."""
    found = set()
    for table in tables:
        parts = (PROTOCOL, database, table.schema or "", table.name)
        digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest()
        found.add(int.from_bytes(digest, signed=True))
    return sorted(found)


@asynccontextmanager
async def lock(
    maintenance: Maintenance, tables: Sequence[VersionTable], timeout_s: float, waiting: Waiting
) -> AsyncIterator[tuple[Held, float]]:
    """Hold the lock of every version table; yields its session and the seconds waited.

    Raises LockTimeoutError, and ServerError of kind read-only on a standby.
    """
    live = database_of(maintenance.access)
    wanted = keys(live, tables)
    todo = list(wanted)
    async with AsyncExitStack() as stack:
        admin, apart = await _session(maintenance, stack)
        held = Held(admin, apart, await _prepare(admin, live))

        async def acquire() -> bool:
            while todo:
                if not await _answer(held.admin, "pg_try_advisory_lock", todo[0]):
                    return False
                del todo[0]
            return True

        async def leader() -> str:
            return await _holder(held.admin, todo[0])

        waited = await poll(acquire, timeout_s, waiting, leader, f"database {live!r}")
        try:
            yield held, waited
        finally:
            # at once, and not when the server notices that the connection was closed
            with contextlib.suppress(Exception):
                await to_the_end(_release(held.admin, wanted))


async def _session(maintenance: Maintenance, stack: AsyncExitStack) -> tuple[AsyncConnection, bool]:
    if maintenance.usual:
        try:
            return await maintenance.enter(stack, maintenance.usual), True
        except ServerError as error:
            logger.info("the lock is taken in the target database itself: %s", error)
    target = maintenance.access.connection(autocommit=True)
    return await stack.enter_async_context(target), False


async def _prepare(admin: AsyncConnection, live: str) -> int:
    """Keep the application's limits from ending the session; returns its pid."""
    rows = await rows_of(
        admin,
        """
        select pg_is_in_recovery(), pg_backend_pid(), set_config(s.name, v.value, false)
        from pg_settings s
        join unnest(cast(:names as text[]), cast(:values as text[])) as v(name, value)
             on v.name = s.name
        """,
        names=list(_SETTINGS),
        values=list(_SETTINGS.values()),
    )
    standby, pid, _ = rows[0]
    if standby:
        raise ServerError(
            "read-only",
            f"the server of database {live!r} is a standby, which only replays what its primary "
            "does; nothing was changed. Point the target at the primary",
        )
    return int(pid)


async def _release(admin: AsyncConnection, wanted: Sequence[int]) -> None:
    for key in reversed(wanted):
        await _answer(admin, "pg_advisory_unlock", key)


async def _answer(admin: AsyncConnection, function: str, key: int) -> bool:
    rows = await rows_of(admin, f"select {function}(cast(:key as bigint))", key=key)
    return bool(rows[0][0])


async def _holder(admin: AsyncConnection, key: int) -> str:
    rows = await rows_of(
        admin,
        """
        select l.pid, a.application_name, host(a.client_addr)
        from pg_locks l left join pg_stat_activity a on a.pid = l.pid
        where l.locktype = 'advisory' and l.granted and l.objsubid = 1
          and l.database = (select oid from pg_database where datname = current_database())
          and (l.classid::bigint << 32 | l.objid::bigint) = cast(:key as bigint)
        """,
        key=key,
    )
    if not rows:
        return "somebody who has let go of it since"
    pid, application, address = rows[0]
    about = [part for part in (application, f"from {address}" if address else None) if part]
    return f"PostgreSQL session {pid}" + (f" ({', '.join(about)})" if about else "")
