"""Connections of our own beside the application's."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import aiosqlite
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from support.postgres_server import Server

from automigrator.backends.access import Access
from automigrator.target import Target


@pytest.mark.long
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


async def test_a_pool_that_logs_everything_logs_no_password(
    postgres_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It logs whatever stops a connect, and that is how the arguments of one are learnt."""
    engine = create_async_engine(postgres_url, connect_args={"password": "canary-in-the-pool"})
    with caplog.at_level(logging.DEBUG, "sqlalchemy.pool"):
        async with Access(Target(engine, tmp_path)).connection("postgres") as connection:
            await connection.execute(text("SELECT 1"))
    await engine.dispose()
    assert "Error on connect" in caplog.text
    assert "canary-in-the-pool" not in caplog.text


async def test_beside_a_creator_another_file_is_opened_all_the_same(tmp_path: Path) -> None:
    """A file proves nothing; beside a creator for a server no other database is reached."""
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{tmp_path}/app.db",
        async_creator=lambda: aiosqlite.connect(tmp_path / "app.db"),
    )
    async with Access(Target(engine, tmp_path)).connection(f"{tmp_path}/other.db") as connection:
        await connection.execute(text("CREATE TABLE t (id INT)"))
    await engine.dispose()
    assert (tmp_path / "other.db").stat().st_size
