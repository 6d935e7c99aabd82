"""A run tells of every revision as it goes, and stops soon and cleanly when it is cancelled."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import NullPool, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from support.alembic_projects import heads, linear, query, revision, tables
from support.process_state import unchanged_process

from automigrator import Decision, Event, Failure, Migrator, Run, Target, hookimpl

pytestmark = pytest.mark.long(
    "per_migration",
    "ignores_connection",
    "kept1-given",
    "kept0-own",
    "[postgresql-async-kept0",
    "starts_and_ends[postgresql",
    "goes_on[postgresql",
    "cancelled_one[postgresql",
    "committed[postgresql",
    "loop[postgresql-generic",
    "loop[sqlite-async",
    "further[postgresql",
    "further[sqlite-async",
    "later[postgresql",
    "finds_it_done[postgresql",
    "between_revisions[postgresql",
    "finds_it_done[postgresql",
    "limit[postgresql",
    "postgresql-generic-kept1-own",
    "awaits_on_the_loop[postgresql",
    "immediate[postgresql",
    "copy_that_was_done",
)

Make = Callable[..., Target]

ENDLESS = {
    "sqlite": "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) "
    "SELECT count(*) FROM c",
    "postgresql": "SELECT pg_sleep(60)",
}


def with_third(body: str) -> Callable[[Path], None]:
    def revisions(folder: Path) -> None:
        linear(folder, 2)
        made = 'op.create_table("half", sa.Column("id", sa.Integer, primary_key=True))'
        imports = "import asyncio\nimport time"
        revision(folder, "r3", "r2", imports=imports, upgrade=f"{made}\n{body}")

    return revisions


@pytest.mark.parametrize("kind", ["async", "per_migration"])
@pytest.mark.parametrize("drive", ["given", "own"])
async def test_every_revision_is_told_of_as_it_starts_and_ends(
    kind: str,
    drive: Any,
    make_target: Make,
    database_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    migrator = Migrator(make_target(kind=kind, drive=drive), mode="migrate")
    subscription = migrator.events()

    with caplog.at_level(logging.INFO, "automigrator"):
        await migrator.run()

    events = [e async for e in subscription if e.name.startswith("revision-")]
    assert [(e.name, e.data["revision"]) for e in events] == [
        (f"revision-{what}", f"r{n}") for n in (1, 2, 3) for what in ("started", "done")
    ]
    starts = [(e.data["index"], e.data["total"]) for e in events if e.name == "revision-started"]
    assert starts == [(1, 3), (2, 3), (3, 3)]
    assert all(0 < e.data["seconds"] < 10 for e in events if e.name == "revision-done")
    lines = [re.sub(r"[\d.]+ s$", "", r.getMessage()) for r in caplog.records]
    name = migrator.targets[0].name
    assert f"{name}: revision 2/3 r2 started" in lines
    assert f"{name}: revision r2 done in " in lines


async def test_progress_arrives_while_the_migration_goes_on(
    make_target: Make, database_url: str
) -> None:
    async def second_is_done(events: Any) -> None:
        async for event in events:
            if event.name == "revision-done" and event.data["revision"] == "r2":
                return

    body = "op.run_async(lambda connection: asyncio.sleep(0.5))"
    migrator = Migrator(make_target(with_third(body)), mode="migrate")
    told = asyncio.create_task(second_is_done(migrator.events()))
    running = asyncio.create_task(migrator.run())

    await asyncio.wait_for(told, 10)

    assert not running.done()
    await running


class NeverAsked:
    @hookimpl
    def on_failure(self, run: Run, failure: Failure) -> Decision:
        raise AssertionError("a cancellation is no failure")


async def cancelled_in_third(target: Target, *, after: float = 0.1) -> tuple[float, list[Event]]:
    """Cancel a run once r3 is under way; returns the seconds until it has ended."""
    migrator = Migrator(target, mode="migrate", plugins=[NeverAsked()])
    events = migrator.events()
    seen: list[Event] = []

    async def third_is_started() -> None:
        async for event in events:
            seen.append(event)
            if event.name == "revision-started" and event.data["revision"] == "r3":
                return

    with unchanged_process():
        running = asyncio.create_task(migrator.run())
        await asyncio.wait_for(third_is_started(), 10)
        await asyncio.sleep(after)
        began = time.monotonic()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    seconds = time.monotonic() - began
    seen += [event async for event in events]
    return seconds, seen


async def nothing_is_left(target: Target, url: str, versions: Path, kept: set[str]) -> None:
    """What a cancelled run left, and that the next one is not held up by it."""
    assert heads(url) == kept
    assert "half" not in tables(url)
    with_third("pass")(versions)
    began = time.monotonic()

    report = await Migrator(target, mode="migrate").run()

    assert report.outcome == "migrated"
    assert heads(url) == {"r3"}
    assert report.targets[0].waited_s < 1 and time.monotonic() - began < 5


@pytest.mark.long("sqlite-generic")
@pytest.mark.parametrize("drive", ["given", "own"])
@pytest.mark.parametrize(
    ("kind", "kept"), [("async", set()), ("generic", set()), ("per_migration", {"r2"})]
)
async def test_cancelling_interrupts_a_long_statement_and_rolls_its_revision_back(
    kind: str,
    kept: set[str],
    drive: Any,
    make_target: Make,
    database_url: str,
    versions: Path,
) -> None:
    endless = ENDLESS[make_url(database_url).get_backend_name()]
    target = make_target(with_third(f"op.execute({endless!r})"), kind=kind, drive=drive)

    seconds, events = await cancelled_in_third(target)

    assert seconds < 2
    assert "failed" not in [event.name for event in events]
    await nothing_is_left(target, database_url, versions, kept)


@pytest.mark.parametrize("kind", ["async", "generic"])
async def test_cancelling_ends_what_a_revision_awaits_on_the_loop(
    kind: str, make_target: Make, database_url: str, versions: Path
) -> None:
    body = "op.run_async(lambda connection: asyncio.sleep(60))"
    target = make_target(with_third(body), kind=kind, drive="given")

    seconds, _ = await cancelled_in_third(target)

    assert seconds < 2
    await nothing_is_left(target, database_url, versions, set())


@pytest.mark.parametrize("kind", ["async", "generic", "ignores_connection"])
async def test_cancelling_a_thread_waits_for_its_python_code_and_goes_no_further(
    kind: str, make_target: Make, database_url: str, versions: Path
) -> None:
    def revisions(folder: Path) -> None:
        with_third("time.sleep(0.4)")(folder)
        revision(folder, "r4", "r3", upgrade="raise AssertionError('too far')")

    target = make_target(revisions, kind=kind, drive="own")

    seconds, events = await cancelled_in_third(target)

    assert 0.1 < seconds < 2
    started = [e.data["revision"] for e in events if e.name == "revision-started"]
    assert started == ["r1", "r2", "r3"]
    (versions / "r4_.py").unlink()
    await nothing_is_left(target, database_url, versions, set())


async def test_cancelling_between_revisions_keeps_those_that_are_committed(
    make_target: Make, database_url: str, versions: Path
) -> None:
    body = "time.sleep(0.4)"
    target = make_target(with_third(body), kind="per_migration", drive="own")

    await cancelled_in_third(target)

    # r3 itself ran to its end: a thread stops at the next boundary only
    assert heads(database_url) in ({"r2"}, {"r3"})
    assert ("half" in tables(database_url)) == (heads(database_url) == {"r3"})
    report = await Migrator(target, mode="migrate").run()
    assert report.targets[0].after == ("r3",)


class Copies:
    """Takes a copy of the database before it is migrated."""

    effect = "reverting"

    @hookimpl
    async def before_migrate(self, run: Run) -> None:
        await run.snapshot()


@pytest.mark.parametrize("kind", ["async", "per_migration"])
async def test_the_next_run_does_not_undo_rows_written_after_a_cancelled_one(
    kind: str, make_target: Make, database_url: str
) -> None:
    body = f"op.execute('{ENDLESS[make_url(database_url).get_backend_name()]}')"
    first = make_target(kind=kind, revisions=lambda folder: linear(folder, 1))
    await Migrator(first, mode="migrate").run()
    folder = Path(str(first.config)).parent / "migrations" / "versions"
    revision(folder, "r2", "r1", upgrade="op.create_table('two', sa.Column('id', sa.Integer))")
    broken = revision(folder, "r3", "r2", upgrade=body)
    migrator = Migrator(first, mode="migrate", plugins=[Copies()])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(migrator.run(), 1.5)
    assert heads(database_url) == {"r1"}
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO users (id, name) VALUES (1, 'later')"))
    await engine.dispose()
    broken.unlink()

    report = await Migrator(first, mode="migrate").run()

    assert report.outcome == "migrated" and not report.targets[0].notes
    assert [row[0] for row in query(database_url, "SELECT name FROM users")] == ["later"]


class CancelledCopy:
    """Has the run cancelled so many seconds after it has begun to copy the database."""

    effect = "reverting"

    def __init__(self, after: float) -> None:
        self.after = after
        self.running: asyncio.Task[Any]

    @hookimpl
    async def before_migrate(self, run: Run) -> None:
        asyncio.get_running_loop().call_later(self.after, self.running.cancel)
        await run.snapshot()
        await asyncio.sleep(60)


async def test_a_copy_that_was_done_when_the_cancellation_came_is_not_put_back_later(
    make_target: Make, database_url: str
) -> None:
    target = make_target(revisions=lambda folder: linear(folder, 1))
    await Migrator(target, mode="migrate").run()
    folder = Path(str(target.config)).parent / "migrations" / "versions"
    revision(folder, "r2", "r1", upgrade="op.create_table('two', sa.Column('id', sa.Integer))")
    engine = create_async_engine(database_url, poolclass=NullPool)
    delays = (0, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2)
    for number, delay in enumerate(delays, 1):
        copy = CancelledCopy(delay)
        migrator = Migrator(target, mode="migrate", plugins=[copy])
        copy.running = asyncio.create_task(migrator.run())
        with pytest.raises(asyncio.CancelledError):
            await copy.running
        async with engine.begin() as connection:
            await connection.execute(text(f"INSERT INTO users VALUES ({number}, 'later')"))

    report = await Migrator(target, mode="migrate").run()

    assert report.outcome == "migrated" and not report.targets[0].notes
    assert len(query(database_url, "SELECT name FROM users")) == len(delays)


async def test_a_run_may_be_given_a_limit(make_target: Make, database_url: str) -> None:
    endless = ENDLESS[make_url(database_url).get_backend_name()]
    target = make_target(with_third(f"op.execute({endless!r})"))

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.5):
            await Migrator(target, mode="migrate").run()

    assert tables(database_url) <= {"alembic_version"}


async def test_cancelling_while_another_holds_the_lock_is_immediate(
    make_target: Make, database_url: str, versions: Path
) -> None:
    body = "op.run_async(lambda connection: asyncio.sleep(1))"
    target = make_target(with_third(body))
    leading = Migrator(target, mode="migrate")
    events = leading.events()
    leader = asyncio.create_task(leading.run())
    async for event in events:
        if event.name == "revision-started":
            break
    follower = asyncio.create_task(Migrator(target, mode="migrate").run())
    await asyncio.sleep(0.3)
    began = time.monotonic()
    follower.cancel()

    with pytest.raises(asyncio.CancelledError):
        await follower

    assert time.monotonic() - began < 2
    assert not leader.done()
    assert (await leader).outcome == "migrated"


async def test_of_two_runs_at_once_one_migrates_and_the_other_finds_it_done(
    make_target: Make, database_url: str
) -> None:
    target = make_target()

    reports = await asyncio.gather(*(Migrator(target, mode="migrate").run() for _ in range(3)))

    assert sorted(report.outcome for report in reports) == ["current", "current", "migrated"]
    assert [r.targets[0].leader for r in reports].count(True) == 1
    assert heads(database_url) == {"r3"}


@pytest.mark.long
async def test_alembic_is_nobody_elses_until_what_a_cancelled_run_has_begun_to_read_is_read(
    make_target: Make, sqlite_url: str, tmp_path: Path
) -> None:
    """A thread cannot be cancelled, and both would put `sys.path` back as they found it."""
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def revisions(folder: Path) -> None:
        imports = "import automigrator\nautomigrator.tell_the_test()"
        linear(folder, 1)
        revision(folder, "r2", "r1", imports=imports)

    def tell_the_test() -> None:
        loop.call_soon_threadsafe(begun.set)
        time.sleep(0.2)

    target = make_target(revisions, database=sqlite_url)
    with pytest.MonkeyPatch.context() as patched, unchanged_process():
        patched.setattr("automigrator.tell_the_test", tell_the_test, raising=False)
        first = asyncio.create_task(Migrator(target, mode="migrate").run())
        await begun.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (await Migrator(target, mode="migrate").run()).outcome == "migrated"
