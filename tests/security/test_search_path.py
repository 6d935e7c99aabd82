"""Guests make operators and functions in schemas that we look into: none of them is ever called."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from automigrator_backup_restore import BackupRestore
from automigrator_purge import Purge
from sqlalchemy import Connection, event, inspect, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from support.notes_application import BROKEN, COMMITS, GOOD, ROWS, UNIQUE, Application
from support.pgbouncer import BINARY, pooled
from support.postgres_server import Server

import automigrator
from automigrator import MigrationError, Migrator, Target
from automigrator.backends.access import Access
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql import connections, digests
from automigrator.backends.postgresql.connections import ServerSessions
from automigrator.backends.postgresql.notes import named_again
from automigrator.backends.postgresql.sql import SearchPath
from automigrator.backends.registry import backend_for

SOURCE = Path(automigrator.__file__).parent / "backends" / "postgresql"

WORDS = ("text", "name", "varchar")
TAKEN = [
    *((each,) for each in (*WORDS, "text[]", "name[]", "int8[]", '"char"', "oid", "int8")),
    *((each,) for each in ("int4", "regclass", "timestamptz", "interval", "numeric", "bool")),
    *product(WORDS, repeat=2),
    *(("text[]", "text"), ("text[]", "text[]"), ("oid", "name"), ("oid", "varchar")),
    *(("varchar", "varchar", "bool"), ("text", "name", "name"), ("text", "text", "name")),
    *(("text", "name", "text"), ("text", "text", "text"), ("varchar", "varchar", "varchar")),
]
"""What an overload takes: where the server's own takes something else, this one fits better."""

SIDES = [
    *product(WORDS, repeat=2),
    *product(("oid", "regclass"), repeat=2),
    *product(("int4", "int8", "numeric", "float8"), repeat=2),
    *(('"char"', each) for each in ('"char"', *WORDS)),
    *(("name", "text[]"), ("text[]", "text"), ("text[]", "text[]"), ("jsonb", "text")),
    *(("timestamptz", "timestamptz"), ("xid", "int4"), ("bool", "bool"), ("inet", "text")),
]
LOGICAL = ("=", "<>", "<", ">", "<=", ">=", "~", "!~", "~~", "!~~", "~*")
OTHERS = {"||": "text", "+": "numeric", "-": "numeric", "*": "numeric", "<<": "int8", "->>": "text"}

CALLED = """
    select proname, sum(calls)::int from pg_stat_user_functions f
    join pg_proc p on p.oid = f.funcid where f.schemaname in ('hostile', 'public') group by 1
"""

Calls = Callable[[], dict[str, int]]


def planted(schema: str, functions: Sequence[tuple[str, str, int]]) -> str:
    """What a guest runs: overloads of each operator, and of the functions that are `used`."""
    made = ["set check_function_bodies = off"]
    for symbol, (left, right) in product([*LOGICAL, *OTHERS], SIDES):
        name = f'{schema}."{left} {symbol} {right}"'.replace('"char"', "char")
        result = OTHERS.get(symbol, "bool")
        made.append(f"create function {name}({left}, {right}) returns {result} {_BODY}")
        sides = f"leftarg = {left}, rightarg = {right}"
        made.append(f"create operator {schema}.{symbol} ({sides}, function = {name})")
    for (function, result, count), takes in product(functions, TAKEN):
        if len(takes) == count:
            made.append(
                f"create function {schema}.{function}({', '.join(takes)}) returns {result} "
                f"{_ROWS if result.startswith('setof') else _BODY}"
            )
    return ";\n".join(made)


_BODY = "language plpgsql as 'begin return null; end'"
_ROWS = "language plpgsql as 'begin return; end'"


def used(server: Server) -> list[tuple[str, str, int]]:
    """The server's functions whose names are in our SQL: what they return, how much they take."""
    source = "".join(each.read_text("utf-8") for each in SOURCE.rglob("*.py"))
    return server.execute(
        """
        select proname, case when bool_or(proretset) then 'setof text' else min(
            case when t.typtype = 'p' then 'text' else format_type(t.oid, null) end) end, takes
        from pg_proc p join pg_type t on t.oid = p.prorettype
        cross join lateral generate_series(pronargs,
            case provariadic when 0 then pronargs else 3 end) as takes
        where pronamespace = 'pg_catalog'::regnamespace and proname = any($1) group by 1, 3
        """,
        sorted(set(re.findall(r"\b[a-z_]+(?=\()", source))),
    )


