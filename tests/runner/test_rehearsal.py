"""What is pending is applied to a copy first; the database is touched when that worked."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import event, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from support.alembic_projects import contents, heads, query
from support.notes_application import BROKEN, GOOD, HALF_WAY, NOTES, ROWS, UNIQUE, Application
from support.small_disk import small_disk
from support.starters import Start, started

from automigrator import (
    ConfigurationError,
    Decision,
    Event,
    Failure,
    MigrationError,
    Migrator,
    Rehearsal,
    Run,
    Target,
    TargetReport,
    hookimpl,
)
from automigrator.backends.access import Access

pytestmark = pytest.mark.long("postgresql", "refused_rehearsal_is_no_failed_start")

Make = Callable[..., Target]

REQUIRED = 'op.execute("ALTER TABLE notes ADD COLUMN author TEXT NOT NULL")'
"""Fails on both databases where there are rows, on PostgreSQL even where there are none."""
BLOCK = 'with op.get_context().autocommit_block():\n    op.execute("DELETE FROM notes")'
needs_programs = pytest.mark.skipif(
    shutil.which("pg_dump") is None, reason="no PostgreSQL client programs on this machine"
)


class Told:
    """Notes the events, and in their order the hooks of a migration."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.names: list[str] = []

    @hookimpl
    def on_event(self, event: Event) -> None:
        self.events.append(event)
        if not event.name.startswith(("hook-", "run-", "target-")):
            self.names.append(event.name)

    @hookimpl
    def before_migrate(self, run: Run) -> None:
        self.names.append("before_migrate")

    @hookimpl
    def after_migrate(self, run: Run, report: TargetReport) -> None:
        self.names.append("after_migrate")


async def migrated(target: Target, **options: Any) -> TargetReport:
    """The report of a run that rehearses unless it is told otherwise, however it ends."""
    migrator = Migrator(target, mode="migrate", **{"rehearse": True, **options})
    try:
        return (await migrator.run()).targets[0]
    except MigrationError as error:
        return error.report.targets[0]


async def failed(target: Target, **options: Any) -> Failure:
    report = await migrated(target, **options)
    assert report.outcome == "failed", report
    return report.failures[-1]


def traced(application: Application, *lines: str) -> str:
    """A revision's body that notes on which database it runs, and then does more."""
    file = str(application.root / "trace")
    place = "op.get_bind().engine.url.database"
    noted = f"with open({file!r}, 'a') as file:\n    print({place}, file=file)"
    return "\n".join([noted, *lines])


def trace(application: Application) -> list[str]:
    file = application.root / "trace"
    return file.read_text().splitlines() if file.exists() else []


def beside(application: Application) -> list[str]:
    """The copies there are."""
    url = make_url(application.url)
    if url.get_backend_name() == "sqlite":
        return sorted(each.name for each in application.root.glob("app.db.s*"))
    rows = query(application.url, "select datname from pg_database")
    return [row[0] for row in rows if row[0].startswith(f"{url.database}__automigrator")]


def is_sqlite(application: Application) -> bool:
    return application.url.startswith("sqlite")


@asynccontextmanager
async def somebody_connected(application: Application) -> AsyncIterator[None]:
    """On PostgreSQL: a session that a template copy would have to end."""
    if is_sqlite(application):
        yield
        return
    dsn = make_url(application.url).set(drivername="postgresql")
    other = await asyncpg.connect(dsn.render_as_string(hide_password=False))
    try:
        yield
        assert await other.fetchval("select 1") == 1
    finally:
        await other.close()


async def until(reached: Callable[[], object], task: asyncio.Future[Any] | None = None) -> None:
    """Wait for what another process or a revision does, as long as `task` runs."""
    async with asyncio.timeout(60):
        while not reached():
            assert task is None or not task.done(), task
            await asyncio.sleep(0.02)


def state(application: Application) -> object:
    """Byte for byte where it is a file, else row for row."""
    if is_sqlite(application):
        return Path(str(make_url(application.url).database)).read_bytes()
    return contents(application.url)


def long_statement(application: Application) -> str:
    if is_sqlite(application):
        numbers = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
        return f"{numbers} SELECT count(*) FROM c"
    return "SELECT pg_sleep(60)"


