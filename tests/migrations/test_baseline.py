"""Databases that do not start at base: bootstrapped when new, and known as such later."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.engine import Connection
from support.alembic_projects import Project, heads, project, revision, tables

from automigrator import MigrationError, Migrator, Report, Target

pytestmark = pytest.mark.long("postgresql")

READS_THE_TABLES = 'op.add_column("users", sa.Column("email", sa.String(50)))'


def create_all(connection: Connection) -> None:
    connection.exec_driver_sql("create table users (id integer primary key)")


def made(root: Path, url: str, upgrade: str) -> Project:
    return project(
        root, "generic", url, revisions=lambda folder: revision(folder, "r1", None, upgrade=upgrade)
    )


async def run(url: str, made: Project, **options: object) -> Report:
    target = Target(url, made.config, bootstrap=create_all, **made.options, **options)
    return await Migrator(target, mode="migrate").run()


async def test_a_bootstrap_that_returns_none_is_followed_by_every_revision(
    database_url: str, tmp_path: Path
) -> None:
    history = made(tmp_path, database_url, READS_THE_TABLES)

    report = await run(database_url, history)

    assert report.outcome == "migrated" and heads(database_url) == {"r1"}
    assert tables(database_url) == {"users", "alembic_version"}
    assert (await run(database_url, history)).outcome == "current"


@pytest.mark.long
async def test_a_start_after_one_that_failed_between_bootstrap_and_revisions_goes_on_from_base(
    database_url: str, tmp_path: Path
) -> None:
    history = made(tmp_path, database_url, 'raise ValueError("not today")')
    with pytest.raises(MigrationError, match="not today"):
        await run(database_url, history)
    revision(history.versions, "r1", None, upgrade=READS_THE_TABLES)

    report = await run(database_url, history, baseline="r1")

    assert [applied.revision for applied in report.targets[0].applied] == ["r1"]
    assert heads(database_url) == {"r1"}
