"""The plugin for Litestar migrates before anything of the application starts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from support.alembic_projects import heads, linear, project, revision

from automigrator import MigrationError, Migrator, Target

pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator found"),  # in its alembic.ini
    pytest.mark.skipif(find_spec("litestar") is None, reason="litestar is not installed"),
    pytest.mark.long("postgresql"),
]


def broken(folder: Path) -> None:
    linear(folder, 2)
    revision(folder, "r3", "r2", upgrade='raise LookupError("no luck")')


class Application:
    """A Litestar application that notes what of it starts, and where the database is then."""

    def __init__(
        self, folder: Path, url: str, revisions: Callable[[Path], object], **options: Any
    ) -> None:
        from advanced_alchemy.extensions.litestar import SQLAlchemyAsyncConfig, SQLAlchemyPlugin
        from automigrator_advanced_alchemy.litestar import AutomigratorPlugin
        from litestar import Litestar

        self.url, self.began = url, dict[str, set[str]]()
        config = project(folder, "async", url, revisions=revisions).config
        self.plugin = AutomigratorPlugin(Migrator(Target(url, config), mode="migrate", **options))
        alchemy = SQLAlchemyAsyncConfig(connection_string=url)
        self.app = Litestar(
            plugins=[SQLAlchemyPlugin(config=alchemy), self.plugin],
            lifespan=[self.lifespan],
            on_startup=[self.on_startup],
            logging_config=None,  # it would stay behind
        )

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        self.began["lifespan"] = heads(self.url)
        yield

    def on_startup(self, app: Any) -> None:
        self.began["on_startup"] = heads(self.url)


async def started_anew(application: Application) -> None:
    """A later start, of another server."""
    async with application.app.lifespan():
        pass


async def test_lifespans_and_hooks_find_a_migrated_database(
    tmp_path: Path, database_url: str
) -> None:
    application = Application(tmp_path, database_url, linear)
    async with application.app.lifespan():
        assert application.began == {"lifespan": {"r3"}, "on_startup": {"r3"}}


async def test_nothing_of_the_application_starts_when_the_migration_fails(
    tmp_path: Path, database_url: str
) -> None:
    application = Application(tmp_path, database_url, broken)
    with pytest.RaisesGroup(MigrationError, allow_unwrapped=True):
        async with application.app.lifespan():
            pass
    assert not application.began


def test_the_parent_of_workers_migrates_before_it_starts_them(
    tmp_path: Path, database_url: str
) -> None:
    application = Application(tmp_path, database_url, linear)
    with application.plugin.server_lifespan(application.app):
        assert heads(database_url) == {"r3"}
    assert not application.began


@pytest.mark.plugins
def test_a_worker_does_not_repeat_what_has_failed_in_the_parent(
    tmp_path: Path, database_url: str
) -> None:
    def noted(folder: Path) -> None:
        linear(folder, 2)
        noting = f"with open({str(tmp_path / 'tried')!r}, 'a') as file: file.write('.')"
        revision(folder, "r3", "r2", upgrade=f"{noting}\nraise LookupError")

    application = Application(tmp_path, database_url, noted, recovery=["log-and-continue"])
    migrator = application.plugin.migrator

    async def started() -> None:
        async with application.app.lifespan():
            (found,) = (await migrator.check()).targets
            assert found.failed_starts == 1

    with application.plugin.server_lifespan(application.app):
        asyncio.run(started())
    assert (tmp_path / "tried").read_text() == "."
    assert application.began == {"lifespan": set(), "on_startup": set()}
    assert migrator.report is not None and migrator.report.outcome == "degraded"
    assert "tried the same at this start" in str(migrator.report.targets[0].notes)
    asyncio.run(started_anew(application))
    assert (tmp_path / "tried").read_text() == ".."


def test_the_parent_starts_no_worker_when_the_migration_fails(
    tmp_path: Path, database_url: str
) -> None:
    application = Application(tmp_path, database_url, broken)
    with pytest.raises(MigrationError), application.plugin.server_lifespan(application.app):
        raise AssertionError("started")