_NAMED = re.compile(
    r"""operator\(pg_catalog\.\S+?\) | extract\(epoch[ ]from
    | "[^"]*" | '[^']*' | --.* | %\(\w+\)s""",
    re.VERBOSE,
)
_BARE = re.compile(
    r"""
    [<>=~|*+!#/%] | -(?!\d)
    | (?<![.\w]) (?!(?:cast|exists|any|array)\b) [a-z_]+ \(
    | \b (?:in|like|ilike|between|nullif|distinct|using) \b
    | \b (?:from|join) \s+ (?!pg_catalog\.) [a-z_]+
    """,
    re.VERBOSE,
)


def bare(statement: str) -> list[str]:
    """What a statement leaves to the search path to find, as far as words tell."""
    return _BARE.findall(_NAMED.sub("", statement))


class Notes(Application):
    """Its env.py has a search path of its own: what Alembic asks there is as open as without us."""

    def __init__(self, root: Path, url: str) -> None:
        super().__init__(root, url)
        (env,) = root.rglob("env.py")
        begin, body = env.read_text("utf-8").split("context.configure(connection=connection", 1)
        own = 'connection.exec_driver_sql("set search_path to public"); connection.commit()\n    '
        env.write_text(f"{begin}{own}context.configure(connection=connection{body}", "utf-8")

    def target(self, **options: Any) -> Target:
        beside = f"{make_url(self.url).database}_beside"
        return super().target(**{"maintenance_database": beside, **options})

    def migrator(self, *recovery: Any) -> Migrator:
        return Migrator(self.target(), mode="migrate", recovery=recovery)


@pytest.fixture
def calls(postgres_server: Server, postgres_url: str) -> Calls:
    """`calls()`: how often each planted function was called, in the database and beside it."""

    def called() -> dict[str, int]:
        found: Counter[str] = Counter()
        for name in postgres_server.databases(postgres_url.rpartition("/")[2]):
            found.update(dict(postgres_server.execute(CALLED, database=name)))
        return dict(found)

    return called


@pytest.fixture
async def hostile(postgres_url: str, postgres_server: Server, roles: Any) -> str:
    """The URL of a superuser whose search path begins with a schema that a guest has filled.

    The guest has done so in the database, and in another one that is used for maintenance.
    """
    server, database = postgres_server, postgres_url.rpartition("/")[2]
    guest, owner = roles.make(), roles.make("superuser")
    server.execute(f"create schema hostile authorization {guest}", database=database)
    server.execute(f"alter role {owner} set track_functions = 'pl'")
    server.execute(f"alter role {owner} set search_path = hostile, public")
    await roles.does(guest, database, planted("hostile", used(server)))
    server.execute(f"create database {database}_beside template {database}")
    return str(roles.url(owner, database))


@pytest.fixture
def notes(tmp_path: Path, postgres_url: str, hostile: str) -> Notes:
    application = Notes(tmp_path, postgres_url)
    application.url = hostile
    return application


async def test_a_guest_does_not_become_superuser_by_an_operator_in_schema_public(
    tmp_path: Path, postgres_url: str, postgres_server: Server, roles: Any, calls: Calls
) -> None:
    application, guest = Application(tmp_path, postgres_url), roles.make()
    database = postgres_url.rpartition("/")[2]
    postgres_server.execute(f"alter database {database} set track_functions = 'pl'")
    postgres_server.execute(f"grant create on schema public to {guest}", database=database)
    await roles.does(
        guest,
        database,
        f"""
        create function public.weapon(name, name) returns bool language plpgsql as $$ begin
            if (select rolsuper from pg_roles where rolname = current_user) then
                alter role {guest} superuser;
            end if;
            return false;
        end $$
        """,
        "create operator public.~ (leftarg = name, rightarg = name, function = public.weapon)",
        "create operator public.!~ (leftarg = name, rightarg = name, function = public.weapon)",
    )
    application.deploy(GOOD)
    await Migrator(application.target()).check()
    await application.start(BackupRestore(snapshot="always", copy="template"))
    query = "select rolsuper from pg_roles where rolname = $1"
    assert postgres_server.execute(query, guest) == [(False,)]
    assert calls() == {}


