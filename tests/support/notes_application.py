"""An application with notes in its database, whose next deployment may bring a bad revision."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
from sqlalchemy import make_url
from support import alembic_projects
from support.canaries import ROW

from automigrator import Migrator, Report, Run, Target, TargetReport, hookimpl

NOTES = (ROW, "bread", ROW)
CREATE = """
op.create_table(
    "notes",
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("text", sa.String(50), nullable=False),
)
"""
AFTER_R1 = (
    "CREATE TABLE notes (id INTEGER PRIMARY KEY, text VARCHAR(50) NOT NULL)",
    "INSERT INTO notes VALUES " + ", ".join(f"({n}, '{text}')" for n, text in enumerate(NOTES)),
    "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
    "INSERT INTO alembic_version VALUES ('r1')",
)
GOOD = 'op.create_table("tags", sa.Column("id", sa.Integer, primary_key=True))'
BROKEN = 'op.execute("SELECT * FROM absent")'
"""Fails on every database."""
UNIQUE = 'op.create_index("one_of_each", "notes", ["text"], unique=True)'
"""Fails on a database with these notes, not on an empty one."""
COMMITS = "with op.get_context().autocommit_block():\n    op.execute('DELETE FROM notes')"
"""Succeeds, and would leave something behind if it did not."""

HALF_WAY = f"""
with op.get_context().autocommit_block():
    op.execute("DELETE FROM notes WHERE text <> 'bread'")
{BROKEN}
"""
"""Loses notes, commits that, and fails."""


class Application:
    """Its database is at r1 and has `NOTES` in it; `deploy` adds r2, r3 and so on."""

    def __init__(self, root: Path, url: str, *, kind: str = "async", started: bool = True) -> None:
        self.root, self.url, self.seen = root, url, Seen()
        self._project = alembic_projects.project(root, kind, url, revisions=lambda folder: None)
        self.count = 0
        self.deploy(CREATE)
        if started:
            self.execute(*AFTER_R1)

    def deploy(self, *upgrades: str, downgrade: str = "pass") -> None:
        """Add a revision for each body of `upgrade()`; `downgrade` is theirs."""
        for upgrade in upgrades:
            before = f"r{self.count}" if self.count else None
            self.count += 1
            alembic_projects.revision(
                self._project.versions,
                f"r{self.count}",
                before,
                upgrade=upgrade,
                downgrade=downgrade,
            )

    @property
    def config(self) -> Path:
        return self._project.config

    def target(self, **options: Any) -> Target:
        return Target(self.url, self.config, **options)

    async def start(
        self,
        *recovery: Any,
        plugins: Sequence[object] = (),
        allow_partial: bool = False,
        migrator: type[Migrator] = Migrator,
    ) -> Report:
        """Migrate at startup with these strategies; `seen` tells what hooks are shown."""
        self.seen = Seen()
        return await migrator(
            self.target(),
            mode="migrate",
            recovery=recovery,
            plugins=[*plugins, self.seen],
            allow_partial=allow_partial,
        ).run()

    @property
    def heads(self) -> set[str]:
        return alembic_projects.heads(self.url)

    @property
    def tables(self) -> set[str]:
        return alembic_projects.tables(self.url)

    def notes(self, place: str | None = None) -> list[tuple[int, str]]:
        """Every row, here or in a copy at `place`."""
        url = self.url if place is None else self.url_of(place)
        return [(row[0], row[1]) for row in alembic_projects.query(url, _ALL)]

    def url_of(self, place: str) -> str:
        return make_url(self.url).set(database=place).render_as_string(hide_password=False)

    def execute(self, *statements: str) -> None:
        """Over a connection of its own, committed; may be called inside a loop."""
        url = make_url(self.url)
        if url.get_backend_name() == "sqlite":
            with closing(sqlite3.connect(str(url.database))) as connection, connection:
                for statement in statements:
                    connection.execute(statement)
            return

        async def work() -> None:
            dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
            server = await asyncpg.connect(dsn)
            try:
                for statement in statements:
                    await server.execute(statement)
            finally:
                await server.close()

        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: asyncio.run(work())).result()


_ALL = "SELECT id, text FROM notes ORDER BY id"
ROWS = list(enumerate(NOTES))
"""What `Application.notes` returns while nothing is lost."""


class Seen:
    """An in-house plugin that keeps the Run it was last shown."""

    run: Run | None = None

    @hookimpl
    def before_migrate(self, run: Run) -> None:
        self.run = run

    @property
    def snapshot(self) -> str | None:
        """Where this run's snapshot is."""
        return self.run.taken.place if self.run is not None and self.run.taken else None


def set_aside(report: TargetReport) -> str:
    """Where the notes of a report say that a purge left the old data."""
    found = re.search(r"the old data is in (\S+)", "\n".join(report.notes))
    assert found is not None, report.notes
    return found[1]
