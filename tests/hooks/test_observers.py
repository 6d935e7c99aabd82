"""Whoever follows a run cannot change how it ends: `after_run`, `after_migrate`, `on_event`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.alembic_projects import heads, linear, revision

from automigrator import (
    Event,
    MigrationError,
    Migrator,
    Report,
    Run,
    Target,
    TargetReport,
    hookimpl,
)
from automigrator.hooks import calls, registry
from automigrator.runner import targets

pytestmark = pytest.mark.long("postgresql", "sqlite-exits", "sqlite-cancels")

Make = Callable[..., Target]

SOON_S = 10.0


class Following:
    """Keeps the reports that it was called with, and whether the lock was held then."""

    def __init__(self) -> None:
        self.reports: list[TargetReport] = []
        self.locked: list[bool] = []

    @hookimpl
    async def after_run(self, run: Run, report: TargetReport) -> None:
        self.reports.append(report)
        self.locked.append(run.locked)

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        return [(report.name, report.outcome) for report in self.reports]


async def run(target: Target, *plugins: object, **options: Any) -> Report:
    return await Migrator(target, mode="migrate", plugins=plugins, **options).run()


def failing(folder: Path) -> None:
    linear(folder, 2)
    revision(folder, "r3", "r2", upgrade='raise LookupError("no luck")')


def sleeping(folder: Path) -> None:
    linear(folder, 1)
    body = "import time\nfor _ in range(600):\n    time.sleep(0.1)\n    op.execute('SELECT 1')"
    revision(folder, "r2", "r1", upgrade=body)


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (calls, registry, targets):
        monkeypatch.setattr(module, "GRACE_S", 0.2)


async def test_it_is_called_when_a_run_has_migrated_and_when_nothing_was_to_do(
    make_target: Make, database_url: str
) -> None:
    target, following = make_target(), Following()

    await run(target, following)
    await run(target, following)

    assert [outcome for _, outcome in following.outcomes] == ["migrated", "current"]
    assert following.locked == [False, False]
    assert [each.revision for each in following.reports[0].applied] == ["r1", "r2", "r3"]


async def test_it_is_called_for_a_failure_and_for_what_the_application_starts_on_degraded(
    make_target: Make, sqlite_url: str
) -> None:
    following = Following()
    bad = make_target(failing, database=sqlite_url, name="bad")
    later = make_target(database=f"{sqlite_url}2", folder="two", name="later")

    with pytest.raises(MigrationError):
        await Migrator(bad, later, mode="migrate", plugins=[following]).run()
    await run(bad, following, recovery=["log-and-continue"])

    # the target that was not run had no part of that run
    assert following.outcomes == [("bad", "failed"), ("bad", "degraded")]
    assert "no luck" in following.reports[0].failures[0].message


async def test_it_is_called_for_a_target_whose_part_raised(
    make_target: Make, sqlite_url: str
) -> None:
    class Own(Migrator):
        async def migrate_target(self, run: Run) -> TargetReport:
            raise ZeroDivisionError

    following = Following()
    with pytest.raises(ZeroDivisionError):
        await Own(make_target(database=sqlite_url), mode="migrate", plugins=[following]).run()

    assert [outcome for _, outcome in following.outcomes] == ["failed"]


async def test_it_is_called_for_a_rollback(make_target: Make, sqlite_url: str) -> None:
    following = Following()
    migrator = Migrator(make_target(database=sqlite_url), mode="migrate", plugins=[following])
    await migrator.run()

    await migrator.rollback("r2")

    (_, undone) = following.reports
    assert (undone.outcome, [each.revision for each in undone.reverted]) == ("reverted", ["r3"])


@pytest.mark.parametrize("hangs", [False, True])
async def test_it_is_called_for_a_cancelled_run_and_the_cancellation_goes_on(
    make_target: Make, sqlite_url: str, hangs: bool, short_grace: None
) -> None:
    class Hanging:
        @hookimpl
        async def after_run(self) -> None:
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.05)
                    if over:
                        return

    over: list[bool] = []
    following = Following()
    plugins = [Hanging(), following] if hangs else [following]
    target = make_target(sleeping, database=sqlite_url)
    migrator = Migrator(target, mode="migrate", plugins=plugins)
    events = migrator.events()
    task = asyncio.create_task(migrator.run())
    async for event in events:
        if event.name == "revision-started" and event.data["revision"] == "r2":
            break
    task.cancel()
    began = time.monotonic()

    with pytest.raises(asyncio.CancelledError):
        await task

    assert time.monotonic() - began < SOON_S
    over.append(True)
    assert [outcome for _, outcome in following.outcomes] == ["cancelled"]
    names = [event.name async for event in events]
    assert ("hook-left" in names) == hangs
    assert migrator.report is not None and migrator.report.outcome == "cancelled"


async def test_a_run_that_is_cancelled_in_it_calls_the_others_and_keeps_its_outcome(
    make_target: Make, sqlite_url: str
) -> None:
    begun = asyncio.Event()

    class Waiting:
        @hookimpl
        async def after_run(self) -> None:
            begun.set()
            await asyncio.sleep(60)

    following = Following()
    target = make_target(database=sqlite_url)
    migrator = Migrator(target, mode="migrate", plugins=[Waiting(), following])
    task = asyncio.create_task(migrator.run())
    await asyncio.wait_for(begun.wait(), 30)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

    assert [outcome for _, outcome in following.outcomes] == ["migrated"]
    assert migrator.report is not None and migrator.report[target.name].outcome == "migrated"


async def test_its_error_is_logged_and_noted_in_the_report(
    make_target: Make, sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Raising:
        @hookimpl
        def after_run(self, run: Run) -> None:
            run.note("telling the pager")
            raise OSError("no pager")

    following = Following()
    with caplog.at_level(logging.ERROR, "automigrator"):
        report = await run(make_target(database=sqlite_url), Raising(), following)

    assert report.outcome == "migrated"
    said, blamed = report.targets[0].notes
    assert said == "telling the pager"
    assert "Raising" in blamed and blamed.endswith("the outcome stays as it is")
    assert any("no pager" in record.getMessage() for record in caplog.records)
    assert [outcome for _, outcome in following.outcomes] == ["migrated"]


class Interfering:
    """Does all that one who follows a run might do to it, with `way` at the end."""

    def __init__(self, way: Callable[[], object]) -> None:
        self.way = way

    @hookimpl
    async def after_migrate(self, run: Run, report: TargetReport) -> object:
        return await self._interfere(run, report)

    @hookimpl
    async def after_run(self, run: Run, report: TargetReport) -> object:
        return await self._interfere(run, report)

    @hookimpl
    async def on_event(self, event: Event) -> None:
        vars(event)["data"] = {"outcome": "failed"}
        await asyncio.sleep(0)
        if asyncio.iscoroutine(answer := self.way()):
            await answer

    async def _interfere(self, run: Run, report: TargetReport) -> object:
        vars(report).update(outcome="failed", failures=(), after=("other",))
        run.describe, run.failure = tuple, None
        for act in (run.snapshot, run.restore, run.recreate_database):
            with contextlib.suppress(Exception):
                if not run.locked:
                    await act()
        answer = self.way()
        return await answer if asyncio.iscoroutine(answer) else "failed"


def _raises(error: BaseException) -> Callable[[], object]:
    def way() -> object:
        raise error

    return way


WAYS = {
    "mutates": lambda: None,
    "raises": _raises(OSError("no")),
    "exits": _raises(SystemExit(3)),
    "cancels itself": _raises(asyncio.CancelledError()),
    "hangs": lambda: asyncio.sleep(60),
}


@pytest.mark.parametrize("way", WAYS)
async def test_none_of_them_changes_an_outcome(
    way: str, make_target: Make, database_url: str, short_grace: None
) -> None:
    target, following = make_target(), Following()
    interfering = Interfering(WAYS[way])

    report = await run(target, interfering, following, hook_timeout=0.3)

    assert (report.outcome, report.targets[0].after) == ("migrated", ("r3",))
    assert [outcome for _, outcome in following.outcomes] == ["migrated"]
    assert heads(database_url) == {"r3"}
    assert (await run(target)).outcome == "current"


async def test_a_strategy_that_follows_a_run_has_a_deadline_too(
    make_target: Make, sqlite_url: str, short_grace: None
) -> None:
    class Hanging:
        @hookimpl
        def after_run(self) -> None:
            time.sleep(5)

    began = time.monotonic()
    report = await run(make_target(database=sqlite_url), recovery=[Hanging()], hook_timeout=0.2)

    assert report.outcome == "migrated" and "deadline of 0.2 s" in report.targets[0].notes[0]
    assert time.monotonic() - began < 5
