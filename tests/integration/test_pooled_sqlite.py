"""An env.py may migrate on a connection out of the application's own pool; it stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic_projects import project
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import create_async_engine

from automigrator import Migrator, Target

ENV = """
import asyncio

from alembic import context

config = context.config


def run(connection):
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()


async def main():
    async with config.attributes["engine"].begin() as connection:
        await connection.run_sync(run)


asyncio.run(main())
"""


async def test_the_applications_rollback_still_rolls_back(tmp_path: Path, sqlite_url: str) -> None:
    made = project(tmp_path, "async", sqlite_url)
    (tmp_path / "migrations" / "env.py").write_text(ENV)
    engine = create_async_engine(sqlite_url, pool_size=1, max_overflow=0)

    @event.listens_for(engine.sync_engine, "connect")
    def enforced(connection: object, _: object) -> None:
        cursor = connection.cursor()  # type: ignore[attr-defined]  # a driver's
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    target = Target(engine, made.config, attributes={"engine": engine})
    report = await Migrator(target, mode="migrate").run()

    assert report.outcome == "migrated"
    async with engine.connect() as connection:
        assert (await connection.execute(text("PRAGMA foreign_keys"))).scalar() == 1
        await connection.execute(text("INSERT INTO users (id, name) VALUES (1, 'gone')"))
        await connection.rollback()
        assert (await connection.execute(text("SELECT count(*) FROM users"))).scalar() == 0
    await engine.dispose()


@pytest.mark.parametrize("journal", ["delete", "wal"])
async def test_an_application_that_locks_its_file_as_long_as_it_is_open_is_migrated(
    journal: str, tmp_path: Path, sqlite_url: str
) -> None:
    made = project(tmp_path, "async", sqlite_url)
    engine = create_async_engine(sqlite_url)

    @event.listens_for(engine.sync_engine, "connect")
    def exclusive(connection: object, _: object) -> None:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")  # type: ignore[attr-defined]
        connection.execute(f"PRAGMA journal_mode={journal}")  # type: ignore[attr-defined]

    target = Target(engine, made.config, retry_timeout=1)
    report = await Migrator(target, mode="migrate").run()

    assert report.outcome == "migrated"
    await engine.dispose()
