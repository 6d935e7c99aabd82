"""A process that waited for a leader inherits its failure, never an outcome of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.notes_application import BROKEN, GOOD, HALF_WAY, ROWS, Application

from automigrator import (
    Decision,
    Failure,
    FollowTimeoutError,
    MigrationError,
    Migrator,
    Run,
    TargetReport,
    Timeouts,
    hookimpl,
)
from automigrator.runner.session import opened

pytestmark = [pytest.mark.plugins, pytest.mark.long("postgresql")]

BACKUP = ("backup-restore", {"snapshot": "always"})


@pytest.fixture
def notes(tmp_path: Path, database_url: str) -> Application:
    return Application(tmp_path, database_url)


async def ended(migrator: Migrator) -> TargetReport:
    try:
        (report,) = (await migrator.run()).targets
    except MigrationError as error:
        (report,) = error.report.targets
    return report


class Waiting:
    """Tells when its process waits for somebody."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.texts: list[str] = []
        self.found: list[tuple[str, str]] = []

    @hookimpl
    def on_event(self, event: Any) -> None:
        if event.name == "waiting":
            self.texts.append(str(event.data))
            self.begun.set()
        if event.name == "waited":
            self.found.append((event.data["on"], event.data["found"]))


class Asked:
    """Answers as it is told to, having tried to touch the database."""

    def __init__(self, answer: Decision, effect: str = "none") -> None:
        self.answer, self.effect = answer, effect
        self.failures: list[Failure] = []
        self.refusals: list[str] = []

    @hookimpl
    async def on_failure(self, run: Run, failure: Failure) -> Decision:
        self.failures.append(failure)
        try:
            await run.snapshot()
        except Exception as error:  # noqa: BLE001 - whatever refuses it
            self.refusals.append(str(error))
        return self.answer


@asynccontextmanager
async def leading(
    notes: Application, *recovery: Any, allow_partial: bool = False
) -> AsyncIterator[list[TargetReport]]:
    """Within, another run holds the lock; then it goes on, and its report is in the list."""
    held, go = asyncio.Event(), asyncio.Event()

    class Holding:
        @hookimpl
        async def before_migrate(self, run: Run) -> None:
            held.set()
            await go.wait()

    plugins, partial = [Holding()], allow_partial
    leader = Migrator(
        notes.target(), mode="migrate", recovery=recovery, plugins=plugins, allow_partial=partial
    )
    task = asyncio.create_task(ended(leader))
    await held.wait()
    reports: list[TargetReport] = []
    try:
        yield reports
    finally:
        go.set()
        reports.append(await task)


async def followed(
    notes: Application,
    leaders: Sequence[Any],
    *recovery: Any,
    mode: Any = "migrate",
    leader_allows: bool = False,
    waiting: Waiting | None = None,
    **options: Any,
) -> tuple[TargetReport, TargetReport]:
    """The reports of a leader and of a process that waited for it."""
    waiting = waiting or Waiting()
    follower = Migrator(notes.target(), mode=mode, recovery=recovery, plugins=[waiting], **options)
    async with leading(notes, *leaders, allow_partial=leader_allows) as reports:
        task = asyncio.create_task(ended(follower))
        await waiting.begun.wait()
    return reports[0], await task


class TestAFollower:
    async def test_without_a_strategy_fails_where_its_leader_went_on(
        self, notes: Application
    ) -> None:
        notes.deploy(BROKEN)
        leader, follower = await followed(notes, ["log-and-continue"])
        assert (leader.outcome, follower.outcome) == ("degraded", "failed")
        assert [each.kind for each in follower.failures] == ["revision"]
        assert "ended degraded; it was not repeated" in follower.notes[0]
        assert follower.waited_s > 0

    async def test_with_a_strategy_goes_on_where_its_leader_failed(
        self, notes: Application
    ) -> None:
        notes.deploy(BROKEN)
        leader, follower = await followed(notes, [], "log-and-continue")
        assert (leader.outcome, follower.outcome) == ("failed", "degraded")

    async def test_does_not_start_on_half_a_migration_that_only_its_leader_allows(
        self, notes: Application
    ) -> None:
        notes.deploy(HALF_WAY)
        if not notes.url.startswith("postgresql"):
            pytest.skip("a failed revision leaves no half on SQLite")
        both = ["log-and-continue"]
        leader, follower = await followed(notes, both, *both, leader_allows=True)
        assert (leader.outcome, follower.outcome) == ("degraded", "failed")
        assert any("allow_partial=True" in note for note in follower.notes)

    async def test_starts_on_it_where_it_allows_that_itself(self, notes: Application) -> None:
        notes.deploy(HALF_WAY)
        both = ["log-and-continue"]
        _, follower = await followed(notes, both, *both, leader_allows=True, allow_partial=True)
        assert follower.outcome == "degraded"

    async def test_is_told_the_state_after_its_leader_has_restored(
        self, notes: Application
    ) -> None:
        notes.deploy(GOOD, HALF_WAY)
        asked = Asked(Decision.CONTINUE)
        leader, follower = await followed(notes, [BACKUP], asked)
        assert (leader.outcome, follower.outcome) == ("failed", "degraded")
        assert [each.state for each in asked.failures] == ["clean"]
        for report in (leader, follower):
            assert report.after == ("r1",)
            assert "applied and kept" not in report.screen() + str(report)
        assert notes.notes() == ROWS

    @pytest.mark.long("sqlite-none", "sqlite-reverting")
    @pytest.mark.parametrize("effect", ["none", "reverting", "discarding"])
    async def test_touches_nothing_whatever_its_plugins_ask_for(
        self, notes: Application, effect: str
    ) -> None:
        notes.deploy(BROKEN)
        asked = Asked(Decision.RETRY, effect)
        _, follower = await followed(notes, [], asked)
        assert follower.outcome == "failed"
        assert len(follower.failures) == 1
        if effect == "discarding":
            assert asked.failures == []
        else:
            assert "has failed at the same" in asked.refusals[0]
            assert any("asked for another attempt after" in note for note in follower.notes)


