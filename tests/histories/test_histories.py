"""Real applications' histories end where plain Alembic takes them, table by table."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from histories import alchemy
from histories.applications import (
    APPLICATIONS,
    CANNOT_RUN,
    OLDEST_JUPYTERHUB,
    Application,
    begin,
    migrate_plainly,
)
from histories.schema import described, rows, versions
from sqlalchemy.ext.asyncio import AsyncEngine
from support.table import Row, Table

from automigrator import MigrationError, Migrator, Target, TargetReport

TABLE = Table(
    "histories.md",
    "nox -s histories -- --write-table",
    (
        "history",
        "begins with",
        "database",
        "revisions run",
        "tables compared",
        "against plain Alembic",
        "drive",
        "second run",
    ),
)
_SYNC_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}


@pytest.mark.parametrize("application", APPLICATIONS, ids=str)
async def test_a_real_history_ends_where_plain_alembic_takes_it(
    application: Application,
    database_url: str,
    another_database_url: str,
    tmp_path: Path,
    results: list[Row],
) -> None:
    backend = sa.make_url(database_url).get_backend_name()
    if backend not in application.databases:
        pytest.skip("plain Alembic cannot do it either")
    await asyncio.to_thread(begin, application, _sync(database_url), tmp_path)
    await asyncio.to_thread(begin, application, _sync(another_database_url), tmp_path)
    await asyncio.to_thread(migrate_plainly, application, _sync(another_database_url), tmp_path)

    report = await _run(application, database_url, tmp_path)
    again = await _run(application, database_url, tmp_path)

    tables = _compared(application, database_url, another_database_url)
    assert (report.outcome, again.outcome) == ("migrated", "current")
    script = ScriptDirectory.from_config(application.config("sqlite://", tmp_path))
    results.append(
        (
            application.name,
            application.start,
            backend,
            f"{len(report.applied)} of {len(list(script.walk_revisions()))}",
            str(tables),
            "equal",
            report.drive or "none needed",
            again.outcome,
        )
    )


async def test_an_engine_that_env_py_takes_and_disposes_of_stays_the_applications(
    database_url: str, tmp_path: Path
) -> None:
    config = alchemy.commands(database_url, tmp_path).config
    engine: AsyncEngine = config.engine
    one = sa.select(sa.literal(1))
    async with engine.connect() as used, engine.connect() as idle:
        assert await used.scalar(one) == await idle.scalar(one) == 1
        await idle.close()
        pool = engine.pool

        report = await Migrator(Target(engine, config), mode="migrate").run()

        assert report.outcome == "migrated" and "own connection" in str(report.targets[0].drive)
        assert await used.scalar(one) == 1
        # a leader lets PostgreSQL's idle connections go itself, as they remember old plans
        assert engine.pool is pool or engine.dialect.name == "postgresql"
    async with engine.connect() as another:
        assert await another.scalar(sa.text("SELECT name FROM authors")) == "rosa 50%"
    await engine.dispose()


async def test_where_a_real_revision_cannot_run_the_database_is_left_at_the_one_before(
    database_url: str, another_database_url: str, tmp_path: Path
) -> None:
    whole = dataclasses.replace(OLDEST_JUPYTERHUB, revision="head")
    url, plain_url = _sync(database_url), _sync(another_database_url)
    await asyncio.to_thread(begin, whole, url, tmp_path)
    await asyncio.to_thread(begin, whole, plain_url, tmp_path)
    await asyncio.to_thread(migrate_plainly, OLDEST_JUPYTERHUB, plain_url, tmp_path)

    with pytest.raises(MigrationError) as caught:
        await _run(whole, database_url, tmp_path)

    (failure,) = caught.value.report.targets[0].failures
    assert (failure.kind, failure.revision) == ("revision", CANNOT_RUN)
    assert failure.state == "partial-at-boundary"
    _compared(whole, database_url, another_database_url)
    with pytest.raises(subprocess.CalledProcessError):
        await asyncio.to_thread(migrate_plainly, whole, plain_url, tmp_path)


def test_the_document_holds_what_was_found(
    request: pytest.FixtureRequest, results: list[Row]
) -> None:
    if len(results) < sum(len(each.databases) for each in APPLICATIONS):
        pytest.skip("not every history ran")
    if request.config.getoption("--write-table"):
        TABLE.write(results)
    assert TABLE.read() == TABLE.rendered(results)


async def _run(application: Application, url: str, folder: Path) -> TargetReport:
    target = Target(
        url,
        application.config(_sync(url), folder),
        revision=application.revision,
        bootstrap=application.bootstrap,
        baseline=application.baseline,
    )
    report = await Migrator(target, mode="migrate").run()
    print(report)
    return report.targets[0]


def _compared(application: Application, url: str, plain_url: str) -> int:
    """How many tables were found equal, with their rows and the versions."""
    ours, plain = _asking(url), _asking(plain_url)
    assert ours(described) == plain(described)
    assert ours(rows) == plain(rows)
    where = application.version_table
    assert ours(versions, where) == plain(versions, where) != []
    return len(ours(rows))


def _asking(url: str) -> Callable[..., Any]:
    engine = sa.create_engine(_sync(url), poolclass=sa.NullPool)

    def ask(question: Callable[..., Any], *arguments: Any) -> Any:
        with engine.connect() as connection:
            return question(connection, *arguments)

    return ask


def _sync(url: str) -> str:
    parsed = sa.make_url(url)
    driver = _SYNC_DRIVERS[parsed.get_backend_name()]
    return parsed.set(drivername=driver).render_as_string(hide_password=False)
