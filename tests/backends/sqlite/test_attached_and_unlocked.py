"""Files that an application attaches are in no snapshot; a URL may open a file without locks."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine
from support.notes_application import COMMITS, GOOD, ROWS, Application

from automigrator import MigrationError, Target

pytestmark = pytest.mark.plugins


async def test_no_snapshot_is_taken_where_the_application_attaches_another_file(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE theirs (id)")
    notes = Application(tmp_path, sqlite_url)
    notes.deploy(COMMITS)
    engine = create_async_engine(sqlite_url)

    @event.listens_for(engine.sync_engine, "connect")
    def attach(dbapi: Any, _: object) -> None:
        dbapi.execute(f"ATTACH '{other}' AS other")

    monkeypatch.setattr(notes, "target", lambda: Target(engine, notes.config))
    with pytest.raises(MigrationError, match=r"attaches other \(.*a snapshot would not hold"):
        await notes.start("backup-restore")
    await engine.dispose()

    assert (notes.notes(), notes.heads) == (ROWS, {"r1"})
    assert not [name for name in os.listdir(tmp_path) if ".snapshot-" in name]


@pytest.mark.parametrize("option", ["nolock=1", "vfs=unix-none", "vfs=unix-dotfile"])
async def test_a_url_without_locks_is_refused_before_anything_changes(
    option: str, tmp_path: Path, sqlite_url: str
) -> None:
    notes = Application(tmp_path, sqlite_url)
    notes.deploy(GOOD)
    path = sqlite_url.partition("///")[2]
    url = f"sqlite+aiosqlite:///file:{path}?{option}&uri=true"

    again = Application(tmp_path / "again", url, started=False)
    again.deploy(GOOD)
    with pytest.raises(MigrationError, match=f"with {option}, without the locks"):
        await again.start()

    assert (notes.notes(), notes.heads) == (ROWS, {"r1"})
