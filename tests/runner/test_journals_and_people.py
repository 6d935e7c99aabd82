"""A journal against a person: what somebody has finished or changed by hand is never undone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from compatibility.applications import BREAD, DIES, HALF_WAY, LATE, Deployed
from compatibility.release import Release
from support import alembic_projects, plain_alembic
from support.notes_application import BROKEN, GOOD, ROWS

from automigrator import Migrator

pytestmark = [
    pytest.mark.plugins,
    pytest.mark.skipif(shutil.which("pg_dump") is None, reason="no PostgreSQL client programs"),
    pytest.mark.long("template", "dump", "True-sqlite", "whole", "a statement", "so_is_one_that"),
]

BY_HAND = "somebody has changed the database by hand"
ALEMBICS = "driver://user:pass@localhost/dbname"
"""The URL in the ini of Alembic's template."""
RESTORING = {
    "sqlite": ("event restore-started", "sql BEGIN EXCLUSIVE"),
    "template": ("event restore-started", "sql ALTER DATABASE .*_side_"),
}
"""When a restore has begun, and has put nothing back yet."""


def killed_half_way(new: Release, app: Deployed) -> None:
    app.deploy(HALF_WAY + DIES)
    new.killed(app.start_with(app.backup()))
    assert (app.notes(), app.heads) == (BREAD, {"r1"})


def by_hand(app: Deployed) -> None:
    """What the application's own command line makes of the database."""
    ini = app.config.with_name("by_hand.ini")
    text = app.config.read_text()
    assert ALEMBICS in text
    ini.write_text(text.replace(ALEMBICS, app.url.replace("%", "%%")))
    plain_alembic.upgraded(ini, check=True)


def finished_by_hand(app: Deployed) -> None:
    """Mend r2, add r3, run the command line, and let the application write."""
    app.mended()
    app.deploy('op.create_table("labels", sa.Column("id", sa.Integer, primary_key=True))')
    by_hand(app)
    app.write_late()


def test_a_migration_that_was_finished_by_hand_and_went_on_is_not_undone(
    new: Release, app: Deployed
) -> None:
    killed_half_way(new, app)
    finished_by_hand(app)

    ended = new.run(app.start_with(app.backup()))

    assert ended.outcome == "current"
    assert BY_HAND in ended.said and "at r3" in ended.said
    assert (app.notes(), app.heads) == ([*BREAD, LATE], {"r3"})
    (copy,) = app.copies()
    assert copy in ended.said and app.notes_in(copy) == ROWS  # a person may want it
    assert BY_HAND not in new.run(app.start_with(app.backup())).said


@pytest.mark.long
@pytest.mark.parametrize("app", ["sqlite", "template"], indirect=True)
@pytest.mark.parametrize("further", [True, False])
def test_neither_is_it_where_a_restore_had_begun(
    further: bool, new: Release, app: Deployed
) -> None:
    app.deploy(HALF_WAY + BROKEN)
    new.killed(app.start_with(app.backup(), dies_at=RESTORING[app.copy]))
    assert (app.notes(), app.heads) == (BREAD, {"r1"})
    if further:
        finished_by_hand(app)
    else:
        app.mended()
        by_hand(app)
        app.write_late()

    ended = new.run(app.start_with(app.backup()))

    assert ended.outcome == "current"
    assert (app.notes(), app.heads) == ([*BREAD, LATE], {"r3"} if further else {"r2"})


@pytest.mark.long
def test_a_backup_of_an_earlier_revision_that_somebody_put_in_is_not_undone(
    new: Release, app: Deployed
) -> None:
    app.deploy(GOOD)
    new.run(app.start_with(app.backup()))
    app.deploy(HALF_WAY + DIES)
    new.killed(app.start_with(app.backup()))
    app.execute("DROP TABLE half", "DROP TABLE tags", "UPDATE alembic_version SET version_num='r1'")
    app.write_late()
    app.mended("pass")

    ended = new.run(app.start_with())

    assert ended.outcome == "migrated"
    assert BY_HAND in ended.said and "at r1" in ended.said
    assert (app.notes(), app.heads) == ([*BREAD, LATE], {"r3"})


