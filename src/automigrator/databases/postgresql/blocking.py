"""Keeps a migration from standing in the way: it waits shortly for a lock, and says who has it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sqlalchemy import event, text
from sqlalchemy.engine import Connection

from automigrator.databases.access import Access
from automigrator.databases.postgresql.refusals import Session
from automigrator.databases.postgresql.sql import rows_of

LOCK_TIMEOUT = "500ms"
"""An ALTER that queues for a lock makes everybody else queue behind it, readers too."""

_WATCH_S = 0.1


def waiting_shortly(connection: Connection) -> Callable[[], None]:
    """Give every transaction of a connection a `lock_timeout`, unless it has one; undone by a call.

    Outside a transaction there is none: what waits there, as CREATE INDEX CONCURRENTLY does, is in
    nobody's way, and would leave an invalid index.
    """

    def limit(begun: Connection) -> None:
        begun.execute(_LIMIT, {"value": LOCK_TIMEOUT})

    if connection.in_transaction():
        limit(connection)
    event.listen(connection, "begin", limit)
    return lambda: event.remove(connection, "begin", limit)


_LIMIT = text("""
    select set_config('lock_timeout', :value, true) where current_setting('lock_timeout') = '0'
""")


@asynccontextmanager
async def watched(access: Access, tag: str) -> AsyncIterator[Callable[[], tuple[str, ...]]]:
    """Look again and again who blocks the sessions with this tag; the yielded call tells."""
    found: dict[int, Session] = {}

    async def watch() -> None:
        async with access.connection(autocommit=True) as connection:
            while True:
                for row in await rows_of(connection, _BLOCKERS, tag=tag):
                    found[row[0]] = Session(*row)
                await asyncio.sleep(_WATCH_S)

    watching = asyncio.create_task(watch())
    try:
        yield lambda: tuple(map(str, found.values()))
    finally:
        watching.cancel()
        await asyncio.wait({watching})
        if not watching.cancelled():
            watching.exception()  # retrieved: who is in the way is told as well as can be


_BLOCKERS = """
    select b.pid, coalesce(b.application_name, ''), coalesce(b.usename::text, ''), b.state,
           extract(epoch from clock_timestamp() - coalesce(b.xact_start, b.query_start))::float8
    from pg_stat_activity a
    cross join lateral unnest(pg_blocking_pids(a.pid)) as blocking(pid)
    join pg_stat_activity b on b.pid = blocking.pid
    where starts_with(a.application_name, :tag) and a.wait_event_type = 'Lock'
"""
