"""Whole runs with a strategy: what becomes of the data, and whether the report tells the truth."""

from __future__ import annotations

from sqlalchemy import URL

from automigrator.hooks.effects import effect_of
from automigrator.testing.conformance import case, nothing_is_open, same
from automigrator.testing.contents import Contents, checksums, contents, heads
from automigrator.testing.strategies.application import (
    AT_BOUNDARY,
    BROKEN,
    GOOD,
    HALF_IN_THE_WAY,
    HALF_WAY,
    IN_THE_WAY,
    OLD,
    Application,
    Deployment,
)
from automigrator.testing.strategies.harness import Started, beyond, start
from automigrator.testing.strategies.interface import Face

_MOST_ATTEMPTS = 3


class Outcomes(Face):
    """After every failure the database is one of a few, and the report says which."""

    __test__ = False

    deletes_old_data = False
    """Whether the strategy is configured to delete what it replaces; else it must be kept."""

    async def deployed(self, deployment: Deployment | None, name: str = "app") -> Application:
        """An application that has started once; the deployment is what its next start finds."""
        application = Application(self.folder / name, self.fresh.url(name))
        await application.start_afresh()
        if deployment is not None:
            application.deploy(deployment)
        return application

    async def judge(self, application: Application, deployment: Deployment, after: str) -> Contents:
        """Fails unless the data is old, migrated, left by the revisions, or replaced and kept."""
        found = await contents(application.url)
        allowed = [OLD, deployment.left]
        if effect_of(self.make()) == "discarding" and deployment.fresh is not None:
            allowed.append(deployment.fresh)
        assert found in allowed, (
            f"{deployment.name}: {after}, the database is neither the old one nor the migrated "
            f"one nor as the revisions left it: {checksums(found)}; the old one: {checksums(OLD)}"
        )
        if found == deployment.fresh and not self.deletes_old_data:
            assert await self._is_kept(application.url, deployment), (
                f"{deployment.name}: {after}, the database was replaced, and the old data is in "
                f"none of {sorted(await self.fresh.places())}"
            )
        return found

    async def ended_well(
        self,
        application: Application,
        deployment: Deployment,
        started: Started,
        after: str = "after a start",
    ) -> Contents:
        """What `judge` says, and that the report and the next start have nothing to hide."""
        found = await self.judge(application, deployment, after)
        report = started.report
        assert report.after == heads(found), (
            f"{deployment.name}: the report says that the database is at {report.after}, "
            f"and it is at {heads(found)}"
        )
        reached = report.outcome in ("current", "migrated", "recovered")
        assert reached == (heads(found) == (deployment.wanted,)), (
            f"{deployment.name}: the outcome is {report.outcome!r}, and the database is at "
            f"{heads(found)}, not at {deployment.wanted}"
        )
        if found == deployment.left != OLD and not reached:
            assert report.failures[-1].state != "clean", (
                f"{deployment.name}: the failed revisions have left changes, and the report says "
                "that the database is clean"
            )
        assert report.attempts <= _MOST_ATTEMPTS and len(started.data_of("recreated")) <= 1, (
            f"{deployment.name}: it acted again and again: {report.attempts} attempts, "
            f"{len(started.data_of('recreated'))} replacements"
        )
        wrong = beyond(started.acts, self.make())
        assert not wrong, f"{deployment.name}: {'; '.join(wrong)}"
        await nothing_is_open(application.url, f"{deployment.name}: {after}")
        return found

    @case
    async def test_nothing_pending_is_none_of_its_business(self) -> None:
        application = await self.deployed(None)
        before = await self.fresh.places()
        started = await start(application, [self.make()])
        assert started.report.outcome == "current", started.report
        assert not started.acts, f"nothing was pending, and it asked for {started.acts}"
        same(await contents(application.url), OLD, "nothing was pending, and the data changed")
        assert await self.fresh.places() == before, "nothing was pending, and it made a copy"

    @case
    async def test_a_migration_that_succeeds_is_as_without_it(self) -> None:
        application = await self.deployed(GOOD)
        started = await start(application, [self.make()])
        assert started.report.outcome == "migrated", started.report
        found = await contents(application.url)
        same(found, GOOD.left, "a migration that succeeded did not end as it does without it")
        await nothing_is_open(application.url, "after a migration that succeeded")

    @case
    async def test_a_broken_revision_that_was_rolled_back(self) -> None:
        await self._fails(BROKEN)

    @case
    async def test_a_broken_revision_after_one_that_was_committed(self) -> None:
        await self._fails(AT_BOUNDARY)

    @case
    async def test_a_broken_revision_that_committed_a_part(self) -> None:
        await self._fails(HALF_WAY)

    @case
    async def test_rows_in_the_way_of_a_revision(self) -> None:
        await self._fails(IN_THE_WAY)

    @case
    async def test_rows_in_the_way_of_a_revision_that_committed_a_part(self) -> None:
        await self._fails(HALF_IN_THE_WAY)

    @case
    async def test_a_repaired_deployment_is_migrated(self) -> None:
        """Whatever it did at the start before, it does not stand in the way of a good one."""
        application = await self.deployed(HALF_WAY)
        await start(application, [self.make()])
        found = await contents(application.url)
        application.deploy(GOOD)
        started = await start(application, [self.make()])
        assert started.report.after == ("r2",), (
            f"after a broken deployment and a repaired one: {started.report}"
        )
        notes = (await contents(application.url))["notes"][1]
        assert len(notes) == len(found["notes"][1]), "a repaired deployment lost rows"

    async def _fails(self, deployment: Deployment) -> None:
        application = await self.deployed(deployment)
        started = await start(application, [self.make()])
        assert started.report.failures, f"{deployment.name} did not fail: {started.report}"
        await self.ended_well(application, deployment, started)

    async def _is_kept(self, url: URL, deployment: Deployment) -> bool:
        """Whether some other database has the old rows, or what the revisions had left of them."""
        own = str(url.database)
        places = sorted(await self.fresh.places(), key=lambda place: not place.startswith(own))
        for place in places:
            kept = await contents(url.set(database=place)) if place != own else None
            if kept in (OLD, deployment.left):
                return True
        return False
