"""Connections of our own that the runs of many targets use, one after another or side by side."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from automigrator.backends.pools import CLOSE_S, emptied
from automigrator.backends.shared_connection import FRESH_S, SharedConnection
from automigrator.support.concurrency import shielded

Key = tuple[Hashable, str | None]
"""How connections are made, and to which database."""

MOST_IDLE = 2
"""Databases that nobody uses at the moment, whose connections are kept for the next target."""


class KeptSession:
    """A session that has held a migration lock, holds none now, and may hold the next one.

    `known`: what the backend has learned of it. `stack` closes it.
    """

    def __init__(self, connection: Any, known: Any, stack: AsyncExitStack) -> None:
        self.connection, self.known, self.stack = connection, known, stack
        self.free_since = 0.0


class CommonConnections:
    """The connections that targets have in common.

    One run at a time has a connection, or a session for its lock. What others are done with is
    taken while it is fresh, as a `SharedConnection` is; so there are as many as runs at a time.
    """

    def __init__(self) -> None:
        self._shared: dict[Key, SharedConnection] = {}
        """The ones used last come last."""
        self._users: Counter[Key] = Counter()
        self._sessions: dict[Key, list[KeptSession]] = {}

    @asynccontextmanager
    async def used(self, key: Key) -> AsyncIterator[None]:
        """Context manager: a run may need the connections under this key again and again."""
        self._users[key] += 1
        try:
            yield
        finally:
            self._users[key] -= 1
            await shielded(self._trim())

    def shared(self, key: Key, make: Callable[[], SharedConnection]) -> SharedConnection:
        """Return the connections under this key; `make` makes them where there are none yet."""
        self._shared[key] = found = self._shared.pop(key, None) or make()
        return found

    def of(self, alike: Hashable) -> list[SharedConnection]:
        """Return the connections that are made like this, whatever their database."""
        return [each for (how, _), each in self._shared.items() if how == alike]

    async def take(self, key: Key) -> KeptSession | None:
        """Return a session that is free, and the caller's now; None where none is fresh."""
        free = self._sessions.get(key, [])
        while free:
            session = free.pop()
            if time.monotonic() - session.free_since < FRESH_S:
                return session
            await closed(session)
        return None

    def give(self, key: Key, session: KeptSession) -> None:
        """Take back a session that holds nothing."""
        session.free_since = time.monotonic()
        self._sessions.setdefault(key, []).append(session)

    async def close(self) -> None:
        """Close every connection, and each in use when it comes back."""
        sessions = [each for free in self._sessions.values() for each in free]
        self._sessions.clear()
        for session in sessions:
            await closed(session)
        await self._emptied([*self._shared])

    async def _trim(self) -> None:
        idle = [key for key in self._shared if not self._users[key]]
        await self._emptied(idle[:-MOST_IDLE])

    async def _emptied(self, keys: list[Key]) -> None:
        for shared in [self._shared.pop(key) for key in keys]:
            with suppress(Exception):
                await emptied(shared.engine, CLOSE_S)


async def closed(session: KeptSession) -> None:
    """Close a session; one whose server is out of reach takes no leave."""
    with suppress(Exception):
        async with asyncio.timeout(CLOSE_S):
            await session.stack.aclose()
