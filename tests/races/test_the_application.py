"""What a migration among many leaves to the application: its pool, its plans, its threads."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, create_engine, make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from support import alembic_projects, postgres_server
from support.notes_application import BROKEN, GOOD, ROWS
from support.raced_application import Raced, outcomes

from automigrator import Migrator, Target

pytestmark = pytest.mark.long(
    "and_no_other[postgresql",
    "nothing_behind[postgresql",
    "pooled_connections",
    "autogenerate",
    "wait_that_is_cancelled",
)

ADDED = 'op.add_column("notes", sa.Column("email", sa.String(20)))'
on_postgres = pytest.mark.parametrize("kind_of_database", ["postgresql"])


async def run(target: Target, *recovery: Any) -> Any:
    return (await Migrator(target, mode="migrate", recovery=recovery).run()).targets[0]


async def test_nothing_is_taken_from_a_pool_of_one_that_is_checked_out(raced: Raced) -> None:
    raced.traced(GOOD)
    engine = create_async_engine(raced.url, pool_size=1, max_overflow=0, pool_timeout=0.5)
    async with engine.connect() as connection:
        assert (await run(Target(engine, raced.config))).outcome == "migrated"
        assert (await connection.execute(text("SELECT 1"))).scalar() == 1
    await engine.dispose()


async def prepared(engine: AsyncEngine, count: int = 3) -> None:
    """Let so many pooled connections plan one query."""
    connections = [await engine.connect() for _ in range(count)]
    for connection in connections:
        await connection.execute(text("SELECT * FROM notes"))
        await connection.close()


@on_postgres
async def test_pooled_connections_of_the_leader_forget_their_plans(raced: Raced) -> None:
    raced.traced(ADDED)
    engine = create_async_engine(raced.url)
    await prepared(engine)
    assert (await run(Target(engine, raced.config))).outcome == "migrated"
    await prepared(engine)
    await engine.dispose()


@on_postgres
async def test_pooled_connections_of_those_that_waited_forget_their_plans(raced: Raced) -> None:
    raced.traced(f"{raced.slow(0.5)}\n{ADDED}")
    engine = create_async_engine(raced.url)
    await prepared(engine)
    with raced.begun(raced.start_of()) as processes:
        await asyncio.to_thread(raced.await_trace)
        assert (await run(Target(engine, raced.config))).outcome == "current"
        assert outcomes(processes.ended()) == {"migrated": 1}
    await prepared(engine)
    await engine.dispose()


def descriptors() -> list[str]:
    found = []
    for each in Path("/proc/self/fd").iterdir():
        try:
            found.append(os.readlink(each))
        except OSError:
            continue  # the one that lists them
    return found


async def test_a_wait_that_is_cancelled_leaves_nothing_behind(raced: Raced) -> None:
    raced.traced(f"{raced.slow(1.5)}\n{GOOD}")
    threads = set(threading.enumerate())
    with raced.begun(raced.start_of()) as processes:
        leader = await asyncio.to_thread(raced.await_trace)
        migrator = Migrator(raced.target(), mode="migrate")
        said = ""
        events = migrator.events()
        waiting = asyncio.create_task(migrator.run())
        async for event in events:
            if event.name == "waiting":
                said = event.data["what"]
                break
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert f":{leader} " in said or f"process {leader} " in said
        assert "1/1 r2" in said
        ours = os.getpid()
        if raced.is_postgres:
            named = f"SELECT 1 FROM pg_stat_activity WHERE application_name LIKE '%:{ours}%'"
            assert raced.rows(named) == []
        else:
            assert not [
                each for each in descriptors() if str(raced.root) in each and "lock" in each
            ]
        assert outcomes(processes.ended()) == {"migrated": 1}
    await asyncio.sleep(0.05)
    assert {each.name for each in set(threading.enumerate()) - threads} <= {"asyncio_0"}


@pytest.mark.long
def test_loops_in_threads_migrate_their_own_databases_and_no_other(
    new_application: Callable[..., Raced],
) -> None:
    applications = [new_application() for _ in range(10)]
    for number, each in enumerate(applications):
        table = f"t{number}"
        each.deploy(
            f'op.create_table("{table}", sa.Column("id", sa.Integer))\n{each.slow(0.02)}',
            f'op.execute("INSERT INTO {table} VALUES ({number})")',
        )
    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(lambda each: asyncio.run(run(each.target())), applications))
    assert {report.outcome for report in reports} == {"migrated"}
    for number, each in enumerate(applications):
        assert each.tables == {"alembic_version", "notes", f"t{number}"}
        assert each.rows(f"SELECT id FROM t{number}") == [(number,)]
        assert each.heads == {"r3"}


def autogenerated(url: str) -> list[str]:
    """What a comparison of the database with no models at all would drop."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    engine = create_engine(alembic_projects.with_sync_driver(url))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_schemas": True})
        found = [str(each) for each in compare_metadata(context, MetaData())]
    engine.dispose()
    return found


@pytest.mark.plugins
async def test_autogenerate_does_not_see_the_record_of_a_failed_leader(raced: Raced) -> None:
    raced.traced(BROKEN)
    before = autogenerated(raced.url)
    assert (await run(raced.target(), "log-and-continue")).outcome == "degraded"
    if raced.is_postgres:
        types = "SELECT 1 FROM pg_type WHERE typnamespace = 'automigrator'::regnamespace"
        assert raced.rows(types), "there is a record"
    assert autogenerated(raced.url) == before
    assert "automigrator" not in str(before)


@pytest.mark.long
@pytest.mark.plugins
@on_postgres
async def test_a_role_that_may_not_create_a_schema_gets_a_note(
    raced: Raced, postgres_server: postgres_server.Server
) -> None:
    raced.traced(BROKEN)
    name = make_url(raced.url).database
    role = f"{name}_role"
    raced.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD 'secret'",
        f"ALTER TABLE alembic_version OWNER TO {role}",
        f"ALTER TABLE notes OWNER TO {role}",
    )
    url = make_url(raced.url).set(username=role, password="secret")
    try:
        report = await run(Target(url, raced.config), "log-and-continue")
        assert report.outcome == "degraded"
        assert any("no record could be kept" in note for note in report.notes), report.notes
        raced.deploy("pass")
        assert raced.notes() == ROWS
    finally:
        raced.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER", f"DROP ROLE {role}")
