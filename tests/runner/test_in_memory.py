"""Databases that the application has open itself: in memory, or in a pool that is in use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import StaticPool, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from support.alembic_projects import heads, linear, revision
from support.process_state import unchanged_process

from automigrator import ConfigurationError, MigrationError, Migrator, Target

pytestmark = pytest.mark.long("postgresql")

Make = Callable[..., Target]

SHARED = "sqlite+aiosqlite:///file:automigrator?mode=memory&cache=shared&uri=true"


def in_memory(url: str) -> AsyncEngine:
    return create_async_engine(url, poolclass=StaticPool)


async def rows(engine: AsyncEngine, sql: str) -> list[tuple[object, ...]]:
    async with engine.connect() as connection:
        return [tuple(row) for row in (await connection.exec_driver_sql(sql)).all()]


@pytest.mark.long(
    "[generic-sqlite+aiosqlite://]",
    "generic-sqlite+aiosqlite:///file",
    "[async-sqlite+aiosqlite:///:",
    "[async-sqlite+aiosqlite://]",
    "[cookbook",
    "[ignores_connection-sqlite+aiosqlite://]",
    "[ignores_connection-sqlite+aiosqlite:///file",
)
@pytest.mark.filterwarnings("ignore:Selection of the StaticPool")  # by an env.py's own engine
@pytest.mark.parametrize("url", ["sqlite+aiosqlite://", "sqlite+aiosqlite:///:memory:", SHARED])
@pytest.mark.parametrize("kind", ["generic", "async", "cookbook", "ignores_connection"])
async def test_a_database_in_memory_is_migrated_on_the_applications_own_connection(
    url: str, kind: str, make_target: Make
) -> None:
    engine = in_memory(url)
    target = make_target(kind=kind, database=engine)
    await rows(engine, "SELECT 1")

    with unchanged_process():
        report = await Migrator(target, mode="migrate").run()

    assert report.outcome == "migrated"
    assert await rows(engine, "SELECT version_num FROM alembic_version") == [("r3",)]
    async with engine.begin() as connection:
        await connection.exec_driver_sql("INSERT INTO users VALUES (1, 'ada', NULL)")
    assert (await Migrator(target, mode="migrate").run()).outcome == "current"
    assert await rows(engine, "SELECT name FROM users") == [("ada",)]
    await engine.dispose()


async def test_the_applications_connection_is_given_back_as_it_was(make_target: Make) -> None:
    engine = in_memory("sqlite+aiosqlite://")

    @event.listens_for(engine.sync_engine, "connect")
    def _enforce(connection: object, record: object) -> None:
        connection.execute("PRAGMA foreign_keys=ON")  # type: ignore[attr-defined]

    await Migrator(make_target(database=engine), mode="migrate").run()

    assert await rows(engine, "PRAGMA foreign_keys") == [(1,)]
    async with engine.connect() as connection:
        raw = (await connection.get_raw_connection()).driver_connection
        assert raw is not None
        assert not raw.in_transaction
        assert raw.isolation_level == ""
    await engine.dispose()


async def test_a_failed_revision_is_rolled_back_in_memory_too(make_target: Make) -> None:
    def failing(folder: Path) -> None:
        linear(folder, 2)
        revision(folder, "r3", "r2", upgrade='raise LookupError("no luck")')

    engine = in_memory("sqlite+aiosqlite://")

    with pytest.raises(MigrationError, match="no luck"):
        await Migrator(make_target(failing, database=engine), mode="migrate").run()

    assert await rows(engine, "SELECT name FROM sqlite_master WHERE name = 'users'") == []
    await engine.dispose()


async def test_the_url_alone_of_a_database_in_memory_is_refused(make_target: Make) -> None:
    target = make_target(database="sqlite+aiosqlite://")

    with pytest.raises(ConfigurationError, match="StaticPool"):
        Migrator(target)


@pytest.mark.long("sqlite-async", "ignores")
@pytest.mark.parametrize("kind", ["generic", "async", "ignores_connection"])
async def test_open_pooled_connections_see_the_migrated_database(
    kind: str, make_target: Make, database_url: str, versions: Path
) -> None:
    engine = create_async_engine(database_url, pool_size=2)
    target = make_target(lambda folder: linear(folder, 2), kind=kind, database=engine)
    await Migrator(target, mode="migrate").run()
    async with engine.begin() as connection:
        await connection.exec_driver_sql("INSERT INTO users VALUES (1, 'ada')")
    assert await rows(engine, "SELECT * FROM users") == [(1, "ada")]
    linear(versions, 3)

    report = await Migrator(target, mode="migrate").run()

    assert report.outcome == "migrated"
    assert await rows(engine, "SELECT * FROM users") == [(1, "ada", None)]
    await engine.dispose()


async def test_a_connection_the_application_has_checked_out_stays_its_own(
    make_target: Make, database_url: str
) -> None:
    engine = create_async_engine(database_url, pool_size=1, max_overflow=0)
    target = make_target(database=engine)
    async with engine.connect() as mine:
        await mine.exec_driver_sql("SELECT 1")
        await mine.rollback()

        report = await Migrator(target, mode="migrate").run()

        assert report.outcome == "migrated"
        assert (await mine.exec_driver_sql("SELECT count(*) FROM users")).scalar() == 0
        await mine.invalidate()  # the pool it came from has been disposed of
    assert heads(database_url) == {"r3"}
    await engine.dispose()
