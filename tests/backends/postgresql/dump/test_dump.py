"""A dump of a PostgreSQL database: taken, proved, put back in one transaction, or refused."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import NullPool, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from support.checksums import checksums
from support.postgres_backends import Do, made, silent
from support.postgres_server import Server
from support.rich_database import RICH

from automigrator.backends.access import Access
from automigrator.backends.contract.snapshots import Snapshot, SnapshotOptions
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql import libpq
from automigrator.backends.postgresql.backend import PostgreSQL
from automigrator.backends.postgresql.dump import programs, restore
from automigrator.backends.postgresql.exclusive import ExclusiveAccess
from automigrator.backends.postgresql.hold import ServerHold
from automigrator.errors import RefusedError
from automigrator.retention import Limits
from automigrator.target import Target
from automigrator.testing.processes import Process

TABLES = [VersionTable()]

pytestmark = [
    pytest.mark.skipif(
        shutil.which("pg_dump") is None, reason="no PostgreSQL client programs on this machine"
    ),
    pytest.mark.long(
        "[beside]",
        "[default]",
        "unlink",
        "committed[False]",
        "statements3",
        "killed",
        "open_writer",
        "prune",
        "dies_changes_nothing",
        "is_allowed",
        "newest_copies",
        "whichever_encoding",
        "maintenance_database_can",
        "[schema]",
        "somebody_elses",
        "tables_are_being_locked",
        "old_dumps",
        "anything_changes[statements0",
        "anything_changes[statements1",
        "anything_changes[statements2",
        "anything_changes[statements4",
        "flip_a_bit",
        "nobody_can_write_between",
        "whose_dump_is_lost",
        "refused_while_others",
        "put back]",
        "committed[True]",
        "cancelled_ends_at_once",
        "[statements5",
        "may_create_no_database",
    ),
]

HALF_A_MIGRATION = (
    "alter table users drop column mood",
    "drop table posts cascade",
    "delete from users where id % 2 = 0",
    "create table debris (id int)",
    "create schema added",
    "create table added.more as select 1 as n",
    "drop extension pgcrypto",
    "create extension citext",
    "alter type app.mood rename to spirit",
    "create function more() returns int return 1",
    "select setval('counter', 1000)",
    "update alembic_version set version_num = 'r1b'",
)


@pytest.fixture
def filled(live: str, do: Do) -> str:
    """The target at r1 with one user."""
    do(*RICH[:2], "create table users (id int)", "insert into users values (7)")
    return live


@pytest.fixture
def role(postgres_server: Server, live: str) -> Iterator[str]:
    """The owner of the database, who may create no other."""
    name = f"{live}_role"
    postgres_server.execute(f"create role {name} login password 'top secret'")
    postgres_server.execute(f"alter database {live} owner to {name}")
    yield name
    postgres_server.drop_all(live)
    postgres_server.execute(f"drop role {name}")


async def taken(
    hold: ServerHold, folder: Path, *, atomic: bool = False, **options: Any
) -> Snapshot:
    chosen = SnapshotOptions(**{"folder": folder, "how": "dump", **options})
    return await hold.snapshots.take("s1", ("r1",), ("r2",), TABLES, chosen, atomic=atomic)


async def test_everything_is_put_back_and_nothing_else_is_left(
    postgres_url: str, do: Do, tmp_path: Path
) -> None:
    do(*RICH)
    before = checksums(postgres_url)
    backend = made(postgres_url)
    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await taken(hold, tmp_path)
        assert checksums(postgres_url) == before
        do(*HALF_A_MIGRATION)
        await hold.snapshots.restore(snapshot)
        assert checksums(postgres_url) == before
        do(*HALF_A_MIGRATION[:3])
        await hold.snapshots.restore(snapshot)
        assert checksums(postgres_url) == before
        await hold.close_journal()
        assert await hold.recover() is None
    assert files(tmp_path) == ["replaced", "replaced", "snapshot"]
    assert stat.S_IMODE(os.stat(snapshot.place).st_mode) == 0o600


@pytest.mark.long("[global]", "[revoked]", "[configuration]", "[update]", "[name]")
@pytest.mark.parametrize(
    ("before", "then", "asked"),
    [
        # grants that whatever is made from now on has, the tables of a restore not
        ((), ("alter default privileges in schema public grant select on tables to public",), ()),
        ((), ("alter default privileges grant select on tables to pg_monitor",), ()),
        (
            (
                "alter default privileges revoke execute on functions from public",
                "create function once() returns int return 1",
                "grant execute on function once() to public",
            ),
            ("drop function once()", "alter default privileges revoke all on tables from postgres"),
            (),
        ),
        # what an extension has marked as the user's own is in the dump, and stays as well
        (
            (
                "create table jobs (id int primary key, done bool)",
                "insert into jobs values (1, false)",
                "alter extension plpgsql add table jobs",
                """update pg_extension set extconfig = array['jobs'::regclass::oid],
                   extcondition = array[''] where extname = 'plpgsql'""",
            ),
            ("update jobs set done = true", "insert into jobs values (2, true)"),
            ("select id, done from jobs", [(1, False)]),
        ),
        # the schema of an extension goes with it, and what needs another one comes after it
        (
            (
                "create schema ext",
                "grant usage on schema ext to pg_monitor",
                "create extension hstore schema ext",
            ),
            ("drop schema ext cascade",),
            ("select has_schema_privilege('pg_monitor', 'ext', 'usage')", [(True,)]),
        ),
        # one that was updated, or moved
        (
            ("create schema ext", "create extension hstore version '1.7'"),
            ("alter extension hstore update to '1.8'", "alter extension hstore set schema ext"),
            (
                """select extversion, extnamespace::regnamespace::text from pg_extension
                   where extname = 'hstore'""",
                [("1.7", "public")],
            ),
        ),
        (('create table "in two\n lines : \'" (id int)',), (), ()),
        # what stands in no schema, and was not there
        (
            (),
            (
                "create publication p for all tables",
                "create function fired() returns event_trigger language plpgsql as 'begin end'",
                "create event trigger t on ddl_command_end execute function fired()",
                "create foreign data wrapper w",
                "create server s foreign data wrapper w",
                "select lo_create(4711)",
            ),
            (
                """select pubname from pg_publication union select evtname from pg_event_trigger
                   union select srvname from pg_foreign_server
                   union select fdwname from pg_foreign_data_wrapper
                   union select oid::text::name from pg_largeobject_metadata""",
                [],
            ),
        ),
    ],
    ids=["default", "global", "revoked", "configuration", "schema", "update", "name", "beside"],
)
async def test_rare_kinds_of_objects_are_put_back_as_well(
    postgres_url: str, do: Do, filled: str, tmp_path: Path, before: Any, then: Any, asked: Any
) -> None:
    do(*before)
    backend = made(postgres_url)
    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await taken(hold, tmp_path)
        do("drop table users", *then)
        await hold.snapshots.restore(snapshot)
    assert do("select id from users") == [(7,)]
    for query, found in [asked] if asked else []:
        assert do(query) == found


async def test_names_are_put_back_in_whichever_encoding_the_database_has(
    postgres_server: Server, postgres_name: str, tmp_path: Path
) -> None:
    postgres_server.execute(
        f"create database {postgres_name} template template0 encoding latin1 locale 'C'"
    )

    def do(*statements: str) -> list[Any]:
        return [postgres_server.execute(each, database=postgres_name) for each in statements][-1]

    do(*RICH[:2], 'create table "übung" (a text)', "insert into \"übung\" values ('ö')")
    backend = made(postgres_server.url(postgres_name))
    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await taken(hold, tmp_path)
        do('drop table "übung"')
        await hold.snapshots.restore(snapshot)
    assert do('select a from "übung"') == [("ö",)]


async def test_a_limit_for_transactions_does_not_end_a_dump_or_a_restore(
    postgres_url: str,
    postgres_server: Server,
    do: Do,
    filled: str,
    tmp_path: Path,
    tools: Callable[..., Path],
) -> None:
    if not do("select from pg_settings where name = 'transaction_timeout'"):
        pytest.skip("this server knows no such limit")
    postgres_server.execute(f"alter database {filled} set transaction_timeout = '500ms'")
    folder = tools(pg_dump='[ "$1" = --version ] || sleep 1')
    backend = made(postgres_url)
    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await taken(hold, tmp_path / "dumps", binaries=folder)
        do("drop table users")
        await hold.snapshots.restore(snapshot)
    assert do("select id from users") == [(7,)]


def files(folder: Path) -> list[str]:
    """The kinds of dumps in a folder."""
    names = [each.name for each in folder.iterdir() if each.suffix != ".json"]
    return sorted(each.split("__automigrator_")[1].split("_")[0] for each in names)


async def open_record(backend: PostgreSQL) -> bool:
    await backend.look(TABLES)
    return (await backend.look(TABLES)).unfinished


async def test_a_role_that_may_create_no_database_gets_a_dump_and_its_password_stays_secret(
    postgres_url: str, do: Do, filled: str, role: str, tmp_path: Path, tools: Callable[..., Path]
) -> None:
    do(*(f"alter table {table} owner to {role}" for table in ("users", "alembic_version")))
    said = tmp_path / "said"
    note = (
        f'[ "$1" = --version ] || {{ echo "$0 $@" >> {said};'
        f'env | grep -c "^PGPASSWORD=top secret" >> {said}.env; }}'
    )
    folder = tools(pg_dump=note, psql=note, pg_restore=note)
    url = make_url(postgres_url).set(username=role, password="top secret")
    backend = made(url)
    async with backend.lock(TABLES, 5, silent) as hold:
        with pytest.raises(RefusedError, match="CREATEDB.*folder="):
            await hold.snapshots.take("s1", ("r1",), ("r2",), TABLES)
        snapshot = await taken(hold, tmp_path / "dumps", how="auto", binaries=folder)
        do("drop table users")
        await hold.snapshots.restore(snapshot)
    assert do("select id from users") == [(7,)]
    assert "pg_dump" in said.read_text() and "psql" in said.read_text()
    assert "secret" not in said.read_text()
    assert set((tmp_path / "said.env").read_text().split()) == {"1"}
    assert "secret" not in str(do("select obj_description(oid, 'pg_type') from pg_type"))


async def test_an_extension_of_somebody_elses_stays_where_it_is(
    postgres_url: str, do: Do, filled: str, role: str, tmp_path: Path
) -> None:
    do(
        "create extension pg_stat_statements",
        *(f"alter table {t} owner to {role}" for t in ("users", "alembic_version")),
    )
    backend = made(make_url(postgres_url).set(username=role))
    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await taken(hold, tmp_path)
        do("drop table users")
        await hold.snapshots.restore(snapshot)
    assert do("select id from users") == [(7,)]
    assert do("select count(*) from pg_extension where extname = 'pg_stat_statements'") == [(1,)]


async def test_a_dump_is_made_where_no_maintenance_database_can_be_reached(
    postgres_url: str, do: Do, filled: str, tmp_path: Path
) -> None:
    backend = made(postgres_url, "no_such_database")
    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await taken(hold, tmp_path, how="auto")
        do("drop table users")
        await hold.snapshots.restore(snapshot)
        await hold.close_journal()
    assert do("select id from users") == [(7,)]


async def test_a_dump_is_refused_while_others_are_connected_and_names_them(
    postgres_url: str, filled: str, tmp_path: Path
) -> None:
    other = await asyncpg.connect(
        postgres_url.replace("+asyncpg", ""),
        server_settings={"application_name": "the replica"},
    )
    backend = made(postgres_url)
    async with backend.lock(TABLES, 5, silent) as hold:
        with pytest.raises(RefusedError, match="the replica.*disconnect_others=True"):
            await taken(hold, tmp_path)
        assert await other.fetchval("select 1") == 1
        assert files(tmp_path) == []
        await taken(hold, tmp_path, disconnect_others=True)
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError)):
            await other.fetchval("select 1")


async def test_a_restore_with_an_open_writer_is_refused_and_done_by_a_later_start(
    postgres_url: str, do: Do, filled: str, tmp_path: Path
) -> None:
    backend = made(postgres_url)
    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await taken(hold, tmp_path)
        do("alter table users add half int", "insert into users values (8)")
        before = checksums(postgres_url)
        writer = await asyncpg.connect(postgres_url.replace("+asyncpg", ""))
        with pytest.raises(RefusedError, match="connected: pid"):
            await hold.snapshots.restore(snapshot)
        assert checksums(postgres_url) == before
        await writer.close()
    next_start = made(postgres_url)
    assert await open_record(next_start)
    async with next_start.lock(TABLES, 5, silent) as next_start_hold:
        said = await next_start_hold.recover() or ""
    assert "put back" in said and "what it held until now is in" in said
    assert do("select * from users") == [(7,)]
    assert files(tmp_path) == ["replaced", "snapshot"]
    assert not await open_record(next_start)


def lines_of(dump: str, table: str) -> list[str]:
    """The rows of a table in a dump, as text."""
    command = ["pg_restore", "-a", "-t", table, "-f", "-", dump]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return text.partition("FROM stdin;\n")[2].partition("\n\\.")[0].splitlines()


@pytest.mark.parametrize("disconnect_others", [False, True])
async def test_the_copy_that_a_restore_keeps_holds_all_that_others_committed(
    postgres_url: str, do: Do, filled: str, tmp_path: Path, disconnect_others: bool
) -> None:
    backend = made(postgres_url)
    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await taken(hold, tmp_path)
        do("alter table users add half int", "insert into users values (8)")
        kept = await hold.snapshots.restore(snapshot, disconnect_others=disconnect_others)
        await hold.close_journal()
    assert do("select * from users") == [(7,)]
    assert lines_of(kept, "users") == ["7\t\\N", "8\t\\N"]
    assert files(tmp_path) == ["replaced", "snapshot"]
    assert stat.S_IMODE(os.stat(kept).st_mode) == 0o600


async def test_nobody_can_write_between_the_dump_of_what_is_replaced_and_its_end(
    postgres_url: str, do: Do, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, keep = made(postgres_url), restore._keep

    async def and_somebody_comes(*args: Any) -> None:
        await keep(*args)
        with pytest.raises(asyncpg.LockNotAvailableError):
            await other.execute("set lock_timeout = '100ms'; insert into users values (9)")
        # what no lock prevents
        await other.execute("create table late (id int)")
        await other.close()

    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await taken(hold, tmp_path)
        do("alter table users add half int")
        monkeypatch.setattr(restore, "_keep", and_somebody_comes)
        dsn = postgres_url.replace("+asyncpg", "")
        # called like a session that waits for a lock of ours: it is not taken for somebody
        name = {"application_name": "automigrator waits"}
        other = await asyncpg.connect(dsn, server_settings=name)
        with pytest.raises(RefusedError, match="has changed the schema"):
            await hold.snapshots.restore(snapshot)
        assert files(tmp_path) == ["snapshot"]
        assert do("select to_regclass('late')::text") == [("late",)]
        monkeypatch.undo()
        kept = await hold.snapshots.restore(snapshot)
    assert do("select to_regclass('late')") == [(None,)]
    assert lines_of(kept, "users") == ["7\t\\N"]


@pytest.mark.long
async def test_copies_of_replaced_data_have_limits_of_their_own_and_this_runs_own_stay(
    postgres_url: str, do: Do, filled: str, tmp_path: Path
) -> None:
    backend = made(postgres_url)
    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await taken(hold, tmp_path)
        kept = [await hold.snapshots.restore(snapshot) for _ in range(2)]
        await hold.close_journal()
        old = f"{kept[0].rpartition('_')[0]}_20200101T000000000000Z.dump"
        shutil.copy(kept[0], old)
        assert await hold.snapshots.prune(Limits(1), folder=tmp_path) == ()
        assert await hold.snapshots.prune_replaced(Limits(3), folder=tmp_path) == ()
        assert await hold.snapshots.prune_replaced(Limits(1), folder=tmp_path) == (old,)
    assert files(tmp_path) == ["replaced", "replaced", "snapshot"]


@pytest.mark.long
async def test_this_runs_own_dump_stays_where_the_folder_is_named_from_the_working_directory(
    postgres_url: str, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that went back says that it is the oldest."""
    monkeypatch.chdir(tmp_path)
    backend = made(postgres_url)
    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await taken(hold, Path("dumps"))
        later = f"{snapshot.place.rpartition('_')[0]}_z9.dump"
        shutil.copy(snapshot.place, later)

        assert await hold.snapshots.prune(Limits(1), folder=Path("dumps")) == ()
    assert files(tmp_path / "dumps") == ["snapshot", "snapshot"]


