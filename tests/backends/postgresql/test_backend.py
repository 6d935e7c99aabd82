"""The PostgreSQL backend: looking, locking, classifying, snapshots, replacement."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import URL, NullPool, create_engine, event, make_url, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from support.postgres_backends import Do, made, silent
from support.postgres_server import Server, stoppable

from automigrator.backends.access import Access
from automigrator.backends.contract.snapshots import SnapshotOptions
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql import lock
from automigrator.backends.postgresql.backend import PostgreSQL
from automigrator.backends.postgresql.looks import Sights
from automigrator.backends.postgresql.maintenance import Maintenance
from automigrator.backends.registry import backend_for
from automigrator.errors import LockLostError, LockTimeoutError, RefusedError
from automigrator.retention import Limits
from automigrator.target import Target

TABLE = VersionTable()
TABLES = [TABLE]
VERSIONS = "create table {} (version_num varchar(32) primary key)"

Make = Callable[..., PostgreSQL]


@pytest.fixture
def backend(postgres_url: str) -> PostgreSQL:
    return made(postgres_url)


@pytest.fixture
def role(postgres_server: Server, live: str) -> Iterator[str]:
    """A role that may log in and nothing else."""
    name = f"{live}_role"
    postgres_server.execute(f"create role {name} login")
    yield name
    postgres_server.drop_all(live)
    postgres_server.execute(f"drop role {name}")


def stamped(server: Server, database: str, head: str) -> None:
    for statement in (
        "create table if not exists alembic_version (version_num varchar(32) primary key)",
        "delete from alembic_version",
        f"insert into alembic_version values ('{head}')",
    ):
        server.execute(statement, database=database)


# Looking and creating


async def test_an_absent_database_is_an_answer_and_stays_absent(
    postgres_server: Server, postgres_name: str
) -> None:
    sight = await made(postgres_server.url(postgres_name)).look(TABLES)
    assert not sight.exists and sight.heads == {TABLE: None}
    assert postgres_server.databases(postgres_name) == []


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_creating_says_whether_it_did(
    postgres_server: Server, postgres_name: str, driver: str
) -> None:
    url = make_url(postgres_server.url(postgres_name)).set(drivername=f"postgresql+{driver}")
    backend = PostgreSQL(Access(Target(create_async_engine(url), Path(__file__))), None)
    assert not (await backend.look(TABLES)).exists
    assert await backend.create()
    assert not await backend.create()
    assert (await backend.look(TABLES)).exists


async def test_of_many_that_create_at_once_exactly_one_did(
    postgres_server: Server, postgres_name: str
) -> None:
    backends = [made(postgres_server.url(postgres_name)) for _ in range(6)]
    created = await asyncio.gather(*(each.create() for each in backends))
    assert sorted(created) == [False] * 5 + [True]


async def test_a_role_that_may_not_create_is_told_what_to_do(
    postgres_server: Server, postgres_name: str, role: str
) -> None:
    url = make_url(postgres_server.url(postgres_name)).set(username=role)
    with pytest.raises(Exception, match="give the role CREATEDB") as caught:
        await made(url).create()
    assert made(url).classify(caught.value).kind == "auth"


async def test_without_a_maintenance_database_absence_is_not_believed(
    postgres_server: Server, postgres_name: str
) -> None:
    backend = made(postgres_server.url(postgres_name), f"{postgres_name}_either")
    with pytest.raises(DBAPIError) as caught:
        await backend.look(TABLES)
    assert backend.classify(caught.value).kind == "unreachable"
    with pytest.raises(Exception, match=r"Target\(maintenance_database=") as caught_too:
        await backend.create()
    assert backend.classify(caught_too.value).kind == "unreachable"


async def test_a_database_that_is_listed_but_not_found_by_a_connection_is_not_absent(
    postgres_server: Server, live: str, postgres_name: str
) -> None:
    """As during a swap: the connection asks for a name, the catalog has another."""
    access = made(postgres_server.url(postgres_name)).access
    sights = Sights(access, live, Maintenance(access, None).connection)
    with pytest.raises(DBAPIError, match="does not exist"):
        await sights.look(TABLES, None)


async def test_heads_are_seen_per_version_table_and_schema(
    backend: PostgreSQL, do: Callable[..., Any]
) -> None:
    there, odd = VersionTable("alembic_version", "meta"), VersionTable('Odd:"Name', "public")
    do(
        "create schema meta",
        VERSIONS.format("meta.alembic_version"),
        VERSIONS.format('"Odd:""Name"'),
        "insert into meta.alembic_version values ('b'), ('a')",
    )
    sight = await backend.look([TABLE, there, odd, VersionTable("x", "no_such_schema")])
    assert sight.heads[TABLE] is None
    assert sight.heads[there] == ("a", "b")
    assert sight.heads[odd] == ()


@pytest.mark.parametrize(
    ("statements", "asked", "expected"),
    [
        ((), TABLE, False),
        ((VERSIONS.format("alembic_version"),), TABLE, False),
        (("create table users ()",), TABLE, True),
        (("create table users (a int) partition by list (a)",), TABLE, True),
        (("create schema theirs", "create table theirs.users ()"), TABLE, False),
        (("create extension if not exists plpgsql", "create view v as select 1"), TABLE, False),
        (("create schema m", "create table users ()"), VersionTable(schema="m"), True),
        (("create schema m", "create table m.users ()"), VersionTable(schema="m"), True),
        (
            ("create schema m", "create table users ()", VERSIONS.format("alembic_version")),
            VersionTable(schema="m"),
            False,
        ),
        (("create schema m",), VersionTable(schema="m"), False),
    ],
)
async def test_only_tables_that_may_be_the_targets_count(
    backend: PostgreSQL,
    do: Callable[..., Any],
    statements: tuple[str, ...],
    asked: VersionTable,
    expected: bool,
) -> None:
    do(*statements)
    assert (await backend.look([asked])).has_tables is expected


async def test_a_locked_version_table_ends_a_look_with_a_lock_timeout(
    backend: PostgreSQL, postgres_server: Server, live: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from automigrator.backends.postgresql import reader

    stamped(postgres_server, live, "r1")
    monkeypatch.setattr(reader, "_PLACES", reader._PLACES.replace("'10s'", "'100ms'"))
    engine = create_async_engine(postgres_server.url(live), poolclass=NullPool)
    async with engine.connect() as other:
        await other.execute(text("lock table alembic_version in access exclusive mode"))
        with pytest.raises(DBAPIError) as caught:
            await backend.look(TABLES)
    assert backend.classify(caught.value).kind == "lock-timeout"


async def test_an_invalid_index_is_debris(backend: PostgreSQL, do: Callable[..., Any]) -> None:
    do("create table t (id int)", "insert into t values (1), (1)")
    assert await backend.debris() == ()
    with pytest.raises(asyncpg.UniqueViolationError):
        do("create unique index concurrently t_id on t (id)")
    assert "public.t_id" in (await backend.debris())[0]


# Locking


async def test_one_holder_at_a_time_and_the_other_is_told_who(
    backend: PostgreSQL, postgres_url: str, live: str
) -> None:
    told: list[str] = []
    async with backend.lock(TABLES, 5, silent):
        began = time.monotonic()
        with pytest.raises(
            TimeoutError, match=f"{live}.*held by PostgreSQL session .*automigrator"
        ) as caught:
            async with made(postgres_url).lock(TABLES, 0.2, lambda _, who: told.append(who)):
                pass
        assert 0.2 <= time.monotonic() - began < 3
        assert backend.classify(caught.value).kind == "lock-timeout"
        async with made(postgres_url).lock([VersionTable("another")], 1, silent):
            pass
    assert told
    async with made(postgres_url).lock(TABLES, 1, silent) as hold:
        assert hold.waited_s < 1


async def test_several_version_tables_are_locked_together_in_one_order(
    backend: PostgreSQL, postgres_url: str
) -> None:
    both = [VersionTable("a"), VersionTable("b")]
    assert lock.keys("x", both) == lock.keys("x", both[::-1])

    async def turn(tables: list[VersionTable]) -> None:
        async with made(postgres_url).lock(tables, 20, silent):
            await asyncio.sleep(0.02)

    await asyncio.gather(*(turn(both if n % 2 else both[::-1]) for n in range(6)))
    async with backend.lock([both[1]], 1, silent):
        with pytest.raises(TimeoutError):
            async with made(postgres_url).lock(both, 0.1, silent):
                pass
        async with made(postgres_url).lock([both[0]], 1, silent):
            pass


async def test_the_lock_leaves_the_target_free_of_sessions_and_of_transactions(
    backend: PostgreSQL, postgres_server: Server, live: str
) -> None:
    async with backend.lock(TABLES, 1, silent):
        rows = postgres_server.execute(
            "select datname, state, xact_start from pg_stat_activity "
            "where starts_with(application_name, 'automigrator ')"
        )
        assert [tuple(row) for row in rows] == [("postgres", "idle", None)]


async def test_without_a_maintenance_database_the_lock_is_in_the_target(
    postgres_url: str, live: str
) -> None:
    first, second = (made(postgres_url, "no_such_database") for _ in range(2))
    async with first.lock(TABLES, 1, silent):
        with pytest.raises(TimeoutError):
            async with second.lock(TABLES, 0.1, silent):
                pass


async def test_those_who_reach_other_maintenance_databases_share_the_lock(
    backend: PostgreSQL, postgres_server: Server, postgres_name: str, postgres_url: str
) -> None:
    desk = f"{postgres_name}_desk"
    postgres_server.execute(f"create database {desk}")
    elsewhere = made(postgres_url, desk)
    for first, second in ((backend, elsewhere), (elsewhere, backend)):
        told: list[str] = []
        async with first.lock(TABLES, 5, silent):
            with pytest.raises(LockTimeoutError, match="PostgreSQL session"):
                async with second.lock(TABLES, 0.2, lambda _, who, told=told: told.append(who)):
                    pass
            assert told and told[0].startswith("PostgreSQL session")
        async with second.lock(TABLES, 5, silent):
            pass


async def test_many_in_several_maintenance_databases_take_turns(
    postgres_server: Server, postgres_name: str, postgres_url: str
) -> None:
    desk = f"{postgres_name}_desk"
    postgres_server.execute(f"create database {desk}")
    inside: list[int] = []
    most: list[int] = []

    async def lead(number: int) -> None:
        # the target itself is where those lock who reach no maintenance database
        maintenance = (None, desk, f"{postgres_name}_none")[number % 3]
        async with made(postgres_url, maintenance).lock(TABLES, 60, silent):
            inside.append(number)
            most.append(len(inside))
            await asyncio.sleep(0.01)
            inside.remove(number)

    await asyncio.gather(*(lead(number) for number in range(12)))
    assert most == [1] * 12


async def test_a_lock_whose_session_is_another_one_by_now_is_lost(backend: PostgreSQL) -> None:
    """A pooler may hand the same session back as long as that is watched, and another later."""
    async with backend.lock(TABLES, 1, silent) as hold:
        await hold.confirm()
        hold.session.pid += 1
        with pytest.raises(LockLostError, match="pooler in transaction mode"):
            await hold.confirm()


async def test_a_cancelled_wait_leaves_no_lock(backend: PostgreSQL, postgres_url: str) -> None:
    async def wait() -> None:
        async with made(postgres_url).lock(TABLES, 30, silent):
            pass

    async with backend.lock(TABLES, 1, silent):
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0.2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with made(postgres_url).lock(TABLES, 1, silent):
        pass


def test_the_keys_of_a_target_never_change() -> None:
    """Two releases that meet in a rolling deployment must lock each other out."""
    assert lock.keys("app", [TABLE, VersionTable("v", "s")]) == [
        3751124143632928745,
        8132862976386083798,
    ]
    assert lock.keys("app", [VersionTable(schema="public")]) == lock.keys("app", [TABLE])


# Connections that env.py opened


async def test_drivers_agree_on_which_database_it_is(
    backend: PostgreSQL, postgres_server: Server, postgres_url: str
) -> None:
    async def through(url: URL | str) -> Any:
        engine = create_async_engine(url, poolclass=NullPool)
        async with engine.connect() as connection:
            await connection.execute(text("set timezone to 'Asia/Tokyo'"))
            return await connection.run_sync(backend.sessions.identity)

    ours = await through(postgres_url)
    psycopg = make_url(postgres_url).set(drivername="postgresql+psycopg")
    assert await through(psycopg) == ours
    engine = create_engine(psycopg, poolclass=NullPool)
    with engine.connect() as connection:
        assert backend.sessions.identity(connection) == ours
    assert await through(postgres_server.admin) != ours


@pytest.mark.parametrize(
    "statement",
    [
        "set search_path to other",
        "set role pg_monitor",
        "set session characteristics as transaction read only",
    ],
)
async def test_what_env_py_set_on_its_connection_shows(backend: PostgreSQL, statement: str) -> None:
    engine = backend.engine()
    states = []
    for each in ("select 1", "select 2", statement):
        async with engine.connect() as connection:
            await connection.execute(text(each))
            await connection.commit()
            states.append(await connection.run_sync(backend.sessions.state))
            await connection.invalidate()
    await backend.release(engine)
    assert states[0] == states[1] != states[2]


async def test_a_version_table_is_found_again_from_a_connection_with_another_search_path(
    backend: PostgreSQL, do: Callable[..., Any]
) -> None:
    do("create schema tenant", VERSIONS.format("tenant.alembic_version"))
    await backend.look(TABLES)

    def resolved(connection: Connection) -> VersionTable:
        return backend.sessions.resolve(connection, TABLE)

    engine = backend.engine()
    async with engine.connect() as connection:
        assert await connection.run_sync(resolved) == TABLE
        await connection.execute(text("set search_path to tenant"))
        found = await connection.run_sync(resolved)
        assert found == VersionTable(schema="tenant")
        await connection.execute(text("set search_path to public, tenant"))
        assert await connection.run_sync(resolved) == found
        await connection.execute(text("set search_path to public"))
        mapped = await connection.execution_options(schema_translate_map={None: "mapped"})
        assert await mapped.run_sync(resolved) == VersionTable(schema="mapped")
    await backend.release(engine)
    assert (await backend.look([found])).heads == {found: ()}


SLEEP = text("select pg_sleep(30)")


def test_a_statement_of_a_sync_driver_is_interrupted_from_another_thread(
    backend: PostgreSQL, postgres_url: str
) -> None:
    url = make_url(postgres_url).set(drivername="postgresql+psycopg")
    with create_engine(url, poolclass=NullPool).connect() as connection:
        stop = backend.sessions.interrupter(connection)
        assert stop is not None
        timer = threading.Timer(0.2, stop)
        timer.start()
        with pytest.raises(DBAPIError) as caught:
            connection.execute(SLEEP)
        timer.join()
    assert backend.classify(caught.value).kind == "timeout"


async def test_a_statement_in_another_threads_loop_is_interrupted_on_the_server_too(
    backend: PostgreSQL, postgres_url: str, postgres_server: Server, live: str
) -> None:
    found: list[Callable[[], None] | None] = []

    began = threading.Event()

    def sleep(connection: Connection) -> None:
        found.append(backend.sessions.interrupter(connection))
        began.set()
        connection.execute(SLEEP)

    async def work() -> None:
        engine = create_async_engine(postgres_url, poolclass=NullPool)
        async with engine.connect() as connection:
            await connection.run_sync(sleep)

    ended: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:  # noqa: BLE001 - looked at below
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert await asyncio.to_thread(began.wait, 5)
    await asyncio.sleep(0.2)
    stop = found[0]
    assert stop is not None
    stop()
    await asyncio.to_thread(thread.join, 5)
    assert isinstance(ended[0], asyncio.CancelledError)
    query = "select 1 from pg_stat_activity where datname = $1 and state = 'active'"
    assert postgres_server.execute(query, live) == []


# Classifying


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("select nonsense", None),
        ("select 1/0", None),
        ("create role nobody_may", "auth"),
        ("set statement_timeout to '50ms'; select pg_sleep(5)", "timeout"),
        ("set transaction read only; create table t ()", "read-only"),
        ("select pg_terminate_backend(pg_backend_pid())", "unreachable"),
        ("do $$ begin raise sqlstate '53100'; end $$", "disk-full"),
        ("do $$ begin raise sqlstate 'XX001'; end $$", "corrupt"),
        ("do $$ begin raise sqlstate '40P01'; end $$", "lock-timeout"),
    ],
)
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_statements_failure_is_told_by_the_servers_code(
    postgres_url: str, role: str, driver: str, statement: str, kind: str | None
) -> None:
    url = make_url(postgres_url).set(drivername=f"postgresql+{driver}", username=role)
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.connect() as connection:
        *before, last = [statement] if "$$" in statement else statement.split("; ")
        for each in before:
            await connection.execute(text(each))
        with pytest.raises(DBAPIError) as caught:
            await connection.execute(text(last))
        await connection.invalidate()
    assert made(url).classify(caught.value).kind == kind


async def test_the_error_that_failed_the_transaction_decides_and_not_its_aftermath(
    backend: PostgreSQL,
) -> None:
    async def batch() -> None:
        async with engine.connect() as connection:
            try:
                await connection.execute(text("do $$ begin raise sqlstate '53100'; end $$"))
            finally:
                await connection.execute(text("select 1"))

    engine = backend.engine()
    with pytest.raises(DBAPIError) as caught:
        await batch()
    await backend.release(engine)
    assert "current transaction is aborted" in str(caught.value)
    assert backend.classify(caught.value).kind == "disk-full"


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"port": 1}, "unreachable"),
        ({"host": "localhost", "port": 1}, "unreachable"),
        ({"host": "no-such-host.invalid"}, "unreachable"),
        ({"username": "no_such_role"}, "auth"),
        ({"database": "closed"}, "auth"),
    ],
)
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_refused_connection_is_told_apart_from_a_missing_server(
    postgres_server: Server,
    postgres_url: str,
    live: str,
    role: str,
    driver: str,
    change: dict[str, Any],
    kind: str,
) -> None:
    url = make_url(postgres_url).set(drivername=f"postgresql+{driver}").set(**change)
    if "database" in change:
        postgres_server.execute(f"revoke connect on database {live} from public")
        url = url.set(database=live, username=role)
    app = create_async_engine(url)
    backend = backend_for(Access(Target(app, Path(__file__))))
    assert backend.access.url.drivername == f"postgresql+{driver}"
    with pytest.raises((DBAPIError, OSError)) as caught:
        await backend.look(TABLES)
    assert backend.classify(caught.value).kind == kind
    await app.dispose()


@pytest.fixture(scope="module")
def german_server() -> Iterator[Server]:
    with stoppable(language="de") as (server, _):
        with pytest.raises(asyncpg.PostgresError) as caught:
            server.execute("select * from nichts")
        if "existiert nicht" not in str(caught.value):
            pytest.skip("PostgreSQL has no German messages on this machine")
        yield server


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_server_of_another_language_is_understood(
    german_server: Server, driver: str, tmp_path: Path
) -> None:
    url = german_server.admin.set(drivername=f"postgresql+{driver}")
    refused, absent = (
        create_async_engine(url.set(**change))
        for change in ({"username": "niemand"}, {"database": f"nichts_{driver}"})
    )
    backend = backend_for(Access(Target(refused, tmp_path)))
    with pytest.raises(DBAPIError, match="existiert nicht") as caught:
        await backend.look(TABLES)
    assert backend.classify(caught.value).kind == "auth"
    backend = backend_for(Access(Target(absent, tmp_path)))
    assert not (await backend.look(TABLES)).exists
    assert await backend.create()
    await refused.dispose()
    await absent.dispose()


def test_what_has_nothing_to_do_with_the_server_is_not_classified(
    backend: PostgreSQL, tmp_path: Path
) -> None:
    with pytest.raises(OSError) as caught:
        (tmp_path / "absent").read_text()
    assert backend.classify(caught.value).kind is None
    assert backend.classify(ValueError("connection")).kind is None


# Snapshots


@pytest.fixture
def filled(postgres_server: Server, live: str, do: Callable[..., Any]) -> str:
    """The target at r1 with one user."""
    stamped(postgres_server, live, "r1")
    do("create table users (id int)", "insert into users values (7)")
    return live


def beside(server: Server, live: str) -> list[str]:
    """The kinds of databases of ours beside the target."""
    return [name.split("_")[-2] for name in server.databases(f"{live}__automigrator")]


async def test_a_snapshot_is_restored_and_stays(
    backend: PostgreSQL, postgres_server: Server, filled: str, do: Callable[..., Any]
) -> None:
    do(
        f"comment on database {filled} is 'theirs'",
        f"alter database {filled} set work_mem to '5MB'",
    )
    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await hold.snapshots.take("s1", ("r1",), ("r2",), TABLES)
        do("drop table users")
        stamped(postgres_server, filled, "r2")
        await hold.snapshots.restore(snapshot)
        assert (await backend.look(TABLES)).all_heads() == ("r1",)
        await hold.snapshots.restore(snapshot)
        await hold.close_journal()
        assert await hold.recover() is None
    assert [row[0] for row in do("select id from users")] == [7]
    assert (
        do(
            "select shobj_description(oid, 'pg_database') from pg_database "
            "where datname = current_database()"
        )[0][0]
        == "theirs"
    )
    assert do("show work_mem")[0][0] == "5MB"
    assert beside(postgres_server, filled) == ["snapshot", "undone", "undone"]


@pytest.mark.parametrize("disconnect_others", [False, True])
async def test_what_others_committed_before_they_left_is_in_what_a_restore_has_replaced(
    backend: PostgreSQL,
    postgres_server: Server,
    filled: str,
    do: Callable[..., Any],
    disconnect_others: bool,
) -> None:
    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await hold.snapshots.take("s1", ("r1",), ("r2",), TABLES)
        do("alter table users add half int", "insert into users values (8)")
        kept = await hold.snapshots.restore(snapshot, disconnect_others=disconnect_others)
        await hold.close_journal()
        assert await hold.recover() is None
    assert kept.startswith(f"{filled}__automigrator_undone_")
    assert [tuple(row) for row in do("select * from users")] == [(7,)]
    rows = postgres_server.execute("select id from users order by 1", database=kept)
    assert [row[0] for row in rows] == [7, 8]
    await backend.look(TABLES)
    assert not (await backend.look(TABLES)).unfinished


async def test_a_snapshot_does_not_open_the_data_to_more_roles(
    backend: PostgreSQL, postgres_server: Server, filled: str, do: Callable[..., Any]
) -> None:
    do(f"revoke all on database {filled} from public")
    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await hold.snapshots.take("s1", ("r1",), ("r2",), TABLES)
    grants = "select datacl::text from pg_database where datname = $1"
    execute = postgres_server.execute
    assert execute(grants, snapshot.place) == execute(grants, filled) != [(None,)]


async def test_whole_database_acts_are_refused_without_a_place_to_stand(
    postgres_server: Server, postgres_url: str, filled: str
) -> None:
    confined = made(postgres_url, "no_such_database")
    async with confined.lock(TABLES, 5, silent) as hold:
        with pytest.raises(RefusedError, match=r"Target\(maintenance_database="):
            await hold.snapshots.take("s1", ("r1",), ("r2",), TABLES)
        assert await hold.recover() is None
    assert beside(postgres_server, filled) == []


async def test_a_snapshot_is_refused_while_others_are_connected_and_names_them(
    backend: PostgreSQL, postgres_server: Server, filled: str
) -> None:
    named = {"server_settings": {"application_name": "the replica"}}
    engine = create_async_engine(
        postgres_server.url(filled), poolclass=NullPool, connect_args=named
    )
    async with backend.lock(TABLES, 5, silent) as hold:
        connection = await engine.connect()
        with pytest.raises(RefusedError, match="the replica.*disconnect_others=True"):
            await hold.snapshots.take("s1", ("r1",), ("r2",), TABLES)
        assert beside(postgres_server, filled) == []
        await hold.snapshots.take(
            "s1", ("r1",), ("r2",), TABLES, SnapshotOptions(disconnect_others=True)
        )
        with pytest.raises(DBAPIError):
            await connection.execute(text("select 1"))
        await connection.close()


async def test_our_own_pools_and_the_applications_idle_ones_do_not_stand_in_the_way(
    postgres_url: str, filled: str
) -> None:
    app = create_async_engine(postgres_url)
    backend = PostgreSQL(Access(Target(app, Path(__file__))), None)
    engine = backend.engine()
    for each in (app, engine):
        async with each.connect():
            pass
    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await hold.snapshots.take("s1", ("r1",), ("r2",), TABLES)
        for each in (app, engine):
            async with each.connect():
                pass
        await hold.snapshots.restore(snapshot)
    await backend.release(engine)
    await app.dispose()


async def test_a_snapshot_is_refused_with_neighbours_in_the_database(
    backend: PostgreSQL, postgres_server: Server, filled: str, do: Callable[..., Any]
) -> None:
    do("create schema theirs", "create table theirs.orders ()")
    async with backend.lock(TABLES, 5, silent) as hold:
        with pytest.raises(RefusedError, match="theirs.orders"):
            await hold.snapshots.take("s1", ("r1",), ("r2",), TABLES)
    assert beside(postgres_server, filled) == []


async def test_a_snapshot_of_another_revision_than_the_runs_is_refused(
    backend: PostgreSQL, postgres_server: Server, filled: str
) -> None:
    async with backend.lock(TABLES, 5, silent) as hold:
        with pytest.raises(RefusedError, match="at r1.*at r0"):
            await hold.snapshots.take("s1", ("r0",), ("r2",), TABLES)
    assert beside(postgres_server, filled) == []


async def test_a_role_that_may_not_create_databases_is_refused_a_snapshot(
    postgres_server: Server, postgres_url: str, filled: str, role: str
) -> None:
    postgres_server.execute(f"alter database {filled} owner to {role}")
    postgres_server.execute(f"grant all on all tables in schema public to {role}", database=filled)
    backend = made(make_url(postgres_url).set(username=role))
    async with backend.lock(TABLES, 5, silent) as hold:
        with pytest.raises(RefusedError, match="CREATEDB"):
            await hold.snapshots.take("s1", ("r1",), ("r2",), TABLES)


async def test_a_look_tells_of_a_migration_that_was_not_ended_and_not_of_a_neighbours(
    backend: PostgreSQL, postgres_server: Server, postgres_url: str, filled: str
) -> None:
    postgres_server.create(f"{filled}_2__automigrator_snapshot_s1")
    next_start = made(postgres_url)
    async with backend.lock(TABLES, 5, silent) as hold:
        await hold.snapshots.take("s1", ("r1",), ("r2",), TABLES)
        assert (await next_start.look(TABLES)).unfinished
        await hold.close_journal()
        postgres_server.execute(
            f'comment on database "{filled}_2__automigrator_snapshot_s1" is '
            """'{"automigrator": {"state": "migrating"}}'"""
        )
        await next_start.look(TABLES)
        assert not (await next_start.look(TABLES)).unfinished


async def test_the_next_start_undoes_what_a_killed_one_left(
    backend: PostgreSQL,
    postgres_server: Server,
    postgres_url: str,
    filled: str,
    do: Callable[..., Any],
) -> None:
    async with backend.lock(TABLES, 5, silent) as hold:
        await hold.snapshots.take("s1", ("r1",), ("r3",), TABLES)
    stamped(postgres_server, filled, "r2")
    do("drop table users")
    next_start = made(postgres_url)
    async with next_start.lock(TABLES, 5, silent) as next_start_hold:
        assert "put back" in (await next_start_hold.recover() or "")
        assert await next_start_hold.recover() is None
    assert [row[0] for row in do("select id from users")] == [7]
    # somebody may have written to it since, so what was replaced is kept
    assert beside(postgres_server, filled) == ["snapshot", "undone"]


@pytest.mark.parametrize(
    ("statements", "said", "left"),
    [
        (
            ("insert into users values (8)", "vacuum full users", "analyze"),
            "changed nothing",
            [7, 8],
        ),
        (
            ("insert into users values (8)", "update alembic_version set version_num = 'r2'"),
            "had ended at r2",
            [7, 8],
        ),
        (("insert into users values (8)", "create index half on users (id)"), "put back", [7]),
        (
            ("update users set id = 9", "update alembic_version set version_num = 'r1b'"),
            "put back",
            [7],
        ),
        (
            ("insert into users values (8)", "alter table users alter id set default 1"),
            "put back",
            [7],
        ),
        (
            ("insert into users values (8)", "create function f() returns int return 1"),
            "put back",
            [7],
        ),
    ],
)
async def test_the_next_start_keeps_later_writes_when_a_killed_one_left_nothing_half_done(
    backend: PostgreSQL,
    postgres_url: str,
    filled: str,
    do: Callable[..., Any],
    statements: tuple[str, ...],
    said: str,
    left: list[int],
) -> None:
    async with backend.lock(TABLES, 5, silent) as hold:
        await hold.snapshots.take("s1", ("r1",), ("r2",), TABLES, atomic=True)
    do(*statements)
    next_start = made(postgres_url)
    async with next_start.lock(TABLES, 5, silent) as next_start_hold:
        assert said in (await next_start_hold.recover() or "")
    assert [row[0] for row in do("select id from users order by 1")] == left


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("vacuum full users", "changed nothing"),
        ("update users set id = 8", "put back"),
        ("update odd set two = 3", "put back"),
        ("comment on table users is 'half'", "put back"),
        ("comment on domain automigrator.ours is 'ours'", "changed nothing"),
        ("create server s foreign data wrapper w", "put back"),
        ("alter publication p add table odd", "put back"),
        ("select lo_put(4711, 0, 'half')", "put back"),
    ],
)
async def test_the_next_start_undoes_changes_of_rows_alone_that_a_killed_one_had_committed(
    backend: PostgreSQL,
    postgres_url: str,
    filled: str,
    do: Callable[..., Any],
    statement: str,
    said: str,
) -> None:
    do(
        "create table odd (one int, two int)",  # named as the row is in what compares
        "insert into odd values (1, 2)",
        "create schema automigrator",
        "create domain automigrator.ours as int",
        "create foreign data wrapper w",
        "create publication p",
        "select lo_from_bytea(4711, 'what it holds')",
    )
    async with backend.lock(TABLES, 5, silent) as hold:
        await hold.snapshots.take("s1", ("r1",), ("r2",), TABLES)
    do(statement)
    next_start = made(postgres_url)
    async with next_start.lock(TABLES, 5, silent) as next_start_hold:
        assert said in (await next_start_hold.recover() or "")
    assert do("select id from users") == [(7,)]


@pytest.mark.parametrize(
    "policy", ["current_setting('app.tenant')", "current_setting('app.tenant', true)"]
)
async def test_rows_that_this_role_may_not_see_are_not_called_unchanged(
    postgres_server: Server, postgres_url: str, filled: str, role: str, do: Do, policy: str
) -> None:
    postgres_server.execute(f"alter role {role} createdb")
    do(
        f"alter database {filled} owner to {role}",
        *(f"alter table {table} owner to {role}" for table in ("users", "alembic_version")),
        "alter table users enable row level security",
        "alter table users force row level security",
        f"create policy own on users using (id::text = {policy})",
    )
    url = make_url(postgres_url).set(username=role)
    backend, next_start = made(url), made(url)
    async with backend.lock(TABLES, 5, silent) as hold:
        await hold.snapshots.take("s1", ("r1",), ("r2",), TABLES)
    do("update users set id = 8")
    async with next_start.lock(TABLES, 5, silent) as next_start_hold:
        assert "put back" in (await next_start_hold.recover() or "")
    assert do("select id from users") == [(7,)]


async def test_what_another_targets_leader_is_at_is_left_to_it(
    backend: PostgreSQL,
    postgres_server: Server,
    postgres_url: str,
    filled: str,
    do: Callable[..., Any],
) -> None:
    """Two histories in one database, of which one has not begun yet."""
    other, tables = made(postgres_url), [VersionTable("other_version")]
    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await hold.snapshots.take(
            "s1", ("r1",), ("r2",), TABLES, SnapshotOptions(disconnect_others=True)
        )
        async with hold.sides.fresh("s2") as side:
            async with other.lock(tables, 5, silent) as other_hold:
                assert await other_hold.recover() is None
            assert side.place in postgres_server.databases(filled)
        do("create table half ()")
        async with other.lock(tables, 5, silent) as other_hold:
            assert await other_hold.recover() is None
        assert do("select to_regclass('half')::text") == [("half",)]
    next_start = made(postgres_url)
    async with next_start.lock(TABLES, 5, silent) as next_start_hold:
        assert "put back" in (await next_start_hold.recover() or "")
    assert snapshot.place in postgres_server.databases(filled)


async def test_what_a_dead_leader_of_another_target_left_is_undone_by_one_start_alone(
    backend: PostgreSQL, postgres_url: str, filled: str, do: Callable[..., Any]
) -> None:
    async with backend.lock(TABLES, 5, silent) as hold:
        await hold.snapshots.take("s1", ("r1",), ("r2",), TABLES)
    do("create table half ()")
    other, tables, again = made(postgres_url), [VersionTable("other_version")], made(postgres_url)
    async with other.lock(tables, 5, silent) as other_hold:
        async with again.lock(TABLES, 5, silent) as again_hold:
            assert await other_hold.recover() is None
            assert do("select to_regclass('half')::text") == [("half",)]
        assert "put back" in (await other_hold.recover() or "")
        async with again.lock(TABLES, 5, silent) as again_hold:
            assert await again_hold.recover() is None
    assert do("select to_regclass('half')::text") == [(None,)]


class Killed(BaseException):
    """What stands for a kill between two statements of the lock's session."""


