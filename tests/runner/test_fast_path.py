"""A run with nothing to do borrows an idle connection, and is not misled by what is set on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from support.alembic_projects import Project, project, revision

from automigrator import Migrator, Target


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(postgres_url, pool_size=1, max_overflow=0)
    yield engine
    await engine.dispose()


@pytest.fixture
def made(postgres_url: str, tmp_path: Path) -> Project:
    return project(tmp_path, "generic", postgres_url)


def connects(engine: AsyncEngine) -> list[object]:
    seen: list[object] = []
    event.listen(engine.sync_engine.pool, "connect", lambda connection, _: seen.append(connection))
    return seen


async def test_no_connection_is_made_where_one_lies_idle(
    engine: AsyncEngine, made: Project
) -> None:
    migrator = Migrator(Target(engine, made.config), mode="migrate")
    await migrator.run()
    async with engine.connect() as connection:
        await connection.execute(text("select 1"))
    seen = connects(engine)
    assert (await migrator.run()).outcome == "current"
    assert seen == []
    async with engine.connect():
        assert (await migrator.run()).outcome == "current"  # the only one is in use
    assert len(seen) == 1


async def test_a_search_path_that_the_application_set_does_not_mislead(
    engine: AsyncEngine, made: Project
) -> None:
    migrator = Migrator(Target(engine, made.config), mode="migrate")
    await migrator.run()
    async with engine.connect() as connection:
        await connection.execute(text("create schema other"))
        await connection.execute(text("create table other.alembic_version (version_num text)"))
        await connection.execute(text("insert into other.alembic_version values ('r4')"))
        await connection.execute(text("set search_path to other"))
        await connection.commit()
    revision(made.versions, "r4", "r3")
    report = await migrator.run()
    assert [applied.revision for applied in report.targets[0].applied] == ["r4"]


async def test_borrowing_leaves_the_connection_as_it_was(
    engine: AsyncEngine, made: Project
) -> None:
    migrator = Migrator(Target(engine, made.config), mode="migrate")
    await migrator.run()
    settings = "select name, setting from pg_settings where source = 'session' order by 1"
    async with engine.connect() as connection:
        before = (await connection.execute(text(settings))).all()
        isolation = await connection.get_isolation_level()
    assert (await migrator.run()).outcome == "current"
    async with engine.connect() as connection:
        assert (await connection.execute(text(settings))).all() == before
        assert await connection.get_isolation_level() == isolation
