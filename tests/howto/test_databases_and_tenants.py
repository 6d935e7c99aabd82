"""Several databases and tenants: the page's targets, on SQLite and in schemas of PostgreSQL."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from support import alembic_projects
from support.pages import Page, Section, run_python
from support.postgres_replicas import replicas
from support.postgres_server import Server

from automigrator import MigrationError, Migrator, Report, Target

pytestmark = pytest.mark.plugins

PAGE = Page("databases-and-tenants")
ON_SQLITE = [
    heading
    for heading, section in PAGE.sections.items()
    if section.runs and not heading.endswith("a schema each")
]


def test_every_section_is_played() -> None:
    assert PAGE.unplayed() == []


@PAGE.plays(*ON_SQLITE)
async def test_several_databases(section: Section, folder: Path) -> None:
    alembic_projects.project(folder / "multidb", "multidb", "sqlite+aiosqlite:///engine1.db")
    names: dict[str, Any] = {}
    for source in section.all("python"):
        await run_python(source, names)
    assert alembic_projects.tables(f"sqlite:///{folder / 'engine1.db'}") >= {"users", "posts"}
    assert not alembic_projects.tables(f"sqlite:///{folder / 'engine2.db'}") & {"users", "posts"}


@pytest.fixture
def schemas(folder: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose env.py is the page's."""
    env, _ = PAGE.sections["A few tenants, a schema each"].all("python")
    made = alembic_projects.project(folder / "schemas", "generic", postgres_url)
    (made.versions.parent / "env.py").write_text(env, "utf-8")
    monkeypatch.chdir(made.config.parent)
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    return made.versions


@PAGE.plays("A few tenants, a schema each")
@pytest.mark.long
async def test_a_schema_each(
    section: Section, schemas: Path, postgres_server: Server, postgres_url: str
) -> None:
    _, run = section.all("python")
    names: dict[str, Any] = {}
    await run_python(run, names)
    tables = "select schemaname::text from pg_tables where tablename = 'users' order by 1"
    database = postgres_url.rpartition("/")[2]
    assert postgres_server.execute(tables, database=database) == [("acme",), ("globex",)]

    # one fails on its own rows, the other goes on; a look runs no env.py
    one_row = "select 1 / count(*) from users"
    postgres_server.execute("insert into globex.users (name) values ('x')", database=database)
    alembic_projects.revision(schemas, "r4", "r3", upgrade=f"op.execute('{one_row}')")
    report = await Migrator(*names["targets"], mode="migrate", recovery=["log-and-continue"]).run()
    assert [each.outcome for each in report] == ["degraded", "migrated"]
    (schemas.parent / "env.py").write_text("raise SystemError", "utf-8")
    status = await Migrator(*names["targets"]).check()
    assert [each.current for each in status] == [False, True]


@pytest.mark.long
async def test_a_database_with_neighbours_is_neither_restored_nor_purged(schemas: Path) -> None:
    targets = [
        Target(os.environ["DATABASE_URL"], "alembic.ini", name=name, x=[f"tenant={name}"])
        for name in ("acme", "globex")
    ]
    await Migrator(*targets, mode="migrate").run()
    alembic_projects.revision(schemas, "r4", "r3", upgrade="op.execute('select 1 / 0')")
    for strategy in (("backup-restore", {"snapshot": "always"}), "purge"):
        with pytest.raises(MigrationError, match="another history's version table"):
            await Migrator(*targets, mode="migrate", recovery=[strategy]).run()
    alembic_projects.revision(schemas, "r4", "r3", upgrade="op.execute('select 1')")
    report = await Migrator(*targets, mode="migrate", rehearse=True).run()
    assert report.outcome == "migrated" and all(each.rehearsed_s for each in report)


@pytest.mark.long
async def test_a_replica_is_checked_and_waited_for(folder: Path) -> None:
    def migrated(mode: Any, url: str) -> Report:
        return Migrator(Target(url, "alembic.ini"), mode=mode).run_sync()

    def play() -> None:
        with replicas() as servers:
            servers.primary.create("shop")
            migrated("migrate", servers.primary.url("shop"))
            servers.await_replay()
            for mode in ("check", "wait", "migrate"):
                assert migrated(mode, servers.standby.url("shop")).outcome == "current"
            servers.primary.close()
            servers.standby.close()

    await asyncio.to_thread(play)
