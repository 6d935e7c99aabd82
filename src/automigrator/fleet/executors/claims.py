"""Tenants shared among replicas that know nothing of each other, by claims in one database."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from functools import partial

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from automigrator.errors import ConfigurationError
from automigrator.fleet.executors import outcomes
from automigrator.fleet.executors.claim_table import ClaimTable
from automigrator.fleet.executors.contract import Bringing, Executor, Work
from automigrator.fleet.executors.feed import Feed
from automigrator.fleet.executors.lanes import Tell, as_they_come, bring_here, together
from automigrator.fleet.executors.processes import at_least_one
from automigrator.fleet.report import TenantReport
from automigrator.support.backoff import Backoff
from automigrator.support.concurrency import shielded


class Claims(Executor):
    """Brings the tenants that no other replica has claimed; each replica reports all of them.

    Every replica runs the same fleet. It claims a tenant in the control database, brings it, and
    leaves its report there; the reports of tenants that others have claimed are read there. A
    replica that is lost loses its claims after `lease_s` seconds on that database's clock, and
    another one takes its tenants over. Replicas that are under way at the same time, of the same
    history, release and mode, share one round; who comes when all have left begins another one,
    and looks at each tenant itself.

    `control`: a PostgreSQL database that is no tenant's, as a URL, or an AsyncEngine.
    `inner`: the executor that brings them; default: this process.
    `tasks`: tenants at a time, where there is no `inner`; default 8.
    `lease_s`: seconds that a claim lasts without a sign of its replica; default 30.
    `poll_s`: the longest pause in seconds between two looks at others; default 2.

    Raises ConfigurationError.
    """

    def __init__(
        self,
        control: str | URL | AsyncEngine,
        *,
        inner: Executor | None = None,
        tasks: int = 8,
        lease_s: float = 30.0,
        poll_s: float = 2.0,
    ) -> None:
        if not (lease_s >= 1 and 0 < poll_s < lease_s):
            raise ConfigurationError("lease_s is at least 1 second, and poll_s less than lease_s")
        self.table = ClaimTable(control, lease_s)
        self.inner = inner
        self.tasks = at_least_one("tasks", tasks)
        self.lease_s, self.poll_s = lease_s, poll_s
        self._counts = (0, 0)

    @property
    def notes(self) -> tuple[str, ...]:
        """How many tenants this replica brought itself."""
        ours, others = self._counts
        return (f"this replica brought {ours} tenants, and other replicas {others}",)

    async def run(
        self, fleet: Bringing, tenants: AsyncIterator[str]
    ) -> AsyncGenerator[TenantReport]:
        """Bring those of `tenants` that no other replica does, and yield the reports of all."""
        replica = _Replica(self, fleet, await fleet.work(), Feed(tenants))
        try:
            async with aclosing(as_they_come(replica.bring_all)) as reports:
                async for report in reports:
                    yield report
        finally:
            self._counts = (replica.brought, replica.read)


class _Replica:
    """This process's part of a round."""

    def __init__(self, options: Claims, fleet: Bringing, work: Work, feed: Feed) -> None:
        self.options, self.fleet, self.feed = options, fleet, feed
        self.table = options.table
        self.key = "\n".join((work.plan, work.version, work.mode, work.source))
        self.name = str(uuid.uuid4())
        self.round = ""
        self.brought = self.read = 0
        self._others: set[str] = set()
        """Tenants that another replica has claimed: the feed gave them to us as well."""
        self._claiming = asyncio.Event()
        """Set where another replica has claimed one more."""
        self._over = asyncio.Event()

    async def bring_all(self, tell: Tell) -> None:
        async with self.table.opened():
            self.round = await self.table.join(self.key, self.name)
            try:
                await together([self._bring_ours(tell), self._gather(tell), self._renew()])
            finally:
                await self.feed.aclose()
                await shielded(self._leave())

    async def _leave(self) -> None:
        with suppress(Exception):  # the next to join tidies up
            await self.table.leave(self.round, self.name)

    async def _bring_ours(self, tell: Tell) -> None:
        if self.options.inner is not None:
            work = self.options.inner.run(self.fleet, self._claimed())
        else:
            bring = partial(bring_here, self.fleet, self._claimed(), self.options.tasks)
            work = as_they_come(bring)
        async with aclosing(work) as reports:
            async for report in reports:
                text = outcomes.written(report)
                if await self.table.finish(self.round, report.name, self.name, text):
                    self.brought += 1
                    self._told(report, tell)
                else:  # we were taken for lost, and what counts is another one's report
                    self._leave_to_others(report.name)
        self._over.set()

    async def _claimed(self) -> AsyncIterator[str]:
        while (tenant := await self.feed.take()) is not None:
            if await self.table.claim(self.round, tenant, self.name):
                yield tenant
            else:
                self._leave_to_others(tenant)

    def _leave_to_others(self, tenant: str) -> None:
        self._others.add(tenant)
        self._claiming.set()

    async def _gather(self, tell: Tell) -> None:
        """Tell what others report, and take again what a lost replica has claimed."""
        pauses = self._pauses()
        while not self._over.is_set():
            if not self._others:
                self._claiming.clear()
                await _first(self._claiming, self._over)
            reports, free = await self.table.look(self.round, sorted(self._others))
            for tenant, text in reports:
                self.read += 1
                self._others.discard(tenant)
                self._told(outcomes.read(text, tenant), tell)
            for tenant in free:
                self._others.discard(tenant)
                self.feed.give_back(tenant)
            if reports or free:
                pauses = self._pauses()
            with suppress(TimeoutError):
                async with asyncio.timeout(pauses.pause()):
                    await self._over.wait()

    def _pauses(self) -> Backoff:
        return Backoff(min(0.1, self.options.poll_s), self.options.poll_s)

    def _told(self, report: TenantReport, tell: Tell) -> None:
        tell(report)
        self.feed.done(report.name)

    async def _renew(self) -> None:
        while not self._over.is_set():
            await self.table.renew(self.round, self.key, self.name)
            with suppress(TimeoutError):
                async with asyncio.timeout(self.options.lease_s / 4):
                    await self._over.wait()


async def _first(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(each.wait()) for each in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
