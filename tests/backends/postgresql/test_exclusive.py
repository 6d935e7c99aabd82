"""Whole-database acts against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import NullPool, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from support.postgres_server import Server

from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql import databases, neighbours, settings
from automigrator.backends.postgresql.names import Ours, name_beside, ours
from automigrator.backends.postgresql.sql import literal, quoted_name, run
from automigrator.errors import RefusedError

pytestmark = pytest.mark.long("may_not_end_is_named")


@asynccontextmanager
async def connected(
    server: Server, database: str | None = None, user: str | None = None
) -> AsyncIterator[AsyncConnection]:
    url = server.admin.set(database=database or server.maintenance_database)
    engine = create_async_engine(
        url.set(username=user) if user else url,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args={"server_settings": {"application_name": "the tests"}},
    )
    async with engine.connect() as connection:
        yield connection
    await engine.dispose()


async def with_a_side(admin: AsyncConnection, name: str) -> tuple[str, str, str]:
    """A database and one that is to take its place; the third name is free."""
    live, side = name, f"{name}_side"
    await databases.create(admin, live)
    await databases.create(admin, side)
    return live, side, f"{name}_old"


async def created_for(role: str, admin: AsyncConnection, name: str) -> None:
    """A database that belongs to a role."""
    await databases.create(admin, name)
    await run(admin, f"alter database {quoted_name(name)} owner to {quoted_name(role)}")


@pytest.fixture
async def admin(postgres_server: Server) -> AsyncIterator[AsyncConnection]:
    async with connected(postgres_server) as connection:
        yield connection


@pytest.fixture
def role(postgres_server: Server, postgres_name: str) -> str:
    """A role that dies with the databases of `postgres_name`; its name needs quoting."""
    name = f'{postgres_name} "Role'
    quoted = name.replace('"', '""')
    postgres_server.execute(f'create role "{quoted}" login createdb')
    return name


@pytest.fixture(autouse=True)
def _no_roles_left(postgres_server: Server, postgres_name: str, request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    yield
    postgres_server.drop_all(postgres_name)
    for row in postgres_server.execute(
        "select quote_ident(rolname) from pg_roles where starts_with(rolname, $1)", postgres_name
    ):
        postgres_server.execute(f"drop role {row[0]}")


async def test_a_database_is_created_once_and_dropped(
    admin: AsyncConnection, postgres_name: str
) -> None:
    assert not await databases.exists(admin, postgres_name)
    assert await databases.create(admin, postgres_name)
    assert await databases.exists(admin, postgres_name)
    assert not await databases.create(admin, postgres_name)
    await databases.drop(admin, postgres_name)
    await databases.drop(admin, postgres_name)
    assert not await databases.exists(admin, postgres_name)


@pytest.mark.long
async def test_of_many_that_create_at_once_exactly_one_did(
    postgres_server: Server, postgres_name: str
) -> None:
    async with AsyncExitStack() as stack:
        admins = [await stack.enter_async_context(connected(postgres_server)) for _ in range(8)]
        created = await asyncio.gather(*(databases.create(each, postgres_name) for each in admins))
    assert sorted(created) == [False] * 7 + [True]


@pytest.mark.long("dotted", "it's", "50%", "a:b")
@pytest.mark.parametrize(
    "odd", ['"quoted"', "dotted.Name", "it's", "a:b::c \\:d", "50%s %", "back\\slash", "naïve ☃"]
)
async def test_odd_names_are_only_names(
    admin: AsyncConnection, postgres_server: Server, postgres_name: str, odd: str
) -> None:
    live, copy, aside = (f"{postgres_name}{odd}{n}" for n in "123")
    assert await databases.create(admin, live)
    assert live in postgres_server.databases(postgres_name)
    await databases.set_comment(admin, live, odd)
    assert await databases.create(admin, copy, template=live)
    await run(admin, f"alter database {quoted_name(live)} set app.odd to {literal(odd)}")
    found = await settings.statements(admin, live, copy, comment_of=live)
    assert await settings.apply(admin, found) == ()
    assert await settings.statements(admin, copy, copy, comment_of=copy) == found
    await databases.swap(admin, live, copy, aside)
    assert postgres_server.databases(postgres_name) == [live, aside]
    query = """
        select shobj_description(d.oid, 'pg_database'), s.setconfig
        from pg_database d join pg_db_role_setting s on s.setdatabase = d.oid where d.datname = $1
    """
    assert postgres_server.execute(query, live) == [(odd, [f"app.odd={odd}"])]


async def test_properties_that_a_template_copy_loses_survive_copy_and_swap(
    admin: AsyncConnection, postgres_server: Server, postgres_name: str, role: str
) -> None:
    live, copy = postgres_name, f"{postgres_name}_copy"
    await created_for(role, admin, live)
    execute = postgres_server.execute
    execute("create table kept as select 1 as x", database=live)
    who = '"' + role.replace('"', '""') + '"'
    for sql in (
        f"revoke all on database {live} from public",
        f"grant connect on database {live} to pg_monitor with grant option",
        f"revoke temporary on database {live} from {who}",
        f"comment on database {live} is 'it''s \\ ours'",
        f"alter database {live} connection limit 17",
        f'alter database {live} set search_path to "$user", "Odd, ""name", public',
        f"alter database {live} set work_mem to '5MB'",
        f"alter database {live} set app.secret to 'a=b, \\c \"d\" :e'",
        f"alter role {who} in database {live} set search_path to ''",
        f"alter role {who} in database {live} set statement_timeout to '7s'",
    ):
        execute(sql)
    before = await settings.statements(admin, live, copy, comment_of=live)
    told = [words for words, _ in before]
    assert {"the owner", "the comment", f"search_path for {role}"} < {*told}
    assert len(told) == 12 and "a=b" not in str(told)

    assert await databases.create(admin, copy, template=live)
    assert await settings.statements(admin, copy, copy, comment_of=copy) != before
    assert await settings.apply(admin, before) == ()
    assert await settings.statements(admin, copy, copy, comment_of=copy) == before
    await databases.swap(admin, live, copy, f"{live}_old")
    assert await settings.statements(admin, live, copy, comment_of=live) == before
    assert execute("select x from kept", database=live)[0][0] == 1
    assert execute("select current_schemas(false)", database=live)[0][0] == ["public"]


async def test_default_grants_stay_the_default(admin: AsyncConnection, postgres_name: str) -> None:
    await databases.create(admin, postgres_name)
    before = await settings.statements(admin, postgres_name, postgres_name)
    assert [words for words, _ in before] == ["the owner", "the connection limit"]
    assert await settings.apply(admin, before) == ()
    assert await settings.statements(admin, postgres_name, postgres_name) == before


async def test_a_role_learns_which_settings_it_could_not_apply(
    admin: AsyncConnection, postgres_server: Server, postgres_name: str, role: str
) -> None:
    await created_for(role, admin, postgres_name)
    stranger = f"{postgres_name}_stranger"
    postgres_server.execute(f"create role {stranger}")
    postgres_server.execute(
        f"alter role {stranger} in database {postgres_name} set app.key to 'hunter2'"
    )
    found = await settings.statements(admin, postgres_name, postgres_name)
    async with connected(postgres_server, user=role) as own:
        refused = await settings.apply(own, found)
    assert refused == (f"app.key for {stranger} (SQLSTATE 42501)",)


async def test_a_new_database_takes_the_locale_of_another(
    admin: AsyncConnection, postgres_server: Server, postgres_name: str
) -> None:
    live, side = postgres_name, f"{postgres_name}_side"
    postgres_server.execute(
        f"create database {live} template template0 encoding 'SQL_ASCII' locale 'C'"
    )
    assert await databases.create(admin, side, like=live)
    query = "select encoding, datcollate, datctype from pg_database where starts_with(datname, $1)"
    first, second = postgres_server.execute(query, live)
    assert first == second


async def test_a_swap_with_others_connected_is_refused_and_nothing_changed(
    admin: AsyncConnection, postgres_server: Server, postgres_name: str
) -> None:
    live, side, aside = await with_a_side(admin, postgres_name)
    async with connected(postgres_server, live) as other:
        with pytest.raises(RefusedError, match="the tests.*no database was changed"):
            await databases.swap(admin, live, side, aside)
        assert postgres_server.databases(live) == [live, side]
        assert await other.scalar(text("select 1")) == 1
        sessions = await databases.others(admin, live)
        assert [session.application_name for session in sessions] == ["the tests"]
        assert sessions[0].state == "idle"


async def test_a_swap_waits_for_who_looks_in_for_a_moment(
    admin: AsyncConnection, postgres_server: Server, postgres_name: str
) -> None:
    live, side, aside = await with_a_side(admin, postgres_name)

    async def look_in() -> None:
        async with connected(postgres_server, live):
            came.set()
            await asyncio.sleep(0.3)

    came = asyncio.Event()
    looking = asyncio.create_task(look_in())
    await came.wait()
    await databases.swap(admin, live, side, aside)
    await looking
    assert postgres_server.databases(live) == [live, aside]


async def test_a_swap_whose_second_rename_fails_renames_nothing(
    admin: AsyncConnection, postgres_server: Server, postgres_name: str, role: str
) -> None:
    live, side, aside = postgres_name, f"{postgres_name}_side", f"{postgres_name}_old"
    await created_for(role, admin, live)
    await databases.create(admin, side)  # another owner's: the role may not rename it
    async with connected(postgres_server, user=role) as connection:
        with pytest.raises(DBAPIError, match="must be owner"):
            await databases.swap(connection, live, side, aside)
        assert await connection.scalar(text("select 1")) == 1
    assert postgres_server.databases(live) == [live, side]


async def test_a_swap_that_may_disconnect_wins_against_a_busy_pool(
    admin: AsyncConnection, postgres_server: Server, postgres_name: str
) -> None:
    live, side, aside = await with_a_side(admin, postgres_name)
    postgres_server.execute("create table new_one ()", database=side)
    pool = create_async_engine(postgres_server.url(live), pool_size=5)
    connections = [await pool.connect() for _ in range(5)]
    for connection in connections:
        await connection.close()  # idle in the pool
    stop = asyncio.Event()

    async def replica() -> None:
        while not stop.is_set():
            try:
                async with pool.connect() as connection:
                    await connection.execute(text("select pg_sleep(0.01)"))
            except DBAPIError:
                await asyncio.sleep(0.001)
            except asyncpg.PostgresError:  # while connecting
                await asyncio.sleep(0.001)

    replicas = [asyncio.create_task(replica()) for _ in range(4)]
    await asyncio.sleep(0.1)
    await databases.swap(
        admin,
        live,
        side,
        aside,
        disconnect_by=lambda: connected(postgres_server),
    )
    assert postgres_server.databases(live) == [live, aside]
    async with pool.connect() as connection:
        assert await connection.scalar(text("select to_regclass('new_one') is not null"))
    stop.set()
    await asyncio.gather(*replicas)
    await pool.dispose()


async def test_a_swap_cancelled_while_it_renames_is_finished_first(
    admin: AsyncConnection, postgres_server: Server, postgres_name: str
) -> None:
    live, side, aside = await with_a_side(admin, postgres_name)
    pid = await admin.scalar(text("select pg_backend_pid()"))
    async with connected(postgres_server) as other:
        await other.execute(text("begin"))
        await other.execute(text(f"alter database {live} rename to {live}_held"))
        work = asyncio.create_task(databases.swap(admin, live, side, aside))
        waits = f"select from pg_stat_activity where pid = {pid} and wait_event_type = 'Lock'"
        while not postgres_server.execute(waits):  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.02)
        work.cancel()
        await other.execute(text("rollback"))
        with pytest.raises(asyncio.CancelledError):
            await work
    assert postgres_server.databases(live) == [live, aside]
    assert await admin.scalar(text("select pg_backend_pid()")) == pid


@pytest.mark.long
async def test_a_swap_is_tried_again_after_a_lock_timeout(
    admin: AsyncConnection, postgres_server: Server, postgres_name: str
) -> None:
    live, side, aside = await with_a_side(admin, postgres_name)
    async with connected(postgres_server) as other:
        await other.execute(text("begin"))
        await other.execute(text(f"alter database {live} rename to {live}_held"))
        work = asyncio.create_task(databases.swap(admin, live, side, aside))
        await asyncio.sleep(0.8)
        await other.execute(text("rollback"))
        await work
    assert postgres_server.databases(live) == [live, aside]


async def test_a_swap_onto_a_taken_or_missing_name_is_refused(
    admin: AsyncConnection, postgres_name: str
) -> None:
    await databases.create(admin, postgres_name)
    side = f"{postgres_name}_side"
    with pytest.raises(RefusedError, match="does not exist"):
        await databases.swap(admin, postgres_name, side, f"{side}2")
    await databases.create(admin, side)
    with pytest.raises(RefusedError, match="is there already"):
        await databases.swap(admin, postgres_name, side, side)


async def test_disconnecting_ends_every_session(
    admin: AsyncConnection, postgres_server: Server, postgres_name: str
) -> None:
    await databases.create(admin, postgres_name)
    engine = create_async_engine(postgres_server.url(postgres_name))
    async with engine.connect():
        pass
    assert len(await databases.others(admin, postgres_name)) == 1
    await databases.disconnect(admin, postgres_name)
    assert await databases.others(admin, postgres_name) == ()
    await engine.dispose()


async def test_a_session_this_role_may_not_end_is_named(
    admin: AsyncConnection, postgres_server: Server, postgres_name: str, role: str
) -> None:
    live, side = postgres_name, f"{postgres_name}_side"
    await created_for(role, admin, live)
    await created_for(role, admin, side)

    def second() -> AbstractAsyncContextManager[AsyncConnection]:
        return connected(postgres_server, user=role)

    async with connected(postgres_server, user=role) as own, connected(postgres_server, live):
        with pytest.raises(RefusedError, match="no right to"):
            await databases.disconnect(own, live)
        with pytest.raises(RefusedError, match="no right to"):
            await databases.swap(own, live, side, f"{live}_old", disconnect_by=second)
        assert postgres_server.databases(live) == [live, side]


async def test_a_prepared_transaction_stands_in_the_way(
    admin: AsyncConnection, postgres_server: Server, postgres_name: str
) -> None:
    if postgres_server.execute("show max_prepared_transactions")[0][0] == "0":
        pytest.skip("the server has no prepared transactions")
    await databases.create(admin, postgres_name)
    async with connected(postgres_server, postgres_name) as other:
        for sql in ("begin", "create table t ()", f"prepare transaction '{postgres_name}'"):
            await other.execute(text(sql))
    try:
        with pytest.raises(RefusedError, match="prepared transaction"):
            await databases.disconnect(admin, postgres_name)
    finally:
        async with connected(postgres_server, postgres_name) as other:
            await other.execute(text(f"rollback prepared '{postgres_name}'"))


async def test_only_names_of_ours_are_ours(admin: AsyncConnection, postgres_name: str) -> None:
    live, neighbour = postgres_name, f"{postgres_name}_2"
    mine = [
        name_beside(live, "purged", "20260102"),
        name_beside(live, "snapshot", "20260101a"),
    ]
    for name in (
        *mine,
        live,
        name_beside(neighbour, "snapshot", "20260101"),
        f"{live}__automigrator_snapshot_not_ours",
    ):
        await databases.create(admin, name)
    assert await ours(admin, live) == [
        Ours(mine[1], "snapshot", "20260101a"),
        Ours(mine[0], "purged", "20260102"),
    ]


@pytest.mark.parametrize("live", ["a", "x" * 63, "ж" * 31, "☃" * 21])
def test_names_fit_whatever_the_database_is_called(live: str) -> None:
    stamp = "20260101T120000Z"
    names = {name_beside(live, "snapshot", stamp), name_beside(live, "purged", stamp)}
    assert len(names) == 2
    assert all(len(name.encode()) <= 63 for name in names)
    assert name_beside(live[:-1] + "y", "snapshot", stamp) not in names
    with pytest.raises(ValueError, match="stamp"):
        name_beside(live, "snapshot", "a_b")


async def test_a_database_with_neighbours_is_not_exclusive(
    admin: AsyncConnection, postgres_server: Server, postgres_name: str, role: str
) -> None:
    await databases.create(admin, postgres_name)
    async with connected(postgres_server, postgres_name) as target:
        own = (VersionTable(), VersionTable("versions", "meta"))
        theirs = VersionTable(schema="theirs")

        async def reason(*more: VersionTable) -> str | None:
            return await neighbours.why_shared(target, (*own, *more))

        async def do(sql: str) -> None:
            await target.execute(text(sql))

        assert await reason() is None
        await do("create table alembic_version (version_num varchar(32) primary key)")
        await do("create schema meta")
        await do("create table meta.versions (version_num varchar(32) primary key)")
        await do("create table mine (id int)")
        await do("create temporary table passing (id int)")
        assert await reason() is None
        await do("create schema theirs")
        await do("create table theirs.orders (id int)")
        assert "theirs.orders" in (await reason() or "")
        assert await reason(theirs) is None
        await do("create table billing_version (version_num varchar(32) primary key)")
        assert "another history's version table: public.billing_version" in (
            await reason(theirs) or ""
        )
    async with connected(postgres_server, postgres_name, user=role) as target:
        assert "belongs to role" in (await neighbours.why_shared(target, ()) or "")
