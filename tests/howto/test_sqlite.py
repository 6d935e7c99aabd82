"""The page on SQLite: its application, and backups beside it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.pages import Page, Section, run_python, run_shell

from automigrator import Migrator, Target

pytestmark = pytest.mark.plugins

PAGE = Page("sqlite")


def test_every_section_is_played() -> None:
    assert PAGE.unplayed() == []


@PAGE.plays(
    "SQLite: applications and containers", "In a container", "Updates of a desktop application"
)
async def test_the_application_is_updated_and_looked_at(section: Section, folder: Path) -> None:
    names: dict[str, Any] = {}
    for source in section.all("python"):
        await run_python(source, names)
    assert "each" not in names  # there were no rows to copy before the first migration
    await names["engine"].dispose()


@PAGE.plays("Backups")
@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="sqlite3 is not installed")
async def test_both_backups_hold_what_a_running_application_has_committed(
    section: Section, folder: Path
) -> None:
    (folder / "data").mkdir()
    (folder / "backups").mkdir(mode=0o700)
    url = f"sqlite+aiosqlite:///{folder / 'data' / 'app.db'}"
    await Migrator(Target(url, "alembic.ini"), mode="migrate").run()
    with closing(sqlite3.connect(folder / "data" / "app.db")) as application:
        application.execute("pragma journal_mode = wal")
        application.execute("insert into users (name) values ('in the log alone')")
        application.commit()
        run_shell(section.the("sh"), folder, DATABASE_URL=url)
    copies = [each for each in (folder / "backups").iterdir() if not each.name.endswith(".json")]
    assert len(copies) == 2
    for copy in copies:
        with closing(sqlite3.connect(copy)) as connection:
            assert connection.execute("select name from users").fetchall() == [
                ("in the log alone",)
            ]


async def test_the_folder_of_revisions_is_enough(folder: Path) -> None:
    target = Target(f"sqlite+aiosqlite:///{folder / 'app.db'}", folder / "migrations")
    assert (await Migrator(target, mode="migrate").run()).outcome == "migrated"
