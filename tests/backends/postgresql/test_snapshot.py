"""Snapshots of a PostgreSQL database: taken, restored, refused, removed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import NullPool, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from support.postgres_backends import TABLES, beside, made, silent, stamped
from support.postgres_server import Server

from automigrator.backends.access import Access
from automigrator.backends.contract.snapshots import SnapshotOptions
from automigrator.backends.postgresql.backend import PostgreSQL
from automigrator.errors import RefusedError
from automigrator.retention import Limits
from automigrator.target import Target


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


@pytest.mark.long("True")
@pytest.mark.parametrize("disconnect_others", [False, True])
async def test_the_copy_that_a_restore_keeps_holds_all_that_others_committed(
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


async def test_a_copy_that_a_kill_kept_from_being_finished_goes_with_the_next_start(
    backend: PostgreSQL, postgres_server: Server, filled: str, do: Callable[..., Any]
) -> None:
    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await hold.snapshots.take("s1", ("r1",), ("r1",), TABLES)
        await hold.close_journal()
    do(
        f"alter database {snapshot.place} allow_connections false",  # by hand: it is whole
        f"create database {filled}__automigrator_snapshot_s2 allow_connections false",
    )
    async with backend.lock(TABLES, 5, silent) as hold:
        assert await hold.recover() is None
    left = [row[0] for row in do(f"select datname from pg_database where datname ~ '{filled}__'")]
    assert left == [snapshot.place]


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
    backend = PostgreSQL(Access(Target(app, Path(__file__).parent)), None)
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


@pytest.mark.long
async def test_a_snapshot_is_refused_with_neighbours_in_the_database(
    backend: PostgreSQL, postgres_server: Server, filled: str, do: Callable[..., Any]
) -> None:
    do("create schema theirs", "create table theirs.orders ()")
    async with backend.lock(TABLES, 5, silent) as hold:
        with pytest.raises(RefusedError, match="theirs.orders"):
            await hold.snapshots.take("s1", ("r1",), ("r2",), TABLES)
    assert beside(postgres_server, filled) == []


@pytest.mark.long
async def test_a_snapshot_of_another_revision_than_the_runs_is_refused(
    backend: PostgreSQL, postgres_server: Server, filled: str
) -> None:
    async with backend.lock(TABLES, 5, silent) as hold:
        with pytest.raises(RefusedError, match="at r1.*at r0"):
            await hold.snapshots.take("s1", ("r0",), ("r2",), TABLES)
    assert beside(postgres_server, filled) == []


@pytest.mark.long
async def test_a_role_that_may_not_create_databases_is_refused_a_snapshot(
    postgres_server: Server, postgres_url: str, filled: str, role: str
) -> None:
    postgres_server.execute(f"alter database {filled} owner to {role}")
    postgres_server.execute(f"grant all on all tables in schema public to {role}", database=filled)
    backend = made(make_url(postgres_url).set(username=role))
    async with backend.lock(TABLES, 5, silent) as hold:
        with pytest.raises(RefusedError, match="CREATEDB"):
            await hold.snapshots.take("s1", ("r1",), ("r2",), TABLES)


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


@pytest.mark.long
async def test_copies_of_replaced_data_have_limits_of_their_own_and_this_runs_own_stay(
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
        assert await hold.snapshots.prune(Limits(1)) == ()
        assert await hold.snapshots.prune_replaced(Limits(1)) == tuple(old)
    assert beside(postgres_server, filled) == ["snapshot", "undone", "undone"]


@pytest.mark.long
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


async def test_a_new_schema_made_by_the_migration_does_not_prevent_a_restore(
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
