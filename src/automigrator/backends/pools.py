"""Closing the connections of an engine, those in use as soon as they are given back."""

from __future__ import annotations

import asyncio

from sqlalchemy import Pool, event
from sqlalchemy.ext.asyncio import AsyncEngine

CLOSE_S = 10.0
"""Seconds for taking leave of a server; one out of reach takes no leave."""


async def emptied(engine: AsyncEngine, limit_s: float | None = None) -> None:
    """Close an engine's idle connections now, and those in use when they come back.

    After `limit_s` seconds the server is out of reach, and they are dropped as they are. One may
    be on its way back: a task that is cancelled while closing leaves that to another task.
    """
    pool = engine.sync_engine.pool
    try:
        async with asyncio.timeout(limit_s):
            await engine.dispose()
    except TimeoutError:
        await engine.dispose(close=False)
    # not before: the engine's next pool takes over what listens to this one
    keep_none_idle(pool)


def keep_none_idle(pool: Pool) -> None:
    """Close each connection of a pool when it is given back."""
    event.listen(pool, "checkin", lambda _, record: record.invalidate())
