"""Every executor of the core passes the suite that others inherit."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial

import pytest

from automigrator.fleet.executors.contract import Bringing, Executor
from automigrator.fleet.executors.lanes import as_they_come, bring_here
from automigrator.fleet.executors.processes import Processes
from automigrator.fleet.executors.shards import Shards
from automigrator.fleet.report import TenantReport
from automigrator.testing import ExecutorConformance


class Here(Executor):
    """Tenants in this process, as shards and claims bring them unless told otherwise."""

    def run(self, fleet: Bringing, tenants: AsyncIterator[str]) -> AsyncGenerator[TenantReport]:
        return as_they_come(partial(bring_here, fleet, tenants, 3))


@pytest.mark.long("postgresql")
class TestInThisProcess(ExecutorConformance):
    capacity = 3

    def make(self) -> Executor:
        return Here()


@pytest.mark.long
class TestProcesses(ExecutorConformance):
    offers = ("workers",)
    capacity = 4

    def make(self) -> Executor:
        return Processes(2, 2, silent_s=6, stop_s=20)


@pytest.mark.long
class TestShards(ExecutorConformance):
    capacity = 3

    def make(self) -> Executor:
        return Shards(0, 2, inner=Here())
