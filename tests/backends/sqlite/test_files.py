"""The room that a copy needs, and the locks that POSIX drops when a file is closed."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from support.sqlite_files import MODES, connect, make

from automigrator.backends.sqlite import backup, files, reader


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
        lambda live, other: backup.set_aside(live, "purged"),
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