async def test_a_session_that_comes_while_the_tables_are_being_locked_makes_a_restore_a_refusal(
    postgres_url: str, do: Do, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, came = made(postgres_url), []
    alone = ExclusiveAccess.kept_alone

    @asynccontextmanager
    async def somebody_comes(*args: Any) -> AsyncIterator[None]:
        async with alone(*args):
            yield
            came.append(await asyncpg.connect(postgres_url.replace("+asyncpg", "")))

    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await taken(hold, tmp_path)
        do("alter table users add half int")
        monkeypatch.setattr(ExclusiveAccess, "kept_alone", somebody_comes)
        with pytest.raises(RefusedError, match="connected: pid"):
            await hold.snapshots.restore(snapshot)
    assert [row.keys() for row in await came[0].fetch("select * from users")] != []
    assert len(await came[0].fetchrow("select * from users")) == 2
    await came[0].close()


async def test_others_that_hold_a_table_are_ended_when_that_is_allowed(
    postgres_url: str, do: Do, filled: str, tmp_path: Path
) -> None:
    backend = made(postgres_url)
    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await taken(hold, tmp_path)
        do("alter table users add half int")
        pool = await asyncpg.create_pool(postgres_url.replace("+asyncpg", ""), min_size=3)
        held = await pool.acquire()
        await held.execute("begin; insert into users values (9)")
        await hold.snapshots.restore(snapshot, disconnect_others=True)
        pool.terminate()
    assert do("select * from users") == [(7,)]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.long("truncate")
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (truncate, "is not what was written"),
        (flip_a_bit, "is not what was written"),
        (Path.unlink, "cannot be read on"),
    ],
)
async def test_a_dump_that_is_damaged_or_elsewhere_restores_nothing_and_says_where_it_was(
    postgres_url: str, do: Do, filled: str, tmp_path: Path, harm: Any, said: str
) -> None:
    backend = made(postgres_url)
    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await taken(hold, tmp_path)
        do("alter table users add half int")
        before = checksums(postgres_url)
        dump = tmp_path / snapshot.place
        good = dump.read_bytes()
        harm(dump)
        with pytest.raises(RefusedError, match=said):
            await hold.snapshots.restore(snapshot)
    next_start = made(postgres_url)
    async with next_start.lock(TABLES, 5, silent) as next_start_hold:
        with pytest.raises(RefusedError, match=said) as refusal:
            await next_start_hold.recover()
        assert snapshot.place in str(refusal.value)
        assert checksums(postgres_url) == before
        dump.write_bytes(good)
        assert "put back" in (await next_start_hold.recover() or "")
    assert do("select * from users") == [(7,)]


