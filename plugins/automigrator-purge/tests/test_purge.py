"""A fresh database takes the place of one that cannot be migrated; nothing else is ever touched."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from automigrator_purge import Purge
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool
from support.notes_application import BROKEN, GOOD, ROWS, UNIQUE, Application, set_aside

from automigrator import Event, MigrationError, Migrator, PluginError, Run, Target, hookimpl

pytestmark = pytest.mark.long("[postgresql", "for_a_sync_driver", "old_data_is_deleted")


@pytest.fixture
def file_notes(tmp_path: Path, sqlite_url: str) -> Application:
    return Application(tmp_path, sqlite_url)


async def test_data_that_is_in_the_way_is_set_aside_and_the_application_starts_afresh(
    notes: Application, caplog: pytest.LogCaptureFixture
) -> None:
    notes.deploy(UNIQUE, GOOD)
    (report,) = (await notes.start("purge")).targets
    assert (report.outcome, report.attempts, report.after) == ("recovered", 2, ("r3",))
    assert [failure.kind for failure in report.failures] == ["revision"]
    assert [applied.revision for applied in report.applied] == ["r1", "r2", "r3"]
    assert notes.notes() == []
    assert {"notes", "tags"} <= notes.tables
    place = set_aside(report)
    assert notes.notes(place) == ROWS
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert any(place in text for text in warnings)


async def test_a_revision_for_a_sync_driver_is_run_by_one_in_the_fresh_database_as_well(
    tmp_path: Path, postgres_url: str
) -> None:
    pytest.importorskip("psycopg")
    notes = Application(tmp_path, postgres_url, kind="generic")
    # asyncpg takes no text for a number, psycopg does
    typed = "op.get_bind().execute(sa.text('SELECT CAST(:n AS int)'), {'n': '7'})"
    notes.deploy(typed, UNIQUE)
    (report,) = (await notes.start("purge")).targets
    assert (report.outcome, report.after) == ("recovered", ("r3",))
    assert notes.notes(set_aside(report)) == ROWS


async def test_old_data_is_deleted_only_when_that_was_asked_for(file_notes: Application) -> None:
    file_notes.deploy(UNIQUE)
    (report,) = (await file_notes.start(("purge", {"set_aside": False}))).targets
    assert report.outcome == "recovered"
    assert any("the old data was deleted, as configured" in note for note in report.notes)
    left = {path.name for path in file_notes.root.glob("app.db*")}
    assert left <= {"app.db", "app.db.automigrator-lock"}


ONLY_DAMAGED = ("purge", {"when": "damaged"})


async def test_a_cache_may_be_purged_for_damage_and_kept_for_a_failing_revision(
    file_notes: Application,
) -> None:
    file_notes.deploy(UNIQUE)
    with pytest.raises(MigrationError) as info:
        await file_notes.start(ONLY_DAMAGED)
    assert "not purged: when='damaged' is for a damaged file alone" in str(info.value)
    assert file_notes.notes() == ROWS

    (file_notes.root / "app.db").write_bytes(b"no database" * 2000)
    assert (await file_notes.start(ONLY_DAMAGED)).outcome == "recovered"


@pytest.mark.long("options1", "options3", "options0")
@pytest.mark.parametrize(
    ("options", "left"), [({}, 3), ({"keep": 2}, 2), ({"max_age": 365}, 1), ({"keep": 1}, 1)]
)
async def test_the_data_of_earlier_purges_stays_unless_a_limit_was_set(
    options: dict[str, Any], left: int, file_notes: Application
) -> None:
    for month in (1, 2):
        old = file_notes.root / f"app.db.purged-20200{month}01T000000Z"
        old.write_bytes((file_notes.root / "app.db").read_bytes())
    file_notes.deploy(UNIQUE)
    (report,) = (await file_notes.start(("purge", options))).targets
    assert report.outcome == "recovered"
    kept = sorted(file_notes.root.glob("app.db.purged-*"))
    assert len(kept) == left
    assert str(kept[-1]) == set_aside(report)
    assert file_notes.notes(set_aside(report)) == ROWS


@pytest.mark.long
async def test_the_next_start_after_a_purge_has_nothing_to_do(notes: Application) -> None:
    notes.deploy(UNIQUE)
    await notes.start("purge")
    assert (await notes.start("purge")).outcome == "current"


async def test_where_a_fresh_database_fails_as_well_the_old_one_is_not_touched(
    notes: Application,
) -> None:
    notes.deploy(GOOD, BROKEN)
    with pytest.raises(MigrationError) as info:
        await notes.start("purge")
    (report,) = info.value.report.targets
    assert (report.attempts, report.after) == (1, ("r1",))
    assert any("not purged: a fresh database cannot be migrated either" in n for n in report.notes)
    assert notes.notes() == ROWS
    assert notes.tables == {"notes", "alembic_version"}


class Refusing:
    @hookimpl
    def before_migrate(self, run: Run) -> None:
        raise RuntimeError("no")


def make_unversioned(notes: Application) -> None:
    notes.execute("DROP TABLE alembic_version")


def put_ahead(notes: Application) -> None:
    notes.execute("UPDATE alembic_version SET version_num = 'from_the_future'")


def break_a_revision_file(notes: Application) -> None:
    notes.deploy("def unfinished(:")


def deploy_behind_a_plugin_that_raises(notes: Application) -> None:
    notes.deploy(UNIQUE)


@pytest.mark.long("sqlite-ahead", "sqlite-hook")
@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("unversioned", make_unversioned),
        ("ahead", put_ahead),
        ("history", break_a_revision_file),
        ("hook", deploy_behind_a_plugin_that_raises),
    ],
)
async def test_a_failure_that_a_fresh_database_does_not_cure_never_costs_data(
    kind: str, cause: Any, notes: Application
) -> None:
    cause(notes)
    with pytest.raises(MigrationError) as info:
        await notes.start("purge", plugins=[Refusing()])
    (report,) = info.value.report.targets
    assert [failure.kind for failure in report.failures] == [kind]
    assert notes.notes() == ROWS


async def test_a_corrupt_file_is_set_aside_byte_for_byte(
    file_notes: Application, tmp_path: Path
) -> None:
    file = tmp_path / "app.db"
    file.write_bytes(b"this is not a database" * 400)
    damaged = file.read_bytes()
    (report,) = (await file_notes.start("purge")).targets
    assert (report.outcome, report.after) == ("recovered", ("r1",))
    assert [failure.kind for failure in report.failures] == ["corrupt"]
    assert ".corrupt-" in set_aside(report)
    assert (tmp_path / set_aside(report)).read_bytes() == damaged


async def test_a_purge_that_did_not_help_is_not_repeated(file_notes: Application) -> None:
    purges = []

    class Helpless(Migrator):
        async def recreate_database(self, run: Run, **options: Any) -> str | None:
            purges.append(run.attempt)
            return None

    file_notes.deploy(UNIQUE)
    with pytest.raises(MigrationError) as info:
        await file_notes.start("purge", migrator=Helpless)
    assert purges == [1]
    assert info.value.report.targets[0].attempts == 2


@pytest.mark.long
async def test_a_database_in_memory_is_refused_and_kept(tmp_path: Path) -> None:
    engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
    application = Application(tmp_path, "sqlite+aiosqlite://", started=False)
    target = Target(engine, tmp_path / "alembic.ini")
    await Migrator(target, mode="migrate").run()
    async with engine.begin() as connection:
        await connection.exec_driver_sql("INSERT INTO notes VALUES (1, 'milk'), (2, 'milk')")
    application.deploy(UNIQUE)
    with pytest.raises(MigrationError) as info:
        await Migrator(target, mode="migrate", recovery=["purge"]).run()
    assert any("in memory" in note for note in info.value.report.targets[0].notes)
    async with engine.connect() as connection:
        rows = (await connection.exec_driver_sql("SELECT id FROM notes")).all()
    assert len(rows) == 2
    await engine.dispose()


@pytest.mark.parametrize("option", ["set_aside", "disconnect_others"])
def test_an_option_that_is_no_truth_value_is_refused(option: str) -> None:
    options: dict[str, Any] = {option: "no"}
    with pytest.raises(ValueError, match=f"{option} must be True or False, not 'no'"):
        Purge(**options)


def test_a_limit_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="keep must be a whole number from 1 up or None, not 0"):
        Purge(keep=0)
    with pytest.raises(ValueError, match="max_age must be a timedelta or days above zero"):
        Purge(max_age=-1)


async def test_a_wrong_option_stops_the_run_before_anything_is_done(notes: Application) -> None:
    notes.deploy(GOOD)
    with pytest.raises(PluginError, match="'purge' of .* refuses its options"):
        await notes.start(("purge", {"set_aside": 1}))
    assert notes.heads == {"r1"}


@pytest.mark.long
async def test_a_target_that_shares_its_database_by_schema_is_refused_before_anything_is_built(
    tmp_path: Path, postgres_url: str
) -> None:
    notes = Application(tmp_path, postgres_url, kind="version_table", started=False)
    await notes.start()
    notes.execute(
        *(f"INSERT INTO notes VALUES ({n}, '{text}')" for n, text in ROWS),
        "CREATE SCHEMA neighbour",
        "CREATE TABLE neighbour.orders AS SELECT 7 AS id",
    )
    notes.deploy(UNIQUE)
    live = make_url(postgres_url).database
    ran: list[object] = []

    class Watching:
        @hookimpl
        def on_event(self, event: Event) -> None:
            if event.name == "revision-started":
                ran.append(event.data["revision"])

    with pytest.raises(MigrationError) as info:
        await notes.start("purge", plugins=[Watching()])
    (report,) = info.value.report.targets
    (note,) = report.notes
    assert note.startswith(f"not purged: cannot replace database {live!r}: ")
    assert "neighbour.orders" in note and "nothing was changed" in note
    assert "Give the target a database of its own" in note
    assert ran == ["r2"]  # r1 would have been run in a fresh one
    assert notes.notes() == ROWS
    assert {"neighbour.orders", "meta.my_versions"} <= notes.tables
