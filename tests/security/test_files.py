"""Files beside a SQLite database count by owner and mode: another OS user plants them in vain."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import stat
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.notes_application import GOOD, HALF_WAY, ROWS, Application
from support.other_user import NOBODY, being_nobody

from automigrator import MigrationError, Migrator, Report, Run, hookimpl
from automigrator.backends.access import Access
from automigrator.backends.contract.snapshots import SnapshotOptions
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.sqlite.backend import SQLite

pytestmark = [
    pytest.mark.plugins,
    pytest.mark.long(
        *("umask-077", "umask-000-384", "hard link", "384", "the-owner", "wrong", "mode]"),
        *("narrowed", "folder_of_another_owner", "sticky_folder", "noted_no_digest"),
    ),
]

BACKUP = ("backup-restore", {"snapshot": "always"})
JOURNAL = ".automigrator-journal.json"
LOCK = ".automigrator-lock"
RECORD = ".automigrator-record.json"
STAMP = "20260101T000000000000Z"


@pytest.fixture
def root(shared_folder: Path) -> Application:
    """root's application in a folder that everybody may write to; its database is 0600."""
    if os.geteuid() != 0:
        pytest.skip("needs a victim and an attacker")
    application = Application(shared_folder, f"sqlite+aiosqlite:///{shared_folder / 'app.db'}")
    live(application).chmod(0o600)
    return application


def live(application: Application) -> Path:
    return application.root / "app.db"


def beside(application: Application, suffix: str) -> Path:
    return application.root / f"app.db{suffix}"


def copies(application: Application) -> list[Path]:
    return sorted(application.root.glob("app.db.snapshot-*"))


def notes_of(report: Report) -> str:
    return "\n".join(report.targets[0].notes)


async def failure_of(application: Application, *recovery: Any, **options: Any) -> str:
    with pytest.raises(MigrationError) as caught:
        await application.start(*recovery, **options)
    return caught.value.report.targets[0].failures[-1].message


# what the other user does


def write(path: str, text: str, binary: bool = False) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(descriptor, bytes.fromhex(text) if binary else text.encode())
    os.fchmod(descriptor, 0o644)
    os.close(descriptor)


def make_database(path: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)")
        connection.execute("INSERT INTO notes VALUES (1, 'of an attacker')")
        connection.execute("CREATE TABLE alembic_version (version_num TEXT PRIMARY KEY)")
        connection.execute("INSERT INTO alembic_version VALUES ('r0')")
    os.chmod(path, 0o644)


def plant_copy_and_journal(folder: str, copy: str | None = None) -> None:
    place = copy or f"{folder}/app.db.snapshot-{STAMP}"
    if copy is None:
        make_database(place)
    write(f"{folder}/app.db{JOURNAL}", entry(place))


def entry(place: str, state: str = "restoring", heads: tuple[str, ...] = ("r0",)) -> str:
    return json.dumps(
        {
            "state": state,
            "snapshot": place,
            "before": heads,
            "after": ["nowhere"],
            "at": 1.0,
            "tables": ["alembic_version"],
            "atomic": False,
        }
    )


def plant_future_copies(folder: str) -> None:
    for day in (1, 2, 3):
        make_database(f"{folder}/app.db.snapshot-209901{day:02}T000000000000Z")


