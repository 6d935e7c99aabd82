"""Another file takes the place of a SQLite database."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support.sqlite_files import checksum, connect, make, names, version

from automigrator.backends.sqlite import backup, companions


def test_replace_takes_the_place_with_its_permissions_and_without_old_sidecars(
    tmp_path: Path,
) -> None:
    live = make(tmp_path / "app.db", rows=50)
    live.chmod(0o600)
    new = make(tmp_path / "new.db", rows=20, version="n1")
    for suffix in companions.SIDECARS:
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