@pytest.mark.long
@pytest.mark.parametrize("app", ["sqlite", "template"], indirect=True)
def test_neither_is_one_of_the_very_revision_that_the_migration_began_at(
    new: Release, app: Deployed
) -> None:
    """It is seen to be another file, or database."""
    killed_half_way(new, app)
    app.mended()
    rows = [(7, "of the backup")]
    put_in(app, rows)

    ended = new.run(app.start_with())

    assert ended.outcome == "migrated" and BY_HAND in ended.said
    assert (app.notes(), app.heads) == (rows, {"r2"})


def put_in(app: Deployed, rows: list[tuple[int, str]]) -> None:
    """Put another database of the application's in the place of its own, as after a restore."""
    (copy,) = app.copies()
    if app.is_postgres:
        live = alembic_projects.query(app.url, "SELECT current_database()")[0][0]
        admin = Deployed(app.root / "admin", app.url_of("postgres"), started=False)
        admin.execute(f"DROP DATABASE {live} WITH (FORCE)")
        admin.execute(f'CREATE DATABASE {live} TEMPLATE "{copy}"')
    else:
        path = Path(copy)
        backup = path.with_name("backup.db")
        shutil.copy(path, backup)
        backup.replace(live_of(app))
    app.execute("DELETE FROM notes", *(f"INSERT INTO notes VALUES {row}" for row in rows))


def live_of(app: Deployed) -> Path:
    return Path(app.url.partition("///")[2])


@pytest.mark.long
def test_a_killed_run_that_had_committed_nothing_undoes_nothing(
    new: Release, app: Deployed
) -> None:
    """Whatever was made by hand or written since."""
    app.deploy(f"op.execute('DELETE FROM notes')\n{GOOD}\n{DIES}")
    new.killed(app.start_with(app.backup()))
    app.execute("CREATE INDEX by_hand ON notes (text)")
    app.write_late()
    app.mended()

    ended = new.run(app.start_with())

    assert ended.outcome == "migrated"
    assert "it had committed nothing" in ended.said
    assert (app.notes(), app.heads) == ([*ROWS, LATE], {"r2"})


HELPER = """
def upgrade(op):
    bind = op.get_bind()
    {lines}
"""
DELETES = "bind.exec_driver_sql('DELETE FROM notes WHERE id <> 1')"
COMMITS = {
    "SQLAlchemy": (DELETES, "bind.commit()"),
    "the driver": (DELETES, "bind.connection.commit()"),
    "a statement": (DELETES, "bind.exec_driver_sql('COMMIT')"),
    "a second engine": (
        "import sqlalchemy",
        "engine = sqlalchemy.create_engine({url!r})",
        "with engine.begin() as bind: " + DELETES,
        "engine.dispose()",
    ),
    "a level": (
        "import sqlalchemy",
        "engine = sqlalchemy.create_engine({url!r}, isolation_level='AUTOCOMMIT')",
        "with engine.connect() as bind: " + DELETES,
        "engine.dispose()",
    ),
}
"""How a module that a revision imports deletes rows, and commits that."""


def deploy_with_helper(app: Deployed, way: str, end: str) -> None:
    """The revision's own text tells nothing of a commit."""
    if way in ("a second engine", "a level") and not app.is_postgres:
        pytest.skip("SQLite lets one connection write at a time")
    helper = app.root / "helper.py"
    lines = "\n    ".join(COMMITS[way]).format(url=alembic_projects.with_sync_driver(app.url))
    helper.write_text(HELPER.format(lines=lines))
    app.deploy(f"import runpy\nrunpy.run_path({str(helper)!r})['upgrade'](op)\n{end}")


