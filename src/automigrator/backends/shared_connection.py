"""One connection to a database that serves many uses, one after another."""

from __future__ import annotations

import time
import weakref
from typing import Any

from sqlalchemy import AsyncAdaptedQueuePool, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine

FRESH_S = 1.0
"""Seconds for which it is believed that a connection is alive, and where the address leads.

After a fail-over a connection may live on at the old server, while every new one leads to the
promoted one: what was opened longer ago proves nothing. To ask costs more than a new connection
would now and then: four round trips before each use.
"""


class SharedConnection:
    """Connections to one database: one that lies idle is used again while it is fresh.

    `engine` makes them. `beside`: it is the application's, and they are made as it makes its own,
    outside its pool, where `most` of them are kept; 0 sets no limit.
    """

    def __init__(self, engine: AsyncEngine, *, beside: bool = False, most: int = 1) -> None:
        self.engine = _beside(engine, most) if beside else engine
        self._isolated: dict[str | None, AsyncEngine] = {None: self.engine}
        self._used_at: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()
        self._proved_at = 0.0
        pool = self.engine.sync_engine.pool
        event.listen(pool, "connect", self._connected)
        event.listen(pool, "checkin", self._used)

    def isolated(self, isolation: str | None) -> AsyncEngine:
        """Return the engine with an isolation level; None for the usual one."""
        if isolation not in self._isolated:
            made = self.engine.execution_options(isolation_level=isolation)
            self._isolated[isolation] = made
        return self._isolated[isolation]

    def prove(self, age_s: float) -> None:
        """Note that a connection opened `age_s` seconds ago led to the same server as this one."""
        self._proved_at = max(self._proved_at, time.monotonic() - age_s)

    def freshen(self) -> None:
        """Let the next use open a new connection where the idle one may be gone or lead elsewhere.

        An idle one that has died since its last use, a moment ago, fails as it would in its use.
        """
        since = time.monotonic() - FRESH_S
        for record, used_at in self._used_at.items():
            if min(used_at, self._proved_at) < since:
                record.invalidate(soft=True)

    def _connected(self, connection: DBAPIConnection, record: Any) -> None:
        self._used(connection, record)
        self.prove(0)

    def _used(self, connection: DBAPIConnection | None, record: Any) -> None:
        self._used_at[record] = time.monotonic()


def _beside(given: AsyncEngine, most: int) -> AsyncEngine:
    """An engine that connects as another one does, whatever pool that one has."""
    source = given.sync_engine.pool.recreate()  # same creator, arguments and listeners

    def connect() -> DBAPIConnection:
        made = source.connect()
        connection = made.dbapi_connection
        assert connection is not None
        made.detach()  # it counts no longer against the size of the source
        return connection

    pool = AsyncAdaptedQueuePool(
        connect, pool_size=most, max_overflow=-1, use_lifo=True, dialect=given.dialect
    )
    return AsyncEngine(Engine(pool, given.dialect, given.url))