@pytest.mark.parametrize(
    ("start", "nth"),
    [
        ("COMMENT", 1),
        ("CREATE", 1),
        ("ALTER", 1),
        ("BEGIN", 1),
        ("ALTER", 4),
        ("COMMIT", 1),
        ("COMMENT", 3),
        ("ALTER", 5),
    ],
)
async def test_a_restore_that_was_killed_before_any_statement_is_finished(
    backend: PostgreSQL,
    postgres_server: Server,
    postgres_url: str,
    filled: str,
    do: Callable[..., Any],
    start: str,
    nth: int,
) -> None:
    do(f"comment on database {filled} is 'theirs'")
    left = nth

    def kill(connection: Connection, cursor: Any, statement: str, *_: Any) -> None:
        nonlocal left
        left -= statement.startswith(start)
        if left <= 0:
            raise Killed

    async def killed() -> None:
        async with backend.lock(TABLES, 5, silent) as hold:
            snapshot = await hold.snapshots.take("s1", ("r1",), ("r2",), TABLES)
            do("drop table users", "create table half ()")
            stamped(postgres_server, filled, "r1b")
            admin = hold.session.admin.sync_connection
            event.listen(admin, "before_cursor_execute", kill)
            await hold.snapshots.restore(snapshot)

    with pytest.raises(Killed):
        await killed()
    next_start = made(postgres_url)
    async with next_start.lock(TABLES, 5, silent) as hold:
        await hold.recover()
        assert (await next_start.look(TABLES)).all_heads() == ("r1",)
    assert [row[0] for row in do("select id from users")] == [7]
    assert (
        do(
            "select shobj_description(oid, 'pg_database') from pg_database "
            "where datname = current_database()"
        )[0][0]
        == "theirs"
    )
    assert beside(postgres_server, filled) == ["snapshot", "undone"]


