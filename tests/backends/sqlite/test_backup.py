"""Copies of real SQLite files, with real connections in the way."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.sqlite_files import (
    MODES,
    busy_writer,
    change,
    checksum,
    connect,
    journal_mode,
    make,
    names,
    version,
    waiting,
)

from automigrator.backends.sqlite import backup, reader


class Slow(sqlite3.Connection):
    """Leaves room for a writer between the steps of a backup, and knows them."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seen: list[tuple[int, int]] = []

    def backup(self, target: Any, *, progress: Any, **options: Any) -> None:  # type: ignore[override]
        def step(status: int, remaining: int, total: int) -> None:
            progress(status, remaining, total)
            self.seen.append((total - remaining, total))
            time.sleep(0.01)

        super().backup(target, progress=step, **options)


@pytest.mark.long("[delete")
@pytest.mark.parametrize("mode", MODES)
def test_a_copy_holds_the_same_rows_and_has_no_sidecars(tmp_path: Path, mode: str) -> None:
    live = make(tmp_path / "app.db", mode)
    with closing(connect(live)) as application:
        application.execute("UPDATE item SET n = 7 WHERE id = 5")  # in WAL mode, only in the WAL
        backup.copy(live, tmp_path / "copy.db")
        assert application.execute("SELECT n FROM item WHERE id = 5").fetchone() == (7,)
    assert names(tmp_path) == ["app.db", "copy.db"]
    assert journal_mode(tmp_path / "copy.db") == "delete"
    assert journal_mode(live) == mode
    assert checksum(tmp_path / "copy.db") == checksum(live)
    assert names(tmp_path) == ["app.db", "copy.db"]


@pytest.mark.long("wal-thread", "delete-process", "delete-thread")
@pytest.mark.parametrize("where", ["thread", "process"])
@pytest.mark.parametrize("mode", MODES)
def test_a_copy_under_a_busy_writer_is_consistent_and_does_not_starve(
    tmp_path: Path, mode: str, where: str
) -> None:
    live = make(tmp_path / "app.db", mode)
    with busy_writer(live, where):
        for number in range(3):
            destination = tmp_path / f"copy{number}.db"
            with closing(sqlite3.connect(live, 0, isolation_level=None, factory=Slow)) as through:
                backup.copy(live, destination, through=through)
                seen = through.seen
            assert reader.verify(destination) == ("a1",)
            with closing(connect(destination)) as connection:
                rows = connection.execute("SELECT n FROM item WHERE id IN (1, 3000)").fetchall()
            assert rows[0] == rows[1]
            total = seen[-1][1]
            steps = -(-total // backup.PAGES_A_STEP)
            assert len(seen) == steps, "it started again"
            assert seen[-1] == (total, total)


def test_a_copy_never_overwrites(tmp_path: Path) -> None:
    live = make(tmp_path / "app.db", rows=5)
    taken = tmp_path / "copy.db"
    taken.write_text("precious")
    with pytest.raises(FileExistsError):
        backup.copy(live, taken)
    assert taken.read_text() == "precious"
    with pytest.raises(FileNotFoundError):
        backup.copy(tmp_path / "absent.db", tmp_path / "other.db")
    assert names(tmp_path) == ["app.db", "copy.db"]


@pytest.mark.long("[delete")
@pytest.mark.parametrize("mode", MODES)
def test_a_cancelled_copy_leaves_nothing(tmp_path: Path, mode: str) -> None:
    live = make(tmp_path / "app.db", mode)
    answers = iter([False, False, True])  # before the first step, and after each
    with pytest.raises(reader.Cancelled):
        backup.copy(live, tmp_path / "copy.db", cancelled=lambda: next(answers))
    assert list(answers) == [] and names(tmp_path) == ["app.db"]


def test_a_copy_of_a_locked_database_times_out_and_leaves_nothing(tmp_path: Path) -> None:
    live = make(tmp_path / "app.db", rows=5)
    with closing(connect(live)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        started = time.monotonic()
        with (
            waiting(0.3),
            pytest.raises(TimeoutError, match=r"app\.db could not be read: another connection"),
        ):
            backup.copy(live, tmp_path / "copy.db")
        assert 0.3 <= time.monotonic() - started < 3
        with pytest.raises(reader.Cancelled):
            backup.copy(live, tmp_path / "copy.db", cancelled=lambda: True)
        holder.execute("ROLLBACK")
    assert names(tmp_path) == ["app.db"]


def test_a_copy_waits_for_a_lock_that_goes_away(tmp_path: Path) -> None:
    live = make(tmp_path / "app.db", rows=5)
    with closing(connect(live)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        timer = threading.Timer(0.2, lambda: holder.execute("ROLLBACK"))
        timer.start()
        backup.copy(live, tmp_path / "copy.db")
        timer.join()
    assert checksum(tmp_path / "copy.db") == checksum(live)


@pytest.mark.long
def test_a_killed_copy_never_appears_under_its_name(tmp_path: Path) -> None:
    live = make(tmp_path / "app.db")
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from automigrator.backends.sqlite import backup\n"
        "asked = []\n"
        "def kill():\n"
        "    asked.append(1)\n"
        "    if len(asked) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "backup.copy(Path(sys.argv[1]), Path(sys.argv[2]), cancelled=kill)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(backup.__file__).parents[3])}
    arguments = [sys.executable, "-c", code, str(live), str(tmp_path / "copy.db")]
    assert subprocess.run(arguments, env=environment, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "copy.db").exists()
    backup.copy(live, tmp_path / "copy.db")
    assert names(tmp_path) == ["app.db", "copy.db"]
    assert checksum(tmp_path / "copy.db") == checksum(live)


def test_a_copy_is_as_private_as_its_source(tmp_path: Path) -> None:
    live = make(tmp_path / "app.db", rows=5)
    live.chmod(0o640)
    backup.copy(live, tmp_path / "copy.db")
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs other groups")
@pytest.mark.parametrize(("member", "group", "rights"), [(True, 3333, 0o660), (False, 0, 0o600)])
def test_a_copy_of_somebody_elses_file_is_for_no_other_group(
    member: bool, group: int, rights: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = make(tmp_path / "app.db", rows=5)
    os.chown(live, 1111, 3333)
    live.chmod(0o660)
    fchown = os.fchown

    def by_one_who_is_not_root(descriptor: int, user: int, group: int) -> None:
        if user != -1 or not member:
            raise PermissionError(errno.EPERM, "not permitted")
        fchown(descriptor, user, group)

    monkeypatch.setattr(os, "fchown", by_one_who_is_not_root)
    backup.copy(live, tmp_path / "copy.db")

    found = (tmp_path / "copy.db").stat()
    assert (found.st_gid, found.st_mode & 0o777) == (group, rights)


def test_names_with_uri_characters_are_only_names(tmp_path: Path) -> None:
    live = make(tmp_path / "a?mode=memory&x#y%20 é.db", rows=5)
    backup.copy(live, tmp_path / "c?o#p%y.db")
    assert reader.verify(tmp_path / "c?o#p%y.db") == ("a1",)
    change(live)
    backup.restore(tmp_path / "c?o#p%y.db", live)
    assert version(live) == ("a1",)