@pytest.mark.long("ALTER TABLE", "upgrade3", "upgrade2")
@pytest.mark.parametrize("upgrade", [UNIQUE, REQUIRED, HALF_WAY, f"{BLOCK}\n{BROKEN}"])
async def test_a_revision_that_fails_on_the_rows_fails_on_the_copy_and_touches_nothing(
    upgrade: str, notes: Application
) -> None:
    notes.deploy(GOOD, traced(notes, upgrade))
    before = state(notes)

    report = await migrated(notes.target())

    (failure,) = report.failures
    assert (report.outcome, failure.kind, failure.revision) == ("failed", "revision", "r3")
    assert (failure.state, failure.applied, failure.debris) == ("clean", (), ())
    assert failure.in_rehearsal and failure.statement is not None
    assert "on a copy: the database itself was not touched" in str(failure)
    assert (report.applied, report.after) == ((), ("r1",))
    assert report.rehearsed_s is not None and "rehearsed on a copy in" in str(report)
    assert state(notes) == before
    assert len(trace(notes)) == 1 and trace(notes) != [str(make_url(notes.url).database)]
    assert beside(notes) == []


@pytest.mark.long("create_table")
@pytest.mark.parametrize("body", [GOOD, BLOCK])
async def test_a_good_revision_is_rehearsed_once_and_migrated_once(
    body: str, notes: Application
) -> None:
    notes.deploy(traced(notes, body))

    report = await migrated(notes.target())

    assert report.outcome == "migrated", report
    assert [each.revision for each in report.applied] == ["r2"]
    assert report.rehearsed_s is not None and report.rehearsed_s < report.elapsed_s
    first, second = trace(notes)
    assert "side" in first and second == make_url(notes.url).database
    assert notes.heads == {"r2"} and beside(notes) == []
    assert notes.notes() == (ROWS if body == GOOD else [])


async def test_without_being_asked_nothing_is_rehearsed_and_a_targets_own_word_counts(
    notes: Application,
) -> None:
    notes.deploy(traced(notes, GOOD))
    report = await migrated(notes.target(rehearse=False))
    assert (report.rehearsed_s, len(trace(notes))) == (None, 1)
    notes.deploy(traced(notes))
    report = await migrated(notes.target(rehearse=True), rehearse=False)
    assert report.rehearsed_s is not None and len(trace(notes)) == 3


@pytest.mark.long
async def test_the_rehearsal_comes_before_the_hook_that_a_migration_begins_with(
    notes: Application,
) -> None:
    notes.deploy(GOOD)
    told = Told()
    await migrated(notes.target(), plugins=[told])
    revisions = ["revision-started", "revision-done"]
    assert told.names == [
        "locked",
        "planned",
        "rehearsal-started",
        *revisions,
        "rehearsed",
        "before_migrate",
        "attempt-started",
        *revisions,
        "attempt-finished",
        "after_migrate",
    ]


async def test_a_failed_rehearsal_is_told_and_no_migration_begins(notes: Application) -> None:
    notes.deploy(UNIQUE)
    told = Told()
    await migrated(notes.target(), plugins=[told])
    assert told.names == [
        "locked",
        "planned",
        "rehearsal-started",
        "revision-started",
        "rehearsal-failed",
        "failed",
        "passed",
    ]
    (event,) = [each for each in told.events if each.name == "failed"]
    assert event.data["in_rehearsal"] is True


async def test_nothing_pending_is_not_rehearsed(notes: Application) -> None:
    report = await migrated(notes.target())
    assert (report.outcome, report.rehearsed_s) == ("current", None)


@needs_programs
async def test_others_read_and_write_while_a_revision_is_rehearsed(notes: Application) -> None:
    """The revision has locked the table, on the copy, and waits for a row to come to the other."""
    changed, wrote = notes.root / "changed", notes.root / "wrote"
    waits = f"""
import pathlib, time
op.add_column("notes", sa.Column("author", sa.Text))
pathlib.Path({str(changed)!r}).touch()
until = time.monotonic() + 30
while not pathlib.Path({str(wrote)!r}).exists():
    assert time.monotonic() < until, "nobody could write"
    time.sleep(0.01)
"""
    notes.deploy(traced(notes, waits))

    def write() -> None:
        while not changed.exists():
            time.sleep(0.01)
        notes.execute("INSERT INTO notes (id, text) VALUES (7, 'written meanwhile')")
        wrote.touch()

    async with somebody_connected(notes):
        writing = asyncio.to_thread(write)  # a revision's own sleep stops the loop
        report, _ = await asyncio.gather(migrated(notes.target()), writing)

    assert report.outcome == "migrated", report
    assert [row[0] for row in query(notes.url, "SELECT id FROM notes ORDER BY id")] == [0, 1, 2, 7]
    assert len(trace(notes)) == 2 and beside(notes) == []


