"""A run that takes too long in all is ended, undone and told, as a failure nobody answers is."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from support.alembic_projects import heads, linear, query, revision, tables
from support.leaders import leading

from automigrator import (
    ConfigurationError,
    Decision,
    Event,
    Failure,
    FollowTimeoutError,
    MigrationError,
    Migrator,
    Run,
    StoppedError,
    Target,
    TargetReport,
    hookimpl,
)

Make = Callable[..., Target]

LIMIT_S = 15.0
RUN_S = 60.0
"""The limit, which is moved to when a run has come where it is to be stopped."""

pytestmark = pytest.mark.long(
    "per_migration",
    "own]",
    "a_copy[postgresql",
    "counted[postgresql",
    "was[postgresql",
    "nothing[postgresql",
    "stays[postgresql",
    "fails, and the restore",
    "run[postgresql-async-given",
    "raised[before",
    "sqlite-async-given",
)
LONG = {
    "sqlite": "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) "
    "SELECT count(*) FROM c",
    "postgresql": "SELECT pg_sleep(60)",
}
RUNNING = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'
"""
drives = pytest.mark.parametrize("drive", ["given", "own"])


def kind(url: str) -> str:
    return make_url(url).get_backend_name()


def third(url: str) -> Callable[[Path], None]:
    """Two revisions, and a third that makes a table and then takes much too long."""

    def revisions(folder: Path) -> None:
        linear(folder, 2)
        made = 'op.create_table("half", sa.Column("id", sa.Integer, primary_key=True))'
        revision(folder, "r3", "r2", upgrade=f"{made}\nop.execute({LONG[kind(url)]!r})")

    return revisions


class NeverAsked:
    effect = "discarding"

    @hookimpl
    def on_failure(self, run: Run, failure: Failure) -> Decision:
        raise AssertionError("the time is over")


