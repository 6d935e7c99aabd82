"""Only a file that SQLite's own check finds damaged is replaced for damage."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine
from support.notes_application import GOOD, ROWS, Application, set_aside

from automigrator import MigrationError, Migrator, Run, Target, TargetReport, hookimpl
from automigrator.backends.sqlite import backup, codes


@pytest.fixture
def file_notes(tmp_path: Path, sqlite_url: str) -> Application:
    return Application(tmp_path, sqlite_url)


def contents(place: str) -> bytes:
    return Path(place).read_bytes()


def file_of(application: Application) -> Path:
    return application.root / "app.db"


def add_what_only_a_newer_sqlite_reads(file: Path) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "INSERT INTO sqlite_master "
            "VALUES ('view', 'newer', 'newer', 0, 'CREATE VIEW newer AS SELECT 1 ->>> 2')"
        )


def put(file: Path, position: int, value: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(position)
        opened.write(bytes([value]))


def write_in_a_newer_format(file: Path) -> None:
    put(file, 47, 5)  # the schema format, 4 until now


NEWER = {
    "a view": add_what_only_a_newer_sqlite_reads,
    "a schema format": write_in_a_newer_format,
}


async def refused(application: Application, *recovery: Any, **options: Any) -> TargetReport:
    before = file_of(application).read_bytes()
    with pytest.raises(MigrationError) as info:
        await application.start(*(recovery or ("purge",)), **options)
    assert file_of(application).read_bytes() == before
    (report,) = info.value.report.targets
    return report


@pytest.mark.parametrize("pending", [True, False], ids=["pending", "nothing pending"])
@pytest.mark.parametrize("make", NEWER.values(), ids=NEWER)
async def test_a_file_that_a_newer_sqlite_wrote_is_no_damage(
    make: Any, pending: bool, file_notes: Application
) -> None:
    if pending:
        file_notes.deploy(GOOD)
    make(file_of(file_notes))

    report = await refused(file_notes, ("purge", {"set_aside": False}))

    (failure,) = report.failures
    assert (failure.kind, failure.blames) == ("env", "surroundings")
    assert sqlite3.sqlite_version in failure.advice
    assert not list(file_notes.root.glob("app.db.*-2*"))


async def test_a_header_of_a_way_to_read_that_is_not_known_yet(file_notes: Application) -> None:
    put(file_of(file_notes), 19, 3)  # the read version: 1, or 2 with a log

    report = await refused(file_notes, ("purge", {"set_aside": False}))

    assert "names a format that this SQLite" in report.notes[0]


def overwrite_the_page_of_notes(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        ((page,),) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'notes'")
        ((size,),) = connection.execute("PRAGMA page_size")
    with file.open("r+b") as opened:
        opened.seek((page - 1) * size)
        opened.write(b"\xff" * size)


async def test_a_page_that_a_revision_finds_damaged(file_notes: Application) -> None:
    file_notes.deploy("op.execute(\"UPDATE notes SET text = 'migrated'\")")
    overwrite_the_page_of_notes(file_of(file_notes))

    (report,) = (await file_notes.start("purge")).targets

    assert (report.outcome, report.failures[0].kind) == ("recovered", "corrupt")
    assert report.failures[0].blames == "data"


_HEADER = 100
"""Bytes in which a copy that SQLite makes counts changes of its own."""

ALWAYS = ("backup-restore", {"snapshot": "always"})


@pytest.mark.parametrize("recovery", [(ALWAYS, "purge"), ("purge", ALWAYS)], ids=str)
async def test_a_page_that_the_check_of_a_snapshot_finds_damaged(
    recovery: tuple[Any, ...], file_notes: Application
) -> None:
    file_notes.deploy(GOOD)
    file = file_of(file_notes)
    overwrite_the_page_of_notes(file)
    damaged = file.read_bytes()[_HEADER:]

    (report,) = (await file_notes.start(*recovery)).targets

    assert (report.outcome, report.before, report.after) == ("recovered", ("r1",), ("r2",))
    assert [(each.kind, each.blames) for each in report.failures] == [("corrupt", "data")]
    assert contents(set_aside(report))[_HEADER:] == damaged


async def test_where_no_purge_is_named_it_is_damage_all_the_same(file_notes: Application) -> None:
    file_notes.deploy(GOOD)
    overwrite_the_page_of_notes(file_of(file_notes))

    report = await refused(file_notes, ALWAYS, "log-and-continue")

    assert [each.kind for each in report.failures] == ["corrupt"]
    assert report.failures[0].advice.startswith("restore a backup")
    found = await Migrator(file_notes.target()).doctor()
    assert "quick_check" in found["app"].damage.found and not found.healthy


async def test_a_snapshot_that_alone_is_damaged_is_no_damage_of_the_database(
    file_notes: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_notes.deploy(GOOD)
    copy = backup.copy

    def damaging(source: Path, destination: Path, **options: Any) -> None:
        copy(source, destination, **options)
        overwrite_the_page_of_notes(destination)

    monkeypatch.setattr(backup, "copy", damaging)

    report = await refused(file_notes, ALWAYS, "purge")

    assert [each.kind for each in report.failures] == ["hook"]
    assert file_notes.notes() == ROWS


class ChecksAnotherFile:
    @hookimpl
    def before_migrate(self, run: Run) -> None:
        raise codes.DamagedError("a cache of the application's is damaged")


async def test_a_hook_that_finds_another_file_damaged_says_nothing_of_the_database(
    file_notes: Application,
) -> None:
    file_notes.deploy(GOOD)

    with pytest.raises(MigrationError) as info:
        await file_notes.start("purge", plugins=[ChecksAnotherFile()])

    assert [each.kind for each in info.value.report.targets[0].failures] == ["hook"]
    assert file_notes.notes() == ROWS


async def test_a_listener_of_the_application_may_read_what_is_damaged(
    file_notes: Application,
) -> None:
    file = file_of(file_notes)
    file.write_bytes(b"no database at all" * 500)
    engine = create_async_engine(file_notes.url)

    @event.listens_for(engine.sync_engine, "connect")
    def write_ahead(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA journal_mode = WAL")

    target = Target(engine, file_notes.config)
    (report,) = (await Migrator(target, mode="migrate", recovery=["purge"]).run()).targets
    await engine.dispose()

    assert (report.outcome, report.failures[0].kind) == ("recovered", "corrupt")


async def test_nothing_pending_is_never_purged_even_where_a_page_is_damaged(
    file_notes: Application,
) -> None:
    """The heads can be read, and say that the database is where it should be."""
    overwrite_the_page_of_notes(file_of(file_notes))
    before = file_of(file_notes).read_bytes()

    assert (await file_notes.start("purge")).outcome == "current"

    assert file_of(file_notes).read_bytes() == before


SAYS_SO = """
from automigrator.backends.sqlite import codes
raise codes.damaged("it sounds odd")
"""


async def test_damage_that_is_only_said_is_none(file_notes: Application) -> None:
    file_notes.deploy(SAYS_SO)

    report = await refused(file_notes)

    assert [each.blames for each in report.failures] == ["surroundings"]
    assert file_notes.notes() == ROWS


@pytest.mark.long
async def test_a_damaged_full_text_index_can_be_built_anew(file_notes: Application) -> None:
    file_notes.deploy("op.execute('CREATE VIRTUAL TABLE found USING fts5(text)')")
    await file_notes.start()
    file_notes.execute("INSERT INTO found VALUES ('milk')")
    file_notes.execute("DELETE FROM found_data")
    ask = "SELECT * FROM found WHERE found MATCH 'milk'"
    file_notes.deploy(f'op.get_bind().exec_driver_sql("{ask}").all()')

    report = await refused(file_notes)

    assert [(each.kind, each.blames) for each in report.failures] == [("corrupt", "surroundings")]
    assert file_notes.notes() == ROWS


async def test_damage_that_the_check_does_not_find_is_refused_in_words(
    file_notes: Application,
) -> None:
    file_notes.deploy("op.execute(\"UPDATE notes SET text = 'migrated'\")")
    overwrite_the_page_of_notes(file_of(file_notes))
    whole = file_of(file_notes).with_name("whole.db")
    Application(whole.parent / "whole", f"sqlite+aiosqlite:///{whole}")

    class Mending:
        @hookimpl
        def on_failure(self, run: Run) -> None:
            file_of(file_notes).write_bytes(whole.read_bytes())

    with pytest.raises(MigrationError) as info:
        await file_notes.start("purge", plugins=[Mending()])

    (note,) = info.value.report.targets[0].notes
    assert "PRAGMA quick_check" in note and "REINDEX" in note
    assert file_notes.notes() == ROWS


async def test_a_file_of_which_nothing_can_be_read_is_kept_byte_for_byte(
    file_notes: Application,
) -> None:
    file_of(file_notes).write_bytes(b"this is not a database" * 400)
    damaged = file_of(file_notes).read_bytes()

    (report,) = (await file_notes.start("purge")).targets

    assert report.outcome == "recovered"
    assert contents(set_aside(report)) == damaged
