"""A note says where env.py's names without a schema lead elsewhere than the application's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from support.alembic_projects import project, revision, tables

from automigrator import Migrator, Target
from automigrator.report import TargetReport

pytestmark = pytest.mark.long("reads[generic")

CONNECTED = "        context.configure(\n            connection=connection"
BEGUN = "        with context.begin_transaction():\n"
POOLED = "poolclass=pool.NullPool"
ENTER = "connection.exec_driver_sql('set search_path to app')"


def creates(folder: Path, options: str = "", first: str = "") -> None:
    made = f'op.create_table("notes", sa.Column("id", sa.Integer){options})'
    revision(folder, "r1", None, upgrade=f"{first}{made}")


def by_arguments(url: str) -> AsyncEngine:
    settings = {"server_settings": {"search_path": "app, public"}}
    return create_async_engine(url, connect_args=settings)


def by_options(url: str) -> AsyncEngine:
    psycopg = make_url(url).set(drivername="postgresql+psycopg")
    return create_async_engine(psycopg, connect_args={"options": "-c search_path=app"})


def by_a_listener(url: str) -> AsyncEngine:
    engine = create_async_engine(url)

    @event.listens_for(engine.sync_engine, "connect")
    def enter(connection: Any, _: Any) -> None:
        connection.cursor().execute("set search_path to app")
        connection.commit()

    return engine


def as_usual(url: str) -> AsyncEngine:
    return create_async_engine(url)


Engine = Callable[[str], AsyncEngine]


@pytest.fixture
def application(
    postgres_url: str, postgres_server: Any, tmp_path: Path
) -> Callable[..., tuple[AsyncEngine, Path]]:
    """Makes an application whose database has a schema `app`: its engine, and its env.py."""

    def make(
        engine: Engine = by_arguments, kind: str = "generic", revisions: Any = creates
    ) -> tuple[AsyncEngine, Path]:
        database = make_url(postgres_url).database
        postgres_server.execute("create schema if not exists app", database=database)
        made = project(tmp_path, kind, postgres_url, revisions=revisions)
        return engine(postgres_url), made.versions.parent / "env.py"

    return make


def changed(env: Path, before: str, after: str) -> None:
    head, found, rest = env.read_text("utf-8").rpartition(before)
    assert found
    env.write_text(f"{head}{after}{rest}", "utf-8")


async def migrated(engine: AsyncEngine, env: Path, **options: Any) -> TargetReport:
    target = Target(engine, env.parents[1] / "alembic.ini", **options)
    (report,) = (await Migrator(target, mode="migrate").run()).targets
    assert report.outcome == "migrated"
    return report


@pytest.mark.long("by_options", "by_a_listener")
@pytest.mark.parametrize("engine", [by_arguments, by_options, by_a_listener])
@pytest.mark.parametrize("kind", ["generic", "async"])
async def test_a_stock_env_is_said_to_migrate_another_schema_than_the_application_reads(
    kind: str, engine: Engine, application: Any, postgres_url: str
) -> None:
    report = await migrated(*application(engine, kind))

    assert "notes" in tables(postgres_url)  # as plain Alembic does
    (note,) = report.notes
    assert "schema public" in note and "schema app" in note and "search_path" in note


@pytest.mark.long
async def test_a_schema_that_the_revision_itself_makes_counts(
    application: Any, postgres_url: str, postgres_server: Any
) -> None:
    engine, env = application(
        revisions=lambda folder: creates(folder, first="op.execute('create schema app')\n")
    )
    postgres_server.execute("drop schema app", database=make_url(postgres_url).database)

    (note,) = (await migrated(engine, env)).notes

    assert "schema public" in note and "schema app" in note


@pytest.mark.long("after configure", "for the transaction", "by its engine")
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (CONNECTED, f"        {ENTER}\n        connection.commit()\n{CONNECTED}"),
        (BEGUN, f"{BEGUN}            {ENTER}\n"),
        (BEGUN, f"{BEGUN}            {ENTER.replace('set ', 'set local ')}\n"),
        (POOLED, f'{POOLED}, connect_args={{"options": "-c search_path=app"}}'),
    ],
    ids=["before configure", "after configure", "for the transaction", "by its engine"],
)
async def test_an_env_that_ends_in_the_applications_schema_is_not_noted(
    before: str, after: str, application: Any, postgres_url: str
) -> None:
    engine, env = application()
    changed(env, before, after)

    report = await migrated(engine, env)

    assert "app.notes" in tables(postgres_url)
    assert report.notes == ()


@pytest.mark.long
async def test_a_connection_as_the_applications_is_not_noted(
    application: Any, postgres_url: str
) -> None:
    report = await migrated(*application(), drive="given")

    assert "app.notes" in tables(postgres_url)
    assert report.notes == ()


@pytest.mark.long
async def test_a_schema_that_env_py_chose_is_not_noted(
    application: Any, postgres_url: str, postgres_server: Any
) -> None:
    engine, env = application()
    postgres_server.execute("create schema tenant", database=make_url(postgres_url).database)
    enter = ENTER.replace("app", "tenant")
    changed(env, CONNECTED, f"        {enter}\n        connection.commit()\n{CONNECTED}")

    report = await migrated(engine, env)

    assert "tenant.notes" in tables(postgres_url)
    assert report.notes == ()


@pytest.mark.long
async def test_revisions_that_name_the_schema_are_not_noted(
    application: Any, postgres_url: str
) -> None:
    report = await migrated(
        *application(revisions=lambda folder: creates(folder, ', schema="app"'))
    )

    assert "app.notes" in tables(postgres_url)
    assert report.notes == ()


@pytest.mark.long
async def test_one_search_path_for_all_is_not_noted(
    application: Any, postgres_url: str, postgres_server: Any
) -> None:
    engine, env = application(as_usual)
    database = make_url(postgres_url).database
    postgres_server.execute(f"alter database {database} set search_path to app, public")

    report = await migrated(engine, env)

    assert "app.notes" in tables(postgres_url)
    assert report.notes == ()