@dataclass
class Clock:
    """Lets a run's time be over soon after an event."""

    after: str = "revision-started"
    of: str = "r3"
    """What one of the event's data is, where that matters."""
    seconds: float = 0.5
    timeouts: list[asyncio.Timeout] = field(default_factory=list)

    def made(self, real: Callable[[float], asyncio.Timeout], when: float) -> asyncio.Timeout:
        self.timeouts.append(real(when))
        return self.timeouts[-1]

    @hookimpl
    def on_event(self, event: Event) -> None:
        if event.name == self.after and (not self.of or self.of in event.data.values()):
            self.after = ""
            self.timeouts[-1].reschedule(asyncio.get_running_loop().time() + self.seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    real = asyncio.timeout_at
    monkeypatch.setattr(asyncio, "timeout_at", lambda when: made.made(real, when))
    return made


async def overdue(clock: Clock, *targets: Target, **options: Any) -> MigrationError:
    """How a run ends whose time is over."""
    began = time.monotonic()
    options["plugins"] = [clock, *options.get("plugins", ())]
    with pytest.raises(MigrationError) as error:
        await Migrator(*targets, mode="migrate", run_timeout=RUN_S, **options).run()
    assert time.monotonic() - began < LIMIT_S
    return error.value


@drives
@pytest.mark.parametrize("env", ["async", "per_migration"])
async def test_the_revision_under_way_is_undone_and_named_and_later_targets_are_not_run(
    clock: Clock, env: str, drive: Any, make_target: Make, database_url: str, tmp_path: Path
) -> None:
    target = make_target(third(database_url), kind=env, drive=drive)
    later = make_target(database=f"sqlite+aiosqlite:///{tmp_path / 'later.db'}", folder="later")

    error = await overdue(clock, target, later, recovery=[NeverAsked()])

    failure = error.report.targets[0].failures[-1]
    assert (failure.kind, failure.revision) == ("timeout", "r3")
    assert failure.statement == LONG[kind(database_url)]
    assert "longer than Timeouts(run=60); when its time was over it was running revision r3" in (
        str(error)
    )
    assert [each.outcome for each in error.report.targets] == ["failed", "not-run"]
    kept = () if env == "async" else ("r1", "r2")
    assert failure.applied == kept and error.report.targets[0].after == kept[-1:]
    assert failure.state == ("clean" if env == "async" else "partial-at-boundary")
    assert "half" not in tables(database_url) and heads(database_url) == set(kept[-1:])
    if kind(database_url) == "postgresql":
        assert query(database_url, RUNNING) == []


async def test_the_next_start_finds_the_lock_free_and_a_failed_start_counted(
    clock: Clock, make_target: Make, database_url: str, versions: Path
) -> None:
    target = make_target(third(database_url))
    for number in (1, 2):
        clock.after = "revision-started"
        assert (await overdue(clock, target)).report.targets[0].failed_starts == number
    revision(versions, "r3", "r2", upgrade="pass")
    began = time.monotonic()

    report = await Migrator(target, mode="migrate", run_timeout=60).run()

    assert report.outcome == "migrated" and time.monotonic() - began < LIMIT_S


async def test_one_that_waits_for_the_lock_says_so_and_changes_nothing(
    clock: Clock, make_target: Make, database_url: str
) -> None:
    target = make_target()
    clock.after, clock.of = "waiting", "lock"
    async with leading(target):
        error = await overdue(clock, target, recovery=[NeverAsked()])
    failure = error.report.targets[0].failures[-1]
    assert (failure.kind, failure.state, failure.applied) == ("timeout", "clean", ())
    assert "it was waiting for the migration lock, held by" in failure.message


async def test_a_server_that_is_away_is_what_a_run_waits_for(
    clock: Clock, make_target: Make, postgres_url: str
) -> None:
    clock.after, clock.of = "waiting", "server"
    nobody = make_url(postgres_url).set(port=1)
    target = make_target(database=nobody.render_as_string(hide_password=False))

    failure = (await overdue(clock, target)).report.targets[0].failures[-1]

    assert failure.kind == "unreachable" and "host, port" in failure.advice
    said = "it was waiting for the database server; the last error: ConnectionRefusedError"
    assert said in failure.message


@pytest.mark.long
async def test_the_limit_is_for_all_targets_together(
    clock: Clock, make_target: Make, tmp_path: Path
) -> None:
    targets = [
        make_target(database=f"sqlite+aiosqlite:///{tmp_path / name}.db", folder=name)
        for name in ("first", "second")
    ]

    await Migrator(*targets, mode="migrate", run_timeout=RUN_S).run()

    assert len(clock.timeouts) == 2 and len({each.when() for each in clock.timeouts}) == 1


async def test_a_hook_that_is_running_is_named_and_what_is_committed_stays(
    clock: Clock, make_target: Make, database_url: str
) -> None:
    class Waits:
        @hookimpl
        async def after_migrate(self, run: Run, report: TargetReport) -> None:
            await asyncio.sleep(60)

    clock.after, clock.of = "hook-started", "after_migrate"

    error = await overdue(clock, make_target(), plugins=[Waits()])

    report = error.report.targets[0]
    assert re.search("it was in after_migrate of .*Waits", report.failures[-1].message)
    assert report.failures[-1].applied == ("r1", "r2", "r3") and report.after == ("r3",)
    assert heads(database_url) == {"r3"}


@pytest.mark.long
async def test_a_failure_before_it_stays_in_the_report_and_its_answer_is_cut_short(
    clock: Clock, make_target: Make, sqlite_url: str
) -> None:
    class Waits:
        @hookimpl
        async def on_failure(self, run: Run, failure: Failure) -> Decision:
            await asyncio.sleep(60)
            return Decision.RETRY

    def failing(folder: Path) -> None:
        revision(folder, "r1", None, upgrade='raise LookupError("no luck")')

    clock.after, clock.of = "hook-started", "on_failure"

    error = await overdue(clock, make_target(failing, database=sqlite_url), recovery=[Waits()])

    assert [each.kind for each in error.report.targets[0].failures] == ["revision", "timeout"]
    assert re.search("it was in on_failure of .*Waits", str(error))


def half_done(url: str, ending: str) -> Callable[[Path], None]:
    """A revision that leaves a half of itself, and then ends so."""

    def revisions(folder: Path) -> None:
        linear(folder, 2)
        made = """
with op.get_context().autocommit_block():
    op.create_table("half", sa.Column("id", sa.Integer, primary_key=True))
"""
        revision(folder, "r3", "r2", upgrade=made.strip() + "\n" + ending)

    return revisions


class Restores:
    """Takes a copy, and puts it back after a failure."""

    effect = "reverting"

    @hookimpl
    async def before_migrate(self, run: Run) -> None:
        await run.snapshot(disconnect_others=True)

    @hookimpl
    async def on_failure(self, run: Run, failure: Failure) -> None:
        await run.restore(disconnect_others=True)

    @hookimpl
    def on_event(self, event: Event) -> None:
        """Let the time pass while the restore begins."""
        if event.name == "restore-started":
            time.sleep(0.6)


@pytest.mark.long
@pytest.mark.parametrize("ending", ["too long", "fails, and a restore was to begin"])
async def test_half_a_revision_is_undone_by_the_next_start_where_there_is_a_copy(
    clock: Clock, ending: str, make_target: Make, database_url: str, versions: Path
) -> None:
    linear_first = make_target(lambda folder: linear(folder, 1))
    assert (await Migrator(linear_first, mode="migrate").run()).outcome == "migrated"
    body = f"op.execute({LONG[kind(database_url)]!r})"
    half_done(database_url, body if ending == "too long" else 'raise LookupError("no luck")')(
        versions
    )
    target = linear_first
    if ending == "too long":
        clock.seconds = 1.5  # time enough to make the table
    else:
        clock.after, clock.of = "restore-started", ""

    error = await overdue(clock, target, recovery=[Restores()])

    kinds = [each.kind for each in error.report.targets[0].failures]
    assert kinds == (["timeout"] if ending == "too long" else ["revision", "timeout"])
    assert "half" in tables(database_url)
    assert "the next start" in " ".join(error.report.targets[0].notes)
    assert (await Migrator(target).check()).targets[0].unfinished
    revision(versions, "r3", "r2", upgrade='op.create_table("half", sa.Column("id", sa.Integer))')
    report = await Migrator(target, mode="migrate", recovery=[Restores()]).run()
    assert report.outcome == "migrated" and heads(database_url) == {"r3"}
    assert "half" in tables(database_url)


@pytest.mark.parametrize("early", [True, False], ids=["before", "meanwhile"])
async def test_a_cancellation_beside_it_is_raised(
    early: bool, make_target: Make, sqlite_url: str
) -> None:
    class Tidies:
        @hookimpl
        async def before_migrate(self, run: Run) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.5)

    target = make_target(database=sqlite_url)
    migrator = Migrator(target, mode="migrate", plugins=[Tidies()], run_timeout=0.8)
    running = asyncio.create_task(migrator.run())
    await asyncio.sleep(0.6 if early else 1.0)
    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running