async def test_a_snapshot_that_is_cancelled_ends_at_once_and_keeps_the_lock(
    backend: PostgreSQL, postgres_server: Server, postgres_url: str, filled: str
) -> None:
    other = create_async_engine(postgres_server.admin, poolclass=NullPool)
    async with backend.lock(TABLES, 5, silent) as hold:
        async with other.connect() as connection:
            await connection.execute(text("lock table pg_database in share mode"))
            taking = asyncio.create_task(hold.snapshots.take("s1", ("r1",), ("r2",), TABLES))
            await asyncio.sleep(0.5)
            taking.cancel()
            ended, _ = await asyncio.wait({taking}, timeout=5)
        with pytest.raises(asyncio.CancelledError):
            await taking
        assert ended
        with pytest.raises(TimeoutError):
            async with made(postgres_url).lock(TABLES, 0.1, silent):
                pass
        assert beside(postgres_server, filled) == []
        await hold.snapshots.take("s1", ("r1",), ("r2",), TABLES)


async def test_only_the_newest_snapshots_are_kept_and_never_one_that_is_needed(
    backend: PostgreSQL, postgres_server: Server, filled: str
) -> None:
    async with backend.lock(TABLES, 5, silent) as hold:
        for stamp in ("a1", "a2", "a3"):
            await hold.snapshots.take(stamp, ("r1",), ("r2",), TABLES)
            if stamp != "a2":
                await hold.close_journal()
        assert await hold.snapshots.prune(Limits(1)) == (f"{filled}__automigrator_snapshot_a1",)
        assert beside(postgres_server, filled) == ["snapshot"] * 2
        await hold.recover()
        assert await hold.snapshots.prune(Limits(1)) == (f"{filled}__automigrator_snapshot_a2",)


