"""Nobody commits between the copy that is set aside and the overwriting of the live file."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from support.busy_writer import writing, written
from support.sqlite_files import waiting

from automigrator.backends.sqlite import backup

pytestmark = pytest.mark.long("moment_leaves_the_old_contents_or_the_new_ones[delete]")

MODES = ("wal", "delete", "truncate", "persist")


def make(path: Path, mode: str, *, page_size: int = 4096, mebibytes: float = 1) -> Path:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size={page_size}")
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.execute("CREATE TABLE log (n INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE bulk (x)")
        connection.execute("INSERT INTO bulk VALUES (randomblob(?))", (int(mebibytes * 2**20),))
    return path


def page_size_and_mode(path: Path) -> tuple[int, str]:
    with closing(sqlite3.connect(path)) as connection:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    return size, mode


def another_process_can(path: Path, statement: str) -> bool:
    code = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)\n"
        "try: c.execute(sys.argv[2])\n"
        "except sqlite3.OperationalError as error: sys.exit(0 if 'locked' not in str(error) else 3)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path), statement], check=False)
    assert done.returncode in (0, 3)
    return done.returncode == 0


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_every_acknowledged_write_of_a_busy_process_is_aside_or_in_the_new_database(
    tmp_path: Path, mode: str
) -> None:
    live, new = make(tmp_path / "app.db", mode), make(tmp_path / "new.db", "delete")
    asides = []
    with writing(live) as writer:
        for _ in range(5):
            kept = backup.restore(new, live, keep=partial(backup.set_aside, live, "purged"))
            assert kept is not None
            asides.append(kept)
            writer.wait_for(3)  # its connection sees the new database, and goes on
    assert set(writer.acknowledged) <= written(live, *asides)
    assert len(writer.acknowledged) >= 15


@pytest.mark.long("truncate", "persist")
@pytest.mark.parametrize("mode", MODES)
def test_nobody_can_write_while_the_old_contents_are_set_aside(tmp_path: Path, mode: str) -> None:
    live, new = make(tmp_path / "app.db", mode), make(tmp_path / "new.db", "delete")
    could = []

    def keep(through: sqlite3.Connection | None) -> Path:
        could.append(another_process_can(live, "INSERT INTO log VALUES (7)"))
        return backup.set_aside(live, "purged", through)

    with closing(sqlite3.connect(live)) as idle:
        idle.execute("SELECT * FROM log").fetchall()
        kept = backup.restore(new, live, keep=keep)
    assert could == [False]
    assert kept is not None and written(kept) == written(live) == set()
    assert another_process_can(live, "INSERT INTO log VALUES (7)")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["app.db", "new.db", kept.name])


def test_readers_go_on_meanwhile_where_there_is_a_log(tmp_path: Path) -> None:
    live, new = make(tmp_path / "app.db", "wal"), make(tmp_path / "new.db", "delete")
    could = []

    def keep(through: sqlite3.Connection | None) -> None:
        could.append(another_process_can(live, "SELECT * FROM log"))

    backup.restore(new, live, keep=keep)
    assert could == [True]


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_the_kept_copy_is_deleted_when_the_overwriting_fails(tmp_path: Path, mode: str) -> None:
    live, new = make(tmp_path / "app.db", mode), make(tmp_path / "new.db", "delete")
    before = sorted(p.name for p in tmp_path.iterdir())

    def keep(through: sqlite3.Connection | None) -> Path:
        kept = backup.set_aside(live, "purged", through)
        raise OSError(f"no room, after {kept.name}")

    def full(through: sqlite3.Connection | None) -> Path:
        kept = backup.set_aside(live, "purged", through)
        # from now on the live file cannot grow, nor can its log
        resource = pytest.importorskip("resource")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        limits.append((resource, soft, hard))
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        return kept

    limits: list = []
    with pytest.raises(OSError, match="no room"):
        backup.restore(new, live, keep=keep)
    (left,) = tmp_path.glob("*.purged-*")
    left.unlink()
    try:
        with pytest.raises(sqlite3.OperationalError):
            backup.restore(new, live, keep=full)
    finally:
        for resource, soft, hard in limits:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert another_process_can(live, "INSERT INTO log VALUES (7)")


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_database_of_one_page_is_put_in_place_as_well(tmp_path: Path, mode: str) -> None:
    live, new = make(tmp_path / "app.db", mode), tmp_path / "new.db"
    with closing(sqlite3.connect(new)) as connection:
        connection.execute("PRAGMA user_version=7")
        connection.commit()
    assert new.stat().st_size == 4096
    kept = backup.restore(new, live, keep=partial(backup.set_aside, live, "purged"))
    assert kept is not None and written(kept) == set()
    with closing(sqlite3.connect(live)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (7,)
        assert connection.execute("SELECT * FROM sqlite_master").fetchall() == []


def test_other_pages_are_put_in_place_only_where_nobody_else_has_the_file_open(
    tmp_path: Path,
) -> None:
    live = make(tmp_path / "app.db", "wal", page_size=8192)
    new = make(tmp_path / "new.db", "delete")
    with closing(sqlite3.connect(live)) as idle:
        idle.execute("SELECT * FROM log").fetchall()
        with waiting(0.2), pytest.raises(TimeoutError, match="another connection"):
            backup.restore(new, live, keep=partial(backup.set_aside, live, "purged"))
    assert page_size_and_mode(live) == (8192, "wal")
    kept = backup.restore(new, live, keep=partial(backup.set_aside, live, "purged"))
    assert kept is not None and page_size_and_mode(kept) == (8192, "delete")
    assert page_size_and_mode(live) == (4096, "wal")


def test_a_broken_schema_is_kept_page_by_page(tmp_path: Path) -> None:
    live, new = make(tmp_path / "app.db", "delete"), make(tmp_path / "new.db", "delete")
    with closing(sqlite3.connect(live, isolation_level=None)) as connection:
        connection.execute("INSERT INTO log VALUES (5)")
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("UPDATE sqlite_master SET sql = 'CREATE nonsense' WHERE name = 'bulk'")
    kept = backup.restore(new, live, keep=partial(backup.set_aside, live, "purged"))
    assert kept is not None and written(live) == set()
    with closing(sqlite3.connect(kept)) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        assert connection.execute("SELECT n FROM log").fetchall() == [(5,)]


@pytest.mark.long
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_kill_at_any_moment_leaves_the_old_contents_or_the_new_ones(
    tmp_path: Path, mode: str
) -> None:
    new = make(tmp_path / "new.db", "delete", mebibytes=3)
    with closing(sqlite3.connect(new, isolation_level=None)) as connection:
        connection.execute("INSERT INTO log VALUES (2)")
    code = (
        "import sys; from pathlib import Path\n"
        "from functools import partial\n"
        "from automigrator.backends.sqlite import backup\n"
        "new, live = map(Path, sys.argv[1:])\n"
        "print('ready', flush=True)\n"
        "backup.restore(new, live, keep=partial(backup.set_aside, live, 'purged'))\n"
        "print('done', flush=True)\n"
    )
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    for number in range(5):
        live = make(tmp_path / f"app{number}.db", mode, mebibytes=3)
        with closing(sqlite3.connect(live, isolation_level=None)) as connection:
            connection.execute("INSERT INTO log VALUES (1)")
        command = [sys.executable, "-c", code, str(new), str(live)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            try:
                process.wait(timeout=chosen.uniform(0, 0.15))
            except subprocess.TimeoutExpired:
                process.kill()
        asides = list(tmp_path.glob(f"{live.name}.purged-*Z"))
        assert written(live) in ({1}, {2})
        assert {1} <= written(live, *asides)
        with closing(sqlite3.connect(live)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