async def test_a_database_whose_dump_is_lost_can_be_kept_as_it_is(
    postgres_url: str, do: Do, filled: str, tmp_path: Path
) -> None:
    backend = made(postgres_url)
    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await taken(hold, tmp_path)
        do("alter table users add half int")
        os.unlink(snapshot.place)
        with pytest.raises(RefusedError) as refusal:
            await hold.recover()
        do(str(refusal.value).split("instead: ")[1])
        assert await hold.recover() is None


@pytest.mark.long("statements0", "statements1", "statements4")
@pytest.mark.parametrize(
    ("atomic", "statements", "said"),
    [
        (True, ("insert into users values (8)", "vacuum full users"), "changed nothing"),
        (True, ("update alembic_version set version_num = 'r2'",), "had ended at r2"),
        (True, ("create index half on users (id)",), "put back"),
        (False, ("vacuum full users",), "changed nothing"),
        (False, ("update users set id = 8",), "put back"),
    ],
)
async def test_the_next_start_restores_only_what_was_left_half_done(
    postgres_url: str, do: Do, filled: str, tmp_path: Path, atomic: bool, statements: Any, said: str
) -> None:
    backend = made(postgres_url)
    async with backend.lock(TABLES, 5, silent) as hold:
        await taken(hold, tmp_path, atomic=atomic)
    do(*statements)
    next_start = made(postgres_url)
    assert await open_record(next_start)
    async with next_start.lock(TABLES, 5, silent) as next_start_hold:
        assert said in (await next_start_hold.recover() or "")
        assert await next_start_hold.recover() is None
    assert not await open_record(next_start)


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (
            ("alter table users enable row level security", "alter table users force row level "
             "security", "create policy p on users using (id < 5)"),
            "row-level security policy",
        ),
        (("create table theirs (id int)", "alter table theirs owner to postgres"), "theirs"),
        (("create schema neighbour", "create table neighbour.t ()"), "neighbour.t"),
        (("select lo_create(4711)",), "4711"),
        (("create publication p for table users",), "publication"),
        (("create schema automigrator",), "may not keep a journal"),
    ],
)  # fmt: skip
async def test_a_database_that_no_dump_can_put_back_is_refused_before_anything_changes(
    postgres_url: str,
    do: Do,
    filled: str,
    role: str,
    tmp_path: Path,
    statements: Any,
    said: str,
) -> None:
    for table in ("users", "alembic_version"):
        do(f"alter table {table} owner to {role}")
    do(*statements)
    backend = made(make_url(postgres_url).set(username=role))
    before = checksums(postgres_url)
    async with backend.lock(TABLES, 5, silent) as hold:
        with pytest.raises(RefusedError, match=said):
            await taken(hold, tmp_path)
    assert checksums(postgres_url) == before
    assert files(tmp_path) == []
    assert not await open_record(backend)


