"""What becomes of ten megabytes in a SQLite file when something is wrong: never a row is lost."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from support.alembic_projects import query, tables
from support.notes_application import BROKEN, GOOD, HALF_WAY, ROWS, UNIQUE, Application, set_aside

from automigrator import Event, MigrationError, Migrator, Run, Target, TargetReport, hookimpl
from automigrator.backends.sqlite import backup, journal, reader, side
from automigrator.backends.sqlite.companions import journal_path

pytestmark = [
    pytest.mark.plugins,
    pytest.mark.long(
        "[delete]",
        "[change0]",
        "waits_for_a_writer",
        "nothing_is_kept",
        "is_watched",
        "open_through_a_restore",
        "fresh_database_was_built",
        "set_aside_refuses",
        "with_one[text]",
        "with_one[random",
        "with_one[truncated",
        "read_only_folder",
        "again_and_again",
        "damaged_before",
        "that_a_full_disk_stops",
        "locked_file_is_waited",
        "rows_that_others_wrote",
        "fails_its_check",
        "another_release_is_refused[change1",
        "fills_up_during_a_snapshot",
        "too_little_room",
        "zero_byte",
        "bad_page",
        "remains_of_killed",
        "touched[change1",
    ),
]

GROWS = """
op.execute("CREATE TABLE growing (x)")
op.execute("INSERT INTO growing WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
           "WHERE i < 70) SELECT randomblob(1000000) FROM n")
"""
SCANS = 'op.execute("CREATE TABLE sums AS SELECT sum(length(x)) AS s FROM bulk")'
HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
connection.execute(sys.argv[2])
print("in", flush=True)
sys.stdin.read()
"""


def checksums(path: Path | str) -> dict[str, str]:
    """A checksum of the rows of every table."""
    url = f"sqlite:///{path}"
    found = {}
    for table in sorted(tables(url)):
        rows = query(url, f'SELECT * FROM "{table}" ORDER BY rowid')
        found[table] = hashlib.sha256("\n".join(map(repr, rows)).encode()).hexdigest()
    return found


def fill(application: Application, mebibytes: int = 10) -> None:
    application.execute(
        "CREATE TABLE bulk (id INTEGER PRIMARY KEY, x BLOB)",
        "INSERT INTO bulk WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
        f"WHERE i < {mebibytes * 256}) SELECT i, randomblob(4000) FROM n",
    )


@dataclass
class Disk:
    """A small file system of the test's own."""

    root: Path
    filler: Path = field(init=False)

    def __post_init__(self) -> None:
        self.filler = self.root / "somebody-elses"

    def fill(self, but: int) -> None:
        """Leave so many bytes free."""
        self.empty()
        with self.filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(self.root).free - but)

    def empty(self) -> None:
        self.filler.unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    root = tmp_path / "disk"
    root.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "automigrator-test", str(root)]
    mount = shutil.which("mount")
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system of the test's own can only be mounted by root")
    try:
        yield Disk(root)
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


def started_on(root: Path) -> Application:
    application = Application(root, f"sqlite+aiosqlite:///{root / 'app.db'}")
    fill(application)
    return application


@pytest.fixture
def notes(tmp_path: Path) -> Application:
    return started_on(tmp_path)