class TestTheEndOfAWait:
    """It is told once, with what it found."""

    @pytest.mark.parametrize(
        ("deployed", "leaders", "mode", "found"),
        [
            (GOOD, [], "migrate", ("lock", "current")),
            (BROKEN, [], "migrate", ("lock", "failed")),
            (BROKEN, ["log-and-continue"], "migrate", ("lock", "degraded")),
            (GOOD, [], "wait", ("leader", "current")),
            (BROKEN, [], "wait", ("leader", "failed")),
        ],
    )
    async def test_says_what_the_leader_has_left(
        self, notes: Application, deployed: str, leaders: list[str], mode: str, found: Any
    ) -> None:
        notes.deploy(deployed)
        waiting = Waiting()
        await followed(notes, leaders, mode=mode, waiting=waiting)
        assert waiting.found == [found]

    async def test_says_that_this_process_does_the_rest(self, notes: Application) -> None:
        notes.deploy(GOOD)
        waiting = Waiting()
        follower = Migrator(notes.target(), mode="migrate", plugins=[waiting])
        async with opened(notes.target()) as session, session.lock(lambda *_: None):
            task = asyncio.create_task(ended(follower))
            await waiting.begun.wait()
        assert (await task).outcome == "migrated"
        assert waiting.found == [("lock", "pending")]

    @pytest.mark.parametrize("mode", ["migrate", "wait"])
    async def test_says_that_the_leader_took_too_long(self, notes: Application, mode: Any) -> None:
        notes.deploy(GOOD)
        waiting, limit = Waiting(), Timeouts(lock=0.5)
        async with leading(notes):
            with pytest.raises((MigrationError, FollowTimeoutError)):
                await Migrator(notes.target(), mode=mode, plugins=[waiting], timeouts=limit).run()
        assert waiting.found == [("lock" if mode == "migrate" else "leader", "timeout")]


class TestOneThatOnlyWaits:
    async def test_learns_that_the_leader_failed_and_how(self, notes: Application) -> None:
        notes.deploy(BROKEN)
        leader, waited = await followed(notes, ["log-and-continue"], mode="wait")
        assert (leader.outcome, waited.outcome) == ("degraded", "failed")
        assert [(f.kind, f.message) for f in waited.failures] == [
            (f.kind, f.message) for f in leader.failures
        ]
        assert "led while this process waited, and ended degraded" in waited.notes[0]

    async def test_reports_who_led_and_how_long_it_waited(self, notes: Application) -> None:
        notes.deploy(GOOD)
        leader, waited = await followed(notes, [], mode="wait")
        assert (leader.outcome, waited.outcome) == ("migrated", "current")
        assert waited.waited_s > 0
        (note,) = waited.notes
        who = "process " if notes.url.startswith("sqlite") else "PostgreSQL session "
        assert note.startswith(who) and " migrated it while this process waited" in note

    @pytest.mark.long
    async def test_is_not_stopped_by_a_failure_of_before_and_tells_it_at_the_end(
        self, notes: Application
    ) -> None:
        notes.deploy(BROKEN)
        assert (await ended(Migrator(notes.target(), mode="migrate"))).outcome == "failed"
        target = notes.target(lock_timeout=1)
        with pytest.raises(FollowTimeoutError, match=r"the last leader, .* failed; the last fail"):
            await Migrator(target, mode="wait").run()

    async def test_says_nothing_of_a_database_that_was_current_at_once(
        self, notes: Application
    ) -> None:
        (report,) = (await Migrator(notes.target(), mode="wait").run()).targets
        assert (report.outcome, report.notes, report.waited_s) == ("current", (), 0.0)
