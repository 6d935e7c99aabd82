"""Copies, restores and replacements of real files, with real connections in the way."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from automigrator.backends.sqlite import backup, files, reader

MODES = ("wal", "delete")
NOW = datetime(2026, 11, 24, 5, 15, tzinfo=UTC)
DAMAGE = ("truncated", "text", "short text", "random", "bad magic")

# two rows on distant pages that are equal at every commit
WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
while True:
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE item SET n = n + 1 WHERE id = 1")
        connection.execute("UPDATE item SET n = n + 1 WHERE id = 3000")
        connection.execute("COMMIT")
    except sqlite3.OperationalError:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    print(connection.execute("SELECT 1").fetchone()[0], flush=True)
"""


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=0, check_same_thread=False)


def make(
    path: Path, mode: str = "delete", rows: int = 3000, page_size: int = 4096, version: str = "a1"
) -> Path:
    with closing(connect(path)) as connection:
        connection.execute(f"PRAGMA page_size={page_size}")
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.executescript(
            "BEGIN; CREATE TABLE item(id INTEGER PRIMARY KEY, n INTEGER, body BLOB);"
            "CREATE TABLE alembic_version(version_num VARCHAR(32) NOT NULL);"
            f"INSERT INTO alembic_version VALUES ('{version}'); COMMIT;"
        )
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO item VALUES (?, 0, ?)",
            ((i, bytes([i % 251]) * 4000) for i in range(1, rows + 1)),
        )
        connection.execute("COMMIT")
    return path


def checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with closing(connect(path)) as connection:
        for row in connection.execute("SELECT * FROM item ORDER BY id"):
            digest.update(repr(row).encode())
    return digest.hexdigest()


def version(path: Path) -> tuple[str, ...]:
    with closing(connect(path)) as connection:
        return tuple(row[0] for row in connection.execute("SELECT * FROM alembic_version"))


def journal_mode(path: Path) -> str:
    with closing(connect(path)) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def change(path: Path) -> None:
    with closing(connect(path)) as connection:
        connection.executescript(
            "UPDATE alembic_version SET version_num = 'b2'; DELETE FROM item WHERE id > 10;"
            "CREATE TABLE extra(x)"
        )


def damage(path: Path, how: str) -> None:
    whole = path.read_bytes()
    path.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "text": b"this is not a database\n" * 1000,
            "short text": b"hello",
            "random": os.urandom(50_000),
            "bad magic": b"XXXXXX" + whole[6:],
            "zero bytes": b"",
        }[how]
    )


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@contextmanager
def busy_writer(path: Path, where: str) -> Iterator[None]:
    if where == "process":
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(5):
                process.stdout.readline()
            drain = threading.Thread(target=process.stdout.read)
            drain.start()
            try:
                yield
                assert process.poll() is None, "the writer died"
            finally:
                process.send_signal(signal.SIGKILL)
                drain.join()
        return

    stop, started = threading.Event(), threading.Event()

    def write() -> None:
        with closing(connect(path)) as connection:
            while not stop.is_set():
                try:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.execute("UPDATE item SET n = n + 1 WHERE id = 1")
                    connection.execute("UPDATE item SET n = n + 1 WHERE id = 3000")
                    connection.execute("COMMIT")
                    started.set()
                except sqlite3.OperationalError:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")

    thread = threading.Thread(target=write)
    thread.start()
    started.wait(10)
    try:
        yield
    finally:
        stop.set()
        thread.join()


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
                backup.copy(live, destination, through=through, wait_s=20)
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
        with pytest.raises(TimeoutError, match=r"app\.db could not be read: another connection"):
            backup.copy(live, tmp_path / "copy.db", wait_s=0.3)
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
        backup.copy(live, tmp_path / "copy.db", wait_s=10)
        timer.join()
    assert checksum(tmp_path / "copy.db") == checksum(live)


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
    chown = os.chown

    def by_one_who_is_not_root(path: Path, user: int, group: int) -> None:
        if user != -1 or not member:
            raise PermissionError(errno.EPERM, "not permitted")
        chown(path, user, group)

    monkeypatch.setattr(os, "chown", by_one_who_is_not_root)
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


@pytest.mark.parametrize("mode", MODES)
def test_verify_reads_the_versions_and_leaves_no_sidecars(tmp_path: Path, mode: str) -> None:
    live = make(tmp_path / "app.db", mode, rows=5)
    with closing(connect(live)) as connection:
        connection.execute("INSERT INTO alembic_version VALUES ('a0')")
        connection.execute('CREATE TABLE "odd ""name"(version_num)')
    before = live.read_bytes()
    assert reader.verify(live) == ("a0", "a1")
    assert reader.verify(live, ['odd "name'], preread=True) == ()
    assert reader.verify(live, ["other"]) == ()
    assert names(tmp_path) == ["app.db"]
    assert live.read_bytes() == before


def test_verify_sees_what_is_only_in_the_wal(tmp_path: Path) -> None:
    live = make(tmp_path / "app.db", "wal", rows=5)
    with closing(connect(live)) as application:
        application.execute("UPDATE alembic_version SET version_num = 'b2'")
        assert reader.verify(live) == ("b2",)
        assert (tmp_path / "app.db-wal").stat().st_size > 0


