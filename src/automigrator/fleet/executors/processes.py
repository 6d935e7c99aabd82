"""Tenants in several processes of this machine, where one interpreter is the limit."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial

from automigrator.errors import ConfigurationError, ExecutorError
from automigrator.fleet.executors import outcomes
from automigrator.fleet.executors.contract import Bringing, Executor, Work
from automigrator.fleet.executors.feed import Feed
from automigrator.fleet.executors.lanes import Tell, as_they_come, together
from automigrator.fleet.executors.worker_process import Limits, LostError, WorkerProcess
from automigrator.fleet.report import TenantReport
from automigrator.support.concurrency import shielded
from automigrator.support.loggers import logger_of

logger = logger_of("automigrator.fleet")


class Processes(Executor):
    """Brings tenants in worker processes, each of which imports the fleet by its source.

    `workers`: processes; default: one a processor. `tasks`: tenants at a time in each; default 4.
    `silent_s`: seconds after which a worker that says nothing is killed; default 30.
    `start_s`: seconds in which a worker imports the fleet; default 120. `stop_s`: seconds for the
    statements under way when workers are to stop; default 30.
    `max_losses`: workers that may be lost in a row before one tenant is finished; default 10.
    `max_deaths`: workers that a tenant may lose before it is reported as failed; default 5. After
    its second one it is brought in a process of its own.

    Output and logs of the workers go to stderr. Raises ConfigurationError.
    """

    def __init__(
        self,
        workers: int | None = None,
        tasks: int = 4,
        *,
        silent_s: float = 30.0,
        start_s: float = 120.0,
        stop_s: float = 30.0,
        max_losses: int = 10,
        max_deaths: int = 5,
    ) -> None:
        self.workers = at_least_one("workers", os.cpu_count() or 1 if workers is None else workers)
        self.tasks = at_least_one("tasks", tasks)
        self.limits = Limits(silent_s, start_s, stop_s)
        if not all(limit > 0 for limit in vars(self.limits).values()):
            raise ConfigurationError("silent_s, start_s and stop_s are seconds, more than 0")
        self.max_losses = at_least_one("max_losses", max_losses)
        self.max_deaths = at_least_one("max_deaths", max_deaths)

    async def run(
        self, fleet: Bringing, tenants: AsyncIterator[str]
    ) -> AsyncGenerator[TenantReport]:
        """Bring each of `tenants`, and yield its report as soon as it ends."""
        work = await fleet.work()
        pool = _Pool(self, work)
        async with aclosing(as_they_come(partial(pool.bring_all, tenants))) as reports:
            async for report in reports:
                yield report


class _Pool:
    """The workers of one run."""

    def __init__(self, options: Processes, work: Work) -> None:
        self.options, self.work = options, work
        self._losses = 0
        self._known: set[str] = set()
        self._deaths = Counter[str]()
        self._alone = asyncio.Lock()
        self._begun = False

    async def bring_all(self, tenants: AsyncIterator[str], tell: Tell) -> None:
        feed = Feed(tenants)
        slots = [_Slot(self) for _ in range(self.options.workers)]
        try:
            await together(slot.open() for slot in slots)
            self._begun = True
            lanes = [slot for slot in slots for _ in range(self.options.tasks)]
            await together(self._lane(slot, feed, tell) for slot in lanes)
        finally:
            await feed.aclose()
            await shielded(asyncio.gather(*(slot.close() for slot in slots)))

    async def started(self) -> WorkerProcess:
        """Start a worker, another one where it is lost at once. Raises ExecutorError."""
        while True:
            try:
                return await WorkerProcess.start(self.work, self.options.limits)
            except LostError as lost:
                self._lose(lost)
            except ConfigurationError as error:
                if not self._begun:
                    raise
                raise ExecutorError(
                    f"a new worker refused its work: {error}. Tenants that were reported are "
                    "done, the others were not begun or were rolled back; run the fleet again"
                ) from error

    async def _lane(self, slot: _Slot, feed: Feed, tell: Tell) -> None:
        while (tenant := await feed.take()) is not None:
            try:
                report = await self._brought(slot, tenant)
            except LostError as lost:
                if str(lost) not in self._known:  # by another of its tenants
                    self._known.add(str(lost))
                    self._lose(lost)
                self._deaths[tenant] += 1
                if self._deaths[tenant] < 2:
                    feed.give_back(tenant)
                    continue
                report = await self._brought_alone(tenant, lost)
            tell(report)
            feed.done(tenant)

    async def _brought(self, slot: _Slot, tenant: str) -> TenantReport:
        worker = await slot.open()
        report = outcomes.read(await worker.bring(tenant), tenant, worker.name)
        self._losses = 0
        return report

    async def _brought_alone(self, tenant: str, lost: LostError) -> TenantReport:
        """Bring a tenant that may be what kills its workers, where it harms no other."""
        async with self._alone:
            while self._deaths[tenant] < self.options.max_deaths:
                slot = _Slot(self)
                try:
                    return await self._brought(slot, tenant)
                except LostError as again:
                    lost = again
                    self._deaths[tenant] += 1
                    self._lose(lost)
                finally:
                    await shielded(slot.close())
        deaths = self._deaths[tenant]
        self._losses = 0
        return outcomes.failed(
            tenant,
            f"{deaths} workers were lost while they migrated it; the last: {lost}",
            "look for what kills them: memory, a revision's own code; then run the fleet again, "
            "which repairs what is half done",
        )

    def _lose(self, lost: LostError) -> None:
        self._losses += 1
        logger.warning("%s; its tenants are given to another worker", lost)
        if self._losses > self.options.max_losses:
            raise ExecutorError(
                f"{self._losses} worker processes were lost in a row, and no tenant was finished "
                f"meanwhile; the last: {lost}. Tenants that were reported are done, the others "
                "were not begun, or are repaired by the next run. Look for what ends the workers: "
                "memory (try fewer workers or tasks), or what the fleet's module does when it is "
                "imported; then run the fleet again"
            )


class _Slot:
    """The place of one worker, which is replaced when it is lost."""

    def __init__(self, pool: _Pool) -> None:
        self._pool = pool
        self._worker: WorkerProcess | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> WorkerProcess:
        """The worker that is there, or a new one. Raises what starting one raises."""
        async with self._opening:
            if self._worker is not None and self._worker.lost:
                await self._worker.kill()
                self._worker = None
            if self._worker is None:
                self._worker = await self._pool.started()
            return self._worker

    async def close(self) -> None:
        if self._worker is not None:
            await self._worker.stop()


def at_least_one(name: str, value: int) -> int:
    """The value of an option that is a number, and not 0. Raises ConfigurationError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{name} is a whole number from 1 on, not {value!r}")
    return value
