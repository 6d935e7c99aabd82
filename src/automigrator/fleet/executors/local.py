"""The simplest executor: tasks of this process, in its event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from automigrator.errors import ConfigurationError
from automigrator.fleet.executors.contract import Bringing, Executor
from automigrator.fleet.report import TenantReport

TASKS = 8
"""Tenants at a time where nobody says how many."""


class Local(Executor):
    """Brings tenants to head in this process. `tasks`: how many at a time; default 8."""

    def __init__(self, tasks: int = TASKS) -> None:
        if not isinstance(tasks, int) or isinstance(tasks, bool) or tasks < 1:
            raise ConfigurationError(f"tasks={tasks!r} is not a whole number from 1 up")
        self.tasks = tasks

    async def run(
        self, fleet: Bringing, tenants: AsyncIterator[str]
    ) -> AsyncGenerator[TenantReport]:
        """See `Executor`."""
        reports: asyncio.Queue[TenantReport | None] = asyncio.Queue()
        turn = asyncio.Lock()

        async def work() -> None:
            while True:
                async with turn:  # an async generator serves one at a time
                    name = await anext(tenants, None)
                if name is None:
                    return
                reports.put_nowait(await fleet.bring(name))

        async def all_work() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self.tasks):
                        group.create_task(work())
            finally:
                reports.put_nowait(None)

        task = asyncio.create_task(all_work())
        try:
            while (report := await reports.get()) is not None:
                yield report
            await task
        finally:
            task.cancel()
            await asyncio.wait({task})
