"""The next start finishes or undoes what a killed one left on PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event, make_url
from sqlalchemy.engine import Connection
from support.postgres_backends import TABLES, Do, beside, made, silent, stamped
from support.postgres_server import Server

from automigrator.backends.contract.snapshots import SnapshotOptions
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql import journal
from automigrator.backends.postgresql.backend import PostgreSQL

pytestmark = pytest.mark.long(
    "ALTER-4",
    "ALTER-1",
    "COMMENT",
    "CREATE-1",
    "left2",
    "left4",
    "BEGIN",
    "COMMIT",
    "tenant')",
    "committed[update",
    "committed[vacuum",
    "on domain",
    "left5",
)


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


@pytest.mark.long("statements0", "statements3")
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


@pytest.mark.long("update odd", "alter publication", "create server", "lo_put")
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


async def test_the_work_of_another_targets_leader_is_left_to_it(
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


@pytest.mark.long
async def test_one_start_alone_undoes_the_work_of_another_targets_dead_leader(
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


@pytest.mark.long
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
            admin = hold.admin.sync_connection
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


def test_a_journal_names_the_fields_of_version_tables() -> None:
    entry = journal.CopyEntry("migrating", ("r1",), ("r2",), tables=(VersionTable("v", "app"),))
    assert json.loads(entry.dumped())["automigrator"]["tables"] == [{"name": "v", "schema": "app"}]
