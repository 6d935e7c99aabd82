"""File systems that know no fsync of folders, no modes or no locks, and folders of somebody else.

What SQLite itself passes over is passed over; what is not names the path and its file system.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from support.notes_application import GOOD, HALF_WAY, ROWS, Application
from support.other_user import being_nobody
from support.refusing_calls import library, started

from automigrator import MigrationError, Migrator
from automigrator.backends.sqlite import backup, files
from automigrator.backends.sqlite.file_systems import file_system_of

pytestmark = pytest.mark.long("migrated", "[95]", "[38]", "error_of_the_disk")

COPYING = [["backup-restore", {"snapshot": "always"}]]
SHARE = {"fsync_folder": errno.EINVAL, "chmod": errno.EPERM, "chown": errno.EPERM}


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return library(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def application(tmp_path: Path, sqlite_url: str) -> Application:
    return Application(tmp_path, sqlite_url)


def copies(application: Application) -> list[str]:
    live = Path(str(make_url(application.url).database))
    return [each.name for each in live.parent.iterdir() if each.name.startswith(f"{live.name}.sn")]


@pytest.mark.parametrize("upgrade", [GOOD, HALF_WAY], ids=["migrated", "restored"])
def test_a_share_without_fsync_of_folders_and_modes_is_good_enough(
    shim: Path, application: Application, upgrade: str
) -> None:
    application.deploy(upgrade)
    report = started(shim, application.url, application.config, COPYING, **SHARE)
    assert report["outcome"] == ("migrated" if upgrade == GOOD else "failed")
    assert application.notes() == ROWS
    assert len(copies(application)) == 1
    assert report["targets"][0]["state"] == "clean"


@pytest.mark.long
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_share_without_locks_is_told_by_path_and_file_system(
    shim: Path, application: Application, code: int
) -> None:
    application.deploy(GOOD)
    report = started(shim, application.url, application.config, [], flock=code)
    (failure,) = report["targets"][0]["failures"]
    live = Path(str(make_url(application.url).database))
    assert failure["kind"] == "unreachable"
    assert f"{live}.automigrator-lock cannot be locked ({os.strerror(code)})" in failure["message"]
    assert file_system_of(live) in failure["message"]
    assert "server" not in failure["advice"] and "lock" in failure["advice"]
    assert application.heads == {"r1"}


@pytest.mark.parametrize("what", ["fsync_folder", "fsync_file"])
def test_an_error_of_the_disk_is_none_of_these_and_a_failed_copy_leaves_no_file(
    shim: Path, application: Application, what: str
) -> None:
    application.deploy(GOOD)
    report = started(shim, application.url, application.config, COPYING, **{what: errno.EIO})
    (failure,) = report["targets"][0]["failures"]
    assert os.strerror(errno.EIO) in failure["message"]
    assert application.heads == {"r1"} and application.notes() == ROWS
    assert copies(application) == []


@pytest.mark.parametrize("copied", [backup.copy, files.copy_bytes])
def test_a_copy_whose_name_cannot_be_made_durable_leaves_no_file_and_names_the_place(
    copied: Any, application: Application, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fsync(descriptor: int, real: Any = os.fsync) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(errno.EIO, "")
        real(descriptor)

    live, place = Path(str(make_url(application.url).database)), tmp_path / "copy"
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="mounted at") as caught:
        copied(live, place)
    assert caught.value.filename == str(tmp_path) and caught.value.errno == errno.EIO
    assert list(tmp_path.glob("copy*")) == []


@pytest.mark.parametrize("call", ["fchmod", "fchown"])
@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.EINVAL, errno.EIO])
def test_only_what_a_file_system_does_not_know_is_passed_over(
    call: str, code: int, application: Application, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    live = Path(str(make_url(application.url).database))
    monkeypatch.setattr(os, call, refused)
    if code == errno.EIO:
        with pytest.raises(OSError, match="Input/output"):
            backup.copy(live, tmp_path / "copy")
        assert list(tmp_path.glob("copy*")) == []
    else:
        backup.copy(live, tmp_path / "copy")
        assert (tmp_path / "copy").stat().st_mode & 0o077 in (0, 0o044)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder where every user may write, with a database that everybody may write."""
    folder = Path(tempfile.mkdtemp(prefix="automigrator-shared-", dir="/tmp"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
async def made_by_root(shared: Path) -> Application:
    """An application that root has started once, with something pending."""
    application = Application(shared, f"sqlite+aiosqlite:///{shared / 'app.db'}")
    application.deploy(GOOD)
    await application.start()
    application.deploy(GOOD.replace("tags", "labels"))
    open_to_all(shared)
    return application


def open_to_all(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777)


def lock_of(application: Application, mode: int) -> Path:
    lock = application.root / "app.db.automigrator-lock"
    lock.chmod(mode)
    return lock


async def test_a_lock_file_that_root_made_first_is_locked_by_who_may_read_it(
    made_by_root: Application,
) -> None:
    lock_of(made_by_root, 0o644)
    with being_nobody():
        assert (await made_by_root.start()).outcome == "migrated"


async def test_one_that_may_not_even_be_read_is_told_with_its_owner(
    made_by_root: Application,
) -> None:
    lock = lock_of(made_by_root, 0o600)
    with being_nobody(), pytest.raises(MigrationError) as caught:
        await made_by_root.start()
    (failure,) = caught.value.report.targets[0].failures
    assert failure.kind == "read-only" and str(lock) in failure.message
    assert "belongs to user 0 with mode 600, and this process runs as user 65534" in failure.message
    assert made_by_root.heads == {"r2"}


@pytest.mark.parametrize("blocked", ["", "app.db", "app.db-shm"])
async def test_what_is_in_the_way_of_writing_is_named(
    made_by_root: Application, blocked: str
) -> None:
    """A start on a read-only file in WAL mode leaves its companions as read-only as it is."""
    made_by_root.execute("PRAGMA journal_mode = WAL")
    folder = made_by_root.root
    if blocked.endswith("-shm"):
        (folder / "app.db-wal").touch()
        (folder / "app.db-shm").touch()
    open_to_all(folder)
    (folder / blocked).chmod(0o555)
    with being_nobody(), pytest.raises(MigrationError) as caught:
        await made_by_root.start()
    (failure,) = caught.value.report.targets[0].failures
    place = str(folder / blocked) if blocked else f"the folder {folder}"
    assert failure.kind == "read-only"
    assert failure.advice.startswith(f"make {place} ")


async def test_starts_on_a_file_that_nobody_may_write_to_are_not_counted(
    made_by_root: Application,
) -> None:
    database = made_by_root.root / "app.db"
    database.chmod(0o444)
    migrator = Migrator(made_by_root.target(), mode="migrate", max_failed_starts=1)
    with being_nobody():
        for _ in range(3):
            with pytest.raises(MigrationError) as caught:
                await migrator.run()
            (report,) = caught.value.report
            assert [each.kind for each in report.failures] == ["read-only"]
            assert (report.attempts, report.failed_starts) == (1, 0)
    database.chmod(0o666)
    with being_nobody():
        assert (await migrator.run()).outcome == "migrated"


@pytest.mark.long
async def test_a_lock_that_is_only_read_is_held_all_the_same(made_by_root: Application) -> None:
    lock = lock_of(made_by_root, 0o644)
    target = made_by_root.target(lock_timeout=0.3)
    with lock.open() as held, being_nobody():
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(MigrationError, match="lock-timeout"):
            await Migrator(target, mode="migrate").run()