async def test_an_outer_limit_that_is_shorter_is_its_own(
    make_target: Make, sqlite_url: str
) -> None:
    target = make_target(third(sqlite_url), database=sqlite_url)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.7):
            await Migrator(target, mode="migrate", run_timeout=30).run()


async def test_a_signal_beside_it_stops_the_run(make_target: Make, sqlite_url: str) -> None:
    target = make_target(third(sqlite_url), database=sqlite_url)
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    migrator = Migrator(target, mode="migrate", run_timeout=30)
    try:
        running = asyncio.create_task(migrator.run())
        async for event in migrator.events():
            if event.name == "revision-started" and event.data["revision"] == "r3":
                break
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StoppedError):
            await running
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


async def test_a_follower_that_must_not_migrate_gives_up_with_it(
    make_target: Make, sqlite_url: str
) -> None:
    target = make_target(database=sqlite_url)

    with pytest.raises((MigrationError, FollowTimeoutError), match=r"Timeouts\(run=0\.5\)"):
        await Migrator(target, mode="wait", run_timeout=0.5).run()


@pytest.mark.long
async def test_a_run_that_is_in_time_is_as_it_was(make_target: Make, database_url: str) -> None:
    migrator = Migrator(make_target(), mode="migrate", run_timeout=60)

    assert [(await migrator.run()).outcome for _ in range(2)] == ["migrated", "current"]
    assert heads(database_url) == {"r3"}


@pytest.mark.parametrize("value", [0, -1, float("nan"), "5s", True])
def test_it_is_seconds_above_zero(value: Any, make_target: Make, sqlite_url: str) -> None:
    with pytest.raises(ConfigurationError, match="run_timeout"):
        Migrator(make_target(database=sqlite_url), run_timeout=value)
