"""How an executor brings tenants while nothing happens to its workers."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Awaitable
from typing import Any

from automigrator.errors import ConfigurationError
from automigrator.testing.conformance import FREE_S, case
from automigrator.testing.databases import CANARY
from automigrator.testing.executors.harness import WORKERS, ExecutorCase, Fed
from automigrator.testing.executors.tenants import Tenants

_MORE = 4
"""Tenants beyond those that an executor may hold."""


class Rollouts(ExecutorCase):
    """Each tenant is brought at least once and reported once, and none ahead of its turn."""

    __test__ = False

    @case
    async def test_each_tenant_is_brought_and_reported_once(self) -> None:
        names = [f"tenant{number}" for number in range(6)]
        async with self.running() as executor:
            reports = await self.ran(executor, Fed(*names))
            again = await self.ran(executor, Fed(*names))
        ours = [name for name in names if executor.takes(name)]
        assert {name: report.outcome for name, report in reports.items()} == dict.fromkeys(
            ours, "migrated"
        )
        assert {name: report.outcome for name, report in again.items()} == dict.fromkeys(
            ours, "current"
        )
        await self.are_at_head(*ours)

    @case
    async def test_a_failing_tenant_does_not_stop_the_others(self) -> None:
        names = ["broken0", "tenant0", "raising0", "tenant1", "broken1"]
        async with self.running() as executor:
            reports = await self.ran(executor, Fed(*names))
        outcomes = {name: report.outcome for name, report in reports.items()}
        assert outcomes == {
            name: "migrated" if name.startswith("tenant") else "failed"
            for name in names
            if executor.takes(name)
        }
        for name, report in reports.items():
            assert (report.failure is None) == (report.outcome == "migrated"), name
        told = json.dumps([report.to_dict() for report in reports.values()])
        assert CANARY not in told, "a report tells a password"
        await self.are_at_head(*(name for name in outcomes if outcomes[name] == "migrated"))
        await self.are_untouched(*(name for name in outcomes if outcomes[name] == "failed"))

    @case
    async def test_tenants_are_taken_when_there_is_room_for_them(self) -> None:
        async with self.running() as executor:
            wanted = self.capacity + _MORE
            names = [each for each in map("slow{}".format, range(9999)) if executor.takes(each)]
            fed = Fed(*names[:wanted])
            run = asyncio.ensure_future(self.ran(executor, fed))
            async with asyncio.timeout(FREE_S):
                await _first(self.tenants.noted("begin", names[0]), run)
            await asyncio.sleep(0.2)
            held = len(fed.held)
            self.tenants.open_gate()
            reports = await run
        assert held <= self.capacity, f"it took {held} tenants, and has room for {self.capacity}"
        assert len(reports) == wanted

    @case
    async def test_a_group_may_wait_for_the_one_before_it(self) -> None:
        """The next tenant is asked for while the first ones are under way, and comes after them."""
        async with self.running() as executor:
            names = [each for each in map("tenant{}".format, range(99)) if executor.takes(each)]
            first, *others = names[:4]
            fed = Fed(first, *others)
            fed.waits_for = dict.fromkeys(others, first)
            reports = await self.ran(executor, fed)
        assert sorted(reports) == sorted(names[:4])

    @case
    async def test_a_cancellation_stops_what_it_began(self) -> None:
        async with self.running() as executor:
            names = [each for each in map("slow{}".format, range(99)) if executor.takes(each)][:4]
            run = asyncio.ensure_future(self.ran(executor, Fed(*names)))
            async with asyncio.timeout(FREE_S):
                await _first(self.tenants.noted("begin", names[0]), run)
            run.cancel()
            await asyncio.wait({run}, timeout=FREE_S)
            assert run.cancelled(), "it was cancelled, and went on"
            await self.nothing_is_under_way()
            await self.are_untouched(*names)
            self.tenants.open_gate()
            reports = await self.ran(executor, Fed(*names))
        assert {report.outcome for report in reports.values()} == {"migrated"}
        await self.are_at_head(*names)

    @case
    async def test_an_error_of_the_rollout_itself_ends_the_run(self) -> None:
        class BrokenError(Exception):
            pass

        class Breaking(Fed):
            async def __aiter__(self):  # type: ignore[no-untyped-def]
                async for name in super().__aiter__():
                    yield name
                raise BrokenError

        async with self.running() as executor:
            try:
                await self.ran(executor, Breaking("tenant0"))
            except BrokenError:
                return
        raise AssertionError("the tenants' iterator raised, and nobody was told")

    @case
    async def test_what_travels_holds_no_secret(self) -> None:
        work = await self.tenants.work()
        for travelling in (pickle.dumps(work), json.dumps(vars(work)).encode()):
            assert CANARY.encode() not in travelling
            assert b"://" not in travelling

    @case(needs=WORKERS)
    async def test_a_worker_with_another_history_refuses(self) -> None:
        self.tenants.plan = "another"
        refusal = await self._refused("digest", self.tenants)
        assert "another" in refusal

    @case(needs=WORKERS)
    async def test_a_worker_with_another_release_refuses(self) -> None:
        self.tenants.version = "99.0"
        refusal = await self._refused("automigrator", self.tenants)
        assert "99.0" in refusal

    async def _refused(self, word: str, fleet: Tenants) -> str:
        fed = Fed("tenant0", "tenant1")
        async with self.running() as executor:
            try:
                await self.ran(executor, fed, fleet)
            except ConfigurationError as error:
                refusal = str(error)
            else:
                raise AssertionError("a worker that disagrees did not refuse")
        assert not fed.held, "a tenant was taken before the workers agreed"
        assert word in refusal and "worker" in refusal, refusal
        assert not self.tenants.notes()
        return refusal


async def _first(event: Awaitable[object], run: asyncio.Future[Any]) -> None:
    """Await the event; an error of the run comes before it."""
    waiting = asyncio.ensure_future(event)
    try:
        await asyncio.wait({waiting, run}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            run.result()
            raise AssertionError("the run ended, and its tenant did not begin")
    finally:
        waiting.cancel()
