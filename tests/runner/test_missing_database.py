"""A database that is missing beside its own copies: never an empty one in its place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from support.notes_application import GOOD, HALF_WAY, ROWS, Application
from support.postgres_server import Server

from automigrator import MigrationError


def file_of(url: str) -> Path:
    return Path(str(make_url(url).database))


def copies_of(live: Path) -> list[Path]:
    return list(live.parent.glob(f"{live.name}.snapshot-*"))


COPYING = ("backup-restore", {"snapshot": "always"})


async def test_a_file_that_was_renamed_by_hand_is_asked_for_and_no_empty_one_is_made(
    tmp_path: Path, sqlite_url: str
) -> None:
    application = Application(tmp_path, sqlite_url)
    application.deploy(GOOD)
    await application.start(COPYING)
    live = file_of(sqlite_url)
    (copy,) = copies_of(live)
    aside = live.rename(live.with_suffix(".aside"))
    application.deploy(GOOD.replace("tags", "labels"))
    with pytest.raises(MigrationError, match="no empty one was created") as caught:
        await application.start(COPYING)
    assert not live.exists()
    (failure,) = caught.value.report.targets[0].failures
    assert (failure.kind, failure.state) == ("unreachable", "clean")
    assert copy.name in failure.message and f"touch {live}" in failure.advice
    aside.rename(live)
    assert (await application.start(COPYING)).outcome == "migrated"
    assert application.notes() == ROWS


@pytest.mark.long
async def test_an_empty_file_made_by_hand_is_meant(tmp_path: Path, sqlite_url: str) -> None:
    application = Application(tmp_path, sqlite_url)
    application.deploy(GOOD)
    await application.start(COPYING)
    live = file_of(sqlite_url)
    live.unlink()
    live.touch()
    assert (await application.start()).outcome == "migrated"


@pytest.mark.parametrize(("mode", "suffix"), [("wal", "-wal"), ("delete", "-journal")])
async def test_a_file_that_was_moved_without_its_log_is_asked_for(
    mode: str, suffix: str, tmp_path: Path, sqlite_url: str
) -> None:
    application = Application(tmp_path, sqlite_url)
    live = file_of(sqlite_url)
    leave_log(live, mode)
    log = live.with_name(live.name + suffix)
    content = log.read_bytes()
    aside = live.rename(live.with_suffix(".aside"))
    with pytest.raises(MigrationError, match=f"{log}, which belongs to it") as caught:
        await application.start()
    assert caught.value.report.targets[0].failures[0].kind == "unreachable"
    assert not live.exists() and log.read_bytes() == content
    aside.rename(live)
    assert (await application.start()).outcome == "current"
    assert len(application.notes()) == len(ROWS) + (mode == "wal")


def leave_log(live: Path, mode: str) -> None:
    """Die with a note that is only in the log, or with a transaction half written."""
    code = (
        "import os, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute(f'PRAGMA journal_mode={sys.argv[2]}')\n"
        "c.execute('PRAGMA cache_size=1')\n"
        "c.execute('BEGIN')\n"
        "c.execute(\"INSERT INTO notes VALUES (9, 'butter')\")\n"
        "if sys.argv[2] == 'wal': c.execute('COMMIT')\n"
        "else: c.execute('CREATE TABLE large AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL '\n"
        "    'SELECT n + 1 FROM c LIMIT 500) SELECT randomblob(900) FROM c')\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(live), mode], check=True)


@pytest.mark.long
async def test_copies_of_a_neighbour_are_no_reason(tmp_path: Path, sqlite_url: str) -> None:
    application = Application(tmp_path, sqlite_url, started=False)
    live = file_of(sqlite_url)
    for name in (f"x{live.name}.snapshot-20260101T000000Z", f"{live.name}.snapshot-before-easter"):
        live.with_name(name).touch()
    assert (await application.start()).outcome == "migrated"


@pytest.mark.long("undone")
@pytest.mark.parametrize(
    ("upgrade", "option", "kind"),
    [(GOOD, {"snapshot": "always"}, "snapshot"), (HALF_WAY, {}, "undone")],
)
async def test_a_postgresql_database_that_was_renamed_by_hand_is_asked_for(
    upgrade: str,
    option: dict[str, Any],
    kind: str,
    tmp_path: Path,
    postgres_url: str,
    postgres_server: Server,
) -> None:
    application = Application(tmp_path, postgres_url)
    application.deploy(upgrade)
    if kind == "undone":
        with pytest.raises(MigrationError):
            await application.start(("backup-restore", option))
    else:
        await application.start(("backup-restore", option))
    live = str(make_url(postgres_url).database)
    copies = postgres_server.databases(f"{live}__automigrator_")
    postgres_server.execute(f"alter database {live} rename to {live}_aside")
    with pytest.raises(MigrationError, match="no empty one was created") as caught:
        await application.start()
    assert live not in postgres_server.databases(live)
    (failure,) = caught.value.report.targets[0].failures
    assert all(copy in failure.message for copy in copies)
    assert any(f"_{kind}_" in copy for copy in copies)
    postgres_server.execute(f"alter database {live}_aside rename to {live}")
