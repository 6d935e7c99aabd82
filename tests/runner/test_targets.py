"""A target's options, and several targets in one run."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from support import postgres_server
from support.alembic_projects import contents, heads, linear, query, revision, tables

from automigrator import (
    ConfigurationError,
    Decision,
    Failure,
    MigrationError,
    Migrator,
    Report,
    Run,
    Target,
    hookimpl,
)

pytestmark = pytest.mark.long(
    "[postgresql",
    "True-",
    "[sqlite-version_table-async",
    "[sqlite-version_table-bootstrap",
    "rights[False-ignores",
    "created[generic",
    "folders[generic",
    "among_several_targets",
    "[multidb",
    "False-generic",
)

Make = Callable[..., Target]

METADATA = MetaData()
Table("users", METADATA, Column("id", Integer, primary_key=True), Column("email", String(200)))


async def run(*targets: Target, **options: Any) -> Report:
    return await Migrator(*targets, mode="migrate", **options).run()


async def failure_of(*targets: Target) -> tuple[Failure, Report]:
    with pytest.raises(MigrationError) as caught:
        await run(*targets)
    report = caught.value.report
    return next(t for t in report.targets if t.outcome == "failed").failures[-1], report


def failing(folder: Path) -> None:
    linear(folder, 2)
    revision(folder, "r3", "r2", upgrade='raise LookupError("no luck")')


async def execute(url: str, *statements: str) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)
    await engine.dispose()


# Several targets.


async def test_targets_of_both_kinds_are_migrated_in_one_run_in_order(
    make_target: Make, sqlite_url: str, postgres_url: str
) -> None:
    one = make_target(folder="one", database=sqlite_url, name="one")
    two = make_target(folder="two", database=postgres_url, name="two", kind="generic")
    migrator = Migrator(one, two, mode="migrate")
    events = migrator.events()

    report = await migrator.run()

    assert report.outcome == "migrated"
    assert [(t.name, t.outcome) for t in report.targets] == [
        ("one", "migrated"),
        ("two", "migrated"),
    ]
    assert heads(sqlite_url) == heads(postgres_url) == {"r3"}
    finished = [e.target async for e in events if e.name == "target-finished"]
    assert finished == ["one", "two"]
    assert (await migrator.run()).outcome == "current"


async def test_after_a_failed_target_the_later_ones_are_not_run(
    make_target: Make, tmp_path: Path
) -> None:
    urls = {n: f"sqlite+aiosqlite:///{tmp_path / n}.db" for n in ("one", "two", "three")}
    one = make_target(folder="1", database=urls["one"])
    two = make_target(failing, folder="2", database=urls["two"])
    three = make_target(folder="3", database=urls["three"])

    with pytest.raises(MigrationError, match="no luck") as caught:
        await run(one, two, three)

    report = caught.value.report
    assert report.outcome == "failed"
    assert [(t.name, t.outcome) for t in report.targets] == [
        ("one", "migrated"),
        ("two", "failed"),
        ("three", "not-run"),
    ]
    assert isinstance(report["two"].failures[0].error, LookupError)
    assert heads(urls["one"]) == {"r3"}
    assert tables(urls["three"]) == set()


class Continuing:
    @hookimpl
    def on_failure(self, run: Run, failure: Failure) -> Decision:
        return Decision.CONTINUE


async def test_a_target_that_is_given_up_is_degraded_and_the_later_ones_are_run(
    make_target: Make, tmp_path: Path
) -> None:
    urls = {n: f"sqlite+aiosqlite:///{tmp_path / n}.db" for n in ("one", "two")}
    one = make_target(failing, folder="1", database=urls["one"])
    two = make_target(folder="2", database=urls["two"])

    report = await run(one, two, plugins=[Continuing()])

    assert report.outcome == "degraded"
    assert [t.outcome for t in report.targets] == ["degraded", "migrated"]
    assert heads(urls["one"]) == set()
    assert heads(urls["two"]) == {"r3"}


async def test_a_targets_own_strategies_take_the_place_of_the_migrators(
    make_target: Make, sqlite_url: str
) -> None:
    with pytest.raises(MigrationError):
        await run(make_target(failing, database=sqlite_url, recovery=[]), recovery=[Continuing()])


async def test_two_targets_of_one_name_are_refused(make_target: Make, tmp_path: Path) -> None:
    one = make_target(folder="1", database=f"sqlite+aiosqlite:///{tmp_path / 'a' / 'app.db'}")
    two = make_target(folder="2", database=f"sqlite+aiosqlite:///{tmp_path / 'b' / 'app.db'}")

    with pytest.raises(ConfigurationError, match=r"'app'.*name="):
        Migrator(one, two)


async def test_a_rollback_among_several_targets_needs_a_name(
    make_target: Make, tmp_path: Path
) -> None:
    urls = {n: f"sqlite+aiosqlite:///{tmp_path / n}.db" for n in ("one", "two")}
    migrator = Migrator(*(make_target(folder=n, database=urls[n]) for n in urls), mode="migrate")
    await migrator.run()

    with pytest.raises(ConfigurationError, match="one, two"):
        await migrator.rollback("r1")
    await migrator.rollback("r1", target="two")

    assert (heads(urls["one"]), heads(urls["two"])) == ({"r3"}, {"r1"})


# Databases that do not start at base.


def create_all(connection: Connection) -> str:
    METADATA.create_all(connection)
    return "head"


async def async_create_all(connection: AsyncConnection) -> str:
    await connection.run_sync(METADATA.create_all)
    return "head"


class Bootstrap:
    """A callable that is no function."""

    def __call__(self, connection: Connection) -> str:
        return create_all(connection)


class AsyncBootstrap:
    async def __call__(self, connection: AsyncConnection) -> str:
        return await async_create_all(connection)


@pytest.mark.long("postgresql", "bootstrap2", "bootstrap3", "version_table")
@pytest.mark.parametrize("bootstrap", [create_all, async_create_all, Bootstrap(), AsyncBootstrap()])
@pytest.mark.parametrize("kind", ["async", "version_table"])
async def test_a_new_database_may_be_bootstrapped_and_is_stamped(
    bootstrap: Any, kind: str, make_target: Make, database_url: str
) -> None:
    target = make_target(kind=kind, bootstrap=bootstrap)

    report = await run(target)

    assert report.outcome == "migrated"
    (done,) = report.targets
    assert (done.applied, done.after) == ((), ("r3",))
    (version_table,) = tables(database_url) - {"users"}
    assert heads(database_url, version_table) == {"r3"}
    assert (await run(target)).outcome == "current"


async def test_a_bootstrap_may_stamp_an_older_revision_and_the_rest_is_applied(
    make_target: Make, database_url: str
) -> None:
    def create_some(connection: Connection) -> str:
        connection.exec_driver_sql("CREATE TABLE users (id INTEGER PRIMARY KEY)")
        return "r1"

    report = await run(make_target(bootstrap=create_some))

    assert [a.revision for a in report.targets[0].applied] == ["r2", "r3"]
    assert heads(database_url) == {"r3"}


@pytest.mark.long
async def test_a_bootstrap_that_returns_none_goes_on_from_base(
    make_target: Make, database_url: str
) -> None:
    def create_other(connection: Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE settings (id INTEGER PRIMARY KEY)")

    target = make_target(bootstrap=create_other)

    report = await run(target)

    assert [a.revision for a in report.targets[0].applied] == ["r1", "r2", "r3"]
    assert tables(database_url) == {"settings", "users", "posts", "alembic_version"}
    assert (await run(target)).outcome == "current"


@pytest.mark.long
async def test_a_bootstrap_is_not_called_for_a_database_that_has_something(
    make_target: Make, database_url: str
) -> None:
    await run(make_target(folder="first", revision="r1"))

    def unwanted(connection: Connection) -> str:
        raise AssertionError("called")

    report = await run(make_target(folder="then", bootstrap=unwanted))

    assert [a.revision for a in report.targets[0].applied] == ["r2", "r3"]


async def test_a_bootstrap_that_fails_is_named_and_leaves_nothing(
    make_target: Make, database_url: str
) -> None:
    def half(connection: Connection) -> str:
        create_all(connection)
        raise LookupError("no luck")

    failure, _ = await failure_of(make_target(bootstrap=half))

    assert (failure.kind, failure.state) == ("hook", "clean")
    assert "bootstrap" in failure.message and "no luck" in failure.message
    assert tables(database_url) == set()


@pytest.mark.long("sqlite-3")
@pytest.mark.parametrize("answer", ["nowhere", 3])
async def test_a_bootstrap_that_names_no_revision_leaves_nothing(
    answer: Any, make_target: Make, database_url: str
) -> None:
    def wrong(connection: Connection) -> Any:
        create_all(connection)
        return answer

    failure, _ = await failure_of(make_target(bootstrap=wrong))

    assert "bootstrap" in failure.message
    assert tables(database_url) == set()


async def test_tables_without_a_version_row_are_refused_and_left_alone(
    make_target: Make, database_url: str
) -> None:
    await execute(database_url, "CREATE TABLE users (id INTEGER)", "INSERT INTO users VALUES (1)")
    before = contents(database_url)

    failure, report = await failure_of(make_target())

    assert (failure.kind, failure.state) == ("unversioned", "clean")
    assert "alembic_version" in failure.message and "baseline=" in failure.advice
    assert report.targets[0].after == ()
    assert contents(database_url) == before


@pytest.mark.long("base-applied2", "head-applied1")
@pytest.mark.parametrize(
    ("baseline", "applied"), [("r1", ["r2", "r3"]), ("head", []), ("base", ["r1", "r2", "r3"])]
)
async def test_a_baseline_says_where_the_tables_of_an_unversioned_database_are(
    baseline: str, applied: list[str], make_target: Make, database_url: str
) -> None:
    existing = "other" if baseline == "base" else "users"
    await execute(database_url, f"CREATE TABLE {existing} (id INTEGER PRIMARY KEY)")
    target = make_target(baseline=baseline)

    report = await run(target)

    assert report.outcome == "migrated"
    assert [a.revision for a in report.targets[0].applied] == applied
    assert heads(database_url) == {"r3"}
    assert (await run(target)).outcome == "current"


# What env.py is given.


def record(folder: Path, expression: str) -> Path:
    """Let env.py write down what it sees, each time."""
    env, seen = folder / "migrations" / "env.py", folder / "seen"
    line = f"\nwith open({str(seen)!r}, 'a') as file:\n    print({expression}, file=file)\n"
    env.write_text(
        env.read_text("utf-8").replace("config = context.config", f"config = context.config{line}")
    )
    return seen


async def test_attributes_and_x_arguments_reach_env(
    make_target: Make, sqlite_url: str, tmp_path: Path
) -> None:
    target = make_target(
        database=sqlite_url, attributes={"tenant": "acme"}, x=["colour=blue", "debug"]
    )
    expression = "config.attributes['tenant'], context.get_x_argument(as_dictionary=True)"
    seen = record(tmp_path, expression)

    await run(target)

    assert set(seen.read_text("utf-8").splitlines()) == {"acme {'colour': 'blue', 'debug': ''}"}


@pytest.mark.long
async def test_a_connection_attribute_of_the_applications_own_is_not_replaced(
    make_target: Make, sqlite_url: str, tmp_path: Path
) -> None:
    target = make_target(database=sqlite_url, attributes={"connection": "mine"})
    seen = record(tmp_path, "config.attributes['connection']")

    await run(target)

    assert set(seen.read_text("utf-8").splitlines()) == {"mine"}


def append(file: Path, text: str) -> None:
    file.write_text(f"{file.read_text('utf-8')}\n{text}", "utf-8")


@pytest.mark.long
async def test_each_target_may_have_a_section_of_one_ini(make_target: Make, tmp_path: Path) -> None:
    first = make_target(database=f"sqlite+aiosqlite:///{tmp_path / 'first.db'}")
    second = f"sqlite+aiosqlite:///{tmp_path / 'second.db'}"
    other = make_target(lambda folder: linear(folder, 1), folder="other", database=second)
    ini = Path(str(first.config))
    append(ini, "[second]\nscript_location = %(here)s/other/migrations\n")

    await run(first, Target(other.database, ini, section="second"))

    assert heads(str(make_url(str(first.application_url)))) == {"r3"}
    assert heads(second) == {"r1"}


async def test_a_section_without_a_script_location_is_named(
    make_target: Make, sqlite_url: str
) -> None:
    failure, _ = await failure_of(make_target(database=sqlite_url, section="absent"))

    assert "[absent]" in failure.message and "section=" in failure.message


# Which revision.


@pytest.mark.long
async def test_a_database_beyond_an_explicit_revision_is_current(
    make_target: Make, database_url: str
) -> None:
    target = make_target(revision="r2")

    assert (await run(target)).targets[0].after == ("r2",)
    assert heads(database_url) == {"r2"}
    assert (await run(target)).outcome == "current"
    await run(Target(database_url, target.config))

    beyond = await run(target)

    assert (beyond.outcome, beyond.targets[0].after) == ("current", ("r3",))
    assert heads(database_url) == {"r3"}


# load.


@pytest.mark.long("[True")
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_load_is_called_before_env_runs(
    asynchronous: bool, make_target: Make, sqlite_url: str, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"

    def load() -> None:
        seen.write_text("load\n", "utf-8")

    async def async_load() -> None:
        await asyncio.sleep(0)
        load()

    target = make_target(database=sqlite_url, load=async_load if asynchronous else load)
    record(tmp_path, "'env'")

    await run(target)

    first, *rest = seen.read_text("utf-8").splitlines()
    assert first == "load"
    assert set(rest) == {"env"}


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_load_sees_the_context_variables_of_who_runs_it(
    asynchronous: bool, make_target: Make, sqlite_url: str
) -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
    seen: list[str] = []

    async def async_load() -> None:
        seen.append(tenant.get())

    load = async_load if asynchronous else lambda: seen.append(tenant.get())
    migrator = Migrator(make_target(database=sqlite_url, load=load), mode="migrate")
    tenant.set("a")

    await migrator.run()

    assert seen == ["a"]


async def test_a_load_that_fails_is_named_and_nothing_is_changed(
    make_target: Make, database_url: str
) -> None:
    def load() -> None:
        raise LookupError("no luck")

    failure, _ = await failure_of(make_target(load=load))

    assert (failure.kind, failure.state) == ("hook", "clean")
    assert "load" in failure.message and "no luck" in failure.message
    assert tables(database_url) == set()


# Rights, servers and databases that are not there.


@pytest.fixture
def roles(postgres_server: postgres_server.Server, postgres_url: str) -> Iterator[tuple[str, str]]:
    """Two roles of the database: one may only read and write rows, one owns it."""
    database = str(make_url(postgres_url).database)
    application, owner = f"{database}_app", f"{database}_owner"
    for role in (application, owner):
        postgres_server.execute(f"create role {role} login password 'canary-{role}'")
    postgres_server.execute(f"alter database {database} owner to {owner}")
    postgres_server.execute(f"alter schema public owner to {owner}", database=database)
    yield tuple(  # type: ignore[misc]  # two of them
        make_url(postgres_url)
        .set(username=role, password=f"canary-{role}")
        .render_as_string(hide_password=False)
        for role in (application, owner)
    )
    postgres_server.drop(database)
    for role in (application, owner):
        postgres_server.execute(f"drop role {role}")


@pytest.mark.parametrize("kind", ["async", "generic", "ignores_connection"])
@pytest.mark.parametrize("as_engine", [False, True])
async def test_another_role_may_migrate_for_an_application_without_ddl_rights(
    kind: str, as_engine: bool, make_target: Make, roles: tuple[str, str]
) -> None:
    application, owner = roles
    engine = create_async_engine(owner)
    target = make_target(
        kind=kind, database=application, migrate_with=engine if as_engine else owner
    )

    report = await run(target)
    await engine.dispose()

    assert report.outcome == "migrated"
    assert heads(owner) == {"r3"}
    (owned,) = query(owner, "select distinct tableowner from pg_tables where schemaname = 'public'")
    assert owned[0] == make_url(owner).username


@pytest.mark.long
async def test_a_role_without_ddl_rights_is_told_so_without_its_password(
    make_target: Make, roles: tuple[str, str]
) -> None:
    application, owner = roles

    failure, report = await failure_of(make_target(database=application))

    assert failure.state == "clean"
    assert "permission denied" in failure.message
    assert "canary" not in f"{failure} {report} {report.to_dict()}"
    assert tables(owner) == set()


@pytest.mark.parametrize("kind", ["async", "generic", "multidb"])
async def test_a_missing_file_is_created_with_its_folders(
    kind: str, make_target: Make, tmp_path: Path
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'deep' / 'er' / 'app.db'}"
    migrator = Migrator(make_target(kind=kind, database=url), mode="migrate")
    events = migrator.events()

    report = await migrator.run()

    assert report.outcome == "migrated"
    assert heads(url) == {"r3"}
    assert "created" in [event.name async for event in events]


@pytest.mark.parametrize("kind", ["async", "generic", "multidb"])
async def test_a_missing_postgresql_database_is_created(
    kind: str,
    make_target: Make,
    postgres_name: str,
    postgres_server: postgres_server.Server,
) -> None:
    url = postgres_server.url(postgres_name)

    report = await run(make_target(kind=kind, database=url))

    assert report.outcome == "migrated"
    assert heads(url) == {"r3"}


async def test_a_missing_file_is_not_created_when_that_is_forbidden(
    make_target: Make, tmp_path: Path
) -> None:
    file = tmp_path / "not" / "there" / "app.db"

    failure, _ = await failure_of(make_target(database=f"sqlite+aiosqlite:///{file}", create=False))

    assert (failure.kind, failure.state) == ("unreachable", "clean")
    assert str(file) in failure.message and "create=False" in failure.message
    assert not (tmp_path / "not").exists()


async def test_a_missing_postgresql_database_is_not_created_when_that_is_forbidden(
    make_target: Make, postgres_name: str, postgres_server: postgres_server.Server
) -> None:
    failure, _ = await failure_of(
        make_target(database=postgres_server.url(postgres_name), create=False)
    )

    assert failure.kind == "unreachable"
    assert postgres_name in failure.message
    assert postgres_server.databases(postgres_name) == []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def forwarding(port: int, url: str) -> AsyncIterator[None]:
    """Let `port` lead to the server of `url`."""
    live = make_url(url)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs = await asyncio.open_connection(live.host, live.port)
        await asyncio.gather(pump(reader, theirs[1]), pump(theirs[0], writer))

    async with await asyncio.start_server(accept, "127.0.0.1", port):
        yield


async def test_a_server_that_is_not_up_yet_is_waited_for(
    make_target: Make, postgres_url: str
) -> None:
    port = free_port()
    early = make_url(postgres_url).set(host="127.0.0.1", port=port)
    migrator = Migrator(make_target(database=early), mode="migrate")
    events = migrator.events()
    running = asyncio.create_task(migrator.run())
    await asyncio.sleep(0.4)
    assert not running.done()

    async with forwarding(port, postgres_url):
        report = await asyncio.wait_for(running, 10)

    assert report.outcome == "migrated"
    assert heads(postgres_url) == {"r3"}
    waited = [e.data["what"] async for e in events if e.name == "waiting"]
    assert waited and set(waited) == {"the database server"}


async def test_a_server_that_never_comes_up_is_given_up_at_the_limit(make_target: Make) -> None:
    url = f"postgresql+asyncpg://someone:canary@127.0.0.1:{free_port()}/app"
    began = time.monotonic()

    failure, report = await failure_of(make_target(database=url, connect_timeout=0.5))

    assert time.monotonic() - began < 3
    assert (failure.kind, failure.state) == ("unreachable", "clean")
    assert "canary" not in f"{failure} {report} {report.to_dict()}"
