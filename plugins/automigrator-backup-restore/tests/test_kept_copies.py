"""Which copies stay, where, and for how long."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import make_url
from support.notes_application import COMMITS, GOOD, HALF_WAY, ROWS, Application
from support.postgres_server import Server

from automigrator import MigrationError, Run, hookimpl

pytestmark = pytest.mark.long("copies_of_replaced_data", "older_than_they_may_be")


@pytest.fixture
def file_notes(tmp_path: Path, sqlite_url: str) -> Application:
    return Application(tmp_path, sqlite_url)


async def failed(notes: Application, strategy: tuple[str, dict[str, object]]) -> None:
    with pytest.raises(MigrationError):
        await notes.start(strategy)


@pytest.mark.parametrize("limited", [False, True])
async def test_copies_of_replaced_data_stay_unless_a_limit_is_set_for_them_alone(
    limited: bool, tmp_path: Path, postgres_server: Server, postgres_url: str
) -> None:
    notes = Application(tmp_path, postgres_url)
    strategy = ("backup-restore", {"keep": 1, **({"keep_replaced": 1} if limited else {})})
    undone = f"{make_url(postgres_url).database}__automigrator_undone_"
    notes.deploy(HALF_WAY)
    for _ in range(2):
        await failed(notes, strategy)
    kept = postgres_server.databases(undone)
    assert len(kept) == 2
    notes = Application(tmp_path / "mended", postgres_url, started=False)
    notes.deploy(COMMITS)
    await notes.start(strategy)
    assert postgres_server.databases(undone) == (kept[1:] if limited else kept)
    snapshots = undone.replace("_undone_", "_snapshot_")
    assert len(postgres_server.databases(snapshots)) == 1


@pytest.mark.long
@pytest.mark.parametrize("limited", [False, True])
async def test_so_do_those_beside_a_file(limited: bool, file_notes: Application) -> None:
    class Other:
        """Writes a note while the migration is under way."""

        @hookimpl
        def on_failure(self) -> None:
            file_notes.execute("INSERT INTO notes (text) VALUES ('late')")

    strategy = ("backup-restore", {"keep": 1, **({"keep_replaced": 1} if limited else {})})
    file_notes.deploy(HALF_WAY)
    for number in range(2):
        file_notes.execute(f"INSERT INTO notes (text) VALUES ('{number}')")
        with pytest.raises(MigrationError):
            await file_notes.start(strategy, plugins=[Other()])
    kept = sorted(file_notes.root.glob("app.db.replaced-*"))
    assert len(kept) == 2
    file_notes = Application(file_notes.root / "mended", file_notes.url, started=False)
    file_notes.deploy(COMMITS)
    await file_notes.start(strategy)
    assert [each for each in kept if each.exists()] == (kept[1:] if limited else kept)


async def test_copies_go_where_they_were_told_to_and_the_newest_stay(
    file_notes: Application,
) -> None:
    folder = file_notes.root / "copies"
    strategy = ("backup-restore", {"folder": str(folder), "keep": 2})
    taken = []
    for _ in range(3):
        file_notes.deploy(COMMITS)
        await file_notes.start(strategy)
        taken.append(file_notes.seen.snapshot)
    assert sorted(map(str, folder.iterdir())) == taken[1:]
    file_notes.deploy(HALF_WAY)
    await failed(file_notes, strategy)
    taken.append(file_notes.seen.snapshot)
    assert sorted(map(str, folder.iterdir())) == taken[1:]


async def test_copies_older_than_they_may_be_go_after_a_success_and_the_last_one_never(
    file_notes: Application,
) -> None:
    old = [file_notes.root / f"app.db.snapshot-20200{n}01T000000000000Z" for n in (1, 2)]
    theirs = file_notes.root / "app.db.snapshot-mine"
    for path in (*old, theirs):
        path.write_text("an older copy")
    strategy = ("backup-restore", {"keep": None, "max_age": 30})
    file_notes.deploy(HALF_WAY)
    await failed(file_notes, strategy)
    assert all(path.exists() for path in old)
    file_notes = Application(file_notes.root / "next", file_notes.url, started=False)
    file_notes.deploy(COMMITS)
    await file_notes.start(strategy)
    assert not any(path.exists() for path in old)
    assert theirs.exists()
    assert file_notes.notes(file_notes.seen.snapshot) == ROWS


async def test_a_sound_copy_stays_where_the_newest_is_damaged(file_notes: Application) -> None:
    class Pruning:
        @hookimpl
        async def after_migrate(self, run: Run) -> None:
            await run.prune_snapshots(1)

    names = [f"app.db.snapshot-20200{n}01T000000000000Z" for n in (1, 2, 3)]
    for name in names[:2]:
        (file_notes.root / name).write_bytes((file_notes.root / "app.db").read_bytes())
    (file_notes.root / names[2]).write_bytes(b"damaged" * 1000)
    file_notes.deploy(GOOD)
    await file_notes.start(plugins=[Pruning()])
    assert [p.name for p in sorted(file_notes.root.glob("app.db.snapshot-*"))] == names[1:]