@pytest.fixture
def live(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


async def failed(notes: Application, *recovery: Any, **options: Any) -> TargetReport:
    with pytest.raises(MigrationError) as info:
        await notes.start(*recovery, **options)
    return info.value.report.targets[0]


def said(report: TargetReport) -> str:
    return "\n".join([*report.notes, *map(str, report.failures)])


def files(folder: Path) -> set[str]:
    """What is kept beside the database, the records of its starts apart."""
    ours = {"app.db", "app.db.automigrator-lock", "app.db.automigrator-record.json"}
    return {p.name for p in folder.glob("app.db*")} - ours


class First:
    """An in-house plugin, asked before the strategies: acts at the first failure and passes."""

    def __init__(self, act: Callable[[Run], object]) -> None:
        self.act = act

    @hookimpl
    def on_failure(self, run: Run) -> None:
        if run.attempt == 1:
            self.act(run)


@contextmanager
def held_by_another_process(path: Path, statement: str) -> Iterator[None]:
    command = [sys.executable, "-c", HOLD, str(path), statement]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"in\n"
            yield
        finally:
            process.kill()


# a full disk


async def test_too_little_room_for_a_snapshot_stops_the_migration_and_says_how_much(
    disk: Disk,
) -> None:
    notes = started_on(disk.root)
    notes.deploy(GOOD)
    before = checksums(disk.root / "app.db")
    disk.fill(but=15_000_000)
    report = await failed(notes, ("backup-restore", {"snapshot": "always"}))
    (failure,) = report.failures
    assert (failure.kind, failure.state, report.failed_starts) == ("disk-full", "clean", 0)
    assert said(report).count("bytes free, there are") == 1 and ".py:" not in said(report)
    assert failure.advice == "free disk space, then start again"
    assert checksums(disk.root / "app.db") == before and files(disk.root) == set()


async def test_a_disk_that_fills_up_during_a_snapshot_stops_the_migration(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = started_on(disk.root)
    notes.deploy(GOOD)
    before = checksums(disk.root / "app.db")
    disk.fill(but=3_000_000)
    # as if somebody took the room after it was looked at
    monkeypatch.setattr(backup.files, "ensure_space", lambda *_: None)
    report = await failed(notes, ("backup-restore", {"snapshot": "always"}))
    assert [failure.kind for failure in report.failures] == ["disk-full"]
    assert "full" in said(report)
    assert checksums(disk.root / "app.db") == before and files(disk.root) == set()
    disk.empty()
    result = await notes.start(("backup-restore", {"snapshot": "always"}))
    assert result.outcome == "migrated"


async def test_a_disk_that_fills_up_while_the_old_data_is_set_aside_refuses_the_purge(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = started_on(disk.root)
    notes.deploy(UNIQUE)
    before = checksums(disk.root / "app.db")
    disk.fill(but=3_000_000)
    report = await failed(notes, ("purge", {"also": ["bulk"]}))
    assert "not purged" in said(report) and "bytes free, there are" in said(report)
    monkeypatch.setattr(side, "_ensure_space", lambda *_, **__: None)
    report = await failed(notes, ("purge", {"also": ["bulk"]}))
    assert "not purged" in said(report) and "was not touched" in said(report)
    assert checksums(disk.root / "app.db") == before and files(disk.root) == set()


@pytest.mark.parametrize("mode", ["delete", "wal"])
async def test_a_restore_that_a_full_disk_stops_is_finished_by_the_next_start(
    disk: Disk, mode: str
) -> None:
    notes = started_on(disk.root)
    notes.execute(f"PRAGMA journal_mode={mode}")
    notes.deploy(HALF_WAY)
    before = checksums(disk.root / "app.db")
    report = await failed(
        notes, "backup-restore", plugins=[First(lambda run: disk.fill(but=1_000_000))]
    )
    assert "on_failure of backup-restore raised" in said(report) and "full" in said(report)
    assert journal.read(disk.root / "app.db") is not None
    report = await failed(notes, "backup-restore")
    assert report.failures[-1].kind == "disk-full" and "bytes free, there are" in said(report)
    assert "nothing to restore" not in said(report)
    disk.empty()
    report = await failed(notes)  # HALF_WAY is still deployed
    assert "put back" in said(report)
    (snapshot,) = disk.root.glob("*.snapshot-*")
    assert checksums(snapshot) == before


@pytest.mark.long
async def test_a_disk_that_a_migration_fills_up_costs_no_row_and_is_no_reason_to_purge(
    disk: Disk,
) -> None:
    notes = started_on(disk.root)
    notes.deploy(GROWS)
    before = checksums(disk.root / "app.db")
    report = await failed(notes, "purge")
    assert [(f.kind, f.state) for f in report.failures] == [("disk-full", "clean")]
    assert report.failures[0].advice == "free disk space, then start again"
    assert checksums(disk.root / "app.db") == before and files(disk.root) == set()


@pytest.mark.long
async def test_a_file_that_may_not_grow_is_no_reason_to_purge(
    notes: Application, live: Path
) -> None:
    resource = pytest.importorskip("resource")
    before = checksums(live)
    notes.deploy(GROWS)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000_000, hard))
    try:
        report = await failed(notes, "purge")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [(f.kind, f.state) for f in report.failures] == [("unreachable", "clean")]
    assert checksums(live) == before


# a folder that cannot be written to

READ_ONLY = """
import asyncio, email.parser, importlib, json, os, pkgutil, sys
import aiosqlite, alembic.command, automigrator, automigrator_backup_restore, automigrator_purge
# another user may be unable to read the interpreter's own modules
for each in pkgutil.walk_packages(automigrator.__path__, "automigrator."):
    if "testing" not in each.name:
        importlib.import_module(each.name)
from automigrator import MigrationError, Migrator, Target
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
target = Target(sys.argv[1], sys.argv[2])
migrator = Migrator(target, mode="migrate", recovery=["backup-restore", "purge"])
try:
    report = asyncio.run(migrator.run())
except MigrationError as error:
    report = error.report
print(json.dumps(report.to_dict()["targets"][0]))
"""


def test_a_read_only_folder_is_said_to_be_one_and_a_current_database_needs_no_other() -> None:
    with tempfile.TemporaryDirectory() as name:  # others may not enter pytest's own folders
        root = Path(name)
        notes = started_on(root)
        root.chmod(0o555)
        found = []
        try:
            for upgrade in (None, GOOD):
                if upgrade:
                    root.chmod(0o755)
                    notes.deploy(upgrade)
                    root.chmod(0o555)
                before = checksums(root / "app.db")
                command = [sys.executable, "-c", READ_ONLY, notes.url, str(notes.config)]
                done = subprocess.run(
                    command, capture_output=True, text=True, cwd="/", timeout=60, check=False
                )
                assert done.returncode == 0, done.stderr
                found.append(json.loads(done.stdout.splitlines()[-1]))
                assert checksums(root / "app.db") == before and files(root) == set()
        finally:
            root.chmod(0o755)
    assert found[0]["outcome"] == "current"
    assert found[1]["outcome"] == "failed"
    assert [failure["kind"] for failure in found[1]["failures"]] == ["read-only"]


@contextmanager
def read_only(disk: Disk) -> Iterator[None]:
    try:
        subprocess.run(["mount", "-o", "remount,ro", str(disk.root)], check=True)
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk.root)], check=True)


