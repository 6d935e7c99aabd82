"""A dump is the file that was opened: a swap of its name, or a stranger's file, changes nothing."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from support.notes_application import GOOD, HALF_WAY, ROWS, Application
from support.postgres_backends import made, silent

from automigrator import MigrationError
from automigrator.backends.contract.snapshots import SnapshotOptions
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql.dump import files, programs, psql

pytestmark = [pytest.mark.plugins, pytest.mark.long("umask-077", "root_puts_back", "may_change")]

NOBODY = 65534
STAMP = "20260101T000000000000Z"


@pytest.fixture
def application(tmp_path: Path, postgres_url: str) -> Application:
    return Application(tmp_path, postgres_url)


@pytest.fixture
def folder(shared_folder: Path) -> Path:
    """One in which everybody may replace every file, which `folder=` names all the same."""
    shared_folder.chmod(0o777)
    return shared_folder


def dumping(folder: Path, **options: Any) -> tuple[str, dict[str, Any]]:
    return "backup-restore", {"snapshot": "always", "copy": "dump", "folder": folder, **options}


Act = Callable[[], object]


@pytest.fixture
def before_programs(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Act], None]:
    """`before_programs("pg_dump", act)`: act each time before such a program is started."""

    def before(name: str, act: Act) -> None:
        run: Callable[..., Awaitable[None]] = programs.run

        async def acted(program: Path, *arguments: Any, **options: Any) -> None:
            if program.name == name:
                act()
            await run(program, *arguments, **options)

        monkeypatch.setattr(programs, "run", acted)
        monkeypatch.setattr(psql, "run", acted)

    return before


# what the other user does


def swap_partial(folder: str) -> None:
    for path in Path(folder).glob("*.partial"):
        if path.stat().st_uid != NOBODY:
            path.rename(f"{path}.away")
            path.touch()
            path.chmod(0o666)


def swap_dump(folder: str) -> None:
    for path in Path(folder).glob("*_snapshot_*.dump"):
        if path.stat().st_uid != NOBODY:
            path.rename(f"{path}.away")
            path.write_text("not what was written")


def of_nobody(folder: Path) -> list[Path]:
    return [each for each in folder.iterdir() if each.stat().st_uid == NOBODY]


def plant(path: str) -> None:
    Path(path).touch()


async def test_no_row_gets_into_a_file_that_somebody_put_in_its_place(
    application: Application,
    folder: Path,
    as_nobody: Callable[..., Any],
    before_programs: Callable[[str, Act], None],
) -> None:
    before_programs("pg_dump", lambda: as_nobody(swap_partial, str(folder)))
    application.deploy(GOOD)
    with pytest.raises(MigrationError, match="was replaced by somebody"):
        await application.start(dumping(folder))
    assert application.heads == {"r1"}
    assert [each.stat().st_size for each in of_nobody(folder)] == [0]


async def test_what_was_opened_is_restored_whatever_the_name_leads_to(
    application: Application,
    folder: Path,
    as_nobody: Callable[..., Any],
    before_programs: Callable[[str, Act], None],
) -> None:
    before_programs("pg_restore", lambda: as_nobody(swap_dump, str(folder)))
    application.deploy(HALF_WAY)
    with pytest.raises(MigrationError):
        await application.start(dumping(folder))
    assert application.notes() == ROWS


async def test_a_link_in_the_place_of_a_new_dump_is_not_followed(
    application: Application, shared_folder: Path, as_nobody: Callable[..., Any], tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("dear")
    place = files.path_of(shared_folder, make_url(application.url), STAMP)
    as_nobody(os.symlink, victim, files.partial(place))
    with pytest.raises(Exception, match="a symbolic link and belongs to user 65534"):
        await taken(application, shared_folder)
    assert victim.read_text() == "dear" and files.partial(place).is_symlink()


async def test_dumps_of_another_user_and_of_the_future_cost_no_real_one(
    application: Application,
    shared_folder: Path,
    as_nobody: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = make_url(application.url)
    for day in (1, 2, 3):
        place = files.path_of(shared_folder, url, f"209901{day:02}T000000000000Z")
        as_nobody(plant, str(place))
    files.path_of(shared_folder, url, "20980101T000000000000Z").touch()
    application.deploy(GOOD)
    await application.start(dumping(shared_folder, keep=1))
    assert len(of_nobody(shared_folder)) == 3
    assert len(os.listdir(shared_folder)) == 3 + 3, "the new one is described"
    assert "others may write to the folder of the dumps" in caplog.text
    assert f"belongs to user {NOBODY}" in caplog.text


async def test_one_that_another_user_may_change_is_not_put_back(
    application: Application, shared_folder: Path, as_nobody: Callable[..., Any]
) -> None:
    dump = await taken(application, shared_folder)
    application.execute("DELETE FROM notes")
    os.chown(dump, NOBODY, NOBODY)
    application.deploy(GOOD)
    with pytest.raises(MigrationError, match=f"belongs to user {NOBODY}"):
        await application.start()
    os.chown(dump, os.geteuid(), os.getegid())
    assert (await application.start()).outcome == "migrated"
    assert application.notes() == ROWS


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
async def test_root_puts_back_what_the_owner_of_the_folder_dumped(
    application: Application, tmp_path: Path
) -> None:
    dump = await taken(application, tmp_path / "dumps")
    application.execute("DELETE FROM notes")
    for each in (dump, dump.parent):
        os.chown(each, NOBODY, NOBODY)
    application.deploy(GOOD)
    assert (await application.start()).outcome == "migrated"
    assert application.notes() == ROWS


@pytest.mark.usefixtures("umask")
async def test_dumps_and_the_folders_that_are_made_for_them_are_for_nobody_else(
    application: Application, tmp_path: Path, before_programs: Callable[[str, Act], None]
) -> None:
    folder = tmp_path / "deep" / "dumps"
    seen: set[int] = set()

    def look() -> None:
        seen.update(stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir())

    for name in ("pg_dump", "pg_restore"):
        before_programs(name, look)
    await taken(application, folder)
    look()
    assert seen == {0o600}
    assert {stat.S_IMODE(each.stat().st_mode) for each in (folder, folder.parent)} == {0o700}
    shutil.rmtree(folder.parent)


async def taken(application: Application, folder: Path) -> Path:
    """A start that was killed after its dump; returns where that is."""
    table = VersionTable()
    async with made(application.url).lock([table], 5, silent) as held:
        assert held.snapshots is not None
        options = SnapshotOptions(folder=folder, how="dump")
        snapshot = await held.snapshots.take(STAMP, ("r1",), ("r2",), [table], options)
    return Path(snapshot.place)