async def test_what_restores_have_replaced_goes_like_snapshots_and_never_this_runs_own(
    backend: PostgreSQL, postgres_server: Server, filled: str
) -> None:
    old = [f"{filled}__automigrator_undone_20200{n}01T000000000000Z" for n in (1, 2)]
    for name in old:
        postgres_server.create(name)
    async with backend.lock(TABLES, 5, silent) as hold:
        assert await hold.snapshots.prune(Limits(2)) == ()
        assert await hold.sides.prune_set_aside(Limits(1)) == ()
        snapshot = await hold.snapshots.take("s1", ("r1",), ("r2",), TABLES)
        for _ in range(2):
            await hold.snapshots.restore(snapshot)
        await hold.close_journal()
        assert await hold.snapshots.prune(Limits(1)) == tuple(old)
    assert beside(postgres_server, filled) == ["snapshot", "undone", "undone"]


async def test_a_clock_that_goes_back_costs_no_copy_of_this_run(
    backend: PostgreSQL, postgres_server: Server, filled: str
) -> None:
    for kind in ("snapshot", "purged"):
        postgres_server.create(f"{filled}__automigrator_{kind}_20990101T000000000000Z")
    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await hold.snapshots.take("20200101T000000000000Z", ("r1",), ("r2",), TABLES)
        async with hold.sides.fresh("s2") as side:
            stamped(postgres_server, side.place, "r2")
            aside = await hold.sides.take_over(side, "20200101T000000000001Z", TABLES)
        await hold.close_journal()
        assert await hold.snapshots.prune(Limits(1)) == ()
        assert await hold.sides.prune_set_aside(Limits(1)) == ()
    assert {snapshot.place, aside} < set(postgres_server.databases(filled))


