"""A snapshot is put back over a real SQLite file, with real connections in the way."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from support.sqlite_files import (
    DAMAGE,
    MODES,
    change,
    checksum,
    connect,
    damage,
    journal_mode,
    make,
    names,
    version,
    waiting,
)

from automigrator.backends.sqlite import backup, reader


@pytest.mark.long("[delete")
@pytest.mark.parametrize("mode", MODES)
def test_a_pooled_connection_opened_before_a_restore_sees_the_restored_data(
    tmp_path: Path, mode: str
) -> None:
    live = make(tmp_path / "app.db", mode)
    expected, inode = checksum(live), live.stat().st_ino
    snapshot = tmp_path / "snapshot.db"
    backup.copy(live, snapshot)
    change(live)
    with closing(connect(live)) as pooled:
        assert pooled.execute("SELECT version_num FROM alembic_version").fetchone() == ("b2",)
        backup.restore(snapshot, live)
        assert pooled.execute("SELECT version_num FROM alembic_version").fetchone() == ("a1",)
        pooled.execute("UPDATE alembic_version SET version_num = 'c3'")  # and still writes
    assert checksum(live) == expected and version(live) == ("c3",)
    assert live.stat().st_ino == inode
    assert journal_mode(live) == mode
    assert reader.verify(live) == ("c3",)
    assert names(tmp_path) == ["app.db", "snapshot.db"]


@pytest.mark.parametrize("mode", MODES)
def test_an_open_writer_blocks_a_restore_and_the_live_file_is_untouched(
    tmp_path: Path, mode: str
) -> None:
    live = make(tmp_path / "app.db", mode, rows=50)
    snapshot = tmp_path / "snapshot.db"
    backup.copy(live, snapshot)
    change(live)
    changed = checksum(live)
    with closing(connect(live)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE item SET n = 9 WHERE id = 1")
        with (
            waiting(0.3),
            pytest.raises(TimeoutError, match=r"app\.db could not be overwritten: another conn"),
        ):
            backup.restore(snapshot, live)
        writer.execute("ROLLBACK")
        assert checksum(live) == changed and version(live) == ("b2",)
        backup.restore(snapshot, live)
    assert version(live) == ("a1",)


def test_a_writer_in_another_process_blocks_a_restore_until_it_is_gone(tmp_path: Path) -> None:
    live = make(tmp_path / "app.db", "wal", rows=50)
    snapshot = tmp_path / "snapshot.db"
    backup.copy(live, snapshot)
    change(live)
    code = (
        "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('BEGIN IMMEDIATE'); c.execute('DELETE FROM item'); print('in', flush=True)\n"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(live)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with waiting(0.2), pytest.raises(TimeoutError):
            backup.restore(snapshot, live)
        threading.Timer(0.3, process.kill).start()
        with waiting(10):
            backup.restore(snapshot, live)
    assert version(live) == ("a1",) and reader.verify(live) == ("a1",)


@pytest.mark.parametrize("how", [*DAMAGE, "zero bytes"])
@pytest.mark.parametrize("mode", MODES)
def test_a_restore_over_a_damaged_file_brings_the_data_back(
    tmp_path: Path, mode: str, how: str
) -> None:
    live = make(tmp_path / "app.db", mode, rows=200)
    expected = checksum(live)
    snapshot = tmp_path / "snapshot.db"
    backup.copy(live, snapshot)
    damage(live, how)
    backup.restore(snapshot, live)
    assert checksum(live) == expected
    assert reader.verify(live) == ("a1",)
    assert names(tmp_path) == ["app.db", "snapshot.db"]


def test_a_restore_over_a_broken_schema_stays_in_place(tmp_path: Path) -> None:
    live = make(tmp_path / "app.db", rows=50)
    snapshot = tmp_path / "snapshot.db"
    backup.copy(live, snapshot)
    with closing(connect(live)) as connection:
        connection.executescript(
            "PRAGMA writable_schema=ON; UPDATE sqlite_master SET sql = 'CREATE nonsense'"
        )
    inode = live.stat().st_ino
    backup.restore(snapshot, live)
    assert reader.verify(live) == ("a1",) and live.stat().st_ino == inode


@pytest.mark.parametrize("mode", MODES)
def test_a_restore_over_other_page_sizes_brings_the_data_back(tmp_path: Path, mode: str) -> None:
    snapshot = make(tmp_path / "snapshot.db", rows=50, page_size=4096)
    live = make(tmp_path / "app.db", mode, rows=5, page_size=8192, version="b2")
    backup.restore(snapshot, live)
    assert checksum(live) == checksum(snapshot) and version(live) == ("a1",)


def test_an_open_writer_blocks_a_restore_over_other_page_sizes_too(tmp_path: Path) -> None:
    snapshot = make(tmp_path / "snapshot.db", rows=50, page_size=4096)
    live = make(tmp_path / "app.db", "wal", rows=5, page_size=8192, version="b2")
    inode = live.stat().st_ino
    with closing(connect(live)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with waiting(0.1), pytest.raises(TimeoutError):
            backup.restore(snapshot, live)
        writer.execute("ROLLBACK")
    assert version(live) == ("b2",) and live.stat().st_ino == inode


def test_a_restore_to_a_missing_file_makes_it(tmp_path: Path) -> None:
    live = make(tmp_path / "app.db", "wal", rows=50)
    snapshot = tmp_path / "snapshot.db"
    backup.copy(live, snapshot)
    live.unlink()
    (tmp_path / "app.db-wal").write_bytes(b"stale")
    backup.restore(snapshot, live)
    assert checksum(live) == checksum(snapshot)
    assert names(tmp_path) == ["app.db", "snapshot.db"]


@pytest.mark.parametrize("how", ["truncated", "text", "zero bytes"])
def test_a_damaged_snapshot_is_never_restored(tmp_path: Path, how: str) -> None:
    live = make(tmp_path / "app.db", rows=50)
    snapshot = make(tmp_path / "snapshot.db", rows=50)
    damage(snapshot, how)
    before = live.read_bytes()
    with pytest.raises(sqlite3.DatabaseError):
        backup.restore(snapshot, live)
    with pytest.raises(FileNotFoundError):
        backup.restore(tmp_path / "absent.db", live)
    assert live.read_bytes() == before
    assert names(tmp_path) == ["app.db", "snapshot.db"]


def test_a_wal_snapshot_is_restored_with_what_is_in_its_wal(tmp_path: Path) -> None:
    live = make(tmp_path / "app.db", rows=50)
    side = make(tmp_path / "side.db", "wal", rows=5, version="s1")
    with closing(connect(side)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 's2'")
        backup.restore(side, live)
    assert version(live) == ("s2",)
    assert names(tmp_path) == ["app.db", "side.db"]
