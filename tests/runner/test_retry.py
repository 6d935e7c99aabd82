"""What passes by itself is tried again, without a strategy; what stays is told with its cause."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import make_url
from support.notes_application import GOOD, NOTES, Application
from support.postgres_server import Server, folder_of_one, initialise, serving

from automigrator import Event, MigrationError, Migrator, Report, hookimpl

pytestmark = pytest.mark.long(
    "outside_a_transaction", "autovacuum", "somebody_has_set", "limit_is_zero"
)

WIDER = 'op.alter_column("notes", "text", type_=sa.Text())'
CONCURRENTLY = """
with op.get_context().autocommit_block():
    op.create_index("by_text", "notes", ["text"], postgresql_concurrently=True)
"""


@pytest.fixture
def on_postgres(tmp_path: Any, postgres_url: str) -> Application:
    return Application(tmp_path, postgres_url)


class Retries:
    """Sees each retry and what was before the first, for which it lets a test wait."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.before: list[str] = []
        self.begun = asyncio.Event()

    @hookimpl
    def on_event(self, event: Event) -> None:
        if event.name == "retrying":
            self.said.append(event.data["what"])
            self.begun.set()
        elif not self.said:
            self.before.append(event.name)


@asynccontextmanager
async def session(url: str, name: str = "a report") -> AsyncIterator[Any]:
    dsn = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(dsn, server_settings={"application_name": name})
    try:
        yield connection
    finally:
        await connection.close()


async def until(connection: Any, query: str, running: asyncio.Task[Any]) -> Any:
    """Ask until there is a row; returns its first value."""
    while (found := await connection.fetchval(query)) is None:
        assert not running.done()
        await asyncio.sleep(0.05)
    return found


async def test_a_lock_that_is_let_go_of_costs_a_retry_and_no_strategy_is_asked(
    on_postgres: Application,
) -> None:
    on_postgres.deploy(WIDER)
    retries = Retries()
    async with session(on_postgres.url) as reader, session(on_postgres.url) as another:
        transaction = reader.transaction()
        await transaction.start()
        await reader.fetch("select * from notes")
        running = asyncio.create_task(on_postgres.start(plugins=[retries]))
        await retries.begun.wait()
        async with asyncio.timeout(10):  # nobody queues behind the migration
            assert await another.fetchval("select count(*) from notes") == len(NOTES)
        await transaction.rollback()
        report = await running
    (target,) = report.targets
    assert (target.outcome, target.attempts, target.failures) == ("migrated", 1, ())
    assert "lock timeout" in retries.said[0] and "in revision r2" in retries.said[0]
    assert on_postgres.heads == {"r2"}


async def test_a_lock_that_stays_is_a_failure_that_says_who_holds_it(
    on_postgres: Application,
) -> None:
    on_postgres.deploy(WIDER)
    async with session(on_postgres.url, "the nightly export") as reader, reader.transaction():
        await reader.fetch("select * from notes")
        with pytest.raises(MigrationError) as caught:
            await Migrator(on_postgres.target(retry_timeout=5), mode="migrate").run()
    (failure,) = caught.value.report.targets[0].failures
    assert (failure.kind, failure.state, failure.revision) == ("lock-timeout", "clean", "r2")
    assert "in the way: pid" in failure.message and "the nightly export" in failure.message
    assert "idle in transaction" in failure.message and "select" not in failure.message
    assert on_postgres.heads == {"r1"}


async def test_a_statement_that_waits_outside_a_transaction_is_in_nobodys_way_and_waits_on(
    on_postgres: Application,
) -> None:
    on_postgres.deploy(CONCURRENTLY)
    retries = Retries()
    async with session(on_postgres.url) as writer, session(on_postgres.url) as watcher:
        transaction = writer.transaction()
        await transaction.start()
        await writer.execute("insert into notes values (9, 'eggs')")
        running = asyncio.create_task(on_postgres.start(plugins=[retries]))
        longer_than_the_limit = """
            select 1 from pg_stat_activity where query like 'CREATE INDEX CONCURRENTLY%'
            and wait_event_type = 'Lock' and clock_timestamp() - query_start > interval '1 second'
        """
        await until(watcher, longer_than_the_limit, running)
        await transaction.commit()
        assert (await running).outcome == "migrated"
    assert retries.said == []


async def test_a_timeout_that_somebody_has_set_stays(
    on_postgres: Application, postgres_server: Server
) -> None:
    live = make_url(on_postgres.url).database
    postgres_server.execute(f"alter database {live} set lock_timeout = '7s'")
    seen = "op.execute(\"insert into notes values (7, current_setting('lock_timeout'))\")"
    on_postgres.deploy(seen)
    assert (await on_postgres.start()).outcome == "migrated"
    assert (7, "7s") in on_postgres.notes()


