"""Connections of our own beside the application's."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from support.postgres_server import Server

from automigrator.backends.access import Access
from automigrator.target import Target


async def test_the_very_first_connections_like_the_applications_may_be_made_at_once(
    postgres_url: str, postgres_server: Server, tmp_path: Path
) -> None:
    """Two runs over one engine, say, that nobody has used before."""

    async def look(access: Access) -> int:
        async with access.connection(autocommit=True) as connection:
            return int((await connection.execute(text("SELECT 1"))).scalar_one())

    for _ in range(5):
        engine = create_async_engine(postgres_url)
        target = Target(engine, tmp_path)
        assert await asyncio.gather(*(look(Access(target)) for _ in range(8))) == [1] * 8
        await engine.dispose()

    name = make_url(postgres_url).database
    for _ in range(50):
        rows = postgres_server.execute("SELECT pid FROM pg_stat_activity WHERE datname = $1", name)
        if not rows:
            break
        await asyncio.sleep(0.1)
    assert not rows