@pytest.mark.long("[14", "[17")
@pytest.mark.parametrize("version", [14, 17, 18])
async def test_client_programs_that_do_not_fit_the_server_are_refused(
    postgres_url: str, filled: str, tmp_path: Path, tools: Callable[..., Path], version: int
) -> None:
    folder = tools(version)
    server = int(clients_of_this_machine())
    if programs.fits(version, server):
        pytest.skip("they fit this machine's server")
    backend = made(postgres_url)
    async with backend.lock(TABLES, 5, silent) as hold:
        with pytest.raises(RefusedError, match=rf"version {version}\.1 in .*postgresql-client-"):
            await taken(hold, tmp_path / "dumps", binaries=folder)


async def test_without_client_programs_it_is_said_what_to_install(
    postgres_url: str, filled: str, tmp_path: Path
) -> None:
    backend = made(postgres_url)
    async with backend.lock(TABLES, 5, silent) as hold:
        with pytest.raises(RefusedError, match=r"none\).*Install postgresql-client-\d+"):
            await taken(hold, tmp_path / "dumps", binaries=tmp_path)


async def test_a_dump_that_is_cancelled_ends_at_once_and_leaves_nothing(
    postgres_url: str, filled: str, tmp_path: Path, tools: Callable[..., Path]
) -> None:
    started = tmp_path / "started"
    slow = f'[ "$1" = --version ] || {{ touch {started}; exec sleep 60; }}'
    folder = tools(pg_dump=slow)
    backend = made(postgres_url)
    async with backend.lock(TABLES, 5, silent) as hold:
        taking = asyncio.create_task(taken(hold, tmp_path / "dumps", binaries=folder))
        while not started.exists():  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.01)
        taking.cancel()
        ended, _ = await asyncio.wait({taking}, timeout=20)
        assert ended and taking.cancelled()
        assert list((tmp_path / "dumps").iterdir()) == []
        with pytest.raises(TimeoutError):
            async with made(postgres_url).lock(TABLES, 0.1, silent):
                pass
        await taken(hold, tmp_path / "dumps")


