"""What becomes of the tenants of a worker that is killed or frozen."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from automigrator.testing.conformance import FREE_S, case
from automigrator.testing.executors.harness import WORKERS, ExecutorCase, Fed

_OTHERS = ("tenant0", "tenant1", "tenant2", "tenant3")


class Losses(ExecutorCase):
    """Others finish them, nothing is done twice, and nothing is counted twice."""

    __test__ = False

    @case(needs=WORKERS)
    async def test_the_tenants_of_a_killed_worker_are_finished_by_others(self) -> None:
        async with self.losing("slow0", *_OTHERS) as executor:
            fed = Fed("slow0", *_OTHERS)
            fed.waits_for = {_OTHERS[-1]: "slow0"}  # nobody may wait for the next one for ever
            run = asyncio.ensure_future(self.ran(executor, fed))
            async with asyncio.timeout(FREE_S):
                worker = await self.tenants.noted("begin", "slow0", elsewhere=True)
            os.kill(worker, signal.SIGKILL)
            self.tenants.open_gate()
            reports = await run
        assert sorted(reports) == sorted(["slow0", *_OTHERS])
        assert {report.outcome for report in reports.values()} <= {"migrated", "current"}
        began = [process for what, name, process in self.tenants.notes() if name == "slow0"]
        assert len(set(began)) > 1, "nobody else has brought it"
        await self.are_at_head("slow0", *_OTHERS)

    @case(needs=WORKERS)
    async def test_the_tenants_of_a_frozen_worker_are_finished_by_others(self) -> None:
        if self.kind not in self.frozen_on:
            pytest.skip(f"a frozen worker keeps its lock on {self.kind}")
        async with self.losing("slow0", *_OTHERS) as executor:
            run = asyncio.ensure_future(self.ran(executor, Fed("slow0", *_OTHERS)))
            async with asyncio.timeout(FREE_S):
                worker = await self.tenants.noted("begin", "slow0", elsewhere=True)
            os.kill(worker, signal.SIGSTOP)
            try:
                self.tenants.open_gate()
                reports = await run
            finally:
                thaw(worker)
            assert sorted(reports) == sorted(["slow0", *_OTHERS])
            assert {report.outcome for report in reports.values()} <= {"migrated", "current"}
            await self.are_at_head("slow0", *_OTHERS)
        await self.are_at_head("slow0", *_OTHERS)  # whatever it did when it woke up


def thaw(process: int) -> None:
    """Let a frozen process go on, if it is still there."""
    try:
        os.kill(process, signal.SIGCONT)
    except ProcessLookupError:
        return
