"""A failure says its kind, revision, statement, what is applied and what is left, and no secret."""

from __future__ import annotations

import errno
import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from support.alembic_projects import contents, heads, linear, revision, tables
from support.canaries import PASSWORD, ROW
from support.leaders import leading
from support.process_state import unchanged_process

from automigrator import Failure, MigrationError, Migrator, Report, Target
from automigrator.backends.postgresql.backend import PostgreSQL
from automigrator.backends.sqlite.backend import SQLite

pytestmark = pytest.mark.long("postgresql", "per_migration-applied3")

Make = Callable[..., Target]

NOT_UNIQUE = f"""
users = sa.table("users", sa.column("id"), sa.column("name"))
for id in (1, 1):
    op.get_bind().execute(users.insert(), {{"id": id, "name": "{ROW}"}})
"""
BAD_SQL = 'op.execute("SELECT * FROM absent")'
BAD_CODE = 'raise LookupError("no luck")'


def ending_in(body: str) -> Callable[[Path], None]:
    def revisions(folder: Path) -> None:
        linear(folder, 2)
        made = 'op.create_table("half", sa.Column("id", sa.Integer, primary_key=True))'
        revision(folder, "r3", "r2", upgrade=f"{made}\n{body}")
        revision(folder, "r4", "r3", upgrade="raise AssertionError('too far')")

    return revisions


async def failed(target: Target) -> tuple[Failure, Report, MigrationError]:
    with unchanged_process(), pytest.raises(MigrationError) as caught:
        await Migrator(target, mode="migrate").run()
    (report,) = caught.value.report.targets
    assert report.outcome == "failed"
    return report.failures[-1], caught.value.report, caught.value


@pytest.mark.long("applied0-given", "applied1-own", "applied2-given", "applied0-own")
@pytest.mark.parametrize("drive", ["given", "own"])
@pytest.mark.parametrize(
    ("kind", "applied"),
    [
        ("generic", ()),
        ("async", ()),
        ("swallows_errors", ()),
        ("per_migration", ("r1", "r2")),
    ],
)
async def test_a_failing_statement_is_told_with_its_revision_and_what_it_left(
    kind: str, applied: tuple[str, ...], drive: Any, make_target: Make, database_url: str
) -> None:
    target = make_target(ending_in(BAD_SQL), kind=kind, drive=drive)

    failure, report, error = await failed(target)

    assert (failure.kind, failure.revision, failure.attempt) == ("revision", "r3", 1)
    assert failure.statement == "SELECT * FROM absent"
    assert failure.applied == applied
    assert failure.state == ("partial-at-boundary" if applied else "clean")
    assert "absent" in failure.message
    assert [a.revision for a in report.targets[0].applied] == list(applied)
    assert report.targets[0].after == applied[-1:]
    assert heads(database_url) == set(applied[-1:])
    assert "half" not in tables(database_url)
    assert isinstance(failure.error, DBAPIError) and error.__cause__ is None
    for part in ("revision r3", "SELECT * FROM absent", f"state: {failure.state}", "what to do"):
        assert part in str(error)


@pytest.mark.long("ignores_connection", "sqlite-generic")
@pytest.mark.parametrize("kind", ["generic", "async", "swallows_errors", "ignores_connection"])
async def test_failing_code_is_told_with_its_revision(
    kind: str, make_target: Make, database_url: str
) -> None:
    failure, _, error = await failed(make_target(ending_in(BAD_CODE), kind=kind))

    assert (failure.kind, failure.revision) == ("revision", "r3")
    assert (failure.state, failure.statement) == ("clean", None)
    assert failure.message == "LookupError: no luck"
    assert isinstance(failure.error, LookupError) and error.__cause__ is None
    assert tables(database_url) <= {"alembic_version"}