END = """select pg_terminate_backend(pid) from pg_stat_activity
where application_name like 'automigrator % %:%' and state like 'idle in trans%'"""


@pytest.mark.parametrize(
    "dies", ["{real} $@ > {part}; head -c 100000 {part}; kill -9 $$", '{psql} -Xqc "{end}" >&2']
)
async def test_a_restore_whose_program_or_session_dies_changes_nothing(
    postgres_url: str,
    do: Do,
    filled: str,
    tmp_path: Path,
    tools: Callable[..., Path],
    dies: str,
) -> None:
    do("insert into users select g from generate_series(1, 40000) g")
    backend = made(postgres_url)
    dying = tmp_path / "dying"
    real, psql = shutil.which("pg_restore"), shutil.which("psql")
    script = dies.format(real=real, psql=psql, part=tmp_path / "part", end=END)
    folder = tools(pg_restore=f'[ -e {dying} ] && [ "$2" = - ] && {{ {script}; }}')
    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await taken(hold, tmp_path / "dumps", binaries=folder)
        do("alter table users add half int")
        before = checksums(postgres_url)
        dying.touch()
        with pytest.raises(RefusedError, match="pg_restore|psql"):
            await hold.snapshots.restore(snapshot)
        assert checksums(postgres_url) == before
        dying.unlink()
        await hold.snapshots.restore(snapshot)
    assert do("select count(*) from users") == [(40001,)]