async def test_killed_while_it_rehearses_the_next_start_removes_the_copy(
    notes: Application, tmp_path: Path
) -> None:
    reached, slow = notes.root / "reached", notes.root / "slow"
    slow.touch()
    waits = f"""
import pathlib, time
pathlib.Path({str(reached)!r}).touch()
while pathlib.Path({str(slow)!r}).exists():
    time.sleep(0.01)
"""
    notes.deploy(traced(notes, BLOCK, waits))
    start = Start(notes.url, notes.config, {"rehearse": True})
    with started([start], tmp_path) as processes:
        await until(reached.exists)
        assert len(beside(notes)) == 1
        processes.kill(processes.pids[0])
        processes.ended()
    slow.unlink()
    assert notes.notes() == ROWS and len(beside(notes)) == 1

    report = await migrated(notes.target())

    assert (report.outcome, notes.notes(), beside(notes)) == ("migrated", [], [])
    assert len(trace(notes)) == 3


async def test_cancelled_while_it_rehearses_it_leaves_no_copy(notes: Application) -> None:
    long = long_statement(notes)
    notes.deploy(traced(notes, f'op.execute("DELETE FROM notes")\nop.execute("{long}")'))
    before = contents(notes.url)
    run = asyncio.create_task(migrated(notes.target()))
    await until(lambda: trace(notes), run)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert (contents(notes.url), beside(notes)) == (before, [])


@pytest.mark.long("revision_timeout")
@pytest.mark.parametrize("limit", ["statement_timeout", "revision_timeout"])
async def test_limits_hold_for_the_rehearsal(limit: str, notes: Application) -> None:
    long = long_statement(notes)
    notes.deploy(f'op.execute("{long}")')
    options: dict[str, Any] = {limit: 0.5}
    failure = await failed(notes.target(**options))
    assert (failure.kind, failure.revision, failure.in_rehearsal) == ("timeout", "r2", True)
    assert (failure.statement, beside(notes)) == (long, [])


@pytest.mark.long("hardcoded_url")
@pytest.mark.parametrize("kind", ["env_url", "hardcoded_url"])
async def test_an_env_py_that_cannot_be_led_to_the_copy_is_refused_before_anything_changes(
    kind: str, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    application = Application(tmp_path, database_url, kind=kind)
    if kind == "hardcoded_url":
        env = tmp_path / "migrations" / "env.py"
        elsewhere = f"sqlite:///{tmp_path / 'elsewhere.db'}"
        url = make_url(database_url)
        sync = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}[url.get_backend_name()]
        own = url.set(drivername=sync).render_as_string(hide_password=False)
        text = env.read_text()
        assert elsewhere in text
        env.write_text(text.replace(elsewhere, own))
    application.deploy(traced(application, GOOD))
    before = contents(database_url)

    failure = await failed(application.target())

    assert (failure.kind, failure.state) == ("rehearsal", "clean")
    assert "the revisions cannot be rehearsed: env.py cannot be driven" in failure.message
    assert "Target(rehearse=False)" in failure.advice
    assert (contents(database_url), trace(application), beside(application)) == (before, [], [])
    assert (await migrated(application.target(), rehearse=False)).outcome == "migrated"


@pytest.mark.long
async def test_an_env_py_that_swallows_a_revisions_error_does_not_deceive_the_rehearsal(
    tmp_path: Path, database_url: str
) -> None:
    application = Application(tmp_path, database_url, kind="swallows_errors")
    application.deploy(UNIQUE)
    failure = await failed(application.target())
    assert (failure.kind, failure.revision, failure.in_rehearsal) == ("revision", "r2", True)
    assert application.notes() == ROWS


