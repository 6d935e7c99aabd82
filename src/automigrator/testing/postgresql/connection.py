"""One connection that sync code and code inside a running event loop may use alike."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types

LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    OSError,
)
"""What a statement raises on a connection that a stopped server has left behind."""


class ServerConnection:
    """A connection in the loop of a thread of its own; it is opened when it is first used.

    `dsn`: as asyncpg takes it. `settings`: of the session; default: the server's.
    `reconnects`: open it anew where the server has closed it; default True. One that holds a
    lock must not: the lock is gone with it.
    """

    def __init__(
        self, dsn: str, *, settings: Mapping[str, str] | None = None, reconnects: bool = True
    ) -> None:
        self._dsn, self._settings, self._reconnects = dsn, dict(settings or {}), reconnects
        self._connection: Any = None
        self._runner = asyncio.Runner()
        self._thread = ThreadPoolExecutor(1)

    def fetch(self, sql: str, *args: Any) -> list[Any]:
        """Run one statement outside a transaction and return its rows. Raises asyncpg's errors."""
        return self._run(self._fetched(sql, *args))

    def close(self) -> None:
        """Close the connection and its thread."""
        self._run(self._closed())
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()

    def _run(self, work: Coroutine[Any, Any, list[Any]]) -> list[Any]:
        return self._thread.submit(self._runner.run, work).result()

    async def _fetched(self, sql: str, *args: Any) -> list[Any]:
        if self._connection is not None:
            if not self._reconnects:
                return list(await self._connection.fetch(sql, *args))
            with suppress(*LOST):
                return list(await self._connection.fetch(sql, *args))
            self._connection.terminate()
        self._connection = None
        self._connection = await asyncpg.connect(self._dsn, server_settings=self._settings)
        return list(await self._connection.fetch(sql, *args))

    async def _closed(self) -> list[Any]:
        if self._connection is not None:
            with suppress(*LOST):
                await self._connection.close()
        return []