@pytest.mark.long("sqlite-generic")
@pytest.mark.parametrize("kind", ["async", "generic"])
async def test_a_revision_that_ends_the_process_ends_the_migration_only(
    kind: str, make_target: Make, database_url: str
) -> None:
    failure, _, _ = await failed(make_target(ending_in("raise SystemExit(3)"), kind=kind))

    assert "sys.exit(3)" in failure.message
    assert tables(database_url) <= {"alembic_version"}


@pytest.mark.long
async def test_a_revision_that_commits_in_the_middle_is_torn(
    make_target: Make, database_url: str
) -> None:
    body = f"""
with op.get_context().autocommit_block():
    op.execute("CREATE TABLE committed (id INTEGER)")
{BAD_SQL}
"""
    failure, _, _ = await failed(make_target(ending_in(body)))

    assert failure.state == "partial-within-revision"
    assert failure.revision == "r3"
    assert "committed" in tables(database_url)


async def test_the_remains_of_a_failed_concurrent_index_are_named(
    make_target: Make, postgres_url: str
) -> None:
    body = """
op.execute("INSERT INTO users (id, name) VALUES (1, 'x'), (2, 'x')")
with op.get_context().autocommit_block():
    op.execute("CREATE UNIQUE INDEX CONCURRENTLY one_name ON users (name)")
"""
    failure, _, _ = await failed(make_target(ending_in(body), database=postgres_url))

    assert failure.state == "partial-within-revision"
    assert len(failure.debris) == 1 and "one_name" in failure.debris[0]


@pytest.mark.long
async def test_a_repaired_revision_goes_on_from_where_the_failed_one_left(
    make_target: Make, database_url: str, versions: Path
) -> None:
    target = make_target(ending_in(BAD_SQL), kind="per_migration")
    await failed(target)
    (versions / "r4_.py").unlink()
    ending_in("pass")(versions)
    (versions / "r4_.py").unlink()

    report = await Migrator(target, mode="migrate").run()

    assert [a.revision for a in report.targets[0].applied] == ["r3"]
    assert heads(database_url) == {"r3"}