# Replacing


async def test_what_was_set_aside_goes_by_age_only_and_when_asked_and_the_newest_never(
    backend: PostgreSQL, postgres_server: Server, filled: str
) -> None:
    names = [f"{filled}__automigrator_purged_20200{n}01T000000000000Z" for n in (1, 2)]
    for name in names:
        postgres_server.create(name)
    async with backend.lock(TABLES, 5, silent) as hold:
        assert await hold.snapshots.prune(Limits(1, max_age=timedelta(days=1))) == ()
        assert await hold.sides.prune_set_aside(Limits(None)) == ()
        assert await hold.sides.prune_set_aside(Limits(None, max_age=timedelta(days=30))) == (
            names[0],
        )
        assert await hold.sides.prune_set_aside(Limits(1)) == ()
    assert beside(postgres_server, filled) == ["purged"]


async def test_a_side_database_takes_over_and_the_old_one_is_set_aside(
    backend: PostgreSQL, postgres_server: Server, filled: str, do: Callable[..., Any]
) -> None:
    do(
        f"comment on database {filled} is 'theirs'",
        f"alter database {filled} set work_mem to '5MB'",
    )
    async with backend.lock(TABLES, 5, silent) as hold:
        async with hold.sides.fresh("s2") as side:
            assert side.url.database == side.place
            async with side.engine.begin() as connection:
                assert await connection.scalar(text("show work_mem")) == "5MB"
            stamped(postgres_server, side.place, "r9")
            aside = await hold.sides.take_over(side, "s2", TABLES)
        assert aside == f"{filled}__automigrator_purged_s2"
        assert await hold.recover() is None
    rows = postgres_server.execute("select id from users", database=aside)
    assert [row[0] for row in rows] == [7]
    assert (await backend.look(TABLES)).all_heads() == ("r9",)
    assert (
        do(
            "select shobj_description(oid, 'pg_database') from pg_database "
            "where datname = current_database()"
        )[0][0]
        == "theirs"
    )
    assert beside(postgres_server, filled) == ["purged"]


