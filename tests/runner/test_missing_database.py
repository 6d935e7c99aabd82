"""A database that is missing, or empty, beside its own copies: no empty one takes its place."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from support.notes_application import GOOD, HALF_WAY, ROWS, Application
from support.postgres_server import Server

from automigrator import MigrationError, Migrator, Run, Target


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
    assert copy.name in failure.message and "snapshots restore newest" in failure.advice
    aside.rename(live)
    assert (await application.start(COPYING)).outcome == "migrated"
    assert application.notes() == ROWS


def emptied(live: Path) -> None:
    live.write_bytes(b"")


def made_anew_by_whoever_opened_it(live: Path) -> None:
    live.unlink()
    with closing(sqlite3.connect(live)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


def beside(live: Path) -> Any:
    return COPYING


def in_a_folder(live: Path) -> Any:
    return ("backup-restore", {"snapshot": "always", "folder": str(live.with_name("copies"))})


class TestAFileThatIsEmpty:
    """Beside a copy with rows it has lost them: it stays so until somebody says otherwise."""

    @pytest.mark.parametrize("copying", [beside, in_a_folder])
    @pytest.mark.parametrize("lose", [emptied, made_anew_by_whoever_opened_it])
    async def test_no_start_migrates_it(
        self, lose: Any, copying: Any, tmp_path: Path, sqlite_url: str
    ) -> None:
        live = file_of(sqlite_url)
        application = await with_a_copy(tmp_path, sqlite_url, copying(live))
        lose(live)

        for _ in range(3):
            with pytest.raises(MigrationError, match="is empty, and .*, holds data") as caught:
                await application.start(copying(live), "log-and-continue")
            (failure,) = caught.value.report.targets[0].failures
            assert (failure.kind, failure.state, failure.blames) == ("corrupt", "clean", "data")
            assert "snapshots restore newest" in failure.advice
            assert application.tables == set()

    async def test_the_doctor_says_so(self, tmp_path: Path, sqlite_url: str) -> None:
        application = await with_a_copy(tmp_path, sqlite_url)
        emptied(file_of(sqlite_url))

        found = await Migrator(application.target()).doctor()

        assert "is empty, and" in found["app"].damage.found and not found.healthy

    async def test_a_copy_that_is_put_back_ends_that(self, tmp_path: Path, sqlite_url: str) -> None:
        application = await with_a_copy(tmp_path, sqlite_url)
        emptied(file_of(sqlite_url))
        migrator = Migrator(application.target())

        (copy,) = await migrator.snapshots()
        await migrator.restore_snapshot(copy.place)

        assert (await application.start()).outcome == "migrated"
        assert application.notes() == ROWS

    async def test_so_does_moving_the_copies_away(self, tmp_path: Path, sqlite_url: str) -> None:
        application = await with_a_copy(tmp_path, sqlite_url)
        live = file_of(sqlite_url)
        emptied(live)
        (tmp_path / "aside").mkdir()
        for copy in copies_of(live):
            copy.rename(tmp_path / "aside" / copy.name)

        assert (await application.start()).outcome == "migrated"

    async def test_a_purge_that_was_configured_is_asked(
        self, tmp_path: Path, sqlite_url: str
    ) -> None:
        application = await with_a_copy(tmp_path, sqlite_url)
        live = file_of(sqlite_url)
        (copy,) = copies_of(live)
        emptied(live)

        assert (await application.start(("purge", {"when": "damaged"}))).outcome == "recovered"

        assert copy.exists() and application.heads == {"r2"}

    async def test_a_copy_without_rows_is_no_reason(self, tmp_path: Path, sqlite_url: str) -> None:
        """As one is that was made before the first installation."""
        application = Application(tmp_path, sqlite_url, started=False)
        live = file_of(sqlite_url)
        for name in (live, live.with_name(f"{live.name}.snapshot-20260101T000000Z")):
            made = sqlite3.connect(name)
            made.executescript("CREATE TABLE t (x); DROP TABLE t")
            made.close()

        assert (await application.start()).outcome == "migrated"


async def with_a_copy(root: Path, url: str, copying: Any = COPYING) -> Application:
    application = Application(root, url)
    application.deploy(GOOD)
    await application.start(copying)
    return application


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


class BesideAFasterOne(Migrator):
    """Another process creates the database just before this one does."""

    async def create_database(self, run: Run) -> bool:
        assert await super().create_database(run)
        return await super().create_database(run)


async def test_only_the_process_that_has_created_the_database_says_so(
    make_target: Callable[..., Target],
    database_url: str,
    postgres_server: Server,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if (url := make_url(database_url)).drivername.startswith("postgresql"):
        postgres_server.drop_all(str(url.database))
    target = make_target(database=database_url)
    with caplog.at_level("INFO", "automigrator"):
        report = await BesideAFasterOne(target, mode="migrate").run()
    assert report.outcome == "migrated"
    assert f"{target.name}: another process has created the database" in caplog.messages
    assert "database created" not in caplog.text


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
