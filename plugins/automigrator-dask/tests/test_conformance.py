"""The cases that automigrator has for every executor."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from automigrator_dask import DaskExecutor
from support.dask_cluster import cluster

from automigrator.fleet.executors.contract import Executor
from automigrator.testing import ExecutorConformance

pytestmark = pytest.mark.long


class TestDask(ExecutorConformance):
    """On a cluster of two workers with two threads each."""

    offers = ("workers",)
    capacity = 4
    frozen_on = ("postgresql",)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Executor]:
        async with cluster(self.folder / "dask", ttl_s=5) as made:
            yield DaskExecutor(made.address, stop_s=20)
