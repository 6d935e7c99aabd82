"""The simplest executor: tasks of this process, in its event loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial

from automigrator.errors import ConfigurationError
from automigrator.fleet.executors.contract import Bringing, Executor
from automigrator.fleet.executors.lanes import as_they_come, bring_here
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
        work = partial(bring_here, fleet, tenants, self.tasks)
        async with aclosing(as_they_come(work)) as reports:
            async for report in reports:
                yield report