def _recovers(tell: Callable[[Any], None], url: str, binaries: Path) -> None:
    """In a process of its own."""

    async def recover() -> None:
        backend = made(url)
        async with backend.lock(TABLES, 30, silent) as hold:
            hold.binaries = binaries
            await hold.recover()

    asyncio.run(recover())


async def test_a_killed_restore_leaves_no_list_and_the_next_one_clears_the_rest(
    postgres_url: str, do: Do, filled: str, tmp_path: Path, tools: Callable[..., Path]
) -> None:
    stuck, reached, dumps = tmp_path / "stuck", tmp_path / "reached", tmp_path / "dumps"
    waits = f"touch {reached}; while [ -e {stuck} ]; do sleep 0.1; done"
    folder = tools(pg_restore=f'[ -e {stuck} ] && [ "$2" = - ] && {{ {waits}; }}')
    backend = made(postgres_url)
    async with backend.lock(TABLES, 5, silent) as hold:
        await taken(hold, dumps, binaries=folder)
    do("alter table users add half int")
    stuck.touch()
    process = Process(_recovers, postgres_url, folder)
    try:
        async with asyncio.timeout(60):
            while not reached.exists():  # noqa: ASYNC110 - a file has no event
                await asyncio.sleep(0.02)
        process.kill()
        assert len([*dumps.glob("*.partial")]) == 1, "of what is replaced"
    finally:
        process.close()
        stuck.unlink()
    next_start = made(postgres_url)
    async with next_start.lock(TABLES, 30, silent) as next_start_hold:
        assert "put back" in (await next_start_hold.recover() or "")
    assert {path.suffix for path in dumps.iterdir()} == {".dump", ".json"}


