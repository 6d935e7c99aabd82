"""What takes too long is stopped, undone, and named: the statement, the revision, the run."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, NullPool, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from support.alembic_projects import heads, linear, query, revision, tables
from support.blackhole import cable

from automigrator import ConfigurationError, Failure, MigrationError, Migrator, Target
from automigrator.migrations.isolation import alembic_to_ourselves

pytestmark = pytest.mark.long(
    "many",
    "revision[postgresql",
    "itself[postgresql",
    "limit[postgresql-given",
    "too[postgresql-given",
    "undone[postgresql-awaited",
    "[check]",
    "named[postgresql-async",
    "undone[postgresql-long-given",
    "its_limit[postgresql",
    "is_kept[0-",
    "undone[sqlite-long-given",
    "its_limit[sqlite-given",
    "limit_too[sqlite-given",
    "[sqlite-revision_timeout-False",
    "[sqlite-statement_timeout-True",
    "ignores_connection",
    "async-given",
    "generic-given",
    "awaited-own",
    "network_is_cut",
    "3s-3s",
    "beside_the_lock",
    "limit_for_itself",
    "has_the_limit_too[postgresql",
    "undone[postgresql-long-own",
    "cancellation_while_a_limit",
    "stays_full",
    "awaited-given",
    "statement_timeout-False",
    "revision_timeout-True",
)

Make = Callable[..., Target]

LIMIT_S = 15.0
LONG = {
    "sqlite": "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) "
    "SELECT count(*) FROM c",
    "postgresql": "SELECT pg_sleep(60)",
}
MANY = """
began = time.monotonic()
while time.monotonic() < began + 60:
    op.execute("SELECT 1")
