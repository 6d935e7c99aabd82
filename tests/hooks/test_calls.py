"""The four hooks of a run, sync and async, in order; what a failing one does to the run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.acting_strategies import Restoring as Restores
from support.alembic_projects import contents, heads, linear, revision, tables

from automigrator import (
    Decision,
    Event,
    Failure,
    MigrationError,
    Migrator,
    Report,
    Run,
    Target,
    TargetReport,
    hookimpl,
)
from automigrator.hooks import calls
from automigrator.runner import state

pytestmark = pytest.mark.long("postgresql")

Make = Callable[..., Target]


async def run(target: Target, *plugins: object, **options: Any) -> Report:
    return await Migrator(target, mode="migrate", plugins=plugins, **options).run()


def failing(folder: Path) -> None:
    linear(folder, 2)
    revision(folder, "r3", "r2", upgrade='raise LookupError("no luck")')


class Sync:
    """Writes down what it is called with."""

    def __init__(self, calls: list[Any], name: str = "sync") -> None:
        self.calls, self.name = calls, name

    @hookimpl
    def before_migrate(self, run: Run) -> None:
        self.calls.append((self.name, "before", [r.revision for r in run.pending]))

    @hookimpl
    def on_failure(self, run: Run, failure: Failure) -> Decision | None:
        self.calls.append((self.name, "failure", failure.kind))
        return None

    @hookimpl
    def after_migrate(self, run: Run, report: TargetReport) -> None:
        self.calls.append((self.name, "after", report.outcome))


class Async:
    """The same, asynchronously."""

    def __init__(self, calls: list[Any], name: str = "async") -> None:
        self.sync = Sync(calls, name)

    @hookimpl
    async def before_migrate(self, run: Run) -> None:
        await asyncio.sleep(0)
        self.sync.before_migrate(run)

    @hookimpl
    async def on_failure(self, run: Run, failure: Failure) -> Decision | None:
        await asyncio.sleep(0)
        return self.sync.on_failure(run, failure)

    @hookimpl
    async def after_migrate(self, run: Run, report: TargetReport) -> None:
        await asyncio.sleep(0)
        self.sync.after_migrate(run, report)


async def test_hooks_are_called_in_order_around_a_migration(
    make_target: Make, database_url: str
) -> None:
    calls: list[Any] = []
    target = make_target()

    await run(target, Async(calls), Sync(calls))

    pending = ["r1", "r2", "r3"]
    assert calls == [
        ("async", "before", pending),
        ("sync", "before", pending),
        ("async", "after", "migrated"),
        ("sync", "after", "migrated"),
    ]
    calls.clear()
    await run(target, Async(calls), Sync(calls))
    assert calls == []


async def test_before_migrate_sees_the_run_and_an_unchanged_database(
    make_target: Make, database_url: str
) -> None:
    seen: dict[str, Any] = {}

    class Looking:
        @hookimpl
        def before_migrate(self, run: Run) -> None:
            seen.update(
                before=run.before, wanted=run.wanted, attempt=run.attempt, locked=run.locked
            )
            seen["tables"] = tables(database_url)

    await run(make_target(), Looking())

    assert seen == {
        "before": (),
        "wanted": ("r3",),
        "attempt": 1,
        "locked": True,
        "tables": set(),
    }


async def test_after_migrate_sees_the_committed_migration_under_the_lock(
    make_target: Make, database_url: str
) -> None:
    seen: list[Any] = []

    class Looking:
        @hookimpl
        async def after_migrate(self, run: Run, report: TargetReport) -> None:
            seen.append((run.locked, report.after, heads(database_url)))

    await run(make_target(), Looking())

    assert seen == [(True, ("r3",), {"r3"})]


@pytest.mark.long("sqlite-False")
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_before_migrate_that_raises_stops_the_migration_with_nothing_changed(
    asynchronous: bool, make_target: Make, database_url: str
) -> None:
    calls: list[Any] = []

    class NoBackup:
        @hookimpl
        def before_migrate(self, run: Run) -> None:
            raise OSError("no room for a backup")

    class NoAsyncBackup:
        @hookimpl
        async def before_migrate(self, run: Run) -> None:
            raise OSError("no room for a backup")

    first = NoAsyncBackup() if asynchronous else NoBackup()
    with pytest.raises(MigrationError, match="no room for a backup") as caught:
        await run(make_target(), first, Sync(calls))

    (failure,) = caught.value.report.targets[0].failures
    assert (failure.kind, failure.state) == ("hook", "clean")
    assert type(first).__qualname__.rpartition(".")[2] in failure.message
    assert calls == [("sync", "failure", "hook")]
    assert tables(database_url) == set()


async def test_a_hook_that_takes_too_long_is_stopped_and_blamed(
    make_target: Make, sqlite_url: str
) -> None:
    class Sleeping:
        @hookimpl
        async def before_migrate(self, run: Run) -> None:
            await asyncio.sleep(60)

    with pytest.raises(MigrationError, match=r"Sleeping.*deadline of 0\.1 s"):
        await run(make_target(database=sqlite_url), Sleeping(), hook_timeout=0.1)

    assert tables(sqlite_url) == set()


@pytest.mark.long("sqlite-async")
@pytest.mark.parametrize("kind", ["async", "per_migration"])
async def test_a_failed_migration_is_tried_three_times_at_most(
    kind: str, make_target: Make, database_url: str
) -> None:
    attempts: list[int] = []

    class Retrying:
        @hookimpl
        def on_failure(self, run: Run, failure: Failure) -> Decision:
            attempts.append(failure.attempt)
            return Decision.RETRY

    with pytest.raises(MigrationError, match="no luck") as caught:
        await run(make_target(failing, kind=kind), Retrying())

    (failed,) = caught.value.report.targets
    assert attempts == [1, 2, 3]
    assert (failed.attempts, len(failed.failures)) == (3, 3)
    assert any("there is none" in note for note in failed.notes)


async def test_a_retry_that_succeeds_is_a_recovery(
    make_target: Make, database_url: str, versions: Path
) -> None:
    calls: list[Any] = []

    class Repairing:
        @hookimpl
        def on_failure(self, run: Run, failure: Failure) -> Decision:
            (versions.parent / "repaired").touch()
            return Decision.RETRY

    def once(folder: Path) -> None:
        linear(folder, 2)
        body = 'assert pathlib.Path(__file__).parents[1].joinpath("repaired").exists()'
        revision(folder, "r3", "r2", imports="import pathlib", upgrade=body)

    report = await run(make_target(once), Repairing(), Sync(calls))

    (done,) = report.targets
    assert (report.outcome, done.attempts, len(done.failures)) == ("recovered", 2, 1)
    assert [a.revision for a in done.applied] == ["r1", "r2", "r3"]
    assert calls == [("sync", "before", ["r1", "r2", "r3"]), ("sync", "after", "recovered")]
    assert heads(database_url) == {"r3"}


async def test_the_first_decision_ends_the_search(make_target: Make, sqlite_url: str) -> None:
    calls: list[Any] = []

    class Aborting:
        @hookimpl
        def on_failure(self, run: Run, failure: Failure) -> Decision:
            return Decision.ABORT

    with pytest.raises(MigrationError):
        await run(
            make_target(failing, database=sqlite_url),
            Async(calls, "first"),
            Aborting(),
            Sync(calls, "last"),
        )

    assert calls[-1] == ("first", "failure", "revision")


class Continuing:
    @hookimpl
    def on_failure(self, run: Run, failure: Failure) -> Decision:
        return Decision.CONTINUE


@pytest.mark.long("OSError")
@pytest.mark.parametrize(
    "error", [OSError, SystemExit, asyncio.CancelledError], ids=lambda each: each.__name__
)
@pytest.mark.parametrize("place", ["plugins", "recovery"])
async def test_a_notification_that_fails_is_noted_and_the_next_plugin_asked(
    make_target: Make, sqlite_url: str, error: type[BaseException], place: str
) -> None:
    class Notifying:
        @hookimpl
        def on_failure(self, run: Run, failure: Failure) -> None:
            raise error("no such page")

    asked = {place: [Notifying(), Continuing()]}

    report = await Migrator(
        make_target(failing, database=sqlite_url), mode="migrate", **asked
    ).run()

    assert report.outcome == "degraded"
    (note,) = report.targets[0].notes
    assert "Notifying" in note and "no such page" in note
    assert note.endswith("it had not acted: the next plugin was asked")


async def test_one_that_fails_after_it_has_begun_to_act_ends_the_search(
    make_target: Make, sqlite_url: str
) -> None:
    class Restoring(Restores):
        @hookimpl
        async def on_failure(self, run: Run, failure: Failure) -> Decision:
            await super().on_failure(run, failure)
            raise OSError("half a restore")

    target = make_target(failing, kind="per_migration", database=sqlite_url)
    with pytest.raises(MigrationError, match="no luck") as caught:
        await run(target, recovery=[Restoring(), Continuing()])

    *_, note = caught.value.report.targets[0].notes
    assert "half a restore" in note and note.endswith("begun to act: no further plugin was asked")
    assert tables(sqlite_url) == set()  # it was put back all the same


@pytest.mark.long
async def test_going_on_with_whole_revisions_applied_needs_leave(
    make_target: Make, database_url: str
) -> None:
    class Continuing:
        @hookimpl
        def on_failure(self, run: Run, failure: Failure) -> Decision:
            return Decision.CONTINUE

    target = make_target(failing, kind="per_migration")
    with pytest.raises(MigrationError) as caught:
        await run(target, Continuing())

    (failed,) = caught.value.report.targets
    assert failed.failures[0].state == "partial-at-boundary"
    assert any("allow_partial=True" in note for note in failed.notes)

    report = await run(target, Continuing(), allow_partial=True)

    assert report.outcome == "degraded"
    assert report.targets[0].after == ("r2",)


async def test_an_after_migrate_that_raises_is_noted_and_undoes_nothing(
    make_target: Make, database_url: str
) -> None:
    calls: list[Any] = []

    class Raising:
        @hookimpl
        async def after_migrate(self, run: Run, report: TargetReport) -> None:
            raise OSError("no cache")

    report = await run(make_target(), Raising(), Sync(calls))

    assert report.outcome == "migrated"
    (note,) = report.targets[0].notes
    assert "Raising" in note and "no cache" in note
    assert calls[-1] == ("sync", "after", "migrated")
    assert heads(database_url) == {"r3"}


async def test_every_listener_is_told_everything_in_order(
    make_target: Make, database_url: str
) -> None:
    told: dict[str, list[Event]] = {"sync": [], "async": [], "raising": []}

    class Listening:
        @hookimpl
        def on_event(self, event: Event) -> None:
            told["sync"].append(event)

    class AsyncListening:
        @hookimpl
        async def on_event(self, event: Event) -> None:
            await asyncio.sleep(0)
            told["async"].append(event)

    class Raising:
        @hookimpl
        def on_event(self, event: Event) -> None:
            told["raising"].append(event)
            raise OSError("no network")

    plugins = [Raising(), Listening(), AsyncListening()]
    migrator = Migrator(make_target(), mode="migrate", plugins=plugins)
    subscription = migrator.events()

    report = await migrator.run()

    streamed = [event async for event in subscription]
    assert report.outcome == "migrated"
    assert told["sync"] == told["async"] == told["raising"] == streamed
    names = [event.name for event in streamed]
    assert names[0] == "run-started" and names[-2:] == ["target-finished", "run-finished"]
    assert [e.data["revision"] for e in streamed if e.name == "revision-done"] == [
        "r1",
        "r2",
        "r3",
    ]
    for event in streamed:
        json.dumps(event.to_dict())


async def test_a_subscription_ends_with_its_run_and_the_next_run_has_its_own(
    make_target: Make, sqlite_url: str
) -> None:
    migrator = Migrator(make_target(database=sqlite_url), mode="migrate")
    first, alike = migrator.events(), migrator.events()
    await migrator.run()

    names = [event.name async for event in first]
    assert names == [event.name async for event in alike]
    assert "revision-done" in names

    second = migrator.events()
    await migrator.run()
    assert "revision-done" not in [event.name async for event in second]


@pytest.mark.long
async def test_a_subscription_ends_with_a_run_that_fails(
    make_target: Make, sqlite_url: str
) -> None:
    migrator = Migrator(make_target(failing, database=sqlite_url), mode="migrate")
    subscription = migrator.events()
    reading = asyncio.create_task(_names(subscription))

    with pytest.raises(MigrationError):
        await migrator.run()

    names = await asyncio.wait_for(reading, 5)
    assert "failed" in names and names[-1] == "run-finished"


async def _names(events: Any) -> list[str]:
    return [event.name async for event in events]


@pytest.mark.long
async def test_the_state_is_known_to_who_is_asked(make_target: Make, database_url: str) -> None:
    seen: list[Failure] = []

    class Asked:
        @hookimpl
        def on_failure(self, run: Run, failure: Failure) -> None:
            seen.append(failure)

    target = make_target(failing, kind="per_migration")
    with pytest.raises(MigrationError):
        await run(target, Asked())

    (failure,) = seen
    assert (failure.revision, failure.applied) == ("r3", ("r1", "r2"))
    assert contents(database_url)["alembic_version"] == ["('r2',)"]


@pytest.mark.long("before_migrate", "after_migrate")
@pytest.mark.parametrize("hook", ["before_migrate", "on_failure", "after_migrate"])
async def test_a_hook_that_does_not_end_holds_up_no_cancelled_run_and_is_named(
    hook: str, make_target: Make, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (calls, state):
        monkeypatch.setattr(module, "GRACE_S", 0.2)
    going_on, asked = True, asyncio.Event()

    async def stubborn(self: object) -> None:
        asked.set()
        while going_on:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    plugin = type("Stubborn", (), {hook: hookimpl(stubborn)})()
    target = make_target(failing if hook == "on_failure" else linear)
    migrator = Migrator(target, mode="migrate", plugins=[plugin])
    events = migrator.events()
    running = asyncio.create_task(migrator.run())
    await asyncio.wait_for(asked.wait(), 30)

    running.cancel()
    try:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(running), 10)
        left = [event.data async for event in events if event.name == "hook-left"]
        assert left == [{"hook": hook, "plugin": "Stubborn", "grace": 0.2}]
        if hook != "on_failure":
            assert (await run(target)).targets[0].after == ("r3",)  # nobody holds the lock
    finally:
        going_on = False
        await asyncio.sleep(0.05)


async def test_a_plain_hook_leaves_the_loop_alive_and_may_say_something(
    make_target: Make, sqlite_url: str
) -> None:
    class Slow:
        @hookimpl
        def before_migrate(self, run: Run) -> None:
            while ticks < 5:
                time.sleep(0.01)
            run.note("five ticks")

    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    migrator = Migrator(make_target(database=sqlite_url), mode="migrate", plugins=[Slow()])
    events = migrator.events()
    try:
        report = await migrator.run()
    finally:
        ticking.cancel()
    names = [event.name async for event in events]
    assert report.targets[0].notes == ("five ticks",)
    assert names.index("hook-started") < names.index("note") < names.index("hook-finished")