async def test_looks_migrations_and_rollbacks_call_nothing_of_a_guests(
    notes: Notes, calls: Calls
) -> None:
    assert (await notes.migrator().check()).current
    notes.deploy(GOOD, downgrade='op.drop_table("tags")')
    migrator = notes.migrator()
    assert [each.revision for each in (await migrator.plan(sql=True))[0].revisions] == ["r2"]
    assert (await migrator.run()).outcome == "migrated"
    notes.execute(
        "create index broken on public.notes (text)",
        "update pg_index set indisvalid = false where indexrelid = 'public.broken'::regclass::oid",
    )
    found = await migrator.doctor(repair=True)
    assert "broken" in str(found)
    assert (await migrator.rollback("r1")).outcome == "reverted"
    engine = create_async_engine(notes.url)
    migrator = Migrator(Target(engine, notes.config, revision="r1"), mode="migrate")
    asked: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *each: asked.append(each[2]))
    for _ in range(2):  # the second one asks an idle connection of the application's
        assert (await migrator.run()).outcome == "current"
        async with engine.connect() as connection:
            await connection.execute(text("select 1"))
    await engine.dispose()
    assert len(asked) == 3 and not any(bare(each) for each in asked), asked
    assert calls() == {}
    notes.execute("select 'a'::name ~ 'b'::name", "select * from unnest(array['a'])")
    assert calls() == {"name ~ name": 1, "unnest": 1}, "it would have been seen"


@pytest.mark.long
@pytest.mark.parametrize("copy", ["template", "dump"])
async def test_a_restore_calls_nothing_of_a_guests(
    notes: Notes, calls: Calls, copy: Any, tmp_path: Path
) -> None:
    notes.deploy(f"{COMMITS}\n{BROKEN}")
    with pytest.raises(MigrationError, match="what the failure left was undone"):
        await notes.start(BackupRestore(copy=copy, folder=tmp_path / "dumps"))
    assert notes.notes() == ROWS
    assert calls() == {}


@pytest.mark.long
async def test_a_purge_calls_nothing_of_a_guests(notes: Notes, calls: Calls) -> None:
    notes.deploy(UNIQUE)
    assert (await notes.start(Purge(also=["public.notes"]))).outcome == "recovered"
    assert calls() == {}


@pytest.mark.long("psycopg")
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_what_runs_on_a_connection_of_an_env_py_calls_nothing_of_a_guests(
    hostile: str, calls: Calls, driver: str
) -> None:
    sessions = ServerSessions(lambda: SearchPath("another"))
    table = VersionTable("alembic_version")
    _, asked = sessions.given_later({"server_settings": {"timezone": "UTC"}})
    asked = [*asked]

    def work(connection: Connection, path: str) -> None:
        connection.exec_driver_sql(f"set search_path to {path}")
        connection.commit()
        event.listen(connection, "before_cursor_execute", lambda *each: asked.append(each[2]))
        assert sessions.identity(connection)
        undo = [
            connections.tagged(connection, "automigrator test", lambda server, age_s: None),
            connections.sharing(connection, -15),
            connections.waiting_shortly(connection, lambda: 100),
            sessions.limit_statements(connection, 60),
            sessions.limit_statements(connection, 0),
        ]
        sessions.mark(connection, 3)
        assert sessions.transaction(connection)
        assert sessions.resolve(connection, table).schema == "hostile"
        assert sessions.led_apart(connection, table) is None
        connection.commit()
        assert sessions.marked(connection) == 3
        for each in reversed(undo):
            each()

    # what the driver asks when it connects is the driver's
    no_hstore = {"use_native_hstore": False} if driver == "psycopg" else {}
    engine = create_async_engine(
        make_url(hostile).set(drivername=f"postgresql+{driver}"), **no_hstore
    )
    async with engine.connect() as connection:
        for path in ("hostile, public", "hostile, pg_catalog"):
            await connection.run_sync(work, path)
    await engine.dispose()
    assert calls() == {}
    assert {each: bare(each) for each in asked if bare(each)} == {}
    assert bare("select a::text || 'b' from c where d in (1) and quote_ident(e) like 'f'")


