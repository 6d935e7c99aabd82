"""Histories of every shape are applied whole; broken ones fail saying where, and change nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import event, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from support.alembic_projects import (
    Project,
    configure,
    contents,
    heads,
    linear,
    query,
    revision,
    tables,
)

from automigrator import MigrationError, Migrator, Report, Target

pytestmark = pytest.mark.long("postgresql")

Make = Callable[..., Target]


async def run(target: Target) -> Report:
    return await Migrator(target, mode="migrate").run()


def creates(table: str) -> str:
    return f'op.create_table("{table}", sa.Column("id", sa.Integer, primary_key=True))'


def branches(folder: Path) -> None:
    """base, and two branches from it: a1 - a2, labelled a, and b1, labelled b."""
    revision(folder, "base1", None, upgrade=creates("base1"))
    revision(folder, "a1", "base1", upgrade=creates("a1"), branch_labels="a")
    revision(folder, "a2", "a1", upgrade=creates("a2"))
    revision(folder, "b1", "base1", upgrade=creates("b1"), branch_labels="b")


def on_sqlite(url: str) -> bool:
    return make_url(url).get_backend_name() == "sqlite"


async def test_every_head_of_a_branched_history_is_reached(
    make_target: Make, database_url: str
) -> None:
    target = make_target(branches)

    report = await run(target)

    assert report.outcome == "migrated"
    assert heads(database_url) == {"a2", "b1"}
    assert tables(database_url) == {"base1", "a1", "a2", "b1", "alembic_version"}
    assert (await run(target)).outcome == "current"


async def test_several_heads_where_one_is_asked_for_are_named_and_nothing_is_changed(
    make_target: Make, database_url: str
) -> None:
    with pytest.raises(MigrationError) as caught:
        await run(make_target(branches, revision="head"))

    (failure,) = caught.value.report.targets[0].failures
    assert (failure.kind, failure.state) == ("history", "clean")
    assert "a2" in failure.message and "b1" in failure.message
    assert "heads" in f"{failure.message} {failure.advice}"
    assert tables(database_url) == set()


async def test_one_branch_alone_may_be_wanted_and_the_rest_later(
    make_target: Make, database_url: str, tmp_path: Path
) -> None:
    target = make_target(branches, revision="a@head")

    report = await run(target)

    assert report.targets[0].after == ("a2",)
    assert tables(database_url) == {"base1", "a1", "a2", "alembic_version"}
    assert (await run(target)).outcome == "current"

    rest = await run(Target(database_url, tmp_path / "alembic.ini"))

    assert [a.revision for a in rest.targets[0].applied] == ["b1"]
    assert heads(database_url) == {"a2", "b1"}
    assert (await run(target)).outcome == "current"


async def test_dependencies_of_a_revision_run_before_it_and_count_as_reached(
    make_target: Make, database_url: str
) -> None:
    def revisions(folder: Path) -> None:
        revision(folder, "a1", None, upgrade=creates("a1"))
        revision(folder, "b1", None, upgrade=creates("b1"), depends_on="a1")
        revision(folder, "b2", "b1", upgrade=creates("b2"))

    target = make_target(revisions)

    report = await run(target)

    applied = [a.revision for a in report.targets[0].applied]
    assert applied.index("a1") < applied.index("b1") < applied.index("b2")
    assert heads(database_url) == {"b2"}
    assert (await run(target)).outcome == "current"
    status = await Migrator(target).check()
    assert status.current, status


@pytest.mark.long
async def test_a_merge_of_two_branches_is_one_head(make_target: Make, database_url: str) -> None:
    def revisions(folder: Path) -> None:
        branches(folder)
        revision(folder, "merged", ("a2", "b1"))

    target = make_target(revisions)

    report = await run(target)

    assert report.targets[0].after == ("merged",)
    assert heads(database_url) == {"merged"}
    assert (await run(target)).outcome == "current"


async def test_revisions_are_found_in_several_and_in_nested_locations(
    make_target: Make, database_url: str, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    target = make_target(lambda folder: None)
    revision(one / "deep" / "er", "r1", None, upgrade=creates("r1"))
    revision(two, "r2", "r1", upgrade=creates("r2"))
    configure(
        Project(tmp_path / "alembic.ini", one),
        version_locations="%(here)s/one:%(here)s/two",
        recursive_version_locations="true",
    )

    report = await run(target)

    assert report.outcome == "migrated"
    assert tables(database_url) == {"r1", "r2", "alembic_version"}
    assert (await run(target)).outcome == "current"


async def test_a_version_table_may_be_named_by_the_target_too(
    make_target: Make, database_url: str
) -> None:
    schema = None if on_sqlite(database_url) else "meta"
    target = make_target(
        kind="version_table", version_table="my_versions", version_table_schema=schema
    )

    report = await run(target)

    assert report.outcome == "migrated"
    assert heads(database_url, "meta.my_versions" if schema else "my_versions") == {"r3"}
    assert "alembic_version" not in tables(database_url)
    assert (await run(target)).outcome == "current"


async def test_a_version_table_that_env_does_not_use_is_never_believed(
    make_target: Make, database_url: str
) -> None:
    target = make_target(version_table="someone_elses")

    with pytest.raises(MigrationError) as caught:
        await run(target)

    (failure,) = caught.value.report.targets[0].failures
    assert failure.kind == "env"
    assert "someone_elses" in failure.message and "alembic_version" in failure.message
    assert tables(database_url) == set()


@pytest.mark.long("sqlite-generic", "sqlite-per_migration")
@pytest.mark.parametrize("kind", ["generic", "async", "per_migration"])
async def test_a_revision_may_run_outside_a_transaction(
    kind: str, make_target: Make, database_url: str
) -> None:
    outside = "VACUUM" if on_sqlite(database_url) else "CREATE INDEX CONCURRENTLY i ON users (name)"

    def revisions(folder: Path) -> None:
        linear(folder)
        block = f'with op.get_context().autocommit_block():\n    op.execute("{outside}")'
        revision(folder, "r4", "r3", upgrade=block)
        revision(folder, "r5", "r4", upgrade=creates("after"))

    target = make_target(revisions, kind=kind)

    report = await run(target)

    assert report.outcome == "migrated"
    assert heads(database_url) == {"r5"}
    assert "after" in tables(database_url)
    assert (await run(target)).outcome == "current"


@pytest.mark.long("given-generic", "given-begin", "own-async", "own-begin", "given-async")
@pytest.mark.parametrize("kind", ["generic", "async", "begin_outside"])
@pytest.mark.parametrize("drive", ["given", "own"])
async def test_a_parent_table_made_anew_by_a_batch_operation_loses_no_child_row(
    kind: str, drive: str, make_target: Make, database_url: str, versions: Path
) -> None:
    engine = create_async_engine(database_url)
    if on_sqlite(database_url):

        @event.listens_for(engine.sync_engine, "connect")
        def _enforce(connection: object, record: object) -> None:
            connection.execute("PRAGMA foreign_keys=ON")  # type: ignore[attr-defined]

    target = make_target(kind=kind, database=engine, drive=drive)
    await run(target)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("INSERT INTO users VALUES (1, 'ada', NULL)")
        await connection.exec_driver_sql("INSERT INTO posts VALUES (1, 1, 'hi'), (2, 1, 'ho')")
    batch = 'with op.batch_alter_table("users", recreate="always") as users:\n'
    if not on_sqlite(database_url):
        batch = batch.replace(', recreate="always"', "")
    revision(versions, "r4", "r3", upgrade=batch + '    users.alter_column("name", nullable=True)')

    report = await run(target)

    assert report.outcome == "migrated"
    assert [tuple(r) for r in query(database_url, "select id, user_id from posts order by id")] == [
        (1, 1),
        (2, 1),
    ]
    async with engine.begin() as connection:
        await connection.exec_driver_sql("DELETE FROM users")
    await engine.dispose()
    assert list(query(database_url, "select id from posts")) == []


@pytest.mark.long("sqlite-generic")
@pytest.mark.parametrize("kind", ["generic", "async"])
async def test_a_revision_may_run_async_code_where_env_is_async(
    kind: str, make_target: Make, database_url: str
) -> None:
    def revisions(folder: Path) -> None:
        revision(
            folder,
            "r1",
            None,
            imports="import asyncio",
            header="""
            async def fill(connection, text):
                await asyncio.sleep(0)
                await connection.execute(sa.text("INSERT INTO t (id) VALUES (:id)"), {"id": 7})
            """,
            upgrade=f'{creates("t")}\nop.run_async(fill, "text")',
        )

    target = make_target(revisions, kind=kind)
    if kind == "generic":
        with pytest.raises(MigrationError, match="Cannot call run_async with a sync engine"):
            await run(target)
        return

    report = await run(target)

    assert report.outcome == "migrated"
    assert [tuple(row) for row in query(database_url, "select id from t")] == [(7,)]


@pytest.mark.long("sqlite-async", "sqlite-per_migration")
@pytest.mark.parametrize("kind", ["generic", "async", "per_migration"])
async def test_a_revision_may_read_and_write_data(
    kind: str, make_target: Make, database_url: str, versions: Path
) -> None:
    target = make_target(kind=kind)
    await run(target)
    revision(
        versions,
        "r4",
        "r3",
        header='users = sa.table("users", sa.column("id"), sa.column("name"), sa.column("email"))',
        upgrade="""
        bind = op.get_bind()
        bind.execute(users.insert(), [{"id": i, "name": f"n{i}"} for i in range(5)])
        names = bind.execute(sa.select(users.c.name).order_by(users.c.id)).scalars().all()
        op.bulk_insert(users, [{"id": 10 + i, "name": name} for i, name in enumerate(names)])
        op.execute(users.update().values(email=users.c.name + "@example.org"))
        """,
    )

    report = await run(target)

    assert report.outcome == "migrated"
    rows = query(database_url, "select email from users where id >= 10 order by id")
    assert [row[0] for row in rows] == [f"n{i}@example.org" for i in range(5)]


def missing(folder: Path) -> None:
    revision(folder, "r3", "r2")


def twice(folder: Path) -> None:
    revision(folder, "r2", "r1").rename(folder / "one.py")
    revision(folder, "r2", "r1").rename(folder / "two.py")


def loop(folder: Path) -> None:
    revision(folder, "r2", "r3")
    revision(folder, "r3", "r2")


def unimportable(folder: Path) -> None:
    revision(folder, "r2", "r1", imports="import no_such_module")


def unparsable(folder: Path) -> None:
    (folder / "r2_.py").write_text("revision = 'r2'\ndown_revision = 'r1'\ndef (\n", "utf-8")


def nameless(folder: Path) -> None:
    (folder / "r2_.py").write_text("down_revision = 'r1'\n", "utf-8")


@pytest.mark.long("replaces_version_locations", "named1", "named3", "named5", "named4")
@pytest.mark.parametrize(
    ("kind", "breaking", "named"),
    [
        ("async", missing, ["r3", "r2", "r3_.py"]),
        ("async", twice, ["r2", "one.py", "two.py"]),
        ("async", loop, ["r2", "r3", "loop"]),
        ("async", unimportable, ["r2_.py", "no_such_module"]),
        ("async", unparsable, ["r2_.py", "SyntaxError"]),
        ("async", nameless, ["r2_.py"]),
        ("replaces_version_locations", missing, ["r3", "r2", "r3_.py"]),
        ("replaces_version_locations", loop, ["r2", "r3", "loop"]),
        ("replaces_version_locations", unimportable, ["r2_.py", "no_such_module"]),
    ],
)
async def test_a_broken_history_is_named_and_the_database_is_left_alone(
    breaking: Callable[[Path], None],
    named: list[str],
    kind: str,
    make_target: Make,
    database_url: str,
    tmp_path: Path,
) -> None:
    target = make_target(lambda folder: linear(folder, 1), kind=kind)
    await run(target)
    before = contents(database_url)
    own = tmp_path / "revisions"
    breaking(own if own.exists() else tmp_path / "migrations" / "versions")

    with pytest.raises(MigrationError) as caught:
        await run(target)

    (failed,) = caught.value.report.targets
    (failure,) = failed.failures
    assert (failure.kind, failure.state, failure.applied) == ("history", "clean", ())
    assert [each for each in named if each not in failure.message] == []
    assert failed.before == failed.after == ("r1",)
    assert contents(database_url) == before


@pytest.mark.long("version_table")
@pytest.mark.parametrize("kind", ["async", "version_table"])
async def test_a_database_ahead_of_the_code_is_left_alone_and_both_sides_are_named(
    kind: str, make_target: Make, database_url: str, versions: Path
) -> None:
    target = make_target(kind=kind)
    await run(target)
    before = contents(database_url)
    (versions / "r3_.py").unlink()

    with pytest.raises(MigrationError) as caught:
        await run(target)

    (failed,) = caught.value.report.targets
    (failure,) = failed.failures
    assert (failure.kind, failure.state) == ("ahead", "clean")
    assert re.search(r"is at r3\b", failure.message)
    assert re.search(r"newest revision is r2\b", failure.message)
    if kind == "async":
        assert failed.before == failed.after == ("r3",)
    assert contents(database_url) == before


async def test_a_revision_that_does_not_exist_cannot_be_wanted(
    make_target: Make, database_url: str
) -> None:
    with pytest.raises(MigrationError, match="nowhere") as caught:
        await run(make_target(revision="nowhere"))

    assert caught.value.report.targets[0].failures[0].kind == "history"
    assert tables(database_url) == set()
