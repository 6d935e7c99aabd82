"""Mistakes that Alembic does not name are named, and nothing is changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.alembic_projects import Project, heads, linear, project, revision, tables

from automigrator import Failure, MigrationError, Migrator, Target

LONG = "a_revision_whose_id_says_all_that_it_does"

CONFIGURE = "        context.configure(\n            connection=connection"


def creates(folder: Path, id: str = "r1") -> None:
    revision(folder, id, None, upgrade='op.create_table("t", sa.Column("x", sa.Integer))')


async def failure_of(target: Target) -> Failure:
    with pytest.raises(MigrationError) as caught:
        await Migrator(target, mode="migrate").run()
    (failure,) = caught.value.report.targets[0].failures
    assert failure.state == "clean"
    return failure


@pytest.mark.long("[async")
@pytest.mark.parametrize("kind", ["generic", "async"])
async def test_an_id_that_the_version_table_has_no_room_for(
    kind: str, postgres_url: str, tmp_path: Path
) -> None:
    made = project(
        tmp_path, kind, postgres_url, revisions=lambda f: creates(f, LONG), other_url=postgres_url
    )

    failure = await failure_of(Target(postgres_url, made.config))

    assert (failure.kind, failure.revision) == ("revision", LONG)
    assert f"the id of revision {LONG} has {len(LONG)} characters" in failure.message
    assert "shorter id" in failure.advice
    assert tables(postgres_url) == set()


@pytest.mark.long
async def test_a_long_id_runs_where_the_column_has_been_widened(
    postgres_url: str, tmp_path: Path
) -> None:
    def revisions(folder: Path) -> None:
        wider = "alter table alembic_version alter column version_num type varchar(99)"
        revision(folder, "r1", None, upgrade=f'op.execute("{wider}")')
        revision(folder, LONG, "r1")

    made = project(tmp_path, "generic", postgres_url, revisions=revisions, other_url=postgres_url)
    await Migrator(Target(postgres_url, made.config), mode="migrate").run()
    assert heads(postgres_url) == {LONG}


def leaves_open(made: Project) -> None:
    env = made.versions.parent / "env.py"
    text = env.read_text("utf-8")
    assert CONFIGURE in text
    select = '        connection.exec_driver_sql("select 1")\n'
    env.write_text(text.replace(CONFIGURE, select + CONFIGURE, 1), "utf-8")


BEGUN = "begun a transaction before it called context.configure"


@pytest.mark.long("[postgresql")
async def test_a_transaction_that_env_py_began_before_configure_and_never_commits(
    database_url: str, tmp_path: Path
) -> None:
    made = project(tmp_path, "generic", database_url, revisions=creates, other_url=database_url)
    leaves_open(made)

    failure = await failure_of(Target(database_url, made.config))

    assert failure.kind == "env" and BEGUN in failure.message
    assert "t" not in tables(database_url)


@pytest.mark.long
async def test_such_a_transaction_in_a_rehearsal_and_in_a_rollback(
    database_url: str, tmp_path: Path
) -> None:
    made = project(tmp_path, "generic", database_url, revisions=linear, other_url=database_url)
    target = Target(database_url, made.config, revision="r2")
    await Migrator(target, mode="migrate").run()
    leaves_open(made)
    target = Target(database_url, made.config)

    with pytest.raises(MigrationError, match=BEGUN) as rehearsed:
        await Migrator(target, mode="migrate", rehearse=True).run()
    with pytest.raises(MigrationError, match=BEGUN):
        await Migrator(target).rollback("r1")

    assert rehearsed.value.report.targets[0].failures[0].in_rehearsal
    assert heads(database_url) == {"r2"}