async def test_a_replacement_can_leave_nothing_of_the_old_one(
    backend: PostgreSQL, postgres_server: Server, filled: str
) -> None:
    async with backend.lock(TABLES, 5, silent) as hold, hold.sides.fresh("s2") as side:
        stamped(postgres_server, side.place, "r9")
        assert await hold.sides.take_over(side, "s2", TABLES, set_aside=False) is None
    assert (await backend.look(TABLES)).all_heads() == ("r9",)
    assert beside(postgres_server, filled) == []


async def test_a_side_database_that_did_not_take_over_is_removed(
    backend: PostgreSQL, postgres_server: Server, filled: str
) -> None:
    async with backend.lock(TABLES, 5, silent) as hold:
        with pytest.raises(ZeroDivisionError):
            async with hold.sides.fresh("s2") as side, side.engine.connect():
                raise ZeroDivisionError
    assert beside(postgres_server, filled) == []
    assert (await backend.look(TABLES)).all_heads() == ("r1",)


async def test_a_replacement_is_refused_while_others_are_connected_and_changes_nothing(
    backend: PostgreSQL, postgres_server: Server, filled: str
) -> None:
    engine = create_async_engine(postgres_server.url(filled), poolclass=NullPool)
    async with backend.lock(TABLES, 5, silent) as hold, hold.sides.fresh("s2") as side:
        stamped(postgres_server, side.place, "r9")
        connection = await engine.connect()
        with pytest.raises(RefusedError, match="disconnect_others=True"):
            await hold.sides.take_over(side, "s2", TABLES)
        assert (await backend.look(TABLES)).all_heads() == ("r1",)
        await hold.sides.take_over(side, "s2", TABLES, disconnect_others=True)
        assert (await backend.look(TABLES)).all_heads() == ("r9",)
        await connection.invalidate()
        await connection.close()


