"""An env.py may migrate on a connection out of the application's own pool; it stays as it was."""

from __future__ import annotations

from pathlib import Path

import aiosqlite
import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import create_async_engine
from support.alembic_projects import heads, project

from automigrator import MigrationError, Migrator, Target
from automigrator.backends.access import Access
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.sqlite.backend import SQLite

ENV = """
import asyncio

from alembic import context

config = context.config


def run(connection):
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()


async def main():
    async with config.attributes["engine"].begin() as connection:
        await connection.run_sync(run)


asyncio.run(main())
"""


async def test_the_applications_rollback_still_rolls_back(tmp_path: Path, sqlite_url: str) -> None:
    made = project(tmp_path, "async", sqlite_url)
    (tmp_path / "migrations" / "env.py").write_text(ENV)
    engine = create_async_engine(sqlite_url, pool_size=1, max_overflow=0)

    @event.listens_for(engine.sync_engine, "connect")
    def enforced(connection: object, _: object) -> None:
        cursor = connection.cursor()  # type: ignore[attr-defined]  # a driver's
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    target = Target(engine, made.config, attributes={"engine": engine})
    report = await Migrator(target, mode="migrate").run()

    assert report.outcome == "migrated"
    async with engine.connect() as connection:
        assert (await connection.execute(text("PRAGMA foreign_keys"))).scalar() == 1
        await connection.execute(text("INSERT INTO users (id, name) VALUES (1, 'gone')"))
        await connection.rollback()
        assert (await connection.execute(text("SELECT count(*) FROM users"))).scalar() == 0
    await engine.dispose()


@pytest.mark.parametrize("journal", ["delete", "wal"])
async def test_an_application_that_locks_its_file_as_long_as_it_is_open_is_migrated(
    journal: str, tmp_path: Path, sqlite_url: str
) -> None:
    made = project(tmp_path, "async", sqlite_url)
    engine = create_async_engine(sqlite_url)

    @event.listens_for(engine.sync_engine, "connect")
    def exclusive(connection: object, _: object) -> None:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")  # type: ignore[attr-defined]
        connection.execute(f"PRAGMA journal_mode={journal}")  # type: ignore[attr-defined]

    target = Target(engine, made.config, retry_timeout=1)
    report = await Migrator(target, mode="migrate").run()

    assert report.outcome == "migrated"
    await engine.dispose()


async def test_an_engine_that_leads_elsewhere_than_its_url_is_refused_before_anything_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = project(tmp_path, "async", "sqlite+aiosqlite:///app.db")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "one")
    engine = create_async_engine("sqlite+aiosqlite:///app.db")
    monkeypatch.chdir(tmp_path / "two")

    with pytest.raises(MigrationError, match="leads to .*one/app.db, and its URL to .*two/app.db"):
        await Migrator(Target(engine, made.config), mode="migrate").run()

    assert (tmp_path / "one" / "app.db").stat().st_size == 0
    await engine.dispose()


async def test_a_file_that_only_a_creator_names_is_locked_and_copied_like_any_other(
    tmp_path: Path,
) -> None:
    file = tmp_path / "app.db"
    made = project(tmp_path, "async", f"sqlite+aiosqlite:///{file}")
    engine = create_async_engine(
        "sqlite+aiosqlite://", async_creator=lambda: aiosqlite.connect(file)
    )
    target = Target(engine, made.config, lock_timeout=0.1)
    backend = SQLite(Access(Target(f"sqlite:///{file}", made.config)))
    async with backend.lock([VersionTable()], 1, lambda *_: None):
        with pytest.raises(MigrationError, match="lock"):
            await Migrator(target, mode="migrate").run()

    assert (await Migrator(target, mode="migrate").run()).outcome == "migrated"

    assert heads(f"sqlite:///{file}") == {"r3"}
    await engine.dispose()
