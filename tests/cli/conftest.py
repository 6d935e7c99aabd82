"""An application whose databases the command is called for."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import make_url
from support.alembic_projects import Project, linear, project, revision
from support.terminal import Shell

APPLICATION = """
import os
from automigrator import Decision, Migrator, Target, hookimpl
from sqlalchemy.ext.asyncio import create_async_engine

class Continue:
    @hookimpl
    def on_failure(self, run, failure):
        return Decision.CONTINUE

class Never(Migrator):
    def is_enabled(self):
        return False

engine = create_async_engine(os.environ["APP_URL"])
migrator = {migrator}(Target(engine, "alembic.ini", name="app", {target}), {options})
"""
SLOW = {
    "sqlite": "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) "
    "SELECT count(*) FROM c",
    "postgresql": "SELECT pg_sleep(60)",
}
"""A statement that does not end by itself."""


class Application:
    """A folder with an Alembic project and `app.py`, and the command called there."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.kind = make_url(url).get_backend_name()
        self.automigrator = Shell(folder, {"APP_URL": url, "AUTOMIGRATOR_APP": "app:migrator"})
        self.project: Project = project(folder, "async", url, revisions=linear)
        self.configure()

    def configure(self, options: str = "", *, target: str = "", migrator: str = "Migrator") -> None:
        """Write `app.py` with these options of the Migrator and of its Target."""
        text = APPLICATION.format(options=options, target=target, migrator=migrator)
        (self.folder / "app.py").write_text(text, "utf-8")

    def deploy(self, upgrade: str) -> None:
        """Add the revision r4."""
        revision(self.project.versions, "r4", "r3", upgrade=upgrade)

    def deploy_slow(self) -> None:
        """Add a revision that takes for ever."""
        self.deploy(f'op.execute("{SLOW[self.kind]}")')

    def deploy_broken(self) -> None:
        """Add a revision that fails."""
        self.deploy('op.execute("SELECT * FROM absent")')


@pytest.fixture
def application(database_url: str, tmp_path: Path) -> Application:
    """One that was never started, on each kind of database."""
    return Application(tmp_path, database_url)


@pytest.fixture
def on_sqlite(sqlite_url: str, tmp_path: Path) -> Application:
    """The same, on SQLite alone: what does not depend on the database."""
    return Application(tmp_path, sqlite_url)
