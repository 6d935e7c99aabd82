"""How many sessions a run opens, and how many round trips it makes, counted before the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import URL, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from support import alembic_projects
from support.doorkeeper import Doorkeeper, doorkeeper
from support.postgres_server import Server

from automigrator import Migrator, Run, Target, hookimpl
from automigrator.backends import shared_connection
from automigrator.backends.access import Access
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql.locking import advisory

pytestmark = pytest.mark.long("to_do[async-url", "to_do[generic-engine")

Make = Callable[..., Target]

TWO = partial(alembic_projects.linear, n=2)

STOCK = ["generic", "async"]
"""Alembic's own templates: a sync env.py and an async one."""

MOST_TRIPS = {"generic": 67, "async": 64}
"""Round trips of a first start with two revisions; plain Alembic makes about twenty."""


@pytest.fixture(autouse=True)
def machine_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy it is: a connection that was opened too long ago is not used again."""
    monkeypatch.setattr(shared_connection, "FRESH_S", 60.0)


@pytest.fixture
def door(postgres_url: str) -> Iterator[Doorkeeper]:
    url = make_url(postgres_url)
    with doorkeeper(str(url.host), url.port or 5432) as made:
        yield made


@pytest.fixture
def through(postgres_url: str, door: Doorkeeper) -> URL:
    """The URL of the empty database, through the door that is watched."""
    return make_url(postgres_url).set(port=door.port)


def written(url: URL) -> str:
    return url.render_as_string(hide_password=False)


async def run(target: Target) -> Any:
    return (await Migrator(target, mode="migrate").run()).targets[0]


@pytest.mark.long("generic-url", "async-engine", "generic-engine")
@pytest.mark.parametrize("given", ["engine", "url"])
@pytest.mark.parametrize("kind", STOCK)
async def test_a_stock_env_migrates_with_at_most_three(
    make_target: Make, through: URL, door: Doorkeeper, kind: str, given: str
) -> None:
    engine = create_async_engine(through)
    database = engine if given == "engine" else written(through)
    target = make_target(TWO, kind=kind, database=database)
    report = await run(target)
    assert (report.outcome, report.after) == ("migrated", ("r2",))
    assert len(door.let_in) <= 3, (report.drive, door.let_in)
    assert door.trips <= MOST_TRIPS[kind], report.drive
    await engine.dispose()


@pytest.mark.long
async def test_one_more_where_the_database_is_created(
    make_target: Make, through: URL, door: Doorkeeper, postgres_name: str
) -> None:
    target = make_target(TWO, database=written(through.set(database=postgres_name)))
    assert (await run(target)).outcome == "migrated"
    assert len(door.let_in) <= 4, door.let_in


@pytest.mark.long("async-engine")
@pytest.mark.parametrize("given", ["engine", "url"])
@pytest.mark.parametrize("kind", STOCK)
async def test_one_where_there_is_nothing_to_do(
    make_target: Make, through: URL, door: Doorkeeper, kind: str, given: str
) -> None:
    engine = create_async_engine(through)
    database = engine if given == "engine" else written(through)
    target = make_target(TWO, kind=kind, database=database)
    await run(target)
    door.let_in.clear()
    await engine.dispose()
    assert (await run(target)).outcome == "current"
    assert len(door.let_in) == 1
    await engine.dispose()


class Watching:
    """What the server knows of the target's sessions whenever a hook is called."""

    def __init__(self, server: Server, database: str) -> None:
        self.server, self.database = server, database
        self.seen: list[tuple[str, bool]] = []

    def sessions(self) -> list[tuple[str, bool]]:
        """The state of each session, and whether it keeps a transaction or a snapshot open."""
        rows = self.server.execute(
            """
            select state, xact_start is not null or backend_xmin is not null or backend_xid is not
                   null from pg_stat_activity where datname = $1
            """,
            self.database,
        )
        return [tuple(row) for row in rows]

    @hookimpl
    def before_migrate(self, run: Run) -> None:
        self.seen = self.sessions()


async def gone(watching: Watching) -> bool:
    """Whether no session is left; the server needs a moment to end one."""
    for _ in range(50):
        if not watching.sessions():
            return True
        await asyncio.sleep(0.1)
    return False


@pytest.fixture
def watching(postgres_server: Server, postgres_url: str) -> Watching:
    return Watching(postgres_server, make_url(postgres_url).database or "")


async def test_the_kept_connection_holds_nothing_and_is_closed_with_the_run(
    make_target: Make, postgres_url: str, watching: Watching
) -> None:
    target = make_target(TWO, database=postgres_url)
    await Migrator(target, mode="migrate", plugins=[watching]).run()
    assert watching.seen == [("idle", False)]
    assert await gone(watching)


async def test_a_cancelled_run_closes_it_too(
    make_target: Make, postgres_url: str, watching: Watching
) -> None:
    def sleeping(versions: Path) -> None:
        alembic_projects.revision(versions, "r1", None, upgrade='op.execute("SELECT pg_sleep(60)")')

    run = asyncio.create_task(
        Migrator(make_target(sleeping, database=postgres_url), mode="migrate").run()
    )
    for _ in range(100):
        if ("active", True) in watching.sessions():
            break
        await asyncio.sleep(0.1)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert await gone(watching)


@pytest.mark.long
async def test_a_process_that_waits_for_the_lock_is_connected_once(
    make_target: Make, postgres_server: Server, postgres_url: str, watching: Watching
) -> None:
    (key,) = advisory.keys(watching.database, [VersionTable()])
    leader = await asyncpg.connect(
        make_url(postgres_server.url(postgres_server.maintenance_database))
        .set(drivername="postgresql")
        .render_as_string(hide_password=False)
    )
    assert await leader.fetchval("select pg_try_advisory_lock($1)", key)
    migrator = Migrator(make_target(TWO, database=postgres_url), mode="migrate")
    events = migrator.events()
    run = asyncio.create_task(migrator.run())
    async for event in events:
        if event.name == "waiting":
            break
    assert await gone(watching)
    await leader.close()
    assert (await run).targets[0].outcome == "migrated"


async def pid(access: Access) -> int:
    async with access.shared() as connection:
        return int((await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one())


@pytest.mark.long("[url")
@pytest.mark.parametrize("given", ["engine", "url"])
async def test_it_is_used_again_while_it_is_fresh(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    engine = create_async_engine(postgres_url)
    access = Access(Target(engine if given == "engine" else postgres_url, tmp_path))
    assert await pid(access) != await pid(access)
    async with access.sharing():
        first = await pid(access)
        assert await pid(access) == first
        await access.let_go()
        assert await pid(access) != first
        first = await pid(access)
        monkeypatch.setattr(shared_connection, "FRESH_S", 0.0)
        assert await pid(access) != first
    await engine.dispose()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["cookbook", "async"])
async def test_a_revision_may_change_the_column_that_was_read_before(
    make_target: Make, through: URL, door: Doorkeeper, kind: str
) -> None:
    def widening(versions: Path) -> None:
        alembic_projects.revision(versions, "r1", None)
        wider = 'op.alter_column("alembic_version", "version_num", type_=sa.String(128))'
        alembic_projects.revision(versions, "r2", "r1", upgrade=wider)

    target = make_target(widening, kind=kind, database=written(through), revision="r1")
    await run(target)
    door.let_in.clear()
    report = await run(Target(target.database, target.config))
    assert (report.outcome, report.after) == ("migrated", ("r2",))
    assert len(door.let_in) <= 4