"""
AWAITED = "op.run_async(lambda connection: asyncio.sleep(60))"
drives = pytest.mark.parametrize("drive", ["given", "own"])


def third(body: str) -> Callable[[Path], None]:
    def revisions(folder: Path) -> None:
        linear(folder, 2)
        made = 'op.create_table("half", sa.Column("id", sa.Integer, primary_key=True))'
        imports = "import asyncio\nimport time"
        revision(folder, "r3", "r2", imports=imports, upgrade=f"{made}\n{body.strip()}")

    return revisions


def long(url: str) -> str:
    return LONG[make_url(url).get_backend_name()]


async def failed(target: Target, **options: Any) -> Failure:
    """How a run ends that is much too long otherwise."""
    began = time.monotonic()
    with pytest.raises(MigrationError) as error:
        await Migrator(target, mode="migrate", **options).run()
    assert time.monotonic() - began < LIMIT_S
    return error.value.report.targets[0].failures[-1]


@pytest.mark.long("sqlite-async", "sqlite-generic")
@drives
@pytest.mark.parametrize("kind", ["async", "generic", "ignores_connection"])
async def test_a_statement_that_takes_too_long_is_ended_and_named(
    kind: str, drive: Any, make_target: Make, database_url: str
) -> None:
    if (kind, drive) == ("ignores_connection", "given"):
        pytest.skip("such an env.py opens a sync driver")
    statement = long(database_url)
    body = third(f"op.execute({statement!r})")

    failure = await failed(make_target(body, kind=kind, drive=drive, statement_timeout=0.5))

    assert (failure.kind, failure.revision, failure.state) == ("timeout", "r3", "clean")
    assert failure.statement == statement and "Timeouts(statement=0.5)" in failure.message
    assert tables(database_url) <= {"alembic_version"}


@pytest.mark.long
@drives
async def test_a_statement_in_an_autocommit_block_has_the_limit_too(
    drive: Any, make_target: Make, database_url: str
) -> None:
    body = f"with op.get_context().autocommit_block():\n    op.execute({long(database_url)!r})"

    failure = await failed(make_target(third(body), drive=drive, statement_timeout=0.5))

    assert (failure.kind, failure.revision) == ("timeout", "r3")
    assert failure.statement == long(database_url)


@pytest.mark.long
@pytest.mark.parametrize(("set_", "kept"), [("3s", "3s"), ("0", "30s"), ("1min", "30s")])
async def test_a_shorter_limit_of_the_servers_is_kept(
    set_: str, kept: str, make_target: Make, postgres_url: str
) -> None:
    name = make_url(postgres_url).database
    query(postgres_url, f"ALTER DATABASE \"{name}\" SET statement_timeout = '{set_}'")
    body = "op.execute(\"CREATE TABLE seen AS SELECT current_setting('statement_timeout') AS s\")"
    try:
        target = make_target(third(body), database=postgres_url, statement_timeout=30)
        await Migrator(target, mode="migrate").run()
        assert [row[0] for row in query(postgres_url, "SELECT s FROM seen")] == [kept]
    finally:
        query(postgres_url, f'ALTER DATABASE "{name}" RESET statement_timeout')


@drives
@pytest.mark.parametrize("what", ["long", "many", "awaited"])
async def test_a_revision_that_takes_too_long_is_stopped_and_undone(
    what: str, drive: Any, make_target: Make, database_url: str
) -> None:
    if (what, drive) == ("awaited", "own"):
        pytest.skip("a sync env.py cannot await")
    bodies = {"long": f"op.execute({long(database_url)!r})", "many": MANY, "awaited": AWAITED}
    target = make_target(
        third(bodies[what]), kind="per_migration", drive=drive, revision_timeout=0.5
    )

    failure = await failed(target)

    assert (failure.kind, failure.revision) == ("timeout", "r3")
    assert "r3 ran for longer than Timeouts(revision=0.5)" in failure.message
    assert failure.applied == ("r1", "r2") and failure.state == "partial-at-boundary"
    if what == "long":
        assert failure.statement == long(database_url)
    assert heads(database_url) == {"r2"} and "half" not in tables(database_url)


@drives
async def test_a_revision_busy_in_python_ends_by_itself_and_is_not_committed_after_its_limit(
    drive: Any, make_target: Make, database_url: str
) -> None:
    failure = await failed(make_target(third("time.sleep(1.6)"), drive=drive, revision_timeout=0.8))

    assert (failure.kind, failure.revision, failure.state) == ("timeout", "r3", "clean")
    assert tables(database_url) <= {"alembic_version"}


async def test_each_revision_has_the_limit_for_itself(make_target: Make, database_url: str) -> None:
    def revisions(folder: Path) -> None:
        before = None
        for name in ("r1", "r2", "r3"):
            revision(folder, name, before, imports="import time", upgrade="time.sleep(0.8)")
            before = name

    target = make_target(revisions, revision_timeout=2, statement_timeout=2)

    assert (await Migrator(target, mode="migrate").run()).outcome == "migrated"


async def test_a_cancellation_while_a_limit_is_enforced_is_raised(
    make_target: Make, sqlite_url: str
) -> None:
    body = third("time.sleep(1.5)")
    target = make_target(body, database=sqlite_url, drive="own", revision_timeout=0.2)
    migrator = Migrator(target, mode="migrate")
    running = asyncio.create_task(migrator.run())
    async for event in migrator.events():
        if event.name == "revision-started" and event.data["revision"] == "r3":
            break
    await asyncio.sleep(0.6)
    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.parametrize("what", ["check", "run"])
async def test_a_look_whose_network_is_cut_after_it_connected_ends_in_time(
    what: str, make_target: Make, postgres_url: str
) -> None:
    url = make_url(postgres_url)
    await Migrator(make_target(database=postgres_url), mode="migrate").run()
    blocking = create_async_engine(postgres_url, poolclass=NullPool)
    with cable(str(url.host), url.port or 5432) as network:
        through = url.set(host="127.0.0.1", port=network.port)
        target = make_target(
            database=through.render_as_string(hide_password=False), folder="cut", connect_timeout=2
        )
        migrator = Migrator(target, mode="migrate")
        async with blocking.begin() as blocker:
            await blocker.execute(text("LOCK TABLE alembic_version"))
            looking = asyncio.create_task(migrator.check() if what == "check" else migrator.run())
            waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation IS NOT NULL"
            while not (await blocker.execute(text(waits))).all():  # noqa: ASYNC110 - a server
                await asyncio.sleep(0.02)
            network.pull()
            began = time.monotonic()
            if what == "check":
                problem = (await asyncio.wait_for(looking, 60)).targets[0].problem
            else:
                with pytest.raises(MigrationError) as error:
                    await asyncio.wait_for(looking, 60)
                problem = error.value.report.targets[0].failures[-1]
    print(f"{time.monotonic() - began:.1f} s")
    assert problem is not None and problem.kind == "unreachable"
    assert time.monotonic() - began < LIMIT_S


LIMITS_OF_THE_ROLE = ("statement_timeout", "idle_in_transaction_session_timeout")
IDLE = "import time\ntime.sleep(0.6)\nop.execute('SELECT pg_sleep(0.6)')"


@pytest.fixture
def hurried(postgres_url: str) -> Iterator[str]:
    """The URL of a database that gives its sessions little time."""
    name = make_url(postgres_url).database
    for limit in LIMITS_OF_THE_ROLE:
        query(postgres_url, f"ALTER DATABASE \"{name}\" SET {limit} = '300ms'")
    yield postgres_url
    for limit in LIMITS_OF_THE_ROLE:
        query(postgres_url, f'ALTER DATABASE "{name}" RESET {limit}')


@pytest.mark.long("own")
@drives
async def test_zero_lifts_the_limits_that_the_server_and_the_role_set(
    drive: str, make_target: Make, hurried: str
) -> None:
    target = make_target(third(IDLE), database=hurried, drive=drive, statement_timeout=0)
    assert (await Migrator(target, mode="migrate").run()).outcome == "migrated"


@pytest.mark.long
@pytest.mark.parametrize("body", [IDLE, IDLE.splitlines()[-1]], ids=["idle", "busy"])
async def test_a_limit_of_the_roles_is_a_failure_that_says_how_to_lift_it(
    body: str, make_target: Make, hurried: str
) -> None:
    failure = await failed(make_target(third(body), database=hurried))
    assert (failure.kind, failure.state) == ("timeout", "clean")
    assert "Timeouts(statement=0)" in failure.advice


async def test_zero_is_no_limit_on_sqlite(make_target: Make, sqlite_url: str) -> None:
    target = make_target(database=sqlite_url, statement_timeout=0)
    assert (await Migrator(target, mode="migrate").run()).outcome == "migrated"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("revision_timeout", 0),
        ("load_timeout", 0),
        *itertools.product(
            ["statement_timeout", "revision_timeout", "load_timeout"],
            [-1, float("nan"), float("inf"), "5s", True, False],
        ),
    ],
)
def test_a_limit_is_seconds_above_zero(
    name: str, value: Any, make_target: Make, sqlite_url: str
) -> None:
    with pytest.raises(ConfigurationError, match=name):
        make_target(database=sqlite_url, **{name: value})


@pytest.fixture
def crowded(postgres_url: str) -> Iterator[str]:
    """The URL for a role that owns the database, and for which the server may be full."""
    url = make_url(postgres_url)
    role = f"crowded_{url.database}"
    query(postgres_url, f'CREATE ROLE "{role}" LOGIN')
    query(postgres_url, f'ALTER DATABASE "{url.database}" OWNER TO "{role}"')
    yield url.set(username=role).render_as_string(hide_password=False)
    query(postgres_url, f'ALTER DATABASE "{url.database}" OWNER TO "{url.username}"')
    query(postgres_url, f'DROP OWNED BY "{role}"')
    query(postgres_url, f'DROP ROLE "{role}"')


@pytest.mark.long
@pytest.mark.parametrize(
    ("most", "said"),
    [(0, "waiting to be let in for the lock"), (1, "waiting to be let in beside the lock")],
    ids=["for_the_lock", "beside_the_lock"],
)
async def test_a_server_that_is_full_for_a_while_is_waited_for(
    most: int,
    said: str,
    make_target: Make,
    crowded: str,
    caplog: pytest.LogCaptureFixture,
    postgres_url: str,
) -> None:
    limit = f'ALTER ROLE "{make_url(crowded).username}" CONNECTION LIMIT '
    target = make_target(database=crowded, load=lambda: query(postgres_url, limit + str(most)))
    caplog.set_level(logging.INFO, "automigrator")
    running = asyncio.create_task(Migrator(target, mode="migrate").run())
    while said not in caplog.text:
        assert not running.done(), await running
        await asyncio.sleep(0.05)
    query(postgres_url, limit + "-1")

    assert (await asyncio.wait_for(running, LIMIT_S * 2)).outcome == "migrated"


async def test_a_server_that_stays_full_is_unreachable_and_says_so(
    make_target: Make, crowded: str, postgres_url: str
) -> None:
    full = f'ALTER ROLE "{make_url(crowded).username}" CONNECTION LIMIT 0'
    target = make_target(
        database=crowded, connect_timeout=1, load=lambda: query(postgres_url, full)
    )

    failure = await failed(target)

    assert (failure.kind, failure.state) == ("unreachable", "clean")
    assert "is full: for 1 s it has taken no more connections" in failure.message


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_a_load_that_takes_too_long_is_given_up_and_named(
    asynchronous: bool, make_target: Make, sqlite_url: str
) -> None:
    done = threading.Event()

    async def waits() -> None:
        await asyncio.sleep(60)

    load = waits if asynchronous else (lambda: done.wait(60))
    try:
        failure = await failed(make_target(database=sqlite_url, load=load, load_timeout=0.3))
    finally:
        done.set()

    assert (failure.kind, failure.state) == ("timeout", "clean")
    assert "load of the target took longer than Timeouts(load=0.3)" in failure.message


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("limit", ["revision_timeout", "statement_timeout"])
async def test_bootstrap_has_the_limits_of_a_revision(
    limit: str, asynchronous: bool, make_target: Make, database_url: str
) -> None:
    statement = text(long(database_url))

    async def asynchronously(connection: AsyncConnection) -> None:
        await connection.execute(text("CREATE TABLE made (id INTEGER)"))
        await connection.execute(statement)

    def plainly(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE made (id INTEGER)"))
        connection.execute(statement)

    bootstrap = asynchronously if asynchronous else plainly
    name, options = limit.partition("_")[0], {limit: 0.5}

    failure = await failed(make_target(bootstrap=bootstrap, **options))

    assert (failure.kind, failure.state) == ("timeout", "clean")
    assert "bootstrap" in failure.message and f"Timeouts({name}=0.5)" in failure.message
    assert "made" not in tables(database_url)


async def test_a_wait_for_another_migration_of_the_process_ends_at_its_limit_and_names_it(
    make_target: Make, sqlite_url: str, tmp_path: Path
) -> None:
    other = make_target(database=f"sqlite+aiosqlite:///{tmp_path / 'other.db'}", folder="other")
    target = make_target(database=sqlite_url, lock_timeout=0.3, retry_timeout=0)

    async with alembic_to_ourselves(other):
        failure = await failed(target)

    assert (failure.kind, failure.state) == ("lock-timeout", "clean")
    assert "another migration of this process, of target 'other'" in failure.message