def hold(path: str) -> bool:
    """Whether a user can hold a lock's file against its owner."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True


class TestAJournal:
    async def test_of_another_user_puts_nothing_in_the_place_of_the_database(
        self, root: Application, as_nobody: Callable[..., Any]
    ) -> None:
        as_nobody(plant_copy_and_journal, str(root.root))
        root.deploy(GOOD)
        report = await root.start()
        assert report.outcome == "migrated" and root.notes() == ROWS
        planted = beside(root, JOURNAL)
        assert str(planted) in notes_of(report) and f"user {NOBODY}" in notes_of(report)
        assert planted.exists() and copies(root), "what is not ours is left as it is"

    async def test_of_another_user_makes_no_start_do_anything_where_nothing_is_pending(
        self, root: Application, as_nobody: Callable[..., Any]
    ) -> None:
        as_nobody(plant_copy_and_journal, str(root.root))
        assert (await root.start()).outcome == "current"
        assert not (await Migrator(root.target(), mode="migrate").check()).targets[0].unfinished

    async def test_of_another_user_is_in_the_way_of_ours_and_is_told_with_its_owner(
        self, root: Application, as_nobody: Callable[..., Any]
    ) -> None:
        as_nobody(plant_copy_and_journal, str(root.root))
        root.deploy(GOOD)
        message = await failure_of(root, BACKUP)
        assert f"{JOURNAL} belongs to user {NOBODY}" in message and "nothing was changed" in message
        assert root.heads == {"r1"} and root.notes() == ROWS

    @pytest.mark.parametrize("how", ["pipe", "link"])
    async def test_that_is_no_regular_file_is_neither_waited_for_nor_followed(
        self, root: Application, as_nobody: Callable[..., Any], how: str, tmp_path: Path
    ) -> None:
        planted, told = beside(root, JOURNAL), tmp_path / "told"
        told.write_text(entry(f"{live(root)}.snapshot-{STAMP}"))
        if how == "pipe":
            as_nobody(os.mkfifo, planted)
        else:
            as_nobody(os.symlink, told, planted)
        root.deploy(GOOD)
        began = time.monotonic()
        assert (await root.start()).outcome == "migrated"
        assert time.monotonic() - began < 5
        assert planted.lstat().st_uid == NOBODY

    @pytest.mark.parametrize("wrong", ["mode", "link"])
    async def test_that_may_be_ours_and_may_have_been_changed_refuses_with_both_ways_out(
        self, root: Application, wrong: str
    ) -> None:
        planted = beside(root, JOURNAL)
        if wrong == "mode":
            planted.write_text(entry(str(beside(root, f".snapshot-{STAMP}"))))
            planted.chmod(0o666)
        else:
            planted.symlink_to(root.root / "elsewhere")
        root.deploy(GOOD)
        message = await failure_of(root)
        assert "give it the database's owner, group and mode" in message
        assert "otherwise delete it" in message
        assert root.heads == {"r1"} and planted.is_symlink() == (wrong == "link")


class TestAJournalsCopy:
    """The journal is the database's owner's; root starts."""

    @pytest.fixture
    def owned(self, root: Application) -> Application:
        os.chown(live(root), NOBODY, NOBODY)
        live(root).chmod(0o644)
        root.deploy(GOOD)
        return root

    async def test_is_where_our_own_naming_puts_it(
        self, owned: Application, as_nobody: Callable[..., Any], tmp_path: Path
    ) -> None:
        secret = tmp_path / "other.db"
        make_database(str(secret))
        as_nobody(plant_copy_and_journal, str(owned.root), str(secret))
        message = await failure_of(owned)
        assert "no copy of this database has that name" in message
        assert owned.notes() == ROWS

    async def test_is_no_link_to_a_file_that_its_maker_may_not_read(
        self, owned: Application, as_nobody: Callable[..., Any], tmp_path: Path
    ) -> None:
        secret, place = tmp_path / "other.db", beside(owned, f".snapshot-{STAMP}")
        make_database(str(secret))
        as_nobody(os.symlink, secret, place)
        as_nobody(plant_copy_and_journal, str(owned.root), str(place))
        assert "a symbolic link" in await failure_of(owned)
        assert owned.notes() == ROWS

    async def test_that_is_of_another_owner_than_the_journal_is_not_put_back(
        self, root: Application, as_nobody: Callable[..., Any]
    ) -> None:
        place = beside(root, f".snapshot-{STAMP}")
        as_nobody(make_database, str(place))
        beside(root, JOURNAL).write_text(entry(str(place)))
        root.deploy(GOOD)
        assert f"belongs to user {NOBODY}" in await failure_of(root)
        assert root.notes() == ROWS and beside(root, JOURNAL).exists()

    async def test_that_is_not_what_was_copied_is_not_put_back(self, root: Application) -> None:
        place = await killed(root)
        with closing(sqlite3.connect(place)) as connection, connection:
            connection.execute("UPDATE notes SET text = 'of somebody'")
        root.deploy(GOOD)
        assert "it is not what was copied" in await failure_of(root)
        assert "half" in root.tables and beside(root, JOURNAL).exists()

    async def test_of_a_release_that_noted_no_digest_is_put_back(self, root: Application) -> None:
        await killed(root)
        noted = beside(root, ".automigrator-progress.json")
        said = json.loads(noted.read_text())
        assert len(said.pop("digest")) == 64
        noted.write_text(json.dumps(said))
        root.deploy(GOOD)
        assert "was put back" in notes_of(await root.start())
        assert "half" not in root.tables


async def killed(application: Application, folder: Path | None = None) -> Path:
    """A start that was killed half way; returns where its snapshot is."""
    table = VersionTable()
    backend = SQLite(Access(application.target()))
    async with backend.lock([table], 5, lambda *_: None) as held:
        assert held.snapshots is not None
        options = SnapshotOptions(folder=folder)
        snapshot = await held.snapshots.take(STAMP, ("r1",), ("r2",), [table], options)
    application.execute("CREATE TABLE half (id INTEGER)")
    return Path(snapshot.place)


class TestSQLitesOwnLog:
    async def test_of_another_user_is_not_played_into_the_database(
        self, root: Application, as_nobody: Callable[..., Any]
    ) -> None:
        journal = hot_journal(root)
        root.execute("UPDATE notes SET text = 'changed since'")
        as_nobody(write, str(beside(root, "-journal")), journal.hex(), True)
        message = await failure_of(root)
        assert f"app.db-journal belongs to user {NOBODY}" in message
        os.unlink(beside(root, "-journal"))
        assert {text for _, text in root.notes()} == {"changed since"}

    async def test_that_is_a_link_of_another_user_is_not_written_through(
        self, root: Application, as_nobody: Callable[..., Any]
    ) -> None:
        victim = root.root / "victim"
        victim.write_text("dear")
        as_nobody(os.symlink, victim, beside(root, "-journal"))
        root.deploy(GOOD)
        assert "a symbolic link" in await failure_of(root)
        assert victim.read_text() == "dear"


def hot_journal(application: Application) -> bytes:
    """What SQLite's journal holds in the middle of a transaction, so that it would be undone."""
    with closing(sqlite3.connect(live(application), isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_spill = 1")
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN")
        connection.execute("UPDATE notes SET text = 'of a transaction'")
        connection.execute("CREATE TABLE much AS SELECT randomblob(100000) AS x")
        journal = beside(application, "-journal").read_bytes()
        connection.execute("ROLLBACK")
    return journal


class TestTheLock:
    @pytest.mark.parametrize("kind", ["link", "hard link", "pipe"])
    async def test_that_leads_to_another_file_empties_nothing(
        self, root: Application, as_nobody: Callable[..., Any], kind: str
    ) -> None:
        victim = root.root / "victim"
        victim.write_text("dear")
        if kind == "link":
            as_nobody(os.symlink, victim, beside(root, LOCK))
        elif kind == "pipe":
            as_nobody(os.mkfifo, beside(root, LOCK))
        else:  # where the system does not protect hard links
            os.link(victim, beside(root, LOCK))
        root.deploy(GOOD)
        assert f"app.db{LOCK}" in await failure_of(root)
        assert victim.read_text() == "dear" and root.heads == {"r1"}

    async def test_of_another_user_is_refused_in_words(
        self, root: Application, as_nobody: Callable[..., Any]
    ) -> None:
        as_nobody(write, str(beside(root, LOCK)), "")
        root.deploy(GOOD)
        message = await failure_of(root)
        assert f"app.db{LOCK} belongs to user {NOBODY}" in message
        assert beside(root, LOCK).stat().st_uid == NOBODY

    @pytest.mark.parametrize("mode", [0o600, 0o644])
    async def test_cannot_be_held_by_who_may_only_read_the_database(
        self, root: Application, as_nobody: Callable[..., Any], mode: int
    ) -> None:
        live(root).chmod(mode)
        beside(root, LOCK).write_text("")
        beside(root, LOCK).chmod(0o666)  # of an earlier release, under a umask of 000
        root.deploy(GOOD)
        assert (await root.start()).outcome == "migrated"
        assert not as_nobody(hold, str(beside(root, LOCK)))
        assert stat.S_IMODE(beside(root, LOCK).stat().st_mode) == 0o600


class TestARecord:
    async def test_of_another_user_is_not_believed(
        self, root: Application, as_nobody: Callable[..., Any]
    ) -> None:
        root.deploy(HALF_WAY)
        await failure_of(root)
        record = json.loads(beside(root, RECORD).read_text())
        beside(root, RECORD).unlink()
        record["starts"]["count"] = 99
        as_nobody(write, str(beside(root, RECORD)), json.dumps(record))
        with pytest.raises(MigrationError) as caught:
            await root.start()
        (target,) = caught.value.report.targets
        assert (target.attempts, target.failures[-1].revision) == (1, "r2"), "it was tried"
        assert json.loads(beside(root, RECORD).read_text()) == record

    async def test_is_not_written_through_a_link(
        self, root: Application, as_nobody: Callable[..., Any]
    ) -> None:
        victim = root.root / "victim"
        victim.write_text("dear")

        class Planting:
            @hookimpl
            def before_migrate(self, run: Run) -> None:
                for name in (RECORD, JOURNAL, ".automigrator-progress.json"):
                    as_nobody(os.symlink, victim, beside(root, f"{name}.tmp"))

        root.deploy(HALF_WAY)
        await failure_of(root, plugins=[Planting()])
        assert victim.read_text() == "dear" and victim.stat().st_uid == 0


class TestCopies:
    async def test_of_another_user_and_of_the_future_cost_no_real_one(
        self, root: Application, as_nobody: Callable[..., Any]
    ) -> None:
        for upgrade in (GOOD, GOOD.replace("tags", "more")):
            root.deploy(upgrade)
            await root.start(BACKUP)
        real = copies(root)
        as_nobody(plant_future_copies, str(root.root))
        own = beside(root, ".snapshot-20980101T000000000000Z")
        make_database(str(own))
        root.deploy(GOOD.replace("tags", "labels"))
        report = await root.start(BACKUP)
        assert set(real) <= set(copies(root)) and own.exists()
        assert "of the future" in notes_of(report) and f"user {NOBODY}" in notes_of(report)

    async def test_that_anybody_could_replace_are_refused_unless_the_folder_is_named(
        self, root: Application
    ) -> None:
        root.root.chmod(0o777)
        root.deploy(GOOD)
        assert "chmod +t" in await failure_of(root, BACKUP)
        assert root.heads == {"r1"}
        report = await root.start(("backup-restore", {"snapshot": "always", "folder": root.root}))
        assert report.outcome == "migrated"
        assert notes_of(report).count("may write to the folder") == 1

    async def test_are_made_in_a_folder_of_their_own(self, root: Application) -> None:
        folder = root.root / "deep" / "copies"
        os.chown(live(root), NOBODY, NOBODY)
        root.deploy(GOOD)
        await root.start(("backup-restore", {"snapshot": "always", "folder": folder}))
        for made in (folder, folder.parent):
            status = made.stat()
            assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (NOBODY, 0o700)


class TestASide:
    async def test_that_is_a_link_costs_the_other_database_nothing(
        self, root: Application, as_nobody: Callable[..., Any]
    ) -> None:
        other = root.root / "other.db"
        with closing(sqlite3.connect(other)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE dear (x)")
            connection.commit()
            log = other.with_name("other.db-wal")
            assert log.stat().st_size
            as_nobody(os.symlink, other, beside(root, f".side-{STAMP}"))
            beside(root, JOURNAL).write_text(
                entry(str(beside(root, f".snapshot-{STAMP}")), "migrating", ("r1",)).replace(
                    "nowhere", "r1"
                )
            )
            beside(root, JOURNAL).chmod(0o600)
            root.deploy(GOOD)
            assert (await root.start()).outcome == "migrated"
            assert log.stat().st_size, "with the committed rows in it"


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("mode", [0o600, 0o664])
async def test_every_file_has_the_owner_and_mode_of_the_database_from_the_start(
    root: Application, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chown(live(root), 12345, 54321)
    live(root).chmod(mode)
    seen: dict[str, set[tuple[int, int]]] = {}
    for module, name in ((os, "replace"), (sqlite3, "connect")):
        act = getattr(module, name)
        monkeypatch.setattr(module, name, partial(watched, act, lambda: look(root, seen)))
    root.deploy(HALF_WAY)
    target = root.target(rehearse=True)
    with pytest.raises(MigrationError):
        await Migrator(target, mode="migrate", recovery=[BACKUP]).run()
    with pytest.raises(MigrationError):
        await root.start(BACKUP)
    with pytest.raises(MigrationError):
        await root.start("purge")
    kinds = {name.removeprefix("app.db").split("-2")[0] for name in seen}
    assert kinds >= {LOCK, RECORD, JOURNAL, f"{JOURNAL}.tmp", ".snapshot", ".side"}, kinds
    lock = {0o600: 0o600, 0o664: 0o660}[mode]
    wrong = {
        name: found
        for name, found in seen.items()
        if found != {(12345, lock if name.endswith("-lock") else mode)}
    }
    assert not wrong


def watched(act: Callable[..., Any], look: Callable[[], None], *given: Any, **named: Any) -> Any:
    look()
    done = act(*given, **named)
    look()
    return done


def look(application: Application, seen: dict[str, set[tuple[int, int]]]) -> None:
    for path in application.root.glob("app.db.*"):
        with suppress(FileNotFoundError):
            status = path.lstat()
        seen.setdefault(path.name, set()).add((status.st_uid, stat.S_IMODE(status.st_mode)))


class TestHonestSetups:
    """They go on working, by the mode of the database and what its users alone can write."""

    @pytest.fixture
    def team(self, root: Application) -> Application:
        """A database that a group may write to, in a folder of that group."""
        os.chown(live(root), 12345, 54321)
        live(root).chmod(0o664)
        os.chown(root.root, 0, 54321)
        root.root.chmod(0o2775)
        return root

    @pytest.mark.parametrize("owner", [12345, 23456], ids=["the-owner", "another-of-the-group"])
    async def test_what_a_killed_user_of_the_database_left_is_put_back_by_another(
        self, team: Application, owner: int
    ) -> None:
        await killed(team)
        for path in team.root.glob("app.db.*"):
            os.chown(path, owner, 54321)
        team.deploy(GOOD)
        report = await team.start(BACKUP)
        assert "was put back" in notes_of(report) and "half" not in team.tables
        assert "do not count" not in notes_of(report) and "may write to the folder" not in notes_of(
            report
        )

    async def test_a_user_of_the_group_undoes_what_its_owner_began(self, team: Application) -> None:
        for path in (team.root, live(team)):
            os.chown(path, -1, NOBODY)
        await killed(team)
        team.deploy(GOOD)
        with being_nobody():
            report = await team.start(BACKUP)
        assert report.outcome == "migrated" and "was put back" in notes_of(report)
        assert (await team.start(BACKUP)).outcome == "current"
        assert beside(team, LOCK).stat().st_uid == 12345

    async def test_root_undoes_what_another_user_began_in_a_sticky_folder(
        self, root: Application
    ) -> None:
        os.chown(live(root), 12345, 54321)
        await killed(root)
        root.deploy(GOOD)
        assert "was put back" in notes_of(await root.start(BACKUP))

    async def test_a_mode_that_was_narrowed_since_costs_no_more_than_a_record(
        self, root: Application
    ) -> None:
        live(root).chmod(0o664)
        root.deploy(HALF_WAY)
        await failure_of(root, BACKUP)
        live(root).chmod(0o600)
        await failure_of(root, BACKUP)
        assert stat.S_IMODE(beside(root, RECORD).stat().st_mode) == 0o600

    async def test_a_link_to_the_database_leads_to_the_files_beside_it(
        self, root: Application, tmp_path: Path
    ) -> None:
        await killed(root)
        link = tmp_path / "link.db"
        link.symlink_to(live(root))
        linked = Application(tmp_path, f"sqlite+aiosqlite:///{link}", started=False)
        linked.deploy(GOOD)
        assert "was put back" in notes_of(await linked.start(BACKUP))
        assert not list(linked.root.glob("link.db.*"))

    async def test_copies_in_a_folder_of_another_owner_are_put_back(
        self, root: Application, tmp_path: Path
    ) -> None:
        folder = tmp_path / "copies"
        folder.mkdir(0o777)
        os.chown(folder, 23456, 23456)
        await killed(root, folder)
        root.deploy(GOOD)
        assert "was put back" in notes_of(await root.start(BACKUP))
