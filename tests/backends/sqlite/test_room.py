"""The room that copies need is looked for on each disk that they go to, and may be believed in."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.notes_application import GOOD, Application
from support.small_disk import small_disk
from support.sqlite_files import make

from automigrator import ConfigurationError, MigrationError, Migrator
from automigrator.backends.sqlite import files, side

MB = 1_000_000


@pytest.fixture
def disks() -> Iterator[tuple[Path, Path]]:
    with small_disk(16) as one, small_disk(16) as other:
        yield one, other


def fill(folder: Path, *, but: int) -> None:
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    (folder / "filler").write_bytes(b"x" * (free - but))


def database(folder: Path) -> Path:
    live = make(folder / "app.db", rows=50)
    with live.open("rb+") as file:
        file.truncate(2 * MB)  # of which only the size is looked at
    return live


def test_beside_the_database_a_snapshot_needs_room_for_two(disks: tuple[Path, Path]) -> None:
    live = database(disks[0])
    fill(disks[0], but=4 * MB)
    with pytest.raises(OSError, match="4,400,000 bytes free") as caught:
        files.ensure_space(live, disks[0])
    assert caught.value.errno == errno.ENOSPC and "check_room=False" in str(caught.value)


def test_on_another_disk_each_needs_room_for_one(disks: tuple[Path, Path]) -> None:
    live = database(disks[0])
    fill(disks[0], but=3 * MB)
    fill(disks[1], but=3 * MB)
    files.ensure_space(live, disks[1])
    fill_more(disks[0])
    with pytest.raises(OSError, match=r"to restore a snapshot .*2,200,000 bytes free") as caught:
        files.ensure_space(live, disks[1])
    assert caught.value.filename == str(disks[0])


def test_the_folder_of_the_copies_is_looked_at_as_well(disks: tuple[Path, Path]) -> None:
    live = database(disks[0])
    fill(disks[1], but=1 * MB)
    with pytest.raises(OSError, match="2,200,000 bytes free") as caught:
        files.ensure_space(live, disks[1])
    assert caught.value.filename == str(disks[1])


def test_a_copy_to_rehearse_on_is_one_copy(disks: tuple[Path, Path]) -> None:
    live = make(disks[0] / "app.db", rows=50)
    fill(disks[0], but=int(1.6 * live.stat().st_size) + 65536)
    side.copied(live.with_name("side"), live, lambda: False)
    assert live.with_name("side").stat().st_size == live.stat().st_size


def fill_more(folder: Path) -> None:
    (folder / "more").write_bytes(b"x" * (2 * MB))


@pytest.fixture
def crowded(disks: tuple[Path, Path], tmp_path: Path) -> Application:
    """An application whose disk seems to have too little room for a snapshot of its database."""
    application = Application(tmp_path, f"sqlite+aiosqlite:///{disks[0] / 'app.db'}")
    application.execute(
        "CREATE TABLE padding AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c "
        "LIMIT 2000) SELECT randomblob(900) FROM c"
    )
    application.deploy(GOOD)
    fill(disks[0], but=4 * MB)
    return application


async def test_who_knows_better_goes_without_the_check(crowded: Application) -> None:
    copying = [("backup-restore", {"snapshot": "always"})]
    with pytest.raises(MigrationError, match=r"Target\(check_room=False\)"):
        await Migrator(crowded.target(), mode="migrate", recovery=copying).run()
    target = crowded.target(check_room=False)
    report = await Migrator(target, mode="migrate", recovery=copying).run()
    assert report.outcome == "migrated"


@pytest.mark.parametrize("value", [0, None, "no"])
def test_the_option_is_true_or_false(value: object, tmp_path: Path, sqlite_url: str) -> None:
    with pytest.raises(ConfigurationError, match="check_room"):
        Application(tmp_path, sqlite_url, started=False).target(check_room=value)
