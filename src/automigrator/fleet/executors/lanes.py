"""Several tenants at a time: lanes that take one after another, and reports as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from typing import Any

from automigrator.fleet.executors.contract import Bringing
from automigrator.fleet.executors.feed import Feed
from automigrator.fleet.executors.outcomes import brought
from automigrator.fleet.report import TenantReport
from automigrator.support.concurrency import shielded, started

Tell = Callable[[TenantReport], None]
"""What is called with each report."""


async def as_they_come(
    work: Callable[[Tell], Coroutine[Any, Any, None]],
) -> AsyncGenerator[TenantReport]:
    """Yield what `work` tells, as soon as it does; closed or cancelled, it ends the work.

    Raises what the work raises, after its last report.
    """
    reports: asyncio.Queue[TenantReport | None] = asyncio.Queue()
    task = started(work(reports.put_nowait))
    task.add_done_callback(lambda _: reports.put_nowait(None))
    try:
        while (report := await reports.get()) is not None:
            yield report
        task.result()
    finally:
        task.cancel()
        await shielded(asyncio.wait({task}))


async def together(works: Iterable[Awaitable[Any]]) -> None:
    """Await all of `works`; the first error ends the others, and is raised when they have ended."""
    tasks = [started(each) for each in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for each in done:
            each.result()
    finally:
        for each in tasks:
            each.cancel()
        await shielded(asyncio.wait(tasks))


async def bring_here(
    fleet: Bringing, tenants: AsyncIterator[str], tasks: int, tell: Tell, worker: str = ""
) -> None:
    """Bring `tenants` in this process, up to `tasks` at a time, and tell each report."""
    feed = Feed(tenants)

    async def lane() -> None:
        while (tenant := await feed.take()) is not None:
            tell(await brought(fleet, tenant, worker))
            feed.done(tenant)

    try:
        await together(lane() for _ in range(tasks))
    finally:
        await feed.aclose()
