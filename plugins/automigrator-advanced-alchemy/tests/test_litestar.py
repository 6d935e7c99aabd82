"""The plugin for Litestar migrates before anything of the application starts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.alembic_projects import heads, linear, project, revision

from automigrator import MigrationError, Migrator, Target

pytest.importorskip("litestar", reason="litestar is not installed: nox -s frameworks has it")

from advanced_alchemy.extensions.litestar import SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from automigrator_advanced_alchemy.litestar import AutomigratorPlugin
from litestar import Litestar


def broken(folder: Path) -> None:
    linear(folder, 2)
    revision(folder, "r3", "r2", upgrade='raise LookupError("no luck")')


class Application:
    """A Litestar application that notes what of it starts, and where the database is then."""

    def __init__(self, folder: Path, url: str, revisions: Callable[[Path], object]) -> None:
        self.url, self.began = url, dict[str, set[str]]()
        config = project(folder, "async", url, revisions=revisions).config
        self.plugin = AutomigratorPlugin(Migrator(Target(url, config), mode="migrate"))
        alchemy = SQLAlchemyAsyncConfig(connection_string=url)
        self.app = Litestar(
            plugins=[SQLAlchemyPlugin(config=alchemy), self.plugin],
            lifespan=[self.lifespan],
            on_startup=[self.on_startup],
            logging_config=None,  # it would stay behind
        )

    @asynccontextmanager
    async def lifespan(self, app: Litestar) -> AsyncIterator[None]:
        self.began["lifespan"] = heads(self.url)
        yield

    def on_startup(self, app: Any) -> None:
        self.began["on_startup"] = heads(self.url)


async def test_lifespans_and_hooks_find_a_migrated_database(
    tmp_path: Path, sqlite_url: str
) -> None:
    application = Application(tmp_path, sqlite_url, linear)

    async with application.app.lifespan():
        assert application.began == {"lifespan": {"r3"}, "on_startup": {"r3"}}


async def test_nothing_of_the_application_starts_when_the_migration_fails(
    tmp_path: Path, sqlite_url: str
) -> None:
    application = Application(tmp_path, sqlite_url, broken)

    with pytest.RaisesGroup(MigrationError, allow_unwrapped=True):
        async with application.app.lifespan():
            pass
    assert not application.began


def test_the_parent_of_workers_migrates_before_it_starts_them(
    tmp_path: Path, sqlite_url: str
) -> None:
    application = Application(tmp_path, sqlite_url, linear)

    with application.plugin.server_lifespan(application.app):
        assert heads(sqlite_url) == {"r3"}
    assert not application.began


def test_the_parent_starts_no_worker_when_the_migration_fails(
    tmp_path: Path, sqlite_url: str
) -> None:
    application = Application(tmp_path, sqlite_url, broken)

    with pytest.raises(MigrationError), application.plugin.server_lifespan(application.app):
        raise AssertionError("started")