@pytest.mark.long
async def test_a_connection_that_is_cut_within_a_revision_is_made_anew(
    on_postgres: Application,
) -> None:
    on_postgres.deploy(GOOD, 'op.execute("select pg_sleep(20)")')
    retries = Retries()
    async with session(on_postgres.url) as killer:
        running = asyncio.create_task(on_postgres.start(plugins=[retries]))
        end = """
            select pid, pg_{}_backend(pid) from pg_stat_activity
            where query like 'select pg_sleep%' and pid not in (pg_backend_pid(), {})
        """
        ended = await until(killer, end.format("terminate", 0), running)
        await retries.begun.wait()
        assert on_postgres.tables == {"notes", "alembic_version"}
        await until(killer, end.format("cancel", ended), running)  # it may still be listed
        with pytest.raises(MigrationError) as caught:
            await running
    # the second try was ended by what is no passing thing, and is the one that is told
    assert [f.kind for f in caught.value.report.targets[0].failures] == ["timeout"]
    assert len(retries.said) == 1


async def start_while(
    application: Application, retries: Retries, begin: str, statement: str
) -> Report:
    """Start while somebody is in a transaction, who commits at the first retry."""
    application.deploy(GOOD)
    file = str(make_url(application.url).database)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute(begin)
        other.execute(statement).fetchall()
        running = asyncio.create_task(application.start(plugins=[retries]))
        await asyncio.wait_for(retries.begun.wait(), 30)
        other.execute("COMMIT")
        return await running


@pytest.fixture
def hasty(tmp_path: Any, sqlite_url: str) -> Application:
    """An application on SQLite that waits a tenth of a second for a lock."""
    return Application(tmp_path, f"{sqlite_url}?timeout=0.1")


async def test_a_writer_that_ends_costs_a_retry_on_sqlite_too(hasty: Application) -> None:
    retries = Retries()
    insert = "INSERT INTO notes VALUES (9, 'eggs')"
    report = await start_while(hasty, retries, "BEGIN IMMEDIATE", insert)
    assert (report.outcome, report.targets[0].failures) == ("migrated", ())
    assert "locked" in retries.said[0]
    assert (9, "eggs") in hasty.notes()


async def test_nothing_is_tried_again_where_the_limit_is_zero(on_postgres: Application) -> None:
    on_postgres.deploy(WIDER)
    retries = Retries()
    async with session(on_postgres.url) as reader, reader.transaction():
        await reader.fetch("select * from notes")
        target = on_postgres.target(retry_timeout=0)
        with pytest.raises(MigrationError, match="lock-timeout"):
            await Migrator(target, mode="migrate", plugins=[retries]).run()
    assert retries.said == []


async def test_a_reader_is_in_the_way_of_a_revision_and_not_of_a_look(hasty: Application) -> None:
    retries = Retries()
    report = await start_while(hasty, retries, "BEGIN", "SELECT * FROM notes")
    assert "revision-done" in retries.before  # so it was its commit, and not a look
    assert report["app"].drive == "own connection (sqlite+aiosqlite)"


@pytest.fixture
def vacuuming() -> Iterator[Server]:
    """A server whose autovacuum looks every second for something to do."""
    with folder_of_one() as place:
        initialise(place)
        with serving(place, autovacuum="on", autovacuum_naptime="1s") as (server, _):
            yield server


async def test_an_autovacuum_on_the_table_is_waited_for_so_long_that_the_server_ends_it(
    vacuuming: Server, tmp_path: Any
) -> None:
    vacuuming.create("app")
    for sql in (
        "create role plain login",  # one that is not told the type of other sessions
        "alter database app owner to plain",
        "grant all on schema public to plain",
    ):
        vacuuming.execute(sql, database="app")
    url = make_url(vacuuming.url("app")).set(username="plain")
    application = Application(tmp_path, url.render_as_string(hide_password=False))
    application.deploy(WIDER)
    application.execute(
        "alter table notes set (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = "
        "1, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1)",
        "insert into notes select n, repeat('x', 40) from generate_series(10, 50000) n",
        "update notes set text = text || 'y' where id > 9",
    )
    at_work = (
        "select 1 from pg_stat_activity where backend_type = 'autovacuum worker' "
        "and query ~ 'VACUUM.*notes'"
    )
    async with session(vacuuming.url("app")) as connection, asyncio.timeout(30):
        while not await connection.fetch(at_work):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    target = application.target(retry_timeout=8)
    retries = Retries()
    report = await Migrator(target, mode="migrate", plugins=[retries]).run()
    assert report.outcome == "migrated"
    assert any("lock timeout" in each for each in retries.said)
