"""The lock of a SQLite file is the file's own: its device and inode, whatever leads to it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path

import pytest
from support.notes_application import COMMITS, GOOD, HALF_WAY, ROWS, Application

from automigrator import MigrationError, Migrator, Run, hookimpl
from automigrator.backends.access import Access
from automigrator.backends.contract.lock import Hold
from automigrator.backends.contract.record import Record
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.sqlite import backup
from automigrator.backends.sqlite.backend import SQLite
from automigrator.errors import LockLostError, LockTimeoutError, RefusedError
from automigrator.target import Target

LOCK = ".automigrator-lock"
BACKUP = ("backup-restore", {"snapshot": "always"})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "data" / "app.db"
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE t (x)")
    return file


@pytest.fixture
def lock(file: Path, tmp_path: Path) -> Callable[..., AbstractAsyncContextManager[Hold]]:
    def make(timeout_s: float = 5, **options: bool) -> AbstractAsyncContextManager[Hold]:
        target = Target(f"sqlite:///{file}", tmp_path, **options)  # type: ignore[arg-type]
        return SQLite(Access(target)).lock([VersionTable()], timeout_s, lambda *_: None)

    return make


@pytest.fixture
def notes(tmp_path: Path, sqlite_url: str) -> Application:
    return Application(tmp_path, sqlite_url)


def spoil(file: Path) -> None:
    file.write_bytes(b"not a database" * 1000)


def deleted(file: Path) -> None:
    file.unlink()


def replaced(file: Path) -> None:
    shutil.copy(file, file.with_name("other"))
    os.replace(file.with_name("other"), file)


class TestItsOwnFile:
    @pytest.mark.parametrize("act", [deleted, replaced])
    @pytest.mark.parametrize("name", ["app.db" + LOCK, "app.db"])
    async def test_whose_file_is_deleted_or_replaced_no_longer_holds_it(
        self,
        lock: Callable[..., AbstractAsyncContextManager[Hold]],
        file: Path,
        name: str,
        act: Callable[[Path], None],
    ) -> None:
        async with lock() as hold:
            await hold.confirm()
            act(file.with_name(name))
            with pytest.raises(LockLostError, match="was deleted or replaced while this process"):
                await hold.confirm()
            with pytest.raises(LockLostError):
                await hold.look([VersionTable()])

    async def test_that_is_deleted_while_it_is_waited_for_is_made_anew_and_locked(
        self, lock: Callable[..., AbstractAsyncContextManager[Hold]], file: Path
    ) -> None:
        place = file.with_name("app.db" + LOCK)
        async with lock():
            held = place.stat().st_ino
            with pytest.raises(LockTimeoutError):
                async with lock(0.1):
                    pass
        # one who opened the file before it was deleted must not be content with it
        waiting = os.open(place, os.O_RDWR)
        os.unlink(place)
        async with lock() as hold:
            assert place.exists()
            await hold.confirm()
            with pytest.raises(LockTimeoutError):
                async with lock(0.1):
                    pass
        assert os.fstat(waiting).st_ino == held
        os.close(waiting)

    async def test_that_was_deleted_between_opening_and_locking_is_not_enough(
        self, file: Path
    ) -> None:
        from automigrator.backends.sqlite.lock_files import LockFile, taken

        first, second = LockFile(file), LockFile(file)
        assert first.acquire()
        assert not second.acquire()  # it has the file open now
        first.place.unlink()
        first.close()
        assert not second.acquire()  # locked, and nobody else would lock that one
        assert second.acquire()
        descriptor = os.open(second.place, os.O_RDWR)
        assert not taken(descriptor)
        os.close(descriptor)

    async def test_a_replacement_of_our_own_is_noted_anew(
        self, lock: Callable[..., AbstractAsyncContextManager[Hold]], file: Path
    ) -> None:
        async with lock() as hold:
            assert hold.snapshots is not None
            snapshot = await hold.snapshots.take("20300101T000000Z", (), ("r1",), [VersionTable()])
            before = os.stat(file).st_ino
            spoil(file)  # it can only be replaced
            await hold.snapshots.restore(snapshot)
            assert os.stat(file).st_ino != before
            await hold.confirm()
            backup.replace(Path(snapshot.place), file)
            with pytest.raises(LockLostError):
                await hold.confirm()

    async def test_a_difference_is_looked_at_twice(
        self,
        lock: Callable[..., AbstractAsyncContextManager[Hold]],
        file: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        from automigrator.backends.sqlite import identity

        answers: list[tuple[int, int]] = [(0, 0)]
        right = identity.identity_of

        def wrong_once(place: Path | int) -> tuple[int, int] | None:
            return answers.pop() if answers and place == file else right(place)

        async with lock() as hold:
            monkeypatch.setattr(identity, "identity_of", wrong_once)
            await hold.confirm()
            assert not answers


class TestTheNames:
    async def test_more_than_one_is_refused_unless_nobody_uses_it(
        self, lock: Callable[..., AbstractAsyncContextManager[Hold]], file: Path
    ) -> None:
        os.link(file, file.with_name("other.db"))
        with pytest.raises(RefusedError, match=r"2 names \(hard links\).*allow_links=True"):
            async with lock():
                pass
        async with lock(allow_links=True) as hold:
            await hold.confirm()

    async def test_a_run_that_refuses_them_has_changed_nothing(self, notes: Application) -> None:
        os.link(notes.root / "app.db", notes.root / "other.db")
        notes.deploy(GOOD)
        with pytest.raises(MigrationError) as raised:
            await notes.start("purge")
        (failure,) = raised.value.report.targets[0].failures
        assert (failure.kind, failure.state) == ("lock-timeout", "clean")
        assert "allow_links=True" in failure.message
        assert (notes.heads, notes.notes()) == ({"r1"}, ROWS)

    async def test_links_by_which_a_file_is_reached_meet_at_one_lock(
        self, lock: Callable[..., AbstractAsyncContextManager[Hold]], file: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "link.db").symlink_to(file)
        target = Target(f"sqlite:///{tmp_path / 'link.db'}", tmp_path)
        other = SQLite(Access(target)).lock([VersionTable()], 0.1, lambda *_: None)
        async with lock():
            with pytest.raises(LockTimeoutError):
                async with other:
                    pass

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
    def test_a_file_that_is_mounted_alone_is_a_note(self, file: Path, tmp_path: Path) -> None:
        alone = tmp_path / "a b" / "app.db"
        alone.parent.mkdir()
        alone.touch()
        asked = (
            "from pathlib import Path; from automigrator.backends.sqlite import file_systems; "
            "print(*(file_systems.is_mounted_alone(Path(p)) for p in "
            f"({str(alone)!r}, {str(file)!r})))"
        )
        command = f'mount --bind "{file}" "{alone}" && exec "{sys.executable}" -c "{asked}"'
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", command], capture_output=True, text=True, check=False
        )
        if done.returncode and "ermitted" in done.stderr + done.stdout:
            pytest.skip("this container may not mount")
        assert done.stdout.split() == ["True", "False"], done.stderr

    @pytest.mark.long
    async def test_that_note_is_in_the_report(
        self, notes: Application, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from automigrator.backends.sqlite import file_systems

        monkeypatch.setattr(file_systems, "is_mounted_alone", lambda path: True)
        notes.deploy(GOOD)
        (report,) = (await notes.start()).targets
        assert report.outcome == "migrated"
        assert any("mounted by itself" in note for note in report.notes)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
class TestTheFilesBeside:
    @pytest.mark.long("[432")
    @pytest.mark.parametrize("mode", [0o600, 0o660])
    async def test_have_the_modes_and_the_owner_of_the_database(
        self, notes: Application, mode: int
    ) -> None:
        live = notes.root / "app.db"
        os.chmod(live, mode)
        owner = os.getuid(), os.getgid()
        if os.geteuid() == 0:  # root makes the files for the application's user
            owner = 12345, 54321
            os.chown(live, *owner)
        notes.deploy(HALF_WAY)
        seen: dict[str, os.stat_result] = {}

        class Looking:
            @hookimpl
            def before_migrate(self, run: Run) -> None:
                seen.update(
                    {p.name: p.stat() for p in live.parent.iterdir() if p.name.startswith("app.db")}
                )

        with pytest.raises(MigrationError):
            await notes.start(BACKUP, plugins=[Looking()])
        seen |= {p.name: p.stat() for p in live.parent.iterdir() if p.name.startswith("app.db.")}
        assert any("snapshot" in name for name in seen)
        assert {name for name in seen if "automigrator" in name} >= {
            "app.db.automigrator-lock",
            "app.db.automigrator-record.json",
        }
        for name, status in seen.items():
            assert (status.st_uid, status.st_gid) == owner, name
            assert stat.S_IMODE(status.st_mode) == mode, name

    async def test_a_journal_too(
        self, lock: Callable[..., AbstractAsyncContextManager[Hold]], file: Path
    ) -> None:
        os.chmod(file, 0o620)
        async with lock() as hold:
            assert hold.snapshots is not None
            await hold.snapshots.take("20300101T000000Z", (), ("r1",), [VersionTable()])
            await hold.leave(Record("plan", "begun", hold.leader))
            found = [p for p in file.parent.iterdir() if p.name.startswith("app.db.")]
            assert len(found) == 5
            assert {stat.S_IMODE(p.stat().st_mode) for p in found} == {0o620}

    async def test_one_that_may_only_be_read_can_be_locked_twice(
        self, lock: Callable[..., AbstractAsyncContextManager[Hold]], file: Path
    ) -> None:
        os.chmod(file, 0o400)
        for _ in range(2):
            async with lock():
                assert stat.S_IMODE(file.with_name("app.db" + LOCK).stat().st_mode) == 0o600


class TestALeader:
    async def test_whose_lock_file_is_deleted_commits_nothing_more(
        self, notes: Application
    ) -> None:
        lock = notes.root / f"app.db{LOCK}"
        notes.deploy(COMMITS, f"import os; os.unlink({str(lock)!r})\n" + GOOD)
        with pytest.raises(MigrationError) as raised:
            await notes.start("purge", "log-and-continue")
        (report,) = raised.value.report.targets
        assert [each.kind for each in report.failures] == ["lock-timeout"]
        assert f"the lock's file {lock} was deleted or replaced" in report.failures[0].message
        assert "tags" not in notes.tables

    async def test_another_starts_beside_it_and_one_of_the_two_is_true(
        self, notes: Application
    ) -> None:
        """The second start undoes the first one's half; the first one must not say `migrated`."""
        lock = notes.root / f"app.db{LOCK}"
        notes.deploy(GOOD, 'op.create_table("more", sa.Column("id", sa.Integer))')
        second: list[str] = []

        class Beside:
            @hookimpl
            async def before_migrate(self, run: Run) -> None:
                lock.unlink()
                other = Migrator(notes.target(), mode="migrate", recovery=[BACKUP])
                second.append((await other.run()).outcome)

        with pytest.raises(MigrationError) as raised:
            await notes.start(BACKUP, plugins=[Beside()])
        (report,) = raised.value.report.targets
        assert report.failures[-1].kind == "lock-timeout"
        assert second == ["migrated"]
        assert notes.heads == {"r3"}
        assert notes.notes() == ROWS
