"""A copy is made before a migration that could leave something behind, and put back when it did."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from textwrap import indent
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from automigrator_backup_restore import BackupRestore
from sqlalchemy import make_url
from support.notes_application import BROKEN, COMMITS, GOOD, HALF_WAY, ROWS, Application
from support.postgres_server import Server

from automigrator import (
    Decision,
    Failure,
    MigrationError,
    PluginError,
    Run,
    TargetReport,
    hookimpl,
)

pytestmark = pytest.mark.long(
    "dump-True",
    "dump-False",
    "template-True",
    "has_its_dump_put_back",
    "[postgresql",
    "others_are_disconnected_for_a_copy",
    "rows_of_others",
)

MUCH = f"""
with op.get_context().autocommit_block():
    op.execute("UPDATE much SET bytes = randomblob(1500)")
{BROKEN}
"""


class Next:
    """A strategy that remembers whether it was asked."""

    def __init__(self) -> None:
        self.asked: list[Failure] = []

    @hookimpl
    def on_failure(self, failure: Failure) -> Decision | None:
        self.asked.append(failure)
        return None


async def failed(notes: Application, *recovery: Any, plugins: Any = ()) -> TargetReport:
    with pytest.raises(MigrationError) as info:
        await notes.start(*recovery, plugins=plugins)
    return info.value.report.targets[0]


@pytest.fixture
def file_notes(tmp_path: Path, sqlite_url: str) -> Application:
    return Application(tmp_path, sqlite_url)


async def test_every_row_that_half_a_revision_lost_comes_back_and_the_next_is_asked(
    notes: Application,
) -> None:
    notes.deploy(GOOD, HALF_WAY)
    after = Next()
    report = await failed(notes, "backup-restore", after)
    assert report.failures[0].state == "partial-within-revision"
    assert notes.notes() == ROWS
    assert notes.tables == {"notes", "alembic_version"} and notes.heads == {"r1"}
    assert (report.after, report.applied) == (("r1",), ())
    assert [failure.state for failure in after.asked] == ["clean"]
    assert f"restored from {notes.seen.snapshot}" in report.notes


@pytest.mark.long
async def test_whole_revisions_that_were_committed_one_by_one_are_undone(
    tmp_path: Path, database_url: str
) -> None:
    notes = Application(tmp_path, database_url, kind="per_migration")
    notes.deploy('op.execute("DELETE FROM notes")', BROKEN)
    report = await failed(notes, "backup-restore")
    assert report.failures[0].state == "partial-at-boundary"
    assert (notes.notes(), notes.heads) == (ROWS, {"r1"})
    assert report.now == "clean, at r1 (what the failure left was undone)"
    assert report.to_dict()["failures"][0]["applied"] == []
    assert not any("applied and kept" in text for text in (str(report), report.screen()))


async def test_no_copy_is_made_where_the_database_rolls_back_by_itself(
    notes: Application,
) -> None:
    notes.deploy(GOOD, BROKEN)
    report = await failed(notes, "backup-restore")
    assert notes.seen.snapshot is None
    assert report.failures[0].state == "clean"
    assert (notes.notes(), notes.heads) == (ROWS, {"r1"})


async def test_a_copy_is_always_made_when_that_was_asked_for(notes: Application) -> None:
    notes.deploy(GOOD)
    report = await notes.start(("backup-restore", {"snapshot": "always"}))
    assert report.outcome == "migrated"
    assert notes.seen.snapshot is not None
    assert notes.notes(notes.seen.snapshot) == ROWS


async def test_a_database_with_nothing_to_lose_is_not_copied(
    tmp_path: Path, database_url: str
) -> None:
    notes = Application(tmp_path, database_url, started=False)
    report = await notes.start(("backup-restore", {"snapshot": "always"}))
    assert report.outcome == "migrated"
    assert notes.seen.run is not None and notes.seen.snapshot is None


@pytest.mark.long
async def test_without_a_copy_it_says_that_there_is_nothing_to_restore(
    notes: Application,
) -> None:
    commit = "getattr(op.get_bind(), 'com' + 'mit')()"  # which nobody can read
    notes.deploy(f"op.execute('DELETE FROM notes')\n{commit}\n{BROKEN}")
    report = await failed(notes, ("backup-restore", {"then": "continue"}))
    assert report.failures[0].state == "partial-within-revision"
    assert "nothing to restore: no snapshot was taken in this run" in report.notes


@pytest.mark.long("absent")
@pytest.mark.parametrize("failing", [BROKEN, HALF_WAY])
async def test_it_continues_on_the_old_schema_when_told_to(
    failing: str, notes: Application
) -> None:
    notes.deploy(failing)
    after = Next()
    (report,) = (await notes.start(("backup-restore", {"then": "continue"}), after)).targets
    assert (report.outcome, report.after) == ("degraded", ("r1",))
    assert notes.notes() == ROWS
    assert after.asked == []


async def test_it_continues_on_no_newer_database(notes: Application) -> None:
    notes.deploy(GOOD)
    await notes.start()
    (newest,) = notes.config.parent.rglob("*r2*.py")
    newest.unlink()
    report = await failed(notes, ("backup-restore", {"then": "continue"}))
    assert (report.outcome, report.failures[0].kind) == ("failed", "ahead")
    assert "not continued: then='continue' is for" in "\n".join(report.notes)


async def test_it_retries_once_and_restores_again(notes: Application) -> None:
    notes.deploy(HALF_WAY)
    report = await failed(notes, ("backup-restore", {"then": "retry"}))
    states = [failure.state for failure in report.failures]
    assert states == ["partial-within-revision", "partial-within-revision"]
    assert (notes.notes(), report.after) == (ROWS, ("r1",))


@pytest.mark.long
async def test_a_retry_that_succeeds_has_recovered(notes: Application) -> None:
    mended = notes.root / "mended"

    class Mending:
        @hookimpl
        def on_failure(self) -> None:
            mended.touch()

    notes.deploy(f"import os\nif not os.path.exists({str(mended)!r}):" + indent(HALF_WAY, "    "))
    strategy = ("backup-restore", {"then": "retry"})
    (report,) = (await notes.start(strategy, plugins=[Mending()])).targets
    assert (report.outcome, report.attempts, report.after) == ("recovered", 2, ("r2",))
    assert notes.notes() == ROWS


@pytest.mark.long
async def test_it_aborts_before_the_next_is_asked_when_told_to(notes: Application) -> None:
    notes.deploy(HALF_WAY)
    after = Next()
    await failed(notes, ("backup-restore", {"then": "abort"}), after)
    assert notes.notes() == ROWS
    assert after.asked == []


async def test_a_copy_that_cannot_be_made_stops_the_migration(file_notes: Application) -> None:
    file_notes.deploy(COMMITS)
    (file_notes.root / "no-folder").write_text("a file")
    folder = file_notes.root / "no-folder" / "copies"
    report = await failed(file_notes, ("backup-restore", {"folder": folder}))
    assert [failure.kind for failure in report.failures] == ["hook"]
    assert "before_migrate of backup-restore" in report.failures[0].message
    assert (file_notes.notes(), file_notes.heads) == (ROWS, {"r1"})


async def test_others_are_disconnected_for_a_copy_only_when_that_was_asked_for(
    tmp_path: Path, postgres_url: str
) -> None:
    notes = Application(tmp_path, postgres_url)
    notes.deploy(COMMITS)
    other = await asyncpg.connect(postgres_url.replace("+asyncpg", ""))
    report = await failed(notes, "backup-restore")
    assert [failure.kind for failure in report.failures] == ["hook"]
    assert "do what the refusal says" in report.failures[0].advice
    assert (notes.notes(), await other.fetchval("SELECT 1")) == (ROWS, 1)
    result = await notes.start(("backup-restore", {"disconnect_others": True}))
    assert (result.outcome, notes.notes(notes.seen.snapshot)) == ("migrated", ROWS)
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError)):
        await other.fetchval("SELECT 1")


@pytest.mark.parametrize("others", [False, True])
async def test_what_a_restore_replaces_in_wal_mode_is_kept_only_where_others_wrote(
    file_notes: Application, others: bool
) -> None:
    """Where its log is in the file already, SQLite begins it anew with what comes next."""

    class Other:
        @hookimpl
        def on_failure(self) -> None:
            if others:
                file_notes.execute("INSERT INTO notes VALUES (10, 'of somebody else')")

    file_notes.execute(
        "PRAGMA journal_mode = WAL",
        "CREATE TABLE much AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
        "WHERE i < 5000) SELECT randomblob(1500) AS bytes FROM n",
    )
    file_notes.deploy(MUCH)
    report = await failed(file_notes, "backup-restore", plugins=[Other()])
    assert file_notes.notes() == ROWS
    kept = [path.name for path in file_notes.root.glob("*.replaced-*")]
    told = [note for note in report.notes if "what others wrote meanwhile" in note]
    assert (len(kept), len(told)) == ((1, 1) if others else (0, 0))


@pytest.mark.parametrize("disconnect_others", [False, True])
@pytest.mark.parametrize("copy", ["template", "dump"])
async def test_rows_of_others_who_came_and_left_while_it_was_migrated_are_where_a_note_says(
    tmp_path: Path, postgres_url: str, copy: str, disconnect_others: bool
) -> None:
    notes = Application(tmp_path, postgres_url)

    class Other:
        @hookimpl
        def on_failure(self) -> None:
            notes.execute("INSERT INTO notes VALUES (10, 'of somebody else')")

    notes.deploy(HALF_WAY)
    options = {"copy": copy, "folder": tmp_path / "dumps", "disconnect_others": disconnect_others}
    report = await failed(notes, ("backup-restore", options), plugins=[Other()])
    assert notes.notes() == ROWS
    (said,) = [note for note in report.notes if "what others wrote meanwhile, is in" in note]
    kept = said.rpartition(" is in ")[2]
    if copy == "template":
        assert notes.notes(kept) == [ROWS[1], (10, "of somebody else")]
    else:
        command = ["pg_restore", "-a", "-t", "notes", "-f", "-", kept]
        rows = await asyncio.to_thread(subprocess.check_output, command, text=True)
        assert "10\tof somebody else\n" in rows


async def test_a_role_that_may_create_no_database_has_its_dump_put_back(
    tmp_path: Path, postgres_server: Server, postgres_url: str
) -> None:
    name = str(make_url(postgres_url).database)
    postgres_server.execute(f"create role {name} login")
    postgres_server.execute(f"alter database {name} owner to {name}")
    try:
        owned = make_url(postgres_url).set(username=name).render_as_string(hide_password=False)
        notes = Application(tmp_path, owned)
        notes.deploy(GOOD, HALF_WAY)
        report = await failed(notes, ("backup-restore", {"folder": tmp_path / "dumps"}))
        assert report.failures[0].state == "partial-within-revision"
        assert (notes.notes(), notes.heads) == (ROWS, {"r1"})
        assert notes.tables == {"notes", "alembic_version"}
        assert str(notes.seen.snapshot).endswith(".dump")
    finally:
        postgres_server.drop_all(name)
        postgres_server.execute(f"drop role {name}")


async def test_a_restore_that_fails_ends_the_search(file_notes: Application) -> None:
    class Thief:
        @hookimpl
        def on_failure(self, run: Run) -> None:
            assert run.taken is not None
            Path(run.taken.place).unlink()

    file_notes.deploy(HALF_WAY)
    after = Next()
    report = await failed(
        file_notes, ("backup-restore", {"then": "continue"}), after, plugins=[Thief()]
    )
    assert after.asked == []
    assert any("on_failure of backup-restore raised RefusedError" in n for n in report.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"snapshot": "never"}, "snapshot must be 'auto' or 'always', not 'never'"),
        ({"then": "purge"}, "then must be one of pass, retry, continue, abort, not 'purge'"),
        ({"keep": 0}, "keep must be a whole number from 1 up or None, not 0"),
        ({"keep": True}, "keep must be a whole number"),
        ({"copy": "tar"}, "copy must be one of auto, template, dump, not 'tar'"),
        ({"copy": "dump"}, "copy='dump' needs a folder"),
        ({"binaries": 3}, "binaries must be a path or None, not 3"),
        ({"repeatable": "r2"}, "repeatable must be a list of revision ids, not 'r2'"),
        ({"repeatable": [2]}, "repeatable must be a list of revision ids"),
        ({"max_age": 0}, "max_age must be a timedelta or days above zero"),
        ({"max_age": "30"}, "max_age must be a timedelta or days above zero, not '30'"),
        ({"folder": 3}, "folder must be a path or None, not 3"),
        ({"disconnect_others": "no"}, "disconnect_others must be True or False, not 'no'"),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_right(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        BackupRestore(**options)


async def test_a_wrong_option_stops_the_run_before_anything_is_done(notes: Application) -> None:
    notes.deploy(GOOD)
    with pytest.raises(PluginError, match="'backup-restore' of .* refuses its options"):
        await notes.start(("backup-restore", {"keep": -1}))
    assert notes.heads == {"r1"}