async def test_an_empty_database_has_nothing_to_lose_and_is_not_rehearsed(
    make_target: Make, database_url: str
) -> None:
    called: list[str] = []

    def bootstrap(connection: Any) -> None:
        called.append("bootstrap")

    report = await migrated(make_target(bootstrap=bootstrap, load=lambda: called.append("load")))
    assert (report.outcome, report.rehearsed_s) == ("migrated", None)
    assert called == ["load", "bootstrap"] and heads(database_url) == {"r3"}


@pytest.mark.long
@pytest.mark.parametrize("baseline", ["r1", "base"])
async def test_a_database_without_a_version_row_is_stamped_on_the_copy_too(
    baseline: str, notes: Application
) -> None:
    notes.execute("DROP TABLE alembic_version")
    loaded: list[int] = []
    notes.deploy(traced(notes, GOOD))
    if baseline == "base":
        notes.execute("DROP TABLE notes", "CREATE TABLE unrelated (id INTEGER)")
    target = notes.target(baseline=baseline, load=lambda: loaded.append(1))

    report = await migrated(target)

    assert (report.outcome, notes.heads, beside(notes)) == ("migrated", {"r2"}, [])
    assert len(trace(notes)) == 2 and loaded == [1]


class Answering:
    """Repairs what the revision could not bear, once, and says to try again."""

    def __init__(self, application: Application) -> None:
        self.application, self.asked = application, 0

    @hookimpl
    def on_failure(self, run: Run, failure: Failure) -> Decision | None:
        self.asked += 1
        self.application.execute("DELETE FROM notes WHERE id = 2")
        return Decision.RETRY


@pytest.mark.long
async def test_another_attempt_after_a_failed_rehearsal_is_rehearsed_again(
    notes: Application,
) -> None:
    notes.deploy(traced(notes, UNIQUE))
    answering = Answering(notes)
    report = await migrated(notes.target(), plugins=[answering])
    assert (report.outcome, answering.asked, len(trace(notes))) == ("recovered", 1, 3)
    assert len(report.failures) == 1 and report.failures[0].in_rehearsal


@pytest.mark.long
async def test_another_attempt_after_a_rehearsal_that_worked_is_not(notes: Application) -> None:
    class Fails:
        calls = 0

        @hookimpl
        def before_migrate(self, run: Run) -> None:
            self.calls += 1
            if self.calls == 1:
                raise OSError("not yet")

        @hookimpl
        def on_failure(self, run: Run, failure: Failure) -> Decision:
            return Decision.RETRY

    notes.deploy(traced(notes, GOOD))
    report = await migrated(notes.target(), plugins=[Fails()])
    assert (report.outcome, len(trace(notes))) == ("recovered", 2)
    assert not report.failures[0].in_rehearsal


@pytest.mark.plugins
async def test_a_failed_rehearsal_leaves_a_restoring_strategy_nothing_to_do(
    notes: Application,
) -> None:
    notes.deploy(HALF_WAY)
    report = await migrated(notes.target(), recovery=["backup-restore", "log-and-continue"])
    assert (report.outcome, notes.notes(), beside(notes)) == ("degraded", ROWS, [])
    assert not any("restore" in note for note in report.notes)


@pytest.mark.long
@pytest.mark.plugins
async def test_a_purge_follows_a_failed_rehearsal_as_any_failed_revision(
    notes: Application,
) -> None:
    notes.deploy(UNIQUE)
    report = await migrated(notes.target(), recovery=["purge"])
    assert (report.outcome, notes.heads, notes.notes()) == ("recovered", {"r2"}, [])
    assert [each.revision for each in report.applied] == ["r1", "r2"]
    assert [name for name in beside(notes) if "side" in name] == []


async def test_a_database_in_memory_cannot_be_rehearsed_and_is_not_touched(
    make_target: Make,
) -> None:
    from sqlalchemy import StaticPool, text

    engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE notes (id INTEGER)"))
    target = make_target(database=engine, baseline="base")
    failure = await failed(target)
    assert failure.kind == "rehearsal" and "in memory" in failure.message
    assert "Target(rehearse=False)" in failure.advice
    async with engine.begin() as connection:
        rows = await connection.execute(text("SELECT name FROM sqlite_master"))
        assert rows.scalars().all() == ["notes"]
    await engine.dispose()


