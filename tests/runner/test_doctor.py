"""doctor() says what is the matter with a database, and removes what is provably debris."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from support.alembic_projects import contents, linear, query, revision, tables

from automigrator import MigrationError, Migrator, Target, TargetCheckup, hookimpl

pytestmark = pytest.mark.long(
    "postgresql", "was_there_before", "is_to_make_is_removed", "of_a_constraint_or"
)

Make = Callable[..., Target]

INVALID = "select indexrelid::regclass::text from pg_index where not indisvalid"


@pytest.fixture
async def target(make_target: Make, database_url: str) -> Target:
    """At its heads, r3."""
    made = make_target()
    await Migrator(made, mode="migrate").run()
    return made


@pytest.fixture
async def file(make_target: Make, sqlite_url: str, tmp_path: Path) -> Target:
    """At its heads, with three users."""
    made = make_target(database=sqlite_url)
    await Migrator(made, mode="migrate").run()
    do(sqlite_url, "INSERT INTO users (id, name) VALUES (1, 'a'), (2, 'b'), (3, 'b')")
    return made


@pytest.fixture
async def server(make_target: Make, postgres_url: str) -> Target:
    """At its heads, with users whose names are not unique."""
    made = make_target(database=postgres_url)
    await Migrator(made, mode="migrate").run()
    await execute(postgres_url, "INSERT INTO users (id, name) VALUES (1, 'b'), (2, 'b')")
    return made


def do(url: str, *statements: str) -> None:
    with closing(sqlite3.connect(str(make_url(url).database), isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


async def connected(url: str) -> Any:
    dsn = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return await asyncpg.connect(dsn)


async def execute(url: str, *statements: str) -> None:
    connection = await connected(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def fail_to_index(url: str, name: str = "uq_name", table: str = "users") -> None:
    """Leave an INVALID index, as the server does when a concurrent build fails."""
    with pytest.raises(asyncpg.UniqueViolationError):
        await execute(url, f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON {table} (name)")


def invalid(url: str) -> set[str]:
    return {row[0] for row in query(url, INVALID)}


async def doctor(target: Target, **options: Any) -> TargetCheckup:
    (found,) = (await Migrator(target).doctor(**options)).targets
    json.dumps(found.to_dict())
    return found


def everything(url: str, tmp_path: Path) -> Any:
    files = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.db*")}
    return contents(url), files


async def test_a_healthy_database_is_called_so_and_stays_as_it_is(
    target: Target, database_url: str, tmp_path: Path
) -> None:
    before = everything(database_url, tmp_path)

    found = await doctor(target)

    assert found.healthy and found.reachable and found.status.heads == ("r3",)
    assert (found.debris, found.hints, found.copies, found.unknown) == ((), (), (), ())
    assert str(found) == f"{target.name}: current at r3"
    assert everything(database_url, tmp_path) == before


async def test_repairing_a_healthy_database_changes_nothing(
    target: Target, database_url: str, tmp_path: Path
) -> None:
    before = everything(database_url, tmp_path)

    assert (await doctor(target, repair=True)).repairs == ()

    assert everything(database_url, tmp_path) == before


async def test_an_absent_database_is_not_made(make_target: Make, tmp_path: Path) -> None:
    target = make_target(database=f"sqlite+aiosqlite:///{tmp_path / 'absent.db'}")

    found = await doctor(target, repair=True)

    assert not found.status.exists and not found.healthy and found.reachable
    assert not any(name.startswith("absent") for name in os.listdir(tmp_path))


async def test_a_server_out_of_reach_is_said_to_be(make_target: Make) -> None:
    target = make_target(database="postgresql+asyncpg://nobody:canary@127.0.0.1:1/none")

    found = await doctor(target)

    assert not found.reachable and not found.healthy
    assert found.status.problem is not None and found.status.problem.kind == "unreachable"
    assert "not reachable" in str(found) and "canary" not in str(found)


async def test_several_heads_and_a_newer_database_are_told(
    target: Target, database_url: str, versions: Path
) -> None:
    revision(versions, "q1", None)
    await Migrator(target, mode="migrate").run()
    assert "several heads: q1, r3" in str(await doctor(target))

    (versions / "q1_.py").unlink()

    found = await doctor(target)
    assert found.status.problem is not None and found.status.problem.kind == "ahead"


async def test_how_the_last_start_ended_is_told(
    target: Target, database_url: str, versions: Path
) -> None:
    revision(versions, "r4", "r3", upgrade="raise RuntimeError('the cause')")
    with pytest.raises(MigrationError):
        await Migrator(target, mode="migrate").run()

    found = await doctor(target)

    assert found.record is not None and found.record.starts.count == 1
    assert "1 start has failed at these revisions since " in str(found)
    assert "the cause" in str(found)
    assert found.to_dict()["failed_starts"] == 1


async def test_the_holder_of_the_lock_is_named_and_copies_are_listed(
    make_target: Make, database_url: str, versions: Path
) -> None:
    target = make_target()
    found: list[TargetCheckup] = []

    class Looks:
        @hookimpl
        async def before_migrate(self, run: Any) -> None:
            await run.snapshot()
            found.append(await doctor(Target(database_url, target.config, name=target.name)))

    await Migrator(target, mode="migrate", plugins=[Looks()]).run()

    (during,) = found
    after = await doctor(target)
    assert during.holder and during.status.unfinished and not during.healthy
    assert "migration lock: held by" in str(during)
    assert after.holder is None and not after.status.unfinished
    (copy,) = after.copies
    assert (copy.kind, copy.at is not None, copy.size > 0) == ("snapshot", True, True)
    assert copy.place in str(after) and after.healthy


@pytest.mark.long
async def test_a_table_that_a_pending_revision_creates_is_hinted_at(
    target: Target, database_url: str, versions: Path
) -> None:
    linear(versions, 5)
    await created(database_url, "t5")

    found = await doctor(target, repair=True)

    (hint,) = found.hints
    assert "table t5 exists already, and r5 creates it" in hint
    assert "left behind?" in str(found) and found.repairs == ()
    assert "t5" in tables(database_url)


@pytest.mark.long
async def test_the_failure_over_such_a_table_says_so(
    target: Target, database_url: str, versions: Path
) -> None:
    linear(versions, 5)
    await created(database_url, "t5")

    with pytest.raises(MigrationError, match="half of r5 may have been applied before") as caught:
        await Migrator(target, mode="migrate").run()

    (failure,) = caught.value.report.targets[0].failures
    assert failure.state == "clean" and failure.debris == ()
    assert "table t5 exists already" in failure.hints[0]


@pytest.mark.long
async def test_a_table_that_is_dropped_first_is_not_hinted_at(
    target: Target, database_url: str, versions: Path
) -> None:
    create = 'op.create_table("t4", sa.Column("id", sa.Integer))'
    revision(versions, "r4", "r3", upgrade=f'op.execute("DROP TABLE t4")\n{create}')
    await created(database_url, "t4")

    assert (await doctor(target)).hints == ()


@pytest.mark.long
async def test_a_schema_of_its_own_tells_two_tables_of_one_name_apart(
    server: Target, postgres_url: str, versions: Path
) -> None:
    create = 'op.create_table("users", sa.Column("id", sa.Integer), schema="other")'
    revision(versions, "r4", "r3", upgrade=create)
    await execute(postgres_url, "CREATE SCHEMA other")
    assert (await doctor(server)).hints == ()

    await execute(postgres_url, "CREATE TABLE other.users (id int)")

    assert "table other.users exists already" in (await doctor(server)).hints[0]


async def created(database_url: str, table: str) -> None:
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.exec_driver_sql(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY)")
    await engine.dispose()


COPY = "CREATE TABLE _alembic_tmp_users (id INTEGER PRIMARY KEY, name TEXT"
FILL = "INSERT INTO _alembic_tmp_users (id, name) SELECT id, name FROM users"


@pytest.mark.long("[empty", "half filled", "new column")
@pytest.mark.parametrize(
    "statements",
    [
        [f"{COPY})"],
        [f"{COPY})", f"{FILL} WHERE id < 3"],
        [f"{COPY})", FILL],
        [f"{COPY}, age INTEGER DEFAULT 7)", FILL],
    ],
    ids=["empty", "half filled", "filled", "with a new column"],
)
async def test_a_batch_copy_whose_every_row_is_in_its_table_is_removed_on_request(
    statements: list[str], file: Target, sqlite_url: str
) -> None:
    do(sqlite_url, *statements)
    users = contents(sqlite_url)["users"]

    (before,) = (await doctor(file)).debris
    assert before.provable and "_alembic_tmp_users" in tables(sqlite_url)

    found = await doctor(file, repair=True)

    assert found.repairs == (f"removed: {before.what}",)
    assert found.debris == () and found.healthy
    assert "_alembic_tmp_users" not in tables(sqlite_url)
    assert contents(sqlite_url)["users"] == users


@pytest.mark.long("[updated", "[new values", "[other", "[twice", "[case")
@pytest.mark.parametrize(
    ("statements", "why"),
    [
        ([f"{COPY})", FILL, "DROP TABLE users"], "may be the only copy"),
        ([f"{COPY})", FILL, "DELETE FROM users WHERE id = 2"], "1 of its rows are not in users"),
        ([f"{COPY})", FILL, "UPDATE users SET name = 'B' WHERE id = 2"], "1 of its rows"),
        ([f"{COPY}, email2 TEXT)", FILL, "UPDATE _alembic_tmp_users SET email2 = 'x'"], "email2"),
        (
            [
                "CREATE TABLE _alembic_tmp_users (other)",
                "INSERT INTO _alembic_tmp_users VALUES (1)",
            ],
            "shares no column",
        ),
        (
            [
                "CREATE TABLE _alembic_tmp_users (name TEXT)",
                "INSERT INTO _alembic_tmp_users VALUES ('a'), ('a')",
            ],
            "1 of its rows",
        ),
        (
            [
                "CREATE TABLE _alembic_tmp_users (name TEXT COLLATE NOCASE)",
                "INSERT INTO _alembic_tmp_users VALUES ('A')",
            ],
            "1 of its rows",
        ),
        ([f"{COPY})", "CREATE VIEW v AS SELECT * FROM _alembic_tmp_users"], "view v mentions it"),
    ],
    ids=["only copy", "deleted", "updated", "new values", "other", "twice", "case", "used"],
)
async def test_a_batch_copy_that_may_hold_somebodys_rows_is_kept_and_it_is_said_why(
    statements: list[str], why: str, file: Target, sqlite_url: str
) -> None:
    do(sqlite_url, *statements)
    before = contents(sqlite_url)

    found = await doctor(file, repair=True)

    (debris,) = found.debris
    assert not debris.provable and why in debris.why
    assert found.repairs == (f"kept: {debris.what}: {debris.why}",)
    assert contents(sqlite_url) == before


async def test_the_only_copy_can_be_put_back_as_the_doctor_says(
    file: Target, sqlite_url: str
) -> None:
    do(sqlite_url, f"{COPY})", FILL, "DROP TABLE users")

    (debris,) = (await doctor(file)).debris
    advice = debris.why[debris.why.index("ALTER TABLE") :]
    do(sqlite_url, advice)

    assert len(contents(sqlite_url)["users"]) == 3


async def test_nothing_is_removed_while_a_journal_is_open(
    file: Target, sqlite_url: str, tmp_path: Path
) -> None:
    do(sqlite_url, f"{COPY})")
    journal = {"state": "migrating", "snapshot": "x", "before": [], "after": [], "at": 1.0}
    (tmp_path / "app.db.automigrator-journal.json").write_text(json.dumps(journal))

    found = await doctor(file, repair=True)

    assert "nothing was removed: a run did not end" in found.repairs[0]
    assert "_alembic_tmp_users" in tables(sqlite_url)


async def test_an_invalid_index_is_removed_on_request(server: Target, postgres_url: str) -> None:
    await fail_to_index(postgres_url)

    (debris,) = (await doctor(server)).debris
    assert debris.provable and invalid(postgres_url) == {"uq_name"}

    found = await doctor(server, repair=True)

    assert found.repairs == ("removed: index public.uq_name is invalid",)
    assert found.debris == () and found.healthy
    assert invalid(postgres_url) == set()
    assert len(contents(postgres_url)["users"]) == 2


def unique_again(folder: Path) -> None:
    body = """