@pytest.mark.long("own")
@pytest.mark.parametrize("drive", ["given", "own"])
async def test_no_row_value_and_no_password_is_told(
    drive: Any,
    make_target: Make,
    database_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = make_url(database_url)
    if url.get_backend_name() == "postgresql":
        url = url.set(password=PASSWORD)
    target = make_target(ending_in(NOT_UNIQUE), database=url, drive=drive)
    migrator = Migrator(target, mode="migrate")
    events = migrator.events()

    with caplog.at_level(logging.DEBUG, "automigrator"):
        with pytest.raises(MigrationError) as caught:
            await migrator.run()
        status = await Migrator(target).check()

    report = caught.value.report
    assert report.targets[0].failures[0].statement is not None
    assert "INSERT INTO users" in report.targets[0].failures[0].statement
    told = [
        str(caught.value),
        repr(caught.value),
        str(report),
        repr(report),
        str(report.to_dict()),
        str(status),
        repr(target),
        str(report.targets[0].failures[0].error),
        *(r.getMessage() for r in caplog.records if r.name.startswith("automigrator")),
        *[f"{event} {event.to_dict()}" async for event in events],
    ]
    assert [text for text in told if ROW in text or PASSWORD in text] == []


def file_of(url: str, content: bytes | None = None) -> Path:
    """The file of a database, with `content` written into it."""
    file = Path(str(make_url(url).database))
    if content is not None:
        file.write_bytes(content)
    return file


async def test_a_file_that_is_no_database_is_corrupt_and_left_alone(
    make_target: Make, sqlite_url: str
) -> None:
    content = b"not a database " * 100
    file = file_of(sqlite_url, content)

    failure, _, _ = await failed(make_target(database=sqlite_url))

    assert (failure.kind, failure.state) == ("corrupt", "clean")
    assert file.read_bytes() == content


async def test_an_empty_file_is_a_new_database(make_target: Make, sqlite_url: str) -> None:
    file_of(sqlite_url, b"")

    report = await Migrator(make_target(database=sqlite_url), mode="migrate").run()

    assert report.outcome == "migrated"


async def test_a_database_that_somebody_writes_to_is_a_lock_timeout_and_never_corrupt(
    make_target: Make, sqlite_url: str
) -> None:
    engine = create_async_engine(sqlite_url, connect_args={"timeout": 0.2})
    target = make_target(database=engine, drive="given", retry_timeout=0.5)
    with closing(sqlite3.connect(file_of(sqlite_url), isolation_level=None)) as writer:
        writer.execute("CREATE TABLE alembic_version (version_num PRIMARY KEY)")
        writer.execute("BEGIN IMMEDIATE")
        failure, _, _ = await failed(target)
    await engine.dispose()

    assert (failure.kind, failure.state) == ("lock-timeout", "clean")


@pytest.mark.long
async def test_a_migration_lock_that_is_not_let_go_is_a_lock_timeout(
    make_target: Make, database_url: str
) -> None:
    target = make_target()
    impatient = Migrator(Target(target.database, target.config, lock_timeout=0.3), mode="migrate")
    events = impatient.events()

    async with leading(target):
        with pytest.raises(MigrationError) as caught:
            await impatient.run()

    (failure,) = caught.value.report.targets[0].failures
    assert (failure.kind, failure.state) == ("lock-timeout", "clean")
    assert "migration lock" in failure.message
    waited = [event.data["what"] async for event in events if event.name == "waiting"]
    assert waited and "held by" in waited[0]


@pytest.mark.long
async def test_a_statement_that_takes_too_long_is_a_timeout(
    make_target: Make, postgres_url: str
) -> None:
    body = "op.execute(\"SET LOCAL statement_timeout = '100ms'\")\nop.execute('SELECT pg_sleep(9)')"

    failure, _, _ = await failed(make_target(ending_in(body), database=postgres_url))

    assert (failure.kind, failure.revision, failure.state) == ("timeout", "r3", "clean")


async def test_a_wrong_password_is_told_as_such_at_once(
    make_target: Make, postgres_url: str
) -> None:
    nobody = make_url(postgres_url).set(username="no_such_role", password=PASSWORD)

    failure, _, error = await failed(make_target(database=nobody, connect_timeout=30))

    assert failure.kind == "auth"
    assert "no_such_role" in failure.message
    assert PASSWORD not in str(error)


async def test_rows_that_would_refer_to_nothing_are_not_committed(
    make_target: Make, sqlite_url: str
) -> None:
    engine = create_async_engine(sqlite_url)

    @event.listens_for(engine.sync_engine, "connect")
    def _enforce(connection: Any, record: object) -> None:
        connection.execute("PRAGMA foreign_keys=ON")

    body = "op.execute(\"INSERT INTO posts (id, user_id, body) VALUES (1, 99, 'x')\")"
    target = make_target(ending_in(body), database=engine, kind="cookbook", drive="given")
    (Path(str(target.config)).parent / "migrations" / "versions" / "r4_.py").unlink()

    failure, _, _ = await failed(target)
    await engine.dispose()

    assert (failure.kind, failure.state) == ("revision", "clean")
    assert "FOREIGN KEY constraint failed" in failure.message
    assert contents(sqlite_url) in ({}, {"alembic_version": []})


async def test_a_look_for_what_lies_about_that_cannot_begin_hides_no_failure(
    make_target: Make, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_descriptors(*_: object) -> None:
        raise OSError(errno.EMFILE, "no file can be opened")

    monkeypatch.setattr(SQLite, "examiner", out_of_descriptors)
    monkeypatch.setattr(PostgreSQL, "examiner", out_of_descriptors)
    failure, _, _ = await failed(make_target(ending_in(BAD_SQL)))
    assert (failure.kind, failure.revision) == ("revision", "r3")
