"""Clones of live files: of one moment whoever writes, and no lock of this process is lost."""

from __future__ import annotations

import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support import balanced_ledger
from support.small_disk import cloning_disk

from automigrator.backends.sqlite import backup
from automigrator.backends.sqlite.copying import clones
from automigrator.backends.sqlite.reader import Cancelled

MODES = ["wal", "delete", "truncate", "persist", "memory"]


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def disk(request: pytest.FixtureRequest) -> Iterator[Path]:
    with cloning_disk(request.param) as place:
        yield place


@pytest.fixture
def folder(disk: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=disk) as place:
        yield Path(place)


@pytest.fixture
def cloned(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each copy was a clone; small files are cloned as well."""
    told: list[bool] = []

    def clone(*arguments: Any) -> bool:
        told.append(real(*arguments))
        return told[-1]

    real = clones.clone
    monkeypatch.setattr(clones, "clone", clone)
    monkeypatch.setattr(clones, "LEAST_BYTES", 0)
    return told


def copies(live: Path, mode: str, times: int) -> None:
    """Copy a file that is written to, and look at each copy."""
    balanced_ledger.make(live, mode)
    place = live.with_name("copy.db")
    with balanced_ledger.written(live, mode):
        for _ in range(times):
            before = balanced_ledger.last(live)
            backup.copy(live, place)
            after = balanced_ledger.last(live)
            assert {p.name for p in live.parent.glob("copy.db*")} == {"copy.db"}
            assert before <= balanced_ledger.checked(place) <= after
            place.unlink()


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_clone_is_of_one_moment_under_writers_and_checkpoints(
    folder: Path, mode: str, cloned: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    # as when the machine is busy between the file and its log
    monkeypatch.setattr(clones, "_SCRIPT", clones._SCRIPT.replace("shift", "sleep 0.05; shift"))
    copies(folder / "live.db", mode, 3)
    assert cloned == [True] * 3


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_so_are_two_hundred(folder: Path, mode: str, cloned: list[bool]) -> None:
    copies(folder / "live.db", mode, 200)
    assert cloned == [True] * 200


def test_this_process_keeps_its_locks(folder: Path, cloned: list[bool]) -> None:
    live = folder / "live.db"
    balanced_ledger.make(live, "delete")
    with closing(sqlite3.connect(live, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        backup.copy(live, folder / "copy.db")
        code = "import sqlite3, sys; sqlite3.connect(sys.argv[1], 0).execute('BEGIN IMMEDIATE')"
        command = [sys.executable, "-c", code, str(live)]
        other = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "database is locked" in other.stderr
    assert cloned == [True]


def test_a_clone_belongs_to_the_users_of_the_database(folder: Path, cloned: list[bool]) -> None:
    live, place = folder / "live.db", folder / "copy.db"
    balanced_ledger.make(live, "wal")
    live.chmod(0o640)
    with closing(sqlite3.connect(live)):
        backup.copy(live, place)
    assert stat.S_IMODE(place.stat().st_mode) == 0o640
    assert cloned == [True]


def test_an_application_that_ignores_its_children_gets_clones(
    folder: Path, cloned: list[bool]
) -> None:
    balanced_ledger.make(folder / "live.db", "delete")
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        backup.copy(folder / "live.db", folder / "copy.db")
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert cloned == [True]
    assert balanced_ledger.checked(folder / "copy.db") == 0


def test_a_clone_can_be_cancelled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clones, "LEAST_BYTES", 0)
    monkeypatch.setattr(clones, "_SCRIPT", "exec sleep 60")
    balanced_ledger.make(folder / "live.db", "wal")
    asked: list[None] = []

    def cancelled() -> bool:
        asked.append(None)
        return len(asked) > 2

    with pytest.raises(Cancelled):
        backup.copy(folder / "live.db", folder / "copy.db", cancelled=cancelled)
    assert [path.name for path in folder.iterdir()] == ["live.db"]


class TestCopiesInstead:
    """Where there is no clone, pages are copied, and nothing of the attempt stays."""

    @pytest.fixture
    def live(self, folder: Path) -> Iterator[Path]:
        balanced_ledger.make(folder / "live.db", "wal")
        with closing(sqlite3.connect(folder / "live.db")) as connection:
            connection.execute("UPDATE log SET n = 7")  # in the log
            connection.execute("DELETE FROM log WHERE n < 7")
            connection.execute("INSERT INTO log VALUES (8)")
            connection.commit()
            yield folder / "live.db"

    def copied(self, live: Path, place: Path) -> None:
        backup.copy(live, place)
        assert {p.name for p in place.parent.glob("copy.db*")} == {"copy.db"}
        with closing(sqlite3.connect(place)) as connection:
            assert connection.execute("SELECT n FROM log").fetchall() == [(7,), (8,)]

    def test_on_another_file_system(self, live: Path, tmp_path: Path, cloned: list[bool]) -> None:
        self.copied(live, tmp_path / "copy.db")
        assert cloned == [False]

    def test_where_another_file_has_the_name_by_now(
        self, live: Path, folder: Path, cloned: list[bool], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def replaced(*arguments: Any) -> bool:
            live.rename(folder / "moved.db")
            live.write_bytes(b"another one")
            return real(*arguments)

        real = clones._done
        monkeypatch.setattr(clones, "_done", replaced)
        self.copied(live, folder / "copy.db")
        assert cloned == [False]

    def test_of_a_small_file(
        self, live: Path, folder: Path, cloned: list[bool], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(clones, "LEAST_BYTES", 8 << 20)
        monkeypatch.setattr(clones, "_done", None)  # no process is begun
        self.copied(live, folder / "copy.db")
        assert cloned == [False]