with op.get_context().autocommit_block():
    op.execute("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS uq_name ON users (name)")
"""
    revision(folder, "r4", "r3", upgrade=body)


async def test_an_invalid_index_that_a_revision_takes_for_whole_is_noted_and_built_again(
    server: Target, postgres_url: str, versions: Path
) -> None:
    await fail_to_index(postgres_url)
    unique_again(versions)

    (report,) = (await Migrator(server, mode="migrate").run()).targets

    assert report.outcome == "migrated"
    assert any("index public.uq_name is invalid" in note for note in report.notes)

    found = await doctor(server, repair=True)
    assert "kept: index public.uq_name is invalid" in found.repairs[0]
    assert "23505" in found.repairs[0]
    assert invalid(postgres_url) == {"uq_name"}  # and no half of the rebuild

    await execute(postgres_url, "DELETE FROM users WHERE id = 2")
    found = await doctor(server, repair=True)
    made = "built again, as a revision made it: index public.uq_name is invalid"
    assert found.repairs == (made,)
    assert found.healthy and invalid(postgres_url) == set()
    with pytest.raises(asyncpg.UniqueViolationError):
        await execute(postgres_url, "INSERT INTO users (id, name) VALUES (3, 'b')")


async def test_an_invalid_index_that_a_pending_revision_is_to_make_is_removed(
    server: Target, postgres_url: str, versions: Path
) -> None:
    await fail_to_index(postgres_url)
    unique_again(versions)

    found = await doctor(server, repair=True)

    assert found.repairs == ("removed: index public.uq_name is invalid",)


@pytest.mark.long
async def test_an_index_that_is_being_built_is_kept(server: Target, postgres_url: str) -> None:
    reader = await connected(postgres_url)
    builder = await connected(postgres_url)
    watcher = await connected(postgres_url)
    try:
        # who reads holds the build up between its two passes
        await reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; LOCK users IN ROW SHARE MODE")
        await reader.execute("INSERT INTO users (id, name) VALUES (9, 'c')")
        building = asyncio.ensure_future(
            builder.execute("CREATE INDEX CONCURRENTLY slow ON users (name)")
        )
        while not await watcher.fetch(INVALID):  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)

        found = await doctor(server, repair=True)

        (debris,) = found.debris
        assert not debris.provable and "somebody works on its table" in debris.why
        await reader.execute("COMMIT")
        await building
    finally:
        for connection in (reader, builder, watcher):
            await connection.close()
    assert (await doctor(server)).healthy
    assert query(postgres_url, "select to_regclass('slow')")[0][0] == "slow"


async def test_an_index_of_a_constraint_or_of_a_neighbour_is_kept(
    server: Target, postgres_url: str
) -> None:
    await execute(
        postgres_url,
        "CREATE SCHEMA theirs",
        "CREATE TABLE theirs.users AS SELECT * FROM users",
        "CREATE TABLE parted (name text) PARTITION BY LIST (name)",
        "CREATE TABLE part PARTITION OF parted DEFAULT",
        "CREATE INDEX parted_name ON parted (name)",
        # as a crash amid its building may leave it
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'part_name_idx'::regclass",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'posts_pkey'::regclass",
    )
    await fail_to_index(postgres_url, table="theirs.users")
    before = invalid(postgres_url)

    found = await doctor(server, repair=True)

    said = {each.what.split()[1]: each.why for each in found.debris}
    assert "constraint" in said["public.posts_pkey"]
    assert "constraint" in said["public.part_name_idx"]
    assert "not the target's" in said["theirs.uq_name"]
    assert not any(each.provable for each in found.debris)
    assert invalid(postgres_url) == before


async def test_the_failure_tells_of_an_invalid_index_that_was_there_before(
    server: Target, postgres_url: str, versions: Path
) -> None:
    await fail_to_index(postgres_url)
    revision(versions, "r4", "r3", upgrade='op.create_index("uq_name", "users", ["name"])')

    with pytest.raises(MigrationError, match="found besides: index public.uq_name") as caught:
        await Migrator(server, mode="migrate").run()

    assert caught.value.report.targets[0].failures[0].state == "clean"