@pytest.mark.long("the driver")
@pytest.mark.parametrize("way", COMMITS)
def test_a_killed_run_that_had_committed_is_undone_however_it_did(
    way: str, new: Release, app: Deployed
) -> None:
    deploy_with_helper(app, way, DIES)
    new.killed(app.start_with(app.backup()))
    assert (app.notes(), app.heads) == (BREAD, {"r1"})
    app.mended()

    ended = new.run(app.start_with())

    assert ended.outcome == "migrated"
    assert "put back from" in ended.said
    assert (app.notes(), app.heads) == (ROWS, {"r2"})


@pytest.mark.parametrize("way", COMMITS)
def test_so_is_one_that_failed(way: str, new: Release, app: Deployed) -> None:
    deploy_with_helper(app, way, BROKEN)

    ended = new.run(app.start_with(app.backup()))

    assert ended.outcome == "failed"
    assert ended.report["failures"][0]["state"] == "partial-within-revision"
    assert (app.notes(), app.heads) == (ROWS, {"r1"})


@pytest.mark.long
@pytest.mark.parametrize("app", ["sqlite"], indirect=True)
@pytest.mark.parametrize("moment", [(), ("fsync",)], ids=["half", "whole"])
def test_repairs_that_are_killed_leave_one_copy_of_what_they_replace(
    moment: tuple[str, ...], new: Release, app: Deployed
) -> None:
    killed_half_way(new, app)
    app.mended()
    moments = ("event repair-started", "os.rename .*replaced-", *moment)
    for _ in range(3):
        new.killed(app.start_with(dies_at=moments))
    left = [each.name for each in live_of(app).parent.iterdir() if ".replaced-" in each.name]

    ended = new.run(app.start_with())

    assert len(left) <= 2, left  # the last one, and what it repeats
    assert ended.outcome == "migrated" and app.notes() == ROWS
    (kept,) = live_of(app).parent.glob("*.replaced-*")
    assert app.notes(str(kept)) == BREAD


@pytest.mark.long
@pytest.mark.parametrize("app", ["sqlite"], indirect=True)
@pytest.mark.parametrize("original_stays", [True, False])
def test_a_folder_that_was_copied_or_mounted_elsewhere_is_repaired_from_the_copy_in_it(
    original_stays: bool, new: Release, app: Deployed
) -> None:
    killed_half_way(new, app)
    live = live_of(app)
    there = live.parent.with_name(f"{live.parent.name}-elsewhere")
    shutil.copytree(live.parent, there)
    if original_stays:
        (copy,) = app.copies()
        Path(copy).write_bytes(b"no database any more")
    else:
        shutil.rmtree(live.parent)
    moved = Deployed(app.root / "again", f"sqlite+aiosqlite:///{there / live.name}", started=False)
    moved.deploy(GOOD)

    ended = new.run(moved.start_with())

    assert ended.outcome == "migrated"
    assert f"put back from {there}" in ended.said
    assert (moved.notes(), moved.heads) == (ROWS, {"r2"})


@pytest.mark.parametrize("app", ["sqlite", "dump"], indirect=True)
def test_no_application_starts_on_what_a_later_start_undoes(new: Release, app: Deployed) -> None:
    """The copy is on a volume that is not mounted now."""
    killed_half_way(new, app)
    app.mended()
    (copy,) = app.copies()
    away = Path(copy).with_name("away")
    Path(copy).rename(away)

    ended = new.run(app.start_with("log-and-continue", allow_partial=True))

    assert ended.outcome == "failed" and copy in ended.said
    assert "CONTINUE, which is not followed while a journal is open" in ended.said
    away.rename(copy)
    assert new.run(app.start_with("log-and-continue", allow_partial=True)).outcome == "migrated"
    assert (app.notes(), app.heads) == (ROWS, {"r2"})


@pytest.mark.long
async def test_a_start_that_is_not_to_migrate_warns_of_an_open_journal(
    new: Release, app: Deployed
) -> None:
    killed_half_way(new, app)

    report = await Migrator(app.target(), mode="skip").run()

    assert report.outcome == "skipped"
    assert "may hold half of an earlier migration" in str(report.reason)
    app.mended()
    new.run(app.start_with())
    assert "earlier" not in str((await Migrator(app.target(), mode="skip").run()).reason)
