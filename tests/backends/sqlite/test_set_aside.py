"""A SQLite file is copied beside itself before it is replaced."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime, tzinfo
from pathlib import Path

import pytest
from support.sqlite_files import DAMAGE, NOW, checksum, connect, damage, make, names, waiting

from automigrator.backends.sqlite import backup


class Clock:
    """Stands still."""

    @staticmethod
    def now(zone: tzinfo) -> datetime:
        return NOW.astimezone(zone)


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "datetime", Clock)


def test_set_aside_copies_under_a_name_that_says_when_and_why(tmp_path: Path) -> None:
    live = make(tmp_path / "app.db", "wal", rows=50)
    with closing(connect(live)) as application:
        application.execute("UPDATE item SET n = 4 WHERE id = 2")
        first = backup.set_aside(live, "purged")
        second = backup.set_aside(live, "purged")
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
    aside = backup.set_aside(live, "purged")
    again = backup.set_aside(live, "purged")
    assert aside == tmp_path / "app.db.corrupt-20261124T051500Z"
    assert again == tmp_path / "app.db.corrupt-20261124T051500Z-2"
    assert aside.read_bytes() == again.read_bytes() == live.read_bytes() == before
    assert (tmp_path / "app.db-wal").exists() == Path(f"{aside}-wal").exists()
    assert not list(tmp_path.glob("*.partial*"))


def test_set_aside_keeps_the_log_of_a_file_that_lost_its_contents(tmp_path: Path) -> None:
    live = tmp_path / "app.db"
    live.touch()
    (tmp_path / "app.db-wal").write_bytes(b"all that is left")
    aside = backup.set_aside(live, "purged")
    assert aside.name == "app.db.corrupt-20261124T051500Z"
    assert Path(f"{aside}-wal").read_bytes() == b"all that is left"
    assert (tmp_path / "app.db-wal").read_bytes() == b"all that is left"


def test_set_aside_does_not_take_a_locked_file_for_a_corrupt_one(tmp_path: Path) -> None:
    live = make(tmp_path / "app.db", rows=5)
    with closing(connect(live)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with waiting(0.1), pytest.raises(TimeoutError):
            backup.set_aside(live, "purged")
        holder.execute("ROLLBACK")
    assert names(tmp_path) == ["app.db"]