async def test_a_replacement_is_refused_with_neighbours_in_the_database(
    backend: PostgreSQL, postgres_server: Server, filled: str, do: Callable[..., Any]
) -> None:
    do(VERSIONS.format("billing_version"))
    async with backend.lock(TABLES, 5, silent) as hold:
        with pytest.raises(RefusedError, match="billing_version.*a database of its own"):
            await hold.sides.ensure_replaceable(TABLES)
        async with hold.sides.fresh("s2") as side:
            with pytest.raises(RefusedError, match="billing_version"):
                await hold.sides.take_over(side, "s2", TABLES)
    assert beside(postgres_server, filled) == []


async def test_the_next_start_removes_a_side_database_of_a_killed_one(
    backend: PostgreSQL, postgres_server: Server, filled: str
) -> None:
    postgres_server.create(f"{filled}__automigrator_side_s0")
    async with backend.lock(TABLES, 5, silent) as hold:
        assert await hold.recover() is None
    assert beside(postgres_server, filled) == []


async def test_the_next_start_sees_what_a_purge_killed_after_its_swap_would_have_dropped(
    backend: PostgreSQL, postgres_server: Server, filled: str
) -> None:
    postgres_server.create(f"{filled}__automigrator_replaced_s0")
    assert (await backend.look(TABLES)).all_heads() == ("r1",)
    assert (
        await backend.look(TABLES)
    ).unfinished  # or a start that finds nothing to do would leave it for ever
    async with backend.lock(TABLES, 5, silent) as hold:
        done = await hold.recover() or ""
    assert beside(postgres_server, filled) == ["purged"]
    assert f"is in {filled}__automigrator_purged_" in done
    await backend.look(TABLES)
    assert not (await backend.look(TABLES)).unfinished