def test_verify_never_takes_a_locked_database_for_a_damaged_one(tmp_path: Path) -> None:
    live = make(tmp_path / "app.db", rows=5)
    with closing(connect(live)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TimeoutError):
            reader.verify(live, wait_s=0.1)
        holder.execute("ROLLBACK")


@pytest.mark.parametrize("how", [*DAMAGE, "bad leaf"])
def test_verify_raises_on_a_damaged_file(tmp_path: Path, how: str) -> None:
    live = make(tmp_path / "app.db", rows=200)
    if how == "bad leaf":
        with live.open("rb+") as file:
            file.seek(4096 * 100)
            file.write(b"\xff" * 4096)
    else:
        damage(live, how)
    with pytest.raises(sqlite3.DatabaseError) as caught:
        reader.verify(live)
    assert caught.value.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    assert names(tmp_path) == ["app.db"]


def test_verify_raises_on_damage_that_no_query_meets(tmp_path: Path) -> None:
    live = make(tmp_path / "app.db", rows=20)
    with live.open("rb+") as file:
        file.seek(36)  # the header's count of free pages
        file.write((5).to_bytes(4, "big"))
    before = checksum(live)
    with pytest.raises(sqlite3.DatabaseError, match="(?s)is damaged: .*freelist"):
        reader.verify(live)
    assert checksum(live) == before


def test_verify_takes_an_empty_file_for_an_empty_database(tmp_path: Path) -> None:
    (tmp_path / "app.db").touch()
    assert reader.verify(tmp_path / "app.db") == ()


def test_verify_accepts_rows_and_schemas_that_only_the_application_understands(
    tmp_path: Path,
) -> None:
    live = make(tmp_path / "app.db", rows=200)
    with closing(connect(live)) as connection:
        connection.create_collation("mine", lambda a, b: (a > b) - (a < b))
        connection.create_function("fine", 1, lambda x: True, deterministic=True)
        connection.executescript(
            "CREATE TABLE word(w TEXT COLLATE mine PRIMARY KEY, c CHECK (fine(c))) WITHOUT ROWID;"
            "INSERT INTO word VALUES ('a', 1), ('b', 2);"
            "CREATE TABLE loose(x CHECK (x > 5)); PRAGMA ignore_check_constraints=ON;"
            "INSERT INTO loose VALUES (1), (NULL); PRAGMA writable_schema=ON;"
            "UPDATE sqlite_master SET sql = 'CREATE TABLE loose(x NOT NULL)' WHERE name = 'loose'"
        )
    assert reader.verify(live) == ("a1",)
    with live.open("rb+") as file:
        file.seek(4096 * 100)
        file.write(b"\xff" * 4096)
    with pytest.raises(sqlite3.DatabaseError):
        reader.verify(live)


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
        with pytest.raises(TimeoutError, match=r"app\.db could not be overwritten: another conn"):
            backup.restore(snapshot, live, wait_s=0.3)
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
        with pytest.raises(TimeoutError):
            backup.restore(snapshot, live, wait_s=0.2)
        threading.Timer(0.3, process.kill).start()
        backup.restore(snapshot, live, wait_s=10)
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
        with pytest.raises(TimeoutError):
            backup.restore(snapshot, live, wait_s=0.1)
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


def test_replace_takes_the_place_with_its_permissions_and_without_old_sidecars(
    tmp_path: Path,
) -> None:
    live = make(tmp_path / "app.db", rows=50)
    live.chmod(0o600)
    new = make(tmp_path / "new.db", rows=20, version="n1")
    for suffix in files.SIDECARS:
        (tmp_path / f"app.db{suffix}").write_bytes(b"stale")
    (tmp_path / "app.db.automigrator-new").write_bytes(b"left by a kill")
    backup.replace(new, live)
    assert version(live) == ("n1",) and checksum(live) == checksum(new)
    assert names(tmp_path) == ["app.db", "new.db"]
    assert live.stat().st_mode & 0o777 == 0o600


def test_a_log_of_the_old_file_is_not_played_into_the_new_one(tmp_path: Path) -> None:
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    with closing(connect(make(tmp_path / "app.db", "wal", rows=20))) as application:
        application.execute("UPDATE item SET n = 99")  # only in the log
        for suffix in ("", "-wal"):
            shutil.copy(tmp_path / f"app.db{suffix}", crashed / f"app.db{suffix}")
    assert (crashed / "app.db-wal").stat().st_size > 0
    new = make(tmp_path / "new.db", rows=20, version="n1")
    backup.replace(new, crashed / "app.db")
    assert names(crashed) == ["app.db"]  # before anything opens it and tidies up
    assert checksum(crashed / "app.db") == checksum(new)