async def test_an_engine_with_a_creator_of_its_own_is_refused_a_dump(
    postgres_url: str, filled: str, tmp_path: Path
) -> None:
    dsn = postgres_url.replace("+asyncpg", "")
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(dsn), poolclass=NullPool
    )
    with pytest.raises(RefusedError, match="creator of its own"):
        await libpq.environment(Access(Target(engine, Path(__file__).parent)), "x")
    await engine.dispose()


async def test_the_newest_copies_of_either_kind_stay_and_never_one_that_is_needed(
    postgres_url: str, postgres_server: Server, filled: str, tmp_path: Path
) -> None:
    backend = made(postgres_url)
    (tmp_path / "notes.dump").touch()
    async with backend.lock(TABLES, 5, silent) as hold:
        for stamp, how in (("a1", "dump"), ("a2", "template"), ("a3", "dump"), ("a4", "dump")):
            options = SnapshotOptions(folder=tmp_path, how=how)
            copy = await hold.snapshots.take(stamp, ("r1",), ("r2",), TABLES, options)
            if stamp != "a4":
                await hold.close_journal()
        dropped = await hold.snapshots.prune(Limits(2), folder=tmp_path)
        assert [name.endswith(("a2", "_a1.dump")) for name in dropped] == [True, True]
        assert files_but(tmp_path, "notes.dump") == ["a3.dump", "a4.dump"]
        await hold.snapshots.take(
            "a5", ("r1",), ("r2",), TABLES, SnapshotOptions(folder=tmp_path, how="template")
        )
        assert copy.place not in await hold.snapshots.prune(Limits(1), folder=tmp_path)


async def test_old_dumps_go_where_old_databases_have_to_stay(
    postgres_url: str, postgres_server: Server, filled: str, tmp_path: Path
) -> None:
    old = f"{filled}__automigrator_snapshot_20200101T000000000000Z"
    postgres_server.create(old)
    backend = made(postgres_url, "no_such_database")
    async with backend.lock(TABLES, 5, silent) as hold:
        snapshot = await taken(hold, tmp_path)
        await hold.close_journal()
        older = snapshot.place.replace("_s1.dump", "_20200102T000000000000Z.dump")
        shutil.copy(snapshot.place, older)
        assert await hold.snapshots.prune(Limits(1), folder=tmp_path) == (older,)
    assert old in postgres_server.databases(filled)


def files_but(folder: Path, name: str) -> list[str]:
    names = [each.name for each in folder.glob("*.dump") if each.name != name]
    return sorted(each.split("_")[-1] for each in names)


def clients_of_this_machine() -> str:
    answer = subprocess.run(["pg_dump", "--version"], capture_output=True, text=True, check=True)
    return answer.stdout.split()[2].split(".")[0]