async def test_the_applications_pool_forgets_its_plans(
    postgres_url: str, do: Callable[..., Any]
) -> None:
    do("create table t as select 1 as a")
    app = create_async_engine(postgres_url, pool_size=1)

    async def read() -> int:
        async with app.connect() as connection:
            return len((await connection.execute(text("select * from t"))).one())

    assert await read() == 1
    do("alter table t add b int")
    await PostgreSQL(Access(Target(app, Path(__file__))), None).refresh()
    assert await read() == 2
    await app.dispose()


async def test_what_a_migration_made_in_a_new_schema_is_no_reason_not_to_restore(
    backend: PostgreSQL, postgres_server: Server, filled: str, do: Callable[..., Any], role: str
) -> None:
    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await hold.snapshots.take("s1", ("r1",), ("r2",), TABLES)
        do("create schema more", "create table more.orders ()")
        await hold.snapshots.restore(snapshot)
        # it may have been somebody else's after all
        assert beside(postgres_server, filled) == ["snapshot", "undone"]
        do("create schema theirs", "create table theirs.orders ()")
        do(f"alter table theirs.orders owner to {role}")
        with pytest.raises(RefusedError, match="theirs.orders"):
            await hold.snapshots.restore(snapshot)
    assert do("select to_regclass('more.orders'), to_regclass('theirs.orders')::text") == [
        (None, "theirs.orders")
    ]


async def test_a_lock_is_not_taken_for_lost_while_a_failed_rename_is_rolled_back(
    backend: PostgreSQL,
) -> None:
    async with backend.lock(TABLES, 5, silent) as held:
        admin = held.session.admin
        await admin.execute(text("BEGIN"))
        with pytest.raises(DBAPIError):
            await admin.execute(text("ALTER DATABASE no_such_database RENAME TO other"))
        await held.confirm()
        await admin.execute(text("ROLLBACK"))
        await held.confirm("1/2")