@pytest.mark.long("psycopg")
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_the_applications_own_path_schema_and_reflection_are_as_without_us(
    tmp_path: Path, postgres_url: str, postgres_server: Server, driver: str
) -> None:
    application = Application(tmp_path, postgres_url)
    application.execute("create schema app", "alter table notes set schema app")
    url = make_url(postgres_url).set(drivername=f"postgresql+{driver}")
    engine = create_async_engine(url)

    @event.listens_for(engine.sync_engine, "connect", insert=True)
    def choose(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        cursor.execute("set search_path = app, public")
        cursor.close()
        connection.commit()

    migrator = Migrator(Target(engine, application.config), mode="migrate")
    assert (await migrator.run()).outcome == "current"
    assert (await migrator.check()).current
    assert engine.dialect.default_schema_name == "app"
    async with engine.connect() as connection:
        assert (await connection.execute(text("show search_path"))).scalar() == "app, public"
        tables = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
        assert tables == ["alembic_version", "notes"]
    await engine.dispose()


async def test_the_version_table_is_found_where_the_applications_path_leads_also_later(
    tmp_path: Path, postgres_url: str
) -> None:
    application = Application(tmp_path, postgres_url)
    own = {"server_settings": {"search_path": "late, public"}}
    access = Access(Target(create_async_engine(postgres_url, connect_args=own), tmp_path))
    backend, table = backend_for(access, None), VersionTable("alembic_version")
    async with access.sharing():
        assert (await backend.look([table])).all_heads() == ("r1",)
        application.execute(
            "create schema late", "create table late.alembic_version (version_num varchar(32))"
        )
        assert (await backend.look([table])).heads == {table: ()}
        examiner = backend.examiner([table])
        assert examiner is not None
        assert await examiner.existing([(None, "notes"), ("late", "notes")]) == ((None, "notes"),)


@pytest.mark.skipif(BINARY is None, reason="pgbouncer is not installed")
@pytest.mark.long("[session")
@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_a_pooler_hands_no_changed_session_to_others_and_nothing_of_a_guests_is_called(
    notes: Notes, calls: Calls, mode: str, pooler_folder: Path
) -> None:
    direct = notes.url
    with pooled(direct, pooler_folder, mode) as url:
        notes.url = url
        unprepared = {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
        engine = create_async_engine(url, connect_args=unprepared)
        beside = notes.target().maintenance_database
        target = Target(engine, notes.config, maintenance_database=beside)
        dumps = {"copy": "dump", "folder": pooler_folder.parent, "disconnect_others": True}
        recovery = [BackupRestore(snapshot="always", **dumps)] if mode == "session" else []
        migrator = Migrator(target, mode="migrate", recovery=recovery)
        assert (await migrator.run()).outcome == "current"
        assert (await migrator.check()).current
        assert (await migrator.doctor()).targets
        notes.deploy(GOOD)
        if mode == "session":
            assert (await migrator.run()).outcome == "migrated"
        else:
            with pytest.raises(MigrationError, match="pooler in transaction mode"):
                await migrator.run()
        for _ in range(5):
            async with engine.connect() as connection:
                path = await connection.execute(text("show search_path"))
                assert path.scalar() in ("hostile, public", "public")  # env.py's
        await engine.dispose()
    assert calls() == {}


def test_what_follows_the_commit_of_a_note_behind_a_pooler_names_its_schemas() -> None:
    assert bare(named_again("before")) == []


async def test_a_cast_that_a_guest_gave_his_rows_is_not_used_when_rows_are_compared(
    tmp_path: Path, postgres_url: str, postgres_server: Server, roles: Any, calls: Calls
) -> None:
    guest, database = roles.make(), postgres_url.rpartition("/")[2]
    postgres_server.execute(f"alter database {database} set track_functions = 'pl'")
    postgres_server.execute(f"grant create on schema public to {guest}", database=database)
    await roles.does(
        guest,
        database,
        "create table bait (id int)",
        "insert into bait values (1)",
        f"create function weapon(bait) returns text {_BODY}",
        "create cast (bait as text) with function weapon(bait)",
    )
    access = Access(Target(postgres_url, tmp_path))
    async with access.connection(autocommit=True) as connection:
        before = await digests.values(connection)
    await roles.does(guest, database, "drop cast (bait as text)")
    async with access.connection(autocommit=True) as connection:
        assert await digests.values(connection) == before
    assert calls() == {}


async def test_a_view_in_the_place_of_the_version_table_is_not_read(
    tmp_path: Path, postgres_url: str, postgres_server: Server, roles: Any, calls: Calls
) -> None:
    application, guest = Application(tmp_path, postgres_url, started=False), roles.make()
    database = postgres_url.rpartition("/")[2]
    postgres_server.execute(f"alter database {database} set track_functions = 'pl'")
    postgres_server.execute(f"grant create on schema public to {guest}", database=database)
    await roles.does(
        guest,
        database,
        f"create function weapon() returns varchar {_BODY}",
        "create view alembic_version as select weapon() as version_num",
    )
    (found,) = (await Migrator(application.target()).check()).targets
    assert found.problem is not None
    assert "public.alembic_version, where the version table is looked for, is a view" in str(found)
    with pytest.raises(MigrationError, match="is a view"):
        await application.start()
    assert calls() == {}