async def test_without_room_for_a_copy_nothing_is_changed(tmp_path: Path) -> None:
    with small_disk(8) as place:
        url = f"sqlite+aiosqlite:///{place / 'app.db'}"
        application = Application(tmp_path, url)
        application.execute(
            "CREATE TABLE bulk (x BLOB)", "INSERT INTO bulk VALUES (zeroblob(4000000))"
        )
        application.deploy(traced(application, GOOD))
        failure = await failed(application.target())
        assert (failure.kind, failure.state) == ("disk-full", "clean")
        assert "a copy to rehearse on of" in failure.message
        assert "nothing was changed" in failure.message
        assert trace(application) == [] and application.heads == {"r1"}
        assert sorted(p.name for p in place.iterdir() if "side" in p.name) == []


@pytest.mark.long
async def test_functions_that_the_applications_listeners_add_are_there_on_the_copy(
    tmp_path: Path, sqlite_url: str
) -> None:
    application = Application(tmp_path, sqlite_url)
    application.deploy(traced(application, 'op.execute("UPDATE notes SET text = shout(text)")'))
    engine = create_async_engine(sqlite_url)

    @event.listens_for(engine.sync_engine, "connect")
    def shouting(connection: Any, record: object) -> None:
        connection.create_function("shout", 1, str.upper)

    report = await migrated(Target(engine, application.config, drive="given"))
    await engine.dispose()
    assert (report.outcome, len(trace(application))) == ("migrated", 2)
    assert [text for _, text in application.notes()] == [note.upper() for note in NOTES]


async def test_an_engine_that_always_leads_to_its_own_database_is_refused(
    notes: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Access.engine

    def stubborn(self: Access, database: str | None = None, **options: Any) -> Any:
        return engine(self, None if "side" in str(database) else database)

    monkeypatch.setattr(Access, "engine", stubborn)
    notes.deploy(traced(notes, GOOD))
    failure = await failed(notes.target())
    assert failure.kind == "rehearsal" and "leads to its own database" in failure.message
    assert (notes.heads, trace(notes), beside(notes)) == ({"r1"}, [], [])


async def test_a_refused_rehearsal_is_no_failed_start(tmp_path: Path, postgres_url: str) -> None:
    """What it is refused for can be mended while the revisions stay the same."""
    application = Application(tmp_path, postgres_url)
    application.deploy(GOOD)
    lonely = application.target(maintenance_database="no_such_database")
    for _ in range(2):
        report = await migrated(lonely, max_failed_starts=1)
        assert (report.failures[0].kind, report.failed_starts) == ("rehearsal", 0)
        assert "maintenance_database=" in report.failures[0].message
    assert (await migrated(application.target(), max_failed_starts=1)).outcome == "migrated"


@pytest.mark.long
async def test_killed_at_any_moment_the_next_start_ends_well_and_leaves_no_copy(
    notes: Application, tmp_path: Path
) -> None:
    notes.deploy(GOOD, UNIQUE.replace("unique=True", "unique=False"))
    start = Start(notes.url, notes.config, {"rehearse": True})
    draw = random.Random(11)
    for moment in range(12):
        with started([start], tmp_path) as processes:
            await asyncio.sleep(draw.uniform(0, 1.2))
            processes.kill(processes.pids[0])
            processes.ended()
        assert notes.notes() == ROWS, moment
        if notes.heads == {"r3"}:
            notes.execute(
                "DROP TABLE tags",
                "DROP INDEX one_of_each",
                "UPDATE alembic_version SET version_num = 'r1'",
            )
    report = await migrated(notes.target(), max_failed_starts=0)
    assert report.outcome == "migrated"
    assert (notes.heads, notes.notes(), beside(notes)) == ({"r3"}, ROWS, [])


def test_a_wrong_choice_is_refused_at_once(make_target: Make, sqlite_url: str) -> None:
    with pytest.raises(ConfigurationError, match="rehearse='yes' is not True"):
        make_target(database=sqlite_url, rehearse="yes")
    target = make_target(database=sqlite_url, folder="second")
    with pytest.raises(ConfigurationError, match="rehearse=1 is not True"):
        Migrator(target, rehearse=1)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="copy='rsync' is not one of"):
        Rehearsal(copy="rsync")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="disconnects nobody"):
        Rehearsal(copy="dump", disconnect_others=True)