async def test_a_wal_file_on_a_read_only_file_system_is_said_to_be_there_and_not_waited_for(
    disk: Disk,
) -> None:
    notes = started_on(disk.root)
    notes.execute("PRAGMA journal_mode=wal")
    notes.deploy(GOOD)
    with read_only(disk):
        report = await failed(notes)
    assert [failure.kind for failure in report.failures] == ["read-only"]
    assert f"tmpfs that is mounted at {disk.root} is mounted read-only" in said(report)


# a copy that cannot be trusted


def clobber(path: Path, at: int = 1 << 20, length: int = 4096 * 8) -> None:
    with path.open("rb+") as file:
        file.seek(at // 4096 * 4096)
        file.write(b"\xff" * length)


async def test_a_snapshot_that_fails_its_check_stops_the_migration(
    notes: Application, live: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = backup.copy

    def damaged(source: Path, destination: Path, **options: Any) -> None:
        copy(source, destination, **options)
        clobber(destination)

    monkeypatch.setattr(backup, "copy", damaged)
    notes.deploy(GOOD)
    before = checksums(live)
    report = await failed(notes, ("backup-restore", {"snapshot": "always"}), "purge")
    assert [failure.kind for failure in report.failures] == ["hook"]
    assert "did not pass its check" in said(report)
    assert checksums(live) == before and files(live.parent) == set()


async def test_a_snapshot_that_is_damaged_before_it_is_needed_is_never_restored(
    notes: Application, live: Path
) -> None:
    sound = live.with_name("sound")

    def damage(run: Run) -> None:
        assert run.taken is not None
        shutil.copy(run.taken.place, sound)
        clobber(Path(run.taken.place))

    before = checksums(live)
    notes.deploy(HALF_WAY)
    report = await failed(notes, "backup-restore", "purge", plugins=[First(damage)])
    assert "it is not what was copied" in said(report)
    half = checksums(live)
    assert half["notes"] != before["notes"] and half["bulk"] == before["bulk"]
    for _ in range(2):
        report = await failed(notes, "backup-restore", "purge")
        assert "cannot be used" in said(report) and "Put that copy, as it was" in said(report)
        assert "a process was killed" not in said(report)
        assert checksums(live) == half
    entry = journal.read(live)
    assert entry is not None
    shutil.copy(sound, entry.snapshot)
    report = await failed(notes)
    assert "put back" in said(report)
    assert checksums(sound) == before


@pytest.mark.parametrize("change", [{"state": "copying"}, {"compressed": True}])
async def test_a_journal_of_another_release_is_refused_and_nothing_touched(
    notes: Application, live: Path, change: dict[str, Any]
) -> None:
    shutil.copy(live, f"{live}.snapshot-a1")
    entry = {"state": "migrating", "snapshot": f"{live}.snapshot-a1", "before": [], "after": []}
    text_of_it = json.dumps({**entry, "at": 1.0, **change})
    journal_path(live).write_text(text_of_it)
    before = checksums(live)
    for deployed in (None, UNIQUE):
        if deployed:
            notes.deploy(deployed)
        report = await failed(notes, "backup-restore", "purge")
        assert [failure.kind for failure in report.failures] == ["unreachable"]
        assert "If another release of automigrator wrote it, start that one" in said(report)
    assert checksums(live) == before
    assert journal_path(live).read_text() == text_of_it
    assert not (await Migrator(notes.target()).check()).current


# others at the same file


@pytest.mark.parametrize("mode", ["delete", "wal"])
async def test_a_restore_waits_for_a_writer_with_a_limit_and_the_next_start_finishes(
    notes: Application, live: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("automigrator.backends.sqlite.copying.overwrite.WAIT_S", 0.3)
    notes.execute(f"PRAGMA journal_mode={mode}")
    before = checksums(live)
    notes.deploy(HALF_WAY)
    writer = held_by_another_process(live, "BEGIN IMMEDIATE")
    report = await failed(
        notes, "backup-restore", "purge", plugins=[First(lambda run: writer.__enter__())]
    )
    writer.__exit__(None, None, None)
    assert "End that connection's transaction, then try again" in said(report)
    half = checksums(live)
    assert half["bulk"] == before["bulk"]
    report = await failed(notes, ("backup-restore", {"then": "abort"}))
    assert "put back" in said(report)
    assert (checksums(live), notes.notes()) == (before, ROWS)


@pytest.mark.parametrize("mode", ["delete", "wal"])
async def test_rows_that_others_wrote_during_a_migration_are_kept_when_it_is_undone(
    notes: Application, live: Path, mode: str
) -> None:
    notes.execute(f"PRAGMA journal_mode={mode}")
    before = checksums(live)
    notes.deploy(HALF_WAY)
    late = "INSERT INTO notes VALUES (77, 'acknowledged')"
    report = await failed(notes, "backup-restore", plugins=[First(lambda run: notes.execute(late))])
    assert "with it what others wrote meanwhile, is in" in said(report)
    (kept,) = live.parent.glob("*.replaced-*")
    assert (77, "acknowledged") in notes.notes(str(kept))
    assert checksums(live) == before


async def test_a_file_that_is_watched_for_others_cannot_be_taken_out_of_wal(
    notes: Application, live: Path
) -> None:
    notes.execute("PRAGMA journal_mode=wal")
    before = checksums(live)
    leaves = 'op.execute("PRAGMA journal_mode=DELETE")'
    notes.deploy(f"with op.get_context().autocommit_block():\n    {leaves}")
    report = await failed(notes, "backup-restore")
    assert report.failures[0].kind == "lock-timeout"
    assert checksums(live) == before
    assert (await notes.start()).outcome == "migrated"


class WritesAsAFreshDatabaseIsBuilt:
    """Somebody who writes to the live file at the first revision of a rebuild."""

    def __init__(self, notes: Application) -> None:
        self.notes = notes
        self.building = False

    @hookimpl
    def on_event(self, event: Event) -> None:
        if event.name == "recreate-started":
            self.building = True
        elif event.name == "revision-started" and self.building:
            self.building = False
            self.notes.execute("INSERT INTO notes VALUES (77, 'acknowledged')")


@pytest.mark.parametrize("mode", ["delete", "wal"])
async def test_rows_that_others_wrote_while_a_fresh_database_was_built_are_kept_when_that_fails(
    notes: Application, live: Path, mode: str
) -> None:
    """The revisions that run on the side are no reason to take a write to the live file for own."""
    notes.execute(f"PRAGMA journal_mode={mode}")
    before = checksums(live)
    notes.deploy(HALF_WAY)
    others = WritesAsAFreshDatabaseIsBuilt(notes)
    report = await failed(notes, "purge", "backup-restore", plugins=[others])
    assert "not purged" in said(report)
    assert "with it what others wrote meanwhile, is in" in said(report)
    (kept,) = live.parent.glob("*.replaced-*")
    assert (77, "acknowledged") in notes.notes(str(kept))
    assert checksums(live) == before


@pytest.mark.parametrize("mode", ["delete", "wal"])
async def test_nothing_is_kept_of_a_migration_that_is_undone_when_nobody_else_wrote(
    notes: Application, live: Path, mode: str
) -> None:
    notes.execute(f"PRAGMA journal_mode={mode}")
    before = checksums(live)
    notes.deploy(HALF_WAY)
    await failed(notes, "backup-restore")
    assert checksums(live) == before
    assert not list(live.parent.glob("*.replaced-*"))


@pytest.mark.parametrize("mode", ["delete", "wal"])
async def test_connections_open_through_a_restore_see_the_restored_rows_and_write_on(
    notes: Application, live: Path, mode: str
) -> None:
    notes.execute(f"PRAGMA journal_mode={mode}")
    before = checksums(live)
    notes.deploy(HALF_WAY)
    engine = create_async_engine(notes.url, pool_size=3)
    idle = [await engine.connect() for _ in range(2)]
    async with engine.connect() as held:
        await held.execute(text("SELECT count(*) FROM notes"))
        await held.rollback()
        for each in idle:
            await each.execute(text("SELECT count(*) FROM bulk"))
            await each.close()
        migrator = Migrator(
            Target(engine, notes.config), mode="migrate", recovery=["backup-restore"]
        )
        with pytest.raises(MigrationError):
            await migrator.run()
        assert checksums(live) == before
        rows = (await held.execute(text("SELECT id, text FROM notes ORDER BY id"))).all()
        assert [tuple(row) for row in rows] == ROWS
        await held.execute(text("INSERT INTO notes VALUES (9, 'eggs')"))
        await held.commit()
    await engine.dispose()
    assert (9, "eggs") in notes.notes()


async def test_a_locked_file_is_waited_for_with_a_limit_and_never_taken_for_a_corrupt_one(
    notes: Application, live: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BUSY_S", 0.2)
    before = checksums(live)
    notes.deploy(UNIQUE)
    with held_by_another_process(live, "BEGIN EXCLUSIVE"):
        report = await failed(notes, "purge")
    assert [failure.kind for failure in report.failures] == ["lock-timeout"]
    assert "kept it locked" in said(report)
    assert checksums(live) == before and files(live.parent) == set()


# damage


def content(path: Path) -> bytes:
    return path.read_bytes()


def overwrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)


WHOLE_FILE = {
    "text": lambda whole: b"this is not a database\n" * 1000,
    "random bytes": lambda whole: os.urandom(50_000),
    "bad magic": lambda whole: b"XXXXXX" + whole[6:],
    "truncated": lambda whole: whole[: len(whole) // 2],
}


@pytest.mark.parametrize("how", WHOLE_FILE)
async def test_a_corrupt_file_is_untouched_without_a_purge_and_aside_byte_for_byte_with_one(
    notes: Application, live: Path, how: str
) -> None:
    damaged = WHOLE_FILE[how](content(live))
    overwrite(live, damaged)
    report = await failed(notes, "backup-restore")
    assert [failure.kind for failure in report.failures] == ["corrupt"]
    assert report.failures[0].advice.startswith("restore a backup")
    assert content(live) == damaged
    (report,) = (await notes.start("backup-restore", "purge")).targets
    assert report.outcome == "recovered"
    assert content(Path(set_aside(report))) == damaged


async def test_a_bad_page_is_found_by_the_revision_that_reads_it_and_set_aside_as_it_is(
    notes: Application, live: Path
) -> None:
    clobber(live, at=4 << 20)
    damaged = content(live)
    assert (await notes.start("purge")).outcome == "current"  # nobody has read it
    notes.deploy(SCANS)
    report = await failed(notes, "backup-restore")
    assert [failure.kind for failure in report.failures] == ["corrupt"]
    assert content(live) == damaged
    notes.deploy()
    report = await failed(notes, ("backup-restore", {"snapshot": "always"}))
    assert [failure.kind for failure in report.failures] == ["corrupt"]
    assert "the check of its snapshot has found it" in said(report)
    assert content(live) == damaged


async def test_a_zero_byte_file_is_an_empty_database(notes: Application, live: Path) -> None:
    overwrite(live, b"")
    (report,) = (await notes.start("backup-restore", "purge")).targets
    assert (report.outcome, report.before, report.after) == ("migrated", (), ("r1",))


async def test_a_zero_byte_file_beside_an_open_journal_gets_its_rows_back(
    notes: Application, live: Path
) -> None:
    before = checksums(live)
    snapshot = live.with_name("app.db.snapshot-a1")
    backup.copy(live, snapshot)
    journal.write(live, journal.Entry("migrating", ("r1",), ("r2",), str(snapshot), 1.0))
    overwrite(live, b"")
    (report,) = (await notes.start()).targets
    assert "put back" in said(report)
    assert checksums(live) == before


# starts that fail again and again


async def test_a_start_that_fails_again_and_again_keeps_one_copy(
    notes: Application, live: Path
) -> None:
    before = checksums(live)
    for failing in (HALF_WAY, BROKEN):
        notes.deploy(failing)
        for _ in range(3):
            await failed(notes, ("backup-restore", {"snapshot": "always"}))
    (snapshot,) = live.parent.glob("*.snapshot-*")
    assert checksums(snapshot) == before == checksums(live)


async def test_the_remains_of_killed_copies_are_removed_and_nothing_else(
    notes: Application, live: Path
) -> None:
    folder = live.with_name("copies")
    strategy = ("backup-restore", {"snapshot": "always", "folder": str(folder)})
    notes.deploy(GOOD)
    await notes.start(strategy)
    (ours,) = folder.iterdir()
    left = [
        live.with_name("app.db.snapshot-20260101T000000000000Z.partial"),
        live.with_name("app.db.snapshot-20260101T000000000000Z.partial-journal"),
        live.with_name("app.db.corrupt-20260101T000000Z-2-wal.partial"),
        live.with_name("app.db.automigrator-new"),
        live.with_name("app.db.automigrator-new.partial-journal"),
        live.with_name("app.db.automigrator-works-with.json.tmp"),
        folder / f"{ours.name}-2.partial",
    ]
    theirs = [
        live.with_name("app.db.snapshot-mine.partial"),
        live.with_name("other.db.snapshot-20260101T000000000000Z.partial"),
        folder / "app.db.snapshot-20260101T000000000000Z.partial",
    ]
    for path in (*left, *theirs):
        path.write_text("x")
    notes.deploy('op.execute("SELECT 1")')
    await notes.start(strategy)
    assert [p for p in left if p.exists()] == []
    assert all(p.exists() for p in theirs)
