"""A database that holds somebody else's tables is not replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from automigrator_purge import Purge
from sqlalchemy import Connection
from support.notes_application import GOOD, ROWS, UNIQUE, Application, set_aside

from automigrator import MigrationError, Migrator, Target

pytestmark = pytest.mark.long("[postgresql", "partitions_of_a_table", "another_schema_may_be")

Make = Callable[..., Target]


@pytest.fixture
def file_notes(tmp_path: Path, sqlite_url: str) -> Application:
    return Application(tmp_path, sqlite_url)


async def note_of(application: Application, *recovery: Any) -> str:
    """What the report says of a purge that was refused; nothing is touched then."""
    before = application.tables
    with pytest.raises(MigrationError) as info:
        await application.start(*(recovery or ("purge",)))
    assert application.tables == before
    assert application.notes() == ROWS
    (note,) = info.value.report.targets[0].notes
    return note


@pytest.mark.long("version_b")
@pytest.mark.parametrize("table", ["version_b", "Version_B"])
async def test_another_history_in_the_same_database_stops_the_purge_whatever_is_named(
    table: str, notes: Application
) -> None:
    notes.execute(
        f"CREATE TABLE {table} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
        "CREATE TABLE accounts (id INTEGER)",
    )
    notes.deploy(UNIQUE)

    note = await note_of(notes, ("purge", {"also": [table, "accounts"], "set_aside": False}))

    assert "has another history's version table: " in note and "nothing was changed" in note
    assert "Give the target a " in note


async def test_a_table_that_nobody_knows_stops_the_purge_and_is_named(notes: Application) -> None:
    notes.execute("CREATE TABLE jobs (id INTEGER)", "CREATE TABLE audit (id INTEGER)")
    notes.deploy(UNIQUE)

    note = await note_of(notes)

    assert note.startswith("not purged: cannot replace ")
    assert "audit, jobs" in note and "nothing was changed" in note
    assert "Purge(also=['audit', 'jobs'])" in note


@pytest.mark.long("sqlite-jobs")
@pytest.mark.parametrize("name", ["jobs", "JOBS"])
async def test_a_table_that_the_configuration_names_may_be_replaced(
    name: str, notes: Application
) -> None:
    if "sqlite" not in notes.url:
        name = f"public.{name.lower()}"
    notes.execute("CREATE TABLE jobs (id INTEGER)")
    notes.deploy(UNIQUE)

    (report,) = (await notes.start(("purge", {"also": [name]}))).targets

    assert report.outcome == "recovered"
    assert notes.notes(set_aside(report)) == ROWS
    assert "jobs" not in notes.tables


async def test_the_tables_of_the_old_heads_and_of_the_new_ones_are_known(
    notes: Application,
) -> None:
    notes.deploy('op.create_table("drafts", sa.Column("id", sa.Integer))')
    await notes.start()
    assert "drafts" in notes.tables
    notes.deploy('op.rename_table("drafts", "entries")', UNIQUE)

    (report,) = (await notes.start("purge")).targets

    assert report.outcome == "recovered"
    assert [each.revision for each in report.applied] == ["r1", "r2", "r3", "r4"]
    assert {"notes", "entries"} <= notes.tables and "drafts" not in notes.tables
    assert notes.notes(set_aside(report)) == ROWS


@pytest.mark.long
async def test_a_table_that_the_history_has_dropped_before_is_not_known(
    notes: Application,
) -> None:
    notes.deploy('op.create_table("jobs", sa.Column("id", sa.Integer))', 'op.drop_table("jobs")')
    await notes.start()
    notes.execute("CREATE TABLE jobs (id INTEGER)")
    notes.deploy(UNIQUE)

    assert "jobs" in await note_of(notes)


@pytest.mark.long
async def test_what_half_of_a_pending_revision_left_is_known(notes: Application) -> None:
    notes.deploy(
        'op.create_table("half", sa.Column("id", sa.Integer))\n'
        "with op.get_context().autocommit_block(): op.execute('SELECT 1')\n" + UNIQUE,
        'op.rename_table("half", "whole")',
    )

    (report,) = (await notes.start("purge")).targets

    assert report.outcome == "recovered"
    assert {"notes", "whole"} <= notes.tables


@pytest.mark.long
async def test_revisions_of_this_run_that_stay_applied_are_in_the_way_of_no_purge(
    tmp_path: Path, sqlite_url: str
) -> None:
    notes = Application(tmp_path, sqlite_url, kind="per_migration")
    notes.deploy(GOOD, UNIQUE)

    (report,) = (await notes.start("purge")).targets

    assert (report.outcome, report.failures[0].applied) == ("recovered", ("r2",))
    assert notes.notes(set_aside(report)) == ROWS


def everything(connection: Connection) -> str:
    connection.exec_driver_sql("CREATE TABLE notes (id INTEGER PRIMARY KEY, text VARCHAR(50))")
    connection.exec_driver_sql("CREATE TABLE settings (id INTEGER)")
    return "r3"


@pytest.mark.long
async def test_what_bootstrap_makes_is_known_and_what_the_old_heads_had(
    notes: Application,
) -> None:
    notes.deploy('op.create_table("drafts", sa.Column("id", sa.Integer))')
    await notes.start()
    notes.execute("CREATE TABLE settings (id INTEGER)")
    notes.deploy('op.drop_table("drafts")', UNIQUE)
    target = notes.target(bootstrap=everything)

    (report,) = (await Migrator(target, mode="migrate", recovery=["purge"]).run()).targets

    assert report.outcome == "recovered"
    assert "settings" in notes.tables and "drafts" not in notes.tables


async def test_the_databases_own_tables_and_those_of_a_full_text_index_are_known(
    file_notes: Application,
) -> None:
    file_notes.deploy(
        "op.execute('CREATE VIRTUAL TABLE found USING fts5(text)')\n"
        "op.execute('CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT)')"
    )
    await file_notes.start()
    file_notes.execute(
        "ANALYZE", "CREATE TABLE _alembic_tmp_notes (id INTEGER)", "INSERT INTO counted VALUES (1)"
    )
    file_notes.deploy(UNIQUE)

    assert (await file_notes.start("purge")).outcome == "recovered"


@pytest.mark.long
async def test_a_full_text_index_of_somebody_else_is_named_once(file_notes: Application) -> None:
    file_notes.execute("CREATE VIRTUAL TABLE found USING fts5(text)")
    file_notes.deploy(UNIQUE)

    assert "Purge(also=['found'])" in await note_of(file_notes)
    assert (await file_notes.start(("purge", {"also": ["found"]}))).outcome == "recovered"


async def test_a_table_that_comes_while_the_fresh_database_is_made_is_seen(
    file_notes: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    from automigrator.backends.sqlite import side

    take_over = side.FileSides._take_over

    def late(*arguments: Any) -> Any:
        file_notes.execute("CREATE TABLE late (id INTEGER)")
        return take_over(*arguments)

    monkeypatch.setattr(side.FileSides, "_take_over", late)
    file_notes.deploy(UNIQUE)
    with pytest.raises(MigrationError) as info:
        await file_notes.start(("purge", {"set_aside": False}))

    assert "late" in info.value.report.targets[0].notes[0]
    assert file_notes.notes() == ROWS and "late" in file_notes.tables
    left = {path.name for path in file_notes.root.glob("app.db*")}
    assert left <= {"app.db", "app.db.automigrator-lock", "app.db.automigrator-record.json"}


async def test_an_extensions_tables_and_the_partitions_of_a_table_are_known(
    tmp_path: Path, postgres_url: str
) -> None:
    notes = Application(tmp_path, postgres_url)
    notes.deploy(
        "op.execute('CREATE TABLE events (at date NOT NULL) PARTITION BY RANGE (at)')\n", GOOD
    )
    await notes.start()
    bounds = "FROM ('2026-01-01') TO ('2027-01-01')"
    notes.execute(f"CREATE TABLE events_2026 PARTITION OF events FOR VALUES {bounds}")
    notes.deploy(UNIQUE)

    assert (await notes.start("purge")).outcome == "recovered"


async def test_tables_of_another_schema_may_be_named(tmp_path: Path, postgres_url: str) -> None:
    notes = Application(tmp_path, postgres_url)
    notes.execute("CREATE SCHEMA neighbour", "CREATE TABLE neighbour.orders AS SELECT 7 AS id")
    notes.deploy(UNIQUE)

    assert "Purge(also=['neighbour.orders'])" in await note_of(notes)
    also = ("purge", {"also": ["neighbour.orders"]})
    assert (await notes.start(also)).outcome == "recovered"


@pytest.mark.parametrize("value", ["jobs", [1], [""]])
def test_also_is_a_list_of_names(value: Any) -> None:
    with pytest.raises(ValueError, match="also must be a list of names"):
        Purge(also=value)


async def test_tables_without_a_version_row_are_nobodys_to_purge(notes: Application) -> None:
    notes.execute("DELETE FROM alembic_version")
    target = notes.target(baseline="base")

    with pytest.raises(MigrationError) as info:
        await Migrator(target, mode="migrate", recovery=["purge"]).run()

    assert "no version row" in info.value.report.targets[0].notes[0]
    assert notes.notes() == ROWS
