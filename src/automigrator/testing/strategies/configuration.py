"""How a strategy behaves towards the application, the log, and other strategies."""

from __future__ import annotations

import asyncio
from typing import ClassVar
from urllib.parse import quote

from automigrator.errors import MigrationError
from automigrator.failure import Decision
from automigrator.hooks.spec import hookimpl
from automigrator.migrator import Migrator
from automigrator.testing.conformance import case
from automigrator.testing.contents import contents, heads
from automigrator.testing.databases import CANARY
from automigrator.testing.strategies.application import (
    BROKEN,
    HALF_IN_THE_WAY,
    HALF_WAY,
    IN_THE_WAY,
)
from automigrator.testing.strategies.assertions import Outcomes
from automigrator.testing.strategies.harness import start


class Answering:
    """A strategy with one answer; it touches nothing."""

    effect = "none"

    def __init__(self, answer: Decision | None) -> None:
        self._answer = answer
        self.asked = 0

    @hookimpl
    def on_failure(self) -> Decision | None:
        self.asked += 1
        return self._answer


class Manners(Outcomes):
    """No secret is told, the loop is never blocked, and others are asked in their turn."""

    __test__ = False

    longest_stall_s: ClassVar[float] = 5.0
    """Generous: it finds a strategy that blocks the event loop, on a busy machine too."""

    @case
    async def test_no_secret_is_told(self) -> None:
        """Neither the database's password nor a value of a row, in whatever may be read."""
        for number, deployment in enumerate((IN_THE_WAY, HALF_WAY)):
            application = await self.deployed(deployment, f"secret{number}")
            started = await start(application, [self.make()])
            password = str(application.url.password or CANARY)
            for secret in {CANARY, password, quote(password, " +")}:  # as a URL spells it, too
                lines = [line for line in started.told.splitlines() if secret in line]
                shown = "\n".join(line.replace(secret, "<the secret>") for line in lines)
                assert not lines, (
                    f"{deployment.name}: the log, a note, an event or the report tells a value "
                    f"of a row, or the password:\n{shown}"
                )

    @case
    async def test_the_event_loop_is_not_blocked(self) -> None:
        application = await self.deployed(HALF_IN_THE_WAY)
        started = await start(application, [self.make()])
        print(f"the event loop was busy for {started.stall_s * 1000:.0f} ms at most")
        assert started.stall_s < self.longest_stall_s, (
            f"the event loop was blocked for {started.stall_s:.1f} s: use a thread, or await"
        )

    def test_it_works_in_an_application_without_a_loop(self) -> None:
        application = asyncio.run(self.deployed(IN_THE_WAY))
        migrator = Migrator(application.target(), mode="migrate", recovery=[self.make()])
        try:
            report = migrator.run_sync()
        except MigrationError as error:
            report = error.report
        found = asyncio.run(contents(application.url))
        assert report.targets[0].after == heads(found), (
            f"run_sync() says {report}, and the database is at {heads(found)}"
        )

    @case
    async def test_one_object_serves_several_databases(self) -> None:
        """It keeps nothing from one failure to the next: the core counts."""
        strategy = self.make()
        ends = []
        for name in ("first", "second"):
            application = await self.deployed(HALF_IN_THE_WAY, name)
            started = await start(application, [strategy])
            await self.ended_well(application, HALF_IN_THE_WAY, started)
            decisions = [data["decision"] for data in started.data_of("decided")]
            ends.append((started.report.outcome, decisions, [act.name for act in started.acts]))
        assert ends[0] == ends[1], (
            f"one object was used for two databases that failed alike, and did {ends[0]} for the "
            f"first and {ends[1]} for the second"
        )

    @case
    async def test_one_that_passes_before_it_changes_nothing(self) -> None:
        alone = await self.deployed(HALF_IN_THE_WAY, "alone")
        behind = await self.deployed(HALF_IN_THE_WAY, "behind")
        expected = await start(alone, [self.make()])
        passing = Answering(None)
        started = await start(behind, [passing, self.make()])
        assert passing.asked, "the strategy before it was not asked"
        assert started.report.outcome == expected.report.outcome, (
            f"alone it gives {expected.report.outcome}, behind one that passes "
            f"{started.report.outcome}"
        )
        await self.ended_well(behind, HALF_IN_THE_WAY, started)

    @case
    async def test_the_next_is_asked_when_it_passes_and_not_when_it_decides(self) -> None:
        application = await self.deployed(BROKEN)
        last = Answering(Decision.CONTINUE)
        started = await start(application, [self.make(), last])
        decided = [data["decision"] for data in started.data_of("decided")]
        assert started.report.outcome == "degraded" or "abort" in decided or not last.asked, (
            f"a strategy behind it said to continue on a clean database, and the run gave "
            f"{started.report.outcome}: {started.report}"
        )
        await self.ended_well(application, BROKEN, started)