def test_replace_follows_a_link_to_the_database(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    real = make(tmp_path / "data" / "app.db", rows=5)
    link = tmp_path / "link.db"
    link.symlink_to(real)
    backup.replace(make(tmp_path / "new.db", rows=5, version="n1"), link)
    assert link.is_symlink() and version(real) == ("n1",)


def test_replace_with_a_bad_file_leaves_the_old_one(tmp_path: Path) -> None:
    live = make(tmp_path / "app.db", rows=5)
    (tmp_path / "bad.db").write_text("not a database, long enough to be read as a header" * 20)
    with pytest.raises(sqlite3.DatabaseError):
        backup.replace(tmp_path / "bad.db", live)
    assert version(live) == ("a1",) and names(tmp_path) == ["app.db", "bad.db"]


def test_set_aside_copies_under_a_name_that_says_when_and_why(tmp_path: Path) -> None:
    live = make(tmp_path / "app.db", "wal", rows=50)
    with closing(connect(live)) as application:
        application.execute("UPDATE item SET n = 4 WHERE id = 2")
        first = backup.set_aside(live, "purged", now=NOW)
        later = NOW.astimezone(timezone(timedelta(hours=3)))
        second = backup.set_aside(live, "purged", now=later)
    assert first == tmp_path / "app.db.purged-20261124T051500Z"
    assert second == tmp_path / "app.db.purged-20261124T051500Z-2"
    assert checksum(first) == checksum(second) == checksum(live)
    assert names(tmp_path) == sorted(p.name for p in (live, first, second))


@pytest.mark.parametrize("how", DAMAGE)
def test_set_aside_copies_a_corrupt_file_byte_by_byte_with_its_sidecars(
    tmp_path: Path, how: str
) -> None:
    live = make(tmp_path / "app.db", rows=200)
    damage(live, how)
    (tmp_path / "app.db-wal").write_bytes(b"what is left of the log")
    # SQLite may drop a log that it finds beside a file that is not in WAL mode
    before = live.read_bytes()
    aside = backup.set_aside(live, "purged", now=NOW)
    again = backup.set_aside(live, "purged", now=NOW)
    assert aside == tmp_path / "app.db.corrupt-20261124T051500Z"
    assert again == tmp_path / "app.db.corrupt-20261124T051500Z-2"
    assert aside.read_bytes() == again.read_bytes() == live.read_bytes() == before
    assert (tmp_path / "app.db-wal").exists() == Path(f"{aside}-wal").exists()
    assert not list(tmp_path.glob("*.partial*"))


def test_set_aside_keeps_the_log_of_a_file_that_lost_its_contents(tmp_path: Path) -> None:
    live = tmp_path / "app.db"
    live.touch()
    (tmp_path / "app.db-wal").write_bytes(b"all that is left")
    aside = backup.set_aside(live, "purged", now=NOW)
    assert aside.name == "app.db.corrupt-20261124T051500Z"
    assert Path(f"{aside}-wal").read_bytes() == b"all that is left"
    assert (tmp_path / "app.db-wal").read_bytes() == b"all that is left"


def test_set_aside_does_not_take_a_locked_file_for_a_corrupt_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = make(tmp_path / "app.db", rows=5)
    monkeypatch.setattr(backup, "copy", partial(backup.copy, wait_s=0.1))
    with closing(connect(live)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TimeoutError):
            backup.set_aside(live, "purged", now=NOW)
        holder.execute("ROLLBACK")
    assert names(tmp_path) == ["app.db"]


def test_the_space_needed_counts_the_file_and_its_wal(tmp_path: Path) -> None:
    live = make(tmp_path / "app.db", "wal", rows=50)
    with closing(connect(live)) as application:
        application.execute("UPDATE item SET n = 1")
        sizes = live.stat().st_size + (tmp_path / "app.db-wal").stat().st_size
        assert sizes > live.stat().st_size
        assert files.free_space_needed(live) - 1 <= 2.2 * sizes <= files.free_space_needed(live)
    assert files.free_space_needed(tmp_path / "absent.db") == 0


def test_too_little_space_is_an_error_with_both_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = make(tmp_path / "app.db", rows=50)
    files.ensure_space(live, tmp_path)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9 - 1234, 1234))
    with pytest.raises(OSError) as caught:
        files.ensure_space(live, tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert "1,234" in str(caught.value)
    assert f"{files.free_space_needed(live):,}" in str(caught.value)


@pytest.mark.parametrize(
    "act",
    [
        lambda live, other: backup.copy(live, other.with_name("c.db")),
        lambda live, other: reader.verify(live),
        lambda live, other: backup.set_aside(live, "purged", now=NOW),
        lambda live, other: files.ensure_space(live, live.parent),
    ],
    ids=["copy", "verify", "set_aside", "ensure_space"],
)
@pytest.mark.parametrize("mode", MODES)
def test_this_process_keeps_its_lock_on_the_live_file(
    tmp_path: Path, act: Callable[[Path, Path], object], mode: str
) -> None:
    live = make(tmp_path / "app.db", mode, rows=5)
    code = (
        "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)\n"
        "try: c.execute('BEGIN IMMEDIATE')\nexcept sqlite3.OperationalError: sys.exit(3)\n"
    )
    with closing(connect(live)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        act(live, tmp_path / "other.db")
        result = subprocess.run([sys.executable, "-c", code, str(live)], check=False)
        holder.execute("ROLLBACK")
    assert result.returncode == 3, "another process could write under our transaction"
